"""The filter language, and that what is typed never becomes SQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from explorer import filters
from explorer.filters import FilterError, parse
from explorer.results import Results
from explorer.tradeoff import Question, Statement


@pytest.fixture(scope="module")
def results(filled: Path) -> Iterator[Results]:
    """The store of the tests, read once: nothing here writes."""
    results = Results(filled)
    results.refresh()
    results.refresh()  # the copy is made faster to ask when it is looked at again
    yield results
    results.close()


def found(results: Results, text: str) -> set[tuple[str, str]]:
    table = results.page(Question(parse(text), pivot=False)).table
    return set(
        zip(
            table["architecture"].to_pylist(),
            table["attack" if "attack" in table.column_names else "label"].to_pylist(),
            strict=True,
        )
    )


def count(results: Results, text: str) -> int:
    wanted = parse(text)
    return len(results.query(Statement(f"SELECT row_key FROM tradeoff WHERE {wanted.where}", wanted.parameters)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source:measured", {("darts-random-4", "pgd-10"), ("darts-random-4", "fgsm"), ("resnet18", "pgd-10")}),
        ("source:m family:hand", {("resnet18", "pgd-10")}),
        ("source:measured attack:pgd", {("darts-random-4", "pgd-10"), ("resnet18", "pgd-10")}),
        ("source:measured attack:pgd-10 robust<10", {("darts-random-4", "pgd-10")}),
        ("source:measured attack:pgd-20", set()),
        ("source:measured -attack:pgd", {("darts-random-4", "fgsm")}),
        ("source:measured attack:fgsm,pgd robust>=24", {("darts-random-4", "fgsm"), ("resnet18", "pgd-10")}),
        ("threat:pixel dataset:dig* RESNET", {("resnet18", "pgd-10")}),
        ("source:measured eps=16/510 clean=95% params<1M resnet", {("resnet18", "pgd-10")}),
        ("warnings>0", {("darts-random-4", "pgd-10")}),
        ('source:measured "darts-random-4@layers=5"', {("darts-random-4", "pgd-10"), ("darts-random-4", "fgsm")}),
        ("source:measured n=100 status:complete seed=0 resnet18@layers=5", {("resnet18", "pgd-10")}),
        ("source:measured params>5M", set()),
    ],
)  # fmt: skip
def test_terms(results: Results, text: str, expected: set[tuple[str, str]]) -> None:
    assert found(results, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "[/foo]",
        "'; DROP TABLE tradeoff; --",
        "%",
        "_",
        "a\\",
        "dataset:%",
        'x" OR 1=1',
        "model:'",
        "🙂",
        "[bold]",
        "a?b",
    ],
)
def test_nothing_typed_is_sql_or_a_pattern(results: Results, text: str) -> None:
    assert found(results, text) == set()


@pytest.mark.parametrize("text", ["", "   ", "\t"])
def test_an_empty_filter_holds_for_every_row(text: str) -> None:
    assert parse(text).empty


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("clean>", "needs a number, such as clean>90"),
        ("eps>a/b", "such as eps>8/255"),
        ("eps=8/0", "divides by zero"),
        ("family:x", "handcrafted, nas or ensemble"),
        ("famly:nas", "did you mean family:?"),
        ("attack:", "needs a value"),
        ("family>3", "write family:value"),
        ("params<5X", "needs a number"),
        ("source:measured clean>90 qwertz:1", "there is no qwertz:"),
    ],
)
def test_a_term_that_makes_no_sense_says_what_would(text: str, part: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(text)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_key_compiles(results: Results) -> None:
    for key in filters.TEXT_KEYS:
        value = {"source": "measured", "family": "nas", "threat": "pixel", "verdict": "last", "status": "complete"}
        count(results, f"{key}:{value.get(key, 'x')}")
    for key in filters.NUMBER_KEYS:
        for operator in ("<", "<=", ">", ">=", "=", "!="):
            count(results, f"{key}{operator}5")
