"""Every key, what it does, and the language of the filter: made from the registry of actions."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from explorer import actions, filters
from explorer.widgets.bars import KeyBar
from explorer.widgets.binding import bindings
from explorer.widgets.cells import MARKS
from explorer.widgets.inks import Inks, inks_of

_KEY_WIDTH, _LABEL_WIDTH = 14, 16

_FILTER_EXAMPLES = (
    ("resnet", "the name contains it"),
    ("family:nas,ensemble", "one of these; also " + ", ".join(f"{k}:" for k in filters.TEXT_KEYS if k != "family")),
    ("dataset:cifar*", "begins so"),
    ("attack:pgd-20", "an attack, with its steps where that matters"),
    (
        "clean>90 params<5M",
        "numbers; also " + ", ".join(k for k in filters.NUMBER_KEYS if k not in ("clean", "params")),
    ),
    ("eps=8/255", "a perturbation size as it is written"),
    ("-source:published", "not that"),
    ('"wide resnet"', "quotes keep spaces"),
)


class HelpScreen(ModalScreen[None]):
    """All keys by place, on top of what was there."""

    BINDINGS = bindings("help")

    def __init__(self, scope: str = "") -> None:
        """`scope` is the place to begin with: that of the screen where help was asked for."""
        super().__init__()
        self.scope = scope

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall"):
            with VerticalScroll():
                yield Static(help_text(inks_of(self.app), self.scope))
            yield KeyBar("help")

    def action_leave(self) -> None:
        self.dismiss()

    def on_mount(self) -> None:
        self.query_one(".dialog").border_title = "keys"
        self.query_one(VerticalScroll).focus()


def help_text(inks: Inks, first: str = "") -> RenderableType:
    """The help as something to draw; the keys of the scope `first` stand before those of the others."""
    parts: list[RenderableType] = []
    for scope, title in sorted(actions.SCOPES.items(), key=lambda item: item[0] != first):
        rows = [(a.shown_keys, a.label, a.help) for a in actions.of(scope)]
        parts += [Text(title, inks.accent), _grid(rows, (_KEY_WIDTH, _LABEL_WIDTH), inks), Text()]
    parts += [
        Text("Filter: terms that must all hold", inks.accent),
        _grid(_FILTER_EXAMPLES, (_KEY_WIDTH + 7,), inks),
        Text(),
    ]
    signs = (*MARKS.items(), ("*", "after a figure of several settings of one attack: the lowest"))
    parts += [Text("Signs before a row", inks.accent), _grid(signs, (_KEY_WIDTH,), inks)]
    return Group(*parts)


def _grid(rows: Sequence[Sequence[str]], widths: Sequence[int], inks: Inks) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=1)
    for width in widths:
        grid.add_column(width=width, no_wrap=True)
    grid.add_column()
    for *before, meaning in rows:
        grid.add_row("", *(Text(b, inks.text) for b in before), Text(meaning, inks.quiet))
    return grid
