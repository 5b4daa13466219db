"""The rows of a page as text for elsewhere: CSV with every figure in full, Markdown and LaTeX as the table shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from explorer.errors import ExplorerError
from explorer.render import megas
from explorer.results import Page
from explorer.tradeoff import Column

#: Formats with the ending of their files.
FORMATS = {"csv": ".csv", "markdown": ".md", "latex": ".tex"}

#: Always there: figures of other threat spaces or from elsewhere must be recognisable wherever the table goes.
_ALWAYS = ("source", "threat_space")


def text(page: Page, form: str, columns: Sequence[str] | None = None) -> str:
    """The page in a format. Markdown and LaTeX have the columns named (all when None), and those never to be missed."""
    if form == "csv":
        return _csv(page)
    wanted = [c for c in page.columns if c.title and (columns is None or c.id in columns or c.id in _ALWAYS)]
    rows = [[shown(row, c) for c in wanted] for row in page.table.to_pylist()]
    return _markdown(page, wanted, rows) if form == "markdown" else _latex(page, wanted, rows)


def write(page: Page, path: Path, form: str, columns: Sequence[str] | None = None, *, replace: bool = False) -> None:
    """Write the page to a file. Raises `ExplorerError` when that cannot be done, or when the file is there already and
    may not be replaced."""
    try:
        with path.open("w" if replace else "x", encoding="utf-8", newline="") as file:
            file.write(text(page, form, columns))
    except FileExistsError:
        raise ExplorerError(f"{path} is there already: enter once more replaces it.") from None
    except OSError as error:
        raise ExplorerError(f"cannot write {path}: {error.strerror or error}.") from None


def shown(row: Mapping[str, Any], column: Column) -> str:
    """A value as the table shows it, without its signs."""
    value = row.get(column.id)
    if column.kind == "interval":
        low, high = row.get("robust_accuracy_low"), row.get("robust_accuracy_high")
        return "" if low is None or high is None else f"{low:.1f}–{high:.1f}"
    if value is None:
        return ""
    if column.kind == "cell":
        return f"{value:.1f}" + ("*" if (row.get("c" + column.id[1:]) or 0) > 1 else "")
    if column.kind == "size":
        return megas(value) or ""
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _csv(page: Page) -> str:
    titles = {c.id: c.title for c in page.columns if c.kind == "cell"}
    names = [
        n
        for n in page.table.column_names
        if n != "members" and n != "row_key" and not (n[:1] == "c" and n[1:].isdigit())
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([f"robust_accuracy {titles[n]}" if n in titles else n for n in names])
    writer.writerows([row[n] for n in names] for row in page.table.to_pylist())
    return out.getvalue()


def _note(page: Page) -> str:
    """What a reader must know: which attack the summary columns are of."""
    return f"95 % and HRS under {page.lead}." if page.lead and page.question.pivot else ""


def _markdown(page: Page, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(v.replace("\\", "\\\\").replace("|", "\\|") for v in values) + " |"

    lines = [line([c.title for c in columns]), "|" + "|".join("---:" if _right(c) else "---" for c in columns) + "|"]
    note = _note(page)
    return "\n".join([*lines, *(line(row) for row in rows), *(["", note] if note else [])]) + "\n"


def _latex(page: Page, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    special |= {c: f"\\{c}" for c in "&%$#_{}"}
    escape: Callable[[str], str] = lambda value: "".join(special.get(c, c) for c in value)  # noqa: E731
    lines = [r"\begin{tabular}{" + "".join("r" if _right(c) else "l" for c in columns) + "}", r"\toprule"]
    lines += [" & ".join(escape(c.title) for c in columns) + r" \\", r"\midrule"]
    lines += [" & ".join(map(escape, row)) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}", *([f"% {_note(page)}"] if _note(page) else [])]
    return "\n".join(lines) + "\n"


def _right(column: Column) -> bool:
    return column.kind in ("percent", "interval", "score", "count", "size", "cell")
