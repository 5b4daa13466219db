"""Stores with known differences between groups, written the way jobs write them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from explorer.jobs.rows import attack_row
from models.attacks import registry as attacks
from store import Store
from store.results import (
    ArchitectureRow,
    DatasetRow,
    EvaluationRow,
    ModelRow,
    append_outcomes,
    finish_evaluation,
    open_evaluation,
    outcome_schema,
)


class OneVisit(Store):
    """A store that stays open for writing inside `together`: a hundred short visits take seconds."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._open: DuckDBPyConnection | None = None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        with super().write() as con:
            self._open = con
            try:
                yield
            finally:
                self._open = None

    @contextlib.contextmanager
    def write(self) -> Iterator[DuckDBPyConnection]:
        if self._open is not None:
            yield self._open
        else:
            with super().write() as con:
                yield con


#: Family and lineage of each group of the claims.
GROUPS: Mapping[str, tuple[str, str]] = {
    "handcrafted": ("handcrafted", "resnet"),
    "searched": ("nas", "darts"),
    "random": ("nas", "darts-random"),
    "ensemble": ("ensemble", "darts-ensemble"),
}
NAMES = {"handcrafted": "hand", "searched": "found", "random": "darts-random", "ensemble": "darts-ensemble"}
EXAMPLES = 50


def add(
    store: Store,
    name: str,
    group: str,
    robust: int,
    *,
    dataset: str = "digits",
    attack: str = "pgd",
    eps: str = "8/255",
    threat_space: str = "pixel",
    seed: int = 0,
    n: int = EXAMPLES,
    clean: int | None = None,
    first: int = 0,
    params: int = 1_000_000,
    lineage: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    done: int | None = None,
    force: bool = False,
    surrogate: bool = False,
    mean: float = 0.5,
) -> str:
    """One evaluation of one model, of which the first `robust` of `n` examples stay correct; returns its identity.

    `done` leaves it unfinished after so many examples; `force` begins to measure it anew; `mean` is what is subtracted
    before the network.
    """
    spec = attacks.resolve(attack, eps=eps, threat_space=threat_space)  # type: ignore[arg-type]
    family, usual = GROUPS[group]
    architecture = name if "@" in name else f"{name}@layers=5"
    sha = hashlib.sha256(f"{name}{dataset}{seed}{recipe or ''}".encode()).hexdigest()
    config = spec.to_dict() | ({"surrogate": {"architecture": "other"}} if surrogate else {})
    row = attack_row(spec)
    attack_id = row.attack_id + ("-from-other" if surrogate else "")
    identity = hashlib.sha256(f"{sha}{attack_id}{n}{first}{'' if mean == 0.5 else mean}".encode()).hexdigest()[:16]
    dataset_id = f"{dataset}/test#1"
    opened = open_evaluation(
        store,
        architecture=ArchitectureRow(
            architecture_id=architecture,
            name=name.partition("@")[0],
            family=family,
            lineage=lineage or usual,
            options={},
            genotype=None,
            description="A test",
            source="nowhere",
        ),
        dataset=DatasetRow(
            dataset_id=dataset_id,
            name=dataset,
            split="test",
            n_examples=1000,
            n_classes=10,
            image_shape="3x64x64" if dataset.startswith("large") else "1x8x8",
            fingerprint="f",
            source="nowhere",
            license="none",
        ),
        model=ModelRow(
            model_sha256=sha,
            architecture_id=architecture,
            trained_on=dataset,
            n_classes=10,
            params=params,
            origin="trained",
            weights_path="/w",
            label=f"{name} seed {seed}",
            train_seed=seed,
            recipe={"name": "standard", "adversary": "none"} if recipe is None else recipe,
        ),
        attack=type(row)(**{**vars(row), "attack_id": attack_id, "config": config}),
        evaluation=EvaluationRow(
            evaluation_id=identity,
            model_sha256=sha,
            architecture_id=architecture,
            dataset_id=dataset_id,
            attack_id=attack_id,
            preprocessing={"mean": [mean], "std": [0.5]},
            n_requested=n,
            subset_digest=f"{first} {n}",
            examples=list(range(first, first + n)),
            device="cpu",
            precision="float32",
            software_version="0.1.0",
            torch_version="2.10",
            engine_revision=1,
        ),
        force=force,
    )
    judged = n if done is None else done
    correct = n if clean is None else clean
    table = pa.table(
        {
            "example": list(range(first, first + judged)),
            "label": [0] * judged,
            "clean_prediction": [0 if i < correct else 1 for i in range(judged)],
            "adversarial_prediction": [0 if i < robust else 1 for i in range(judged)],
            "clean_correct": [i < correct for i in range(judged)],
            "robust": [i < robust for i in range(judged)],
            "broken_at_step": pa.nulls(judged, pa.int32()),
            "broken_at_restart": pa.nulls(judged, pa.int32()),
            "distance": [0.01] * judged,
            "clean_margin": [1.0] * judged,
            "margin": [1.0] * judged,
            "forwards": [2] * judged,
            "backwards": [1] * judged,
            "zero_gradient_steps": [0] * judged,
        }
    ).cast(pa.schema([f for f in outcome_schema() if f.name in _WRITTEN]))
    append_outcomes(store, opened.evaluation_id, table, seconds=1.0)
    if done is None:
        finish_evaluation(store, opened.evaluation_id, status="complete")
    return identity


_WRITTEN = {
    "example", "label", "clean_prediction", "adversarial_prediction", "clean_correct", "robust", "broken_at_step",
    "broken_at_restart", "distance", "clean_margin", "margin", "forwards", "backwards", "zero_gradient_steps",
}  # fmt: skip


def add_groups(store: Store, groups: Mapping[str, Sequence[int]], **usual: Any) -> dict[str, list[str]]:
    """An architecture for every number of robust examples; returns the identities by group."""
    return {
        group: [add(store, f"{NAMES[group]}-{i}", group, k, **usual) for i, k in enumerate(values)]
        for group, values in groups.items()
    }
