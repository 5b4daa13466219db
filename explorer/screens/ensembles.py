"""The ensembles that there are, trained and in training, and the one under the cursor in detail."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Container
from textual.message import Message
from textual.screen import Screen
from textual_fastdatatable import DataTable

from explorer import ensemblelist
from explorer.architectures import pictures_of
from explorer.celldrawing import Drawing
from explorer.ensemblelist import Ensemble, attack_label
from explorer.ensemblepage import BOLD, EnsembleSheet, points
from explorer.errors import ExplorerError
from explorer.jobs.folder import Job
from explorer.jobs.following import JobProgress
from explorer.naming import telling_names
from explorer.render import megas
from explorer.results import Freshness
from explorer.tradeoff import NAME_ROOM, Column, fit
from explorer.widgets import cells
from explorer.widgets.architecture import SheetView, palette_of
from explorer.widgets.background import background
from explorer.widgets.bars import Banner, KeyBar, TopBar
from explorer.widgets.binding import bindings
from explorer.widgets.inks import Inks, inks_of
from explorer.widgets.progress import SIGNS, state_ink
from explorer.widgets.table import GAP, SCROLL_BAR, Heading, ResultTable, filled
from models.architectures import registry as architectures
from models.errors import ModelsError

if TYPE_CHECKING:
    from explorer.screens.application import NasrobApp

#: From this width on the details stand beside the table.
BESIDE_FROM = 150
#: Cells of the name of a dataset at most.
_DATASET = 16

_COLUMNS = (
    Column("state", "", "text", 1, 0, "A sign while it is not trained"),
    Column("name", "ensemble", "name", 18, 0, "Name of the ensemble, with its options where names alone are the same"),
    Column("dataset", "dataset", "text", 8, 2, "Dataset it was trained on"),
    Column("members", "n", "count", 2, 5, "Number of members"),
    Column("combine", "rule", "text", 11, 1, "How the members are combined"),
    Column("seed", "seed", "count", 4, 7, "Seed of the training"),
    Column("params", "params", "size", 6, 6, "Parameters, those of the members included"),
    Column("clean", "clean", "percent", 5, 0, "Clean accuracy in percent"),
    Column("attack", "attack", "text", 14, 1, "The latest attack on it"),
    Column("robust", "robust", "percent", 6, 0, "Robust accuracy under the latest attack, percent"),
    Column("interval", "95 %", "interval", 9, 3, "95 % Wilson interval of the robust accuracy"),
    Column("gain", "gain", "percent", 5, 0, "Robust accuracy over that of the best member, in points"),
)


class EnsembleRows:
    """The ensembles, one a row."""

    def __init__(self, ensembles: Sequence[Ensemble], inks: Inks) -> None:
        self.ensembles = ensembles
        self.inks = inks
        # The rule has a column of its own.
        spelled = [re.sub(r"(?<=[@,])combine=[\w-]+,?", "", one.architecture).rstrip("@,") for one in ensembles]
        models = [(text, one.seed) for text, one in zip(spelled, ensembles, strict=True)]
        short = telling_names(models)
        self.names = [short[model] for model in models]

    @property
    def row_count(self) -> int:
        return len(self.ensembles)

    def key(self, row: int) -> str:
        return self.ensembles[row].key

    def index(self, key: str) -> int | None:
        """The row of an ensemble. One that has been trained since is found by what it is trained from."""
        keys = [one.key for one in self.ensembles]
        if key in keys:
            return keys.index(key)
        return next((i for i, found in enumerate(keys) if key.endswith(" ") and found.startswith(key)), None)

    def cell(self, row: int, column: str) -> Text:
        one, inks = self.ensembles[row], self.inks
        latest = one.latest
        match column:
            case "state":
                return cells.text(SIGNS[one.state] if one.state else "", state_ink(one.state or "", inks))
            case "name":
                return cells.text(self.names[row], inks.text if one.sha256 else inks.quiet)
            case "dataset":
                return cells.text(cells.dataset(one.dataset), inks.text)
            case "members":
                return cells.text(len(one.members) or "–", inks.quiet, right=True)
            case "combine":
                return cells.text(one.combine, inks.text)
            case "seed":
                return cells.text("" if one.seed is None else one.seed, inks.quiet, right=True)
            case "params":
                return cells.text(megas(one.params) or "", inks.text, right=True)
            case "clean":
                clean = latest["clean_accuracy"] if latest else one.clean
                return cells.text("" if clean is None else cells.one_decimal(clean), inks.text, right=True)
            case "attack":
                return self._attack(one)
            case "robust":
                return cells.text(cells.one_decimal(latest["whole"]) if latest else "", inks.text + BOLD, right=True)
            case "interval":
                between = cells.interval(latest["whole_low"], latest["whole_high"]) if latest else ""
                return cells.text(between, inks.quiet, right=True)
            case "gain":
                gain = latest["gain_over_best"] if latest else None
                return cells.text("" if gain is None else points(gain), inks.text, right=True)
        return Text()

    def _attack(self, one: Ensemble) -> Text:
        inks = self.inks
        if one.state is not None:
            done = f"trains, {100 * one.fraction:.0f} %" if one.state == "running" else one.state
            return cells.text(done, state_ink(one.state, inks))
        return cells.text(attack_label(one.latest), inks.text) if one.latest else cells.text("none yet", inks.quiet)


class EnsemblesScreen(Screen[None]):
    """A table of ensembles, and the page of the one under the cursor."""

    BINDINGS = bindings("ensembles")
    AUTO_FOCUS = "#ensembles"

    class Listed(Message):
        """The ensembles with weights have been looked up."""

        def __init__(self, ensembles: list[Ensemble]) -> None:
            super().__init__()
            self.ensembles = ensembles

    class Trained(Message):
        """Jobs have moved: what they are training."""

        def __init__(self, ensembles: list[Ensemble]) -> None:
            super().__init__()
            self.ensembles = ensembles

    def __init__(self) -> None:
        super().__init__()
        #: Those with weights, None until they have been looked up; and those without.
        self._known: list[Ensemble] | None = None
        self._trainings: list[Ensemble] = []
        self._drawings: dict[str, Drawing] = {}

    @property
    def nasrob(self) -> NasrobApp:
        return cast("NasrobApp", self.app)

    def compose(self) -> ComposeResult:
        yield TopBar("ensembles")
        yield Banner()
        with Container(id="ensembles-body"):
            yield ResultTable(id="ensembles")
            yield SheetView(id="ensemble")
        yield KeyBar("ensembles")

    def on_mount(self) -> None:
        self.nasrob.store_looked_at.subscribe(self, self._on_store)
        self.nasrob.jobs_moved.subscribe(self, self._on_jobs)
        self.nasrob.errands_moved.subscribe(self, lambda words: self._draw())
        self.app.theme_changed_signal.subscribe(self, lambda _: self._repaint())
        self.query_one(Banner).sentence = self.nasrob.freshness.problem or ""
        self._on_jobs(self.nasrob.jobs)
        self._draw()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def on_screen_resume(self) -> None:
        # What was made meanwhile, such as a file, need not have moved the store.
        self._list()

    # -- finding out -----------------------------------------------------------------------------------------------

    def _on_store(self, fresh: Freshness) -> None:
        self.query_one(Banner).sentence = fresh.problem or ""
        if fresh.changed:
            self._list()

    def _on_jobs(self, jobs: tuple[JobProgress, ...]) -> None:
        background(self, self._follow, jobs, group="jobs")

    async def _follow(self, jobs: tuple[JobProgress, ...]) -> None:
        self.post_message(self.Trained(await asyncio.to_thread(_in_training, jobs)))

    def _list(self) -> None:
        background(self, self._listing, group="list")

    async def _listing(self) -> None:
        results = self.nasrob.results
        # Before the store has been read, what there is in files is not all.
        if results.ready:
            self.post_message(self.Listed(await asyncio.to_thread(ensemblelist.listing, self.nasrob.settings, results)))

    def on_ensembles_screen_listed(self, message: Listed) -> None:
        self._known = message.ensembles
        self._draw()

    def on_ensembles_screen_trained(self, message: Trained) -> None:
        if message.ensembles != self._trainings:
            self._trainings = message.ensembles
            self._draw()

    @property
    def ensembles(self) -> list[Ensemble] | None:
        """All there are, those in training first; None until they have been looked up."""
        return None if self._known is None else ensemblelist.with_trainings(self._known, self._trainings)

    # -- showing ---------------------------------------------------------------------------------------------------

    @property
    def current(self) -> Ensemble | None:
        """The ensemble under the cursor."""
        source, table = self.query_one(ResultTable).source, self.query_one(ResultTable)
        if not isinstance(source, EnsembleRows) or not 0 <= table.cursor_row < source.row_count:
            return None
        return source.ensembles[table.cursor_row]

    def _draw(self) -> None:
        table, body = self.query_one(ResultTable), self.query_one("#ensembles-body")
        found, beside = self.ensembles or [], self.size.width >= BESIDE_FROM
        body.set_class(beside, "beside")
        table.display = bool(found)
        trained = sum(one.sha256 is not None for one in found)
        working = " · working …" if self.nasrob.errands.busy else ""
        self.query_one(TopBar).note = f"{trained} ensemble{'s' * (trained != 1)}{working}" if found else working[3:]
        # The table is as high as it needs to be: the rest is for the page.
        table.styles.height = "1fr" if beside else max(2, min(len(found) + 1, self.size.height // 3))
        rows = EnsembleRows(found, inks_of(self.app))
        # A table that was hidden has no size yet.
        room = table.size.width or self.size.width * (5 if beside else 9) // 9
        width = max(20, room - SCROLL_BAR)
        longest = max(map(len, rows.names), default=0)
        data = max((len(cells.dataset(one.dataset)) for one in found), default=0)
        every = [replace(c, width=min(max(c.width, data), _DATASET)) if c.id == "dataset" else c for c in _COLUMNS]
        columns = fit(every, width, gap=GAP, elastic="name", wanted=longest, room=NAME_ROOM)
        headings = filled([Heading(c.id, c.title, c.width, cells.align(c)) for c in columns], width)
        with table.prevent(DataTable.RowHighlighted):
            table.put(rows, headings)
        self._describe()

    def _repaint(self) -> None:
        self._drawings.clear()
        self._draw()

    @on(DataTable.RowHighlighted)
    def _describe(self) -> None:
        sheet, inks = self.query_one(SheetView), inks_of(self.app)
        one = self.current
        if one is not None:
            sheet.show(EnsembleSheet(one, inks, self._drawing(one.architecture)))
        else:
            sheet.show(Text("looking …", inks.quiet) if self.ensembles is None else _nothing(inks))

    def _drawing(self, architecture: str) -> Drawing | None:
        """The cells of an ensemble, drawn once; None where this version does not know them."""
        if architecture not in self._drawings:
            try:
                pictures = pictures_of(architectures.parse_architecture(architecture))
            except ModelsError:
                return None
            self._drawings[architecture] = Drawing(pictures, palette_of(inks_of(self.app)))
        return self._drawings[architecture]

    # -- actions ---------------------------------------------------------------------------------------------------

    def action_new(self) -> None:
        from explorer.screens.ensemble_builder import EnsembleBuilderScreen

        self.app.push_screen(EnsembleBuilderScreen())

    def action_results(self) -> None:
        from explorer.screens.ensemble import EnsembleScreen

        one = self.current
        if one is not None and one.sha256 is None:
            self.notify(f"It has no weights yet: job {one.job} is {one.state}.", timeout=3)
        elif one is not None:
            self.app.push_screen(EnsembleScreen(one.architecture, one.sha256, one.dataset))

    @on(ResultTable.Opened)
    def _opened(self) -> None:
        self.action_results()

    def action_cells(self) -> None:
        if (one := self.current) is not None:
            self.nasrob.show_architecture(one.architecture)

    def action_train(self) -> None:
        """Go on with a training that stopped; of a trained one, build it again with another seed."""
        from explorer.screens.ensemble_builder import EnsembleBuilderScreen

        one = self.current
        if one is None:
            self.action_new()
        elif one.sha256 is not None:
            self.app.push_screen(EnsembleBuilderScreen(one))
        elif one.state in ("queued", "running"):
            self.notify(f"Job {one.job} is at it: 2 shows it.", timeout=3)
        elif one.job is not None:
            background(self, self._go_on, one.job, group="train", exclusive=False)

    async def _go_on(self, number: int) -> None:
        try:
            await asyncio.to_thread(Job(self.nasrob.settings.jobs / str(number)).start)
        except (OSError, ExplorerError) as error:
            self.notify(f"Job {number} could not be started: {error}", severity="error", markup=False)
            return
        self.nasrob.board.starting(number)
        self.notify(f"Job {number} goes on.", timeout=3)

    def action_copy(self) -> None:
        """The command that says the results; before there are any, the one that makes it."""
        one, settings = self.current, self.nasrob.settings
        if one is None:
            self.nasrob.copy(_EXAMPLE, "the command line")
            return
        words = ["ensemble", "train", one.architecture, "--dataset", one.dataset]
        words += ["--seed", str(one.seed)] if one.seed else []
        if one.latest is not None:
            words = ["ensemble", "report", "--evaluation", one.latest["evaluation_id"]]
        elif one.sha256 is not None:
            words = one.words("attack")
        self.nasrob.copy(ensemblelist.command(words, settings), "the command line")

    def launch_here(self) -> bool:
        """Attack the ensemble under the cursor; False where there is none that could be."""
        from explorer.screens.ensemble_attack import EnsembleAttackScreen

        one = self.current
        if one is None or one.sha256 is None:
            return False
        self.app.push_screen(EnsembleAttackScreen(one.architecture, one.sha256, one.dataset))
        return True


#: A command line to begin with.
_EXAMPLE = "nasrob-tui ensemble train darts-ensemble-0 --dataset digits"


def _nothing(inks: Inks) -> Text:
    """What to do where there is no ensemble."""
    return Text.assemble(
        ("\nThere is no ensemble yet.\n\n", inks.text + BOLD),
        ("n", inks.accent + BOLD),
        (" builds one: its members are sampled from a search space by a seed,\n", inks.text),
        ("  or picked from models that are trained. The command line does the same:\n\n", inks.text),
        (f"  {_EXAMPLE}\n", inks.quiet),
        ("  nasrob-tui ensemble pick --weights SHA256 --weights SHA256\n", inks.quiet),
    )


def _in_training(jobs: Sequence[JobProgress]) -> list[Ensemble]:
    """The ensembles that jobs are training, or have not come to the end of; of several jobs for one the latest."""
    from explorer.jobs.training import TrainingRequest

    found: dict[str, Ensemble] = {}
    for job in jobs:
        if not job.trainings or job.state == "complete":
            continue
        try:
            request = Job(job.folder).request()
        except ExplorerError:
            continue
        if not isinstance(request, TrainingRequest):
            continue
        fraction = sum(training.fraction for training in job.trainings) / len(job.trainings)
        for order in request.orders:
            one = ensemblelist.in_training(
                order.architecture, order.dataset, order.seed, job=job.number, state=job.state, fraction=fraction
            )
            if one is not None:
                found.setdefault(one.key, one)
    return list(found.values())
