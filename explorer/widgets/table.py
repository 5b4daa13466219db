"""A table for any number of rows that keeps its cursor on the same row when the data change, and parses nothing.

Rows come from a source that is asked only for the cells in sight. This is the one place that knows how
`textual-fastdatatable` is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rich.text import Text
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual_fastdatatable import DataTable
from textual_fastdatatable.backend import DataTableBackend
from textual_fastdatatable.column import CELL_X_PADDING
from textual_fastdatatable.column import Column as DrawnColumn

from explorer.widgets.binding import bindings

#: Cells that the table adds to the width of each column.
GAP = CELL_X_PADDING
#: Cells of the vertical scroll bar.
SCROLL_BAR = 1


class Source(Protocol):
    """Rows in order. A row's key says that it is the same row after a refresh."""

    @property
    def row_count(self) -> int: ...

    def cell(self, row: int, column: str) -> Text: ...

    def key(self, row: int) -> str: ...

    def index(self, key: str) -> int | None: ...


@dataclass(frozen=True)
class Heading:
    """A column as it is drawn: content width in cells, padding not counted."""

    id: str
    title: str
    width: int
    align: Literal["left", "right"] = "left"


#: The column that fills a row up to the edge, so that the cursor is a whole line.
FILLER = ""


def filled(headings: Sequence[Heading], width: int) -> list[Heading]:
    """The columns and, where cells are left over, an empty one."""
    spare = width - sum(h.width + GAP for h in headings)
    return [*headings, Heading(FILLER, "", spare - GAP)] if spare > GAP else list(headings)


class _Backend(DataTableBackend[Any]):
    """A source in the form that the table widget asks for. Read-only: the app swaps the whole source when data change,
    so the methods of the interface that would change rows in place are refused.
    """

    def __init__(self, data: Source, max_rows: int | None = None, column_names: Sequence[str] | None = None) -> None:
        super().__init__(data, max_rows, column_names)
        self.data = data
        self._columns = list(column_names or ())

    @classmethod
    def from_pydict(
        cls, data: Mapping[str, Sequence[Any]], max_rows: int | None = None, column_names: Sequence[str] | None = None
    ) -> _Backend:
        raise NotImplementedError

    @property
    def source_data(self) -> Source:
        return self.data  # type: ignore[no-any-return]

    @property
    def source_row_count(self) -> int:
        return self.row_count

    @property
    def row_count(self) -> int:
        return int(self.data.row_count)

    @property
    def columns(self) -> Sequence[str]:
        return self._columns

    @property
    def column_content_widths(self) -> Sequence[int]:
        return [0] * len(self._columns)

    def get_row_at(self, index: int) -> Sequence[Any]:
        return [self.get_cell_at(index, column) for column in range(len(self._columns))]

    def get_column_at(self, index: int) -> Sequence[Any]:
        return [self.get_cell_at(row, index) for row in range(self.row_count)]

    def get_cell_at(self, row_index: int, column_index: int) -> Any:
        if not 0 <= row_index < self.row_count:
            raise IndexError(row_index)
        column = self._columns[column_index]
        return self.data.cell(row_index, column) if column != FILLER else Text()

    def append_column(self, label: str, default: Any | None = None) -> int:
        raise NotImplementedError

    def append_rows(self, records: Iterable[Iterable[Any]]) -> list[int]:
        raise NotImplementedError

    def drop_row(self, row_index: int) -> None:
        raise NotImplementedError

    def update_cell(self, row_index: int, column_index: int, value: Any) -> None:
        raise NotImplementedError

    def sort(self, by: list[tuple[str, Literal["ascending", "descending"]]] | str) -> None:
        raise NotImplementedError


class _NoRows:
    """A source before there is any."""

    row_count = 0

    def cell(self, row: int, column: str) -> Text:
        raise IndexError(row)

    def key(self, row: int) -> str:
        raise IndexError(row)

    def index(self, key: str) -> int | None:
        return None


class ResultTable(DataTable, inherit_bindings=False):
    """Rows of a `Source`, with a cursor that is a whole row. Enter is left to the screen."""

    BINDINGS = bindings("table")

    class Opened(Message):
        """A row was clicked twice."""

    def __init__(self, *, id: str | None = None) -> None:
        self._headings: list[Heading] = []
        self._drawn: list[DrawnColumn] = []
        self.source: Source = _NoRows()
        super().__init__(
            backend=_Backend(self.source),
            id=id,
            cursor_type="row",
            show_row_labels=False,
            render_markup=False,
            cursor_foreground_priority="renderable",
        )

    @property
    def ordered_columns(self) -> list[DrawnColumn]:
        """The columns as drawn: their widths are given, never measured, since measuring reads every row."""
        return self._drawn

    @property
    def cursor_key(self) -> str | None:
        """The key of the row under the cursor."""
        row = self.cursor_row
        return self.source.key(row) if 0 <= row < self.source.row_count else None

    @property
    def shown(self) -> list[str]:
        """The columns that are drawn."""
        return [h.id for h in self._headings]

    def heading(self, index: int) -> Heading | None:
        """The column at a place, from the left."""
        return self._headings[index] if 0 <= index < len(self._headings) else None

    def put(
        self, source: Source, headings: Sequence[Heading], *, follow: str | None = None, to_top: bool = False
    ) -> None:
        """Show other rows. The cursor goes to the row with the key `follow` (that of the row it is on when None) and
        stays on the same line of the screen, or in sight of the top; where that row is gone it keeps its place.
        `to_top` goes to the first row."""
        key = follow if follow is not None else self.cursor_key
        before = self.cursor_row
        line = before - round(self.scroll_y)
        found = source.index(key) if key is not None and not to_top else None
        row = 0 if to_top else found if found is not None else min(before, max(0, source.row_count - 1))
        self.source = source
        self.backend = _Backend(source, column_names=[h.id for h in headings])
        self._headings = list(headings)
        self._drawn = [
            DrawnColumn(Text(h.title, justify=h.align, no_wrap=True, overflow="ellipsis"), width=h.width)
            for h in headings
        ]
        self._update_count += 1
        self._clear_caches()
        width = sum(column.render_width for column in self._drawn)
        self.virtual_size = Size(width, source.row_count + self.header_height)
        moved = row != before
        if moved or to_top:
            with self.prevent(DataTable.RowHighlighted):
                self.cursor_coordinate = self.cursor_coordinate._replace(row=row, column=0)
            # Rows that come in above push the others down as long as the cursor stays in sight of the top.
            at_top = to_top or (self.scroll_y == 0 and row < self.size.height - self.header_height)
            self.scroll_to(y=0 if at_top else max(0, row - line), animate=False, force=True)
        if source.row_count:
            self.post_message(DataTable.RowHighlighted(self, row))
        self.refresh(layout=True)

    def redraw(self) -> None:
        """Draw again: the colours have changed."""
        self._update_count += 1
        self._clear_caches()
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        if event.chain == 2 and event.style.meta.get("row", -1) >= 0:
            self.post_message(self.Opened())

    def on_resize(self, _: events.Resize) -> None:
        self._clear_caches()
