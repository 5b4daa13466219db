"""The way to start a job: models, attacks, data and device, checked while one types."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.css.query import NoMatches
from textual.message import Message
from textual.screen import Screen
from textual.suggester import SuggestFromList
from textual.widgets import Input, Static

from explorer import launching
from explorer.errors import ExplorerError
from explorer.launching import Form, ModelChoice, Offer, Proposal
from explorer.tradeoff import Column, fit
from explorer.widgets import cells
from explorer.widgets.background import background
from explorer.widgets.bars import KeyBar, TopBar
from explorer.widgets.binding import bindings
from explorer.widgets.choice import Choice
from explorer.widgets.inks import Inks, inks_of
from explorer.widgets.table import GAP, SCROLL_BAR, Heading, ResultTable, filled
from models.attacks import registry as attacks
from models.specs import THREAT_SPACES, VERDICTS

if TYPE_CHECKING:
    from explorer.screens.application import NasrobApp

#: Waiting for the next key before what was typed is checked, in seconds.
TYPING_PAUSE = 0.2

_COLUMNS = (
    Column("chosen", "", "text", 3, 0, "Chosen"),
    Column("architecture", "architecture", "name", 24, 0, "Architecture with its options"),
    Column("family", "fam", "family", 6, 3, "Family"),
    Column("seed", "seed", "count", 4, 2, "Seed of the training"),
    Column("clean", "clean", "percent", 5, 1, "Clean accuracy in percent when the weights were made"),
    Column("weights", "weights", "text", 10, 0, "SHA-256 of the weights"),
)


class ModelRows:
    """The models that may be chosen."""

    def __init__(self, models: tuple[ModelChoice, ...], chosen: dict[str, ModelChoice], inks: Inks) -> None:
        self.models = models
        self.chosen = chosen
        self.inks = inks

    @property
    def row_count(self) -> int:
        return len(self.models)

    def key(self, row: int) -> str:
        return self.models[row].key

    def index(self, key: str) -> int | None:
        return next((i for i, model in enumerate(self.models) if model.key == key), None)

    def cell(self, row: int, column: str) -> Text:
        model, inks = self.models[row], self.inks
        chosen = model.key in self.chosen
        base = inks.text if model.weights else inks.quiet
        match column:
            case "chosen":
                return cells.text("[x]" if chosen else "[ ]", inks.accent if chosen else inks.quiet)
            case "architecture":
                return cells.text(model.architecture, base)
            case "family":
                return cells.text(
                    cells.FAMILIES.get(model.family, model.family), inks.family(model.family) if model.weights else base
                )
            case "seed":
                return cells.text("" if model.seed is None else model.seed, inks.quiet, right=True)
            case "clean":
                return cells.text(
                    cells.one_decimal(model.clean_accuracy) if model.clean_accuracy is not None else "",
                    base,
                    right=True,
                )
            case "weights":
                return cells.text((model.sha256 or "")[:8] or "none yet", inks.quiet)
        return Text()


class LaunchScreen(Screen[None]):
    """The form. Enter starts what it says, once that makes sense."""

    BINDINGS = bindings("launch")

    class Offered(Message):
        """The models for a dataset have been looked up."""

        def __init__(self, offer: Offer) -> None:
            super().__init__()
            self.offer = offer

    class Checked(Message):
        """The form has been checked."""

        def __init__(self, proposal: Proposal) -> None:
            super().__init__()
            self.proposal = proposal

    def __init__(self) -> None:
        super().__init__()
        self.offer = Offer("digits")
        self.chosen: dict[str, ModelChoice] = {}
        self.proposal = Proposal(problem="choose at least one model: space does.")
        self._starting = False

    @property
    def nasrob(self) -> NasrobApp:
        return cast("NasrobApp", self.app)

    def compose(self) -> ComposeResult:
        names = list(attacks.entries())
        yield TopBar("jobs")
        with Horizontal(classes="field"):
            yield Static("models", classes="label")
            yield Input(placeholder="find, or type darts-random-7 or darts@layers=8", id="find", compact=True)
            yield Static("", id="n-chosen", markup=False)
        yield ResultTable(id="models")
        with Horizontal(classes="field"):
            yield Static("dataset", classes="label")
            here = launching.datasets_here()
            yield Input(
                value=here[0],
                placeholder=" ".join(here),
                suggester=SuggestFromList(here, case_sensitive=False),
                id="dataset",
                compact=True,
            )
            yield Static("examples", classes="label second")
            yield Input(placeholder="all", id="examples", compact=True)
        with Horizontal(classes="field"):
            yield Static("attacks", classes="label")
            yield Choice(names, chosen=names, multiple=True, id="attacks")
            yield Static("more", classes="label second")
            yield Input(placeholder="pgd-50 pgd@restarts=5", id="more", compact=True)
        with Horizontal(classes="field"):
            yield Static("eps", classes="label")
            yield Input(value="8/255", placeholder="2/255 4/255 8/255", id="eps", compact=True)
            yield Static("seed", classes="label second")
            yield Input(placeholder="0", id="seed", compact=True)
        with Horizontal(classes="field"):
            yield Static("device", classes="label")
            yield Input(value="auto", placeholder="auto, cpu, cuda, cuda:1, mps", id="device", compact=True)
            yield Static("threads", classes="label second")
            yield Input(placeholder="all", id="threads", compact=True)
        with Horizontal(classes="field"):
            yield Static("threat", classes="label")
            yield Choice(THREAT_SPACES, id="threat")
            yield Static("verdict", classes="label second")
            yield Choice(VERDICTS, id="verdict")
        yield Static("", id="proposal", markup=False)
        yield Static("", id="command", markup=False)
        yield KeyBar("launch")

    def on_mount(self) -> None:
        self.query_one(ResultTable).focus()
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw())
        self.query_one(TopBar).active_jobs = sum(job.active for job in self.nasrob.jobs)
        self._look_up()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    # -- models ----------------------------------------------------------------------------------------------------

    @on(Input.Changed, "#dataset")
    def _look_up(self) -> None:
        name = self.query_one("#dataset", Input).value
        background(self, self._fetch_offer, name, group="offer")

    async def _fetch_offer(self, dataset: str) -> None:
        if self.offer.models:
            await asyncio.sleep(TYPING_PAUSE)
        self.post_message(self.Offered(await asyncio.to_thread(launching.offer, self.nasrob.settings, dataset)))

    @on(Offered)
    def _show_offer(self, message: Offered) -> None:
        if not message.offer.known:
            # A name that is half typed: what was chosen stays.
            self._check()
            return
        self.offer = message.offer
        there = {m.key: m for m in message.offer.models}
        self.chosen = {key: there[key] for key in self.chosen if key in there}
        self._draw()
        self._check()

    def _listed(self) -> tuple[ModelChoice, ...]:
        """The models whose name holds what is typed; a name that nobody has stands there as well, if it is one."""
        wanted = self.query_one("#find", Input).value.strip()
        everything = [*self.offer.models, *(m for m in self.chosen.values() if m not in self.offer.models)]
        if not wanted:
            return tuple(everything)
        found = [
            m for m in everything if wanted.lower() in m.architecture.lower() or (m.sha256 or "").startswith(wanted)
        ]
        new = launching.typed(wanted, self.offer.dataset)
        if new is not None and all(m.architecture != new.architecture for m in everything):
            found.append(new)
        return tuple(found)

    def _draw(self) -> None:
        try:
            table = self.query_one("#models", ResultTable)
        except NoMatches:
            return
        rows = ModelRows(self._listed(), self.chosen, inks_of(self.app))
        width = max(20, table.size.width - SCROLL_BAR)
        longest = max((len(m.architecture) for m in rows.models), default=0)
        columns = fit(_COLUMNS, width, gap=GAP, elastic="architecture", wanted=longest)
        table.put(rows, filled([Heading(c.id, c.title, c.width, cells.align(c)) for c in columns], width))
        self.query_one("#n-chosen", Static).update(f"{len(self.chosen)} chosen")
        self._show_proposal()

    @on(Input.Changed, "#find")
    def _finding(self) -> None:
        self._draw()

    @on(Input.Submitted, "#find")
    def _found(self, event: Input.Submitted) -> None:
        event.stop()
        self.query_one("#models").focus()

    def action_choose(self) -> None:
        """Choose the model under the cursor, or leave it out again."""
        table = self.query_one("#models", ResultTable)
        source = table.source
        if not table.has_focus or not isinstance(source, ModelRows) or not source.row_count:
            return
        model = source.models[table.cursor_row]
        if self.chosen.pop(model.key, None) is None:
            self.chosen[model.key] = model
        self._draw()
        self._check()

    @on(ResultTable.Opened)
    def _opened(self) -> None:
        self.action_choose()

    # -- checking --------------------------------------------------------------------------------------------------

    @property
    def form(self) -> Form:
        """The form as it stands."""

        def typed(name: str) -> str:
            return self.query_one(f"#{name}", Input).value

        def chosen(name: str) -> list[str]:
            return self.query_one(f"#{name}", Choice).values

        return Form(
            models=tuple(self.chosen.values()),
            dataset=typed("dataset"),
            attacks=tuple(chosen("attacks")),
            more_attacks=typed("more"),
            eps=typed("eps"),
            examples=typed("examples"),
            seed=typed("seed"),
            device=typed("device"),
            threads=typed("threads"),
            threat_space=chosen("threat")[0],
            verdict=chosen("verdict")[0],
        )

    @on(Input.Changed)
    @on(Choice.Changed)
    def _changed(self, event: Input.Changed | Choice.Changed) -> None:
        if event.control.id != "find":
            self._check()

    def _check(self) -> None:
        background(self, self._checking, group="check")

    async def _checking(self) -> None:
        await asyncio.sleep(TYPING_PAUSE)
        proposal = await asyncio.to_thread(launching.propose, self.form, self.nasrob.settings, self.nasrob.results)
        self.post_message(self.Checked(proposal))

    @on(Checked)
    def _show_checked(self, message: Checked) -> None:
        self.proposal = message.proposal
        self._show_proposal()

    def _show_proposal(self) -> None:
        said, command = self.query_one("#proposal", Static), self.query_one("#command", Static)
        proposal = self.proposal
        said.set_class(bool(proposal.problem), "problem")
        if proposal.problem:
            said.update(f"! {proposal.problem}")
            command.update("")
            return
        to_do = proposal.n_evaluations - proposal.n_known
        known = f"{proposal.n_known} of {proposal.n_evaluations} evaluations are in the store"
        said.update(f"{known}, {f'{to_do} to do' if to_do else 'nothing to do: the job answers at once'}")
        width = max(10, self.size.width * 2 - 6)
        command.update(Content(f"= {proposal.command}").truncate(width, ellipsis=True))

    # -- actions ---------------------------------------------------------------------------------------------------

    def action_next_field(self) -> None:
        self.focus_next()

    def action_previous_field(self) -> None:
        self.focus_previous()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.action_start()

    def action_start(self) -> None:
        """Start what the form says at this moment, checked once more."""
        if not self._starting:
            self._starting = True
            background(self, self._start, group="start", exclusive=False)

    async def _start(self) -> None:
        try:
            proposal = await asyncio.to_thread(launching.propose, self.form, self.nasrob.settings, self.nasrob.results)
            if proposal.problem:
                self.post_message(self.Checked(proposal))
                self.app.bell()
                return
            numbers = await asyncio.to_thread(launching.start, proposal, self.nasrob.settings)
        except ExplorerError as error:
            self.post_message(self.Checked(Proposal(problem=str(error))))
            return
        finally:
            self._starting = False
        self.nasrob.show_jobs(numbers[0])

    def action_copy(self) -> None:
        if self.proposal.requests:
            self.nasrob.copy(self.proposal.command, "the command line")
        elif self.proposal.remedy:
            self.nasrob.copy(self.proposal.remedy, "the command that trains it")
        else:
            self.notify("There is no command line yet: the form is not complete.", timeout=3)
