"""DARTS-format genotypes: read, write, check, sample. Torch-free.

A cell has two inputs (0: output of cell k-2, 1: output of cell k-1) and intermediate nodes from 2 on. Each node sums
two edges; `concat` lists the nodes that form the output. The order of edges is the order of a network's parameters in
published checkpoints and differs between authors, so nothing here ever sorts it.
"""

from __future__ import annotations

import ast
import json
import random
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from models.errors import InvalidSpec
from models.specs import digest

#: Every operation that a published DARTS-format genotype uses.
OPERATIONS: tuple[str, ...] = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "dil_conv_3x3",
    "dil_conv_5x5",
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

Edge = tuple[str, int]


@dataclass(frozen=True)
class Cell:
    """One cell: edges 2k and 2k+1 are summed into node k+2; `concat` names the nodes of the output."""

    edges: tuple[Edge, ...]
    concat: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.edges or len(self.edges) % 2:
            raise InvalidSpec(f"a cell needs two edges a node; {len(self.edges)} edges do not pair up.")
        for position, (operation, source) in enumerate(self.edges):
            node = position // 2 + 2
            if operation not in OPERATIONS:
                raise InvalidSpec(
                    f"edge {position}: operation {operation!r} is unknown; known: {', '.join(OPERATIONS)}."
                )
            if not 0 <= source < node:
                raise InvalidSpec(
                    f"edge {position}: node {node} cannot take input {source}; it may take 0 to {node - 1}."
                )
        if not self.concat:
            raise InvalidSpec("a cell's concat is empty: it would have no output.")
        for node in self.concat:
            if not 2 <= node < 2 + self.nodes:
                raise InvalidSpec(f"concat names node {node}; the cell's nodes are 2 to {1 + self.nodes}.")

    @property
    def nodes(self) -> int:
        """Number of intermediate nodes."""
        return len(self.edges) // 2


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell."""

    normal: Cell
    reduce: Cell

    def to_dict(self) -> dict[str, Any]:
        return {
            "normal": [list(e) for e in self.normal.edges],
            "normal_concat": list(self.normal.concat),
            "reduce": [list(e) for e in self.reduce.edges],
            "reduce_concat": list(self.reduce.concat),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Genotype:
        """Build from `normal`, `normal_concat`, `reduce`, `reduce_concat`; raises `InvalidSpec` when it is no
        genotype.
        """
        try:
            cells = [
                Cell(tuple((str(op), int(i)) for op, i in data[part]), tuple(int(n) for n in data[f"{part}_concat"]))
                for part in ("normal", "reduce")
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidSpec(
                "not a DARTS-format genotype: it needs normal, normal_concat, reduce, reduce_concat, "
                f"with edges as [operation, input] ({error})."
            ) from None
        return cls(*cells)

    @property
    def identity(self) -> str:
        """Hash of the genotype, edge order included."""
        return digest(self.to_dict())

    def __str__(self) -> str:
        """The text that papers print, which `parse` reads back."""
        return (
            f"Genotype(normal={list(self.normal.edges)}, normal_concat={list(self.normal.concat)}, "
            f"reduce={list(self.reduce.edges)}, reduce_concat={list(self.reduce.concat)})"
        )


def parse(text: str) -> Genotype:
    """Read `Genotype(normal=[...], normal_concat=range(2, 6), ...)` or the same as JSON, without running any of it.

    Lists, tuples, strings, integers and `range(a, b)` are understood; anything else raises `InvalidSpec`.
    """
    text = text.strip()
    if text.startswith("{"):
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidSpec(f"genotype is not valid JSON: {error}.") from None
        return Genotype.from_dict(data)
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise InvalidSpec("genotype does not parse: expected Genotype(normal=[...], normal_concat=..., ...).") from None
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id != "Genotype" or node.args:
        raise InvalidSpec(
            "genotype must read Genotype(normal=[...], normal_concat=..., reduce=..., reduce_concat=...)."
        )
    return Genotype.from_dict({k.arg: _literal(k.value) for k in node.keywords if k.arg})


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
    raise InvalidSpec(f"a genotype holds only names, numbers, lists and range(a, b); found {ast.unparse(node)[:60]!r}.")


def sample(seed: int) -> Genotype:
    """A random genotype of the DARTS space, the same for the same seed on every machine.

    The rule of the literature (randomNAS, NAS-Bench-301): each of four nodes takes two distinct inputs, uniformly
    without replacement, and an operation for each, uniformly from the seven without `none`; normal cell first, then
    reduction.
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
    """The published genotypes by name, each with its `source`."""
    text = resources.files("models.architectures").joinpath("genotypes.json").read_text(encoding="utf-8")
    data: dict[str, dict[str, Any]] = json.loads(text)
    return data
