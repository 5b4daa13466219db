"""The trade-off table as a question to the store: which columns there are, and the SQL for the rows wanted.

Two views of the same rows: one row an evaluation, or one row a model with its attacks side by side (the pivot). A row
of the pivot never mixes models, data, numbers of examples, eps, threat spaces, verdicts or seeds, and has no attacks
that were made on another model; where several settings of an attack with one label remain, the lowest figure is shown
and the cell says so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from explorer.filters import Filter

#: How a column's values are written: see `explorer.widgets.cells`.
Kind = Literal[
    "marks", "name", "family", "text", "source", "space", "percent", "interval", "score", "count", "size", "sha", "cell"
]


@dataclass(frozen=True)
class Column:
    """A column of the table. `width` is the content's, in cells; in a narrow terminal the highest `rank` goes first."""

    id: str
    title: str
    kind: Kind
    width: int
    rank: int
    help: str
    #: SQL to sort by; empty for a column that has no order.
    sort: str = ""
    #: Whether the first sort by it should be from the largest down.
    descending: bool = False


MARKS = Column("marks", "", "marks", 1, 0, "p published elsewhere, ! warnings, ~ not complete")
NAME = Column("architecture", "architecture", "name", 14, 0, "Name of the architecture", "lower(architecture)")
FAMILY = Column("family", "fam", "family", 6, 6, "hand (hand-crafted), nas or ens (ensemble)", "family")
DATASET = Column("dataset", "dataset", "text", 10, 1, "Name of the dataset", "dataset")
ATTACK = Column("label", "attack", "text", 7, 1, "Attack and its number of steps", "label")
EPS = Column("eps", "eps", "text", 6, 1, "Size of the perturbation as written", "eps_value")
SPACE = Column(
    "threat_space",
    "threat",
    "space",
    6,
    0,
    "pixel, or norm (normalized-clamped): where eps is measured",
    "threat_space",
)
SOURCE = Column("source", "source", "source", 6, 0, "Measured here, or published elsewhere", "source")
EXAMPLES = Column("n_examples", "n", "count", 5, 7, "Examples that the accuracies are over", "n_examples", True)
PARAMS = Column("params", "params", "size", 6, 5, "Parameters", "params")
CLEAN = Column("clean_accuracy", "clean", "percent", 5, 0, "Accuracy without attack, percent", "clean_accuracy", True)
ROBUST = Column(
    "robust_accuracy", "robust", "percent", 6, 0, "Accuracy under the attack, percent", "robust_accuracy", True
)
INTERVAL = Column(
    "interval", "95 %", "interval", 9, 3, "95 % Wilson interval of the robust accuracy", "robust_accuracy_low", True
)
HRS = Column("hrs", "HRS", "score", 5, 4, "Harmonic robustness score of clean and robust accuracy", "hrs", True)
PP_HRS = Column(
    "pp_hrs",
    "PP-HRS",
    "score",
    6,
    9,
    "HRS for the parameters it takes, against the baseline of its line",
    "pp_hrs",
    True,
)
VERDICT = Column("verdict", "verdict", "text", 7, 8, "worst: any visited iterate counts; last: the last one", "verdict")
LINEAGE = Column("lineage", "lineage", "text", 12, 10, "Line of designs", "lineage")
MODEL = Column("model_sha256", "model", "sha", 8, 11, "SHA-256 of the weights", "model_sha256")

LONG_COLUMNS: tuple[Column, ...] = (
    MARKS,
    NAME,
    FAMILY,
    DATASET,
    ATTACK,
    EPS,
    SPACE,
    SOURCE,
    EXAMPLES,
    PARAMS,
    CLEAN,
    ROBUST,
    INTERVAL,
    HRS,
    PP_HRS,
    VERDICT,
    LINEAGE,
    MODEL,
)

#: Names are told apart by so many cells, for which columns go; but none up to this rank, which tell rows apart as well.
NAME_ROOM, KEPT_RANK = 24, 2

#: At most this many attacks stand side by side; the filter chooses others.
MAX_ATTACKS = 8

_LABEL = (
    "concat(attack, CASE WHEN steps > 1 THEN concat('-', steps) END, "
    "CASE WHEN restarts > 1 THEN concat('x', restarts) END, "
    "CASE WHEN crafted_on IS NOT NULL THEN concat(' from ', crafted_on) END)"
)
#: The pivot is of attacks made on the model itself: what carries over from another model is no figure of the same kind.
_OWN = "crafted_on IS NULL"

#: Kinds of attacks from the weakest to the strongest.
_WEAK_FIRST = ("fgsm", "f-fgsm", "pgd")

_FIELDS = (
    "row_key",
    "source",
    "architecture",
    "architecture_id",
    "train_seed",
    "family",
    "lineage",
    "dataset",
    "eps",
    "eps_value",
    "threat_space",
    "verdict",
    "n_examples",
    "n_requested",
    "params",
    "clean_accuracy",
    "robust_accuracy",
    "robust_accuracy_low",
    "robust_accuracy_high",
    "hrs",
    "pp_hrs",
    "n_warnings",
    "status",
    "top_k",
    "model_sha256",
)

_SETTLED = "status IN ('complete', 'published')"

#: What two evaluations must share to stand in one row of the pivot. One that is not complete stands alone: what it has
#: done so far compares with nothing.
_TOGETHER = (
    "source",
    "architecture",
    "architecture_id",
    "coalesce(model_sha256, array_to_string(string_split(row_key, '/')[1:3], '/'))",
    "dataset",
    "dataset_id",
    "eps_value",
    "norm",
    "threat_space",
    "verdict",
    "n_requested",
    "seed",
    "top_k",
    "engine_revision",
    f"CASE WHEN {_SETTLED} THEN NULL ELSE row_key END",
)
#: The same of a finished one; the figures of one under way change and are no part of the identity of its row.
_FIGURES_TOGETHER = tuple(f"CASE WHEN {_SETTLED} THEN {name} END" for name in ("n_examples", "clean_accuracy"))


@dataclass(frozen=True)
class Sort:
    """The column to sort by and the direction. Rows without a value come last either way."""

    column: str = "hrs"
    descending: bool = True


@dataclass(frozen=True)
class Question:
    """What a person wants to see."""

    filter: Filter = field(default_factory=Filter)
    sort: Sort = Sort()
    pivot: bool = True


@dataclass(frozen=True)
class Statement:
    """SQL with its parameters."""

    sql: str
    parameters: list[str | float]


def long_rows(question: Question, limit: int | None = None) -> Statement:
    """One row an evaluation; the first `limit` of them, where one is given."""
    sql = (
        f"SELECT {', '.join(_FIELDS)}, {_LABEL} AS label FROM tradeoff WHERE {question.filter.where} "
        f"ORDER BY {_order(question.sort, LONG_COLUMNS)}, row_key{_limited(limit)}"
    )
    return Statement(sql, question.filter.parameters)


def attack_labels(question: Question) -> Statement:
    """The attacks among the rows that pass the filter, with how many rows each has, the frequent ones first."""
    sql = (
        f"SELECT {_LABEL} AS label, any_value(attack) AS attack, any_value(steps) AS steps, count(*) AS n "
        f"FROM tradeoff WHERE {_OWN} AND ({question.filter.where}) "
        f"GROUP BY label ORDER BY n DESC, label LIMIT {MAX_ATTACKS}"
    )
    return Statement(sql, question.filter.parameters)


def strength(row: Mapping[str, Any]) -> tuple[int, str, int]:
    """A key that sorts attacks: one step before many, few steps before more, kinds that are not known last."""
    name = row["attack"]
    return _WEAK_FIRST.index(name) if name in _WEAK_FIRST else len(_WEAK_FIRST), name, row["steps"] or 0


def arrange(labels: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels of attacks from the weakest kind to the strongest."""
    return [str(row["label"]) for row in sorted(labels, key=lambda row: (strength(row), row["label"]))]


def lead_attack(labels: Sequence[Mapping[str, Any]]) -> str | None:
    """The attack that interval and HRS of the pivot are of: PGD where there is some, as in the study (of several the
    most frequent one), else the most frequent attack."""
    for row in labels:
        if row["attack"] == "pgd":
            return str(row["label"])
    return str(labels[0]["label"]) if labels else None


def pivot_columns(labels: Sequence[str], lead: str | None) -> tuple[Column, ...]:
    """The columns of the pivot: one an attack, in the order of `labels`."""
    cells = [
        Column(
            f"a{i}",
            label,
            "cell",
            max(5, len(label)),
            0 if label == lead else 3,
            f"Accuracy under {label}, percent; * the lowest of several settings",
            f"a{i}",
            True,
        )
        for i, label in enumerate(labels)
    ]
    return (
        MARKS,
        NAME,
        FAMILY,
        DATASET,
        EPS,
        SPACE,
        SOURCE,
        EXAMPLES,
        PARAMS,
        CLEAN,
        *cells,
        INTERVAL,
        HRS,
        PP_HRS,
        VERDICT,
        LINEAGE,
        MODEL,
    )


def pivot_rows(question: Question, labels: Sequence[str], lead: str | None, limit: int | None = None) -> Statement:
    """One row a model with one accuracy an attack; `members` are the rows of `tradeoff` behind it."""
    places = range(len(labels))
    place = f"CASE {_LABEL} {' '.join(f'WHEN ? THEN {i}' for i in places)} END" if labels else "NULL"
    lead_place = labels.index(lead) if lead in labels else -1
    figures = ("robust_accuracy", "robust_accuracy_low", "robust_accuracy_high", "hrs", "pp_hrs")
    aggregates = [
        *(f"min(robust_accuracy) FILTER (place = {i}) AS a{i}" for i in places),
        *(f"count(*) FILTER (place = {i}) AS c{i}" for i in places),
        # Of several settings the lowest counts; on the same examples all figures fall and rise together.
        *(f"min({name}) FILTER (place = {lead_place}) AS {name}" for name in figures),
        "sum(n_warnings)::BIGINT AS n_warnings",
        "list(row_key) AS members",
    ]
    same = [n for n in _FIELDS if n not in (*figures, "row_key", "n_warnings")]
    # Two hashes instead of 16 columns: several times as fast, and an accidental meeting is out of the question.
    sql = (
        f"WITH chosen AS (SELECT row_key, {_identities()}, {place} AS place, {', '.join(figures)}, n_warnings "
        f"FROM tradeoff WHERE {_OWN} AND ({question.filter.where})), "
        f"grouped AS (SELECT identity::TEXT AS row_key, min(row_key) AS one, {', '.join(aggregates)} "
        "FROM chosen GROUP BY identity, again) "
        f"SELECT grouped.* EXCLUDE (one), {', '.join(f't.{name}' for name in same)} "
        "FROM grouped JOIN tradeoff AS t ON t.row_key = grouped.one "
        f"ORDER BY {_order(question.sort, pivot_columns(labels, lead))}, grouped.row_key{_limited(limit)}"
    )
    return Statement(sql, [*labels, *question.filter.parameters])


def count_rows(*, pivot: bool) -> Statement:
    """How many rows there are without any filter."""
    if not pivot:
        return Statement("SELECT count(*) AS n FROM tradeoff", [])
    rows = f"SELECT {_identities()} FROM tradeoff WHERE {_OWN}"
    return Statement(f"SELECT count(*) AS n FROM (SELECT DISTINCT identity, again FROM ({rows}))", [])


def _identities() -> str:
    together = ", ".join((*_TOGETHER, *_FIGURES_TOGETHER))
    return f"hash({together}) AS identity, hash('again', {together}) AS again"


def _limited(limit: int | None) -> str:
    return f" LIMIT {limit:d}" if limit is not None else ""


def _order(sort: Sort, columns: Sequence[Column]) -> str:
    for column in columns:
        if column.id == sort.column and column.sort:
            return f"{column.sort} {'DESC' if sort.descending else 'ASC'} NULLS LAST"
    return "hrs DESC NULLS LAST"


def fit(
    columns: Sequence[Column],
    width: int,
    *,
    gap: int,
    elastic: str,
    wanted: int,
    dull: Collection[str] = (),
    room: int = 0,
) -> list[Column]:
    """The columns that fit into `width` cells, `gap` being the padding of each. `dull` ones, which say nothing or the
    same in nearly every row, go first, then those of the highest rank; what is left widens `elastic` up to `wanted`
    cells. For it to get `room` of these cells, columns of a rank above `KEPT_RANK` go too."""
    shown = list(columns)

    def rank(column: Column) -> int:
        return column.rank + (100 if column.id in dull and column.rank > 0 else 0)

    while shown and sum(c.width + gap for c in shown) > width:
        highest = max(rank(c) for c in shown)
        if highest == 0:
            break
        del shown[max(i for i, c in enumerate(shown) if rank(c) == highest)]
    while shown:
        spare = width - sum(c.width + gap for c in shown)
        lacking = sum(min(room, wanted) - c.width for c in shown if c.id == elastic) - spare
        highest = max(rank(c) for c in shown)
        if lacking <= 0 or highest <= KEPT_RANK:
            break
        del shown[max(i for i, c in enumerate(shown) if rank(c) == highest)]
    spare = max(0, width - sum(c.width + gap for c in shown))
    return [replace(c, width=c.width + max(0, min(spare, wanted - c.width))) if c.id == elastic else c for c in shown]


def headed(column: Column, sort: Sort) -> Column:
    """The column with the direction of the sort in its title, if the rows are sorted by it: then it never goes."""
    if column.id != sort.column:
        return column
    title = f"{column.title}{'▼' if sort.descending else '▲'}"
    return replace(column, title=title, width=max(column.width, len(title)), rank=0)
