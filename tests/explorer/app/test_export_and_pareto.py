"""Rows written for elsewhere, and the front of those nobody beats."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from explorer import export
from explorer.errors import ExplorerError
from explorer.filters import parse
from explorer.pareto import comparable, pareto_front
from explorer.results import Results
from explorer.tradeoff import Question


@pytest.fixture(scope="module")
def results(filled: Path) -> Iterator[Results]:
    results = Results(filled)
    results.refresh()
    results.refresh()  # the copy is made faster to ask when it is looked at again
    yield results
    results.close()


@pytest.mark.parametrize("pivot", [False, True])
def test_csv_has_every_figure_in_full(results: Results, pivot: bool) -> None:
    page = results.page(Question(parse("source:measured"), pivot=pivot))
    rows = list(csv.DictReader(io.StringIO(export.text(page, "csv"))))
    assert len(rows) == page.table.num_rows
    assert {row["source"] for row in rows} == {"measured"}
    assert {row["threat_space"] for row in rows} == {"pixel"}
    name = "robust_accuracy pgd-10" if pivot else "robust_accuracy"
    assert {float(row[name]) for row in rows} >= {6.0, 24.0}


def test_markdown_and_latex_always_say_source_and_threat_space(results: Results) -> None:
    page = results.page(Question(pivot=True))
    for form in ("markdown", "latex"):
        text = export.text(page, form, ["architecture", "clean_accuracy"])
        assert "published" in text
        assert "normalized-clamped" in text
        assert "95 % and HRS under pgd-10" in text
    assert export.text(page, "markdown", ["architecture"]).splitlines()[1] == "|---|---|---|"


def test_a_file_is_not_replaced_unless_asked(results: Results, tmp_path: Path) -> None:
    page = results.page(Question(pivot=True))
    path = tmp_path / "rows.csv"
    export.write(page, path, "csv")
    with pytest.raises(ExplorerError, match="is there already"):
        export.write(page, path, "csv")
    export.write(page, path, "csv", replace=True)
    with pytest.raises(ExplorerError, match="cannot write"):
        export.write(page, tmp_path / "missing" / "rows.csv", "csv")


def test_the_front_is_what_nobody_beats() -> None:
    rng = np.random.default_rng(0)
    clean, robust = rng.integers(0, 20, 300).astype(float), rng.integers(0, 20, 300).astype(float)
    front = {(clean[i], robust[i]) for i in pareto_front(clean, robust)}
    points = set(zip(clean, robust, strict=True))
    beaten = {p for p in points if any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)}
    assert front == points - beaten


@pytest.mark.parametrize("pivot", [False, True])
def test_only_what_compares_is_in_one_plot(results: Results, pivot: bool) -> None:
    page = results.page(Question(pivot=pivot))
    rows = page.table.to_pylist()
    seen = set()
    for i, row in enumerate(rows):
        points = comparable(page, i)
        for name in ("dataset", "threat_space", "eps_value", "verdict", "top_k", *(() if pivot else ("label",))):
            assert {rows[j][name] for j in points.rows} <= {row[name]}
        if row["robust_accuracy"] is not None:
            assert points.cursor is not None
            assert points.rows[points.cursor] == i
        seen.add(points.about)
    assert "digits · pgd-10 · 8/255 · pixel" in seen
