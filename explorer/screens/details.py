"""The details of one row on a screen of their own, at any width."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from textual.app import ComposeResult
from textual.message import Message
from textual.screen import Screen

from explorer import reproduction
from explorer.results import Freshness
from explorer.widgets.background import background
from explorer.widgets.bars import KeyBar, TopBar
from explorer.widgets.binding import bindings
from explorer.widgets.details import DetailView

if TYPE_CHECKING:
    from explorer.screens.application import NasrobApp


class DetailScreen(Screen[None]):
    """Everything about the rows of `tradeoff` with these keys."""

    BINDINGS = bindings("details")

    class Described(Message):
        """The details have come."""

        def __init__(self, rows: list[dict[str, Any]]) -> None:
            super().__init__()
            self.rows = rows

    def __init__(self, row_keys: list[str]) -> None:
        super().__init__()
        self.row_keys = row_keys
        self.rows: list[dict[str, Any]] = []

    @property
    def nasrob(self) -> NasrobApp:
        return cast("NasrobApp", self.app)

    def compose(self) -> ComposeResult:
        yield TopBar("tradeoff")
        yield DetailView()
        yield KeyBar("details")

    def on_mount(self) -> None:
        self.query_one(DetailView).focus()
        self.nasrob.store_looked_at.subscribe(self, self._on_store)
        self._fetch()

    def _on_store(self, fresh: Freshness) -> None:
        if fresh.changed:
            self._fetch()

    def _fetch(self) -> None:
        background(self, self._ask, group="ask")

    async def _ask(self) -> None:
        self.post_message(self.Described(await asyncio.to_thread(self.nasrob.results.details, self.row_keys)))

    def on_detail_screen_described(self, message: Described) -> None:
        self.rows = message.rows
        self.query_one(DetailView).show(message.rows)

    def action_copy(self) -> None:
        commands = [c for row in self.rows if (c := reproduction.command(row))]
        if commands:
            self.nasrob.copy("\n".join(commands), "the command" if len(commands) == 1 else f"{len(commands)} commands")
        elif self.rows:
            self.nasrob.copy(str(self.rows[0].get("citation") or self.rows[0]["row_key"]), "the citation")
