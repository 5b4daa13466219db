"""Statistics over outcomes: exact tests against scipy, bootstrap against its closed form, curves counted by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy.stats import binomtest

from store import Store
from store.connection import memory
from store.results import append_outcomes, finish_evaluation, open_evaluation
from tests.store.rows import attack, batch, request


def add(store: Store, evaluation_id: str, outcomes: list[dict[str, Any]], **of_attack: Any) -> None:
    """A complete evaluation with one outcome a dictionary, which says what is not as in an ordinary one."""
    n = len(outcomes)
    rows = request(evaluation_id, attack_id=f"attack-{evaluation_id}", n_requested=n, subset_digest=f"first {n}")
    rows["attack"] = attack(attack_id=f"attack-{evaluation_id}", **of_attack)
    open_evaluation(store, **rows)
    plain = {"clean_correct": True, "broken_at_step": None, "error": None, "robust": True, "distance": None}
    table = batch(range(n)).to_pylist()
    full = [{**row, **plain, "broken_at_restart": None, **given} for row, given in zip(table, outcomes, strict=True)]
    append_outcomes(store, evaluation_id, type(batch([])).from_pylist(full, schema=batch([]).schema), seconds=1)
    finish_evaluation(store, evaluation_id, status="complete")


def verdicts(robust: str) -> list[dict[str, Any]]:
    """`+` robust, `-` broken."""
    return [{"robust": mark == "+", "broken_at_step": None if mark == "+" else 1} for mark in robust]


def query(store: Store, sql: str) -> list[tuple[Any, ...]]:
    with store.read() as con:
        return con.execute(sql).fetchall()


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 1), (12, 30), (7, 7), (520, 430), (0, 40)])
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    from store.migrate import migrate

    con = memory()
    migrate(con, where="in memory")
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    found = con.execute(f"SELECT mcnemar({b}, {c}), mcnemar({c}, {b}), mcnemar(NULL, 1)").fetchall()[0]
    assert found == (pytest.approx(expected, rel=1e-9), pytest.approx(expected, rel=1e-9), None)


def test_paired_difference_and_its_bootstrap(store: Store) -> None:
    add(store, "a", verdicts("+" * 60 + "-" * 40))
    add(store, "b", verdicts("+" * 40 + "-" * 20 + "+" * 5 + "-" * 35))
    ((difference, p),) = query(store, "SELECT difference, p_value FROM paired('a', 'b')")
    assert difference == 15
    assert p == pytest.approx(binomtest(5, 25).pvalue)
    ((n, observed, low, high),) = query(store, "FROM paired_bootstrap('a', 'b')")
    assert (n, observed) == (100, 15)
    # The mean of 100 draws of 1 (20 %), -1 (5 %) and 0: normal with this deviation, but for the grid of 1 point.
    deviation = 100 * math.sqrt((0.25 - 0.15**2) / 100)
    assert low == pytest.approx(15 - 1.96 * deviation, abs=1.5)
    assert high == pytest.approx(15 + 1.96 * deviation, abs=1.5)
    again = query(store, "FROM paired_bootstrap('a', 'b')")
    assert again == [(n, observed, low, high)]
    ((_, back, back_low, back_high),) = query(store, "FROM paired_bootstrap('b', 'a')")
    assert (back, back_low, back_high) == (-observed, pytest.approx(-high), pytest.approx(-low))
    assert query(store, "FROM paired_bootstrap('a', '?')") == [(None, None, None, None)]


def test_accuracy_by_step(store: Store) -> None:
    steps = [0, 0, 1, 4, 4, 4]
    broken = [{"robust": False, "broken_at_step": step} for step in steps]
    wrong = [{"robust": False, "clean_correct": False}] * 2
    add(store, "a", [*broken, *wrong, *verdicts("++")])
    assert query(store, "FROM accuracy_by_step('a')") == [(0, 2, 60.0), (1, 1, 50.0), (4, 3, 20.0)]
    assert query(store, "FROM accuracy_by_step('?')") == []


def test_accuracy_by_distance(store: Store) -> None:
    found = [{"robust": d > 0.03, "distance": d, "broken_at_step": None} for d in (0.01, 0.02, 0.02, 0.1)]
    add(store, "a", [*found, {"robust": True, "distance": None}], verdict="closest")
    curve = query(store, "FROM accuracy_by_distance('a')")
    assert curve == [(0.01, 80.0), (0.02, 40.0), (0.1, 20.0)]
    add(store, "b", found)
    assert query(store, "FROM accuracy_by_distance('b')") == [], "no distances under another verdict"


def test_accuracy_by_eps_holds_everything_but_eps(store: Store) -> None:
    def config(eps: str, steps: int = 10) -> dict[str, Any]:
        return {"eps_text": eps, "eps": int(eps.partition("/")[0]) / 255, "steps": steps} | {
            "config": {"name": "pgd", "norm": "Linf", "eps": eps, "steps": steps}
        }

    add(store, "a", verdicts("+++-"), **config("2/255"))
    add(store, "b", verdicts("+---"), **config("8/255"))
    add(store, "other steps", verdicts("++--"), **config("4/255", 20))
    rows = query(store, "SELECT evaluation_id, eps, robust_accuracy FROM accuracy_by_eps('b')")
    assert rows == [("a", "2/255", 75.0), ("b", "8/255", 25.0)]


def test_broken_by_stage(store: Store) -> None:
    stages = [{"robust": False, "broken_at_step": 2, "stage": s} for s in ("apgd-ce", "apgd-ce", "square")]
    add(store, "a", [*stages, *verdicts("+")])
    assert query(store, "SELECT stage, n_broken FROM broken_by_stage('a')") == [("apgd-ce", 2), ("square", 1)]


def test_contradictions(store: Store) -> None:
    small = {"eps_text": "2/255", "eps": 2 / 255}
    add(store, "one step", verdicts("+---"), name="fgsm", steps=1)
    add(store, "many", verdicts("+++-"))
    add(store, "small eps", verdicts("++--"), **small)
    found = query(store, "SELECT evaluation_a, evaluation_b, finding FROM contradictions")
    assert found == [
        ("one step", "many", "one step breaks more than many"),
        ("small eps", "many", "a larger eps breaks less"),
    ]
