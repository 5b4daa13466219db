"""How values are written: one decimal for percentages, short forms, and never anything read as markup.

Free of textual: the command line writes values the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from rich.style import Style
from rich.text import Text

from explorer.render import megas
from explorer.tradeoff import Column

if TYPE_CHECKING:
    from explorer.widgets.inks import Inks

FAMILIES = {"handcrafted": "■ hand", "nas": "● nas", "ensemble": "◆ ens"}
SPACES = {"pixel": "pixel", "normalized-clamped": "norm"}
SOURCES = {"measured": "meas.", "published": "publ."}

#: Marks of a row and what they mean, for the line below the table.
MARKS = {"p": "published elsewhere", "!": "warnings", "~": "not complete"}

_RIGHT = {"percent", "interval", "score", "count", "size", "cell"}


def align(column: Column) -> Literal["left", "right"]:
    return "right" if column.kind in _RIGHT else "left"


def text(value: object, style: Style | str = "", *, right: bool = False) -> Text:
    """A cell: one line of plain text, cut with an ellipsis where it does not fit."""
    plain = "".join(c if c.isprintable() else "�" for c in str(value))
    return Text(plain, style=style, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")


def mark(row: Mapping[str, Any]) -> str:
    """The sign before a row: the weightiest one."""
    if row.get("n_warnings"):
        return "!"
    if row.get("source") == "published":
        return "p"
    return "" if row.get("status") == "complete" else "~"


def cell(row: Mapping[str, Any], column: Column, inks: Inks) -> Text:
    """One value of a row of the trade-off table."""
    published = row.get("source") == "published"
    base = inks.quiet if published else inks.text
    value = row.get(column.id)
    match column.kind:
        case "marks":
            sign = mark(row)
            return text(sign, inks.warning if sign == "!" else inks.quiet)
        case "name":
            return text(value if value is not None else "?", base)
        case "family":
            return text(FAMILIES.get(str(value), value or "–"), base if published else inks.family(value))
        case "space":
            return text(SPACES.get(str(value), value or "–"), base)
        case "source":
            return text(SOURCES.get(str(value), value or "–"), base)
        case "sha":
            return text(str(value)[:8] if value else "–", inks.quiet)
        case "interval":
            return text(
                interval(row.get("robust_accuracy_low"), row.get("robust_accuracy_high")), inks.quiet, right=True
            )
        case "percent" | "score":
            written = text(one_decimal(value), base, right=True)
            if column.id == "clean_accuracy" and (row.get("top_k") or 1) > 1:
                # Top-5 accuracies are another measure: they say so in the cell.
                written = text(
                    f"{one_decimal(value)}⁵" if row["top_k"] == 5 else f"{one_decimal(value)}k", base, right=True
                )
            return written
        case "cell":
            several = "*" if (row.get("c" + column.id[1:]) or 0) > 1 else ""
            return text(one_decimal(value) + several, base, right=True)
        case "count":
            return text("–" if value is None else value, inks.quiet, right=True)
        case "size":
            return text(megas(value) or "–", base, right=True)
        case _:
            return text("–" if value is None else value, base)


def one_decimal(value: object) -> str:
    """A number with one decimal, a dash where there is none."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:.1f}"


def interval(low: object, high: object) -> str:
    """`20.4–28.2`, a dash where there is none."""
    if low is None or high is None:
        return "–"
    return f"{one_decimal(low)}–{one_decimal(high)}"


def bar(fraction: float, width: int, ink: Style, rest: Style) -> Text:
    """A bar of `width` cells, to half a cell."""
    halves = round(max(0.0, min(1.0, fraction)) * width * 2)
    done = "━" * (halves // 2) + "╸" * (halves % 2)
    return Text.assemble((done, ink), ("─" * (width - len(done)), rest), no_wrap=True)


def dataset(name: str) -> str:
    """A dataset in a few characters: of a folder of images its last part, `flowers/`."""
    kind, _, path = name.partition(":")
    last = path.rstrip("/").rpartition("/")[2]
    return f"{last}/" if kind == "folder" and last else name


def count(n: int, noun: str) -> str:
    """`1 member`, `2 members`."""
    return f"{thousands(n)} {noun}{'s' * (n != 1)}"


def thousands(count: int) -> str:
    """`12 801`."""
    return f"{count:,}".replace(",", " ")


def clock(seconds: float) -> str:
    """Minutes and seconds, hours where there are any."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
