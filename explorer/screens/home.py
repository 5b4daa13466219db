"""The trade-off table: clean against robust accuracy of all that is known, measured here or published elsewhere."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Input, Static
from textual_fastdatatable import DataTable

from explorer import filters, tradeoff
from explorer.jobs.following import JobProgress
from explorer.results import Freshness, Page
from explorer.tradeoff import Question, Sort
from explorer.widgets import cells
from explorer.widgets.background import background
from explorer.widgets.bars import Banner, KeyBar, TopBar
from explorer.widgets.binding import bindings
from explorer.widgets.details import DetailView
from explorer.widgets.inks import inks_of
from explorer.widgets.rows import PageRows
from explorer.widgets.said import Said
from explorer.widgets.table import GAP, SCROLL_BAR, Heading, ResultTable, filled

if TYPE_CHECKING:
    from explorer.pareto import Points
    from explorer.screens.application import NasrobApp
    from explorer.widgets.plot import TradeoffPlot

#: From this width on the details of the row under the cursor stand beside the table, and the plot does.
DETAILS_FROM, PLOT_FROM = 140, 110
#: Waiting for the next key before a filter is applied, and for the cursor to rest before details come, in seconds.
TYPING_PAUSE, CURSOR_PAUSE = 0.12, 0.06
#: Of very many rows so many are shown first.
FIRST_ROWS = 500


class HomeScreen(Screen[None]):
    """Table, filter, details of the row under the cursor, and the plot of the same rows."""

    BINDINGS = bindings("home")
    # Never the filter, which stands before it: what is pressed before everything is drawn would be typed there.
    AUTO_FOCUS = "#rows"

    class Answered(Message):
        """Rows have come from the store."""

        def __init__(self, page: Page, to_top: bool) -> None:
            super().__init__()
            self.page = page
            self.to_top = to_top

    class Described(Message):
        """Details of the row under the cursor have come."""

        def __init__(self, rows: list[dict[str, Any]], points: Points | None) -> None:
            super().__init__()
            self.rows = rows
            self.points = points

    def __init__(self) -> None:
        super().__init__()
        self.question = Question()
        self.page: Page | None = None
        self._rows: PageRows | None = None
        self._sorts = {False: Sort(), True: Sort()}
        self._pane_wanted = True
        self._plot_wanted = False
        self._filter_error = ""
        self._jobs: tuple[JobProgress, ...] = ()

    @property
    def nasrob(self) -> NasrobApp:
        return cast("NasrobApp", self.app)

    def compose(self) -> ComposeResult:
        yield TopBar("tradeoff")
        with Horizontal(id="filterbar"):
            yield Static("filter", id="filterlabel")
            yield Input(
                placeholder="family:nas clean>90 params<5M attack:pgd", id="filter", compact=True, select_on_focus=False
            )
            yield Static("", id="count", markup=False)
        yield Banner()
        with Horizontal(id="body"):
            yield ResultTable(id="rows")
            with Vertical(id="side"):
                yield DetailView(id="pane")
        yield Said("", id="status", markup=False)
        yield KeyBar("home")

    def on_mount(self) -> None:
        self.nasrob.store_looked_at.subscribe(self, self._on_store)
        self.nasrob.jobs_moved.subscribe(self, self._on_jobs)
        # What was told before this screen could listen.
        self._on_store(self.nasrob.freshness)
        self._on_jobs(self.nasrob.jobs)
        self.app.theme_changed_signal.subscribe(self, lambda _: self._repaint())
        self._arrange()

    # -- asking ----------------------------------------------------------------------------------------------------

    def ask(self, *, to_top: bool = False, again: bool = False) -> None:
        """Fetch the rows for the question as it is now; an answer to an earlier one is dropped. `again` is for the same
        question to a store that has changed."""
        background(self, self._answer, self.question, to_top, again, group="rows")

    async def _answer(self, question: Question, to_top: bool, again: bool) -> None:
        results = self.nasrob.results
        first = results.large and not again
        if first:
            # Of very many rows the first part is there at once, from the top: the cursor's row may not be in it.
            part = await asyncio.to_thread(results.page, question, limit=FIRST_ROWS)
            self.post_message(self.Answered(part, True))
        page = await asyncio.to_thread(results.page, question)
        self.post_message(self.Answered(page, to_top and not first))

    def _on_store(self, fresh: Freshness) -> None:
        self.query_one(Banner).sentence = fresh.problem or ""
        if fresh.changed:
            if self.page is None and self.nasrob.results.large:
                # Side by side takes a second longer on very many rows: v shows it.
                self.question = replace(self.question, pivot=False)
            self.query_one(TopBar).note = f"updated {datetime.now():%H:%M:%S}"
            self.ask(again=self.page is not None and not self.page.partial)

    @on(Answered)
    def _show(self, message: Answered) -> None:
        self.page = message.page
        self._rows = PageRows(message.page, inks_of(self.app))
        self._lay_out(to_top=message.to_top)
        self._count()
        self._status()

    # -- showing ---------------------------------------------------------------------------------------------------

    def _lay_out(self, *, to_top: bool = False) -> None:
        """Put the rows into the table with the columns that fit its width."""
        if self.page is None or self._rows is None:
            return
        table = self.query_one(ResultTable)
        width = max(20, table.size.width - SCROLL_BAR)
        columns = [tradeoff.headed(c, self.page.question.sort) for c in self.page.columns]
        dull = self.page.constants.keys() | self.page.empty | self.page.sparse
        fitting = tradeoff.fit(
            columns,
            width,
            gap=GAP,
            elastic="architecture",
            wanted=self.page.name_width,
            dull=dull,
            room=tradeoff.NAME_ROOM,
        )
        headings = [Heading(c.id, c.title, c.width, cells.align(c)) for c in fitting]
        table.put(self._rows, filled(headings, width), to_top=to_top)

    def _count(self) -> None:
        if self.page is not None:
            noun = "models" if self.page.question.pivot else "results"
            rows = "…" if self.page.partial else cells.thousands(self.page.table.num_rows)
            self.query_one("#count", Static).update(f"{rows} of {cells.thousands(self.page.total)} {noun}")

    def _status(self) -> None:
        """The line below the table: what all rows share, what the signs mean, and what the running job does; or what is
        wrong with the filter."""
        status = self.query_one("#status", Said)
        status.set_class(bool(self._filter_error), "problem")
        if self._filter_error:
            status.update(f"! {self._filter_error}")
            return
        if self.page is None:
            status.update("")
            return
        shared = [
            self.page.constants[c] for c in ("dataset", "label", "eps", "threat_space") if c in self.page.constants
        ]
        if self.page.lead and self.page.question.pivot:
            shared.append(f"95 % and HRS under {self.page.lead}")
        signs = [f"{sign} {meaning}" for sign, meaning in cells.MARKS.items() if sign in self.page.marks]
        if "*" in self.page.marks:
            signs.append("* lowest of several settings")
        running = next((job for job in self._jobs if job.state == "running"), None)
        parts = ["   ".join(part for part in (" · ".join(shared), "   ".join(signs)) if part)]
        if running is not None:
            parts.append(f"▸ #{running.number} {summary(running)}")
        if not self.page.table.num_rows:
            parts = ["no row passes the filter: esc clears it"]
        text = Content("   ".join(p for p in parts if p))
        status.update(text)

    def _arrange(self) -> None:
        """Decide what stands beside the table at this width."""
        width = self.size.width
        pane = self._pane_wanted and width >= DETAILS_FROM
        plot = self._plot_wanted
        alone = plot and width < PLOT_FROM
        self.query_one("#pane").display = pane
        self.query("TradeoffPlot").set(display=plot)
        self.query_one("#side").display = pane or plot
        self.query_one("#rows").display = not alone
        side = self.query_one("#side")
        side.set_class(alone, "alone")
        side.set_class(width < DETAILS_FROM, "slim")

    def _repaint(self) -> None:
        if self._rows is not None:
            self._rows.inks = inks_of(self.app)
            self.query_one(ResultTable).redraw()
            self._describe()

    def on_resize(self) -> None:
        self._arrange()
        self.call_after_refresh(self._lay_out)
        self.call_after_refresh(self._status)

    # -- the row under the cursor ----------------------------------------------------------------------------------

    @on(DataTable.RowHighlighted)
    def _cursor_moved(self) -> None:
        self._describe()

    def _describe(self) -> None:
        """Fetch the details of the row under the cursor, once it rests, for the pane; tell the plot where it is."""
        if self._rows is None or not self._rows.row_count:
            return
        if self.query_one("#pane").display or self._plot_wanted:
            row = self.query_one(ResultTable).cursor_row
            background(self, self._fetch_details, self._rows.page, row, self._rows.members(row), group="details")

    async def _fetch_details(self, page: Page, row: int, members: list[str]) -> None:
        await asyncio.sleep(CURSOR_PAUSE)
        rows = await asyncio.to_thread(self.nasrob.results.details, members)
        points = await asyncio.to_thread(_comparable, page, row) if self._plot_wanted else None
        self.post_message(self.Described(rows, points))

    @on(Described)
    def _show_details(self, message: Described) -> None:
        self.query_one(DetailView).show(message.rows)
        if message.points is not None and self._plot_wanted:
            from explorer.widgets.plot import TradeoffPlot

            self.query_one(TradeoffPlot).show(message.points)

    # -- jobs ------------------------------------------------------------------------------------------------------

    def _on_jobs(self, jobs: tuple[JobProgress, ...]) -> None:
        self._jobs = jobs
        self._status()

    # -- the filter ------------------------------------------------------------------------------------------------

    @on(Input.Changed, "#filter")
    def _typed(self) -> None:
        background(self, self._apply_filter, group="typing")

    async def _apply_filter(self) -> None:
        await asyncio.sleep(TYPING_PAUSE)
        try:
            wanted = filters.parse(self.query_one("#filter", Input).value)
        except filters.FilterError as error:
            self._filter_error = str(error)
            self._status()
            return
        self._filter_error = ""
        self._status()
        if wanted != self.question.filter:
            self.question = replace(self.question, filter=wanted)
            self.ask()
        self._count()

    @on(Input.Submitted, "#filter")
    def action_leave_filter(self) -> None:
        """Back to the table; the filter stays."""
        self.query_one(ResultTable).focus()

    def filter_by(self, wanted: str) -> None:
        """Put a filter into the box, as if it had been typed."""
        self.query_one("#filter", Input).value = wanted
        self.query_one(ResultTable).focus()

    async def go_back(self) -> None:
        """Escape: out of the filter box, then off the plot that hides the table, then without a filter."""
        box = self.query_one("#filter", Input)
        if box.has_focus:
            self.query_one(ResultTable).focus()
        elif not self.query_one("#rows").display:
            await self.action_plot()
        elif box.value:
            box.value = ""

    # -- actions ---------------------------------------------------------------------------------------------------

    def action_filter(self) -> None:
        self.query_one("#filter", Input).focus()

    def action_sort(self) -> None:
        from explorer.screens.choose import ChooseScreen

        if self.page is None:
            return
        sortable = [c for c in self.page.columns if c.sort]
        self.app.push_screen(
            ChooseScreen("sort by", [(c.id, c.title, c.help) for c in sortable], self.question.sort.column),
            self._sort_by,
        )

    def action_reverse(self) -> None:
        self._resort(replace(self.question.sort, descending=not self.question.sort.descending))

    @on(DataTable.HeaderSelected)
    def _header_clicked(self, event: DataTable.HeaderSelected) -> None:
        heading = self.query_one(ResultTable).heading(event.column_index)
        if heading is not None:
            self._sort_by(heading.id)

    def _sort_by(self, column_id: str | None) -> None:
        """Sort by a column; by the one that is sorted by already, the other way round."""
        column = next((c for c in self.page.columns if c.id == column_id), None) if self.page else None
        if column is None or not column.sort:
            return
        if column.id == self.question.sort.column:
            self.action_reverse()
        else:
            self._resort(Sort(column.id, column.descending))

    def _resort(self, sort: Sort) -> None:
        self.question = replace(self.question, sort=sort)
        self._sorts[self.question.pivot] = sort
        self.ask(to_top=True)

    def action_pivot(self) -> None:
        pivot = not self.question.pivot
        self.question = replace(self.question, pivot=pivot, sort=self._sorts[pivot])
        self.ask(to_top=True)

    def action_pane(self) -> None:
        self._pane_wanted = not self._pane_wanted
        if self.size.width < DETAILS_FROM:
            self.notify(
                f"The details stand beside the table from {DETAILS_FROM} columns on; enter shows them at any width."
            )
        self._changed_sides()

    async def action_plot(self) -> None:
        if not self.query("TradeoffPlot"):
            # Loads numpy and more: only once a plot is asked for.
            plot = (await asyncio.to_thread(_plot_class))()
            await self.query_one("#side").mount(plot, before=0)
        self._plot_wanted = not self._plot_wanted
        self._changed_sides()

    def _changed_sides(self) -> None:
        self._arrange()
        self.call_after_refresh(self._lay_out)
        self._describe()

    def on_tradeoff_plot_picked(self, message: TradeoffPlot.Picked) -> None:
        """A point was clicked: its row."""
        self.query_one(ResultTable).move_cursor(row=message.row)

    def action_details(self) -> None:
        from explorer.screens.details import DetailScreen

        if self._rows is not None and self._rows.row_count:
            self.app.push_screen(DetailScreen(self._rows.members(self.query_one(ResultTable).cursor_row)))

    def action_architecture(self) -> None:
        """Open the page of the architecture under the cursor, with the options that it has there."""
        if self._rows is not None and self._rows.row_count:
            members = self._rows.members(self.query_one(ResultTable).cursor_row)
            background(self, self._show_architecture, members[:1], group="architecture")

    async def _show_architecture(self, row_keys: list[str]) -> None:
        for row in await asyncio.to_thread(self.nasrob.results.details, row_keys):
            self.nasrob.show_architecture(row["architecture_id"] or row["architecture"])

    @on(ResultTable.Opened)
    def _opened(self) -> None:
        self.action_details()

    def action_copy(self) -> None:
        if self._rows is None or not self._rows.row_count:
            return
        row = self.query_one(ResultTable).cursor_row
        self.nasrob.copy(
            "\t".join(self._rows.cell(row, c.id).plain for c in self._rows.page.columns if c.title), "the row"
        )

    def action_export(self) -> None:
        from explorer.screens.export import ExportScreen

        if self.page is not None:
            self.app.push_screen(ExportScreen(self.page, self.query_one(ResultTable).shown))


def _comparable(page: Page, row: int) -> Points:
    from explorer.pareto import comparable

    return comparable(page, row)


def _plot_class() -> type[TradeoffPlot]:
    from explorer.widgets.plot import TradeoffPlot

    return TradeoffPlot


def summary(job: JobProgress) -> str:
    """A running job in a few words."""
    now = job.current
    if now is None:
        return job.title
    part = f"{now.architecture.partition('@')[0]} · {now.attack}  {now.n_done}/{now.n_requested}"
    if now.judged:
        part += f"  {100 * now.n_robust / now.judged:.1f} %"
    return part
