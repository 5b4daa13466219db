"""Writing and reading results: nothing twice, nothing lost, and counts that always equal the outcomes."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from store import EvaluationNotFound, Store, results
from store.results import (
    append_outcomes,
    evaluation_rows,
    find_evaluation,
    finish_evaluation,
    open_evaluation,
    outcome_schema,
    outcomes,
    record_model,
)
from tests.store.rows import architecture, attack, batch, dataset, evaluation, model, request


def query(store: Store, sql: str, params: object = None) -> list[tuple[Any, ...]]:
    with store.read() as con:
        return con.execute(sql, params).fetchall()


def assert_counts_equal_outcomes(store: Store, evaluation_id: str) -> None:
    """Verdicts are counted up to the first example that is missing, passes over all that are done."""
    stored = outcomes(store, evaluation_id).to_pylist()
    ((asked,),) = query(
        store,
        "SELECT examples FROM subsets JOIN evaluations USING (subset_digest) WHERE evaluation_id = ?",
        [evaluation_id],
    )
    by_example = {row["example"]: row for row in stored}
    counted = [by_example[i] for i in itertools.takewhile(by_example.__contains__, asked)]
    fresh = [row for row in counted if row["error"] is None]
    expected = (
        len(stored),
        len(counted),
        sum(row["clean_correct"] for row in fresh),
        sum(row["robust"] for row in fresh),
        len(counted) - len(fresh),
        sum(row["margin"] is not None and abs(row["margin"]) < 1e-4 for row in counted),
        sum(row["zero_gradient_steps"] > 0 for row in counted),
        sum(row["forwards"] for row in stored),
        sum(row["backwards"] for row in stored),
    )
    names = "n_done, n_counted, n_clean_correct, n_robust, n_errors, n_borderline, n_zero_gradient, forwards, backwards"
    (found,) = query(store, f"SELECT {names} FROM evaluations WHERE evaluation_id = ?", [evaluation_id])
    assert found == expected


class TestOpen:
    def test_new(self, store: Store) -> None:
        opened = open_evaluation(store, **request())
        assert opened == results.OpenedEvaluation(evaluation_id="e1", status="running", done=[], staging=False)
        for table, n in (("architectures", 1), ("datasets", 1), ("models", 1), ("attacks", 1), ("evaluations", 1)):
            assert query(store, f"SELECT count(*) FROM {table}") == [(n,)]

    def test_resuming_tells_what_is_done(self, store: Store) -> None:
        open_evaluation(store, **request())
        append_outcomes(store, "e1", batch([5, 3, 99, 0]), seconds=1)
        assert open_evaluation(store, **request()).done == [0, 3, 5, 99]

    def test_a_complete_one_is_left_alone(self, store: Store) -> None:
        open_evaluation(store, **request())
        append_outcomes(store, "e1", batch(range(100)), seconds=1)
        finish_evaluation(store, "e1", status="complete")
        before = query(store, "FROM evaluations")
        opened = open_evaluation(store, **request(device="another"))
        assert (opened.status, opened.done) == ("complete", list(range(100)))
        assert query(store, "FROM evaluations") == before

    def test_another_session_is_noted_where_it_can_matter(self, store: Store) -> None:
        open_evaluation(store, **request())
        append_outcomes(store, "e1", batch(range(10)), seconds=1)
        open_evaluation(store, **request(torch_version="3.0", hostname="elsewhere", job_id="j2"))
        (row,) = evaluation_rows(store, ["e1"])
        assert row["warnings"] == ["the first 10 examples were measured with torch version 2.9, not 3.0"]
        assert (row["torch_version"], row["hostname"], row["job_id"]) == ("3.0", "elsewhere", "j2")
        finish_evaluation(store, "e1", status="partial", warnings=["another one"])
        assert len(evaluation_rows(store, ["e1"])[0]["warnings"]) == 2

    def test_an_evaluation_that_has_not_begun_needs_no_staging(self, store: Store) -> None:
        assert not open_evaluation(store, **request(), force=True).staging
        assert not open_evaluation(store, **request(), force=True).staging


class TestRecords:
    def test_the_same_tensors_in_two_architectures_are_two_models(self, store: Store) -> None:
        record_model(store, architecture(), model(label="one"))
        record_model(store, architecture("twin"), model(architecture_id="twin@layers=5", label="two"))
        record_model(store, architecture("twin"), model(architecture_id="twin@layers=5", label="two again"))
        assert query(store, "SELECT model_sha256, architecture_id, label FROM models ORDER BY ALL") == [
            ("a" * 64, "darts@layers=5", "one"),
            ("a" * 64, "twin@layers=5", "two again"),
        ]

    @pytest.mark.parametrize(
        ("row", "changed"),
        [
            ("architecture", architecture("twin")),
            ("model", model(architecture_id="twin@layers=5")),
            ("model", model("b" * 64)),
            ("dataset", dataset(dataset_id="other/test#1")),
            ("attack", attack(attack_id="other")),
        ],
        ids=["architecture", "architecture-of-model", "tensors", "dataset", "attack"],
    )
    def test_a_result_never_stands_under_the_name_of_another(self, store: Store, row: str, changed: Any) -> None:
        with pytest.raises(ValueError, match=r"_id|_sha256"):
            open_evaluation(store, **request() | {row: changed})
        assert query(store, "SELECT count(*) FROM evaluations") == [(0,)]

    def test_a_model_of_another_architecture_is_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="architecture_id 'darts@layers=5', the ArchitectureRow 'twin@layers=5'"):
            record_model(store, architecture("twin"), model())

    def test_what_was_known_is_completed_and_never_lost(self, store: Store) -> None:
        known = model(recipe={"epochs": 3}, train_seed=7, clean_accuracy_recorded=97.5, macs=5)
        record_model(store, architecture(), known)
        record_model(store, architecture(), model(origin="imported", weights_path="/copy", label="new label"))
        columns = "recipe, train_seed, clean_accuracy_recorded, macs, origin, weights_path, label"
        assert query(store, f"SELECT {columns} FROM models") == [
            ('{"epochs": 3}', 7, 97.5, 5, "trained", "/copy", "new label")
        ]

    def test_blanks_are_filled_in(self, store: Store) -> None:
        record_model(store, architecture(), model())
        when = datetime(2026, 5, 1, 12, tzinfo=UTC)
        record_model(store, architecture(), model(train_seed=3, recipe={"lr": 0.1}, created_at=when))
        assert query(store, "SELECT train_seed, recipe->>'lr', created_at FROM models") == [
            (3, "0.1", datetime(2026, 5, 1, 12))
        ]

    def test_the_same_again_writes_nothing(self, store: Store) -> None:
        record_model(store, architecture(), model(recipe={"b": 1, "a": [1.5]}))
        before = query(store, "SELECT recorded_at FROM models UNION ALL SELECT recorded_at FROM architectures")
        record_model(store, architecture(), model(recipe={"a": [1.5], "b": 1}))
        assert query(store, "SELECT recorded_at FROM models UNION ALL SELECT recorded_at FROM architectures") == before

    def test_figures_that_are_no_numbers_are_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="JSON"):
            record_model(store, architecture(), model(recipe={"lr": float("nan")}))
        with pytest.raises(duckdb.ConstraintException):
            record_model(store, architecture(), model(clean_accuracy_recorded=-1.0))

    def test_text_comes_back_as_it_was(self, store: Store) -> None:
        strange = "[/foo] [bold]x[/] |none~0|+ 'quoted' \"double\" $1 ? ; -- \\n ünïcødé 🙂\ttab\nline"
        rows = request()
        rows["architecture"] = architecture(name=strange, description=strange, options={"genotype": strange})
        identity = rows["architecture"].architecture_id
        rows["model"] = model(architecture_id=identity, label=strange)
        rows["evaluation"] = evaluation(architecture_id=identity)
        rows["attack"] = attack(config={"note": strange})
        open_evaluation(store, **rows)
        table = batch([0, 3]).to_pylist()
        table[1]["error"] = strange
        append_outcomes(store, "e1", pa.Table.from_pylist(table, schema=outcome_schema()), seconds=1)
        finish_evaluation(store, "e1", status="partial", warnings=[strange])
        (row,) = evaluation_rows(store, ["e1"])
        assert row["architecture"] == row["model_label"] == row["attack"]["note"] == row["warnings"][0] == strange
        assert outcomes(store, "e1").column("error").to_pylist() == [None, strange]
        assert json.loads(query(store, "SELECT options FROM architectures")[0][0]) == {"genotype": strange}


class TestAppend:
    def test_counts_by_hand(self, store: Store) -> None:
        open_evaluation(store, **request())
        counts = append_outcomes(store, "e1", batch(range(20)), seconds=1.5)
        # Of 0..19, 3, 10 and 17 have no verdict; 9 and 19 are wrong without attack; even ones are robust.
        assert counts == results.Counts(
            n_new=20,
            n_requested=100,
            n_done=20,
            n_counted=20,
            n_clean_correct=15,
            n_robust=9,
            n_errors=3,
            n_borderline=1,
            n_zero_gradient=2,
            forwards=70,
            backwards=50,
            seconds=1.5,
        )
        assert_counts_equal_outcomes(store, "e1")

    def test_margins_that_are_no_numbers_are_kept_and_not_borderline(self, store: Store) -> None:
        open_evaluation(store, **request())
        assert append_outcomes(store, "e1", batch([3], margin=float("nan")), seconds=1).n_borderline == 0
        assert math.isnan(outcomes(store, "e1").column("margin").to_pylist()[0])

    def test_nothing_is_stored_twice(self, store: Store) -> None:
        open_evaluation(store, **request())
        append_outcomes(store, "e1", batch(range(10)), seconds=1)
        before = outcomes(store, "e1")
        counts = append_outcomes(store, "e1", batch(range(10), label=77), seconds=1)
        assert (counts.n_new, counts.n_done, counts.seconds) == (0, 10, 2.0)
        assert outcomes(store, "e1") == before
        twice = pa.concat_tables([batch([50, 51]), batch([50])])
        assert append_outcomes(store, "e1", twice, seconds=1).n_new == 2
        assert_counts_equal_outcomes(store, "e1")

    def test_counts_equal_outcomes_whatever_the_batches(self, store: Store) -> None:
        rng = random.Random(0)
        for name in ("e1", "e2"):
            open_evaluation(store, **request(name))
        for _ in range(6):
            name = rng.choice(["e1", "e2"])
            append_outcomes(store, name, batch(rng.sample(range(100), rng.randrange(0, 30))), seconds=0.1)
            assert_counts_equal_outcomes(store, name)
        assert query(store, "SELECT count(*) - count(DISTINCT (evaluation_id, example)) FROM outcomes") == [(0,)]

    def test_what_breaks_first_does_not_make_a_model_look_weak(self, store: Store) -> None:
        """A stream finishes its broken examples first: unfinished, it must not be judged by them."""
        open_evaluation(store, **request())
        odd = append_outcomes(store, "e1", batch(range(1, 100, 2)), seconds=1)
        assert (odd.n_done, odd.n_counted, odd.n_robust) == (50, 0, 0)
        (row,) = evaluation_rows(store, ["e1"])
        assert (row["n_examples"], row["n_done"], row["robust_accuracy"]) == (0, 50, None)
        head = append_outcomes(store, "e1", batch([0, 2, 4]), seconds=1)
        assert (head.n_done, head.n_counted, head.n_robust) == (53, 6, 3)
        (row,) = evaluation_rows(store, ["e1"])
        assert (row["n_examples"], row["robust_accuracy"]) == (6, 60.0)

    def test_a_subset_is_counted_in_its_own_order(self, store: Store) -> None:
        open_evaluation(store, **request(n_requested=4, examples=[7, 2, 90, 1], subset_digest="four"))
        assert append_outcomes(store, "e1", batch([2, 1]), seconds=1).n_counted == 0
        assert append_outcomes(store, "e1", batch([7]), seconds=1).n_counted == 2
        assert append_outcomes(store, "e1", batch([90]), seconds=1).n_counted == 4

    def test_order_and_types_of_columns_do_not_matter(self, store: Store) -> None:
        open_evaluation(store, **request())
        table = batch(range(10))
        shuffled = table.select(sorted(table.column_names, reverse=True))
        wide = shuffled.set_column(
            shuffled.column_names.index("label"), "label", shuffled.column("label").cast(pa.int64())
        ).append_column("evaluation_id", pa.array(["ignored"] * 10))
        append_outcomes(store, "e1", wide, seconds=1)
        assert outcomes(store, "e1") == table
        assert outcomes(store, "e1").schema == outcome_schema()

    def test_missing_measurements_are_empty(self, store: Store) -> None:
        open_evaluation(store, **request())
        append_outcomes(store, "e1", batch([0]).drop_columns(["distance", "margin", "error"]), seconds=1)
        assert outcomes(store, "e1").column("distance").to_pylist() == [None]

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda table: table.drop_columns(["label"]),
            lambda table: table.append_column("labels", table.column("label")),
            lambda table: table.set_column(1, "label", pa.array(["seven"])),
            lambda table: table.set_column(1, "label", pa.array([2**40])),
        ],
        ids=["missing", "unknown", "text", "overflow"],
    )
    def test_another_shape_is_refused(self, store: Store, spoil: Callable[[pa.Table], pa.Table]) -> None:
        open_evaluation(store, **request())
        with pytest.raises(ValueError, match=r"label|seven|1099511627776"):
            append_outcomes(store, "e1", spoil(batch([0])), seconds=1)
        assert query(store, "SELECT count(*) FROM outcomes") == [(0,)]

    @pytest.mark.parametrize(
        "impossible",
        [
            {"robust": True, "clean_correct": False},
            {"robust": None, "error": None},
            {"robust": False, "error": "but it has one"},
            {"robust": True, "broken_at_step": 3},
            {"example": -1},
        ],
        ids=str,
    )
    def test_impossible_outcomes_are_refused(self, store: Store, impossible: dict[str, Any]) -> None:
        open_evaluation(store, **request())
        append_outcomes(store, "e1", batch([1]), seconds=1)
        with pytest.raises(duckdb.ConstraintException):
            append_outcomes(store, "e1", batch([0], **impossible), seconds=1)
        assert_counts_equal_outcomes(store, "e1")

    def test_more_than_was_asked_for_is_refused(self, store: Store) -> None:
        open_evaluation(store, **request(n_requested=5))
        with pytest.raises(duckdb.ConstraintException):
            append_outcomes(store, "e1", batch(range(6)), seconds=1)
        assert query(store, "SELECT count(*) FROM outcomes") == [(0,)]

    def test_to_an_unknown_evaluation(self, store: Store) -> None:
        with pytest.raises(EvaluationNotFound, match="'nope'"):
            append_outcomes(store, "nope", batch([0]), seconds=1)

    def test_two_processes_on_one_evaluation(
        self, store: Store, start_python: Callable[..., subprocess.Popen[str]]
    ) -> None:
        script = """
import sys
from pathlib import Path
from store import Store
from store.results import append_outcomes, finish_evaluation, open_evaluation
from tests.store.rows import batch, request
store = Store(Path(sys.argv[1]))
opened = open_evaluation(store, **request())
sys.stdin.readline()
todo = [i for i in range(100) if i not in opened.done]
if sys.argv[2] == "backwards":
    todo.reverse()
for i in range(0, len(todo), 20):
    append_outcomes(store, opened.evaluation_id, batch(todo[i : i + 20]), seconds=0.1)
finish_evaluation(store, opened.evaluation_id, status="complete")
"""
        processes = [start_python(script, store.path, way) for way in ("forwards", "backwards")]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
        assert outcomes(store, "e1") == batch(range(100))
        assert_counts_equal_outcomes(store, "e1")
        assert query(store, "SELECT status, n_done FROM evaluations") == [("complete", 100)]


class TestTop5:
    """Clean ranks 1 to 7 and ranks 1 to 9 in turn; every seventh example has no verdict (see `batch`)."""

    @staticmethod
    def ranked(examples: Iterable[int], **changes: Any) -> pa.Table:
        rows = [
            row
            | {"clean_rank": 1 + row["example"] % 7, "rank": None if row["error"] else 1 + row["example"] % 9}
            | changes
            for row in batch(examples).to_pylist()
        ]
        return pa.Table.from_pylist(rows, schema=outcome_schema())

    @staticmethod
    def begin(store: Store, name: str = "e1", **changes: Any) -> dict[str, Any]:
        identity = f"attack of {name}"
        rows = request(name, attack_id=identity)
        rows["attack"] = attack(attack_id=identity, **({"verdict": "last"} | changes))
        open_evaluation(store, **rows)
        return rows

    def test_counts_by_hand(self, store: Store) -> None:
        self.begin(store)
        counts = append_outcomes(store, "e1", self.ranked([*range(40), *range(60, 80)]), seconds=1)
        judged = [i for i in range(40) if i % 7 != 3]  # 40 is missing: what comes after it does not count yet
        clean = [i for i in judged if i % 7 < 5]
        both = [i for i in clean if i % 9 < 5]
        assert (counts.n_counted, counts.n_clean_top5, counts.n_robust_top5) == (40, len(clean), len(both))
        assert 0 < len(both) < len(clean) < len(judged)
        by_hand = """
            SELECT count(*) FILTER (clean_rank <= 5), count(*) FILTER (clean_rank <= 5 AND rank <= 5)
            FROM outcomes WHERE example < 40 AND error IS NULL
        """
        assert query(store, by_hand) == query(store, "SELECT n_clean_top5, n_robust_top5 FROM evaluations")
        (row,) = evaluation_rows(store, ["e1"])
        assert row["clean_top5_accuracy"] == pytest.approx(100 * len(clean) / len(judged))
        assert row["robust_top5_accuracy"] == pytest.approx(100 * len(both) / len(judged))
        assert outcomes(store, "e1").column("clean_rank").to_pylist()[:3] == [1, 2, 3]

    @pytest.mark.parametrize("changes", [{"verdict": "worst"}, {"restarts": 2}], ids=str)
    def test_an_attack_that_stops_at_top_1_says_nothing_of_robust_top_5(
        self, store: Store, changes: dict[str, Any]
    ) -> None:
        self.begin(store, **changes)
        counts = append_outcomes(store, "e1", self.ranked(range(10)), seconds=1)
        assert (counts.n_clean_top5, counts.n_robust_top5) == (7, None)
        (row,) = evaluation_rows(store, ["e1"])
        assert (row["clean_top5_accuracy"], row["robust_top5_accuracy"]) == (pytest.approx(100 * 7 / 9), None)

    def test_without_every_rank_there_is_no_count(self, store: Store) -> None:
        self.begin(store)
        nothing = append_outcomes(store, "e1", self.ranked([]), seconds=1)
        assert (nothing.n_clean_top5, nothing.n_robust_top5) == (None, None)
        without = batch([0, 1]).drop_columns(["clean_rank", "rank"])  # as a writer that knows no ranks
        counts = append_outcomes(store, "e1", without, seconds=1)
        assert (counts.n_counted, counts.n_clean_top5, counts.n_robust_top5) == (2, None, None)
        counts = append_outcomes(store, "e1", self.ranked(range(2, 20)), seconds=1)
        assert (counts.n_counted, counts.n_clean_top5, counts.n_robust_top5) == (20, None, None)
        (row,) = evaluation_rows(store, ["e1"])
        assert (row["clean_top5_accuracy"], row["robust_top5_accuracy"]) == (None, None)
        self.begin(store, "e2")
        counts = append_outcomes(store, "e2", self.ranked(range(20), rank=None), seconds=1)
        assert (counts.n_clean_top5, counts.n_robust_top5) == (12, None)

    def test_a_rerun_fills_what_was_measured_without_ranks(self, store: Store) -> None:
        rows = self.begin(store)
        append_outcomes(store, "e1", batch(range(100)), seconds=1)
        finish_evaluation(store, "e1", status="complete")
        opened = open_evaluation(store, **rows, force=True)
        counts = append_outcomes(store, opened.evaluation_id, self.ranked(range(100)), seconds=1)
        done = finish_evaluation(store, opened.evaluation_id, status="complete")
        assert (done.replaced, done.n_changed) == (True, 0)
        assert counts.n_robust_top5
        stored = query(store, "SELECT evaluation_id, n_clean_top5, n_robust_top5 FROM evaluations")
        assert stored == [("e1", counts.n_clean_top5, counts.n_robust_top5)]


class TestFinish:
    def test_status_times_and_warnings(self, store: Store) -> None:
        open_evaluation(store, **request())
        append_outcomes(store, "e1", batch(range(10)), seconds=2)
        assert finish_evaluation(store, "e1", status="partial", warnings=["w", "w"]).status == "partial"
        (row,) = evaluation_rows(store, ["e1"])
        assert (row["status"], row["warnings"], row["n_warnings"]) == ("partial", ["w"], 1)
        assert row["finished_at"] is not None
        open_evaluation(store, **request())
        (row,) = evaluation_rows(store, ["e1"])
        assert (row["status"], row["finished_at"], row["warnings"]) == ("running", None, ["w"])

    def test_complete_needs_every_example(self, store: Store) -> None:
        open_evaluation(store, **request())
        append_outcomes(store, "e1", batch(range(99)), seconds=1)
        with pytest.raises(ValueError, match="99 of 100"):
            finish_evaluation(store, "e1", status="complete")

    def test_a_session_that_stops_does_not_undo_what_another_completed(self, store: Store) -> None:
        open_evaluation(store, **request())
        append_outcomes(store, "e1", batch(range(100)), seconds=1)
        finish_evaluation(store, "e1", status="complete")
        assert finish_evaluation(store, "e1", status="partial").status == "complete"

    def test_an_unknown_one(self, store: Store) -> None:
        with pytest.raises(EvaluationNotFound):
            finish_evaluation(store, "nope", status="failed")


class TestRerun:
    @pytest.fixture
    def finished(self, store: Store) -> Store:
        open_evaluation(store, **request())
        append_outcomes(store, "e1", batch(range(100)), seconds=1)
        finish_evaluation(store, "e1", status="complete", warnings=["old"])
        return store

    def test_the_old_result_stands_until_the_new_one_is_complete(self, finished: Store) -> None:
        before = evaluation_rows(finished, ["e1"])
        opened = open_evaluation(finished, **request(), force=True)
        assert opened.staging
        assert opened.evaluation_id != "e1"
        append_outcomes(finished, opened.evaluation_id, batch(range(60)), seconds=5)
        stopped = finish_evaluation(finished, opened.evaluation_id, status="partial")
        assert (stopped.status, stopped.replaced) == ("partial", False)
        assert evaluation_rows(finished, ["e1"]) == before
        assert query(finished, "SELECT count(*) FROM tradeoff WHERE source = 'measured'") == [(1,)]
        assert open_evaluation(finished, **request()).status == "complete"
        (row,) = evaluation_rows(finished, [opened.evaluation_id])
        assert (row["n_examples"], row["status"], row["staging"]) == (60, "partial", True)
        assert find_evaluation(finished, "e") == "e1"

    def test_it_resumes_and_then_replaces(self, finished: Store) -> None:
        first = open_evaluation(finished, **request(), force=True)
        append_outcomes(finished, first.evaluation_id, batch(range(60), forwards=9), seconds=5)
        second = open_evaluation(finished, **request(), force=True)
        assert second.evaluation_id == first.evaluation_id
        assert second.done == list(range(60))
        changed = batch(range(60, 100)).to_pylist()
        changed[0] |= {"robust": False, "broken_at_step": 1}  # example 60 was robust
        append_outcomes(
            finished, second.evaluation_id, pa.Table.from_pylist(changed, schema=outcome_schema()), seconds=5
        )
        done = finish_evaluation(finished, second.evaluation_id, status="complete", warnings=["new"])
        assert done == results.FinishedEvaluation(
            evaluation_id="e1", status="complete", replaced=True, n_compared=100, n_changed=1
        )
        assert_counts_equal_outcomes(finished, "e1")
        assert outcomes(finished, "e1").column("forwards").to_pylist()[:60] == [9] * 60
        (row,) = evaluation_rows(finished, ["e1"])
        assert (row["seconds"], row["warnings"], row["staging"]) == (10.0, ["new"], False)
        assert query(finished, "SELECT count(*) FROM evaluations") == [(1,)]
        assert query(finished, "SELECT count(*), count(DISTINCT evaluation_id) FROM outcomes") == [(100, 1)]

    def test_forcing_again_starts_afresh(self, finished: Store) -> None:
        opened = open_evaluation(finished, **request(), force=True)
        append_outcomes(finished, opened.evaluation_id, batch(range(100)), seconds=5)
        finish_evaluation(finished, opened.evaluation_id, status="complete")
        assert open_evaluation(finished, **request(), force=True).done == []

    def test_a_partial_result_is_kept_too(self, store: Store) -> None:
        open_evaluation(store, **request())
        append_outcomes(store, "e1", batch(range(10)), seconds=1)
        opened = open_evaluation(store, **request(), force=True)
        assert opened.staging
        append_outcomes(store, opened.evaluation_id, batch(range(100)), seconds=1)
        done = finish_evaluation(store, opened.evaluation_id, status="complete")
        assert (done.n_compared, done.n_changed) == (10, 0)
        assert_counts_equal_outcomes(store, "e1")


class TestReading:
    def test_rows_in_the_order_asked_and_ready_for_json(self, store: Store) -> None:
        for name in ("e1", "e2", "e3"):
            open_evaluation(store, **request(name))
        rows = evaluation_rows(store, ["e3", "e1", "e3"])
        assert [row["evaluation_id"] for row in rows] == ["e3", "e1", "e3"]
        assert json.loads(json.dumps(rows, allow_nan=False)) == rows
        assert rows[0]["attack"] == {"name": "pgd", "eps": "8/255", "steps": 10}
        assert rows[0]["attack_name"] == "pgd"
        assert rows[0]["preprocessing"] == {"mean": [0.3], "std": [0.4]}
        assert rows[0]["updated_at"].endswith("Z")
        assert datetime.fromisoformat(rows[0]["updated_at"]).tzinfo is UTC
        assert evaluation_rows(store, []) == []

    def test_keys_that_are_an_interface(self, store: Store) -> None:
        open_evaluation(store, **request())
        promised = (
            "evaluation_id architecture model_sha256 dataset n_examples attack threat_space verdict clean_accuracy "
            "robust_accuracy robust_accuracy_low robust_accuracy_high hrs forwards backwards seconds status warnings"
        )
        assert set(promised.split()) <= set(evaluation_rows(store, ["e1"])[0])

    def test_an_unknown_identity(self, store: Store) -> None:
        open_evaluation(store, **request())
        with pytest.raises(EvaluationNotFound, match="'nope'"):
            evaluation_rows(store, ["e1", "nope"])

    def test_outcomes_of_nothing(self, store: Store) -> None:
        assert outcomes(store, "nope").num_rows == 0

    def test_find_by_the_beginning(self, store: Store) -> None:
        for name in ("abc1", "abc2", "abc", "x%y"):
            open_evaluation(store, **request(name))
        assert find_evaluation(store, "abc1") == "abc1"
        assert find_evaluation(store, "abc") == "abc"
        assert find_evaluation(store, "x%") == "x%y"
        with pytest.raises(EvaluationNotFound, match="several"):
            find_evaluation(store, "ab")
        with pytest.raises(EvaluationNotFound, match="no evaluation"):
            find_evaluation(store, "abd")

    def test_row_objects_fill_the_columns(self, store: Store) -> None:
        open_evaluation(store, **request())
        described = {row[0] for row in query(store, "DESCRIBE evaluations")}
        assert set(vars(evaluation())) - {"examples"} <= described
