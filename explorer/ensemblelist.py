"""The ensembles that there are: trained ones from the store and from weight files, and those that jobs are training.

Everything comes from the copy of the store in memory and from the headers of files. May wait: call it from a thread.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from explorer.jobs.folder import State
from explorer.results import Results
from explorer.settings import Settings
from explorer.tradeoff import Statement
from models.architectures import registry as architectures
from models.ensembles import composition
from models.ensembles.composition import Composition
from models.errors import ModelsError
from models.weights import catalogue

_MODELS = """
SELECT s.model_sha256, s.architecture_id, s.architecture, s.trained_on, s.combine, s.params, s.macs, s.train_seed,
    m.weights_path, m.origin, m.clean_accuracy_recorded
FROM ensembles AS s JOIN models AS m USING (model_sha256, architecture_id)
ORDER BY coalesce(m.created_at, m.recorded_at) DESC, s.architecture_id
"""
_MEMBERS = """
SELECT p.model_sha256, p.architecture_id, p.position, p.member_sha256, p.member_architecture_id, m.params, m.train_seed,
    m.clean_accuracy_recorded
FROM ensemble_members AS p
LEFT JOIN models AS m ON m.model_sha256 = p.member_sha256 AND m.architecture_id = p.member_architecture_id
ORDER BY p.position
"""
#: Attacks that were made on the ensemble itself. Those made on another model are transfers.
_EVALUATIONS = """
SELECT r.*, k.steps, k.restarts, k.threat_space, e.updated_at
FROM ensemble_results AS r
JOIN evaluations AS e ON e.evaluation_id = r.evaluation_id
JOIN attacks AS k ON k.attack_id = r.attack_id
WHERE json_extract(k.config, '$.surrogate') IS NULL
ORDER BY e.updated_at DESC, r.evaluation_id
"""
_ALONE = """
SELECT m.evaluation_id, m.position, accuracy(m.n_robust, m.n_examples) AS robust_accuracy,
    wilson_low(m.n_robust, m.n_examples) AS low, wilson_high(m.n_robust, m.n_examples) AS high
FROM member_evaluations AS m JOIN ensemble_results AS r USING (evaluation_id)
WHERE m.member_evaluation_id IS NOT NULL
"""


@dataclass(frozen=True)
class Member:
    """A member. `clean` is its clean accuracy in percent when its weights were made, None where nobody knows."""

    position: int
    architecture: str
    sha256: str | None = None
    seed: int | None = None
    params: int | None = None
    clean: float | None = None


@dataclass(frozen=True)
class Ensemble:
    """An ensemble with weights, or one that a job is to train. `state` is the job's where there are no weights yet."""

    architecture: str
    name: str
    dataset: str
    combine: str
    members: tuple[Member, ...] = ()
    sha256: str | None = None
    seed: int | None = None
    params: int | None = None
    macs: int | None = None
    clean: float | None = None
    origin: str = ""
    weights_path: str = ""
    #: Complete evaluations under attacks on itself, the latest first: rows of `ensemble_results`, with `alone`, the
    #: results of the members by position.
    evaluations: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    job: int | None = None
    state: State | None = None
    #: How much of the training is done, 0 to 1.
    fraction: float = 0.0

    @property
    def key(self) -> str:
        """What it is the same ensemble by, after a refresh. A training's row becomes that of the weights it makes."""
        return f"{self.architecture} {self.dataset} {self.seed} {self.sha256 or ''}"

    @property
    def latest(self) -> Mapping[str, Any] | None:
        """The latest evaluation."""
        return self.evaluations[0] if self.evaluations else None

    @property
    def made_of(self) -> Composition | None:
        """What its architecture says it is made of; None where this version cannot tell."""
        return composition_of(self.architecture)

    def words(self, verb: str) -> list[str]:
        """The words of `nasrob-tui ensemble VERB` for this model."""
        words = ["ensemble", verb, self.architecture]
        words += ["--weights", self.sha256[:16]] if self.sha256 else []
        return [*words, "--dataset", self.dataset]


def composition_of(architecture: str) -> Composition | None:
    """What an ensemble is made of; None for one that is not known here."""
    try:
        return composition.of(architectures.parse_architecture(architecture))
    except ModelsError:
        return None


def listing(settings: Settings, results: Results) -> list[Ensemble]:
    """Every ensemble with weights, the newest first; those that this store has not heard of last."""
    found = _of_store(results) if results.ready else []
    have = {(one.sha256, one.architecture) for one in found}
    return [*found, *(one for one in _of_files(settings) if (one.sha256, one.architecture) not in have)]


def with_trainings(known: Sequence[Ensemble], trainings: Sequence[Ensemble]) -> list[Ensemble]:
    """Ensembles with weights behind those that are only being trained."""
    made = {(one.architecture, one.dataset, one.seed) for one in known}
    return [*(one for one in trainings if (one.architecture, one.dataset, one.seed) not in made), *known]


def _of_store(results: Results) -> list[Ensemble]:
    def rows(sql: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = results.query(Statement(sql, [])).to_pylist()
        return found

    members: dict[tuple[str, str], list[Member]] = defaultdict(list)
    for row in rows(_MEMBERS):
        members[row["model_sha256"], row["architecture_id"]].append(
            Member(
                row["position"],
                row["member_architecture_id"],
                row["member_sha256"],
                row["train_seed"],
                row["params"],
                row["clean_accuracy_recorded"],
            )
        )
    alone: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows(_ALONE):
        alone[row["evaluation_id"]][row["position"]] = row
    evaluations: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows(_EVALUATIONS):
        row["alone"] = alone[row["evaluation_id"]]
        evaluations[row["model_sha256"], row["architecture_id"]].append(row)
    return [
        Ensemble(
            architecture=row["architecture_id"],
            name=row["architecture"],
            dataset=row["trained_on"],
            combine=row["combine"],
            members=tuple(members[key]) or _planned(row["architecture_id"]),
            sha256=row["model_sha256"],
            seed=row["train_seed"],
            params=row["params"],
            macs=row["macs"],
            clean=row["clean_accuracy_recorded"],
            origin=row["origin"],
            weights_path=row["weights_path"],
            evaluations=tuple(evaluations[key]),
        )
        for row in rows(_MODELS)
        if (key := (row["model_sha256"], row["architecture_id"]))
    ]


def _of_files(settings: Settings) -> Iterable[Ensemble]:
    """The ensembles among the weight files, whether or not this store has heard of them."""
    for file in catalogue.scan(settings.weights_folders):
        record = file.record
        made_of = composition_of(record.architecture) if "ensemble" in record.architecture else None
        if made_of is None:
            continue
        members = tuple(
            Member(i, about["architecture"], about["sha256"], about.get("seed"), None, about.get("clean_accuracy"))
            for i, about in enumerate(record.members or ())
        )
        yield Ensemble(
            architecture=record.architecture,
            name=record.architecture.partition("@")[0],
            dataset=record.dataset,
            combine=made_of.combine,
            members=members or _planned(record.architecture),
            sha256=record.tensors_sha256,
            seed=record.seed,
            clean=record.clean_accuracy,
            origin=record.origin,
            weights_path=str(file.path),
        )


def _planned(architecture: str) -> tuple[Member, ...]:
    made_of = composition_of(architecture)
    return tuple(Member(i, m.architecture) for i, m in enumerate(made_of.members)) if made_of else ()


def in_training(
    architecture: str, dataset: str, seed: int, *, job: int, state: State, fraction: float
) -> Ensemble | None:
    """An ensemble that a job is to train; None for another architecture."""
    made_of = composition_of(architecture)
    if made_of is None:
        return None
    return Ensemble(
        architecture=architecture,
        name=architecture.partition("@")[0],
        dataset=dataset,
        combine=made_of.combine,
        members=_planned(architecture),
        seed=seed,
        job=job,
        state=state,
        fraction=fraction,
    )


def attack_label(row: Mapping[str, Any]) -> str:
    """`pgd-10 8/255`, from a row of `ensemble_results` with the attack's steps, restarts and norm."""
    many = f"-{row['steps']}" if (row["steps"] or 1) > 1 else ""
    again = f"x{row['restarts']}" if (row.get("restarts") or 1) > 1 else ""
    norm = "" if row["norm"] == "Linf" else f" {row['norm']}"
    return f"{row['attack']}{many}{again}{norm} {row['eps']}"


def places(settings: Settings) -> list[str]:
    """`--store` for a command line, where the results are not kept where the home says."""
    return [] if settings.store == settings.home / "results.duckdb" else ["--store", str(settings.store)]


def command(words: Sequence[str], settings: Settings) -> str:
    """`nasrob-tui` with these words, as a person types it."""
    return shlex.join(["nasrob-tui", *words, *places(settings)])
