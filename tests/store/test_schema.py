"""Nothing in the schema goes without an explanation, and what the tables say is what the code writes."""

from __future__ import annotations

import pytest

from store import SchemaObject, Store, describe
from store.results import outcome_schema


@pytest.fixture(scope="module")
def schema() -> list[SchemaObject]:
    return describe()


def test_everything_has_a_comment(schema: list[SchemaObject]) -> None:
    silent = [o.name for o in schema if not o.comment]
    silent += [f"{o.name}.{c.name}" for o in schema for c in o.columns if not c.comment]
    assert silent == []


def test_comments_are_sentences_on_one_line(schema: list[SchemaObject]) -> None:
    for item in schema:
        for comment in (item.comment, *(c.comment for c in item.columns)):
            assert comment.endswith("."), comment
            assert comment.strip() == comment
            assert "\n" not in comment


def test_what_there_is(schema: list[SchemaObject]) -> None:
    names = {kind: [o.name for o in schema if o.kind == kind] for kind in ("table", "view", "macro", "table macro")}
    assert names["view"] == [
        "contradictions",
        "ensemble_results",
        "ensembles",
        "measured",
        "member_evaluations",
        "published",
        "tradeoff",
        "transfers",
    ]
    assert {"hrs", "pp_hrs", "wilson_low", "wilson_high", "accuracy"} <= set(names["macro"])
    assert {"paired", "paired_bootstrap", "worst_case", "accuracy_by_step"} <= set(names["table macro"])
    assert {"architectures", "datasets", "models", "attacks", "evaluations", "outcomes"} <= set(names["table"])
    macros = {o.name: o.parameters for o in schema if o.kind == "macro"}
    assert macros["hrs"] == ("c", "p")
    assert macros["pp_hrs"] == ("c", "p", "params", "baseline_params")


def test_outcomes_have_the_columns_that_are_written(schema: list[SchemaObject]) -> None:
    (table,) = (o for o in schema if o.name == "outcomes")
    assert [c.name for c in table.columns] == ["evaluation_id", *outcome_schema().names]


def test_a_store_holds_the_same_schema(schema: list[SchemaObject], store: Store) -> None:
    with store.read() as con:
        columns = con.execute(
            "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal"
        ).fetchall()
    assert set(columns) == {(o.name, c.name, c.type, c.comment) for o in schema for c in o.columns}
