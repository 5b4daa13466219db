"""Questions to the results store in SQL: reading only, in the sandbox of the store."""

from __future__ import annotations

import asyncio
import csv
import io
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static, TextArea

from explorer.widgets import cells
from explorer.widgets.background import background
from explorer.widgets.bars import KeyBar, TopBar
from explorer.widgets.binding import bindings
from explorer.widgets.inks import Inks, inks_of
from explorer.widgets.table import Heading, ResultTable
from store.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

    from explorer.screens.application import NasrobApp
    from store.sql import QueryResult

EXAMPLE = """SELECT architecture, attack, eps, threat_space, source, clean_accuracy, robust_accuracy
FROM tradeoff
ORDER BY robust_accuracy DESC"""

#: Rows fetched at most, and seconds that a query may take: leaving the app waits for it.
MOST, SECONDS = 1000, 8.0
#: Cells of a column at most, and the rows by which its width is measured.
_WIDEST, _MEASURED = 40, 200


class QueryRows:
    """The rows of any query."""

    def __init__(self, table: pa.Table, inks: Inks) -> None:
        self.table = table
        self.inks = inks

    @property
    def row_count(self) -> int:
        return int(self.table.num_rows)

    def key(self, row: int) -> str:
        return str(row)

    def index(self, key: str) -> int | None:
        return None

    def cell(self, row: int, column: str) -> Text:
        value = self.table.column(int(column))[row].as_py()
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return cells.text(written(value), self.inks.quiet if value is None else self.inks.text, right=number)


def written(value: Any) -> str:
    """A value of any type on one line."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return str(value)


class Query(TextArea):
    """The editor. Textual's own keeps lines as they were broken at the width before."""

    def on_resize(self) -> None:
        self.call_after_refresh(self._break_anew)

    def _break_anew(self) -> None:
        self._rewrap_and_refresh_virtual_size()
        self.refresh(layout=True)


class SqlScreen(Screen[None]):
    """A query and its rows."""

    BINDINGS = bindings("sql")

    class Answered(Message):
        """The query has come to an end, one way or the other."""

        def __init__(self, result: QueryResult | None, problem: str = "") -> None:
            super().__init__()
            self.result = result
            self.problem = problem

    def __init__(self) -> None:
        super().__init__()
        self.table: pa.Table | None = None

    @property
    def nasrob(self) -> NasrobApp:
        return cast("NasrobApp", self.app)

    def compose(self) -> ComposeResult:
        yield TopBar("sql")
        yield Query(EXAMPLE, id="query", compact=True, highlight_cursor_line=False)
        yield Static("tables, views and macros: nasrob-tui schema", id="answer", markup=False)
        yield ResultTable(id="result")
        yield KeyBar("sql")

    def on_mount(self) -> None:
        self.query_one(TextArea).focus()

    def action_run(self) -> None:
        self.query_one("#answer", Static).set_class(False, "problem")
        self.query_one("#answer", Static).update("running …")
        query = self.query_one(TextArea).selected_text or self.query_one(TextArea).text
        background(self, self._run, query, group="run")

    async def _run(self, query: str) -> None:
        from store import run_query

        try:
            store = await asyncio.to_thread(self.nasrob.results.made_store)
            result = await asyncio.to_thread(run_query, store, query, max_rows=MOST, timeout=SECONDS)
        except StoreError as error:
            self.post_message(self.Answered(None, str(error)))
            return
        self.post_message(self.Answered(result))

    @on(Answered)
    def _show(self, message: Answered) -> None:
        answer = self.query_one("#answer", Static)
        answer.set_class(bool(message.problem), "problem")
        if message.result is None:
            answer.update(f"! {message.problem}")
            return
        self.table = table = message.result.table
        more = (
            f"the first {cells.count(table.num_rows, 'row')}, there are more"
            if message.result.truncated
            else cells.count(table.num_rows, "row")
        )
        answer.update(f"{more}, {message.result.seconds:.2f} s")
        rows = QueryRows(table, inks_of(self.app))
        self.query_one(ResultTable).put(rows, [_heading(table, i) for i in range(table.num_columns)], to_top=True)

    def action_copy(self) -> None:
        if self.table is None:
            return
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.table.column_names)
        writer.writerows(zip(*(column.to_pylist() for column in self.table.columns), strict=True))
        self.nasrob.copy(out.getvalue(), f"{cells.count(self.table.num_rows, 'row')} as CSV")


def _heading(table: pa.Table, index: int) -> Heading:
    import pyarrow.types as types

    kind = table.schema.field(index).type
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    values = table.column(index).slice(0, _MEASURED).to_pylist()
    widest = max((len(written(v)) for v in values), default=0)
    name = cells.text(table.column_names[index]).plain
    return Heading(str(index), name, min(_WIDEST, max(widest, len(name))), "right" if number else "left")
