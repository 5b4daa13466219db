"""Very many rows: the first part at once, then all, and the cursor stays where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from textual.widgets import Input

from explorer.screens.application import NasrobApp
from explorer.screens.home import HomeScreen
from explorer.widgets.table import ResultTable
from store import Store
from tests.explorer.app.support import add_evaluation, text_of, until


async def test_the_cursor_survives_parts_and_refreshes(
    make_app: Callable[..., NasrobApp], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("explorer.results.LARGE", 100)
    monkeypatch.setattr("explorer.screens.home.FIRST_ROWS", 20)
    app = make_app()
    async with app.run_test(size=(120, 24)) as pilot:
        home = cast(HomeScreen, app.screen)
        table = home.query_one("#rows", ResultTable)
        # So many rows are shown one an evaluation at first.
        await until(pilot, lambda: "144 of 144 results" in text_of(app))
        table.move_cursor(row=100)
        await pilot.pause()
        key = table.cursor_key
        add_evaluation(store, "darts-random-9", robust=94)
        await until(pilot, lambda: table.row_count == 145)
        assert (table.cursor_key, table.cursor_row) == (key, 101)
        home.query_one("#filter", Input).value = "source:published"
        await until(pilot, lambda: table.row_count == 141)
        assert table.cursor_row == 0
