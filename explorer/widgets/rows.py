"""The rows of an answer as a table draws them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from rich.text import Text

from explorer.results import Page
from explorer.widgets import cells
from explorer.widgets.inks import Inks

#: Rows kept as Python objects: more than fit on any screen.
_KEPT = 400


class PageRows:
    """Rows of a `Page`. Only those in sight are ever taken out of Arrow."""

    def __init__(self, page: Page, inks: Inks) -> None:
        self.page = page
        self.inks = inks
        self._columns = {c.id: c for c in page.columns}
        self._kept: OrderedDict[int, dict[str, Any]] = OrderedDict()

    @property
    def row_count(self) -> int:
        return int(self.page.table.num_rows)

    def row(self, index: int) -> dict[str, Any]:
        """All values of one row."""
        if index in self._kept:
            return self._kept[index]
        found: dict[str, Any] = self.page.table.slice(index, 1).to_pylist()[0]
        self._kept[index] = found
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return found

    def cell(self, row: int, column: str) -> Text:
        values = self.row(row)
        if column == "architecture" and self.page.names:
            named = self.page.names.get((values["architecture_id"], values["train_seed"]))
            values = values | {"architecture": named} if named else values
        return cells.cell(values, self._columns[column], self.inks)

    def key(self, row: int) -> str:
        return str(self.page.table["row_key"][row].as_py())

    def index(self, key: str) -> int | None:
        import pyarrow.compute as pc

        found = int(pc.index(self.page.table["row_key"], key).as_py())
        return found if found >= 0 else None

    def members(self, row: int) -> list[str]:
        """The rows of `tradeoff` that stand in this row."""
        values = self.row(row)
        return list(values["members"]) if "members" in values else [str(values["row_key"])]
