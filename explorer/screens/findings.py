"""The study's claims beside what was measured here: the claims above, what they rest on below.

Where there is little room, the claims and the comparisons of one take turns: enter goes in, escape goes back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static
from textual_fastdatatable import DataTable

from explorer.jobs.following import JobProgress
from explorer.results import Freshness
from explorer.tradeoff import Column, fit
from explorer.widgets import cells
from explorer.widgets.background import background
from explorer.widgets.bars import Banner, KeyBar, TopBar
from explorer.widgets.binding import bindings
from explorer.widgets.inks import inks_of
from explorer.widgets.table import GAP, SCROLL_BAR, Heading, ResultTable, Source, filled
from store.errors import StoreBusy, StoreError

if TYPE_CHECKING:
    from explorer.findings import Comparison, Finding
    from explorer.screens.application import NasrobApp

#: From this height on claims and comparisons are shown together.
TOGETHER_FROM = 34
#: Seconds between two computations while the store keeps changing, and until a busy store is asked again.
PAUSE = 2.0
#: Evaluations that a filter of the trade-off table names one by one.
_MOST_IDENTITIES = 60
#: Cells of the part of a claim at most, before there is room to spare.
_PART = 30
_NONE = "computing …"


class FindingsScreen(Screen[None]):
    """Five claims, a verdict on each, and the comparisons behind it."""

    BINDINGS = bindings("findings")
    CSS = """
    FindingsScreen #claims { height: 6; }
    FindingsScreen #finding { height: 1fr; padding: 1 1 0 1; }
    FindingsScreen #claim { height: 1; padding: 0 1; background: $panel; color: $quiet; display: none; }
    FindingsScreen #comparisons { height: 1fr; display: none; }
    FindingsScreen #comparison { height: auto; max-height: 9; padding: 0 1; display: none; }
    FindingsScreen.inside #claims, FindingsScreen.inside #finding { display: none; }
    FindingsScreen.inside #claim, FindingsScreen.inside #comparisons, FindingsScreen.inside #comparison,
    FindingsScreen.together #claim, FindingsScreen.together #comparisons, FindingsScreen.together #comparison {
        display: block;
    }
    FindingsScreen.together #finding { height: auto; max-height: 40%; padding: 1; }
    FindingsScreen.together #comparison { max-height: 14; padding: 0 1 1 1; }
    """

    class Computed(Message):
        """The findings have come, or cannot come yet."""

        def __init__(self, findings: list[Finding], problem: str = "") -> None:
            super().__init__()
            self.findings = findings
            self.problem = problem

    def __init__(self) -> None:
        super().__init__()
        self.findings: list[Finding] = []
        self._inside = False
        self._computing = False
        self._stale = False

    @property
    def nasrob(self) -> NasrobApp:
        return cast("NasrobApp", self.app)

    def compose(self) -> ComposeResult:
        yield TopBar("findings")
        yield Banner()
        yield ResultTable(id="claims")
        with VerticalScroll(id="finding"):
            yield Static(_NONE, id="finding-text", markup=False)
        yield Static("", id="claim", markup=False)
        yield ResultTable(id="comparisons")
        with VerticalScroll(id="comparison", can_focus=False):
            yield Static("", id="detail", markup=False)
        yield KeyBar("findings")

    def on_mount(self) -> None:
        self.query_one(TopBar).note = "findings"
        self.query_one("#claims").focus()
        self.nasrob.store_looked_at.subscribe(self, self._on_store)
        self.nasrob.jobs_moved.subscribe(self, self._on_jobs)
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw())
        self._on_jobs(self.nasrob.jobs)
        self._arrange()
        self._compute()

    # -- finding out -----------------------------------------------------------------------------------------------

    def _on_store(self, fresh: Freshness) -> None:
        if fresh.changed:
            self._compute()

    def _on_jobs(self, jobs: tuple[JobProgress, ...]) -> None:
        self.query_one(TopBar).active_jobs = sum(job.active for job in jobs)

    def _compute(self) -> None:
        """Compute in a thread, one at a time; what changes meanwhile is taken up after a pause."""
        self._stale = True
        if not self._computing:
            self._computing = True
            background(self, self._work, group="compute", exclusive=False)

    async def _work(self) -> None:
        from explorer import findings

        try:
            while self._stale:
                self._stale = False
                began = time.monotonic()
                try:
                    store = await asyncio.to_thread(self.nasrob.results.made_store)
                    found = await asyncio.to_thread(findings.compute, store)
                except StoreError as error:
                    self._stale = isinstance(error, StoreBusy)
                    if not self.findings:
                        self.query_one("#finding-text", Static).update(str(error))
                    self.post_message(self.Computed(self.findings, str(error)))
                else:
                    self.post_message(self.Computed(found))
                if self._stale:
                    await asyncio.sleep(max(PAUSE, 4 * (time.monotonic() - began)))
        finally:
            self._computing = False

    def on_findings_screen_computed(self, message: Computed) -> None:
        self.findings = message.findings
        self.query_one(Banner).sentence = message.problem
        self._draw()

    # -- showing ---------------------------------------------------------------------------------------------------

    @property
    def finding(self) -> Finding | None:
        """The claim under the cursor."""
        key = self.query_one("#claims", ResultTable).cursor_key
        return next((one for one in self.findings if str(one.claim.number) == key), None)

    @property
    def comparison(self) -> Comparison | None:
        """The comparison under the cursor."""
        from explorer.widgets.findings import ComparisonRows

        table = self.query_one("#comparisons", ResultTable)
        rows = table.source
        if isinstance(rows, ComparisonRows) and 0 <= table.cursor_row < rows.row_count:
            return rows.comparisons[table.cursor_row]
        return None

    def _arrange(self) -> None:
        together = self.size.height >= TOGETHER_FROM
        self.set_class(together, "together")
        self.set_class(self._inside and not together, "inside")

    def on_resize(self) -> None:
        self._arrange()
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        if not self.findings:
            return
        from explorer.widgets.findings import CLAIM_COLUMNS, FindingRows

        wanted = max(len(one.claim.title) for one in self.findings)
        self._put("#claims", FindingRows(self.findings, inks_of(self.app)), CLAIM_COLUMNS, "title", wanted)
        self._draw_finding()

    def _draw_finding(self, *, to_top: bool = False) -> None:
        from explorer.widgets.findings import COMPARISON_COLUMNS, ComparisonRows, finding_text

        one, inks = self.finding, inks_of(self.app)
        if one is None:
            return
        self.query_one("#finding-text", Static).update(finding_text(one, inks))
        published, measured = len(one.published_comparisons), len(one.measured)
        about = f"{one.claim.number}  {one.claim.title}   {published} published, {measured} measured"
        self.query_one("#claim", Static).update(Content(about).truncate(max(1, self.size.width - 2), ellipsis=True))
        rows = ComparisonRows(one, inks)
        part = max((len(c.part) for c in rows.comparisons), default=0)
        columns = [_headed(c, one, part) for c in COMPARISON_COLUMNS]
        if to_top:
            self.query_one("#finding", VerticalScroll).scroll_home(animate=False)
        self._put("#comparisons", rows, columns, "part", part, dull=rows.dull, to_top=to_top)
        self._draw_comparison()

    def _draw_comparison(self) -> None:
        from explorer.widgets.findings import comparison_text

        c = self.comparison
        detail = self.query_one("#detail", Static)
        detail.update(comparison_text(c, inks_of(self.app)) if c is not None else "nothing to compare yet")

    def _put(
        self,
        selector: str,
        source: Source,
        columns: Sequence[Column],
        elastic: str,
        wanted: int,
        *,
        dull: frozenset[str] = frozenset(),
        to_top: bool = False,
    ) -> None:
        table = self.query_one(selector, ResultTable)
        width = max(20, self.size.width - SCROLL_BAR)
        fitting = fit(columns, width, gap=GAP, elastic=elastic, wanted=wanted, dull=dull)
        headings = filled([Heading(c.id, c.title, c.width, cells.align(c)) for c in fitting], width)
        with table.prevent(DataTable.RowHighlighted):
            table.put(source, headings, to_top=to_top)

    @on(DataTable.RowHighlighted, "#claims")
    def _claim_moved(self) -> None:
        self._draw_finding(to_top=True)

    @on(DataTable.RowHighlighted, "#comparisons")
    def _comparison_moved(self) -> None:
        self._draw_comparison()

    # -- actions ---------------------------------------------------------------------------------------------------

    def stays(self) -> bool:
        """Escape goes from the comparisons back to the claims."""
        if not self._inside:
            return False
        self._go(inside=False)
        return True

    def _go(self, *, inside: bool) -> None:
        self._inside = inside
        self._arrange()
        self.query_one("#comparisons" if inside else "#claims").focus()
        self.call_after_refresh(self._draw)

    def on_descendant_focus(self, event: Any) -> None:
        """Tab leads from one table to the other too."""
        self._inside = event.widget.id == "comparisons"

    def action_open(self) -> None:
        """From a claim to its comparisons, from a comparison to its rows in the trade-off table."""
        if not self._inside:
            if self.finding is not None:
                self._go(inside=True)
        elif self.comparison is not None:
            self.nasrob.show_rows(rows_filter(self.comparison))

    @on(ResultTable.Opened)
    def _opened(self) -> None:
        self.action_open()

    def action_copy(self) -> None:
        one = self.finding
        if one is not None:
            self.nasrob.copy(f"nasrob-tui findings --claim {one.claim.number}", "the command line")

    def action_decide(self) -> None:
        one = self.finding
        if one is None:
            return
        if one.would_decide is None:
            self.notify("It is decided: there is no command to copy.", timeout=3)
        else:
            self.nasrob.copy(one.would_decide, "the command that would decide it")


def _headed(column: Column, one: Finding, part: int) -> Column:
    """The column as it suits a claim: of several parts each says which it is, of one the header names the groups."""
    from explorer.widgets.findings import HEADERS

    several = len(one.claim.parts) > 1
    if column.id == "part" and several:
        return replace(column, rank=0, width=min(part, _PART) if part else column.width)
    if column.id in ("a", "b") and not several:
        group = one.claim.parts[0].favoured if column.id == "a" else one.claim.parts[0].other
        return replace(column, title=HEADERS[group])
    return column


def rows_filter(c: Comparison) -> str:
    """A filter of the trade-off table for the rows behind a comparison."""
    if c.source == "measured" and len(c.evaluation_ids) <= _MOST_IDENTITIES:
        return "id:" + ",".join(identity[:12] for identity in c.evaluation_ids)
    family = {"handcrafted", "searched"}
    groups = {group.name for group in (c.a, c.b) if group is not None}
    words = [f"source:{c.source}", f"dataset:{c.dataset}", f"attack:{c.attack_name}", f"eps={c.eps}"]
    words += [f"threat:{c.threat_space}", *(["family:handcrafted,nas"] if groups <= family else [])]
    return " ".join(words)
