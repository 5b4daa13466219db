"""What searches find, as graphs: nodes in order, edges with their operations, and which nodes make the output.

One type for every cell space (DARTS, NAS-Bench-201, the phases of NSGA-Net, RobNet) and one for networks that are a
chain of blocks (DenseNAS, ProxylessNAS). Free of torch and of textual: the command line, the app and the comparison
read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from models.architectures import nasbench201_space, nsga_macro_space, robnet_space
from models.architectures.definitions import Definition
from models.architectures.genotypes import Cell, Genotype

#: What an operation is, as far as a reader of a cell cares. `link` is an edge without an operation.
Kind = Literal["conv", "dilated", "pool", "skip", "none", "other", "link"]


@dataclass(frozen=True)
class Edge:
    """An operation on its way from vertex `source` to vertex `target`; an empty one passes its input on."""

    operation: str
    source: int
    target: int


@dataclass(frozen=True)
class CellGraph:
    """A directed graph without cycles. Vertices are numbered in order: first the inputs, then the nodes.

    `edges` are in the order of the network's parameters; `outputs` are the vertices that `output` is made of, in
    order, and `joint` says how. Raises `ValueError` for an edge that does not lead to a later vertex.
    """

    title: str
    inputs: tuple[str, ...]
    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]
    outputs: tuple[int, ...]
    output: str = "c_k"
    joint: str = "concat"

    def __post_init__(self) -> None:
        last = len(self.inputs) + len(self.nodes) - 1
        for edge in self.edges:
            if not 0 <= edge.source < edge.target <= last or edge.target < len(self.inputs):
                raise ValueError(f"{self.title}: no edge can lead from {edge.source} to {edge.target}")
        for vertex in self.outputs:
            if not 0 <= vertex <= last:
                raise ValueError(f"{self.title}: the output cannot take vertex {vertex}")

    @property
    def names(self) -> tuple[str, ...]:
        """The vertices' names by their numbers."""
        return self.inputs + self.nodes

    @cached_property
    def into(self) -> dict[int, tuple[int, ...]]:
        """For every node, the positions in `edges` of the edges that lead to it, in order."""
        found: dict[int, list[int]] = {v: [] for v in range(len(self.inputs), len(self.names))}
        for position, edge in enumerate(self.edges):
            found[edge.target].append(position)
        return {vertex: tuple(positions) for vertex, positions in found.items()}

    @cached_property
    def reached(self) -> frozenset[int]:
        """The vertices that a signal from the inputs comes to; edges that start elsewhere carry nothing."""
        found = set(range(len(self.inputs)))
        for vertex, positions in self.into.items():
            if any(self.edges[p].source in found for p in positions):
                found.add(vertex)
        return frozenset(found)


@dataclass(frozen=True)
class Chain:
    """A network that is one block after the other: a row a block, the last column its operations."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def graph(self) -> CellGraph:
        """The chain as a graph, with whole blocks as operations."""
        names = tuple(str(number + 1) for number in range(len(self.rows)))
        edges = tuple(Edge(" ".join(filter(None, row)), i, i + 1) for i, row in enumerate(self.rows))
        return CellGraph(self.title, ("input",), names, edges, (len(names),), "output", "")


Picture = CellGraph | Chain


def kind_of(operation: str) -> Kind:
    """The kind of an operation, by its name in any of the spaces."""
    name = operation.lower()
    if not name:
        return "link"
    if name in ("none", "zero"):
        return "none"
    if name in ("skip_connect", "identity"):
        return "skip"
    if "pool" in name:
        return "pool"
    if name.startswith("dil_") or name.endswith("_d2"):
        return "dilated"
    return "conv" if "conv" in name or name.startswith("dwsep") else "other"


def pictures(definition: Definition) -> tuple[Picture, ...]:
    """What a definition describes; nothing for a space without a picture."""
    data = definition.data
    match definition.space:
        case "darts":
            return from_genotype(Genotype.from_dict(data))
        case "nasbench201":
            return (from_nasbench201(data["cell"]),)
        case "nats-size":
            widths = f"cell, in layers {data['widths']} channels wide"
            return (from_nasbench201(nasbench201_space.SIZE_CELL, widths),)
        case "nsga-macro":
            return from_macro(data["genome"])
        case "robnet":
            return from_robnet(data["codes"])
        case "densenas":
            return (from_densenas(data["net_config"]),)
        case "proxyless":
            return (from_proxyless(data["blocks"]),)
    return ()


def from_genotype(genotype: Genotype) -> tuple[CellGraph, CellGraph]:
    """The normal and the reduction cell."""
    return from_cell(genotype.normal, "normal cell"), from_cell(genotype.reduce, "reduction cell")


def from_cell(cell: Cell, title: str) -> CellGraph:
    """A DARTS-format cell, with its nodes called 0, 1, ... as papers do.

    A node that only the concat names, or an edge, is drawn too: where it has no input the network leaves it out.
    """
    connections = cell.connections
    numbers = sorted({n for _, source, target in connections for n in (source, target)} | {*cell.concat} - {0, 1})
    place = {0: 0, 1: 1} | {n: i + 2 for i, n in enumerate(n for n in numbers if n >= 2)}
    return CellGraph(
        title,
        ("c_{k-2}", "c_{k-1}"),
        tuple(str(n - 2) for n in numbers if n >= 2),
        tuple(Edge(operation, place[source], place[target]) for operation, source, target in connections),
        tuple(place[n] for n in cell.outputs),
    )


def from_nasbench201(cell: str, title: str = "cell") -> CellGraph:
    """A cell as NAS-Bench-201 writes it: three nodes that sum their edges, the last of them the output."""
    nodes = nasbench201_space.parse(cell).nodes
    edges = tuple(Edge(op, source, node) for node, taken in enumerate(nodes, start=1) for op, source in taken)
    names = tuple(str(node) for node in range(1, len(nodes) + 1))
    return CellGraph(title, ("0",), names, edges, (len(nodes),), "output", "")


def from_macro(genome: Sequence[Sequence[Sequence[int]]]) -> tuple[CellGraph, ...]:
    """The phases of an NSGA-Net macro genome with their loose ends tied; a node that takes no part is left out."""
    found = []
    for number, graph in enumerate(nsga_macro_space.repair(nsga_macro_space.parse(genome)), start=1):
        *nodes, output = sorted(graph)
        place = {0: 0} | {node: i + 1 for i, node in enumerate(nodes)}
        edges = tuple(Edge("", place[source], place[node]) for node in nodes for source in graph[node])
        outputs = tuple(place[source] for source in graph[output])
        found.append(CellGraph(f"phase {number}", ("input",), tuple(map(str, nodes)), edges, outputs, "output"))
    return tuple(found)


def from_robnet(codes: Sequence[Sequence[str]]) -> tuple[CellGraph, ...]:
    """RobNet cells, in which every node takes all that came before it: one that all layers share, or one a layer."""
    nodes = range(2, 2 + robnet_space.NODES)
    places = [(source, node) for node in nodes for source in range(node)]
    found = []
    for number, cell in enumerate(robnet_space.parse(codes)):
        title = "cell of every layer" if len(codes) == 1 else f"cell {number}"
        said = (robnet_space.CODES[code].replace("skip_connect +", "skip +") for code in cell)
        edges = tuple(Edge(operation, *place) for operation, place in zip(said, places, strict=True))
        names = tuple(str(node - 2) for node in nodes)
        found.append(CellGraph(title, ("c_{k-2}", "c_{k-1}"), names, edges, tuple(nodes)))
    return tuple(found)


def from_densenas(config: Sequence[Sequence[Any]]) -> Chain:
    """DenseNAS blocks: a head that sets width and stride, then a stack of layers that keep both."""
    rows = []
    for (before, after), head, *rest in config:
        stack, stride = (rest[0], rest[2]) if rest else ([], 1)
        rows.append((str(before), str(after), _stride(stride), _runs([head, *stack])))
    return Chain("blocks", ("in", "out", "stride", "layers"), tuple(rows))


def from_proxyless(blocks: Sequence[Mapping[str, Any]]) -> Chain:
    """ProxylessNAS blocks: inverted bottlenecks, or for CIFAR a tree of operations in each of two branches."""
    if any("branches" in block for block in blocks):
        trees = ((str(b["cell_channels"]), b["shortcut"], " | ".join(map(_tree, b["branches"]))) for b in blocks)
        return Chain("blocks", ("channels", "shortcut", "branches: edge(its leaves)"), tuple(trees))
    rows = []
    for block in blocks:
        if block["op"] == "zero":
            rows.append(("", "", "", "", "skip_connect"))
            continue
        operation = f"mbconv_k{block['k']}_t{block['e']}"
        past = "skip" if block["shortcut"] else ""
        rows.append((str(block["cin"]), str(block["cout"]), _stride(block["s"]), past, operation))
    return Chain("blocks", ("in", "out", "stride", "past it", "layer"), tuple(rows))


def _tree(branch: Mapping[str, Any]) -> str:
    pairs = zip(branch["edges"], branch["leaves"], strict=True)
    return " + ".join(f"{edge}({', '.join(leaves)})" for edge, leaves in pairs)


def _stride(stride: int) -> str:
    return f"/{stride}" if stride != 1 else ""


def _runs(operations: Sequence[str]) -> str:
    """`a, b, b` as `a, 2 b`."""
    runs: list[tuple[str, int]] = []
    for operation in operations:
        if runs and runs[-1][0] == operation:
            runs[-1] = (operation, runs[-1][1] + 1)
        else:
            runs.append((operation, 1))
    return ", ".join(operation if n == 1 else f"{n} {operation}" for operation, n in runs)
