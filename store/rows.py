"""The rows of the store's tables as typed, frozen objects: what other rooms hand over and get back.

Fields are the columns they fill; the column comments (`nasrob-tui schema`) say what each means and in which unit.
Mappings are stored as JSON. Times may be naive (taken as UTC) or aware.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Status = Literal["running", "complete", "partial", "failed"]


@dataclass(frozen=True, kw_only=True)
class ArchitectureRow:
    """A topology with every option resolved."""

    architecture_id: str
    name: str
    family: str
    lineage: str
    options: Mapping[str, Any]
    genotype: Any | None
    description: str
    source: str


@dataclass(frozen=True, kw_only=True)
class DatasetRow:
    """A named, fingerprinted set of labelled examples in a stored order."""

    dataset_id: str
    name: str
    split: str
    n_examples: int
    n_classes: int
    image_shape: str
    fingerprint: str
    source: str
    license: str


@dataclass(frozen=True, kw_only=True)
class MemberRow:
    """A model that is part of an ensemble, as it is known on its own."""

    architecture_id: str
    model_sha256: str


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """An architecture with weights, known by the two together: networks that differ only in layers without tensors can
    share all tensors. `clean_accuracy_recorded` is in percent. An ensemble says by `combine` how its `members`, in
    their order, are combined."""

    model_sha256: str
    architecture_id: str
    trained_on: str
    n_classes: int
    params: int
    origin: str
    weights_path: str
    label: str
    macs: int | None = None
    recipe: Mapping[str, Any] | None = None
    train_seed: int | None = None
    clean_accuracy_recorded: float | None = None
    created_at: datetime | None = None
    combine: str | None = None
    members: Sequence[MemberRow] = ()


@dataclass(frozen=True, kw_only=True)
class AttackRow:
    """A full attack configuration; `config` is the whole of it, the other fields are what tables show."""

    attack_id: str
    name: str
    norm: str
    eps_text: str
    eps: float
    steps: int
    restarts: int
    random_start: bool
    loss: str
    seed: int
    threat_space: str
    verdict: str
    config: Mapping[str, Any]
    step_size: float | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationRow:
    """What is asked for and what works on it. Counts, status and times are the store's to keep."""

    evaluation_id: str
    model_sha256: str
    architecture_id: str
    dataset_id: str
    attack_id: str
    preprocessing: Mapping[str, Any]
    n_requested: int
    subset_digest: str
    #: Indices of the examples asked for, in the order in which they are evaluated: `n_requested` of them.
    examples: Sequence[int]
    device: str
    precision: str
    software_version: str
    torch_version: str
    engine_revision: int
    hostname: str | None = None
    job_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class OpenedEvaluation:
    """What is known of an evaluation when work on it begins.

    `evaluation_id` is the identity to write under: that of the request, or of its staging copy when a finished result
    is measured anew. `done` holds the example indices that have an outcome, ascending. A `status` of `complete` means
    that nothing is left to do.
    """

    evaluation_id: str
    status: Status
    done: list[int]
    staging: bool
    #: How the network was computed in the latest session, so that the next one can do the same.
    engine: str | None = None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Totals of an evaluation after a batch. `n_new` is what the batch added; verdicts are counted over the `n_counted`
    examples before the first one that is missing, the passes over all that are done. Top-5 counts are None where ranks
    are missing or the attack does not settle them."""

    n_new: int
    n_requested: int
    n_done: int
    n_counted: int
    n_clean_correct: int
    n_robust: int
    n_errors: int
    n_borderline: int
    n_zero_gradient: int
    forwards: int
    backwards: int
    seconds: float
    n_clean_top5: int | None = None
    n_robust_top5: int | None = None


@dataclass(frozen=True, kw_only=True)
class SurvivalRow:
    """An example that has survived the first `stages` attacks of a cascade, with what they cost together."""

    example: int
    stages: int
    forwards: int
    backwards: int
    zero_gradient_steps: int
    margin: float | None


@dataclass(frozen=True, kw_only=True)
class FinishedEvaluation:
    """What became of an evaluation. After a re-run that replaced an earlier result: over how many common examples the
    two were compared, and how many verdicts differ."""

    evaluation_id: str
    status: Status
    replaced: bool = False
    n_compared: int = 0
    n_changed: int = 0
