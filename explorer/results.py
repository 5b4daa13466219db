"""What the app reads from the results store. Every method may wait for the disk or for DuckDB: call them from a thread.

Reads come from a copy of the store in memory: an idle app holds no lock, and a busy store never stops the screen.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer import tradeoff
from explorer.naming import telling_names
from explorer.tradeoff import Column, Question, Statement
from store.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

    from store.connection import Store

#: How long a reading of the store waits for writers before the screen says so, in seconds. The next look is soon.
PATIENCE = 1.0
#: An attack that fewer rows than this share have a figure of gives way to others.
_SPARSE = 1 / 8
#: From so many rows on the first part of them is shown before the rest has come.
LARGE = 20_000
#: Up to so many rows are gone through in Python: what Arrow loads to group them takes longer.
_FEW = 10_000


@dataclass(frozen=True)
class Page:
    """An answer: the rows in order, how many rows there are without the filter, and how to show them."""

    question: Question
    table: pa.Table
    total: int
    columns: tuple[Column, ...]
    #: In the pivot: the attack that interval and HRS belong to.
    lead: str | None
    #: Columns with the same value in every row, and that value.
    constants: dict[str, str]
    #: Columns without a value in any row.
    empty: frozenset[str]
    #: Signs that occur: p published, ! warnings, ~ not complete, * the lowest of several settings.
    marks: frozenset[str]
    name_width: int
    #: What the models are called that have a name in common with others, by architecture and seed of the training.
    names: dict[tuple[str, int | None], str] = field(default_factory=dict)
    #: Attacks that only few rows have a figure of.
    sparse: frozenset[str] = frozenset()
    #: Rows asked for at most.
    limit: int | None = None

    @property
    def partial(self) -> bool:
        """Whether there may be more rows than these."""
        return self.limit is not None and int(self.table.num_rows) == self.limit


@dataclass(frozen=True)
class Freshness:
    """What a look at the store found. `problem` is a sentence; the rows shown before stay as they are."""

    changed: bool
    problem: str | None = None


class Results:
    """The results store as the app sees it. May be shared by threads."""

    def __init__(
        self,
        path: Path,
        *,
        prepare: Callable[[Store], str | None] | None = None,
        preview: Callable[[], DuckDBPyConnection] | None = None,
    ) -> None:
        self.path = path
        #: Done once, before the store is read for the first time; returns a sentence where something went wrong.
        self._prepare = prepare
        #: What a new store will hold, shown at the first look while there is none: making it takes most of a second.
        self._preview = preview
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._mirror: Any = None
        #: What is shown until the store can be read.
        self._meanwhile: DuckDBPyConnection | None = None
        self._untold: Freshness | None = None
        self._previewing = False
        #: What the last look found wrong.
        self._problem: str | None = None

    @property
    def store(self) -> Store:
        """The store, opened for nothing yet."""
        if self._store is None:
            from store import Store

            self._store = Store(self.path, timeout=PATIENCE)
        return self._store

    def made_store(self) -> Store:
        """The store for questions that the copy in memory cannot answer; made now, if only its preview was shown.

        Raises `StoreError` with the reason where it cannot be made.
        """
        with self._lock:
            if self._previewing:
                self._untold = self._look()
            if self._problem is not None and not self.path.exists():
                raise StoreError(self._problem)
        return self.store

    def preload(self) -> None:
        """Read the store before anybody asks: the first `refresh` then tells what this found."""
        with self._lock:
            self._untold = self._look()

    def refresh(self) -> Freshness:
        """Look whether the store has changed, and copy it if so. Never raises for a store that cannot be read:
        until it can, the published figures, or the preview, are there."""
        with self._lock:
            found, self._untold = self._untold or self._look(), None
            return found

    def _look(self) -> Freshness:
        found = self._looked()
        self._problem = found.problem
        return found

    def _looked(self) -> Freshness:
        problem = None
        preview, self._preview = self._preview, None
        self._previewing = preview is not None and not self.path.exists()
        if preview is not None and self._previewing:
            self._meanwhile = preview()
            return Freshness(True)
        try:
            if self._prepare is not None:
                problem, self._prepare = self._prepare(self.store), None
            if self._mirror is None:
                from store import Mirror

                self._mirror = Mirror(self.store)
            changed = self._mirror.refresh()
        except StoreError as error:
            fresh = not self._filled and self._meanwhile is None
            if fresh:
                from store.shipping import preview as published

                self._meanwhile = published()
            return Freshness(fresh, str(error))
        busy = self._mirror.busy
        if changed:
            self._meanwhile = None
        return Freshness(changed, str(busy) if busy else problem)

    @property
    def ready(self) -> bool:
        """Whether there is anything to ask yet."""
        return self._filled or self._meanwhile is not None

    @property
    def large(self) -> bool:
        """Whether there are so many rows that their first part should be shown before the rest has come."""
        return self._mirror is not None and self._mirror.count > LARGE

    @property
    def _filled(self) -> bool:
        return self._mirror is not None and self._mirror.count > 0

    def query(self, statement: Statement) -> pa.Table:
        """Ask the copy in memory; `refresh` must have run once."""
        meanwhile = self._meanwhile
        if not self._filled and meanwhile is not None:
            cursor = meanwhile.cursor()
            try:
                return cursor.sql(statement.sql, params=statement.parameters).to_arrow_table()
            finally:
                cursor.close()
        return self._mirror.query(statement.sql, statement.parameters)

    def page(self, question: Question, *, limit: int | None = None) -> Page:
        """The rows that answer a question; the first `limit` of them, where one is given."""
        total = int(self.query(tradeoff.count_rows(pivot=question.pivot))["n"][0].as_py())
        if not question.pivot:
            table = self.query(tradeoff.long_rows(question, limit))
            return _page(question, table, total, tradeoff.LONG_COLUMNS, None, limit)
        found = self.query(tradeoff.attack_labels(question)).to_pylist()
        labels, lead = tradeoff.arrange(found), tradeoff.lead_attack(found)
        table = self.query(tradeoff.pivot_rows(question, labels, lead, limit))
        return _page(question, table, total, tradeoff.pivot_columns(labels, lead), lead, limit)

    def details(self, row_keys: Sequence[str]) -> list[dict[str, Any]]:
        """Everything about rows of `tradeoff`, with what is needed to reproduce a measured one: weak attacks first."""
        statement = Statement(
            """
            SELECT t.*, k.config AS attack_config, m.weights_path, m.origin, m.recipe, m.clean_accuracy_recorded,
                e.hostname, e.finished_at, e.preprocessing, p.url, p.notes, a.description,
                a.source AS architecture_source
            FROM tradeoff AS t
            LEFT JOIN attacks AS k ON k.attack_id = t.attack_id
            LEFT JOIN models AS m ON m.model_sha256 = t.model_sha256 AND m.architecture_id = t.architecture_id
            LEFT JOIN evaluations AS e ON e.evaluation_id = t.evaluation_id
            LEFT JOIN publications AS p ON p.publication_id = t.publication
            LEFT JOIN architectures AS a ON a.architecture_id = t.architecture_id
            WHERE t.row_key IN (SELECT unnest(?))
            """,
            [list(row_keys)],  # type: ignore[list-item]
        )
        found: list[dict[str, Any]] = self.query(statement).to_pylist()
        return sorted(found, key=lambda row: (tradeoff.strength(row), row["row_key"]))

    def complete(self, evaluation_ids: Sequence[str]) -> int:
        """How many of these evaluations are in the store and finished."""
        statement = Statement(
            "SELECT count(DISTINCT evaluation_id) AS n FROM tradeoff "
            "WHERE status = 'complete' AND evaluation_id IN (SELECT unnest(?))",
            [list(evaluation_ids)],  # type: ignore[list-item]
        )
        return int(self.query(statement)["n"][0].as_py())

    def close(self) -> None:
        with self._lock:
            if self._mirror is not None:
                self._mirror.close()
            self._meanwhile = None


def _page(
    question: Question, table: pa.Table, total: int, columns: tuple[Column, ...], lead: str | None, limit: int | None
) -> Page:
    """The page with what its rows have in common."""
    import pyarrow.compute as pc

    def occurs(mask: pa.ChunkedArray) -> bool:
        return bool(pc.any(mask).as_py())

    constants = {}
    empty = {name for name in table.column_names if table[name].null_count == table.num_rows}
    if "robust_accuracy_low" in empty:
        empty.add("interval")
    for name in ("dataset", "label", "eps", "threat_space", "verdict", "n_examples", "source", "family"):
        if name in table.column_names and table.num_rows and pc.count_distinct(table[name], mode="all").as_py() == 1:
            value = table[name][0].as_py()
            if value is not None:
                constants[name] = str(value)
    marks = {
        "p": occurs(pc.equal(table["source"], "published")),
        "!": occurs(pc.greater(table["n_warnings"], 0)),
        "~": occurs(pc.invert(pc.is_in(table["status"], _settled()))),
        "*": any(occurs(pc.greater(table[n], 1)) for n in table.column_names if n[:1] == "c" and n[1:].isdigit()),
    }
    width = pc.max(pc.utf8_length(table["architecture"])).as_py() or 0
    names = _names(table)
    width = max([width, *map(len, names.values())])
    sparse = {
        c.id for c in columns if c.kind == "cell" and table[c.id].null_count > (1 - _SPARSE) * max(1, table.num_rows)
    }
    return Page(
        question,
        table,
        total,
        columns,
        lead,
        constants,
        frozenset(empty),
        frozenset(m for m, there in marks.items() if there),
        width,
        names,
        frozenset(sparse),
        limit,
    )


def _names(table: pa.Table) -> dict[tuple[str, int | None], str]:
    """Names of the models that are measured here and share theirs with another one."""
    keys = ["architecture", "architecture_id", "train_seed"]
    if table.num_rows > _FEW:
        table = table.select(keys).group_by(keys).aggregate([])
    rows = zip(*(table[key].to_pylist() for key in keys), strict=True)
    models = [row for row in dict.fromkeys(rows) if row[1] is not None]
    sharing = Counter(architecture for architecture, *_ in models)
    return telling_names((spec, seed) for architecture, spec, seed in models if sharing[architecture] > 1)


def _settled() -> pa.Array:
    import pyarrow as pa

    return pa.array(["complete", "published"])
