"""What the store is told about an evaluation: the nouns of the models room as rows of the store room."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

from models.architectures import registry as architectures
from models.architectures.registry import Architecture
from models.datasets.registry import Dataset, Examples, subset_digest
from models.ensembles import composition
from models.specs import ArchitectureSpec, AttackSpec, EvaluationSpec
from models.weights.catalogue import WeightsRecord
from store.results import ArchitectureRow, AttackRow, DatasetRow, EvaluationRow, MemberRow, ModelRow

if TYPE_CHECKING:
    import pyarrow as pa

    from models.attacks.slots import Outcome


def software_version() -> str:
    """The version of this distribution."""
    return metadata.version("nasrob-tui")


def architecture_row(spec: ArchitectureSpec, family: str | None = None) -> ArchitectureRow:
    """`family` is what a person says of a network of theirs; the registry's otherwise."""
    entry = architectures.find(spec.name)
    return ArchitectureRow(
        architecture_id=spec.canonical,
        name=spec.name,
        family=family or entry.family,
        lineage=entry.lineage,
        options=dict(spec.options),
        genotype=_definition(entry),
        description=entry.description,
        source=entry.source,
    )


def _definition(entry: Architecture) -> dict[str, Any] | None:
    """What a search found: a genotype as it is, anything else with the name of its space."""
    if entry.definition is None:
        return None
    return entry.definition.data if entry.definition.space == "darts" else entry.definition.to_dict()


def dataset_row(dataset: Dataset, examples: Examples) -> DatasetRow:
    return DatasetRow(
        dataset_id=examples.identifier,
        name=dataset.name,
        split=examples.split,
        n_examples=len(examples),
        n_classes=dataset.n_classes,
        image_shape="x".join(map(str, dataset.image_shape)),
        fingerprint=examples.fingerprint,
        source=dataset.source,
        license=dataset.license,
    )


def model_row(
    spec: ArchitectureSpec,
    dataset: Dataset,
    sha256: str,
    path: str,
    record: WeightsRecord | None,
    counts: tuple[int, int | None],
) -> ModelRow:
    """`counts` are parameters and, where they could be counted, multiply-adds."""
    params, macs = counts
    return ModelRow(
        model_sha256=sha256,
        architecture_id=spec.canonical,
        trained_on=record.dataset if record else dataset.name,
        n_classes=dataset.n_classes,
        params=params,
        macs=macs,
        origin=record.origin if record else "imported",
        weights_path=path,
        recipe=record.recipe if record else None,
        train_seed=record.seed if record else None,
        clean_accuracy_recorded=record.clean_accuracy if record else None,
        label=f"{spec.name} seed {record.seed}" if record and record.seed is not None else f"{spec.name} {sha256[:8]}",
        created_at=datetime.fromisoformat(record.created_at) if record and record.created_at else None,
        combine=composition.of(spec).combine if composition.is_ensemble(spec.name) else None,
        members=[
            MemberRow(architecture_id=member["architecture"], model_sha256=member["sha256"])
            for member in (record.members if record and record.members else [])
        ],
    )


def attack_row(spec: AttackSpec) -> AttackRow:
    return AttackRow(
        attack_id=spec.identity,
        name=spec.name,
        norm=spec.norm,
        eps_text=spec.eps.text,
        eps=spec.eps.value,
        step_size=spec.step_size.value if spec.step_size else None,
        steps=spec.steps,
        restarts=spec.restarts,
        random_start=spec.random_start,
        loss=spec.loss,
        seed=spec.seed,
        threat_space=spec.threat_space,
        verdict=spec.verdict,
        config=spec.to_dict(),
    )


def evaluation_row(
    spec: EvaluationSpec,
    architecture_id: str,
    dataset_id: str,
    indices: Sequence[int],
    *,
    device: str,
    job: int | None,
) -> EvaluationRow:
    import numpy as np

    return EvaluationRow(
        evaluation_id=spec.identity,
        model_sha256=spec.model_sha256,
        architecture_id=architecture_id,
        dataset_id=dataset_id,
        attack_id=spec.attack.identity,
        preprocessing=asdict(spec.preprocessing),
        n_requested=len(indices),
        subset_digest=subset_digest(np.asarray(indices, dtype=np.int64)),
        examples=indices,
        device=device,
        precision=spec.precision,
        software_version=software_version(),
        torch_version=metadata.version("torch"),
        engine_revision=spec.engine_revision,
        hostname=platform.node() or None,
        job_id=str(job) if job is not None else None,
    )


def outcome_table(outcomes: Sequence[Outcome]) -> pa.Table:
    """Outcomes as the store takes them."""
    import pyarrow as pa

    from store.results import outcome_schema

    schema = outcome_schema()
    return pa.table({name: [getattr(o, name) for o in outcomes] for name in schema.names}, schema=schema)


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
