"""Ensembles in the store: what is written, and figures against ones counted by hand, numpy and scipy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from store import Mirror, Store
from store.connection import memory
from store.migrate import migrate
from store.results import (
    MemberRow,
    ModelRow,
    gradient_cosine_schema,
    open_evaluation,
    record_model,
    save_gradient_cosines,
)
from tests.store.rows import architecture, model, request

WHOLE = ("whole-sha", "pair@cells=5")
MEMBERS = tuple((f"sha-{i}", f"net-{i}@layers={i}") for i in range(3))
DATASET = "digits/test#12345678"


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    con = memory()
    migrate(con, where="in memory")
    yield con
    con.close()


@pytest.fixture
def con(database: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """A store in memory with an ensemble of three members and the attack pgd-1; changes are taken back."""
    database.execute("BEGIN")
    put_ensemble(database)
    yield database
    database.execute("ROLLBACK")


def put_ensemble(con: duckdb.DuckDBPyConnection, members: Sequence[tuple[str, str]] = MEMBERS) -> None:
    con.execute(
        "INSERT INTO models BY NAME SELECT ? AS model_sha256, ? AS architecture_id, 'digits' AS trained_on, "
        "10 AS n_classes, 1000 AS params, 'trained' AS origin, 'w' AS weights_path, 'a pair' AS label, "
        "'mean-logits' AS combine, now()::TIMESTAMP AS recorded_at",
        WHOLE,
    )
    con.executemany(
        "INSERT INTO ensemble_members VALUES (?, ?, ?, ?, ?)",
        [[*WHOLE, i, *member] for i, member in enumerate(members)],
    )
    put_attack(con, "pgd-1")


def put_attack(con: duckdb.DuckDBPyConnection, attack_id: str, *, verdict: str = "worst", **config: Any) -> None:
    con.execute(
        "INSERT INTO attacks SELECT ?, 'pgd', 'Linf', '8/255', 8 / 255, 2 / 255, 10, 1, true, 'ce', 0, 'pixel', ?, ?, "
        "now()::TIMESTAMP",
        [attack_id, verdict, json.dumps({"name": "pgd"} | config)],
    )


def put(
    con: duckdb.DuckDBPyConnection,
    evaluation_id: str,
    of: tuple[str, str],
    marks: str,
    *,
    attack: str = "pgd-1",
    subset: str = "all",
    status: str = "complete",
    dataset: str = DATASET,
    **changes: Any,
) -> None:
    """An evaluation with an outcome a mark: `+` robust, `-` broken, `x` wrong without attack, `?` an error."""
    n, errors = len(marks), marks.count("?")
    row = {
        "evaluation_id": evaluation_id,
        "model_sha256": of[0],
        "architecture_id": of[1],
        "dataset_id": dataset,
        "attack_id": attack,
        "preprocessing": "{}",
        "n_requested": n if status == "complete" else n + 1,
        "subset_digest": subset,
        "status": status,
        "n_done": n,
        "n_counted": n,
        "n_errors": errors,
        "n_clean_correct": n - errors - marks.count("x"),
        "n_robust": marks.count("+"),
        "warnings": [],
        "device": "cpu",
        "precision": "float32",
        "software_version": "0.1",
        "torch_version": "2.9",
        "engine_revision": 1,
        "started_at": "2026-01-01",
        "updated_at": "2026-01-01",
    } | changes
    names = ", ".join(f'? AS "{name}"' for name in row)
    con.execute(f"INSERT INTO evaluations BY NAME SELECT {names}", list(row.values()))
    con.execute("INSERT OR IGNORE INTO subsets VALUES (?, range(?))", [subset, row["n_requested"]])
    if marks:
        outcomes = [
            {
                "evaluation_id": evaluation_id,
                "example": i,
                "label": i % 3,
                "clean_prediction": None if mark == "?" else (i + (mark == "x")) % 3,
                "adversarial_prediction": None if mark == "?" else (i + (mark != "+")) % 3,
                "clean_correct": mark in "+-",
                "robust": None if mark == "?" else mark == "+",
                "forwards": 1,
                "backwards": 1,
                "zero_gradient_steps": 0,
                "error": "non-finite logits" if mark == "?" else None,
            }
            for i, mark in enumerate(marks)
        ]
        con.register("given", pa.Table.from_pylist(outcomes))
        con.execute("INSERT INTO outcomes BY NAME FROM given")
        con.unregister("given")


def rows(con: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    return con.sql(sql).to_arrow_table().to_pylist()  # type: ignore[no-any-return]


def one(con: duckdb.DuckDBPyConnection, sql: str) -> dict[str, Any]:
    (row,) = rows(con, sql)
    return row


def wilson(k: int, n: int) -> tuple[float, float]:
    z = norm.ppf(0.975)
    centre, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * np.sqrt(k * (n - k) / n + z * z / 4)
    return 100 * (centre - half), 100 * (centre + half)


FIGURES = (
    "n_examples",
    "whole",
    "best_member",
    "mean_member",
    "oracle",
    "lost_by_all",
    "gain_over_best",
    "gain_over_mean",
    "p_value",
    "best_position",
)


class TestWriting:
    @staticmethod
    def ensemble(*members: str, **changes: Any) -> ModelRow:
        given: dict[str, Any] = {
            "combine": "mean-probs",
            "members": tuple(MemberRow(architecture_id=f"net@n={m}", model_sha256=m) for m in members),
        }
        return model("e" * 64, **(given | changes))

    @staticmethod
    def stored(store: Store) -> list[tuple[Any, ...]]:
        with store.read() as con:
            return con.execute(
                "SELECT combine, position, member_sha256, member_architecture_id FROM ensemble_members "
                "JOIN models USING (model_sha256, architecture_id) ORDER BY position"
            ).fetchall()

    def test_members_are_kept_in_their_order(self, store: Store) -> None:
        record_model(store, architecture(family="ensemble"), self.ensemble("b", "a", "b"))
        expected = [("mean-probs", i, sha, f"net@n={sha}") for i, sha in enumerate("bab")]
        assert self.stored(store) == expected
        record_model(store, architecture(family="ensemble"), self.ensemble("b", "a", "b"))
        record_model(store, architecture(family="ensemble"), self.ensemble(combine=None))
        assert self.stored(store) == expected, "what says nothing of members takes none away"

    def test_the_latest_members_count(self, store: Store) -> None:
        record_model(store, architecture(), self.ensemble("a", "b", "c"))
        record_model(store, architecture(), self.ensemble("c", "d"))
        assert [row[2] for row in self.stored(store)] == ["c", "d"]

    def test_opening_an_evaluation_writes_them_too(self, store: Store) -> None:
        asked = request(model_sha256="e" * 64)
        asked["model"] = self.ensemble("a", "b")
        open_evaluation(store, **asked)
        open_evaluation(store, **asked)
        assert [row[2] for row in self.stored(store)] == ["a", "b"]

    def test_a_model_of_before_is_completed(self, store: Store) -> None:
        record_model(store, architecture(), self.ensemble(combine=None))
        record_model(store, architecture(), self.ensemble("a"))
        assert self.stored(store) == [("mean-probs", 0, "a", "net@n=a")]

    def test_members_without_a_way_to_combine_them_are_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="2 members"):
            record_model(store, architecture(), self.ensemble("a", "b", combine=None))
        asked = request(model_sha256="e" * 64)
        asked["model"] = self.ensemble("a", combine=None)
        with pytest.raises(ValueError, match="1 members"):
            open_evaluation(store, **asked)
        with store.read() as con:
            assert con.execute("SELECT count(*) FROM models").fetchall() == [(0,)]

    def test_the_mirror_knows_ensembles(self, store: Store) -> None:
        record_model(store, architecture(name="pair"), self.ensemble("a", "b", architecture_id="pair@layers=5"))
        mirror = Mirror(store)
        mirror.refresh()
        found = mirror.query("SELECT architecture, combine, n_members FROM ensembles").to_pylist()
        assert found == [{"architecture": "pair", "combine": "mean-probs", "n_members": 2}]
        for view in ("ensemble_results", "transfers", "member_evaluations"):
            assert mirror.query(f"FROM {view}").num_rows == 0


class TestCosinesWritten:
    @staticmethod
    def batch(*found: tuple[int, str, str, float | None]) -> pa.Table:
        names = ("example", "model_sha256_a", "model_sha256_b", "cosine")
        return pa.Table.from_pylist(
            [
                dict(zip(names, row, strict=True))
                | {"dataset_id": DATASET, "architecture_id_a": "net", "architecture_id_b": "net"}
                for row in found
            ],
            schema=gradient_cosine_schema(),
        )

    @staticmethod
    def stored(store: Store) -> list[tuple[Any, ...]]:
        with store.read() as con:
            return con.execute(
                "SELECT example, model_sha256_a, model_sha256_b, cosine FROM gradient_cosines ORDER BY ALL"
            ).fetchall()

    def test_a_pair_is_kept_once_whichever_comes_first(self, store: Store) -> None:
        table = self.batch((0, "b", "a", 0.5), (1, "a", "b", None), (1, "b", "a", 0.25), (2, "a", "b", float("nan")))
        assert save_gradient_cosines(store, table.slice(0, 2)) == 2
        assert save_gradient_cosines(store, table) == 1
        assert save_gradient_cosines(store, table) == 0
        assert self.stored(store) == [(0, "a", "b", 0.5), (1, "a", "b", None), (2, "a", "b", None)]

    def test_rounding_is_taken_off_and_nonsense_refused(self, store: Store) -> None:
        save_gradient_cosines(store, self.batch((0, "a", "b", 1.0000002), (1, "a", "b", -1.0000002)))
        assert [row[3] for row in self.stored(store)] == [1, -1]
        with pytest.raises(ValueError, match="1 of 2 gradient cosines"):
            save_gradient_cosines(store, self.batch((2, "a", "b", 0.1), (3, "a", "b", 1.5)))
        assert len(self.stored(store)) == 2
        with pytest.raises(ValueError, match="batch of gradient cosines lacks"):
            save_gradient_cosines(store, self.batch().drop_columns(["example"]))
        assert save_gradient_cosines(store, self.batch()) == 0


class TestParts:
    def test_the_whole_and_every_member(self, con: duckdb.DuckDBPyConnection) -> None:
        put(con, "w", WHOLE, "++++++--x?")
        put(con, "m0", MEMBERS[0], "+++---xx??")
        put(con, "m2", MEMBERS[2], "----------")
        con.execute(
            "INSERT INTO architectures VALUES (?, 'net zero', 'nas', 'net', '{}', NULL, '', '', now()::TIMESTAMP)",
            [MEMBERS[0][1]],
        )
        whole, first, second, third = rows(con, "FROM ensemble_parts('w')")
        assert whole == {
            "part": "whole",
            "position": None,
            "architecture": "pair",
            "architecture_id": WHOLE[1],
            "model_sha256": WHOLE[0],
            "evaluation_id": "w",
            "clean_accuracy": pytest.approx(100 * 8 / 9),
            "robust_accuracy": pytest.approx(100 * 6 / 9),
            "low": pytest.approx(wilson(6, 9)[0]),
            "high": pytest.approx(wilson(6, 9)[1]),
        }
        assert (first["part"], first["position"], first["architecture"]) == ("0", 0, "net zero")
        assert (first["clean_accuracy"], first["robust_accuracy"]) == (75, 37.5)
        assert (second["model_sha256"], second["evaluation_id"]) == (MEMBERS[1][0], None)
        assert [second[name] for name in ("clean_accuracy", "robust_accuracy", "low", "high")] == [None] * 4
        assert (third["evaluation_id"], third["robust_accuracy"], third["low"]) == ("m2", 0, 0)

    def test_only_the_same_question_of_the_same_model_counts(self, con: duckdb.DuckDBPyConnection) -> None:
        put_attack(con, "pgd-2")
        put(con, "w", WHOLE, "++")
        put(con, "other attack", MEMBERS[0], "++", attack="pgd-2")
        put(con, "other subset", MEMBERS[0], "++", subset="some")
        put(con, "other data", MEMBERS[0], "++", dataset="cifar10/test#1")
        put(con, "other architecture", (MEMBERS[0][0], "net@relu=false"), "++")
        put(con, "partial", MEMBERS[0], "++", status="partial")
        put(con, "staging", MEMBERS[0], "++", staging=True)
        assert [row["evaluation_id"] for row in rows(con, "FROM ensemble_parts('w')")] == ["w", None, None, None]
        put(con, "m0", MEMBERS[0], "+-")
        assert rows(con, "FROM ensemble_parts('w')")[1]["evaluation_id"] == "m0"

    def test_of_several_the_one_most_like_the_whole(self, con: duckdb.DuckDBPyConnection) -> None:
        like: dict[str, Any] = {"preprocessing": '{"mean": 1}', "engine_revision": 2}
        put(con, "w", WHOLE, "++", **like)
        put(con, "later", MEMBERS[0], "+-", engine_revision=2, updated_at="2026-02-01")
        put(con, "newer", MEMBERS[0], "+-", preprocessing='{"mean": 1}', engine_revision=3)
        put(con, "alike", MEMBERS[0], "+-", **like)
        assert rows(con, "FROM ensemble_parts('w')")[1]["evaluation_id"] == "alike"
        assert len(rows(con, "FROM ensemble_parts('w')")) == 4

    def test_a_member_in_another_precision_gives_way(self, con: duckdb.DuckDBPyConnection) -> None:
        put(con, "w", WHOLE, "++")
        put(con, "m0", MEMBERS[0], "+-")
        put(con, "m0 later", MEMBERS[0], "--", precision="bf16", updated_at="2026-02-01")
        put(con, "m1 later", MEMBERS[1], "--", precision="bf16", updated_at="2026-02-01")
        assert [row["evaluation_id"] for row in rows(con, "FROM ensemble_parts('w')")] == ["w", "m0", "m1 later", None]
        put(con, "w fast", WHOLE, "++", precision="bf16")
        assert rows(con, "FROM ensemble_parts('w fast')")[1]["evaluation_id"] == "m0 later"

    def test_an_incomplete_whole_has_no_figures(self, con: duckdb.DuckDBPyConnection) -> None:
        put(con, "w", WHOLE, "--", status="running")
        put(con, "m0", MEMBERS[0], "+-+")
        whole, first, *_ = rows(con, "FROM ensemble_parts('w')")
        assert (whole["evaluation_id"], whole["robust_accuracy"], whole["low"]) == ("w", None, None)
        assert first["evaluation_id"] == "m0"

    @pytest.mark.parametrize(
        "macro",
        [
            "ensemble_parts",
            "ensemble_summary",
            "ensemble_agreement",
            "transfer_matrix",
            "member_cosines",
            "lost_by_all",
        ],
    )
    def test_no_rows_for_a_single_network(self, con: duckdb.DuckDBPyConnection, macro: str) -> None:
        put(con, "m0", MEMBERS[0], "+-")
        assert rows(con, f"FROM {macro}('m0')") == []
        assert rows(con, f"FROM {macro}('nobody')") == []


class TestSummary:
    def test_by_hand(self, con: duckdb.DuckDBPyConnection) -> None:
        put(con, "w", WHOLE, "+++++++---x?")
        put(con, "m0", MEMBERS[0], "+++-----+-x+")
        put(con, "m1", MEMBERS[1], "---++---+--+")
        put(con, "m2", MEMBERS[2], "?--++-------")
        # Without an error everywhere: examples 1 to 10. Whole 1-6; members 1,2,8 | 3,4,8 | 3,4; lost 5,6,7,9,10.
        found = one(con, "FROM ensemble_summary('w')")
        assert found == {
            "n_members": 3,
            "n_measured": 3,
            "n_examples": 10,
            "whole": 60,
            "best_member": 30,
            "mean_member": pytest.approx(80 / 3),
            "oracle": 50,
            "lost_by_all": 5,
            "gain_over_best": 30,
            "gain_over_mean": pytest.approx(100 / 3),
            # Only the whole: 3-6. Only member 0, the first of the two best: 8.
            "p_value": pytest.approx(binomtest(1, 5).pvalue),
            "best_position": 0,
        }
        lost = rows(con, "FROM lost_by_all('w')")
        assert [row["example"] for row in lost] == [5, 6, 7, 9, 10]
        assert lost[0] == {
            "example": 5,
            "label": 2,
            "whole_robust": True,
            "whole_prediction": 2,
            "n_clean_correct": 3,
            "member_predictions": [0, 0, 0],
        }
        assert (lost[-1]["whole_robust"], lost[-1]["n_clean_correct"]) == (False, 2)

    def test_a_member_may_be_there_twice(self, database: duckdb.DuckDBPyConnection) -> None:
        database.execute("BEGIN")
        try:
            put_ensemble(database, [MEMBERS[0], MEMBERS[0]])
            put(database, "w", WHOLE, "+-+-")
            put(database, "m0", MEMBERS[0], "++--")
            found = one(database, "FROM ensemble_summary('w')")
            assert (found["n_measured"], found["mean_member"], found["oracle"]) == (2, 50, 50)
            (pair,) = rows(database, "FROM ensemble_agreement('w')")
            assert (pair["same_verdict"], pair["both_robust"]) == (100, 2)
            matrix = rows(
                database, "SELECT evaluation_id FROM transfer_matrix('w') WHERE source = '0' AND target = '1'"
            )
            assert matrix == [{"evaluation_id": "m0"}]
        finally:
            database.execute("ROLLBACK")

    def test_until_every_member_is_measured_only_the_whole_has_figures(self, con: duckdb.DuckDBPyConnection) -> None:
        put(con, "w", WHOLE, "++-")
        put(con, "m0", MEMBERS[0], "+--")
        put(con, "m1", MEMBERS[1], "+--")
        found = one(con, "FROM ensemble_summary('w')")
        assert (found["n_members"], found["n_measured"], found["n_examples"]) == (3, 2, 3)
        assert found["whole"] == pytest.approx(200 / 3)
        assert [found[name] for name in FIGURES[2:]] == [None] * 8
        assert rows(con, "FROM lost_by_all('w')") == []

    def test_no_figures_while_the_whole_is_not_complete(self, con: duckdb.DuckDBPyConnection) -> None:
        put(con, "w", WHOLE, "--", status="partial")
        for i, member in enumerate(MEMBERS):
            put(con, f"m{i}", member, "+--")
        found = one(con, "FROM ensemble_summary('w')")
        assert (found["n_members"], found["n_measured"]) == (3, 3)
        assert [found[name] for name in FIGURES] == [None] * 10
        assert rows(con, "FROM lost_by_all('w')") == []
        assert rows(con, "FROM ensemble_results") == []

    def test_no_example_without_an_error(self, con: duckdb.DuckDBPyConnection) -> None:
        put(con, "w", WHOLE, "?+")
        for i, member in enumerate(MEMBERS):
            put(con, f"m{i}", member, "+?")
        found = one(con, "FROM ensemble_summary('w')")
        assert found["n_examples"] == 0
        assert [found[name] for name in FIGURES[1:9]] == [None] * 8

    @given(
        st.integers(1, 12).flatmap(lambda n: st.lists(st.text("+-x?", min_size=n, max_size=n), min_size=4, max_size=4))
    )
    @hypothesis_settings(max_examples=20, deadline=None)
    def test_against_numpy(self, database: duckdb.DuckDBPyConnection, marks: list[str]) -> None:
        database.execute("BEGIN")
        try:
            put_ensemble(database)
            put(database, "w", WHOLE, marks[0])
            for i, member in enumerate(MEMBERS):
                put(database, f"m{i}", member, marks[i + 1])
            found = one(database, "FROM ensemble_summary('w')")
            agreement = rows(database, "FROM ensemble_agreement('w')")
            lost = rows(database, "SELECT example FROM lost_by_all('w')")
            counted = one(database, "FROM ensemble_results")
        finally:
            database.execute("ROLLBACK")
        table = np.array([list(row) for row in marks])
        verdicts = (table == "+")[:, (table != "?").all(axis=0)]
        whole, members = verdicts[0], verdicts[1:]
        n = verdicts.shape[1]
        assert found["n_examples"] == n
        if n:
            best = members.sum(axis=1).argmax()
            only_whole, only_best = (whole & ~members[best]).sum(), (members[best] & ~whole).sum()
            expected = {
                "whole": whole.mean(),
                "best_member": members[best].mean(),
                "mean_member": members.mean(),
                "oracle": members.any(axis=0).mean(),
                "gain_over_best": whole.mean() - members[best].mean(),
                "gain_over_mean": whole.mean() - members.mean(),
            }
            for name, value in expected.items():
                assert found[name] == pytest.approx(100 * value), name
            assert (found["lost_by_all"], found["best_position"]) == ((~members.any(axis=0)).sum(), best)
            untied = int(only_whole + only_best)
            assert found["p_value"] == pytest.approx(binomtest(int(only_best), untied).pvalue if untied else 1)
        assert len(lost) == (found["lost_by_all"] or 0)
        for row in agreement:
            pair = table[[row["member_a"] + 1, row["member_b"] + 1]]
            a, b = pair[:, (pair != "?").all(axis=0)]
            if not len(a):
                assert (row["n_examples"], row["same_verdict"]) == (None, None)
                continue
            both, only_a, only_b = (((a == "+") & (b == "+")), ((a == "+") & (b != "+")), ((a != "+") & (b == "+")))
            assert row["n_examples"] == len(a)
            assert row["same_verdict"] == pytest.approx(100 * ((a == "+") == (b == "+")).mean())
            # A wrong clean prediction is the same wrong one in every evaluation here.
            assert row["same_clean_prediction"] == pytest.approx(100 * ((a == "x") == (b == "x")).mean())
            assert (row["both_robust"], row["only_a_robust"], row["only_b_robust"]) == (
                both.sum(),
                only_a.sum(),
                only_b.sum(),
            )
            assert row["neither_robust"] == len(a) - (both | only_a | only_b).sum()
        if (table != "?").all():
            for name in ("whole", "best_member", "mean_member", "gain_over_best", "gain_over_mean"):
                assert counted[name] == pytest.approx(found[name]), name
        else:
            assert counted["gain_over_best"] is None

    def test_a_pair_is_listed_though_a_member_is_not_measured(self, con: duckdb.DuckDBPyConnection) -> None:
        put(con, "w", WHOLE, "++", status="running")
        put(con, "m0", MEMBERS[0], "++-")
        put(con, "m2", MEMBERS[2], "+--")
        found = rows(con, "SELECT member_a, member_b, n_examples, same_verdict FROM ensemble_agreement('w')")
        assert [tuple(row.values()) for row in found] == [
            (0, 1, None, None),
            (0, 2, 3, pytest.approx(200 / 3)),
            (1, 2, None, None),
        ]


class TestResults:
    def test_what_it_holds(self, con: duckdb.DuckDBPyConnection) -> None:
        put(con, "w", WHOLE, "+++-")
        put(con, "m0", MEMBERS[0], "++--")
        put(con, "m1", MEMBERS[1], "+---")
        put(con, "staging", WHOLE, "----", staging=True)
        found = one(con, "FROM ensemble_results")
        assert (found["evaluation_id"], found["combine"], found["attack"]) == ("w", "mean-logits", "pgd")
        assert (found["n_members"], found["n_measured"], found["whole"]) == (3, 2, 75)
        assert (found["whole_low"], found["whole_high"]) == pytest.approx(wilson(3, 4))
        assert (found["best_member"], found["mean_member"], found["gain_over_best"]) == (None, None, None)
        put(con, "m2", MEMBERS[2], "----")
        found = one(con, "FROM ensemble_results")
        assert (found["best_member"], found["mean_member"]) == (50, 25)
        assert (found["gain_over_best"], found["gain_over_mean"]) == (25, 50)

    def test_an_ensemble_whose_members_nobody_knows(self, con: duckdb.DuckDBPyConnection) -> None:
        con.execute("DELETE FROM ensemble_members")
        put(con, "w", WHOLE, "+-")
        found = one(con, "FROM ensemble_results")
        assert (found["n_members"], found["n_measured"], found["whole"], found["best_member"]) == (0, 0, 50, None)
        found = one(con, "FROM ensemble_summary('w')")
        assert (found["n_members"], found["whole"], found["oracle"], found["lost_by_all"]) == (0, 50, None, None)


def crafted_on(source: tuple[str, str]) -> dict[str, Any]:
    return {"surrogate": {"architecture": source[1], "sha256": source[0], "mean": [0.1], "std": [0.2], "weights": ""}}


class TestTransfers:
    def test_the_matrix(self, con: duckdb.DuckDBPyConnection) -> None:
        put(con, "w", WHOLE, "+++-")
        put(con, "m0", MEMBERS[0], "+--x")
        put_attack(con, "from-0", verdict="last", **crafted_on(MEMBERS[0]))
        put_attack(con, "from-0-worst", **crafted_on(MEMBERS[0]))
        put_attack(con, "from-whole", verdict="last", **crafted_on(WHOLE))
        put_attack(con, "from-2", **crafted_on(MEMBERS[2]))
        put(con, "0 to whole", WHOLE, "++-x", attack="from-0")
        put(con, "0 to whole, worst", WHOLE, "+---", attack="from-0-worst", updated_at="2026-03-01")
        put(con, "whole to 0", MEMBERS[0], "++??", attack="from-whole")
        put(con, "2 to 1", MEMBERS[1], "----", attack="from-2")
        put(con, "2 to 0", MEMBERS[0], "+---", attack="from-2", status="partial")
        put(con, "0 to 0", MEMBERS[0], "----", attack="from-0")
        matrix = {(r["source"], r["target"]): r for r in rows(con, "FROM transfer_matrix('w')")}
        assert list(matrix) == [(s, t) for s in ("whole", "0", "1", "2") for t in ("whole", "0", "1", "2")]
        found = {
            cell: (row["evaluation_id"], row["robust_accuracy"], row["attack_success_rate"])
            for cell, row in matrix.items()
            if row["evaluation_id"]
        }
        assert found == {
            ("whole", "whole"): ("w", 75, 25),
            ("0", "0"): ("m0", 25, pytest.approx(200 / 3)),
            ("0", "whole"): ("0 to whole", 50, pytest.approx(100 / 3)),
            ("whole", "0"): ("whole to 0", 100, 0),
            ("2", "1"): ("2 to 1", 0, 100),
        }
        assert matrix["1", "1"]["robust_accuracy"] is None
        assert matrix["2", "0"]["attack_success_rate"] is None

    @pytest.mark.parametrize(
        "change",
        [
            "eps = 4 / 255",
            "steps = 11",
            "step_size = 1 / 255",
            "loss = 'dlr'",
            "seed = 1",
            "restarts = 2",
            "norm = 'L2'",
            "name = 'bim'",
            "threat_space = 'normalized-clamped'",
            "random_start = false",
            """config = json_merge_patch(config, '{"settings": {"decay": 1}}')""",
        ],
    )
    def test_the_attack_is_the_same_but_for_its_source(self, con: duckdb.DuckDBPyConnection, change: str) -> None:
        put(con, "w", WHOLE, "+++-")
        put_attack(con, "from-0", verdict="last", **crafted_on(MEMBERS[0]))
        put(con, "0 to whole", WHOLE, "++--", attack="from-0")
        cell = "SELECT evaluation_id FROM transfer_matrix('w') WHERE source = '0' AND target = 'whole'"
        assert one(con, cell)["evaluation_id"] == "0 to whole"
        con.execute(f"UPDATE attacks SET {change} WHERE attack_id = 'from-0'")
        assert one(con, cell)["evaluation_id"] is None
        assert len(rows(con, "FROM transfers")) == 1

    def test_other_examples_are_another_question(self, con: duckdb.DuckDBPyConnection) -> None:
        put(con, "w", WHOLE, "+++-")
        put_attack(con, "from-0", verdict="last", **crafted_on(MEMBERS[0]))
        put(con, "some", WHOLE, "++--", attack="from-0", subset="some")
        put(con, "other data", WHOLE, "++--", attack="from-0", dataset="svhn/test#1")
        assert {r["evaluation_id"] for r in rows(con, "FROM transfer_matrix('w')")} == {"w", None}

    def test_one_in_another_precision_gives_way(self, con: duckdb.DuckDBPyConnection) -> None:
        put(con, "w", WHOLE, "+++-")
        put_attack(con, "from-0", verdict="last", **crafted_on(MEMBERS[0]))
        put(con, "exact", WHOLE, "++--", attack="from-0")
        put(con, "fast", WHOLE, "+---", attack="from-0", precision="bf16", updated_at="2026-02-01")
        cell = "SELECT evaluation_id FROM transfer_matrix('w') WHERE source = '0' AND target = 'whole'"
        assert one(con, cell)["evaluation_id"] == "exact"

    def test_of_an_evaluation_that_is_a_transfer_itself(self, con: duckdb.DuckDBPyConnection) -> None:
        put_attack(con, "from-0", verdict="last", **crafted_on(MEMBERS[0]))
        put(con, "0 to whole", WHOLE, "++--", attack="from-0")
        found = {
            (r["source"], r["target"]): r["evaluation_id"] for r in rows(con, "FROM transfer_matrix('0 to whole')")
        }
        assert {cell: evaluation for cell, evaluation in found.items() if evaluation} == {("0", "whole"): "0 to whole"}

    def test_the_view(self, con: duckdb.DuckDBPyConnection) -> None:
        put_attack(con, "from-0", verdict="last", **crafted_on(MEMBERS[0]))
        put(con, "a", WHOLE, "++-x?", attack="from-0")
        put(con, "on itself", MEMBERS[0], "+-", attack="from-0")
        put(con, "white box", WHOLE, "+-")
        put(con, "partial", MEMBERS[1], "+-", attack="from-0", status="partial")
        put(con, "staging", MEMBERS[1], "+-", attack="from-0", staging=True)
        found = one(con, "FROM transfers")
        assert (found["source_sha256"], found["source_architecture_id"], found["source_architecture"]) == (
            *MEMBERS[0],
            "net-0",
        )
        assert (found["target_sha256"], found["target_architecture_id"], found["target_architecture"]) == (
            *WHOLE,
            "pair",
        )
        assert (found["evaluation_id"], found["attack"], found["eps"], found["verdict"]) == (
            "a",
            "pgd",
            "8/255",
            "last",
        )
        assert (found["n_examples"], found["robust_accuracy"]) == (4, 50)
        assert found["attack_success_rate"] == pytest.approx(100 / 3)


class TestMemberCosines:
    def test_against_numpy(self, con: duckdb.DuckDBPyConnection) -> None:
        put(con, "w", WHOLE, "+" * 40)
        cosines = np.random.default_rng(0).uniform(-1, 1, 40).astype(np.float32)
        cosines[7] = 0.5
        con.executemany(
            "INSERT INTO gradient_cosines VALUES (?, ?, ?, ?, ?, ?, ?)",
            [[DATASET, i, *MEMBERS[0], *MEMBERS[1], float(c)] for i, c in enumerate(cosines)]
            + [[DATASET, i, *MEMBERS[0], *MEMBERS[2], None if i else 0.25] for i in range(3)]
            # Of other examples, other data, and another network with these tensors.
            + [[DATASET, 40, *MEMBERS[0], *MEMBERS[1], 0.9], ["svhn", 0, *MEMBERS[0], *MEMBERS[1], 0.9]]
            + [[DATASET, 0, MEMBERS[0][0], "net", *MEMBERS[1], 0.9]],
        )
        first, second, third = rows(con, "FROM member_cosines('w')")
        assert first == {
            "member_a": 0,
            "member_b": 1,
            "architecture_a": "net-0",
            "architecture_b": "net-1",
            "n": 40,
            "n_zero": 0,
            "mean": pytest.approx(cosines.astype(float).mean()),
            "std": pytest.approx(cosines.astype(float).std(ddof=1)),
            "above_half": pytest.approx(100 * (cosines > 0.5).mean()),
            "below_zero": pytest.approx(100 * (cosines < 0).mean()),
        }
        assert (second["n"], second["n_zero"], second["mean"], second["std"]) == (1, 2, 0.25, None)
        assert (third["n"], third["mean"], third["above_half"]) == (0, None, None)

    def test_the_order_of_members_does_not_matter(self, database: duckdb.DuckDBPyConnection) -> None:
        database.execute("BEGIN")
        try:
            put_ensemble(database, [MEMBERS[1], MEMBERS[0]])
            put(database, "w", WHOLE, "+")
            database.execute(
                "INSERT INTO gradient_cosines VALUES (?, 0, ?, ?, ?, ?, 0.25)", [DATASET, *MEMBERS[0], *MEMBERS[1]]
            )
            assert one(database, "SELECT n, mean FROM member_cosines('w')") == {"n": 1, "mean": 0.25}
        finally:
            database.execute("ROLLBACK")


def test_a_persons_query_sees_them(store: Store) -> None:
    """On the file, and on the copy that a longer query goes on with."""
    from store import run_query

    ensemble = TestWriting.ensemble("a", "b")
    asked = request(model_sha256="e" * 64)
    asked["model"] = replace(ensemble, label="two")
    open_evaluation(store, **asked)
    sql = "SELECT part, evaluation_id FROM ensemble_parts('e1')"
    expected = [("whole", "e1"), ("0", None), ("1", None)]
    for query in (sql, f"{sql} -- read"):  # a suspicious word sends it to the copy
        found = run_query(store, query).table.to_pylist()
        assert [tuple(row.values()) for row in found] == expected
