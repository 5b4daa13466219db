"""What a finding is made of: figures, groups of architectures, comparisons of groups, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["holds", "does not hold", "undecided"]
Source = Literal["published", "measured"]
#: What one comparison says about its claim. Of `floor` and `ceiling` every robust accuracy is at the end of the scale.
Outcome = Literal["supports", "against", "open", "floor", "ceiling"]
Measure = Literal["difference", "tau", "spread"]

#: Groups, as they are called where people read.
GROUPS = {
    "handcrafted": "hand-crafted",
    "searched": "searched",
    "random": "random cells",
    "ensemble": "random ensembles",
    "below": "below",
    "above": "above",
}


@dataclass(frozen=True)
class Part:
    """One thing that a claim says: a group over another, or how robustness goes with size."""

    name: str
    favoured: str = ""
    other: str = ""
    measure: Measure = "difference"


@dataclass(frozen=True)
class Design:
    """Size and training that all networks of a comparison share."""

    #: Options that say the size, such as `init_channels=8,layers=5`.
    scale: str
    #: Name and epochs of the recipe; None where it is not known.
    recipe: str | None

    @property
    def said(self) -> str:
        """`init_channels=8,layers=5 by fast, 12 epochs`."""
        return f"{self.scale} by {self.recipe or 'recipes that are not known'}"


@dataclass(frozen=True)
class Claim:
    """A claim of the study, from `claims.toml`."""

    number: int
    title: str
    sentence: str
    tables: tuple[str, ...]
    attacks: tuple[str, ...]
    data: Literal["small", "harder", "all"]
    parts: tuple[Part, ...]
    #: Fields of a comparison: for every combination of their values there must be one that supports the claim.
    each: tuple[str, ...]
    try_on: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A printed accuracy, in percent, and where it stands."""

    table: str
    row: int
    dataset: str
    architecture: str
    group: str
    attack: str
    eps: str
    threat_space: str
    top_k: int
    clean: float | None
    robust: float
    robust_std: float | None
    runs: int | None
    params: int | None
    citation: str


@dataclass(frozen=True)
class Member:
    """An architecture in a comparison: the mean over its training runs, in percent."""

    architecture: str
    #: That of the model with the most robust run.
    architecture_id: str
    lineage: str
    n_models: int
    robust: float
    clean: float | None
    params: float | None
    #: Standard deviation over runs: printed, or of the training runs measured here.
    robust_std: float | None
    evaluation_ids: tuple[str, ...]
    #: The model with the most robust run, and the evaluation of it.
    best_evaluation: str | None
    best_robust: float


@dataclass(frozen=True)
class Group:
    """One side of a comparison."""

    name: str
    n_architectures: int
    n_models: int
    mean: float
    std: float | None
    best: float
    best_architecture: str
    mean_clean: float | None
    mean_params: float | None
    members: tuple[Member, ...]
    #: Name and epochs of the one recipe that all were trained by; None where there are several, or it is not known.
    recipe: str | None = None


@dataclass(frozen=True)
class Best:
    """The best of one group against the best of the other, on the same examples where those are known."""

    architecture_a: str
    architecture_b: str
    robust_a: float
    robust_b: float
    difference: float
    low: float | None
    high: float | None
    test: str
    p_value: float | None
    p_adjusted: float | None
    n_examples: int | None
    evaluation_ids: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Groups under one attack configuration, on one set of examples, in one threat space.

    `a` is the group that the claim favours. `estimate` is what `measure` says: the difference of the means (a - b) in
    points of robust accuracy, Kendall's tau within lineages, or the ratio of the standard deviations (a / b).
    """

    source: Source
    part: str
    measure: Measure
    dataset: str
    dataset_id: str | None
    table: str | None
    n_examples: int | None
    attack: str
    attack_name: str
    eps: str
    eps_value: float
    threat_space: str
    top_k: int
    a: Group
    b: Group | None
    estimate: float
    low: float | None
    high: float | None
    effect_size: float | None
    test: str
    p_value: float | None
    p_adjusted: float | None
    #: One-sided, adjusted: that the effect is as large as the smallest that counts.
    p_small: float | None
    best: Best | None
    outcome: Outcome
    cautions: tuple[str, ...] = ()
    #: The size and recipe that both groups share; None where they share none, and of printed rows.
    design: Design | None = None
    attack_config: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def difference(self) -> float | None:
        """Mean of the first group minus that of the second, in points; None where there is no second."""
        return None if self.b is None else self.a.mean - self.b.mean

    @property
    def paired(self) -> bool:
        """Whether the test of the groups is one: never, since their members are different architectures."""
        return False

    @property
    def evaluation_ids(self) -> tuple[str, ...]:
        """Every evaluation behind the two groups."""
        groups = (self.a, self.b) if self.b else (self.a,)
        return tuple(i for group in groups for member in group.members for i in member.evaluation_ids)

    @property
    def place(self) -> str:
        """`digits · pgd-10 · 8/255`."""
        return " · ".join((self.dataset, self.attack, self.eps))

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        data = asdict(self)
        del data["attack_config"]
        data["difference"] = self.difference
        data["paired"] = self.paired
        data["evaluation_ids"] = list(self.evaluation_ids)
        return data


@dataclass(frozen=True)
class Finding:
    """A claim with what was printed, what was measured, and what follows from each by the same rule."""

    claim: Claim
    rule: str
    published: tuple[Figure, ...]
    published_comparisons: tuple[Comparison, ...]
    published_verdict: Verdict
    published_why: str
    measured: tuple[Comparison, ...]
    verdict: Verdict
    why: str
    #: A command that would decide it; None where it is decided.
    would_decide: str | None
    #: What was left out, and why.
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; the keys are part of the interface: add, never change."""
        return {
            "claim": {"number": self.claim.number, "title": self.claim.title, "sentence": self.claim.sentence},
            "published": [asdict(figure) for figure in self.published],
            "published_comparisons": [c.to_dict() for c in self.published_comparisons],
            "published_verdict": self.published_verdict,
            "published_why": self.published_why,
            "measured": [c.to_dict() for c in self.measured],
            "verdict": self.verdict,
            "why": self.why,
            "would_decide": self.would_decide,
            "rule": self.rule,
            "notes": list(self.notes),
        }
