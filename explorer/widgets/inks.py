"""The colours: two themes, and the styles that cells of tables are written in.

One accent for what is selected, one hue a family, grey for published rows, amber for warnings. Colour is never the
only sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.style import Style
from textual.app import App
from textual.color import Color, ColorParseError
from textual.theme import Theme

DARK = Theme(
    name="nasrob-dark",
    dark=True,
    primary="#5b9bd5",
    secondary="#5b9bd5",
    accent="#5b9bd5",
    foreground="#d4d7dc",
    background="#14171b",
    surface="#14171b",
    panel="#1d2127",
    boost="#1d2127",
    warning="#d9a441",
    error="#e06c6c",
    success="#6bb38a",
    variables={
        "quiet": "#868d97",
        "hand": "#b291d0",
        "nas": "#5fb9ae",
        "ens": "#d98aa6",
        "cursor": "#2a4158",
        "input-selection-background": "#5b9bd5 35%",
        "block-cursor-background": "#2a4158",
        "block-cursor-foreground": "#f2f4f7",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#20262e",
    },
)

LIGHT = Theme(
    name="nasrob-light",
    dark=False,
    primary="#1f66ad",
    secondary="#1f66ad",
    accent="#1f66ad",
    foreground="#23272d",
    background="#fbfbfa",
    surface="#fbfbfa",
    panel="#efefec",
    boost="#efefec",
    warning="#8f5f00",
    error="#b3312d",
    success="#24704a",
    variables={
        "quiet": "#6c727a",
        "hand": "#74479c",
        "nas": "#0d6e66",
        "ens": "#a5315d",
        "cursor": "#cfe2f5",
        "input-selection-background": "#1f66ad 25%",
        "block-cursor-background": "#cfe2f5",
        "block-cursor-foreground": "#14171b",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#e6e9ec",
    },
)

#: What the style sheet takes from a theme that is not one of these two.
FALLBACK = {"quiet": "#8a8f98", "hand": "#a583c9", "nas": "#4fa79c", "ens": "#c97a98", "cursor": "#4a6076"}


@dataclass(frozen=True)
class Inks:
    """Styles for text in cells. Backgrounds are the table's."""

    text: Style
    quiet: Style
    accent: Style
    warning: Style
    error: Style
    good: Style
    hand: Style
    nas: Style
    ens: Style

    def family(self, family: str | None) -> Style:
        return {"handcrafted": self.hand, "nas": self.nas, "ensemble": self.ens}.get(family or "", self.text)


def inks_of(app: App[Any]) -> Inks:
    """The styles of the theme in force."""
    variables = app.theme_variables

    def ink(name: str, fallback: str) -> Style:
        try:
            color = Color.parse(variables.get(name, fallback))
        except ColorParseError:
            color = Color.parse(fallback)
        return Style(color=color.rich_color)

    return Inks(
        text=ink("foreground", "#d4d7dc"),
        quiet=ink("quiet", FALLBACK["quiet"]),
        accent=ink("accent", "#5b9bd5"),
        warning=ink("warning", "#d9a441"),
        error=ink("error", "#e06c6c"),
        good=ink("success", "#6bb38a"),
        hand=ink("hand", FALLBACK["hand"]),
        nas=ink("nas", FALLBACK["nas"]),
        ens=ink("ens", FALLBACK["ens"]),
    )
