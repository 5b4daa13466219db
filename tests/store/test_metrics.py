"""The numbers: macros against closed forms, the printed tables, and the views made of them."""

from __future__ import annotations

import csv
import hashlib
import math
from pathlib import Path
from typing import Any

import duckdb
import pytest
from scipy.stats import binomtest

from store import Store
from store.connection import memory
from store.migrate import migrate
from store.results import append_outcomes, evaluation_rows, finish_evaluation, open_evaluation
from tests.store.conftest import ROOT
from tests.store.rows import architecture, attack, batch, dataset, evaluation, model, request


@pytest.fixture(scope="module")
def con() -> duckdb.DuckDBPyConnection:
    con = memory()
    migrate(con, where="in memory")
    return con


def value(con: duckdb.DuckDBPyConnection, expression: str) -> Any:
    return con.execute(f"SELECT {expression}").fetchall()[0][0]


def printed_rows() -> list[dict[str, str]]:
    with Path(ROOT / "store" / "published" / "devaguptapu2021.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class TestMacros:
    @pytest.mark.parametrize(
        ("k", "n"), [(0, 1), (1, 1), (0, 10), (10, 10), (3, 10), (1, 360), (359, 360), (180, 360), (5000, 10000)]
    )
    def test_wilson(self, con: duckdb.DuckDBPyConnection, k: int, n: int) -> None:
        expected = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
        low, high = value(con, f"wilson_low({k}, {n})"), value(con, f"wilson_high({k}, {n})")
        assert low == pytest.approx(100 * expected.low, abs=1e-9)
        assert high == pytest.approx(100 * expected.high, abs=1e-9)
        assert 0 <= low <= 100 * k / n <= high <= 100

    def test_wilson_by_hand(self, con: duckdb.DuckDBPyConnection) -> None:
        # Brown, Cai and DasGupta (2001): centre and half-width of the score interval for 9 of 10.
        z, n, p = 1.959963984540054, 10, 0.9
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        assert value(con, "wilson_low(9, 10)") == pytest.approx(100 * (centre - half))
        assert value(con, "wilson_high(9, 10)") == pytest.approx(100 * (centre + half))

    def test_hrs_by_hand(self, con: duckdb.DuckDBPyConnection) -> None:
        assert value(con, "hrs(60, 30)") == 40
        assert value(con, "hrs(90, 0)") == 0
        assert value(con, "hrs(0, 0)") == 0
        assert value(con, "pp_hrs(60, 30, 2000000, 1000000)") == 20
        assert value(con, "pp_hrs(60, 30, 10, 10)") == 40

    @pytest.mark.parametrize(
        "expression",
        [
            "hrs(NULL, 1)",
            "hrs(1, NULL)",
            "pp_hrs(NULL, 1, 1, 1)",
            "pp_hrs(1, 1, NULL, 1)",
            "pp_hrs(1, 1, 1, NULL)",
            "pp_hrs(1, 1, 0, 1)",
            "accuracy(0, 0)",
            "accuracy(NULL, 1)",
            "accuracy(1, NULL)",
            "wilson_low(0, 0)",
            "wilson_high(0, 0)",
            "wilson_low(NULL, 1)",
            "wilson_high(1, NULL)",
            "wilson_low(2, 1)",
            "wilson_high(-1, 1)",
        ],
    )
    def test_unknown_stays_unknown(self, con: duckdb.DuckDBPyConnection, expression: str) -> None:
        assert value(con, expression) is None

    def test_counts_of_a_million_do_not_overflow(self, con: duckdb.DuckDBPyConnection) -> None:
        assert value(con, "wilson_low(999999999::BIGINT, 1000000000::BIGINT)") < 100
        assert value(con, "accuracy(2000000000::INTEGER, 2000000000::INTEGER)") == 100


class TestPublished:
    def test_the_transcription_is_the_one_that_was_checked(self) -> None:
        contents = (ROOT / "store" / "published" / "devaguptapu2021.csv").read_bytes()
        assert hashlib.sha256(contents).hexdigest() == (
            "b7e9fa3747ddca36747de3c209ef26b683693393a5f7c37dd225ffa614665c57"
        )

    def test_are_the_63_rows_as_printed(self, con: duckdb.DuckDBPyConnection) -> None:
        cursor = con.execute("SELECT * FROM published")
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        printed = printed_rows()
        assert len(rows) == len(printed) == 63
        for row, source in zip(rows, printed, strict=True):
            for name, text in source.items():
                shown = row["table_label" if name == "table" else name]
                assert shown == (None if text == "" else float(text) if isinstance(shown, int | float) else text)
            assert row["threat_space"] == "normalized-clamped"
            assert "Devaguptapu" in row["citation"]
            assert "S2D-OLAD" in row["citation"]

    def test_every_printed_score_follows_from_the_formulas(self, con: duckdb.DuckDBPyConnection) -> None:
        rows = con.execute(
            """
            SELECT t.hrs, p.hrs, t.pp_hrs, p.pp_hrs
            FROM tradeoff AS t
            JOIN published AS p ON row_key = concat_ws('/', p.publication, table_label, row_number, 'pgd/Linf/8/255')
            """
        ).fetchall()
        assert len(rows) == 63
        hrs = [abs(ours - printed) for ours, printed, _, _ in rows if printed is not None]
        pp_hrs = [abs(ours - printed) for _, _, ours, printed in rows if printed is not None]
        assert (len(hrs), len(pp_hrs)) == (39, 19)
        assert max(hrs) < 0.015
        assert max(pp_hrs) < 0.01

    def test_are_marked_in_tradeoff(self, con: duckdb.DuckDBPyConnection) -> None:
        printed = sum(1 for row in printed_rows() for attack in ("fgsm", "f_fgsm", "pgd") if row[attack])
        rows = con.execute(
            """
            SELECT count(*), count(DISTINCT row_key), bool_and(source = 'published' AND status = 'published'),
                bool_and(threat_space = 'normalized-clamped'), bool_and(citation IS NOT NULL),
                count(evaluation_id), bool_and(eps = '8/255' AND eps_value = 8 / 255)
            FROM tradeoff
            """
        ).fetchall()
        assert rows == [(printed, printed, True, True, True, 0, True)]

    def test_scores_shown_are_computed_and_not_the_printed_ones(self, con: duckdb.DuckDBPyConnection) -> None:
        rows = con.execute("SELECT clean_accuracy, robust_accuracy, hrs FROM tradeoff").fetchall()
        for clean, robust, hrs in rows:
            assert hrs == pytest.approx(2 * clean * robust / (clean + robust), rel=1e-12)

    def test_top_5_figures_say_so(self, con: duckdb.DuckDBPyConnection) -> None:
        rows = con.execute("SELECT dataset, top_k FROM tradeoff GROUP BY ALL ORDER BY ALL").fetchall()
        assert rows == [("cifar10", 1), ("cifar100", 1), ("flowers102", 1), ("imagenet", 5)]
        ours = con.execute("SELECT count(clean_top5_accuracy), count(robust_top5_accuracy) FROM tradeoff").fetchall()
        assert ours == [(0, 0)]

    def test_every_architecture_has_a_lineage_and_baselines_exist(self, con: duckdb.DuckDBPyConnection) -> None:
        assert con.execute("SELECT count(*) FROM published_results WHERE lineage IS NULL").fetchall() == [(0,)]
        missing = con.execute(
            "SELECT architecture FROM family_baselines WHERE architecture NOT IN (SELECT architecture FROM published)"
        ).fetchall()
        assert missing == []


class TestMeasured:
    @staticmethod
    def add(store: Store, evaluation_id: str, *, name: str, sha: str, params: int, width: int) -> None:
        identity = f"{name}@width={width}"
        lineage = "".join(c for c in name if c.isalpha())
        rows = request(evaluation_id)
        rows["architecture"] = architecture(
            name, architecture_id=identity, family="handcrafted", lineage=lineage, options={"width": width}
        )
        rows["model"] = model(sha, architecture_id=identity, params=params)
        rows["evaluation"] = evaluation(evaluation_id, model_sha256=sha, architecture_id=identity)
        open_evaluation(store, **rows)
        append_outcomes(store, evaluation_id, batch(range(100)), seconds=1)

    def test_one_evaluation(self, store: Store) -> None:
        self.add(store, "e1", name="darts", sha="d" * 64, params=1000, width=8)
        (row,) = evaluation_rows(store, ["e1"])
        examples = [i for i in range(100) if i % 7 != 3]  # see `batch`: the others have no verdict
        clean = sum(i % 10 != 9 for i in examples)
        robust = sum(i % 10 != 9 and i % 2 == 0 for i in examples)
        assert row["n_examples"] == 100
        assert row["clean_accuracy"] == pytest.approx(100 * clean / len(examples))
        assert row["robust_accuracy"] == pytest.approx(100 * robust / len(examples))
        assert row["attack_success_rate"] == pytest.approx(100 * (clean - robust) / clean)
        assert row["hrs"] == pytest.approx(200 * clean * robust / (clean + robust) / len(examples))
        interval = binomtest(robust, len(examples)).proportion_ci(method="wilson")
        assert row["robust_accuracy_low"] == pytest.approx(100 * interval.low)
        assert row["robust_accuracy_high"] == pytest.approx(100 * interval.high)
        assert row["pp_hrs"] is None

    def test_pp_hrs_compares_to_the_baseline_with_the_same_options(self, store: Store) -> None:
        self.add(store, "big", name="resnet50", sha="1" * 64, params=2000, width=16)
        (row,) = evaluation_rows(store, ["big"])
        assert row["pp_hrs"] is None  # no ResNet-18 here yet
        self.add(store, "small-8", name="resnet18", sha="2" * 64, params=100, width=8)
        (row,) = evaluation_rows(store, ["big"])
        assert row["pp_hrs_baseline"] == "resnet18@width=8"
        assert row["pp_hrs"] == pytest.approx(row["hrs"] * 100 / 2000)
        self.add(store, "small-16", name="resnet18", sha="3" * 64, params=500, width=16)
        big, small = evaluation_rows(store, ["big", "small-16"])
        assert big["pp_hrs_baseline"] == "resnet18@width=16"
        assert big["pp_hrs"] == pytest.approx(big["hrs"] * 500 / 2000)
        assert small["pp_hrs"] == pytest.approx(small["hrs"])

    def test_architectures_with_the_same_tensors_keep_their_own_results(self, store: Store) -> None:
        """Networks that differ only in pooling or activations can share every tensor."""
        self.add(store, "e1", name="resnet18", sha="5" * 64, params=100, width=8)
        rows = request("e2")
        rows["architecture"] = architecture()
        rows["model"] = model("5" * 64, params=70, label="the other")
        rows["evaluation"] = evaluation("e2", model_sha256="5" * 64)
        open_evaluation(store, **rows)
        append_outcomes(
            store,
            "e2",
            batch(range(100), clean_correct=False, robust=False, broken_at_step=None, error=None),
            seconds=1,
        )
        first, second = evaluation_rows(store, ["e1", "e2"])
        assert (first["architecture_id"], first["params"], first["family"]) == ("resnet18@width=8", 100, "handcrafted")
        assert (second["architecture_id"], second["params"], second["family"]) == ("darts@layers=5", 70, "nas")
        assert (first["model_label"], second["model_label"]) == ("darts on digits", "the other")
        assert first["clean_accuracy"] > 50
        assert second["clean_accuracy"] == 0
        with store.read() as con:
            listed = con.execute(
                "SELECT evaluation_id, architecture, model_sha256 FROM tradeoff WHERE source = 'measured' ORDER BY ALL"
            ).fetchall()
        assert listed == [("e1", "resnet18", "5" * 64), ("e2", "darts", "5" * 64)]

    def test_no_examples_give_no_accuracy(self, store: Store) -> None:
        open_evaluation(store, **request())
        (row,) = evaluation_rows(store, ["e1"])
        for name in ("clean_accuracy", "robust_accuracy", "robust_accuracy_low", "hrs", "attack_success_rate"):
            assert row[name] is None
        assert row["n_examples"] == 0

    def test_measured_and_published_stand_side_by_side_and_marked(self, store: Store) -> None:
        open_evaluation(store, **request())
        with store.read() as con:
            rows = con.execute(
                "SELECT source, count(*), count(evaluation_id), count(citation) FROM tradeoff GROUP BY ALL ORDER BY ALL"
            ).fetchall()
        assert rows == [("measured", 1, 1, 0), ("published", 141, 0, 141)]


class TestPaired:
    @pytest.fixture
    def two(self, store: Store) -> Store:
        """Two attacks on one model: `a` by the rule of `batch`; `b` leaves robust only multiples of 3 or 4."""
        for name, examples in (("a", range(60)), ("b", range(40, 100))):
            rows = request(
                name, attack_id=f"attack-{name}", n_requested=60, examples=list(examples), subset_digest=name
            )
            rows["attack"] = attack(attack_id=f"attack-{name}")
            open_evaluation(store, **rows)
        append_outcomes(store, "a", batch(range(60)), seconds=1)
        table = batch(range(40, 100)).to_pylist()
        for row in table:
            if row["robust"] is not None:
                row["robust"] = row["clean_correct"] and (row["example"] % 3 == 0 or row["example"] % 4 == 0)
                row["broken_at_step"] = None
        append_outcomes(store, "b", type(batch([])).from_pylist(table, schema=batch([]).schema), seconds=1)
        for name in "ab":
            finish_evaluation(store, name, status="complete")
        return store

    def test_worst_case(self, two: Store) -> None:
        common = [i for i in range(40, 60) if i % 7 != 3]
        robust = [i for i in common if i % 10 != 9 and i % 2 == 0 and (i % 3 == 0 or i % 4 == 0)]
        with two.read() as con:
            row = con.execute("SELECT n_examples, n_robust, robust_accuracy FROM worst_case(['a', 'b'])").fetchall()
            alone = con.execute("SELECT n_examples, n_robust FROM worst_case(['a'])").fetchall()
            unknown = con.execute("SELECT n_evaluations, n_examples, robust_accuracy FROM worst_case(['a', '?'])")
            assert row == [(len(common), len(robust), pytest.approx(100 * len(robust) / len(common)))]
            assert unknown.fetchall() == [(1, None, None)]
            counted = con.execute("SELECT n_counted - n_errors, n_robust FROM evaluations WHERE evaluation_id = 'a'")
            assert counted.fetchall() == alone

    def test_paired(self, two: Store) -> None:
        common = [i for i in range(40, 60) if i % 7 != 3]
        a = {i for i in common if i % 10 != 9 and i % 2 == 0}
        b = {i for i in common if i % 10 != 9 and (i % 3 == 0 or i % 4 == 0)}
        neither = len(common) - len(a | b)
        agreement = 100 * (len(a & b) + neither) / len(common)
        with two.read() as con:
            (row,) = con.execute("FROM paired('a', 'b')").fetchall()
            assert row[:6] == (len(common), len(a & b), len(a - b), len(b - a), neither, pytest.approx(agreement))
            assert con.execute("SELECT n_examples FROM paired('a', '?')").fetchall() == [(None,)]

    def test_evaluations_that_cannot_be_compared(self, two: Store) -> None:
        rows = request("other", dataset_id="other/test#1")
        rows["dataset"] = dataset(dataset_id="other/test#1", name="other")
        open_evaluation(two, **rows)
        append_outcomes(two, "other", batch(range(60)), seconds=1)
        for name, n in (("model", 60), ("unfinished", 100)):
            rows = request(name, model_sha256="b" * 64, n_requested=n)
            rows["model"] = model("b" * 64)
            open_evaluation(two, **rows)
            append_outcomes(two, name, batch(range(60)), seconds=1)
            finish_evaluation(two, name, status="partial")
        rows = request("twin", n_requested=60, architecture_id="twin@layers=5")  # the same tensors in another network
        rows["architecture"], rows["model"] = architecture("twin"), model(architecture_id="twin@layers=5")
        open_evaluation(two, **rows)
        append_outcomes(two, "twin", batch(range(60)), seconds=1)
        finish_evaluation(two, "twin", status="complete")
        with two.read() as con:
            assert con.execute("SELECT robust_accuracy FROM worst_case(['a', 'twin'])").fetchall() == [(None,)]
            assert con.execute("SELECT robust_accuracy FROM worst_case(['a', 'other'])").fetchall() == [(None,)]
            assert con.execute("SELECT robust_accuracy FROM worst_case(['a', 'model'])").fetchall() == [(None,)]
            assert con.execute("SELECT agreement FROM paired('a', 'other')").fetchall() == [(None,)]
            assert con.execute("SELECT agreement FROM paired('a', 'model')").fetchall() == [(100,)]
            # What is done first is what breaks first: an evaluation that is not complete compares with nothing.
            assert con.execute("SELECT agreement FROM paired('a', 'unfinished')").fetchall() == [(None,)]
            assert con.execute("SELECT robust_accuracy FROM worst_case(['unfinished'])").fetchall() == [(None,)]
