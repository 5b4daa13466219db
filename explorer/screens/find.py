"""A long list to choose from by typing a part of what one looks for."""

from __future__ import annotations

from collections.abc import Sequence

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from explorer.widgets.bars import KeyBar
from explorer.widgets.binding import bindings
from explorer.widgets.line import Line

#: Width of the names in cells; longer ones push their explanation to the right.
_NAME_WIDTH = 26


class FindScreen(ModalScreen[str | None]):
    """Options as (identifier, title, explanation); gives back the identifier, None for a change of mind.

    What is typed may be something that no option has, such as one of a family without end: it stands last in the list.
    """

    BINDINGS = bindings("find")

    def __init__(self, title: str, options: Sequence[tuple[str, str, str]], *, hint: str = "") -> None:
        super().__init__()
        self.heading = title
        self.options = options
        self.hint = hint

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall"):
            with Horizontal(classes="field"):
                yield Static("find", classes="label")
                yield Line(placeholder=self.hint, compact=True)
            yield OptionList(compact=True)
            yield KeyBar("find")

    def on_mount(self) -> None:
        self.query_one(".dialog").border_title = Content(self.heading)
        self.query_one(Input).focus()
        self._list()

    @on(Input.Changed)
    def _list(self) -> None:
        """List what holds every word that is typed."""
        wanted = self.query_one(Input).value.strip()
        found = matching(self.options, wanted)
        options = [Option(self._line(title, explanation), id=key) for key, title, explanation in found]
        if wanted and all(wanted.lower() != title.lower() for _, title, _ in found):
            options.append(Option(self._line(wanted, "as typed"), id=f"\0{wanted}"))
        listed = self.query_one(OptionList)
        listed.clear_options()
        listed.add_options(options)
        listed.highlighted = 0 if options else None
        self.query_one(".dialog").border_subtitle = f"{len(found)} of {len(self.options)}"

    @staticmethod
    def _line(title: str, explanation: str) -> Content:
        return Content.assemble(title.ljust(_NAME_WIDTH), " ", (explanation, "$quiet"))

    def action_next(self) -> None:
        self.query_one(OptionList).action_cursor_down()

    def action_previous(self) -> None:
        self.query_one(OptionList).action_cursor_up()

    def action_page_down(self) -> None:
        self.query_one(OptionList).action_page_down()  # type: ignore[no-untyped-call]

    def action_page_up(self) -> None:
        self.query_one(OptionList).action_page_up()  # type: ignore[no-untyped-call]

    @on(Input.Submitted)
    def action_choose(self) -> None:
        self.query_one(OptionList).action_select()

    def action_leave(self) -> None:
        self.dismiss(None)

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss((event.option.id or "").removeprefix("\0"))


def matching(options: Sequence[tuple[str, str, str]], wanted: str) -> list[tuple[str, str, str]]:
    """The options that hold every word of `wanted`: those whose title begins with it first, then those whose title
    holds it."""
    words = wanted.lower().split()

    def rank(option: tuple[str, str, str]) -> int | None:
        title, everything = option[1].lower(), f"{option[1]} {option[2]}".lower()
        if not all(word in everything for word in words):
            return None
        return (
            0 if title == wanted.lower() else 1 if title.startswith(wanted.lower()) else 2 if words[0] in title else 3
        )

    if not words:
        return list(options)
    ranked = [(found, option) for option in options if (found := rank(option)) is not None]
    return [option for _, option in sorted(ranked, key=lambda item: item[0])]
