"""The jobs and what they are doing: all of them above, trainings and evaluations of the one under the cursor below."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from textual import on
from textual.app import ComposeResult
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static
from textual_fastdatatable import DataTable

from explorer.errors import ExplorerError
from explorer.jobs.folder import Job
from explorer.jobs.following import JobProgress
from explorer.tradeoff import Column, fit
from explorer.widgets import cells
from explorer.widgets.background import background
from explorer.widgets.bars import Banner, KeyBar, TopBar
from explorer.widgets.binding import bindings
from explorer.widgets.inks import inks_of
from explorer.widgets.progress import EVALUATION_COLUMNS, JOB_COLUMNS, JobRows, StepRows, title
from explorer.widgets.table import GAP, SCROLL_BAR, Heading, ResultTable, Source, filled

if TYPE_CHECKING:
    from explorer.screens.application import NasrobApp


class JobsScreen(Screen[None]):
    """Jobs, live. `number` is the job to start on."""

    BINDINGS = bindings("jobs")

    def __init__(self, number: int | None = None) -> None:
        super().__init__()
        self._jobs: tuple[JobProgress, ...] = ()
        self._wanted = number

    @property
    def nasrob(self) -> NasrobApp:
        return cast("NasrobApp", self.app)

    def compose(self) -> ComposeResult:
        yield TopBar("jobs")
        yield Banner()
        yield ResultTable(id="jobs")
        yield Static("", id="about", markup=False)
        yield ResultTable(id="evaluations")
        yield Static("", id="said", markup=False)
        yield KeyBar("jobs")

    def on_mount(self) -> None:
        self.query_one("#jobs", ResultTable).focus()
        self.nasrob.jobs_moved.subscribe(self, self._on_jobs)
        self.nasrob.store_looked_at.subscribe(
            self, lambda fresh: setattr(self.query_one(Banner), "sentence", fresh.problem or "")
        )
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw())
        self.query_one(Banner).sentence = self.nasrob.freshness.problem or ""
        self._on_jobs(self.nasrob.jobs)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def go_to(self, number: int | None) -> None:
        """Put the cursor on a job; it is waited for if it is not there yet."""
        self._wanted = number
        self._draw()

    def _on_jobs(self, jobs: tuple[JobProgress, ...]) -> None:
        self._jobs = jobs
        self._draw()

    @property
    def current(self) -> JobProgress | None:
        """The job under the cursor."""
        key = self.query_one("#jobs", ResultTable).cursor_key
        return next((job for job in self._jobs if str(job.number) == key), None)

    # -- showing ---------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        inks = inks_of(self.app)
        follow = None
        if self._wanted is not None and any(job.number == self._wanted for job in self._jobs):
            follow, self._wanted = str(self._wanted), None
        width = max((len(title(job)) for job in self._jobs), default=0)
        self._put("#jobs", JobRows(self._jobs, inks), JOB_COLUMNS, "title", width, follow)
        self._draw_evaluations()

    def _draw_evaluations(self) -> None:
        job = self.current
        table = self.query_one("#evaluations", ResultTable)
        same = table.cursor_key is not None and job is not None and table.cursor_key.startswith(f"{job.number}/")
        source = StepRows(job, inks_of(self.app))
        attack = source.attack_width
        columns = [
            replace(c, width=min(24, attack)) if c.id == "attack" and attack > c.width else c
            for c in EVALUATION_COLUMNS
        ]
        self._put("#evaluations", source, columns, "name", source.name_width, to_top=not same)
        about, said = self.query_one("#about", Static), self.query_one("#said", Static)
        if job is None:
            about.update("no job yet: l starts one" if not self._jobs else "")
            said.update("")
            return
        about.update(Content(f"#{job.number}  {job.title}").truncate(max(1, self.size.width - 2), ellipsis=True))
        kind, message = job.messages[-1] if job.messages else ("", "")
        said.set_class(kind == "error", "error")
        said.set_class(kind == "warning", "warning")
        said.update(f"{'✗' if kind == 'error' else '!' if kind == 'warning' else '·'} {message}" if message else "")
        said.display = bool(message)

    def _put(
        self,
        selector: str,
        source: Source,
        columns: Sequence[Column],
        elastic: str,
        wanted: int,
        follow: str | None = None,
        to_top: bool = False,
    ) -> None:
        table = self.query_one(selector, ResultTable)
        width = max(20, table.size.width - SCROLL_BAR)
        fitting = fit(columns, width, gap=GAP, elastic=elastic, wanted=wanted)
        headings = filled([Heading(c.id, c.title, c.width, cells.align(c)) for c in fitting], width)
        with table.prevent(DataTable.RowHighlighted):
            table.put(source, headings, follow=follow, to_top=to_top)

    @on(DataTable.RowHighlighted, "#jobs")
    def _moved(self) -> None:
        self._draw_evaluations()

    # -- actions ---------------------------------------------------------------------------------------------------

    def action_log(self) -> None:
        from explorer.screens.log import LogScreen

        if self.current is not None:
            self.app.push_screen(LogScreen(self.current))

    @on(ResultTable.Opened)
    def _opened(self) -> None:
        self.action_log()

    def action_cancel(self) -> None:
        job = self.current
        if job is None:
            return
        if not job.active:
            self.notify(f"Job {job.number} is not running.", timeout=3)
            return
        background(self, self._cancel, job, group="cancel", exclusive=False)

    async def _cancel(self, job: JobProgress) -> None:
        asked = await asyncio.to_thread(Job(job.folder).cancel)
        if asked:
            self.notify(f"Asked job {job.number} to stop; what is finished stays.", timeout=4)
        else:
            self.notify(f"Job {job.number} has no process yet.", timeout=4)

    def action_resume(self) -> None:
        job = self.current
        if job is None:
            return
        if not job.resumable:
            self.notify(f"Job {job.number} is {job.state}.", timeout=3)
            return
        background(self, self._resume, job, group="resume", exclusive=False)

    async def _resume(self, job: JobProgress) -> None:
        try:
            await asyncio.to_thread(Job(job.folder).start)
        except (OSError, ExplorerError) as error:
            self.notify(f"Job {job.number} could not be started: {error}", severity="error", markup=False)
            return
        self.nasrob.board.starting(job.number)
        self.notify(f"Job {job.number} goes on.", timeout=3)

    def action_copy(self) -> None:
        if self.current is not None and self.current.command:
            self.nasrob.copy(self.current.command, f"the command of job {self.current.number}")
