"""A sheet to read, such as that of an architecture, and the colours of its drawings."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.style import Style
from textual.containers import VerticalScroll
from textual.widgets import Static

from explorer.celldrawing import Palette
from explorer.widgets.inks import Inks


class SheetView(VerticalScroll):
    """Something to read that may be longer than the screen."""

    def compose(self) -> Any:
        yield Static("", markup=False)

    def show(self, sheet: RenderableType) -> None:
        """Show this; the view stays where it is scrolled to."""
        self.query_one(Static).update(sheet)


def palette_of(inks: Inks) -> Palette:
    """The colours of drawings, in the theme in force."""
    return Palette(
        text=inks.text,
        quiet=inks.quiet,
        accent=inks.accent + Style(bold=True),
        conv=inks.accent,
        dilated=inks.hand,
        pool=inks.ens,
        skip=inks.good,
        changed=inks.warning,
        added=inks.good,
        removed=inks.error,
        families={"handcrafted": inks.hand, "nas": inks.nas},
    )
