"""Typed reading and writing of results. Every function is one short visit to the store.

This module holds the writing and shows the reading of `store.reading` too. Writers hand over one Arrow table a batch.
An outcome that is already there is never written twice, and the counts of an evaluation change in the transaction that
adds its outcomes, so the two cannot disagree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from store.batches import in_shape
from store.fetch import one
from store.gradients import gradient_cosine_schema, save_gradient_cosines
from store.reading import (
    evaluation_rows,
    find_evaluation,
    has_model,
    no_such_evaluation,
    outcome_schema,
    outcomes,
    status_of,
    survivals,
)
from store.rows import (
    ArchitectureRow,
    AttackRow,
    Counts,
    DatasetRow,
    EvaluationRow,
    FinishedEvaluation,
    MemberRow,
    ModelRow,
    OpenedEvaluation,
    Status,
    SurvivalRow,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

    from store.connection import Store

__all__ = [
    "ArchitectureRow",
    "AttackRow",
    "Counts",
    "DatasetRow",
    "EvaluationRow",
    "FinishedEvaluation",
    "MemberRow",
    "ModelRow",
    "OpenedEvaluation",
    "Status",
    "SurvivalRow",
    "append_outcomes",
    "evaluation_rows",
    "find_evaluation",
    "finish_evaluation",
    "gradient_cosine_schema",
    "has_model",
    "open_evaluation",
    "outcome_schema",
    "outcomes",
    "record_model",
    "save_gradient_cosines",
    "save_survivals",
    "status_of",
    "survivals",
]

#: An adversarial margin closer to zero than this may be decided otherwise by other hardware.
BORDERLINE_MARGIN = 1e-4

#: What the identity of a re-run adds to that of the result it will replace.
_STAGING_SUFFIX = "+rerun"

#: What identifies a row.
_KEYS = {
    "architectures": ("architecture_id",),
    "datasets": ("dataset_id",),
    "models": ("model_sha256", "architecture_id"),
    "attacks": ("attack_id",),
}

#: Columns that describe rather than identify, and follow the latest visit. The others keep what was recorded first,
#: and are filled in when that was nothing.
_FOLLOWS_LATEST = {
    "architectures": {"family", "lineage", "description", "source"},
    "datasets": {"source", "license"},
    "models": {"weights_path", "label"},
    "attacks": set[str](),
}

#: Provenance of the session that works on an evaluation.
_SESSION = ("device", "precision", "software_version", "torch_version", "engine_revision", "hostname", "job_id")

#: The counts of an evaluation as aggregates of its outcomes. Examples that break soon are done first, so verdicts are
#: counted only up to the first example that is missing: any other part of an unfinished evaluation would be biased.
#: Top-5 counts need every rank; robust ones an attack that does not stop where the top-1 class changes, be it at an
#: iterate or after a restart.
_AGGREGATES = f"""
    WITH asked AS (
        SELECT unnest(examples) AS example, generate_subscripts(examples, 1) AS position
        FROM subsets JOIN evaluations USING (subset_digest)
        WHERE evaluation_id = $id
    ),
    done AS (
        SELECT outcomes.*, position FROM outcomes LEFT JOIN asked USING (example) WHERE evaluation_id = $id
    ),
    missing AS (
        SELECT coalesce(min(position), (SELECT count(*) + 1 FROM asked)) AS first
        FROM asked ANTI JOIN done USING (example)
    ),
    marked AS (SELECT done.*, coalesce(position < first, false) AS counted FROM done, missing),
    to_the_end AS (
        SELECT verdict = 'last' AND restarts = 1
        FROM attacks JOIN evaluations USING (attack_id)
        WHERE evaluation_id = $id
    )
    SELECT
        count(*) AS n_done,
        count(*) FILTER (counted) AS n_counted,
        count(*) FILTER (counted AND clean_correct AND error IS NULL) AS n_clean_correct,
        count(*) FILTER (counted AND robust) AS n_robust,
        count(*) FILTER (counted AND error IS NOT NULL) AS n_errors,
        count(*) FILTER (counted AND abs(margin) < {BORDERLINE_MARGIN}) AS n_borderline,
        count(*) FILTER (counted AND zero_gradient_steps > 0) AS n_zero_gradient,
        coalesce(sum(forwards), 0)::BIGINT AS forwards,
        coalesce(sum(backwards), 0)::BIGINT AS backwards,
        CASE WHEN bool_and(clean_rank IS NOT NULL) FILTER (counted AND error IS NULL)
            THEN count(*) FILTER (counted AND error IS NULL AND clean_rank <= 5) END AS n_clean_top5,
        CASE WHEN (FROM to_the_end)
            AND bool_and(clean_rank IS NOT NULL AND rank IS NOT NULL) FILTER (counted AND error IS NULL)
            THEN count(*) FILTER (counted AND error IS NULL AND clean_rank <= 5 AND rank <= 5) END AS n_robust_top5
    FROM marked
"""
_COUNTS = (
    "n_done",
    "n_counted",
    "n_clean_correct",
    "n_robust",
    "n_errors",
    "n_borderline",
    "n_zero_gradient",
    "forwards",
    "backwards",
    "n_clean_top5",
    "n_robust_top5",
)


def record_model(store: Store, architecture: ArchitectureRow, model: ModelRow) -> None:
    """Remember a model and its architecture, for example after training. What was recorded before is completed.

    Raises `ValueError` when the model is of another architecture, or has members that nothing combines.
    """
    _require_same("architecture_id", model, architecture)
    _require_combined(model)
    with store.write() as con:
        _record(con, "architectures", architecture)
        _record_model(con, model)


def open_evaluation(
    store: Store,
    *,
    architecture: ArchitectureRow,
    dataset: DatasetRow,
    model: ModelRow,
    attack: AttackRow,
    evaluation: EvaluationRow,
    force: bool = False,
) -> OpenedEvaluation:
    """Begin or continue an evaluation: record what it is about, and learn which examples are done.

    A complete one is left as it is, and nothing is left to do. With `force` the work goes to a staging copy, under
    another identity, that replaces the earlier result when it is complete; an unfinished staging copy is continued.
    Raises `ValueError` when the evaluation is not of that architecture, dataset, model and attack, or the model has
    members that nothing combines.
    """
    for row in (model, evaluation):
        _require_same("architecture_id", row, architecture)
    _require_same("model_sha256", evaluation, model)
    _require_same("dataset_id", evaluation, dataset)
    _require_same("attack_id", evaluation, attack)
    _require_combined(model)
    with store.write() as con:
        _record(con, "architectures", architecture)
        _record(con, "datasets", dataset)
        _record_model(con, model)
        _record(con, "attacks", attack)
        target = evaluation.evaluation_id
        found = _status(con, target)
        staging = force and found is not None and found[1] > 0
        if staging:
            target += _STAGING_SUFFIX
            found = _status(con, target)
        if found is None:
            _insert_evaluation(con, evaluation, target, staging)
        elif found[0] != "complete":
            _continue_evaluation(con, evaluation, target)
        status: Status = "complete" if found is not None and found[0] == "complete" else "running"
        engine = one(con, "SELECT engine FROM evaluations WHERE evaluation_id = ?", [target])
        done = con.sql("SELECT example FROM outcomes WHERE evaluation_id = ? ORDER BY example", params=[target])
        return OpenedEvaluation(
            evaluation_id=target,
            status=status,
            done=done.to_arrow_table().column("example").to_pylist(),
            staging=staging,
            engine=engine[0] if engine else None,
        )


def append_outcomes(
    store: Store, evaluation_id: str, outcomes: pa.Table, *, seconds: float, engine: str | None = None
) -> Counts:
    """Store the outcomes that are not there yet, add `seconds` of work, and return the new counts.

    `engine` says how the network was computed.
    `outcomes` has the columns of `outcome_schema` (an `evaluation_id` column is ignored; nullable ones may be missing).
    An example that is stored already, or comes twice in the batch, is kept once. Raises `ValueError` for a batch of
    another shape and `EvaluationNotFound` if there is no such evaluation.
    """
    batch = _checked(outcomes)
    with store.write() as con:
        if _status(con, evaluation_id) is None:
            raise no_such_evaluation(store, evaluation_id)
        con.register("batch", batch)
        inserted = one(
            con,
            """
            INSERT INTO outcomes BY NAME
            SELECT DISTINCT ON (example) $id::TEXT AS evaluation_id, batch.*
            FROM batch
            WHERE example NOT IN (SELECT example FROM outcomes WHERE evaluation_id = $id)
            """,
            {"id": evaluation_id},
        )
        con.unregister("batch")
        con.execute(
            """
            DELETE FROM survivals
            WHERE evaluation_id = $id AND example IN (SELECT example FROM outcomes WHERE evaluation_id = $id)
            """,
            {"id": evaluation_id},
        )
        _update_counts(con, evaluation_id, seconds)
        if engine is not None:
            con.execute("UPDATE evaluations SET engine = ? WHERE evaluation_id = ?", [engine, evaluation_id])
        row = one(
            con,
            f"SELECT n_requested, {', '.join(_COUNTS)}, seconds FROM evaluations WHERE evaluation_id = ?",
            [evaluation_id],
        )
    assert inserted is not None
    assert row is not None
    return Counts(n_new=inserted[0], **dict(zip(("n_requested", *_COUNTS, "seconds"), row, strict=True)))


def save_survivals(store: Store, evaluation_id: str, found: Sequence[SurvivalRow]) -> None:
    """Note which examples have survived stages of a cascade, so that a later session goes on at the next one."""
    if not found:
        return
    with store.write() as con:
        con.executemany(
            "INSERT INTO survivals VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                [evaluation_id, s.example, s.stages, s.forwards, s.backwards, s.zero_gradient_steps, s.margin]
                for s in found
            ],
        )


def finish_evaluation(
    store: Store, evaluation_id: str, *, status: Status, warnings: Sequence[str] = (), engine: str | None = None
) -> FinishedEvaluation:
    """Record how a session ended. `warnings` are added to those that the evaluation has; `engine` says how the network
    was computed.

    An evaluation that another session completed meanwhile stays complete. A staging copy that is complete replaces the
    earlier result in the same transaction. Raises `ValueError` when `complete` is claimed and examples are missing.
    """
    with store.write() as con:
        row = one(
            con,
            "SELECT n_done, n_requested, staging, warnings FROM evaluations WHERE evaluation_id = ?",
            [evaluation_id],
        )
        if row is None:
            raise no_such_evaluation(store, evaluation_id)
        n_done, n_requested, staging, earlier = row
        if n_done == n_requested:
            status = "complete"
        elif status == "complete":
            raise ValueError(f"evaluation {evaluation_id} has {n_done} of {n_requested} examples: it is not complete")
        con.execute(
            """
            UPDATE evaluations SET status = $status, warnings = $warnings, updated_at = $now, finished_at = $now,
                engine = coalesce($engine, engine)
            WHERE evaluation_id = $id
            """,
            {
                "status": status,
                "warnings": list(dict.fromkeys([*earlier, *warnings])),
                "now": _now(),
                "engine": engine,
                "id": evaluation_id,
            },
        )
        if staging and status == "complete":
            return _replace(con, evaluation_id, evaluation_id.removesuffix(_STAGING_SUFFIX))
    return FinishedEvaluation(evaluation_id=evaluation_id, status=status)


# -- parts of a visit ----------------------------------------------------------------------------------------------


def _require_same(name: str, row: object, other: object) -> None:
    """Refuse rows about different things: a result would stand under the name of another."""
    found, wanted = getattr(row, name), getattr(other, name)
    if found != wanted:
        raise ValueError(f"the {type(row).__name__} has {name} {found!r}, the {type(other).__name__} {wanted!r}")


def _status(con: DuckDBPyConnection, evaluation_id: str) -> tuple[str, int] | None:
    """Status and number of examples done; None when there is no such evaluation."""
    row = one(con, "SELECT status, n_done FROM evaluations WHERE evaluation_id = ?", [evaluation_id])
    return (row[0], row[1]) if row else None


def _record(con: DuckDBPyConnection, table: str, row: object) -> None:
    """Insert the row, or complete the one that has its key; nothing is written when nothing changes."""
    values = _columns(row)
    names, keys = list(values), _KEYS[table]
    updates = []
    for name in names:
        if name in keys:
            continue
        kept = f"coalesce(excluded.{name}, {table}.{name})"
        updates.append(
            f"{name} = {kept if name in _FOLLOWS_LATEST[table] else f'coalesce({table}.{name}, excluded.{name})'}"
        )
    same = " AND ".join(f"{name} IS NOT DISTINCT FROM ?" for name in names)
    if one(con, f"SELECT 1 FROM {table} WHERE {same}", list(values.values())):
        return
    con.execute(
        f"INSERT INTO {table} ({', '.join(names)}, recorded_at) VALUES ({', '.join('?' * len(names))}, ?) "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {', '.join(updates)}",
        [*values.values(), _now()],
    )


def _require_combined(model: ModelRow) -> None:
    if model.members and model.combine is None:
        raise ValueError(f"model {model.model_sha256} has {len(model.members)} members, and nothing says how combined")


def _record_model(con: DuckDBPyConnection, model: ModelRow) -> None:
    """Insert or complete the model; its members are those of the latest visit that gave some."""
    _record(con, "models", model)
    if not model.members:
        return
    key = [model.model_sha256, model.architecture_id]
    given = [(i, m.model_sha256, m.architecture_id) for i, m in enumerate(model.members)]
    stored = con.execute(
        "SELECT position, member_sha256, member_architecture_id FROM ensemble_members "
        "WHERE model_sha256 = ? AND architecture_id = ? ORDER BY position",
        key,
    ).fetchall()
    if stored == given:
        return
    con.executemany(
        "INSERT OR REPLACE INTO ensemble_members BY NAME SELECT ? AS model_sha256, ? AS architecture_id, "
        "? AS position, ? AS member_sha256, ? AS member_architecture_id",
        [[*key, *row] for row in given],
    )
    con.execute(
        "DELETE FROM ensemble_members WHERE model_sha256 = ? AND architecture_id = ? AND position >= ?",
        [*key, len(given)],
    )


def _insert_evaluation(con: DuckDBPyConnection, row: EvaluationRow, target: str, staging: bool) -> None:
    if len(row.examples) != row.n_requested:
        raise ValueError(f"{row.n_requested} examples are asked for and {len(row.examples)} are listed")
    con.execute(
        "INSERT INTO subsets VALUES (?, ?) ON CONFLICT DO NOTHING", [row.subset_digest, [int(i) for i in row.examples]]
    )
    values = {name: value for name, value in _columns(row).items() if name != "examples"} | {
        "evaluation_id": target,
        "status": "running",
        "warnings": list[str](),
        "staging": staging,
        "started_at": _now(),
        "updated_at": _now(),
    }
    names = ", ".join(f'"{name}"' for name in values)
    con.execute(
        f"INSERT INTO evaluations ({names}) VALUES ({', '.join('?' * len(values))})",
        list(values.values()),
    )


def _continue_evaluation(con: DuckDBPyConnection, row: EvaluationRow, target: str) -> None:
    """Mark an unfinished evaluation as running again, by this session; say so where the session differs."""
    names = ", ".join(f'"{name}"' for name in _SESSION)
    stored = one(con, f"SELECT n_done, warnings, {names} FROM evaluations WHERE evaluation_id = ?", [target])
    assert stored is not None
    n_done, warnings, *before = stored
    now = [getattr(row, name) for name in _SESSION]
    for name, old, new in zip(_SESSION, before, now, strict=True):
        if n_done and old != new and name not in ("hostname", "job_id"):
            warnings.append(f"the first {n_done} examples were measured with {name.replace('_', ' ')} {old}, not {new}")
    updates = ", ".join(f'"{name}" = ?' for name in _SESSION)
    con.execute(
        f"UPDATE evaluations SET status = 'running', finished_at = NULL, updated_at = ?, warnings = ?, {updates} "
        "WHERE evaluation_id = ?",
        [_now(), list(dict.fromkeys(warnings)), *now, target],
    )


def _update_counts(con: DuckDBPyConnection, evaluation_id: str, seconds: float) -> None:
    """Set the counts to the aggregates of the stored outcomes, and add the time."""
    updates = ", ".join(f"{name} = totals.{name}" for name in _COUNTS)
    con.execute(
        f"""
        UPDATE evaluations SET {updates}, seconds = seconds + $seconds, updated_at = $now
        FROM ({_AGGREGATES}) AS totals
        WHERE evaluations.evaluation_id = $id
        """,
        {"seconds": seconds, "now": _now(), "id": evaluation_id},
    )


def _replace(con: DuckDBPyConnection, staging_id: str, evaluation_id: str) -> FinishedEvaluation:
    """Put a complete staging copy in the place of the earlier result, and compare the two."""
    identities = {"old": evaluation_id, "new": staging_id}
    compared = one(
        con,
        """
        SELECT count(*), count(*) FILTER (old.robust IS DISTINCT FROM new.robust)
        FROM outcomes AS old JOIN outcomes AS new USING (example)
        WHERE old.evaluation_id = $old AND new.evaluation_id = $new
        """,
        identities,
    )
    assert compared is not None
    con.execute("DELETE FROM outcomes WHERE evaluation_id = ?", [evaluation_id])
    con.execute("UPDATE outcomes SET evaluation_id = $old WHERE evaluation_id = $new", identities)
    columns = [
        f'"{name}"'
        for (name,) in con.execute(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = 'evaluations' AND NOT internal"
        ).fetchall()
        if name not in ("evaluation_id", "staging")
    ]
    con.execute(
        f"""
        UPDATE evaluations SET {", ".join(f"{name} = new.{name}" for name in columns)}
        FROM (SELECT * FROM evaluations WHERE evaluation_id = $new) AS new
        WHERE evaluations.evaluation_id = $old
        """,
        identities,
    )
    con.execute("DELETE FROM evaluations WHERE evaluation_id = ?", [staging_id])
    return FinishedEvaluation(
        evaluation_id=evaluation_id,
        status="complete",
        replaced=True,
        n_compared=compared[0],
        n_changed=compared[1],
    )


def _checked(batch: pa.Table) -> pa.Table:
    """The batch in exactly the columns and types of `outcome_schema`."""
    if "evaluation_id" in batch.column_names:
        batch = batch.drop_columns(["evaluation_id"])
    return in_shape(batch, outcome_schema(), "outcomes")


def _columns(row: object) -> dict[str, Any]:
    """The fields of a row object as values that DuckDB takes; members of an ensemble have a table of their own."""
    names = [f.name for f in fields(row) if f.name != "members"]  # type: ignore[arg-type]
    return {name: _plain(getattr(row, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, sort_keys=True, allow_nan=False)
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
    return value


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
