"""Random architectures by seed, with bounds on their parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.architectures import genotypes, nasbench201_space, registry
from models.architectures.options import scale_of
from models.ensembles import composition
from models.errors import InvalidSpec

#: Seeds tried for one that fits before giving up.
MOST_TRIES = 300
#: A search that finds nothing says so after this many seeds, and again.
SAY_EVERY = 50

_STEMS = {"darts": "darts-random-", "nasbench201": "nasbench201-random-"}
#: The same for ensembles of random members.
_ENSEMBLES = {"darts": "darts-ensemble-", "nasbench201": "nasbench201-ensemble-"}
#: What makes networks of a space deep.
_DEPTHS = composition.CELLS_OPTION
_SIZES = {"darts": genotypes.GENOTYPES_IN_SPACE, "nasbench201": nasbench201_space.SPACE_SIZE}


@dataclass(frozen=True)
class Sampled:
    """An architecture that was drawn, and its size at the options asked for."""

    name: str
    architecture: str
    seed: int
    params: int
    macs: int
    definition: dict[str, Any]


@dataclass(frozen=True)
class Draw:
    """What was drawn, and a sentence about how."""

    found: tuple[Sampled, ...]
    said: str


def parse_count(text: str | None) -> int | None:
    """A number of parameters as people write it: 2500000, 2.5M, 800k. Raises `InvalidSpec`."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?)", text.strip())
    if not match:
        raise InvalidSpec(f"{text!r} is no number of parameters: write 2500000 or 2.5M.")
    return round(float(match.group(1)) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[match.group(2).lower()])


def draw(
    space: str,
    *,
    count: int,
    seed: int,
    options: Mapping[str, str],
    bounds: tuple[int | None, int | None],
    num_classes: int,
    image_shape: tuple[int, int, int],
    ensembles: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Draw:
    """The first `count` seeds from `seed` on whose networks, or `ensembles` of networks, have parameters within
    `bounds` (None: no bound).

    Raises `InvalidSpec` for an unknown space, bounds that cross, or bounds that nothing fits.
    """
    from models import counting

    if space not in _STEMS:
        raise InvalidSpec(f"nothing is sampled from the space {space!r}: use {' or '.join(_STEMS)}.")
    low, high = bounds
    if low is not None and high is not None and low > high:
        raise InvalidSpec(f"--min-params {low} is above --max-params {high}.")
    found: list[Sampled] = []
    tried, since = 0, 0
    smallest, largest = None, 0
    while len(found) < count:
        name = f"{(_ENSEMBLES if ensembles else _STEMS)[space]}{seed + tried}"
        spec = registry.parse_architecture(name, options, scale=scale_of(image_shape))
        params = counting.layout(counting.skeleton(spec, num_classes=num_classes, in_channels=image_shape[0])).params
        smallest, largest = min(smallest or params, params), max(largest, params)
        if (low is None or params >= low) and (high is None or params <= high):
            definition = registry.find(spec.name).definition
            assert definition is not None
            macs = counting.count(spec, num_classes=num_classes, image_shape=image_shape)[1]
            found.append(Sampled(name, spec.canonical, seed + tried, params, macs, definition.to_dict()))
            since = 0
        tried += 1
        since += 1
        if since % SAY_EVERY == 0:
            say(f"{tried} seeds tried, {len(found)} of {count} found; parameters {smallest:,} to {largest:,}")
        if since > MOST_TRIES:
            raise InvalidSpec(
                f"none of {MOST_TRIES} seeds has {_range(low, high)} parameters at these options; "
                f"they had {smallest:,} to {largest:,}. Widen the bounds or change init_channels and "
                f"{_DEPTHS[space] if not ensembles else 'cells'}."
            )
    said = f"{space}: {_SIZES[space]:,} architectures in the space; seeds {seed} to {seed + tried - 1} tried"
    return Draw(tuple(found), said + f", {len(found)} within {_range(low, high)} parameters" * bool(low or high))


def _range(low: int | None, high: int | None) -> str:
    return f"{low or 0:,} to {high:,}" if high is not None else f"at least {low or 0:,}"
