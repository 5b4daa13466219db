"""Typed reading of results. Every function is one short, read-only visit to the store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from store.errors import EvaluationNotFound
from store.rows import SurvivalRow

if TYPE_CHECKING:
    import pyarrow as pa

    from store.connection import Store


def outcome_schema() -> pa.Schema:
    """Columns and types of a batch of outcomes: those of the table `outcomes` but for the evaluation's identity."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("example", pa.int32(), nullable=False),
            pa.field("label", pa.int32(), nullable=False),
            pa.field("clean_prediction", pa.int32()),
            pa.field("adversarial_prediction", pa.int32()),
            pa.field("clean_correct", pa.bool_(), nullable=False),
            pa.field("robust", pa.bool_()),
            pa.field("broken_at_step", pa.int32()),
            pa.field("broken_at_restart", pa.int32()),
            pa.field("distance", pa.float64()),
            pa.field("clean_margin", pa.float32()),
            pa.field("margin", pa.float32()),
            pa.field("forwards", pa.int32(), nullable=False),
            pa.field("backwards", pa.int32(), nullable=False),
            pa.field("zero_gradient_steps", pa.int32(), nullable=False),
            pa.field("error", pa.string()),
            pa.field("clean_rank", pa.int32()),
            pa.field("rank", pa.int32()),
            pa.field("stage", pa.string()),
        ]
    )


def evaluation_rows(store: Store, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the view `measured` for these evaluations, in the order asked, ready for JSON.

    The columns are those of `tradeoff`, so that a re-run that is not finished can be shown too (`staging` is true).
    `attack` is the whole configuration and `attack_name` its name; times are ISO 8601 in UTC. Raises
    `EvaluationNotFound` for an identity that is not there.
    """
    if not ids:
        return []
    with store.read() as con:
        table = con.sql(
            f"""
            SELECT t.* REPLACE (k.config AS attack), t.attack AS attack_name, e.preprocessing,
                e.finished_at, e.hostname, d.n_classes
            FROM measured AS t
            JOIN evaluations AS e USING (evaluation_id)
            JOIN attacks AS k ON k.attack_id = e.attack_id
            LEFT JOIN datasets AS d ON d.dataset_id = e.dataset_id
            WHERE t.evaluation_id IN ({", ".join("?" * len(ids))})
            """,
            params=list(ids),
        ).to_arrow_table()
    found = {row["evaluation_id"]: _json_ready(row) for row in table.to_pylist()}
    for evaluation_id in ids:
        if evaluation_id not in found:
            raise no_such_evaluation(store, evaluation_id)
    return [found[evaluation_id] for evaluation_id in ids]


def outcomes(store: Store, evaluation_id: str) -> pa.Table:
    """The stored outcomes of one evaluation in the order of the dataset, with the columns of `outcome_schema`."""
    with store.read() as con:
        table = con.sql(
            f"SELECT {', '.join(outcome_schema().names)} FROM outcomes WHERE evaluation_id = ? ORDER BY example",
            params=[evaluation_id],
        ).to_arrow_table()
    return table.cast(outcome_schema())


def find_evaluation(store: Store, id_prefix: str) -> str:
    """The one evaluation whose identity starts with `id_prefix`. Raises `EvaluationNotFound` for none or several."""
    with store.read() as con:
        rows = con.execute(
            "SELECT evaluation_id FROM evaluations WHERE NOT staging AND starts_with(evaluation_id, ?) "
            "ORDER BY evaluation_id LIMIT 4",
            [id_prefix],
        ).fetchall()
    if not rows:
        raise no_such_evaluation(store, id_prefix)
    if len(rows) > 1 and id_prefix not in (row[0] for row in rows):
        some = ", ".join(row[0] for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
        raise EvaluationNotFound(f"{id_prefix!r} is the beginning of several evaluations ({some}): give more of it.")
    return id_prefix if len(rows) > 1 else str(rows[0][0])


def no_such_evaluation(store: Store, evaluation_id: str) -> EvaluationNotFound:
    """The refusal for an identity that the store does not hold."""
    return EvaluationNotFound(
        f"there is no evaluation {evaluation_id!r} in {store.path}: "
        'nasrob-tui sql "SELECT evaluation_id FROM tradeoff" lists those there are.'
    )


def _json_ready(row: dict[str, Any]) -> dict[str, Any]:
    for name in ("attack", "preprocessing"):
        row[name] = json.loads(row[name])
    return {
        name: value.isoformat(timespec="milliseconds") + "Z" if isinstance(value, datetime) else value
        for name, value in row.items()
    }


def survivals(store: Store, evaluation_id: str) -> dict[int, SurvivalRow]:
    """The examples of an unfinished cascade that have survived stages of it, by example."""
    with store.read() as con:
        rows = con.execute(
            """
            SELECT DISTINCT ON (example)
                example, stages, forwards, backwards, zero_gradient_steps, margin
            FROM survivals WHERE evaluation_id = ? ORDER BY example, stages DESC
            """,
            [evaluation_id],
        ).fetchall()
    names = ("example", "stages", "forwards", "backwards", "zero_gradient_steps", "margin")
    return {row[0]: SurvivalRow(**dict(zip(names, row, strict=True))) for row in rows}


def has_model(store: Store, model_sha256: str, architecture_id: str) -> bool:
    """Whether a model is recorded."""
    with store.read() as con:
        found = con.execute(
            "SELECT 1 FROM models WHERE model_sha256 = ? AND architecture_id = ?", [model_sha256, architecture_id]
        ).fetchone()
    return found is not None


def status_of(store: Store, evaluation_id: str) -> str | None:
    """The status of an evaluation; None when there is none of that identity."""
    with store.read() as con:
        row = con.execute("SELECT status FROM evaluations WHERE evaluation_id = ?", [evaluation_id]).fetchone()
    return row[0] if row else None
