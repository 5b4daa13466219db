"""The search spaces of NAS-Bench-201 and NATS-Bench: cells as strings, by index, at random; layer widths. Torch-free.

Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020; Dong et al.,
"NATS-Bench: Benchmarking NAS Algorithms for Architecture Topology and Size", TPAMI 2021. A cell has four nodes. Node 0
is its input, node 3 its output, and every node sums one operation on each earlier node. The topology space has all
cells of one operation an edge; the size space has one cell and five layers whose widths vary.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass
from functools import cache

from models.architectures.wording import short
from models.errors import InvalidSpec

#: The operations, in the order from which the benchmark counts.
OPERATIONS: tuple[str, ...] = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")

NODES = 4

#: (node, its input) of each edge, in the order of the string and of a network's parameters.
EDGES: tuple[tuple[int, int], ...] = tuple((node, source) for node in range(1, NODES) for source in range(node))

#: Cells in the topology space.
SPACE_SIZE: int = len(OPERATIONS) ** len(EDGES)

#: The benchmark shuffles its cells with this seed before it numbers them.
_SHUFFLE_SEED = 88

#: Layers of a network of the size space, and the widths that each may have.
SIZE_LAYERS = 5
WIDTHS: tuple[int, ...] = (8, 16, 24, 32, 40, 48, 56, 64)

#: The one cell of the size space: the cell of the topology space with the highest validation accuracy on CIFAR-100.
SIZE_CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"

#: Networks in the size space.
SIZE_SPACE_SIZE: int = len(WIDTHS) ** SIZE_LAYERS

#: What a person may type as a width; the benchmark's are `WIDTHS`.
LARGEST_WIDTH = 1024

_FORM = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"


@dataclass(frozen=True)
class Cell201:
    """One cell: the operation on each of `EDGES`."""

    operations: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.operations) != len(EDGES):
            raise InvalidSpec(f"a NAS-Bench-201 cell has {len(EDGES)} operations, not {len(self.operations)}.")
        for operation in self.operations:
            if operation not in OPERATIONS:
                raise InvalidSpec(f"NAS-Bench-201 has no operation {short(operation)}; it has {', '.join(OPERATIONS)}.")

    @property
    def nodes(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        """(operation, input) of every edge into node 1, node 2, node 3."""
        edges = list(zip(self.operations, EDGES, strict=True))
        return tuple(tuple((op, source) for op, (to, source) in edges if to == node) for node in range(1, NODES))

    def __str__(self) -> str:
        return to_string(self)


def parse(text: str) -> Cell201:
    """Read a cell as the benchmark writes it, for example `|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|`.

    Raises `InvalidSpec` for anything else. Every edge must be there: one that carries nothing is written `none`.
    """
    nodes = text.strip().split("+")
    operations: list[str] = []
    for node, part in enumerate(nodes, start=1):
        edges = [
            re.fullmatch(r"(\w+)~(\d+)", edge) for edge in part.strip().removeprefix("|").removesuffix("|").split("|")
        ]
        sources = [int(edge[2]) if edge else None for edge in edges]
        if len(nodes) != NODES - 1 or sources != list(range(node)):
            raise InvalidSpec(
                f"not a NAS-Bench-201 cell: {short(text.strip())}; write it as {_FORM}, with the operation none where "
                "no edge is wanted."
            )
        operations += [edge[1] for edge in edges if edge]
    return Cell201(tuple(operations))


def to_string(cell: Cell201) -> str:
    """The cell as the benchmark writes it, which `parse` reads back."""
    return "+".join("|" + "".join(f"{op}~{source}|" for op, source in node) for node in cell.nodes)


@cache
def _order() -> tuple[int, ...]:
    """For each index of the benchmark, the cell's number when the six operations count in base five."""
    numbers = list(range(SPACE_SIZE))
    random.Random(_SHUFFLE_SEED).shuffle(numbers)
    return tuple(numbers)


@cache
def _indices() -> dict[int, int]:
    return {number: index for index, number in enumerate(_order())}


def by_index(index: int) -> Cell201:
    """The cell that NAS-Bench-201 and NATS-Bench (topology) call by this number, 0 to 15 624."""
    if not 0 <= index < SPACE_SIZE:
        raise InvalidSpec(f"NAS-Bench-201 has cells 0 to {SPACE_SIZE - 1}, not {index}.")
    return Cell201(tuple(OPERATIONS[digit] for digit in _digits(_order()[index], len(OPERATIONS), len(EDGES))))


def index_of(cell: Cell201 | str) -> int:
    """The benchmark's number of a cell."""
    found = parse(cell) if isinstance(cell, str) else cell
    number = 0
    for operation in found.operations:
        number = number * len(OPERATIONS) + OPERATIONS.index(operation)
    return _indices()[number]


def sample(seed: int) -> str:
    """A cell drawn uniformly from all 15 625, the same for the same seed on every machine."""
    return to_string(by_index(random.Random(seed).randrange(SPACE_SIZE)))


def canonical(cell: Cell201) -> str:
    """One text for cells that the benchmark counts as the same topology: 6 466 of them.

    Its method: a node is the sorted sum of its edges, a skip is its input itself, and an edge is zero that is none or
    comes from a node that is zero. Cells with the same text compute the same function; that some with different texts
    do too is how the benchmark counts (a sum inside a sum is sorted as text), so the notation is the benchmark's too.
    """
    zero = "#"
    signals = ["0"]
    for node in cell.nodes:
        terms = []
        for operation, source in node:
            signal = signals[source]
            if operation == "none" or signal == zero:
                terms.append(zero)
            else:
                terms.append(signal if operation == "skip_connect" else f"({signal})@{operation}")
        signals.append("+".join(sorted(terms)))
    return signals[-1]


def all_cells() -> list[Cell201]:
    """Every cell of the topology space, in the order of the benchmark's numbers."""
    cells = [Cell201(operations) for operations in itertools.product(OPERATIONS, repeat=len(EDGES))]
    return [cells[number] for number in _order()]


def parse_widths(text: str) -> tuple[int, ...]:
    """Read the five layer widths of a size-space network, for example `8:16:24:32:64`; raises `InvalidSpec`."""
    parts = text.strip().split(":")
    if len(parts) != SIZE_LAYERS or not all(re.fullmatch(r"[1-9]\d{0,3}", part) for part in parts):
        raise InvalidSpec(f"{short(text.strip())} is not {SIZE_LAYERS} layer widths: write them as 8:16:24:32:64.")
    widths = tuple(int(part) for part in parts)
    if max(widths) > LARGEST_WIDTH:
        raise InvalidSpec(f"layer width {max(widths)} is too large: {LARGEST_WIDTH} is the most.")
    return widths


def widths_by_index(index: int) -> tuple[int, ...]:
    """The widths that NATS-Bench (size) calls by this number, 0 to 32 767; unlike cells, they are counted in order."""
    if not 0 <= index < SIZE_SPACE_SIZE:
        raise InvalidSpec(f"the size space of NATS-Bench has networks 0 to {SIZE_SPACE_SIZE - 1}, not {index}.")
    return tuple(WIDTHS[digit] for digit in _digits(index, len(WIDTHS), SIZE_LAYERS))


def _digits(number: int, base: int, length: int) -> tuple[int, ...]:
    """`number` in `base`, most significant digit first."""
    return tuple(number // base**place % base for place in reversed(range(length)))
