"""The rows of the table: nothing is mixed that does not compare, and columns fit their width."""

from __future__ import annotations

from hashlib import sha256

import pytest

from explorer import tradeoff
from explorer.filters import parse
from explorer.results import Page, Results
from explorer.settings import Settings
from explorer.tradeoff import LONG_COLUMNS, Question, Sort
from store import Store
from tests.explorer.app.support import add_evaluation


def page(settings: Settings, text: str = "source:measured", **question: object) -> Page:
    results = Results(settings.store)
    results.refresh()
    return results.page(Question(parse(text), **question))  # type: ignore[arg-type]


def test_published_rows_are_there_without_any_measurement(settings: Settings) -> None:
    assert page(settings, "", pivot=True).total == 63
    assert page(settings, "", pivot=True).marks == {"p"}


def test_attacks_stand_side_by_side(settings: Settings, store: Store) -> None:
    found = page(settings)
    assert [c.title for c in found.columns if c.kind == "cell"] == ["fgsm", "pgd-10"]
    rows = {row["architecture"]: row for row in found.table.to_pylist()}
    assert (rows["darts-random-4"]["a0"], rows["darts-random-4"]["a1"]) == (51.0, 6.0)
    assert (rows["resnet18"]["a0"], rows["resnet18"]["a1"]) == (None, 24.0)
    assert found.lead == "pgd-10"
    assert rows["darts-random-4"]["hrs"] == pytest.approx(2 * 95 * 6 / 101)
    assert len(rows["darts-random-4"]["members"]) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"threat_space": "normalized-clamped"},
        {"eps": "4/255"},
        {"n": 50, "clean": 47, "robust": 3},
        {"model": "other weights"},
    ],
)
def test_what_does_not_compare_stands_in_rows_of_its_own(
    settings: Settings, store: Store, other: dict[str, object]
) -> None:
    before = page(settings).table.num_rows
    add_evaluation(store, "darts-random-4", attack="f-fgsm", **other)  # type: ignore[arg-type]
    found = page(settings)
    assert found.table.num_rows == before + 1
    assert "*" not in found.marks


def test_several_settings_of_one_attack_show_the_lowest_and_say_so(settings: Settings, store: Store) -> None:
    add_evaluation(store, "resnet18", attack="pgd@step_size=1/255", robust=20)
    found = page(settings)
    row = next(row for row in found.table.to_pylist() if row["architecture"] == "resnet18")
    assert (row["a1"], row["c1"], row["robust_accuracy"]) == (20.0, 2, 20.0)
    assert "*" in found.marks


def test_attacks_made_on_another_model_are_no_figures_of_the_pivot(settings: Settings, store: Store) -> None:
    """They would make a model look more robust than it is, and lead the table."""
    before = page(settings)
    add_evaluation(store, "resnet18", crafted_on="darts-random-4", robust=90)
    found = page(settings)
    assert (found.table.num_rows, found.total) == (before.table.num_rows, before.total)
    assert [c.title for c in found.columns if c.kind == "cell"] == ["fgsm", "pgd-10"]
    row = next(row for row in found.table.to_pylist() if row["architecture"] == "resnet18")
    assert (row["a1"], row["c1"]) == (24.0, 1)
    one_each = page(settings, pivot=False).table.to_pylist()
    assert [r["robust_accuracy"] for r in one_each if r["label"] == "pgd-10 from darts-random-4"] == [90.0]


def test_an_evaluation_under_way_keeps_its_row_while_its_figures_change(settings: Settings, store: Store) -> None:
    running = {"attack": "f-fgsm", "status": "running", "requested": 100}
    add_evaluation(store, "resnet18", n=10, clean=9, robust=5, **running)  # type: ignore[arg-type]
    first = page(settings)
    assert first.table.num_rows == 3
    assert "~" in first.marks
    add_evaluation(store, "resnet18", n=60, clean=55, robust=30, **running)  # type: ignore[arg-type]
    second = page(settings)
    assert set(first.table["row_key"].to_pylist()) == set(second.table["row_key"].to_pylist())


@pytest.mark.parametrize("pivot", [False, True])
def test_every_column_sorts_with_missing_values_last(settings: Settings, store: Store, pivot: bool) -> None:
    results = Results(settings.store)
    results.refresh()
    results.refresh()  # the copy is made faster to ask when it is looked at again
    labels = ["fgsm", "f-fgsm", "pgd-10"]
    columns = tradeoff.pivot_columns(labels, "pgd-10") if pivot else LONG_COLUMNS
    for column in columns:
        for descending in (False, True):
            if not column.sort:
                continue
            question = Question(parse("clean>94"), Sort(column.id, descending), pivot)
            ask = tradeoff.pivot_rows(question, labels, "pgd-10") if pivot else tradeoff.long_rows(question)
            values = [row.get(column.id) for row in results.query(ask).to_pylist()]
            present = [v for v in values if v is not None]
            assert values[: len(present)] == present, column.id
            if all(isinstance(v, int | float) for v in present):
                assert present == sorted(present, reverse=descending)


def test_a_part_of_the_rows_is_the_first_part(settings: Settings, store: Store) -> None:
    results = Results(settings.store)
    results.refresh()
    for pivot in (False, True):
        whole = results.page(Question(pivot=pivot)).table["row_key"].to_pylist()
        part = results.page(Question(pivot=pivot), limit=5)
        assert part.partial
        assert part.table["row_key"].to_pylist() == whole[:5]


@pytest.mark.parametrize("width", [30, 60, 78, 100, 140, 220])
def test_columns_fit_and_what_matters_stays(width: int) -> None:
    fitting = tradeoff.fit(LONG_COLUMNS, width, gap=2, elastic="architecture", wanted=40)
    ids = {c.id for c in fitting}
    assert {"marks", "architecture", "threat_space", "source", "clean_accuracy", "robust_accuracy"} <= ids
    if width >= 60:
        assert sum(c.width + 2 for c in fitting) <= width


def test_columns_go_for_the_sake_of_the_name_but_none_that_tell_rows_apart() -> None:
    before = tradeoff.fit(LONG_COLUMNS, 120, gap=2, elastic="architecture", wanted=40)
    found = tradeoff.fit(LONG_COLUMNS, 120, gap=2, elastic="architecture", wanted=40, room=24)
    widths = {c.id: c.width for c in found}
    assert widths["architecture"] >= 24 > next(c.width for c in before if c.id == "architecture")
    assert sum(width + 2 for width in widths.values()) <= 120
    narrow = tradeoff.fit(LONG_COLUMNS, 80, gap=2, elastic="architecture", wanted=40, room=60)
    assert {c.id for c in narrow} == {c.id for c in LONG_COLUMNS if c.rank <= tradeoff.KEPT_RANK}
    short = tradeoff.fit(LONG_COLUMNS, 120, gap=2, elastic="architecture", wanted=14, room=24)
    assert [c.id for c in short] == [c.id for c in before]


def test_models_with_one_name_are_told_apart(settings: Settings, store: Store) -> None:
    assert page(settings).names == {}
    add_evaluation(store, "darts-random-4", model="another seed", robust=9)
    with store.write() as con:
        con.execute("UPDATE models SET train_seed = 1 WHERE model_sha256 = ?", [sha256(b"another seed").hexdigest()])
    for pivot in (True, False):
        found = page(settings, pivot=pivot)
        assert set(found.names.values()) == {"darts-random-4 s0", "darts-random-4 s1"}
        assert found.name_width == len("darts-random-4 s0")
        assert {row["train_seed"] for row in found.table.to_pylist() if row["robust_accuracy"] == 9} == {1}


def test_an_attack_that_few_rows_have_gives_way(settings: Settings, store: Store) -> None:
    assert page(settings).sparse == frozenset()
    for i in range(9):
        add_evaluation(store, f"darts-random-{i + 20}", attack="pgd")
    add_evaluation(store, "resnet18", attack="f-fgsm", family="handcrafted")
    found = page(settings)
    sparse = {c.title for c in found.columns if c.id in found.sparse}
    assert "pgd-10" not in sparse
    assert "f-fgsm" in sparse


def test_the_column_that_is_sorted_by_never_goes() -> None:
    columns = [tradeoff.headed(c, Sort("lineage", False)) for c in LONG_COLUMNS]
    fitting = tradeoff.fit(columns, 78, gap=2, elastic="architecture", wanted=40)
    assert "lineage▲" in {c.title for c in fitting}
