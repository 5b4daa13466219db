"""Printing data: a table for people, JSON or CSV for programs. Data go to stdout; everything else goes to stderr."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any


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
    """Print rows. A table shows `columns` (all keys when None); JSON and CSV have every key.

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
        _print_table(rows, columns or [Column(k, k) for k in keys], title)
    sys.stdout.flush()


def _print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Not on a terminal nothing is cut off: a pipe gets whole lines.
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 10_000)
    # Data are never parsed as markup: cells are Text.
    table = Table(box=box.SIMPLE_HEAD, title=Text(title) if title else None, title_justify="left", pad_edge=False)
    for column in columns:
        numeric = any(isinstance(row.get(column.key), int | float) for row in rows)
        right = column.align == "right" or (column.align is None and numeric)
        table.add_column(Text(column.header), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_table_value(row.get(c.key), c.digits)) for c in columns))
    console.print(table)


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
