"""A row of choices on one line: one of several, or any number of them.

Where the line is too short it shows what is chosen and says how many others there are; with the focus it shows the
words around the cursor.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
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
        #: The words that were drawn, and the cell that each begins at.
        self._drawn: list[tuple[int, int]] = []

    @property
    def values(self) -> list[str]:
        """What is chosen, in the order of the words."""
        return [w for w in self.words if w in self._chosen]

    @property
    def value(self) -> str:
        """The one word chosen."""
        return self.values[0]

    def render(self) -> Content:
        shown, before, after = self._in_sight()
        quiet = self.get_visual_style("choice--other")
        parts: list[tuple[str, Style]] = [(before, quiet)]
        self._drawn, x = [], len(before)
        for i in shown:
            chosen = self.words[i] in self._chosen
            style = self.get_visual_style("choice--chosen" if chosen else "choice--other")
            if self.has_focus and i == self._cursor:
                style += self.get_visual_style("choice--cursor")
            box = ("[x] " if chosen else "[ ] ") if self.multiple else ("● " if chosen else "○ ")
            parts += [(box + self.words[i], style), ("  ", Style())]
            self._drawn.append((i, x))
            x += self._length(i)
        return Content.assemble(*parts, (after, quiet))

    def _length(self, i: int) -> int:
        """Cells of a word with its box and the space behind it."""
        return len(self.words[i]) + (6 if self.multiple else 4)

    def _in_sight(self) -> tuple[list[int], str, str]:
        """The words to draw, and what stands before and behind them for those that are not."""
        everything, width = list(range(len(self.words))), self.size.width
        if sum(map(self._length, everything)) - 2 <= width:
            return everything, "", ""
        if not self.has_focus:
            chosen = [i for i in everything if self.words[i] in self._chosen]
            kept = sum(end + len(f"+{len(everything)}") <= width for end in accumulate(map(self._length, chosen)))
            return chosen[:kept], "", f"+{len(everything) - kept}"
        # Whole pages, so that what is in sight stays where it is while the cursor moves within it.
        pages: list[list[int]] = [[]]
        for i in everything:
            if pages[-1] and sum(map(self._length, [*pages[-1], i])) + 2 > width:
                pages.append([])
            pages[-1].append(i)
        page = next(page for page in pages if self._cursor in page)
        return page, "‹ " if page[0] else "", "›" if page[-1] + 1 < len(everything) else ""

    def get_content_width(self, container: object, viewport: object) -> int:
        return sum(map(self._length, range(len(self.words))))

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
        for i, start in self._drawn:
            if start <= event.x < start + self._length(i) - 2:
                self._cursor = i
                self.action_choose() if self.multiple else self._choose()
                return

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
