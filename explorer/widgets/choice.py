"""A row of choices on one line: one of several, or any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.content import Content
from textual.message import Message
from textual.style import Style
from textual.widget import Widget

from explorer.widgets.binding import bindings


class Choice(Widget, can_focus=True):
    """Words side by side. Of `multiple` any number is chosen (space), otherwise the one that the cursor is on."""

    BINDINGS = bindings("choice")
    COMPONENT_CLASSES: ClassVar[set[str]] = {"choice--chosen", "choice--other", "choice--cursor"}

    class Changed(Message):
        """Another set of words is chosen."""

        def __init__(self, choice: Choice) -> None:
            super().__init__()
            self.choice = choice

        @property
        def control(self) -> Choice:
            return self.choice

    def __init__(
        self, words: Sequence[str], *, chosen: Sequence[str] = (), multiple: bool = False, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self.words = list(words)
        self.multiple = multiple
        self._chosen = {w for w in chosen if w in words} or (set() if multiple else set(self.words[:1]))
        self._cursor = next((i for i, w in enumerate(self.words) if w in self._chosen), 0)

    @property
    def values(self) -> list[str]:
        """What is chosen, in the order of the words."""
        return [w for w in self.words if w in self._chosen]

    @property
    def value(self) -> str:
        """The one word chosen."""
        return self.values[0]

    def render(self) -> Content:
        parts: list[tuple[str, Style]] = []
        for i, word in enumerate(self.words):
            chosen = word in self._chosen
            style = self.get_visual_style("choice--chosen" if chosen else "choice--other")
            if self.has_focus and i == self._cursor:
                style += self.get_visual_style("choice--cursor")
            box = ("[x] " if chosen else "[ ] ") if self.multiple else ("● " if chosen else "○ ")
            parts += [(box + word, style), ("  ", Style())]
        return Content.assemble(*parts)

    def get_content_width(self, container: object, viewport: object) -> int:
        return sum(len(w) + (6 if self.multiple else 4) for w in self.words)

    def action_previous(self) -> None:
        self._move(-1)

    def action_next(self) -> None:
        self._move(1)

    def action_choose(self) -> None:
        word = self.words[self._cursor]
        if not self.multiple:
            self._move(1)
            return
        self._chosen ^= {word}
        self.refresh()
        self.post_message(self.Changed(self))

    def on_click(self, event: events.Click) -> None:
        start = 0
        for i, word in enumerate(self.words):
            end = start + len(word) + (4 if self.multiple else 2)
            if start <= event.x < end:
                self._cursor = i
                self.action_choose() if self.multiple else self._choose()
            start = end + 2

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def _move(self, by: int) -> None:
        self._cursor = (self._cursor + by) % len(self.words)
        if not self.multiple:
            self._choose()
        self.refresh()

    def _choose(self) -> None:
        chosen = {self.words[self._cursor]}
        if chosen != self._chosen:
            self._chosen = chosen
            self.post_message(self.Changed(self))
        self.refresh()
