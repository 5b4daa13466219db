"""Printing data: a table for people, JSON or CSV for programs. Data go to stdout; everything else goes to stderr."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

#: Keys of texts that say more about what another column names. A table may cut them: JSON, CSV and the page of the
#: thing itself have them whole.
DESCRIPTIONS = frozenset({"description", "source", "license", "options"})
#: Cells of such a text where lines have no limit, and the fewest with which it still says something.
MOST_OF_A_DESCRIPTION, LEAST_OF_A_DESCRIPTION = 40, 16
#: Cells between two columns.
_GAP = 2


class Format(StrEnum):
    """How data are printed."""

    table = "table"
    json = "json"
    csv = "csv"


@dataclass(frozen=True)
class Column:
    """A column of a table for people: the key of its value, its header, and how it is printed.

    `digits` is the number of decimals of a number; `align` follows the values when not given.
    """

    key: str
    header: str
    digits: int | None = None
    align: str | None = None


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    *,
    form: Format,
    columns: Sequence[Column] | None = None,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> None:
    """Print rows. A table shows `columns` (all keys, uncut, when None); JSON and CSV have every key.

    `names` are the keys where there may be no row to take them from.
    """
    keys = list(names) if names is not None else list(dict.fromkeys(k for row in rows for k in row))
    if form is Format.json:
        json.dump(
            [{k: _json_value(row.get(k)) for k in keys} for row in rows], sys.stdout, indent=2, ensure_ascii=False
        )
        sys.stdout.write("\n")
    elif form is Format.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(keys)
        for row in rows:
            writer.writerow([_csv_value(row.get(k)) for k in keys])
    else:
        whole = [Column(k, k) for k in keys]
        _print_table(rows, columns or whole, title, frozenset() if columns is None else DESCRIPTIONS)
    sys.stdout.flush()


def _print_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str | None, descriptions: Collection[str]
) -> None:
    """One line a row: names stay whole, and long texts under the keys `descriptions` are cut to what is left for them.

    On a terminal the header is marked, and the longest sentences go on below themselves where the lines are too long.
    """
    from rich.cells import cell_len

    terminal, limit = sys.stdout.isatty(), line_width()
    drawn = [_drawn(column, rows, descriptions) for column in columns]
    left_out = _fit([column for column in drawn if column.describes], drawn, limit)
    shown = [column for column in drawn if column not in left_out]
    head, *body = _lines(shown, _wrapped(shown, limit) if terminal else None)
    above = [_one_line(title)] if title else []
    if terminal:
        from rich.console import Console
        from rich.text import Text

        console = Console(file=sys.stdout, highlight=False)
        longest = max(map(cell_len, "\n".join((head, *body)).split("\n")))
        rule = "─" * (longest if limit is None else min(longest, limit))
        for text, style in [*((t, "") for t in above), (head, "bold"), (rule, "dim"), *((t, "") for t in body)]:
            # Data are never parsed as markup; what is too long for a line all the same is left to the terminal.
            console.print(Text(text, style), soft_wrap=True)
    else:
        sys.stdout.writelines(f"{line}\n" for line in (*above, head, *body))
    if left_out:
        names = ", ".join(column.cells[0] for column in left_out)
        print(f"no room for {names}: a wider terminal or --format csv shows all", file=sys.stderr)


def line_width() -> int | None:
    """Cells of a line: `COLUMNS` where it is set, else those of the terminal; None where there is no limit."""
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given):
        return int(given)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


@dataclass(eq=False)
class _Drawn:
    """A column as text: its header, then a cell a row. `width` is what it gets, in cells of the terminal."""

    cells: list[str]
    width: int
    right: bool
    #: Whether its text may be cut.
    describes: bool


def _drawn(column: Column, rows: Sequence[Mapping[str, Any]], descriptions: Collection[str]) -> _Drawn:
    from rich.cells import cell_len

    values = [row.get(column.key) for row in rows]
    cells = [column.header, *(_one_line(_table_value(value, column.digits)) for value in values)]
    numeric = any(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    right = column.align == "right" or (column.align is None and numeric)
    width = max(map(cell_len, cells))
    return _Drawn(cells, width, right, column.key in descriptions and width > LEAST_OF_A_DESCRIPTION)


def _fit(descriptions: Sequence[_Drawn], columns: Sequence[_Drawn], limit: int | None) -> list[_Drawn]:
    """Narrow `descriptions` to what the other columns leave them; those that nothing sensible is left for, the last
    first, are returned: they are left out.
    """
    if limit is None:
        for column in descriptions:
            column.width = min(column.width, MOST_OF_A_DESCRIPTION)
        return []
    kept, wanted = list(descriptions), {id(column): column.width for column in descriptions}
    others = sum(column.width + _GAP for column in columns if column not in descriptions)
    while kept:
        room = limit - others - _GAP * (len(kept) - 1)
        # What a short one does not need is left to the longer ones.
        for i, column in enumerate(sorted(kept, key=lambda c: wanted[id(c)])):
            column.width = min(wanted[id(column)], max(0, room // (len(kept) - i)))
            room -= column.width
        if all(column.width >= LEAST_OF_A_DESCRIPTION for column in kept):
            break
        kept.pop()
    return list(descriptions[len(kept) :])


def _wrapped(columns: Sequence[_Drawn], limit: int | None) -> _Drawn | None:
    """The column of the longest sentences, narrowed so that the lines fit; None when they do, or when that is no help:
    identifiers have no place to be broken at.
    """
    excess = sum(column.width + _GAP for column in columns) - _GAP - (limit or 0)
    sentences = [c for c in columns if not c.right and not c.describes and any(" " in cell for cell in c.cells)]
    longest = max(sentences, key=lambda column: column.width, default=None)
    if limit is None or excess <= 0 or longest is None or longest.width - excess < LEAST_OF_A_DESCRIPTION:
        return None
    longest.width -= excess
    return longest


def _lines(columns: Sequence[_Drawn], wrapped: _Drawn | None) -> list[str]:
    """The header and the rows, padded no further than the next column needs. Cells of `wrapped` may take several
    lines.
    """
    indent = "\n"
    for column in columns:
        if column is wrapped:
            break
        indent += " " * (column.width + _GAP)
    lines = []
    for row in zip(*(column.cells for column in columns), strict=True):
        line, below = "", ""
        for cell, column in zip(row, columns, strict=True):
            if column is wrapped:
                first, *rest = textwrap.wrap(cell, column.width, break_long_words=False, break_on_hyphens=False) or [""]
                cell, below = first, "".join(indent + part for part in rest)
            line += _padded(cell, column) + " " * _GAP
        lines.append(line.rstrip() + below)
    return lines


def _padded(cell: str, column: _Drawn) -> str:
    from rich.cells import cell_len

    cell = _cut(cell, column.width) if column.describes else cell
    space = " " * max(0, column.width - cell_len(cell))
    return space + cell if column.right else cell + space


def _cut(text: str, width: int) -> str:
    """The text in at most `width` cells, with an ellipsis where it goes on."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 1)).rstrip(" ,;:(") + "…"


def _one_line(text: str) -> str:
    """The text on one line, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "�" for c in re.sub(r"[\r\n\t]+", " ", text))


def _table_value(value: Any, digits: int | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}f}" if digits is not None else f"{value:g}"
    if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        return "; ".join(value)
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _json_value(value: Any) -> Any:
    """What JSON can hold: numbers that it cannot become null, times ISO 8601."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(k): _json_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _csv_value(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(_json_value(value), ensure_ascii=False)
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value


def megas(count: int | float | None) -> str | None:
    """A count as people read it: 36.6k, 3.35M."""
    if count is None:
        return None
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g}{unit}"
    return str(int(count))
