"""An architecture on a screen of its own, and two of them compared edge by edge."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from textual.app import ComposeResult
from textual.message import Message
from textual.screen import Screen

from explorer import architectures
from explorer.architectures import Counts, Page
from explorer.archpage import ArchitectureSheet, Known
from explorer.cellcomparison import Comparison, Versus
from explorer.errors import ExplorerError
from explorer.results import Freshness
from explorer.widgets.architecture import SheetView, palette_of
from explorer.widgets.background import background
from explorer.widgets.bars import KeyBar, TopBar
from explorer.widgets.binding import bindings
from explorer.widgets.inks import inks_of

if TYPE_CHECKING:
    from explorer.screens.application import NasrobApp


class ArchitectureScreen(Screen[None]):
    """The page of one architecture. What takes time to find out comes in as it is found."""

    BINDINGS = bindings("architecture")

    class Counted(Message):
        """The network has been counted, or cannot be."""

        def __init__(self, counts: Counts | None, uncounted: str = "") -> None:
            super().__init__()
            self.counts = counts
            self.uncounted = uncounted

    class Found(Message):
        """Weights and results have been looked up."""

        def __init__(self, weights: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
            super().__init__()
            self.weights = weights
            self.rows = rows

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page
        self.known = Known(rest="enter shows all")

    @property
    def nasrob(self) -> NasrobApp:
        return cast("NasrobApp", self.app)

    def compose(self) -> ComposeResult:
        yield TopBar("architecture")
        yield SheetView()
        yield KeyBar("architecture")

    def on_mount(self) -> None:
        self.query_one(SheetView).focus()
        self.query_one(TopBar).note = "architecture"
        self.nasrob.store_looked_at.subscribe(self, self._on_store)
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw())
        counts = self.nasrob.counted.get(self.page.spec.canonical)
        self.known = replace(self.known, counts=counts)
        self._draw()
        background(self, self._look, group="look")
        if counts is None:
            background(self, self._count, group="count")

    def _draw(self) -> None:
        self.query_one(SheetView).show(ArchitectureSheet(self.page, self.known, palette_of(inks_of(self.app))))

    # -- finding out -----------------------------------------------------------------------------------------------

    def _on_store(self, fresh: Freshness) -> None:
        if fresh.changed:
            background(self, self._look, group="look")

    async def _look(self) -> None:
        weights = await asyncio.to_thread(architectures.weights_of, self.page, self.nasrob.settings)
        rows = await asyncio.to_thread(architectures.evaluations_of, self.page, self.nasrob.results)
        self.post_message(self.Found(weights, rows))

    async def _count(self) -> None:
        try:
            counts = await architectures.count(self.page, self.nasrob.settings)
        except ExplorerError as error:
            self.post_message(self.Counted(None, f"not counted: {error}"))
            return
        self.post_message(self.Counted(counts))

    def on_architecture_screen_found(self, message: Found) -> None:
        self.known = replace(self.known, weights=message.weights, rows=message.rows)
        self._draw()

    def on_architecture_screen_counted(self, message: Counted) -> None:
        if message.counts is not None:
            self.nasrob.counted[self.page.spec.canonical] = message.counts
            self.known = replace(self.known, counts=message.counts)
        self.known = replace(self.known, uncounted=message.uncounted)
        self._draw()

    # -- actions ---------------------------------------------------------------------------------------------------

    def action_compare(self) -> None:
        self.nasrob.choose_comparison(self.page)

    def action_results(self) -> None:
        """To the trade-off table, with nothing but this architecture."""
        if self.known.rows:
            self.nasrob.show_rows(architectures.rows_filter(self.known.rows))
        else:
            self.notify("There are no results yet: l launches an evaluation.", timeout=3)

    def action_copy(self) -> None:
        self.nasrob.copy(self.page.command, "the command line")

    def action_definition(self) -> None:
        if self.page.definition is None:
            self.notify("It is not the find of a search: there is no definition to copy.", timeout=3)
        else:
            self.nasrob.copy(self.page.definition, "the definition")


class ComparisonScreen(Screen[None]):
    """Two architectures side by side, with a sign at every edge."""

    BINDINGS = bindings("comparison")

    def __init__(self, comparison: Comparison, a: Page, b: Page) -> None:
        super().__init__()
        self.comparison, self.a, self.b = comparison, a, b

    @property
    def nasrob(self) -> NasrobApp:
        return cast("NasrobApp", self.app)

    def compose(self) -> ComposeResult:
        yield TopBar("architecture")
        yield SheetView()
        yield KeyBar("comparison")

    def on_mount(self) -> None:
        self.query_one(SheetView).focus()
        self.query_one(TopBar).note = f"{self.a.text} against {self.b.text}"
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw())
        self._draw()

    def _draw(self) -> None:
        palette = palette_of(inks_of(self.app))
        self.query_one(SheetView).show(Versus(self.comparison, self.a.pictures, self.b.pictures, palette))

    def action_compare(self) -> None:
        self.nasrob.choose_comparison(self.a)

    def action_copy(self) -> None:
        self.nasrob.copy(architectures.compare_command(self.a, self.b), "the command line")
