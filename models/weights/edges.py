"""Which operation lies on which edge of a stack of cells, read from names and shapes of weights alone.

An edge of a DARTS-format network owns the tensors below `cells.<i>._ops.<e>.`. Pooling, an identity and `none` own no
tensors, so between those a file cannot decide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from models.architectures.genotypes import Genotype

_EDGE = re.compile(r"(?:.*\.)?cells\.(\d+)\._ops\.(\d+)\.(.+)")
_NO_WEIGHTS = "operation without weights (pooling, identity or none)"

Shape = tuple[int, ...]
Edge = tuple[int, int]


def operations(shapes: Mapping[str, Shape]) -> dict[Edge, str]:
    """(cell, edge) -> operation, for the edges that own tensors."""
    parts: dict[Edge, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        if found := _EDGE.fullmatch(name):
            parts.setdefault((int(found[1]), int(found[2])), {})[found[3]] = shape
    return {edge: _operation(tensors) for edge, tensors in parts.items()}


def disagreements(given: Mapping[str, Shape], expected: Mapping[str, Shape]) -> list[str]:
    """A sentence for each edge on which a file has another operation than a network, in order; cells in which an edge
    differs alike share one.
    """
    there, here = operations(given), operations(expected)
    cells = {cell for cell, _ in there} & {cell for cell, _ in here}
    differing: dict[tuple[int, str, str], list[int]] = {}
    for cell, edge in sorted({*there, *here}):
        found, wanted = there.get((cell, edge), _NO_WEIGHTS), here.get((cell, edge), _NO_WEIGHTS)
        if cell in cells and found != wanted:
            differing.setdefault((edge, found, wanted), []).append(cell)
    return [
        f"cells.{among[0]}._ops.{edge} is {_article(found)} in the file, where the architecture has {_article(wanted)}"
        + (f" (so in {len(among)} cells)" if len(among) > 1 else "")
        for (edge, found, wanted), among in differing.items()
    ]


def may_be(given: Mapping[str, Shape], genotype: Genotype) -> bool:
    """Whether a file's first cell has the operations of one of a genotype's cells, as far as they own tensors.

    Torch-free and quick: of hundreds of genotypes it leaves the few that are worth building.
    """
    first = {edge: operation for (cell, edge), operation in operations(given).items() if cell == 0}
    for cell in (genotype.normal, genotype.reduce):
        owners = {edge: op for edge, (op, _) in enumerate(cell.edges) if re.match("(sep|dil)_conv|conv_", op)}
        if {edge: op for edge, op in first.items() if not op.startswith("skip_connect")} == owners:
            return True
    return False


def _operation(tensors: Mapping[str, Shape]) -> str:
    """The operation that owns tensors of these names."""
    first = tensors.get("op.1.weight", ())
    if "conv_1.weight" in tensors and "conv_2.weight" in tensors:
        return "skip_connect of stride 2"
    if "op.5.weight" in tensors and len(first) == 4:
        return f"sep_conv_{first[2]}x{first[3]}"
    if "op.2.weight" in tensors and len(first) == 4:
        return f"dil_conv_{first[2]}x{first[3]}"
    if len(factor := tensors.get("1.weight", ())) == 4 and "2.weight" in tensors:
        return f"conv_{max(factor[2:])}x1_1x{max(factor[2:])}"
    return f"operation with {len(tensors)} tensors ({next(iter(tensors))}, …)"


def _article(operation: str) -> str:
    return f"an {operation}" if operation[0] in "aeiou" else f"a {operation}"
