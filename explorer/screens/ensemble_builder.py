"""The way to make an ensemble: members sampled by a seed or picked from trained models, shown while one chooses."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content
from textual.css.query import NoMatches
from textual.message import Message
from textual.screen import Screen
from textual.suggester import SuggestFromList
from textual.widgets import Input, Static

from explorer import architectures, ensemblebuilding
from explorer.architectures import Counts
from explorer.celldrawing import Drawing
from explorer.ensemblebuilding import ALSO, PICKED_RULES, SPACES, THEN, Form, Proposal
from explorer.ensemblelist import Ensemble
from explorer.ensemblepage import PreviewSheet
from explorer.errors import ExplorerError
from explorer.launching import ModelChoice, Offer
from explorer.render import megas
from explorer.screens.launch import ModelRows
from explorer.tradeoff import Column, fit
from explorer.widgets import cells
from explorer.widgets.architecture import SheetView, palette_of
from explorer.widgets.background import background
from explorer.widgets.bars import KeyBar, TopBar
from explorer.widgets.binding import bindings
from explorer.widgets.choice import Choice
from explorer.widgets.inks import inks_of
from explorer.widgets.line import Line
from explorer.widgets.said import Said
from explorer.widgets.table import GAP, SCROLL_BAR, Heading, ResultTable, filled
from models.ensembles import composition

if TYPE_CHECKING:
    from explorer.screens.application import NasrobApp

#: Waiting for the next key before what was typed is checked, and for a choice to rest before it is counted, in seconds.
TYPING_PAUSE, COUNTING_PAUSE = 0.2, 0.8
#: From this width on the cells stand beside the form.
BESIDE_FROM = 130

SAMPLE, PICK = "sample", "pick"

_COLUMNS = (
    Column("chosen", "", "text", 3, 0, "Chosen"),
    Column("architecture", "architecture", "name", 20, 0, "Architecture, with options that are not its usual"),
    Column("family", "fam", "family", 6, 3, "Family"),
    Column("seed", "seed", "count", 4, 1, "Seed of the training"),
    Column("clean", "clean", "percent", 5, 0, "Clean accuracy in percent when the weights were made"),
    Column("weights", "weights", "text", 8, 0, "The weights: SHA-256 of their tensors"),
    Column("recipe", "recipe", "text", 9, 4, "How the weights were made"),
    Column("made", "made", "text", 10, 5, "Day on which the weights were made"),
)


class EnsembleBuilderScreen(Screen[None]):
    """The form, and the members that it stands for. Enter starts what it says. `like` is an ensemble to begin with."""

    BINDINGS = bindings("ensemble_builder")
    AUTO_FOCUS = "#way"

    holds_what = "The new ensemble"

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

    class Counted(Message):
        """The network has been counted, or cannot be."""

        def __init__(self, key: str, size: str) -> None:
            super().__init__()
            self.key = key
            self.size = size

    def __init__(self, like: Ensemble | None = None) -> None:
        super().__init__()
        self.begin = ensemblebuilding.like(like) if like is not None else Form()
        self.proposal = Proposal()
        self.offer = Offer(self.begin.dataset)
        #: SHA-256 of the models that are chosen, in the order in which they were.
        self.chosen: list[str] = list(self.begin.wanted)
        self._sizes: dict[str, str] = {}
        self._drawing = Drawing(())
        self._starting = False
        #: The form before anything was entered.
        self._blank: Form | None = None

    @property
    def nasrob(self) -> NasrobApp:
        return cast("NasrobApp", self.app)

    def compose(self) -> ComposeResult:
        form = self.begin
        yield TopBar("ensembles")
        with Container(id="builder"):
            with Vertical(id="builder-form"):
                with Horizontal(classes="field"):
                    yield Static("members", classes="label")
                    yield Choice((SAMPLE, PICK), chosen=(SAMPLE if form.sampled else PICK,), id="way")
                    yield Static("", id="count", markup=False)
                with Horizontal(classes="field sample"):
                    yield Static("space", classes="label")
                    yield Choice(SPACES, chosen=(form.space,), id="space")
                    yield Static("seed", classes="label second")
                    yield Input(form.seed, placeholder="0", id="seed", compact=True)
                with Horizontal(classes="field sample"):
                    yield Static("cells", classes="label")
                    yield Input(form.cells, placeholder="usual; or 12-6-2", id="cells", compact=True)
                    yield Static("channels", classes="label second")
                    yield Input(form.channels, placeholder="usual", id="channels", compact=True)
                with Horizontal(classes="field pick"):
                    yield Static("models", classes="label")
                    yield Line(placeholder="find by a part of the name", id="find", compact=True)
                yield ResultTable(id="models")
                with Horizontal(classes="field sample"):
                    yield Static("rule", classes="label")
                    yield Choice(tuple(composition.RULES), chosen=(form.rule,), id="rule")
                with Horizontal(classes="field pick"):
                    yield Static("rule", classes="label")
                    yield Choice(PICKED_RULES, chosen=() if form.sampled else (form.rule,), id="picked-rule")
                with Horizontal(classes="field"):
                    yield Static("dataset", classes="label")
                    yield Line(form.dataset, placeholder="digits", id="dataset", compact=True)
                    yield Static("train seed", classes="label second wider")
                    yield Input(form.training_seed, placeholder="0", id="training-seed", compact=True)
                with Horizontal(classes="field sample"):
                    yield Static("then", classes="label")
                    yield Choice(THEN, chosen=(form.then,), id="then")
                    yield Static("eps", classes="label second")
                    yield Input(placeholder="its own", id="eps", compact=True)
                with Horizontal(classes="field sample"):
                    yield Static("also", classes="label")
                    yield Choice(tuple(ALSO), chosen=("members",), multiple=True, id="also")
                    yield Static("examples", classes="label second")
                    yield Input(placeholder="all", id="examples", compact=True)
                with Horizontal(classes="field"):
                    yield Static("device", classes="label")
                    yield Input("auto", placeholder="auto, cpu, cuda:1, mps", id="device", compact=True)
                    yield Static("threads", classes="label second")
                    yield Input(placeholder="all", id="threads", compact=True)
                    yield Static("epochs", classes="label second sample")
                    yield Input(placeholder="recipe's", id="epochs", compact=True, classes="sample")
                yield Said("", id="proposal", markup=False)
                yield Said("", id="command", markup=False)
            yield SheetView(id="preview")
        yield KeyBar("ensemble_builder")

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, lambda _: self._redraw())
        self.query_one(TopBar).note = "new ensemble"
        self._blank = replace(self.form, models=())
        self._arrange()
        self._find_models()

    def on_resize(self) -> None:
        self._arrange()
        self.call_after_refresh(self._draw)

    def holds(self) -> bool:
        if self._blank is None:
            return False
        return self.chosen != list(self.begin.wanted) or replace(self.form, models=()) != self._blank

    @property
    def sampled(self) -> bool:
        return self.query_one("#way", Choice).value == SAMPLE

    def _arrange(self) -> None:
        """Show what belongs to the way that is chosen, beside the members where there is room."""
        self.query_one("#builder").set_class(self.size.width >= BESIDE_FROM, "beside")
        sampled = self.sampled
        self.query(".sample").set(display=sampled)
        self.query(".pick").set(display=not sampled)
        self.query_one("#models").display = not sampled

    # -- models to pick --------------------------------------------------------------------------------------------

    @property
    def _dataset(self) -> str:
        """The dataset that is typed; where there is none, the one that stands in its place."""
        return self.query_one("#dataset", Input).value.strip() or Form().dataset

    @on(Input.Changed, "#dataset")
    def _find_models(self) -> None:
        background(self, self._fetch_offer, self._dataset, group="offer")

    async def _fetch_offer(self, dataset: str) -> None:
        if self.offer.asked:
            await asyncio.sleep(TYPING_PAUSE)
        offer = await asyncio.to_thread(ensemblebuilding.offer, self.nasrob.settings, dataset)
        self.post_message(self.Offered(offer))

    @on(Offered)
    def _show_offer(self, message: Offered) -> None:
        self.query_one("#dataset", Input).suggester = SuggestFromList(message.offer.here, case_sensitive=False)
        # Of a name that is half typed nothing is shown: what was there before stays.
        if not message.offer.problem:
            self.offer = message.offer
        self._draw()
        self._check()

    @property
    def models(self) -> tuple[ModelChoice, ...]:
        """The models that are chosen and there for the dataset, in the order in which they were chosen."""
        there = {model.sha256: model for model in reversed(self.offer.models)}
        return tuple(there[sha] for sha in self.chosen if sha in there)

    @on(Input.Changed, "#find")
    def _typed(self) -> None:
        self._draw(to_top=True)

    @on(Input.Submitted, "#find")
    def _found(self, event: Input.Submitted) -> None:
        event.stop()
        self.query_one("#models").focus()

    def _draw(self, *, to_top: bool = False) -> None:
        try:
            table = self.query_one("#models", ResultTable)
        except NoMatches:
            return
        wanted = self.query_one("#find", Input).value
        listed = tuple(model for model in self.offer.models if model.mentions(wanted))
        rows = ModelRows(listed, {model.key: model for model in self.models}, inks_of(self.app))
        width = max(20, table.size.width - SCROLL_BAR)
        longest = max((len(model.text) for model in listed), default=0)
        columns = fit(_COLUMNS, width, gap=GAP, elastic="architecture", wanted=longest)
        headings = filled([Heading(c.id, c.title, c.width, cells.align(c)) for c in columns], width)
        table.put(rows, headings, to_top=to_top)
        count = self.query_one("#count", Static)
        chosen = len(self.models)
        count.update("" if self.sampled else f"{chosen} of {len(self.offer.models)} chosen")

    def action_find(self) -> None:
        if self.sampled:
            self.notify("Members are sampled: choose pick to find some.", timeout=3)
        else:
            self.query_one("#find").focus()

    def stays(self) -> bool:
        """Escape leads out of the field above the list into it."""
        typing = self.focused is not None and self.focused.id == "find"
        if typing:
            self.query_one("#models").focus()
        return typing

    def action_choose(self) -> None:
        """Choose the model under the cursor, or leave it out again."""
        table = self.query_one("#models", ResultTable)
        source = table.source
        if not table.has_focus or not isinstance(source, ModelRows) or not source.row_count:
            return
        sha = source.models[table.cursor_row].sha256 or ""
        if sha in self.chosen:
            self.chosen.remove(sha)
        else:
            self.chosen.append(sha)
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

        def chosen(name: str) -> str:
            return self.query_one(f"#{name}", Choice).value

        sampled = self.sampled
        return Form(
            sampled=sampled,
            space=chosen("space"),
            seed=typed("seed"),
            cells=typed("cells"),
            channels=typed("channels"),
            rule=chosen("rule" if sampled else "picked-rule"),
            models=self.models,
            dataset=self._dataset,
            training_seed=typed("training-seed"),
            epochs=typed("epochs"),
            then=chosen("then"),
            eps=typed("eps"),
            examples=typed("examples"),
            also=tuple(self.query_one("#also", Choice).values),
            device=typed("device"),
            threads=typed("threads"),
        )

    @on(Choice.Changed, "#way")
    def _turn(self) -> None:
        self._arrange()
        self.call_after_refresh(self._draw)

    @on(Input.Changed)
    @on(Choice.Changed)
    def _changed(self, event: Input.Changed | Choice.Changed) -> None:
        if event.control.id not in ("find", "dataset"):
            self._check()

    def _check(self) -> None:
        background(self, self._checking, self.form, group="check")

    async def _checking(self, form: Form) -> None:
        await asyncio.sleep(TYPING_PAUSE)
        nasrob = self.nasrob
        proposal = await asyncio.to_thread(ensemblebuilding.propose, form, nasrob.settings, nasrob.results)
        self.post_message(self.Checked(proposal))

    @on(Checked)
    def _show_checked(self, message: Checked) -> None:
        before, self.proposal = self.proposal, message.proposal
        if before.pictures != self.proposal.pictures:
            self._drawing = Drawing(self.proposal.pictures, palette_of(inks_of(self.app)))
        self._show_proposal()
        self._preview()
        key = self._key
        if key and key not in self._sizes:
            background(self, self._count, key, self.proposal, group="count")

    def _show_proposal(self) -> None:
        """What is wrong; or what would be done."""
        proposal = self.proposal
        said, command = self.query_one("#proposal", Static), self.query_one("#command", Static)
        said.set_class(bool(proposal.problem), "problem")
        if proposal.problem:
            said.update(f"! {proposal.problem}")
            command.update("")
            return
        said.update(proposal.note)
        command.update(Content(f"= {proposal.command}"))

    # -- what it would be ------------------------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        """What is counted: an architecture for images and classes; empty where nothing is."""
        proposal = self.proposal
        if proposal.architecture is None:
            return ""
        return f"{proposal.architecture.canonical} {proposal.image_shape} {proposal.num_classes}"

    async def _count(self, key: str, proposal: Proposal) -> None:
        await asyncio.sleep(COUNTING_PAUSE)
        assert proposal.architecture is not None
        channels, side, _ = proposal.image_shape
        of = [f"--in-channels={channels}", f"--input-size={side}", f"--num-classes={proposal.num_classes}"]
        try:
            page = await asyncio.to_thread(architectures.look_up, proposal.architecture.canonical)
            counts = await architectures.count(page, self.nasrob.settings, of=of)
        except ExplorerError as error:
            self.post_message(self.Counted(key, f"not counted: {error}"))
            return
        self.post_message(self.Counted(key, _size(counts)))

    @on(Counted)
    def _show_counted(self, message: Counted) -> None:
        self._sizes[message.key] = message.size
        self._preview()

    def _redraw(self) -> None:
        self._drawing = Drawing(self.proposal.pictures, palette_of(inks_of(self.app)))
        self._draw()
        self._preview()

    def _preview(self) -> None:
        sheet, proposal, inks = self.query_one("#preview", SheetView), self.proposal, inks_of(self.app)
        if not proposal.members:
            sheet.show(Text("" if self.sampled else "space chooses the model under the cursor", inks.quiet))
            return
        if key := self._key:
            size = self._sizes.get(key, "counting its parameters …")
        else:
            size = f"{megas(proposal.params)} parameters" if proposal.params is not None else ""
        many = cells.count(len(proposal.members), "member")
        name = proposal.architecture.canonical if proposal.architecture else many
        sheet.show(PreviewSheet(name, proposal.members, size, self.form.rule, self._drawing, palette_of(inks)))

    # -- actions ---------------------------------------------------------------------------------------------------

    def action_next_field(self) -> None:
        if not self.stays():
            self.focus_next()

    def action_previous_field(self) -> None:
        self.focus_previous()

    def action_page_down(self) -> None:
        self.query_one("#preview", SheetView).scroll_page_down(animate=False)

    def action_page_up(self) -> None:
        self.query_one("#preview", SheetView).scroll_page_up(animate=False)

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.action_start()

    def action_start(self) -> None:
        """Start what the form says at this moment, checked once more."""
        if not self._starting:
            self._starting = True
            background(self, self._start, group="start", exclusive=False)

    async def _start(self) -> None:
        nasrob, form = self.nasrob, self.form
        try:
            proposal = await asyncio.to_thread(ensemblebuilding.propose, form, nasrob.settings, nasrob.results)
            if proposal.problem:
                self.post_message(self.Checked(proposal))
                self.app.bell()
                return
            if proposal.request is not None:
                number = await asyncio.to_thread(ensemblebuilding.start, proposal.request, nasrob.settings)
            else:
                nasrob.send(proposal.words, "The ensemble is made: 4 shows it, l attacks it.")
                nasrob.show_ensembles()
                self.notify("The models are being put together …", timeout=4)
                return
        except ExplorerError as error:
            self.post_message(self.Checked(Proposal(problem=str(error))))
            return
        finally:
            self._starting = False
        nasrob.show_jobs(number)

    def action_copy(self) -> None:
        if self.proposal.command:
            self.nasrob.copy(self.proposal.command, "the command line")
        else:
            self.notify("There is no command line yet: the form is not complete.", timeout=3)


def _size(counts: Counts) -> str:
    parts = [f"{megas(counts.params)} parameters"]
    parts += [f"{megas(counts.macs)} multiply-adds"] if counts.macs is not None else []
    side = counts.input_size
    return f"{' · '.join(parts)} for {counts.in_channels}x{side}x{side}, {counts.num_classes} classes"
