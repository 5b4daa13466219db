"""A short list to choose one thing from."""

from __future__ import annotations

from collections.abc import Sequence

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from explorer.widgets.binding import bindings


class ChooseScreen(ModalScreen[str | None]):
    """Options as (identifier, title, explanation); gives back the identifier, None for a change of mind."""

    BINDINGS = bindings("choose")

    def __init__(self, title: str, options: Sequence[tuple[str, str, str]], current: str | None = None) -> None:
        super().__init__()
        self.heading = title
        self.options = options
        self.current = current

    def compose(self) -> ComposeResult:
        width = max(len(title) for _, title, _ in self.options) + 2
        with Vertical(classes="dialog"):
            yield OptionList(
                *(
                    Option(
                        Content.assemble(
                            "● " if key == self.current else "  ", title.ljust(width), (explanation, "$quiet")
                        ),
                        id=key,
                    )
                    for key, title, explanation in self.options
                ),
                compact=True,
            )

    def on_mount(self) -> None:
        self.query_one(".dialog").border_title = Content(self.heading)
        keys = [key for key, _, _ in self.options]
        if self.current in keys:
            self.query_one(OptionList).highlighted = keys.index(self.current)

    def action_leave(self) -> None:
        self.dismiss(None)

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)
