"""The terminal app: trade-offs, jobs and the way to start them. It shows the store and starts processes, and measures
nothing.

Everything that may wait (the store, files, processes) runs in threads, whose answers come back as messages or signals;
widgets are touched only here and in the handlers of their screens.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from textual.app import SystemCommand
from textual.screen import Screen
from textual.signal import Signal

from explorer import actions, errors
from explorer.errands import Errands
from explorer.jobs.following import Board, JobProgress
from explorer.results import Freshness, Results
from explorer.screens.home import HomeScreen
from explorer.settings import Settings
from explorer.widgets import inks
from explorer.widgets.background import background
from explorer.widgets.bars import KeyBar
from explorer.widgets.binding import bindings
from explorer.widgets.inturn import InTurn

if TYPE_CHECKING:
    from explorer.architectures import Counts, Page

#: Time between two looks at the store and at the job folders, in seconds. One that finds nothing costs microseconds.
STORE_EVERY, JOBS_EVERY = 0.5, 0.25


#: The actions that leave what is open, whatever it is.
_LEAVING = frozenset(f"app.{place}" for place in ("tradeoff", "jobs", "sql", "ensembles", "findings", "quit"))


@runtime_checkable
class Stays(Protocol):
    """A screen in which escape has something to leave before the screen itself."""

    def stays(self) -> bool:
        """Leave that, and say whether there was something."""
        ...


@runtime_checkable
class Launches(Protocol):
    """A screen that shows something to attack in a way of its own."""

    def launch_here(self) -> bool:
        """Ask how to attack it, and say whether there was something."""
        ...


@runtime_checkable
class Holds(Protocol):
    """A screen in which a person enters what would be lost without it."""

    #: What it is called in a sentence.
    holds_what: str

    def holds(self) -> bool:
        """Whether anything has been entered."""
        ...


class NasrobApp(InTurn):
    """The app over one store and one folder of jobs. `results` may be reading already; `focus_job` is shown first."""

    CSS_PATH = "application.tcss"
    TITLE = "nasrob"
    BINDINGS = bindings("app")
    COMMAND_PALETTE_BINDING = "ctrl+p"

    def __init__(self, settings: Settings, *, results: Results | None = None, focus_job: int | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.focus_job = focus_job
        self.results = results or Results(settings.store)
        self.board = Board(settings.jobs)
        self.jobs: tuple[JobProgress, ...] = ()
        self.freshness = Freshness(False)
        #: Sizes of architectures that were counted since the start, by canonical name.
        self.counted: dict[str, Counts] = {}
        #: Errors that nobody could have done anything about.
        self.bugs: list[Exception] = []
        #: Published with a `Freshness` whenever a look at the store found something to tell.
        self.store_looked_at: Signal[Freshness] = Signal(self, "store-looked-at")
        #: Commands that are more than one job.
        self.errands = Errands(settings)
        #: Published with the words of a command when it starts and when it ends.
        self.errands_moved: Signal[tuple[str, ...]] = Signal(self, "errands-moved")
        #: Published with all jobs whenever one of them moved.
        self.jobs_moved: Signal[tuple[JobProgress, ...]] = Signal(self, "jobs-moved")
        self.register_theme(inks.DARK)
        self.register_theme(inks.LIGHT)
        self.theme = inks.DARK.name

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return inks.FALLBACK

    def get_default_screen(self) -> Screen[Any]:
        return HomeScreen()

    def on_mount(self) -> None:
        # Greys alone would leave the cursor hard to see.
        self.set_class(bool(os.environ.get("NO_COLOR")), "-no-color")
        self._listen_to_signals()
        background(self, self._follow_store, group="store", exclusive=False)
        background(self, self._follow_jobs, group="jobs", exclusive=False)
        if self.focus_job is not None:
            self.show_jobs(self.focus_job)

    # -- what changes by itself ------------------------------------------------------------------------------------

    async def _follow_store(self) -> None:
        """Look at the store again and again; tell the screens what is new."""
        while True:
            began = time.monotonic()
            fresh = await asyncio.to_thread(self.results.refresh)
            took = time.monotonic() - began
            if fresh.changed or fresh.problem != self.freshness.problem:
                self.freshness = fresh
                self.store_looked_at.publish(fresh)
            # A large store that changes all the time is not copied all the time.
            await asyncio.sleep(max(STORE_EVERY, 4 * took))

    async def _follow_jobs(self) -> None:
        while True:
            moved = await asyncio.to_thread(self.board.poll)
            if moved is not None:
                self.jobs = moved
                self.jobs_moved.publish(moved)
            await asyncio.sleep(JOBS_EVERY)

    def _listen_to_signals(self) -> None:
        """A terminal that closes or a polite kill ends the app in order: the screen is given back."""
        loop = asyncio.get_running_loop()
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                    loop.add_signal_handler(getattr(signal, name), lambda: self.exit(return_code=errors.INTERRUPTED))

    def send(self, words: Sequence[str], done: str) -> None:
        """Start `nasrob-tui WORDS` beside the app, and say `done` when that has ended well.

        Raises `ExplorerError` while the same is under way.
        """
        from explorer import ensemblelist

        command = (*words, *ensemblelist.places(self.settings))
        if self.errands.going(command):
            raise errors.ExplorerError("that is under way already: 2 shows its jobs.")
        background(self, self._send, command, done, group="errands", exclusive=False)

    async def _send(self, command: tuple[str, ...], done: str) -> None:
        going = asyncio.ensure_future(self.errands.run(command))
        await asyncio.sleep(0)
        self.errands_moved.publish(command)
        try:
            await going
            self.notify(done, timeout=4, markup=False)
        finally:
            self.errands_moved.publish(command)

    # -- going places ----------------------------------------------------------------------------------------------

    async def action_back(self) -> None:
        if isinstance(self.screen, HomeScreen):
            await self.screen.go_back()
        elif len(self.screen_stack) > 1 and not (isinstance(self.screen, Stays) and self.screen.stays()):
            self.pop_screen()

    @property
    def held(self) -> Holds | None:
        """The form that is open, maybe below other screens, and that something has been entered in."""
        return next((one for one in reversed(self.screen_stack) if isinstance(one, Holds) and one.holds()), None)

    def _may_leave(self) -> bool:
        """Whether nothing would be lost; says how to leave otherwise."""
        if (held := self.held) is None:
            return True
        self.notify(f"{held.holds_what} is not finished: escape leaves it, enter starts it.", timeout=4)
        return False

    def _to_bottom(self) -> None:
        while len(self.screen_stack) > 1:
            self.pop_screen()

    def action_tradeoff(self) -> None:
        if self._may_leave():
            self._to_bottom()

    def action_jobs(self) -> None:
        if self._may_leave():
            self.show_jobs(None)

    def show_jobs(self, number: int | None) -> None:
        """Open the jobs, on one of them where a number is given."""
        from explorer.screens.jobs import JobsScreen

        if isinstance(self.screen, JobsScreen):
            self.screen.go_to(number)
            return
        self._to_bottom()
        self.push_screen(JobsScreen(number))

    def action_sql(self) -> None:
        from explorer.screens.sql import SqlScreen

        if not isinstance(self.screen, SqlScreen) and self._may_leave():
            self._to_bottom()
            self.push_screen(SqlScreen())

    def action_ensembles(self) -> None:
        if self._may_leave():
            self.show_ensembles()

    def show_ensembles(self) -> None:
        """Open the ensembles."""
        from explorer.screens.ensembles import EnsemblesScreen

        if not isinstance(self.screen, EnsemblesScreen):
            self._to_bottom()
            self.push_screen(EnsemblesScreen())

    def action_findings(self) -> None:
        from explorer.screens.findings import FindingsScreen

        if not isinstance(self.screen, FindingsScreen) and self._may_leave():
            self._to_bottom()
            self.push_screen(FindingsScreen())

    def action_architecture(self) -> None:
        """Choose an architecture to show."""
        background(self, self._choose_architecture, group="architecture")

    async def _choose_architecture(self) -> None:
        from explorer import architectures

        options = await asyncio.to_thread(architectures.choices)
        self._ask_for_architecture("show architecture", options, self.show_architecture)

    def show_architecture(self, text: str) -> None:
        """Open the page of an architecture; a name that nobody knows is said in a sentence."""
        background(self, self._show_architecture, text, group="architecture")

    async def _show_architecture(self, text: str) -> None:
        from explorer import architectures
        from explorer.screens.architecture import ArchitectureScreen

        await self._refuse_newer(text)
        page = await asyncio.to_thread(architectures.look_up, text)
        self.push_screen(ArchitectureScreen(page))

    async def _refuse_newer(self, text: str) -> None:
        """Raise `ExplorerError` for a name that only torchvision knows, if it does: to show it would import torch."""
        from explorer import elsewhere

        if elsewhere.knows_more(text):
            await elsewhere.look_up(text, "published", self.settings)
            raise errors.ExplorerError(
                f"{text} is newer than this version of nasrob-tui: `nasrob-tui archs show {text}` shows it."
            )

    def choose_comparison(self, page: Page) -> None:
        """Choose an architecture of the same space to compare with one."""
        background(self, self._choose_comparison, page, group="architecture")

    async def _choose_comparison(self, page: Page) -> None:
        from explorer import architectures

        options = await asyncio.to_thread(architectures.comparable, page)
        self._ask_for_architecture(
            f"compare {page.text} with",
            options,
            lambda other: background(self, self._compare, page.text, other, group="architecture"),
        )

    async def _compare(self, a: str, b: str) -> None:
        from explorer import architectures
        from explorer.screens.architecture import ComparisonScreen

        await self._refuse_newer(b)
        comparison = await asyncio.to_thread(architectures.compare_architectures, a, b)
        if isinstance(self.screen, ComparisonScreen):
            self.pop_screen()
        self.push_screen(ComparisonScreen(*comparison))

    def _ask_for_architecture(
        self, title: str, options: Sequence[tuple[str, str, str]], then: Callable[[str], None]
    ) -> None:
        from explorer.screens.find import FindScreen

        hint = "a part of the name, darts-random-7, or darts@layers=8"
        self.push_screen(FindScreen(title, options, hint=hint), lambda found: then(found) if found else None)

    def show_rows(self, wanted: str) -> None:
        """Go to the trade-off table with a filter."""
        if self._may_leave():
            self._to_bottom()
        if isinstance(self.screen, HomeScreen):
            self.screen.filter_by(wanted)

    def action_launch(self) -> None:
        from explorer.screens.launch import LaunchScreen

        if isinstance(self.screen, Launches) and self.screen.launch_here():
            return
        if not isinstance(self.screen, LaunchScreen):
            self.push_screen(LaunchScreen())

    def action_help(self) -> None:
        from explorer.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            bars = self.screen.query(KeyBar)
            self.push_screen(HelpScreen(bars.first().scope if bars else ""))

    def action_palette(self) -> None:
        self.action_command_palette()

    def action_theme(self) -> None:
        self.theme = inks.LIGHT.name if self.current_theme.dark else inks.DARK.name

    async def action_quit(self) -> None:
        if not self._may_leave():
            return
        going_on = sum(job.active for job in self.jobs)
        jobs = f"{going_on} job goes" if going_on == 1 else f"{going_on} jobs go"
        self.exit(message=f"{jobs} on: `nasrob-tui jobs` lists them, `nasrob-tui` shows them." if going_on else None)

    def action_help_quit(self) -> None:
        self.notify("q quits; jobs go on.")

    def keep_bug(self, error: Exception) -> None:
        """Say that something went wrong that should not have, and keep its traceback for after the app."""
        self.bugs.append(error)
        self.notify(f"This is a bug ({type(error).__name__}: {error}). Jobs go on.", severity="error", markup=False)

    def copy(self, text: str, what: str) -> None:
        """Put text on the clipboard of the terminal, over SSH too."""
        self.copy_to_clipboard(text)
        self.notify(f"Copied {what}.", timeout=2, markup=False)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every action of the registry that can be done here."""
        held = self.held is not None
        for action in actions.ACTIONS:
            if held and action.name in _LEAVING:
                continue
            target = self if action.scope == "app" else screen
            method = getattr(target, f"action_{action.id}", None)
            if action.palette and method is not None and (action.scope == "app" or _belongs(action, screen)):
                yield SystemCommand(f"{action.label} ({action.shown_key})", action.help, method)


def _belongs(action: actions.Action, screen: Screen[Any]) -> bool:
    return any(
        binding.id == action.name for binding in screen._bindings.key_to_bindings.get(action.key.partition(",")[0], [])
    )
