"""Cells as graphs, their drawings read back from the characters, and comparisons."""

from __future__ import annotations

import io
import json
import random
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from explorer import architectures, archpage
from explorer.cellcomparison import Comparison, Versus, compare
from explorer.celldrawing import _BOX, TERMINAL, Drawing, _Sheet, draw
from explorer.cellgraph import CellGraph, Chain, Edge, from_cell, from_genotype, kind_of, pictures
from explorer.errors import ExplorerError
from explorer.settings import Settings
from models.architectures import definitions, genotypes, registry
from models.architectures.genotypes import Cell, Genotype
from models.errors import UnknownName

PUBLISHED = genotypes.published()
Told = tuple[str, str, str]


def plain(lines: Sequence[Any]) -> list[str]:
    return [line.plain for line in lines]


def printed(renderable: Any, width: int, **options: Any) -> list[str]:
    console = Console(width=width, color_system=None, legacy_windows=False, **options)
    with console.capture() as captured:
        console.print(renderable)
    return [line.rstrip() for line in captured.get().splitlines()]


# -- reading a drawing back --------------------------------------------------------------------------------------------

STARTS, ENDS = "├┝╞└┕╘", "┐┑╕┤┥╡"
LANES, ALONG, ACROSS = "│├┝╞┼┿╪", "━┅═─┈", "┼┿╪"
PLAIN = {"│": "|", "●": "*", "○": "o", "▸": ">", "┅": "~", "═": "=", "┈": ".", "━": "-", "─": "-", "┴": "+"}
PLAIN |= dict.fromkeys(STARTS + ENDS, "+") | dict.fromkeys(ACROSS, "|")
LABEL = re.compile(r" (?:[=~+-] )?([a-z]\w*(?: \+ \w+)*) ")


def square(lines: Sequence[str], row: int, column: int) -> str:
    return lines[row][column] if 0 <= row < len(lines) and 0 <= column < len(lines[row]) else " "


def name_at(lines: Sequence[str], row: int, column: int) -> str:
    """The name beside a dot."""
    found = re.match(r"[●○] (\S+)", lines[row][column:])
    assert found is not None, lines[row]
    return found[1]


def upwards(lines: Sequence[str], row: int, column: int) -> str:
    """The vertex whose lane leads to this square from above."""
    row -= 1
    while square(lines, row, column) not in "●○":
        assert square(lines, row, column) in LANES, (row, column, lines)
        row -= 1
    return name_at(lines, row, column)


def downwards(lines: Sequence[str], row: int, column: int) -> str:
    """The vertex that an edge into this lane comes to."""
    row += 1
    while square(lines, row, column) not in "●○":
        assert square(lines, row, column) in ENDS, (row, column, lines)
        row += 1
    return name_at(lines, row, column)


def read_back(drawing: Sequence[str]) -> tuple[list[Told], set[str]]:
    """The edges as (operation, source, target) in order, and the vertices of the output, from the lines alone."""
    lines = drawing[1:]
    edges: list[Told] = []
    outputs: set[str] = set()
    for row, line in enumerate(lines):
        arrows = [column for column, character in enumerate(line) if character == "▸"]
        assert len(arrows) <= 1
        if not arrows:
            continue
        (arrow,) = arrows
        if square(lines, row, arrow + 1) == " ":
            joins = [column for column in range(arrow) if line[column] in "└┴"]
            assert set(line[joins[0] + 1 : arrow]) <= {"─", "┴"}
            outputs = {upwards(lines, row, column) for column in joins}
            assert row == len(lines) - 1
            continue
        (start,) = (column for column in range(arrow) if line[column] in STARTS)
        assert set(line[:start]) <= {" ", "│"}
        assert line[arrow + 1] in ENDS
        way = line[start + 1 : arrow]
        written = LABEL.search(way)
        if written:
            way = way[: written.start()] + way[written.end() :]
        assert len(set(way) & set(ALONG)) == 1, line
        assert set(way) <= {*ALONG, *ACROSS}, line
        operation = written[1] if written else re.sub(r"^[=~+-] ", "", line[arrow + 2 :].strip())
        edges.append((operation, upwards(lines, row, start), downwards(lines, row, arrow + 1)))
    return edges, outputs


def written_edges(entry: dict[str, Any], part: str) -> list[Told]:
    """The edges of a published cell straight from its data: names as papers have them, in the order of the nodes."""
    named = {0: "c_{k-2}", 1: "c_{k-1}"}
    found = []
    for position, edge in enumerate(entry[part]):
        operation, *rest = edge
        node, source = (position // 2 + 2, rest[0]) if len(rest) == 1 else (rest[0], rest[1])
        found.append((node, (operation, named.get(source, str(source - 2)), str(node - 2))))
    return [told for _, told in sorted(found, key=lambda item: item[0])]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_edge_of_every_published_cell_is_drawn_once_and_leads_where_it_should(name: str) -> None:
    genotype = Genotype.from_dict(PUBLISHED[name])
    for cell, part in ((genotype.normal, "normal"), (genotype.reduce, "reduce")):
        graph = from_cell(cell, part)
        wanted = written_edges(PUBLISHED[name], part)
        for spacing in (3, 5, None):
            drawing = plain(draw(graph, spacing=spacing))
            edges, outputs = read_back(drawing)
            assert edges == wanted
            assert outputs == {str(n - 2) for n in cell.outputs}
            assert_joined(drawing[1:], broken=spacing is None)
            assert max(map(len, drawing)) == _Sheet(graph, TERMINAL, None, spacing, _BOX).width
            old = plain(draw(graph, spacing=spacing, ascii_only=True))
            assert old == [line.translate(str.maketrans(PLAIN)) for line in drawing]
        marked = plain(draw(graph, marks=["~"] * len(graph.edges)))
        assert read_back(marked)[0] == wanted
        assert sum(" ~ " in line for line in marked) == len(wanted)


ARMS = {
    "UP": {"up"},
    "DOWN": {"down"},
    "LEFT": {"left"},
    "RIGHT": {"right"},
    "VERTICAL": {"up", "down"},
    "HORIZONTAL": {"left", "right"},
}


@cache
def arms(character: str) -> set[str]:
    """The sides to which a character reaches, by its name in Unicode."""
    words = unicodedata.name(character, "").split()
    if words[:2] != ["BOX", "DRAWINGS"]:
        return {"●": {"down"}, "▸": {"left", "right"}}.get(character, set())
    return set().union(*(ARMS[word] for word in words if word in ARMS))


def assert_joined(lines: Sequence[str], *, broken: bool) -> None:
    """No line ends in the air: what reaches to a side meets what reaches back. Lines with text on them are `broken`."""
    facing = {"up": (-1, 0, "down"), "down": (1, 0, "up"), "left": (0, -1, "right"), "right": (0, 1, "left")}
    for row, line in enumerate(lines):
        for column, character in enumerate(line):
            for side in arms(character) - ({"left", "right"} if broken or character == "▸" else set()):
                down, right, back = facing[side]
                met = square(lines, row + down, column + right)
                assert back in arms(met) or (side == "down" and met in "●○") or (side == "up" and met == "○"), (
                    row,
                    column,
                    "\n".join(lines),
                )


def test_the_checks_of_a_drawing_can_fail() -> None:
    drawing = plain(draw(from_genotype(Genotype.from_dict(PUBLISHED["DARTS_V2"]))[0]))
    wanted = read_back(drawing)
    assert drawing[4] == "│  ┝━▸┥  sep_conv_3x3"
    moved = [*drawing[:4], "┝━━┿━▸┥  sep_conv_3x3", *drawing[5:]]
    assert read_back(moved) != wanted
    gap = [*drawing]
    gap[5] = gap[5].replace("│", " ", 1)
    with pytest.raises(AssertionError):
        assert_joined(gap[1:], broken=False)


def test_a_drawing_in_full() -> None:
    cell = Cell((("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 0), ("dil_conv_5x5", 2)), (2, 3))
    assert plain(draw(from_cell(cell, "cell"))) == [
        "cell",
        "● c_{k-2}",
        "│  ● c_{k-1}",
        "┝━━┿━▸┑  sep_conv_3x3",
        "│  └─▸┤  skip_connect",
        "│     ● 0",
        "╘═════╪═▸╕  max_pool_3x3",
        "      ┝┅▸┥  dil_conv_5x5",
        "      │  ● 1",
        "      └──┴─▸ c_k",
    ]
    assert plain(draw(from_cell(cell, "cell"), spacing=None))[3:7] == [
        "┝━━┿━━ sep_conv_3x3 ━▸┑",
        "│  └── skip_connect ─▸┤",
        "│                     ● 0",
        "╘═════════════════════╪══ max_pool_3x3 ═▸╕",
    ]
    assert plain(draw(from_cell(cell, "cell"), ascii_only=True)) == [
        "cell",
        "* c_{k-2}",
        "|  * c_{k-1}",
        "+--|->+  sep_conv_3x3",
        "|  +->+  skip_connect",
        "|     * 0",
        "+=====|=>+  max_pool_3x3",
        "      +~>+  dil_conv_5x5",
        "      |  * 1",
        "      +--+-> c_k",
    ]


def test_nodes_that_are_not_there_or_not_used_are_said() -> None:
    sparse = plain(draw(from_genotype(Genotype.from_dict(PUBLISHED["FairDARTS_g"]))[0]))
    assert any("○ 1  no input" in line for line in sparse)
    nasnet = from_genotype(Genotype.from_dict(PUBLISHED["AmoebaNet"]))[0]
    assert nasnet.reached == frozenset(range(7))
    unused = Cell((("skip_connect", 0), ("skip_connect", 0), ("skip_connect", 0), ("none", 0)), (3,))
    lines = plain(draw(from_cell(unused, "cell")))
    assert any("○ c_{k-1}  unused" in line for line in lines)
    assert any("○ 0  unused" in line for line in lines)
    repeated = Cell((("skip_connect", 0), ("skip_connect", 1), ("skip_connect", 2), ("none", 0)), (3, 2, 3))
    assert plain(draw(from_cell(repeated, "cell")))[-1].endswith("▸ c_k  concat 1 0 1")


@pytest.mark.parametrize("name", ["DARTS_V2", "CRoZe", "DCO_EDGE_BS_64", "NASNet"])
@pytest.mark.parametrize("width", [20, 80, 110, 200])
def test_no_line_is_wider_than_the_terminal(name: str, width: int) -> None:
    drawing = Drawing(from_genotype(Genotype.from_dict(PUBLISHED[name])))
    lines = list(drawing.lines(width))
    assert max(line.cell_len for line in lines) <= width
    together = any("normal cell" in line.plain and "reduction cell" in line.plain for line in lines)
    assert together == (width >= 110 or (width == 80 and name != "CRoZe"))
    if width == 200:
        on_line = any(LABEL.search(line.plain.partition("▸")[0]) for line in lines if "▸" in line.plain)
        assert on_line == (name in ("DARTS_V2", "DCO_EDGE_BS_64"))


def test_a_terminal_without_unicode_and_one_without_colours() -> None:
    page = architectures.look_up("darts")
    assert all(line.isascii() for line in printed(Drawing(page.pictures), 80, file=Latin()))
    assert any("┝━━┿" in line for line in printed(Drawing(page.pictures), 80))
    console = Console(width=80, force_terminal=True, color_system="truecolor", no_color=True)
    with console.capture() as captured:
        console.print(Drawing(page.pictures))
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", captured.get())


class Latin(io.StringIO):
    encoding = "latin-1"


def test_kinds_of_operations() -> None:
    wanted = {
        "sep_conv_3x3": "conv",
        "conv_7x1_1x7": "conv",
        "nor_conv_1x1": "conv",
        "skip + sep_conv_3x3": "conv",
        "dwsep5x5": "conv",
        "dil_conv_5x5": "dilated",
        "dwsep3x3_d2": "dilated",
        "avg_pool_3x3": "pool",
        "skip_connect": "skip",
        "identity": "skip",
        "none": "none",
        "noise": "other",
        "": "link",
    }
    assert {name: kind_of(name) for name in wanted} == wanted
    assert {kind_of(operation) for operation in genotypes.OPERATIONS} == {
        "conv",
        "dilated",
        "pool",
        "skip",
        "none",
        "other",
    }


def test_impossible_graphs_are_refused() -> None:
    for source, target in ((1, 1), (2, 1), (0, 0), (0, 3)):
        with pytest.raises(ValueError, match="no edge can lead"):
            CellGraph("cell", ("in",), ("1", "2"), (Edge("none", source, target),), (2,))
    with pytest.raises(ValueError, match="output"):
        CellGraph("cell", ("in",), ("1",), (), (7,))


# -- the other spaces --------------------------------------------------------------------------------------------------


def told(graph: CellGraph) -> list[Told]:
    return [(e.operation, graph.names[e.source], graph.names[e.target]) for e in graph.edges]


def shipped() -> Iterator[tuple[str, definitions.Definition]]:
    for name, entry in registry.entries().items():
        if entry.definition is not None and entry.definition.space != "darts":
            yield name, entry.definition


@pytest.mark.parametrize(("name", "definition"), list(shipped()), ids=lambda value: str(value)[:20])
def test_every_definition_of_the_registry_has_a_picture_with_all_its_edges(
    name: str, definition: definitions.Definition
) -> None:
    found = pictures(definition)
    assert found
    for picture in found:
        if isinstance(picture, CellGraph):
            lines = plain(draw(picture))
            by_node = sorted(told(picture), key=lambda edge: picture.names.index(edge[2]))
            assert read_back(lines) == (by_node, {picture.names[v] for v in picture.outputs})
            assert_joined(lines[1:], broken=False)
        else:
            assert picture.rows
    assert all(line.cell_len <= 80 for line in Drawing(found).lines(80))


def test_a_cell_of_nasbench201() -> None:
    text = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
    (graph,) = pictures(definitions.Definition("nasbench201", {"cell": text}))
    assert isinstance(graph, CellGraph)
    assert told(graph) == [
        ("nor_conv_3x3", "0", "1"),
        ("none", "0", "2"),
        ("avg_pool_3x3", "1", "2"),
        ("skip_connect", "0", "3"),
        ("none", "1", "3"),
        ("nor_conv_1x1", "2", "3"),
    ]
    assert read_back(plain(draw(graph))) == (told(graph), {"3"})


def test_the_phases_of_nsga_net_are_those_of_its_code() -> None:
    """The repaired graphs of the published genome, as the authors' decoder makes them; 7 is the output."""
    repaired = [
        {1: [0], 2: [1], 3: [0], 4: [2], 5: [2, 3, 4], 6: [1, 4, 5], 7: [6]},
        {1: [0], 2: [0], 3: [0], 4: [2], 5: [2, 4], 6: [1, 2, 3, 4, 5], 7: [6]},
        {1: [0], 2: [0], 3: [2], 4: [1, 3], 5: [1, 3, 4], 6: [1, 4, 5], 7: [6]},
    ]
    definition = registry.find("nsganet-macro").definition
    assert definition is not None
    found = pictures(definition)
    assert [p.title for p in found] == ["phase 1", "phase 2", "phase 3"]
    for graph, wanted in zip(found, repaired, strict=True):
        assert isinstance(graph, CellGraph)
        sources = {node: [s.replace("input", "0") for _, s, t in told(graph) if t == str(node)] for node in range(1, 7)}
        assert sources == {node: list(map(str, wanted[node])) for node in range(1, 7)}
        assert [graph.names[v] for v in graph.outputs] == ["6"]


def test_chains_fold_long_rows_and_are_graphs() -> None:
    chain = Chain("blocks", ("in", "out", "layers"), (("3", "16", "mbconv_k3_t1"), ("16", "24", "a_long_name " * 12)))
    lines = list(Drawing([chain]).lines(60))
    assert all(line.cell_len <= 60 for line in lines)
    assert sum(line.plain.count("a_long_name") for line in lines) == 12
    assert told(chain.graph) == [("3 16 mbconv_k3_t1", "input", "1"), (f"16 24 {'a_long_name ' * 12}", "1", "2")]


# -- comparing ---------------------------------------------------------------------------------------------------------


def comparison_of(a: Genotype, b: Genotype) -> Comparison:
    return compare("a", from_genotype(a), "b", from_genotype(b))


def test_darts_first_against_second_order() -> None:
    comparison, a, b = architectures.compare_architectures("darts-v1", "darts")
    assert comparison.sentence == "11 of 16 edges equal, 2 nodes have them in another order"
    normal, reduction = comparison.cells
    assert [(p.node, p.what) for p in normal.pairs if p.what != "equal"] == [
        ("1", "operation"),
        ("3", "operation"),
        ("3", "operation"),
    ]
    assert normal.reordered == ("0", "2")
    assert [(p.node, p.what) for p in reduction.pairs if p.what != "equal"] == [
        ("1", "source"),
        ("3", "only_a"),
        ("3", "only_b"),
    ]
    assert json.loads(json.dumps(comparison.to_dict()))["n_equal"] == 11
    for width in (80, 120, 200):
        lines = printed(Versus(comparison, a.pictures, b.pictures), width)
        assert max(map(len, lines)) <= width
        said = "\n".join(lines)
        for part in (
            "normal cell   5 of 8 edges equal",
            "reduction cell   6 of 8 edges equal",
            "~ node 1  skip_connect → sep_conv_3x3  from c_{k-2}",
            "~ node 1  max_pool_3x3  from c_{k-2} → c_{k-1}",
            "- node 3  avg_pool_3x3  from c_{k-2}",
            "+ node 3  max_pool_3x3  from c_{k-1}",
            "= node 0  the same edges, in another order",
            "- avg_pool_3x3",
            "+ max_pool_3x3",
        ):
            assert part in said, part


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_comparison_tells_every_edge_once_and_is_the_same_from_both_sides(first: int, second: int) -> None:
    a, b = genotypes.sample(first), genotypes.sample(second)
    comparison, back = comparison_of(a, b), comparison_of(b, a)
    other_way = {"equal": "equal", "operation": "operation", "source": "source", "only_a": "only_b", "only_b": "only_a"}
    for cell, mirrored, one, other in zip(
        comparison.cells, back.cells, (a.normal, a.reduce), (b.normal, b.reduce), strict=True
    ):
        for ends, edges in (((p.a for p in cell.pairs), one.edges), ((p.b for p in cell.pairs), other.edges)):
            positions = sorted((e.position, e.operation) for e in ends if e is not None)
            assert positions == [(i, operation) for i, (operation, _) in enumerate(edges)]
        assert len(cell.marks("a")) == len(cell.marks("b")) == 8
        assert Counter(other_way[p.what] for p in cell.pairs) == Counter(p.what for p in mirrored.pairs)
        common = sum((Counter(one.edges[i : i + 2]) & Counter(other.edges[i : i + 2])).total() for i in range(0, 8, 2))
        assert cell.n_equal == common
    assert comparison.same_graph == (a == b) or comparison.n_equal == 16


@pytest.mark.parametrize("seed", range(5))
def test_the_same_network_and_the_same_edges_in_another_order(seed: int) -> None:
    a = genotypes.sample(seed)
    assert comparison_of(a, a).sentence == "16 of 16 edges equal: the same network"
    rng = random.Random(seed)
    node = 2 * rng.randrange(4)
    edges = list(a.normal.edges)
    edges[node], edges[node + 1] = edges[node + 1], edges[node]
    swapped = comparison_of(a, replace(a, normal=replace(a.normal, edges=tuple(edges))))
    assert swapped.same_graph
    assert not swapped.same_order
    assert swapped.cells[0].reordered == (str(node // 2),)
    assert "checkpoints of one do not fit the other" in swapped.sentence
    other = comparison_of(a, replace(a, normal=replace(a.normal, concat=(2, 3, 4))))
    assert other.n_equal == 16
    assert not other.same_graph


def test_cells_of_different_sizes_and_numbers() -> None:
    nasnet, darts = (Genotype.from_dict(PUBLISHED[name]) for name in ("NASNet", "DARTS_V2"))
    comparison = comparison_of(nasnet, darts)
    assert comparison.sentence.endswith("edges equal, of 20 and 16")
    assert {p.what for p in comparison.cells[0].pairs if p.node == "4"} == {"only_a"}
    large, free = (architectures.look_up(name).pictures for name in ("robnet-large", "robnet-free"))
    found = compare("large", large, "free", free)
    assert (len(found.cells), found.cells[1].n_a, found.cells[1].n_b) == (20, 0, 14)
    assert max(map(len, printed(Versus(found, large, free), 80))) <= 80


def test_chains_are_compared_block_by_block() -> None:
    comparison, a, b = architectures.compare_architectures("densenas-a", "densenas-b")
    assert comparison.unit == "blocks"
    assert 0 < comparison.n_equal < 9
    said = "\n".join(printed(Versus(comparison, a.pictures, b.pictures), 160))
    assert "blocks equal" in said
    assert re.search(r"~ block \d+  ", said)


def test_what_has_nothing_to_compare_is_said() -> None:
    with pytest.raises(ExplorerError, match="resnet18 is not made of cells"):
        architectures.compare_architectures("darts", "resnet18")
    with pytest.raises(ExplorerError, match="robnet-large from robnet"):
        architectures.compare_architectures("darts", "robnet-large")
    with pytest.raises(UnknownName, match="pdarts"):
        architectures.compare_architectures("darts", "pdartz")


# -- the page ----------------------------------------------------------------------------------------------------------


def test_a_page_says_what_there_is() -> None:
    page = architectures.look_up("DARTS_V2")
    assert (page.text, page.entry.name) == ("darts", "darts")
    assert page.operations == {
        "sep_conv_3x3": 5,
        "skip_connect": 5,
        "max_pool_3x3": 5,
        "dil_conv_3x3": 1,
    }
    assert genotypes.parse(str(page.definition)) == page.entry.genotype
    assert page.command == "nasrob-tui archs show darts"
    assert architectures.look_up("darts@layers=8").text.startswith("darts@")
    assert architectures.look_up("resnet18").pictures == ()
    assert architectures.look_up("resnet18").definition is None
    cell = architectures.look_up("nasbench201-1234")
    assert architectures.look_up(str(cell.definition)).entry.name == cell.entry.name
    names = [name for name, _, _ in architectures.choices()]
    assert {"darts", "resnet18", "advrush"} <= set(names)
    assert not any("<" in name for name in names)
    assert len(names) == len(set(names)) > 250
    alike = {name for name, _, _ in architectures.comparable(page)}
    assert "pdarts" in alike
    assert not alike & {"darts", "resnet18", "robnet-large"}


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_the_command_line_prints_a_page_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    settings = Settings(tmp_path, tmp_path / "results.duckdb")
    spec = architectures.look_up("pdarts").spec
    record = {
        "architecture": spec.canonical,
        "params": 3_433_798,
        "params_with_aux": 3_910_224,
        "macs": 532_000_000,
        "n_state_dict_keys": 1622,
        **archpage.records(spec, settings),
    }
    assert {row["source"] for row in record["evaluations"]} == {"published"}  # type: ignore[union-attr,str-bytes-safe,index]
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, write_through=True) as file:
        archpage.print_page(record, file)
        archpage.print_comparison("pdarts", "darts", file, as_json=False)
        said = raw.getvalue().decode(encoding)
    for part in ("pdarts", "3.43M parameters", "532M multiply-adds", "dil_conv_5x5", "cifar10", "3 of 16 edges equal"):
        assert part in said, part
    assert ("┝" in said) == (encoding == "utf-8")
    assert not encoding.startswith("a") or said.isascii()
    file = io.StringIO()
    archpage.print_comparison("pdarts", "darts", file, as_json=True)
    assert json.loads(file.getvalue())["cells"][0]["title"] == "normal cell"


def test_pages_and_comparisons_need_neither_torch_nor_textual() -> None:
    code = (
        "import io, sys\n"
        "from explorer import archpage\n"
        "archpage.print_comparison('darts', 'pdarts', io.StringIO(), as_json=False)\n"
        "print([name for name in ('torch', 'textual') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stderr
