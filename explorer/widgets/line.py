"""A line to type into that takes what is pasted whole."""

from __future__ import annotations

from rich.cells import cell_len
from textual import events
from textual.widgets import Input


class Line(Input):
    """An input in which the lines of what is pasted, such as a printed genotype, become one."""

    def _on_paste(self, event: events.Paste) -> None:
        text = " ".join(event.text.split())
        if text:
            self.replace(text, *self.selection)
            # The first text of all would be shown from its beginning, with the cursor out of sight behind it.
            end = cell_len(self.value[: self.cursor_position]) + 1
            self.scroll_to(x=max(0, end - self.size.width), animate=False, force=True)
        event.prevent_default()
        event.stop()
