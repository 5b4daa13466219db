"""The claims, the rule of verdicts, and who belongs to which group: `claims.toml`, read and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from explorer.findings.model import Claim, Part


@dataclass(frozen=True)
class Rule:
    """What a verdict needs; see `claims.toml` for each number."""

    alpha: float
    least_points: float
    least_tau: float
    least_ratio: float
    floor: float
    ceiling: float
    room: tuple[float, float]
    turn: float

    def text(self, claim: Claim) -> str:
        """The rule as a person reads it."""
        each = {"dataset": "dataset", "attack_name": "attack", "part": "part of the claim"}
        needed = " and ".join(each[name] for name in claim.each)
        return (
            f"{self._compared(claim)} A comparison "
            f"supports the claim when the effect is in the claimed direction and its p-value is below "
            f"{self.alpha:g} after Holm's adjustment for all comparisons of the claim. It speaks against the claim "
            f"when the effect is in the other direction, likewise, or when an effect of {self._least(claim)} or more "
            f"is excluded, likewise{self._room(claim)}. It stays open where the best of the two groups, compared as "
            f"pairs on the same examples, say the opposite. Where all robust accuracies are below {self.floor:g} %, or "
            f"within {100 - self.ceiling:g} % of the clean ones, the attack decides nothing. The claim holds when "
            f"every {needed} has a comparison that supports it, none speaks against it, and no open one points the "
            f"other way by more than that effect. It does not hold when one speaks against it. Otherwise it is "
            f"undecided."
        )

    def _compared(self, claim: Claim) -> str:
        if any(part.measure == "tau" for part in claim.parts):
            return (
                "What is compared are the sizes of a line of designs that were trained by one recipe, each with the "
                "mean over its training seeds; a cell drawn at random is a line of its own."
            )
        return (
            "What is compared are topologies, each with the mean over its training seeds. Of the designs, a size and "
            "a recipe, in which both groups have networks, the one with the most topologies in the smaller group "
            "counts alone. Where there is none, each group keeps the recipe with its most topologies, each with the "
            "mean over its sizes too. Printed figures are all of one design."
        )

    def _room(self, claim: Claim) -> str:
        if any(part.measure == "tau" for part in claim.parts):
            return ""
        both = f"both means are between {self.room[0]:g} and {self.room[1]:g} %"
        spreads = ", and only there are spreads tested" if any(p.measure == "spread" for p in claim.parts) else ""
        return f"; a small difference of means excludes it only where {both}{spreads}"

    def _least(self, claim: Claim) -> str:
        if any(part.measure == "tau" for part in claim.parts):
            return f"tau {self.least_tau:g}"
        ratio = f" (spreads: {self.least_ratio:g} times)" if any(p.measure == "spread" for p in claim.parts) else ""
        return f"{self.least_points:g} points{ratio}"


@dataclass(frozen=True)
class Rules:
    """The whole of `claims.toml`."""

    publication: str
    rule: Rule
    small: frozenset[str]
    harder: frozenset[str]
    small_side: int
    groups: Mapping[str, list[str]]
    #: Options that say no size, see `claims.toml`.
    options: Mapping[str, list[str]]
    candidates: Mapping[str, list[str]]
    claims: tuple[Claim, ...]

    def is_small(self, dataset: str, side: int | None) -> bool:
        """Whether a dataset counts as small; one that is not named, by the side of its images in pixels."""
        name = dataset.partition("@")[0]
        if name in self.small or name in self.harder:
            return name in self.small
        return side is not None and side <= self.small_side


@cache
def load() -> Rules:
    """Read `claims.toml`."""
    data = tomllib.loads(resources.files("explorer.findings").joinpath("claims.toml").read_text(encoding="utf-8"))
    claims = []
    for entry in data["claim"]:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        fields["parts"] = tuple(Part(**part) for part in entry["parts"])
        claims.append(Claim(**fields))
    rule = Rule(**{**data["rule"], "room": tuple(data["rule"]["room"])})
    return Rules(
        publication=data["publication"],
        rule=rule,
        small=frozenset(data["data"]["small"]),
        harder=frozenset(data["data"]["harder"]),
        small_side=data["data"]["small_side"],
        groups=data["groups"],
        options=data["options"],
        candidates=data["candidates"],
        claims=tuple(claims),
    )
