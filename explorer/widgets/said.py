"""Text over a few lines, such as a command: wrapped between words, and an ellipsis where not all of it fits."""

from __future__ import annotations

from textual.content import Content
from textual.geometry import Size
from textual.widgets import Static


class Said(Static):
    """Text that takes the lines it needs, up to the `max-height` of its style. What is cut ends in an ellipsis."""

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(wrapped(self._text, width)) if self._text.plain else 0

    def render(self) -> Content:
        width, height = self.content_size
        return Content("\n").join(wrapped(self._text, max(1, width), max(1, height)))

    @property
    def _text(self) -> Content:
        found = self.visual
        return found if isinstance(found, Content) else Content(str(found))


def wrapped(text: Content, width: int, lines: int | None = None) -> list[Content]:
    """Lines of at most `width` cells, broken between words where that is possible. Of more than `lines` of them the
    last one that is kept ends in an ellipsis."""
    found = [line.rstrip() for line in text.wrap(max(2, width))]
    if lines is None or len(found) <= lines:
        return found
    last = found[lines - 1]
    if last.cell_length >= width:
        last = last.truncate(width - 1)
    return [*found[: lines - 1], last.append("…")]
