"""Writing the rows that are shown to a file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from explorer import export
from explorer.errors import ExplorerError
from explorer.results import Page
from explorer.widgets.background import background
from explorer.widgets.bars import KeyBar
from explorer.widgets.binding import bindings
from explorer.widgets.choice import Choice


class ExportScreen(ModalScreen[Path | None]):
    """Format and file; gives back the file that was written. `columns` are those the table shows."""

    BINDINGS = bindings("export")

    def __init__(self, page: Page, columns: Sequence[str]) -> None:
        super().__init__()
        self.page = page
        self.columns = columns
        self._refused: Path | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            with Horizontal(classes="field"):
                yield Static("format", classes="label")
                yield Choice(list(export.FORMATS))
            with Horizontal(classes="field"):
                yield Static("file", classes="label")
                yield Input("tradeoff.csv", compact=True)
            yield Static("", id="export-said", markup=False)
            yield KeyBar("export")

    def on_mount(self) -> None:
        rows = self.page.table.num_rows
        self.query_one(".dialog").border_title = f"export {rows} row{'s' * (rows != 1)}"
        self.query_one(Choice).focus()

    @on(Choice.Changed)
    def _format_changed(self) -> None:
        """The file's ending follows the format."""
        box = self.query_one(Input)
        path = Path(box.value)
        if path.suffix in (*export.FORMATS.values(), ""):
            box.value = str(path.with_suffix(export.FORMATS[self.query_one(Choice).value])) if path.name else ""

    @on(Input.Submitted)
    def action_write(self) -> None:
        name = self.query_one(Input).value.strip()
        if name:
            background(self, self._write, Path(name).expanduser(), group="write")

    async def _write(self, path: Path) -> None:
        form, again = self.query_one(Choice).value, path == self._refused
        try:
            await asyncio.to_thread(export.write, self.page, path, form, self.columns, replace=again)
        except ExplorerError as error:
            self._refused = path
            self.query_one("#export-said", Static).update(str(error))
            return
        self.app.notify(f"Wrote {path.absolute()}", markup=False)
        self.dismiss(path)

    def action_leave(self) -> None:
        self.dismiss(None)
