"""The way to start a job: models, attacks, data and device, checked while one types."""

from __future__ import annotations

import asyncio
from dataclasses import replace
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

from explorer import actions, elsewhere, launching
from explorer.errors import ExplorerError
from explorer.launching import Form, ModelChoice, Offer, Proposal, Typed
from explorer.naming import short_names
from explorer.tradeoff import Column, fit
from explorer.widgets import cells
from explorer.widgets.background import background
from explorer.widgets.bars import KeyBar, TopBar
from explorer.widgets.binding import bindings
from explorer.widgets.choice import Choice
from explorer.widgets.inks import Inks, inks_of
from explorer.widgets.line import Line
from explorer.widgets.said import Said
from explorer.widgets.table import GAP, SCROLL_BAR, Heading, ResultTable, filled
from models.attacks import registry as attacks
from models.specs import THREAT_SPACES, VERDICTS

if TYPE_CHECKING:
    from explorer.screens.application import NasrobApp

#: Waiting for the next key before what was typed is checked, in seconds.
TYPING_PAUSE = 0.2

_COLUMNS = (
    Column("chosen", "", "text", 3, 0, "Chosen"),
    Column("architecture", "architecture", "name", 24, 0, "Architecture, with options that are not its usual"),
    Column("family", "fam", "family", 6, 3, "Family"),
    Column("seed", "seed", "count", 4, 2, "Seed of the training"),
    Column("recipe", "recipe", "text", 9, 1, "How the weights were made"),
    Column("clean", "clean", "percent", 5, 0, "Clean accuracy in percent when the weights were made"),
    Column("weights", "weights", "text", 13, 0, "The weights: SHA-256 of their tensors, or the name of published ones"),
    Column("made", "made", "text", 10, 4, "Day on which the weights were made"),
)

#: What the choice of a verdict is called that leaves it to the attack.
_USUAL = "usual"


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
                return cells.text(model.text, base)
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
            case "recipe":
                return cells.text(model.recipe or "", base)
            case "weights":
                return cells.text(model.weights_text, inks.quiet)
            case "made":
                return cells.text(model.made[:10], inks.quiet)
        return Text()


class LaunchScreen(Screen[None]):
    """The form. Enter starts what it says, once that makes sense."""

    BINDINGS = bindings("launch")
    # Most people take models that have weights, which are on top: space chooses them, / leads to the others.
    AUTO_FOCUS = "#models"

    holds_what = "The launch"

    class Offered(Message):
        """The models for a dataset have been looked up."""

        def __init__(self, offer: Offer) -> None:
            super().__init__()
            self.offer = offer

    class LookedUp(Message):
        """What is typed for a model has been looked up."""

        def __init__(self, typed: Typed) -> None:
            super().__init__()
            self.typed = typed

    class Checked(Message):
        """The form has been checked."""

        def __init__(self, form: Form, proposal: Proposal) -> None:
            super().__init__()
            self.form = form
            self.proposal = proposal

    def __init__(self) -> None:
        super().__init__()
        self.offer = Offer(Form().dataset)
        self.typed = Typed("", "", self.offer.dataset)
        self.proposal = Proposal(problem="choose at least one model: space does.")
        #: What is chosen of each dataset, so that going back to one finds it again.
        self._choices: dict[str, dict[str, ModelChoice]] = {}
        #: What became of the choice when another dataset was named; empty when there is nothing to say.
        self._left_behind = ""
        self._checked: Form | None = None
        #: The form before anything was entered.
        self._blank: Form | None = None
        self._starting = False

    @property
    def nasrob(self) -> NasrobApp:
        return cast("NasrobApp", self.app)

    @property
    def chosen(self) -> dict[str, ModelChoice]:
        """The models that are chosen for the dataset, by their keys."""
        return self._choices.setdefault(self.offer.dataset, {})

    def compose(self) -> ComposeResult:
        yield TopBar("jobs")
        with Horizontal(classes="field"):
            yield Static("models", classes="label")
            yield Line(placeholder="find, or type an architecture", id="find", compact=True)
            yield Static("weights", classes="label second")
            yield Line(placeholder="file, SHA-256, DEFAULT", id="weights", compact=True)
        yield ResultTable(id="models")
        with Horizontal(classes="field"):
            yield Static("dataset", classes="label")
            yield Line(value=self.offer.dataset, placeholder="digits", id="dataset", compact=True)
            yield Static("examples", classes="label second")
            yield Input(placeholder="all", id="examples", compact=True)
        with Horizontal(classes="field"):
            yield Static("attacks", classes="label")
            yield Choice(list(attacks.entries()), chosen=launching.usual_attacks(), multiple=True, id="attacks")
        with Horizontal(classes="field"):
            yield Static("more", classes="label")
            yield Input(placeholder="pgd-50 pgd@restarts=5", id="more", compact=True)
            yield Static("eps", classes="label second")
            yield Input(placeholder="its own; or 2/255 8/255", id="eps", compact=True)
        with Horizontal(classes="field"):
            yield Static("threat", classes="label")
            yield Choice(THREAT_SPACES, id="threat")
            yield Static("verdict", classes="label second")
            yield Choice((_USUAL, *VERDICTS), id="verdict")
        with Horizontal(classes="field"):
            yield Static("device", classes="label")
            yield Input(value="auto", placeholder="auto, cpu, cuda:1, mps", id="device", compact=True)
            yield Static("threads", classes="label second")
            yield Input(placeholder="all", id="threads", compact=True)
            yield Static("seed", classes="label")
            yield Input(placeholder="0", id="seed", compact=True)
        yield Said("", id="proposal", markup=False)
        yield Said("", id="command", markup=False)
        yield KeyBar("launch")

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw())
        self._blank = replace(self.form, models=())
        self._find_models()

    def holds(self) -> bool:
        if any(self._choices.values()):
            return True
        return self._blank is not None and (any(self._words) or replace(self.form, models=()) != self._blank)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    # -- models ----------------------------------------------------------------------------------------------------

    @property
    def _dataset(self) -> str:
        """The dataset that is typed; where there is none, the one that stands in its place."""
        return self.query_one("#dataset", Input).value.strip() or Form().dataset

    @on(Input.Changed, "#dataset")
    def _find_models(self) -> None:
        background(self, self._fetch_offer, self._dataset, group="offer")

    async def _fetch_offer(self, dataset: str) -> None:
        if self.offer.models:
            await asyncio.sleep(TYPING_PAUSE)
        self.post_message(self.Offered(await asyncio.to_thread(launching.offer, self.nasrob.settings, dataset)))

    @on(Offered)
    def _show_offer(self, message: Offered) -> None:
        offer = message.offer
        self.query_one("#dataset", Input).suggester = SuggestFromList(offer.here, case_sensitive=False)
        if not offer.problem:
            # Of a name that is half typed nothing is shown: what was there before stays.
            before, count = self.offer, len(self.chosen)
            self.offer = offer
            there = {m.key: m for m in offer.models}
            self._choices[offer.dataset] = {key: there.get(key, model) for key, model in self.chosen.items()}
            if before.dataset != offer.dataset:
                self._left_behind = ""
                if count and not self.chosen:
                    what = "the model chosen is" if count == 1 else f"the {count} models chosen are"
                    self._left_behind = f"{what} for {before.dataset}: choose some for {offer.dataset}, space does."
            self._type()
        self._check()

    @on(Input.Changed, "#find")
    @on(Input.Changed, "#weights")
    def _type(self) -> None:
        """Look up what is typed; what the list has of it is shown at once."""
        background(self, self._look_up, *self._words, self.offer.dataset, group="typed")
        self._draw(to_top=True)

    @property
    def _words(self) -> tuple[str, str]:
        """The architecture and the weights as they are typed."""
        return self.query_one("#find", Input).value.strip(), self.query_one("#weights", Input).value.strip()

    async def _look_up(self, architecture: str, weights: str, dataset: str) -> None:
        if architecture or weights:
            await asyncio.sleep(TYPING_PAUSE)
            found = await launching.look_up(architecture, weights, dataset, self.nasrob.settings)
            self.post_message(self.LookedUp(found))

    @on(LookedUp)
    def _show_typed(self, message: LookedUp) -> None:
        self.typed = message.typed
        self._draw(to_top=not self.query_one(ResultTable).has_focus)

    @property
    def _answer(self) -> Typed | None:
        """What was found out about what is typed; None as long as that is under way."""
        asked = (*self._words, self.offer.dataset)
        if not any(self._words):
            return Typed(*asked)
        typed = self.typed
        return typed if (typed.architecture, typed.weights, typed.dataset) == asked else None

    def _listed(self) -> tuple[ModelChoice, ...]:
        """What is typed stands for these models, and these hold it in their names; everything when nothing is typed."""
        found = list(self._answer.models) if self._answer is not None else []
        architecture, weights = self._words
        if not weights:
            everything = [*self.offer.models, *self.chosen.values()]
            found += [m for m in everything if m.mentions(architecture)]
        unique: dict[str, ModelChoice] = {}
        for model in found:
            unique.setdefault(model.key, model)
        return tuple(unique.values())

    def _draw(self, *, to_top: bool = False) -> None:
        try:
            table = self.query_one("#models", ResultTable)
        except NoMatches:
            return
        rows = ModelRows(self._listed(), self.chosen, inks_of(self.app))
        width = max(20, table.size.width - SCROLL_BAR)
        longest = max((len(m.text) for m in rows.models), default=0)
        columns = fit(_COLUMNS, width, gap=GAP, elastic="architecture", wanted=longest)
        headings = filled([Heading(c.id, c.title, c.width, cells.align(c)) for c in columns], width)
        table.put(rows, headings, to_top=to_top)
        count = len(self.chosen)
        self.query_one(TopBar).note = f"launch · {count} chosen"
        self._show_proposal()

    @on(Input.Submitted, "#find")
    @on(Input.Submitted, "#weights")
    def _found(self, event: Input.Submitted) -> None:
        event.stop()
        self._to_models()

    def _to_models(self) -> None:
        """To the list, unless there is nothing in it and nothing to come."""
        if self._listed() or self._answer is None:
            self.query_one("#models").focus()

    def action_find(self) -> None:
        self.query_one("#find").focus()

    def stays(self) -> bool:
        """Escape leads out of the fields above the list into it."""
        typing = self.focused is not None and self.focused.id in ("find", "weights")
        if typing:
            self.query_one("#models").focus()
        return typing

    def action_choose(self) -> None:
        """Choose the model under the cursor, or leave it out again."""
        table = self.query_one("#models", ResultTable)
        source = table.source
        if not table.has_focus or not isinstance(source, ModelRows) or not source.row_count:
            return
        model = source.models[table.cursor_row]
        if self.chosen.pop(model.key, None) is None:
            self.chosen[model.key] = model
            self._left_behind = ""
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
            # Not those of the dataset before, as long as nobody has looked for models of this one.
            models=tuple(self.chosen.values()) if self.offer.asked == self._dataset else (),
            dataset=self._dataset,
            attacks=tuple(chosen("attacks")),
            more_attacks=typed("more"),
            eps=typed("eps"),
            examples=typed("examples"),
            seed=typed("seed"),
            device=typed("device"),
            threads=typed("threads"),
            threat_space=chosen("threat")[0],
            verdict=None if chosen("verdict") == [_USUAL] else chosen("verdict")[0],
        )

    @on(Input.Changed)
    @on(Choice.Changed)
    def _changed(self, event: Input.Changed | Choice.Changed) -> None:
        if event.control.id not in ("find", "weights", "dataset"):
            self._check()

    def _check(self) -> None:
        form = self.form
        if _asks_packages(form):
            self._say("asking the package how it wants its images …")
        background(self, self._checking, form, group="check")

    async def _checking(self, form: Form) -> None:
        await asyncio.sleep(TYPING_PAUSE)
        self.post_message(self.Checked(form, await launching.check(form, self.nasrob.settings, self.nasrob.results)))

    @on(Checked)
    def _show_checked(self, message: Checked) -> None:
        self._checked, self.proposal = message.form, message.proposal
        self._show_proposal()

    def _show_proposal(self) -> None:
        """One thing that is wrong, the one that the person is at first; or what would be done."""
        proposal, answer = self.proposal, self._answer
        if not self._listed() and self._words != ("", ""):
            self._say(answer.problem if answer else "looking that up …", problem=answer is not None)
        elif proposal.problem:
            sentence = self._left_behind if self._left_behind and not self.chosen else proposal.problem
            self._say(sentence, self._remedy(), problem=True)
        else:
            to_do = proposal.n_evaluations - proposal.n_known
            known = f"{proposal.n_known} of {proposal.n_evaluations} evaluations are in the store"
            command = Content(f"= {proposal.command}")
            self._say(f"{known}, {f'{to_do} to do' if to_do else 'nothing to do: the job answers at once'}", command)

    def _remedy(self) -> str:
        """What training first would do, with its key; empty where it would not help."""
        from explorer.studies import costs

        first = self.proposal.first
        if first is None or not self.chosen:
            return ""
        names = list(short_names(order.architecture for order in first.training.orders).values())
        many = ", ".join(names[:2]) + (f" +{len(names) - 2}" if len(names) > 2 else "")
        took = f", about {costs.about(first.seconds)}" if first.seconds is not None else ""
        then = "them all" if first.beside or len(names) > 1 else "it"
        return f"{actions.find('launch.train').shown_key} trains {many} first{took}, then attacks {then}"

    def _say(self, sentence: str, command: Content | str = "", *, problem: bool = False) -> None:
        said = self.query_one("#proposal", Static)
        said.set_class(problem, "problem")
        said.update(f"! {sentence}" if problem else sentence)
        self.query_one("#command", Static).update(command)

    # -- actions ---------------------------------------------------------------------------------------------------

    def action_next_field(self) -> None:
        if not self.stays():
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
        form = self.form
        try:
            proposal = self.proposal
            # What packages were asked just now they need not be asked again.
            if form != self._checked or not _asks_packages(form):
                proposal = await launching.check(form, self.nasrob.settings, self.nasrob.results)
            if proposal.problem:
                self.post_message(self.Checked(form, proposal))
                self.app.bell()
                return
            numbers = await asyncio.to_thread(launching.start, proposal, self.nasrob.settings)
        except ExplorerError as error:
            self.post_message(self.Checked(form, Proposal(problem=str(error))))
            return
        finally:
            self._starting = False
        self.nasrob.show_jobs(numbers[0])

    def action_train(self) -> None:
        """Start the training of what has no weights, and then the attacks of the form as it stands."""
        if not self._starting:
            self._starting = True
            background(self, self._train, group="start", exclusive=False)

    async def _train(self) -> None:
        form = self.form
        try:
            proposal = self.proposal
            if form != self._checked:
                proposal = await launching.check(form, self.nasrob.settings, self.nasrob.results)
                self.post_message(self.Checked(form, proposal))
            if proposal.first is None:
                self.app.bell()
                if not proposal.problem:
                    self.notify("Every model chosen has weights: enter starts.", timeout=3)
                return
            numbers = await asyncio.to_thread(launching.train_first, proposal.first, self.nasrob.settings)
        except ExplorerError as error:
            self.post_message(self.Checked(form, Proposal(problem=str(error))))
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


def _asks_packages(form: Form) -> bool:
    return elsewhere.plans_more((model.architecture, model.weights) for model in form.models)
