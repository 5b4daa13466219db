"""The results of one ensemble: whole, members and oracle under an attack, what combining gains, and why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static

from explorer import ensemblelist, ensembleresults
from explorer.ensemblelist import attack_label
from explorer.ensemblepage import BOLD, InsightSheet
from explorer.ensembleresults import Insight
from explorer.errors import ExplorerError
from explorer.results import Freshness
from explorer.widgets.architecture import SheetView
from explorer.widgets.background import background
from explorer.widgets.bars import Banner, KeyBar, TopBar
from explorer.widgets.binding import bindings
from explorer.widgets.inks import inks_of
from store.errors import StoreBusy, StoreError

if TYPE_CHECKING:
    from explorer.screens.application import NasrobApp

#: Until a store that is busy, or that keeps changing, is asked again, in seconds.
PAUSE = 1.0


class EnsembleScreen(Screen[None]):
    """One evaluation of an ensemble at a time: left and right lead to the others."""

    BINDINGS = bindings("ensemble")

    class Found(Message):
        """The evaluations that there are."""

        def __init__(self, rows: list[dict[str, Any]]) -> None:
            super().__init__()
            self.rows = rows

    class Looked(Message):
        """All that an evaluation tells."""

        def __init__(self, insight: Insight) -> None:
            super().__init__()
            self.insight = insight

    class Unreadable(Message):
        """The store could not be read, or can be again."""

        def __init__(self, sentence: str) -> None:
            super().__init__()
            self.sentence = sentence

    def __init__(self, architecture: str, sha256: str | None, dataset: str, evaluation: str | None = None) -> None:
        super().__init__()
        self.architecture, self.sha256, self.dataset = architecture, sha256, dataset
        #: The evaluations that there are; None until they have been looked up.
        self.rows: list[dict[str, Any]] | None = None
        self.insight: Insight | None = None
        #: The evaluation that is shown, or is to be.
        self._wanted = evaluation
        #: The turn of looking that is under way, and whether there is to be another one.
        self._finding: object | None = None
        self._again = False

    @property
    def nasrob(self) -> NasrobApp:
        return cast("NasrobApp", self.app)

    def compose(self) -> ComposeResult:
        yield TopBar("ensembles")
        yield Banner()
        yield Static("", id="about", markup=False)
        yield SheetView()
        yield KeyBar("ensemble")

    def on_mount(self) -> None:
        self.query_one(SheetView).focus()
        self.query_one(TopBar).note = self.architecture.partition("@")[0]
        self.nasrob.store_looked_at.subscribe(self, self._on_store)
        self.nasrob.jobs_moved.subscribe(self, lambda jobs: self._draw())
        self.nasrob.errands_moved.subscribe(self, lambda words: self._draw())
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw())
        self._draw()
        self._find()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    # -- finding out -----------------------------------------------------------------------------------------------

    def _on_store(self, fresh: Freshness) -> None:
        self.query_one(Banner).sentence = fresh.problem or ""
        if fresh.changed and self._finding:
            # While it keeps changing, it is not read all the time.
            self._again = True
        elif fresh.changed:
            self._find()

    def _find(self) -> None:
        background(self, self._find_out, group="find")

    async def _find_out(self) -> None:
        """Look, and look again for as long as there is something new."""
        turn = self._finding = object()
        try:
            self._again = True
            while self._again:
                self._again = False
                await self._look()
                if self._again:
                    await asyncio.sleep(PAUSE)
        finally:
            if self._finding is turn:
                self._finding = None

    async def _look(self) -> None:
        """The evaluations, then the one that is shown. A busy store is asked again."""
        try:
            store = await asyncio.to_thread(self.nasrob.results.made_store)
            rows = await asyncio.to_thread(ensembleresults.evaluations, store, self.architecture, self.sha256)
            self.post_message(self.Found(rows))
            if not rows:
                return
            row = next((row for row in rows if row["evaluation_id"] == self._wanted), rows[0])
            insight = await asyncio.to_thread(ensembleresults.look, store, row)
            if self.insight is not None:
                insight = insight.after(self.insight)
            self.post_message(self.Looked(insight))
            if insight.over_best is None:
                insight = await asyncio.to_thread(ensembleresults.with_intervals, store, insight)
                self.post_message(self.Looked(insight))
        except StoreBusy as error:
            self.post_message(self.Unreadable(str(error)))
            self._again = True
        except (StoreError, ExplorerError) as error:
            self.post_message(self.Unreadable(str(error)))

    def on_ensemble_screen_found(self, message: Found) -> None:
        self.rows = message.rows
        self._draw()

    def on_ensemble_screen_looked(self, message: Looked) -> None:
        if self._wanted in (None, message.insight.identity) or self._at is None:
            self._wanted = message.insight.identity
            self.insight = message.insight
            self.query_one(Banner).sentence = self.nasrob.freshness.problem or ""
            self._draw()

    def on_ensemble_screen_unreadable(self, message: Unreadable) -> None:
        self.query_one(Banner).sentence = message.sentence

    # -- showing ---------------------------------------------------------------------------------------------------

    @property
    def _at(self) -> int | None:
        """The place of the evaluation that is wanted among all."""
        return next((i for i, row in enumerate(self.rows or ()) if row["evaluation_id"] == self._wanted), None)

    def _draw(self) -> None:
        about, sheet = self.query_one("#about", Static), self.query_one(SheetView)
        inks = inks_of(self.app)
        if not self.rows:
            about.update(self.architecture)
            sheet.show(Text("looking …", inks.quiet) if self.rows is None else self._nothing())
            return
        at = self._at or 0
        row = self.rows[at]
        about.update(self._heading(row, at))
        if self.insight is None or self.insight.identity != row["evaluation_id"]:
            sheet.show(Text("looking …", inks.quiet))
            return
        sheet.show(
            InsightSheet(
                self.insight,
                inks,
                measuring=self._going(self.insight.gradient_words) or self._attacked_with("--gradients"),
                transferring=self._going(self.insight.transfer_words)
                or self._attacked_with("--transfer")
                or self._transferring,
            )
        )

    def _heading(self, row: Mapping[str, Any], at: int) -> Content:
        """The attack, the data and the rule at the left; which of how many evaluations it is at the right."""
        rows = self.rows or []
        which = f"{at + 1} of {len(rows)}  ← →" if len(rows) > 1 else ""
        left = Content.assemble(
            (attack_label(row), "bold $foreground"),
            f"  {row['dataset']} · {row['n_examples']} examples · {row['threat_space']} · {row['combine']}",
        )
        room = max(1, self.size.width - 2 - len(which) - 2)
        left = left.truncate(room, ellipsis=True)
        return Content.assemble(left, " " * (room + 2 - left.cell_length), (which, "$accent"))

    def _nothing(self) -> Text:
        """What to do where there is no result."""
        inks = inks_of(self.app)
        return Text.assemble(
            ("\nThere is no complete evaluation of it under an attack yet.\n\n", inks.text),
            ("l", inks.accent + BOLD),
            (" attacks it and its members; the command line does the same:\n", inks.text),
            (self.command, inks.quiet),
        )

    @property
    def command(self) -> str:
        """The command line that says the same; where there is nothing to say, the one that makes it."""
        settings = self.nasrob.settings
        if self.insight is not None:
            return ensemblelist.command(self.insight.report_words(), settings)
        words = ["ensemble", "attack", self.architecture, "--dataset", self.dataset]
        return ensemblelist.command([*words, *(["--weights", self.sha256[:16]] if self.sha256 else [])], settings)

    def _going(self, words: Callable[[], list[str]]) -> bool:
        try:
            return self.nasrob.errands.going([*words(), *ensemblelist.places(self.nasrob.settings)])
        except ExplorerError:
            return False

    def _attacked_with(self, flag: str) -> bool:
        """Whether this attack on this ensemble was started in another way, and measures what the flag asks for too."""
        assert self.insight is not None
        row, name = self.insight.evaluation, self.insight.attack.name
        for words in self.nasrob.errands.under_way:
            given = list(pairwise(words))
            made = {attack.partition("@")[0].partition("-")[0] for option, attack in given if option == "--attack"}
            if (
                words[:3] == ("ensemble", "attack", row["architecture_id"])
                and ("--dataset", row["dataset"]) in given
                and flag in words
                and all(str(row["model_sha256"]).startswith(sha) for option, sha in given if option == "--weights")
                and name.partition("-")[0] in made
            ):
                return True
        return False

    @property
    def _transferring(self) -> bool:
        """Whether a job is making this attack on one part and judges it on another one."""
        assert self.insight is not None
        parts = {part["architecture_id"] for part in self.insight.parts}
        made = f"{self.insight.attack.label} from "
        return any(
            step.architecture in parts and step.attack.startswith(made) and step.state in ("queued", "running")
            for job in self.nasrob.jobs
            if job.active
            for step in job.evaluations
        )

    # -- actions ---------------------------------------------------------------------------------------------------

    def action_previous(self) -> None:
        self._step(-1)

    def action_next(self) -> None:
        self._step(1)

    def _step(self, by: int) -> None:
        if not self.rows or len(self.rows) < 2:
            self.notify("There is one evaluation only: l makes others.", timeout=3)
            return
        self._wanted = self.rows[((self._at or 0) + by) % len(self.rows)]["evaluation_id"]
        self.query_one(SheetView).scroll_home(animate=False)
        self._draw()
        self._find()

    def action_members(self) -> None:
        if self.insight is not None:
            if self.insight.members and not self.insight.unmeasured:
                self.notify("Every member has been attacked alone on these examples.", timeout=3)
            else:
                self._send(self.insight.attack_words, "The members have been attacked.")

    def action_transfer(self) -> None:
        if self.insight is not None:
            if self.insight.members and not self.insight.transfers_missing:
                self.notify("Every pair has been measured.", timeout=3)
            else:
                self._send(self.insight.transfer_words, "The transfers have been measured.")

    def action_gradients(self) -> None:
        if self.insight is not None:
            if self.insight.members and not self.insight.cosines_missing:
                self.notify("The gradients have been compared on these examples.", timeout=3)
            else:
                self._send(self.insight.gradient_words, "The gradients of the members have been compared.")

    def _send(self, words: Callable[[], list[str]], done: str) -> None:
        try:
            self.nasrob.send(words(), done)
        except ExplorerError as error:
            self.notify(str(error), severity="warning", markup=False)

    def action_cells(self) -> None:
        self.nasrob.show_architecture(self.architecture)

    def action_copy(self) -> None:
        self.nasrob.copy(self.command, "the command line")

    def launch_here(self) -> bool:
        """Attack this ensemble."""
        from explorer.screens.ensemble_attack import EnsembleAttackScreen

        self.app.push_screen(EnsembleAttackScreen(self.architecture, self.sha256, self.dataset))
        return True
