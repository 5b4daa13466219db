"""An ensemble under attack: whole, its members alone, one part through another, and the gradients of its members."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from explorer import ensemblelist
from explorer.ensemblebuilding import ALSO, Attacking
from explorer.errors import ExplorerError, exit_code_of
from explorer.widgets.background import background
from explorer.widgets.bars import KeyBar
from explorer.widgets.binding import bindings
from explorer.widgets.choice import Choice
from explorer.widgets.said import Said
from models.attacks import registry as attacks

if TYPE_CHECKING:
    from explorer.screens.application import NasrobApp

#: Waiting for the next key before what was typed is checked, in seconds.
TYPING_PAUSE = 0.2


class EnsembleAttackScreen(ModalScreen[None]):
    """A small form. Enter starts what it says, once that makes sense."""

    BINDINGS = bindings("ensemble_attack")
    AUTO_FOCUS = "#attacks"

    class Checked(Message):
        """The form has been checked: its command line, or what is wrong with it."""

        def __init__(self, words: list[str], problem: str = "") -> None:
            super().__init__()
            self.words = words
            self.problem = problem

    def __init__(self, architecture: str, sha256: str | None, dataset: str) -> None:
        super().__init__()
        self.architecture, self.sha256, self.dataset = architecture, sha256, dataset
        self.words: list[str] = []
        self._starting = False

    @property
    def nasrob(self) -> NasrobApp:
        return cast("NasrobApp", self.app)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            with Horizontal(classes="field"):
                yield Static("attacks", classes="label")
                yield Choice(list(attacks.entries()), chosen=("pgd",), multiple=True, id="attacks")
            with Horizontal(classes="field"):
                yield Static("more", classes="label")
                yield Input(placeholder="pgd-50 pgd@restarts=5", id="more", compact=True)
                yield Static("eps", classes="label second")
                yield Input(placeholder="its own; or 2/255 8/255", id="eps", compact=True)
            with Horizontal(classes="field"):
                yield Static("examples", classes="label")
                yield Input(placeholder="all", id="examples", compact=True)
                yield Static("device", classes="label second")
                yield Input(value="auto", id="device", compact=True)
            with Horizontal(classes="field"):
                yield Static("also", classes="label")
                yield Choice(list(ALSO), chosen=("members",), multiple=True, id="also")
            yield Said("", id="proposal", markup=False)
            yield Said("", id="command", markup=False)
            yield KeyBar("ensemble_attack")

    def on_mount(self) -> None:
        self.query_one(".dialog").border_title = Content(f"attack {self.architecture.partition('@')[0]}")
        self._check()

    @property
    def form(self) -> Attacking:
        """The form as it stands."""

        def typed(name: str) -> str:
            return self.query_one(f"#{name}", Input).value

        return Attacking(
            attacks=tuple(self.query_one("#attacks", Choice).values),
            more=typed("more"),
            eps=typed("eps"),
            examples=typed("examples"),
            device=typed("device"),
            also=tuple(self.query_one("#also", Choice).values),
        )

    @on(Input.Changed)
    @on(Choice.Changed)
    def _check(self) -> None:
        background(self, self._checking, self.form, group="check")

    async def _checking(self, form: Attacking) -> None:
        await asyncio.sleep(TYPING_PAUSE)
        self.post_message(await asyncio.to_thread(self._checked, form))

    def _checked(self, form: Attacking) -> Checked:
        try:
            return self.Checked(form.words(self.architecture, self.sha256, self.dataset, self.nasrob.settings))
        except Exception as error:
            if exit_code_of(error) is None:
                raise
            return self.Checked([], str(error))

    def on_ensemble_attack_screen_checked(self, message: Checked) -> None:
        self.words = message.words
        said = self.query_one("#proposal", Static)
        said.set_class(bool(message.problem), "problem")
        said.update(
            f"! {message.problem}" if message.problem else "one job after the other; what is known is not redone"
        )
        self.query_one("#command", Static).update(f"= {self._command}" if message.words else "")

    @property
    def _command(self) -> str:
        return ensemblelist.command(self.words, self.nasrob.settings)

    # -- actions ---------------------------------------------------------------------------------------------------

    def action_next_field(self) -> None:
        self.focus_next()

    def action_previous_field(self) -> None:
        self.focus_previous()

    @on(Input.Submitted)
    def action_start(self) -> None:
        """Start what the form says at this moment."""
        if not self._starting:
            self._starting = True
            background(self, self._start, group="start", exclusive=False)

    async def _start(self) -> None:
        checked = await asyncio.to_thread(self._checked, self.form)
        self._starting = False
        if checked.problem:
            self.post_message(checked)
            self.app.bell()
            return
        try:
            self.nasrob.send(checked.words, f"{self.architecture.partition('@')[0]} has been attacked.")
        except ExplorerError as error:
            self.post_message(self.Checked([], str(error)))
            return
        self.dismiss()
        self.notify("It is starting: 2 shows its jobs, one after the other.", timeout=4)

    def action_copy(self) -> None:
        if self.words:
            self.nasrob.copy(self._command, "the command line")
        else:
            self.notify("There is no command line yet: the form is not complete.", timeout=3)

    def action_leave(self) -> None:
        self.dismiss()
