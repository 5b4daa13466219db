"""Two networks of one search space, edge by edge: which are the same, which differ and in what, which only one has.

Nodes are compared by their names, as they are numbered in the papers: a cell whose nodes were renumbered counts as
another one. The order of a node's edges does not change what the network computes; it names the tensors of a
checkpoint, so it is told apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from explorer.celldrawing import GAP, TERMINAL, Drawing, Mark, Palette, beside
from explorer.cellgraph import CellGraph, Chain, Picture

#: What there is to say about an edge: the same in both, another operation from the same source, the same operation
#: from another source, or only in one of the two.
What = Literal["equal", "operation", "source", "only_a", "only_b"]

_MARKS: dict[What, Mark] = {"equal": "=", "operation": "~", "source": "~", "only_a": "-", "only_b": "+"}


@dataclass(frozen=True)
class End:
    """An edge as the node it leads to sees it, and its position among the edges of its cell."""

    operation: str
    source: str
    position: int


@dataclass(frozen=True)
class Pair:
    """An edge of one cell and the one that stands for it in the other; `None` where there is none."""

    node: str
    what: What
    a: End | None
    b: End | None


@dataclass(frozen=True)
class CellComparison:
    """One cell of two networks. `outputs` are the nodes of its output; `reordered` are the nodes whose edges are the
    same in another order."""

    title: str
    pairs: tuple[Pair, ...]
    n_a: int
    n_b: int
    outputs_a: tuple[str, ...]
    outputs_b: tuple[str, ...]
    reordered: tuple[str, ...]

    @property
    def n_equal(self) -> int:
        return sum(pair.what == "equal" for pair in self.pairs)

    @property
    def same_graph(self) -> bool:
        """Whether the cells compute the same, the order of the edges and of the concat aside."""
        return all(pair.what == "equal" for pair in self.pairs) and Counter(self.outputs_a) == Counter(self.outputs_b)

    def marks(self, side: Literal["a", "b"]) -> tuple[Mark, ...]:
        """A sign for every edge of one of the cells, in the order of its edges."""
        ends = ((pair.a if side == "a" else pair.b, _MARKS[pair.what]) for pair in self.pairs)
        by_position = {end.position: mark for end, mark in ends if end is not None}
        return tuple(by_position[position] for position in sorted(by_position))


@dataclass(frozen=True)
class Comparison:
    """Two networks, cell by cell. `unit` is what their edges are called: blocks, where a network is a chain."""

    a: str
    b: str
    cells: tuple[CellComparison, ...]
    unit: str = "edges"

    @property
    def n_equal(self) -> int:
        return sum(cell.n_equal for cell in self.cells)

    @property
    def same_graph(self) -> bool:
        return all(cell.same_graph for cell in self.cells)

    @property
    def same_order(self) -> bool:
        """Whether even the order is the same, so that the checkpoints of one fit the other."""
        return self.same_graph and not any(c.reordered or c.outputs_a != c.outputs_b for c in self.cells)

    @cached_property
    def sentence(self) -> str:
        """The outcome in words."""
        counted = count(self.n_equal, sum(c.n_a for c in self.cells), sum(c.n_b for c in self.cells), self.unit)
        reordered = sum(len(cell.reordered) for cell in self.cells)
        if self.same_order:
            return f"{counted}: the same network"
        if self.same_graph:
            return f"{counted}, in another order: the same network, but checkpoints of one do not fit the other"
        if reordered:
            return f"{counted}, {reordered} node{'s have' if reordered > 1 else ' has'} them in another order"
        return counted

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "a": self.a,
            "b": self.b,
            "unit": self.unit,
            "n_equal": self.n_equal,
            "n_a": sum(cell.n_a for cell in self.cells),
            "n_b": sum(cell.n_b for cell in self.cells),
            "same_graph": self.same_graph,
            "same_order": self.same_order,
            "cells": [{**asdict(cell), "n_equal": cell.n_equal, "same_graph": cell.same_graph} for cell in self.cells],
        }


def compare(a: str, pictures_a: Sequence[Picture], b: str, pictures_b: Sequence[Picture]) -> Comparison:
    """Compare what two networks called `a` and `b` are made of, cell by cell in order."""
    unit = "blocks" if any(isinstance(p, Chain) for p in (*pictures_a, *pictures_b)) else "edges"
    graphs = zip_longest(map(_graph, pictures_a), map(_graph, pictures_b))
    return Comparison(a, b, tuple(_cell(first, second) for first, second in graphs), unit)


def count(n_equal: int, n_a: int, n_b: int, unit: str) -> str:
    """`11 of 16 edges equal`."""
    if n_a == n_b:
        return f"{n_equal} of {n_a} {unit} equal"
    return f"{n_equal} {unit} equal, of {n_a} and {n_b}"


def _graph(picture: Picture) -> CellGraph:
    return picture.graph if isinstance(picture, Chain) else picture


def _cell(a: CellGraph | None, b: CellGraph | None) -> CellComparison:
    ends_a, ends_b = _ends(a), _ends(b)
    pairs: list[Pair] = []
    reordered = []
    for node in dict.fromkeys((*ends_a, *ends_b)):
        first, second = ends_a.get(node, []), ends_b.get(node, [])
        found = list(_pairs(node, first, second))
        pairs += found
        if all(p.what == "equal" for p in found) and _told(first) != _told(second):
            reordered.append(node)
    return CellComparison(
        title=next((graph.title for graph in (a, b) if graph is not None), ""),
        pairs=tuple(pairs),
        n_a=sum(map(len, ends_a.values())),
        n_b=sum(map(len, ends_b.values())),
        outputs_a=tuple(a.names[v] for v in a.outputs) if a else (),
        outputs_b=tuple(b.names[v] for v in b.outputs) if b else (),
        reordered=tuple(reordered),
    )


def _ends(graph: CellGraph | None) -> dict[str, list[End]]:
    """The edges of every node, in order."""
    if graph is None:
        return {}
    found: dict[str, list[End]] = {}
    for vertex, positions in graph.into.items():
        edges = ((graph.edges[p], p) for p in positions)
        found[graph.names[vertex]] = [End(edge.operation, graph.names[edge.source], p) for edge, p in edges]
    return found


def _told(ends: Sequence[End]) -> list[tuple[str, str]]:
    return [(end.operation, end.source) for end in ends]


def _pairs(node: str, first: Sequence[End], second: Sequence[End]) -> Iterator[Pair]:
    """Pair up the edges of one node: the same ones, then those from one source, then those with one operation."""
    left, right = list(first), list(second)
    paired: list[tuple[int, Pair]] = []
    for what in ("equal", "operation", "source"):
        for a in tuple(left):
            b = next((b for b in right if _alike(a, b, what)), None)
            if b is not None:
                left.remove(a)
                right.remove(b)
                paired.append((a.position, Pair(node, what, a, b)))
    paired += [(a.position, Pair(node, "only_a", a, None)) for a in left]
    yield from (pair for _, pair in sorted(paired, key=lambda item: item[0]))
    yield from (Pair(node, "only_b", None, b) for b in right)


def _alike(a: End, b: End, what: What) -> bool:
    """Whether two edges of a node differ in nothing but `what`."""
    return (what == "operation" or a.operation == b.operation) and (what == "source" or a.source == b.source)


class Versus:
    """A comparison to look at: the cells of both side by side with a sign at each edge, and the differences in words.

    For Rich and for textual.
    """

    def __init__(
        self,
        comparison: Comparison,
        pictures_a: Sequence[Picture],
        pictures_b: Sequence[Picture],
        palette: Palette = TERMINAL,
    ) -> None:
        self.comparison = comparison
        self.pictures = list(zip_longest(pictures_a, pictures_b))
        self.palette = palette

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        comparison, palette = self.comparison, self.palette
        yield Text(comparison.sentence, palette.text)
        yield self._signs()
        arrow = "->" if options.ascii_only else "→"
        told = [list(self._differences(cell, arrow)) for cell in comparison.cells]
        drawings = [self._drawing(cell, *pair) for cell, pair in zip(comparison.cells, self.pictures, strict=True)]
        # All cells are laid out alike: the differences beside the drawing where there is room, else below it.
        rest = options.max_width - GAP - max((line.cell_len for lines in told for line in lines), default=0)
        near = all(drawing.fits(rest) for drawing in drawings)
        for cell, drawing, differences in zip(comparison.cells, drawings, told, strict=True):
            yield Text()
            counted = count(cell.n_equal, cell.n_a, cell.n_b, comparison.unit)
            yield Text.assemble((cell.title, palette.accent), (f"   {counted}", palette.quiet))
            lines = list(drawing.lines(rest if near else options.max_width, ascii_only=options.ascii_only))
            if near:
                yield from beside([lines, [Text(), *differences]], options.max_width)
            else:
                yield from (*lines, *([Text(), *differences] if differences else ()))

    def _drawing(self, cell: CellComparison, a: Picture | None, b: Picture | None) -> Drawing:
        """One cell of both networks, under their names."""
        both: list[tuple[Picture, tuple[Mark, ...]]] = []
        if a is not None:
            both.append((replace(a, title=self.comparison.a), cell.marks("a")))
        if b is not None:
            both.append((replace(b, title=self.comparison.b), cell.marks("b")))
        return Drawing([p for p, _ in both], self.palette, marks=[m for _, m in both], legend=False)

    def _signs(self) -> Text:
        signs: tuple[tuple[Mark, str], ...] = (
            ("=", "equal"),
            ("~", "another operation or input"),
            ("-", f"only {self.comparison.a}"),
            ("+", f"only {self.comparison.b}"),
        )
        parts = [part for mark, meaning in signs for part in ((mark, self.palette.mark(mark)), f" {meaning}   ")]
        return Text.assemble(*parts, style=self.palette.quiet)

    def _differences(self, cell: CellComparison, arrow: str) -> Iterator[Text]:
        """One line for every edge that differs, for another order, and for another output."""
        name = "block" if self.comparison.unit == "blocks" else "node"
        told = [(p, *_difference(p, arrow)) for p in cell.pairs if p.what != "equal"]
        width = max((len(operation) for _, operation, _ in told), default=0)
        for pair, operation, source in told:
            mark = _MARKS[pair.what]
            said = f"{mark} {name} {pair.node}  {operation:<{width}}  "
            yield Text(said + (f"from {source}" if name == "node" else ""), self.palette.mark(mark))
        for node in cell.reordered:
            yield Text(f"= {name} {node}  the same {self.comparison.unit}, in another order", self.palette.quiet)
        if cell.outputs_a != cell.outputs_b:
            said = f"~ output  of {' '.join(cell.outputs_a)} {arrow} {' '.join(cell.outputs_b)}"
            yield Text(said, self.palette.mark("~"))


def _difference(pair: Pair, arrow: str) -> tuple[str, str]:
    """The operation and the source of an edge that differs, with what they become."""
    match pair:
        case Pair(what="operation", a=End() as a, b=End() as b):
            return f"{a.operation} {arrow} {b.operation}", a.source
        case Pair(what="source", a=End() as a, b=End() as b):
            return a.operation, f"{a.source} {arrow} {b.source}"
    end = pair.a or pair.b
    return ("", "") if end is None else (end.operation, end.source)
