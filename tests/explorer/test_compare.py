"""`nasrob-tui compare`: two evaluations example by example, the worst case of several, and what may not be compared."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from explorer.jobs.rows import attack_row
from store import Store
from store.results import append_outcomes, finish_evaluation, open_evaluation, outcome_schema
from tests.store.rows import architecture, batch, dataset, model, request
from tests.support import attack

Cli = Callable[..., tuple[int, str, str]]

#: Robust or not, example by example: 60, 45 and 55 of 100.
A = "+" * 60 + "-" * 40
B = "+" * 40 + "-" * 20 + "+" * 5 + "-" * 35
C = "-" * 5 + "+" * 55 + "-" * 40


def add(
    store: Store,
    identity: str,
    robust: str,
    *,
    name: str = "darts",
    eps: str = "8/255",
    data: str = "digits/test#12345678",
    complete: bool = True,
    first: int = 0,
) -> None:
    """An evaluation by PGD with an outcome for each mark, `+` where it is robust, from example `first` on."""
    spec = attack("pgd", eps=eps)
    n = len(robust)
    rows = request(
        identity,
        attack_id=spec.identity,
        dataset_id=data,
        architecture_id=f"{name}@layers=5",
        n_requested=n if complete else n + 1,
        subset_digest=f"{n} {complete} {first}",
        examples=list(range(first, first + n + (not complete))),
    )
    rows |= {
        "attack": attack_row(spec),
        "architecture": architecture(name),
        "model": model(architecture_id=f"{name}@layers=5"),
        "dataset": dataset(dataset_id=data, name=data.partition("/")[0]),
    }
    open_evaluation(store, **rows)
    plain = {"clean_correct": True, "error": None, "broken_at_step": None, "broken_at_restart": None}
    table = batch(range(first, first + n)).to_pylist()
    full = [{**row, **plain, "robust": mark == "+"} for row, mark in zip(table, robust, strict=True)]
    append_outcomes(store, identity, type(batch([])).from_pylist(full, schema=outcome_schema()), seconds=1)
    finish_evaluation(store, identity, status="complete" if complete else "partial")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, only to be read, with three evaluations of `darts` at three eps and others that do not go with them."""
    store = Store(tmp_path_factory.mktemp("compared") / "store.duckdb")
    add(store, "aa11", A)
    add(store, "bb22", B, eps="4/255")
    add(store, "cc33", C, eps="2/255")
    add(store, "dd44", B, name="resnet18", eps="4/255")
    add(store, "ee55", "+++", data="mnist/test#1")
    add(store, "ff66", "+++", complete=False)
    add(store, "ff77", "+++", first=200, eps="1/255")
    return store.path


def compare(cli: Cli, path: Path, *words: str) -> Any:
    code, out, err = cli("compare", *words, "--store", str(path), "--format", "json")
    assert code == 0, err
    (row,) = json.loads(out)
    return row


def test_two_evaluations(cli: Cli, path: Path) -> None:
    row = compare(cli, path, "aa", "bb22")
    assert (row["evaluation_a"], row["evaluation_b"]) == ("aa11", "bb22")
    assert (row["attack_a"], row["attack_b"]) == ("pgd-10 8/255", "pgd-10 4/255")
    names = ("n_examples", "both_robust", "only_a_robust", "only_b_robust", "neither_robust")
    assert tuple(row[name] for name in names) == (100, 40, 20, 5, 35)
    assert (row["robust_accuracy_a"], row["robust_accuracy_b"]) == (60, 45)
    assert (row["agreement"], row["difference"]) == (75, 15)
    assert 0 < row["difference_low"] < 15 < row["difference_high"] < 30
    assert row["p_value"] == pytest.approx(binomtest(5, 25).pvalue)
    turned = compare(cli, path, "bb", "aa")
    assert turned["difference"] == -15
    assert (turned["only_a_robust"], turned["only_b_robust"]) == (5, 20)


def test_table_and_csv_say_the_same(cli: Cli, path: Path) -> None:
    row = compare(cli, path, "aa", "bb")
    _, table, _ = cli("compare", "aa", "bb", "--store", str(path))
    for part in ("darts@layers=5", "pgd-10 8/255", "pgd-10 4/255", "60.0", "45.0", "+15.0", "0.0041", "75.0"):
        assert part in table
    (read,) = csv.DictReader(io.StringIO(cli("compare", "aa", "bb", "--store", str(path), "--format", "csv")[1]))
    assert list(read) == list(row)
    assert read["difference"] == "15.0"


def test_worst_case_of_one_model(cli: Cli, path: Path) -> None:
    row = compare(cli, path, "aa", "bb", "cc")
    robust = sum(a == b == c == "+" for a, b, c in zip(A, B, C, strict=True))
    assert (row["n_examples"], row["n_robust"], row["robust_accuracy"]) == (100, robust, robust)
    assert row["evaluation_ids"] == ["aa11", "bb22", "cc33"]
    assert row["robust_accuracy_low"] < robust < row["robust_accuracy_high"]
    assert "of 3 attacks" in cli("compare", "aa", "bb", "cc", "--store", str(path))[1]


def test_architectures_with_one_evaluation(cli: Cli, path: Path) -> None:
    row = compare(cli, path, "darts", "resnet18", "--attack", "pgd-10 4/255", "--dataset", "digits")
    assert (row["evaluation_a"], row["evaluation_b"]) == ("bb22", "dd44")
    assert row["difference"] == 0
    assert row["p_value"] == 1
    assert compare(cli, path, "aa", "resnet18@layers=5", "--attack", "pgd")["evaluation_b"] == "dd44"


def test_a_reader_is_told_what_the_difference_is_of(cli: Cli, path: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(path, tmp_path / "copy.duckdb"))
    add(Store(path), "gg88", A + "+", name="resnet18")
    said = [cli("compare", "aa", other, "--store", str(path))[2] for other in ("bb", "dd", "gg")]
    assert said[0] == ""
    assert "the attacks differ as well as the models" in said[1]
    assert "the attacks differ" not in said[2]
    assert "of 100 and 101 examples the 100" in said[2]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("aa",), "at least two"),
        (("aa", "aa11"), "aa11 is named twice"),
        (("aa", "ff66"), "ff66 is not complete (3 of 4 examples)"),
        (("aa", "ee"), "aa11 is on digits/test#12345678 and ee55 on mnist/test#1"),
        (("aa", "ff77"), "no example in common"),
        (("aa", "bb", "ff77"), "no example in common"),
        (("aa", "bb", "dd"), "darts@layers=5 (aaaaaaaaaaaa)"),
        (("aa", "bb", "bb"), "bb22 is named twice"),
        (("aa", "ff"), "several evaluations (ff66, ff77)"),
        (("aa", "zz"), "no evaluation 'zz'"),
        (("aa", ""), "identity"),
        (("aa", "darts"), "complete evaluations of darts: aa11 (darts@layers=5, pgd-10 8/255"),
        (("aa", "resnet18", "--attack", "fgsm"), "no complete evaluation of resnet18"),
    ],
)  # fmt: skip
def test_what_may_not_be_compared_is_refused_with_the_reason(
    words: tuple[str, ...], says: str, cli: Cli, path: Path
) -> None:
    code, out, err = cli("compare", *words, "--store", str(path))
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1


def test_without_a_store(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("compare", "aa", "bb", "--store", str(tmp_path / "none.duckdb"))
    assert (code, out) == (2, "")
    assert "no results store" in err
