"""How a part of an ensemble is called: the ensemble's file and the positions of the members in it. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from models.ensembles import composition
from models.ensembles.composition import Composition
from models.errors import WeightsError
from models.specs import ArchitectureSpec

_MARK = "#members="


def name(path: str, positions: Sequence[int]) -> str:
    """`FILE#members=0,2`: what names the members at these positions, counted from 0."""
    return f"{path}{_MARK}{','.join(map(str, positions))}"


def split(weights: str) -> tuple[str, tuple[int, ...] | None]:
    """The file and the positions in `FILE#members=0,2`; None for all of a file. Raises `WeightsError`."""
    path, mark, text = weights.rpartition(_MARK)
    if not mark or Path(weights).exists():
        return weights, None
    if not re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4})*", text):
        raise WeightsError(f"{weights}: write the members as numbers from 0 with commas between, {path}{_MARK}0,2.")
    positions = tuple(int(part) for part in text.split(","))
    if list(positions) != sorted(set(positions)):
        raise WeightsError(f"{weights}: name each member once, in their order.")
    return path, positions


def architecture(whole: ArchitectureSpec, positions: Sequence[int]) -> ArchitectureSpec:
    """The architecture of a part: that of a member, or an ensemble of several, combined as the whole is, by the mean of
    the logits where the whole has a combiner of its own.

    Raises `WeightsError` for positions that there are not and for an ensemble whose members do not exist alone.
    """
    from models.architectures import definitions, registry

    made_of = composition.of(whole)
    check(made_of, positions, whole.canonical)
    chosen = [made_of.members[i] for i in positions]
    if len(chosen) == 1:
        return chosen[0].spec
    if len(chosen) == len(made_of.members):
        return whole
    rule = "mean-logits" if made_of.learned else made_of.combine
    return registry.parse_architecture(definitions.remember(composition.picked(chosen)), {"combine": rule})


def check(made_of: Composition, positions: Sequence[int], what: str) -> None:
    """Raise `WeightsError` unless the members at these positions can stand alone."""
    if made_of.joint:
        raise WeightsError(
            f"{what}: its members were trained as one ({made_of.combine}), so none of them stands alone."
        )
    if wrong := [i for i in positions if not 0 <= i < len(made_of.members)]:
        raise WeightsError(f"{what} has members 0 to {len(made_of.members) - 1}, not {wrong[0]}.")


def of(made_of: Composition, positions: Sequence[int]) -> Composition:
    """The composition of a part of several members."""
    rule = "mean-logits" if made_of.learned else made_of.combine
    return replace(made_of, members=tuple(made_of.members[i] for i in positions), combine=rule)
