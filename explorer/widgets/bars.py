"""The lines around a screen: where one is (above), what one can press (below), and what is wrong, if anything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events
from textual.content import Content
from textual.reactive import reactive
from textual.style import Style
from textual.widget import Widget

from explorer import actions

if TYPE_CHECKING:
    from explorer.jobs.following import JobProgress
    from explorer.screens.application import NasrobApp

#: The places of the top bar: the action that goes there, and what the place is called.
PLACES = (
    ("tradeoff", "Trade-off"),
    ("jobs", "Jobs"),
    ("sql", "SQL"),
    ("ensembles", "Ensembles"),
    ("findings", "Findings"),
)


class TopBar(Widget):
    """One line: the places with the keys that go there, the open one in the accent colour; a word at the right."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"topbar--name", "topbar--here", "topbar--place", "topbar--note"}

    note: reactive[str] = reactive("")
    #: Number of jobs that are running or about to.
    active_jobs: reactive[int] = reactive(0)

    def __init__(self, here: str) -> None:
        super().__init__()
        self.here = here
        self._places: list[int] = []

    def on_mount(self) -> None:
        app = cast("NasrobApp", self.app)
        app.jobs_moved.subscribe(self, self._count)
        self._count(app.jobs)

    def _count(self, jobs: tuple[JobProgress, ...]) -> None:
        self.active_jobs = sum(job.active for job in jobs)

    def render(self) -> Content:
        parts: list[tuple[str, Style]] = [(" nasrob ", self._ink("name"))]
        for action, title in PLACES:
            key = actions.find(f"app.{action}").shown_key
            running = f" ▸{self.active_jobs}" if action == "jobs" and self.active_jobs else ""
            parts.append((f" {key} {title}{running} ", self._ink("here" if action == self.here else "place")))
        note = Content.assemble((self.note, self._ink("note")))
        if sum(len(text) for text, _ in parts) + note.cell_length + 3 > self.size.width:
            # Where there is little room, what is shown says more than what the program is called.
            parts[0] = (" ", self._ink("name"))
        self._places = [len(text) for text, _ in parts]
        left = Content.assemble(*parts)
        note = note.truncate(max(1, self.size.width - left.cell_length - 3), ellipsis=True)
        space = self.size.width - left.cell_length - note.cell_length - 1
        return Content.assemble(left, " " * space, note) if space > 1 else left

    async def on_click(self, event: events.Click) -> None:
        place = _part_at(self._places, event.x) - 1
        if 0 <= place < len(PLACES):
            await self.run_action(f"app.{PLACES[place][0]}")

    def _ink(self, name: str) -> Style:
        return self.get_visual_style(f"topbar--{name}")


class KeyBar(Widget):
    """One line with the keys that matter here, from the registry. What does not fit is left out, the last key never."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"keybar--key", "keybar--label"}

    def __init__(self, scope: str) -> None:
        super().__init__()
        self.scope = scope
        self._kept: list[actions.Action] = []

    def render(self) -> Content:
        entries = [actions.find(name) for name in actions.KEY_BARS[self.scope]]
        kept = list(entries)
        while len(kept) > 1 and _length(kept) > self.size.width:
            del kept[-2]
        key_ink, label_ink = self.get_visual_style("keybar--key"), self.get_visual_style("keybar--label")
        self._kept = kept
        parts: list[tuple[str, Style]] = [(" ", label_ink)]
        for action in kept:
            parts += [(action.shown_key, key_ink), (f" {action.label}   ", label_ink)]
        return Content.assemble(*parts)

    async def on_click(self, event: events.Click) -> None:
        place = _part_at([len(a.shown_key) + len(a.label) + 4 for a in self._kept], event.x - 1)
        if 0 <= place < len(self._kept):
            action = self._kept[place]
            await self.run_action(f"{'app' if action.scope == 'app' else 'screen'}.{action.id}")


class Banner(Widget):
    """A calm sentence about something that is wrong; takes no room while nothing is."""

    sentence: reactive[str] = reactive("", layout=True)

    def watch_sentence(self, sentence: str) -> None:
        self.display = bool(sentence)

    def render(self) -> Content:
        return Content(f" {self.sentence}")


def _length(entries: Iterable[actions.Action]) -> int:
    return 1 + sum(len(a.shown_key) + 1 + len(a.label) + 3 for a in entries) - 3


def _part_at(widths: Iterable[int], x: int) -> int:
    """The part of a line that cell `x` is in, by the widths of the parts; -1 behind the last."""
    end = 0
    for i, width in enumerate(widths):
        end += width
        if x < end:
            return i
    return -1
