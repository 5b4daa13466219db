"""The search space of RobNets: what every edge of every cell does. Torch-free.

Guo et al., "When NAS Meets Robustness: In Search of Robust Architectures against Adversarial Attacks", CVPR 2020. A
cell has two inputs and four nodes, each taking all that came before it: 14 edges, node by node and input by input. An
edge's code is two digits: the first says whether it carries its input as it is, the second whether through a separable
convolution.
"""

from __future__ import annotations

from typing import Any

from models.architectures.wording import short
from models.errors import InvalidSpec

NODES = 4
EDGES = sum(2 + node for node in range(NODES))

#: The codes of the space, with what they stand for.
CODES: dict[str, str] = {"00": "none", "01": "sep_conv_3x3", "10": "skip_connect", "11": "skip_connect + sep_conv_3x3"}

#: Codes of one cell.
Cell = tuple[str, ...]

#: Cells that a person's list may have at most.
MOST_CELLS = 200


def parse(data: Any) -> tuple[Cell, ...]:
    """Check a list of cells, each 14 codes; one cell stands for all, several for one layer each.

    Raises `InvalidSpec` naming the first thing that is wrong.
    """
    if not isinstance(data, list | tuple) or not 1 <= len(data) <= MOST_CELLS:
        raise InvalidSpec(f"RobNet codes are a list of 1 to {MOST_CELLS} cells, each a list of {EDGES} codes.")
    for position, cell in enumerate(data, start=1):
        if not isinstance(cell, list | tuple) or len(cell) != EDGES:
            raise InvalidSpec(f"cell {position} of the RobNet codes must be a list of {EDGES} codes, one an edge.")
        for code in cell:
            if not isinstance(code, str) or code not in CODES:
                raise InvalidSpec(f"cell {position}: RobNet has no code {short(code)}; it has {', '.join(CODES)}.")
    return tuple(tuple(cell) for cell in data)


def layer_cells(cells: tuple[Cell, ...], layers: int) -> tuple[Cell, ...]:
    """The cell of each of `layers` layers: a single one is shared, else the first `layers` are used.

    Raises `InvalidSpec` when there are fewer cells than layers.
    """
    if len(cells) == 1:
        return cells * layers
    if layers > len(cells):
        raise InvalidSpec(
            f"this RobNet has a cell of its own for each of {len(cells)} layers, so it cannot have {layers}: ask for "
            f"layers={len(cells)} or fewer."
        )
    return cells[:layers]
