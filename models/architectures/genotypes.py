"""DARTS-format genotypes: read, write, check, sample. Torch-free.

A cell has two inputs (0: output of cell k-2, 1: output of cell k-1) and intermediate nodes from 2 on. `concat` lists
the nodes that form the output. The order of edges is the order of a network's parameters in published checkpoints and
differs between authors, so nothing here ever sorts it.

Two ways of writing a cell are in use. In the usual one an edge is `(operation, input)`, and edges 2k and 2k+1 are
summed into node k+2. In FairDARTS's an edge is `(operation, node, input)`, with any number of edges a node; a node
without edges does not exist, and neither do edges that come from it.
"""

from __future__ import annotations

import ast
import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from models.architectures.wording import short
from models.errors import InvalidSpec
from models.specs import digest

#: Every operation that a published DARTS-format genotype uses.
OPERATIONS: tuple[str, ...] = (
    "none",
    "noise",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_3x1_1x3",
    "conv_7x1_1x7",
)

#: The seven operations of the DARTS search space without `none`, in the order that seeded sampling draws from.
DARTS_OPERATIONS: tuple[str, ...] = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)

#: Cells that sampling chooses from: every one of four nodes takes two of its predecessors and one of seven operations
#: for each. A genotype has two cells, chosen independently.
CELLS_IN_SPACE: int = math.prod(math.comb(node, 2) * len(DARTS_OPERATIONS) ** 2 for node in range(2, 6))
GENOTYPES_IN_SPACE: int = CELLS_IN_SPACE**2

#: A genotype that a person gives may have this many edges a cell and nodes in its concat at most.
MOST_EDGES = 200

Edge = tuple[str, int]
#: Operation, input, and the node that takes it.
Connection = tuple[str, int, int]


@dataclass(frozen=True)
class Cell:
    """One cell: `edges` as (operation, input), and the nodes of its output.

    Without `targets`, edges 2k and 2k+1 are summed into node k+2; with it, `targets[i]` is the node that edge i feeds.
    """

    edges: tuple[Edge, ...]
    concat: tuple[int, ...]
    targets: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.edges or (self.targets is None and len(self.edges) % 2):
            raise InvalidSpec(f"a cell needs two edges a node; {len(self.edges)} edges do not pair up.")
        if len(self.edges) > MOST_EDGES or len(self.concat) > MOST_EDGES:
            raise InvalidSpec(f"a cell of more than {MOST_EDGES} edges or outputs is no cell.")
        if self.targets is not None and len(self.targets) != len(self.edges):
            raise InvalidSpec("a cell needs a target node for each of its edges.")
        for position, (operation, source, node) in enumerate(self.connections):
            if operation not in OPERATIONS:
                raise InvalidSpec(
                    f"edge {position}: operation {short(operation)} is unknown; known: {', '.join(OPERATIONS)}."
                )
            if node < 2 or not 0 <= source < node:
                raise InvalidSpec(
                    f"edge {position}: node {short(node)} cannot take input {short(source)}; "
                    + (f"it may take 0 to {node - 1}." if node >= 2 else "nodes are numbered from 2.")
                )
        if not self.concat:
            raise InvalidSpec("a cell's concat is empty: it would have no output.")
        if self.targets is None:
            for node in self.concat:
                if not 2 <= node < 2 + self.nodes:
                    raise InvalidSpec(f"concat names node {short(node)}; the cell's nodes are 2 to {1 + self.nodes}.")
        elif not self.outputs:
            raise InvalidSpec("no node of the cell is reached from its inputs: it would have no output.")

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Every edge as (operation, input, node), in the order of the parameters."""
        if self.targets is not None:
            return tuple((op, i, node) for (op, i), node in zip(self.edges, self.targets, strict=True))
        return tuple((op, i, position // 2 + 2) for position, (op, i) in enumerate(self.edges))

    @property
    def order(self) -> tuple[int, ...]:
        """The intermediate nodes in the order in which they are computed."""
        return tuple(dict.fromkeys(node for _, _, node in self.connections))

    @property
    def nodes(self) -> int:
        """Number of intermediate nodes."""
        return len(self.order)

    @property
    def outputs(self) -> tuple[int, ...]:
        """The nodes whose maps are concatenated, in order.

        With explicit targets these are all nodes that exist, whatever `concat` says: so FairDARTS builds its cells.
        """
        if self.targets is None:
            return self.concat
        reached = [0, 1]
        for node in self.order:
            if any(target == node and source in reached for _, source, target in self.connections):
                reached.append(node)
        return tuple(reached[2:])

    def to_list(self) -> list[list[Any]]:
        """Edges as genotype files hold them: [operation, input], or [operation, node, input]."""
        if self.targets is None:
            return [list(e) for e in self.edges]
        return [[op, node, i] for (op, i), node in zip(self.edges, self.targets, strict=True)]

    @classmethod
    def from_list(cls, edges: Sequence[Any], concat: Sequence[Any]) -> Cell:
        """From edges in any of the ways in use: pairs, triples, or pairs grouped by node.

        Raises `InvalidSpec` when it is no cell.
        """
        items = [list(edge) for edge in edges]
        if items and all(isinstance(part, (list, tuple)) for item in items for part in item):
            if all(len(item) == 2 for item in items):
                items = [list(edge) for item in items for edge in item]
            else:
                raise InvalidSpec("a cell whose edges are grouped by node needs two edges a node.")
        sizes = {len(item) for item in items}
        if sizes == {2}:
            return cls(tuple((_word(op), _whole(i)) for op, i in items), tuple(_whole(n) for n in concat))
        if sizes == {3}:
            pairs = tuple((_word(op), _whole(i)) for op, _, i in items)
            return cls(pairs, tuple(_whole(n) for n in concat), tuple(_whole(node) for _, node, _ in items))
        raise InvalidSpec("edges are (operation, input), or (operation, node, input) for all of them.")


def _word(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidSpec(f"an operation is a name, not {short(value)}: edges are (operation, input).")
    return value


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSpec(f"inputs and nodes are whole numbers, not {short(value)}.")
    return value


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell."""

    normal: Cell
    reduce: Cell

    def to_dict(self) -> dict[str, Any]:
        return {
            "normal": self.normal.to_list(),
            "normal_concat": list(self.normal.concat),
            "reduce": self.reduce.to_list(),
            "reduce_concat": list(self.reduce.concat),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Genotype:
        """Build from `normal`, `normal_concat`, `reduce`, `reduce_concat` (or `reduction`, `reduction_concat`).

        Raises `InvalidSpec` when it is no genotype.
        """
        reduction = "reduce" if "reduce" in data else "reduction"
        try:
            return cls(
                *(Cell.from_list(data[part], data[f"{part}_concat"]) for part in ("normal", reduction)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidSpec(
                "not a DARTS-format genotype: it needs normal, normal_concat, reduce, reduce_concat, "
                f"with edges as [operation, input] ({error})."
            ) from None

    @property
    def identity(self) -> str:
        """Hash of the genotype, edge order included."""
        return digest(self.to_dict())

    def __str__(self) -> str:
        """The text that papers print, which `parse` reads back."""
        normal, reduce = ([tuple(edge) for edge in cell.to_list()] for cell in (self.normal, self.reduce))
        return (
            f"Genotype(normal={normal}, normal_concat={list(self.normal.concat)}, "
            f"reduce={reduce}, reduce_concat={list(self.reduce.concat)})"
        )


def parse(text: str) -> Genotype:
    """Read a genotype as papers, code and files hold it, without running any of it.

    Understood are `Genotype(normal=[...], normal_concat=range(2, 6), ...)`, with a name and `=` before it or not, and
    the same as a dictionary or as JSON; edges as (operation, input), as (operation, node, input), or grouped by node;
    and the `normal/op_2_0`, `normal/input_2_0` dictionaries of NNI. Anything else raises `InvalidSpec`.
    """
    text = text.strip()
    if len(text) > 100_000:
        raise InvalidSpec("that is too long for a genotype.")
    text = re.sub(r"\A[A-Za-z_]\w*\s*=\s*(?=[A-Za-z_{])", "", text)
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise InvalidSpec("genotype does not parse: expected Genotype(normal=[...], normal_concat=..., ...).") from None
    match node:
        case ast.Call(func=ast.Name(id="Genotype"), args=[], keywords=keywords):
            return Genotype.from_dict({k.arg: _literal(k.value) for k in keywords if k.arg and k.arg[:7] != "connect"})
        case ast.Dict(keys=keys, values=values):
            data = {_literal(k): _literal(v) for k, v in zip(keys, values, strict=True) if k is not None}
            return Genotype.from_dict(_from_choices(data))
    raise InvalidSpec(
        "genotype must read Genotype(normal=[...], normal_concat=..., reduce=..., reduce_concat=...), "
        "or be the same as a dictionary."
    )


def _from_choices(data: dict[Any, Any]) -> dict[Any, Any]:
    """NNI's dictionary of choices (`normal/op_2_0`: operation, `normal/input_2_0`: inputs) as a genotype's fields."""
    found: dict[str, Any] = {}
    for part, key in (("normal", "normal"), ("reduce", "reduce")):
        chosen = {}
        for name, value in data.items():
            if match := re.fullmatch(rf"{part}/(op|input)_(\d+)_(\d+)", str(name)):
                kind, node, edge = match.group(1), int(match.group(2)), int(match.group(3))
                chosen[node, edge, kind] = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not chosen:
            return data
        nodes = sorted({node for node, _, _ in chosen})
        try:
            found[key] = [[chosen[n, e, "op"], chosen[n, e, "input"]] for n in nodes for e in (0, 1)]
        except KeyError:
            raise InvalidSpec(
                f"the {part} cell needs op_N_0, op_N_1, input_N_0 and input_N_1 for every node N."
            ) from None
        found[f"{key}_concat"] = nodes
    return found


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() as value):
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Call(func=ast.Name(id="range" | "list" | "tuple" as name), args=args, keywords=[]):
            values = [_literal(a) for a in args]
            if name == "range" and 1 <= len(values) <= 2 and all(isinstance(v, int) and 0 <= v < 100 for v in values):
                return list(range(*values))
            if name != "range" and len(values) == 1 and isinstance(values[0], list):
                return values[0]
    raise InvalidSpec(f"a genotype holds only names, numbers, lists and range(a, b); found {_source(node)}.")


def _source(node: ast.expr) -> str:
    try:
        return short(ast.unparse(node))
    except RecursionError:
        return "an expression that nests too deeply"


def sample(seed: int) -> Genotype:
    """A random genotype of the DARTS space, the same for the same seed on every machine.

    The rule of the literature (randomNAS, NAS-Bench-301): each of four nodes takes two distinct inputs, uniformly
    without replacement, and an operation for each, uniformly from the seven without `none`; normal cell first, then
    reduction. Every one of the `GENOTYPES_IN_SPACE` genotypes is equally likely.
    """
    rng = random.Random(seed)
    cells = []
    for _ in range(2):
        edges: list[Edge] = []
        for node in range(2, 6):
            inputs = rng.sample(range(node), 2)
            edges.extend((rng.choice(DARTS_OPERATIONS), source) for source in inputs)
        cells.append(Cell(tuple(edges), (2, 3, 4, 5)))
    return Genotype(*cells)


@cache
def published() -> dict[str, dict[str, Any]]:
    """The published genotypes by name, each with its `source`; some have `aliases`."""
    text = resources.files("models.architectures.data").joinpath("genotypes.json").read_text(encoding="utf-8")
    data: dict[str, dict[str, Any]] = json.loads(text)
    return data


@cache
def published_name(identity: str) -> str | None:
    """The name under which a genotype with this identity was published first, None when it was not."""
    for name, entry in published().items():
        if Genotype.from_dict(entry).identity == identity:
            return name
    return None
