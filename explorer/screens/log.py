"""What a job said: its events, and what its process printed."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

from textual.app import ComposeResult
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Log, Static

from explorer.jobs.folder import Event, Tail
from explorer.jobs.following import JobProgress
from explorer.widgets.background import background
from explorer.widgets.bars import KeyBar, TopBar
from explorer.widgets.binding import bindings

if TYPE_CHECKING:
    from explorer.screens.application import NasrobApp

#: Of a long printed log, the end is shown: this many bytes.
_END = 200_000
_EVERY = 0.5


class LogScreen(Screen[None]):
    """Events as they come, without the progress reports between them, and `log.txt` below."""

    BINDINGS = bindings("log")

    class Read(Message):
        """More has been written."""

        def __init__(self, events: list[Event], printed: str | None) -> None:
            super().__init__()
            self.events = events
            self.printed = printed

    def __init__(self, job: JobProgress) -> None:
        super().__init__()
        self.job = job
        self._tail = Tail(job.folder / "events.jsonl")
        self._printed = ""

    def compose(self) -> ComposeResult:
        yield TopBar("jobs")
        yield Static(f"#{self.job.number}  {self.job.title}", classes="subject", markup=False)
        yield Log(id="events", max_lines=10_000)
        yield Static(
            f"printed by the process  {self.job.folder / 'log.txt'}",
            classes="subject",
            id="printed-title",
            markup=False,
        )
        yield Log(id="printed", max_lines=10_000)
        yield KeyBar("log")

    def on_mount(self) -> None:
        self.query_one("#events").focus()
        self.query_one("#printed").display = self.query_one("#printed-title").display = False
        background(self, self._follow, group="follow", exclusive=False)

    async def _follow(self) -> None:
        while True:
            events, printed = await asyncio.to_thread(self._read)
            if events or printed != self._printed:
                self.post_message(self.Read(events, printed if printed != self._printed else None))
                self._printed = printed
            await asyncio.sleep(_EVERY)

    def _read(self) -> tuple[list[Event], str]:
        events = [event for event in self._tail.read() if event.kind not in ("progress", "training_progress")]
        try:
            with (self.job.folder / "log.txt").open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - _END))
                printed = file.read().decode("utf-8", "replace")
        except OSError:
            printed = ""
        return events, printed

    def on_log_screen_read(self, message: Read) -> None:
        self.query_one("#events", Log).write_lines([line(event) for event in message.events])
        if message.printed is not None:
            log = self.query_one("#printed", Log)
            log.display = self.query_one("#printed-title").display = bool(message.printed.strip())
            log.clear()
            log.write(_clean(message.printed))

    def action_copy(self) -> None:
        cast("NasrobApp", self.app).copy(str(self.job.folder), "the path of the job's folder")


def line(event: Event) -> str:
    """An event on one line."""
    moment = event.time[11:19] or event.time
    message = event.data.get("message")
    said = (
        message
        if isinstance(message, str)
        else "  ".join(f"{k} {_value(v)}" for k, v in event.data.items() if _telling(v))
    )
    return _clean(f"{moment}  {event.kind.replace('_', ' '):<20}  {said}").replace("\n", " ")


def _telling(value: Any) -> bool:
    return value is not None and value != [] and value != ""


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return value[:12] if len(value) == 64 else value
    return json.dumps(value, ensure_ascii=False, default=str)


def _clean(text: str) -> str:
    """Text without the control sequences that would move the cursor of the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "" if c == "\r" else "�" for c in text)
