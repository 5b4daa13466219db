"""The page of an architecture, the way there, and two of them compared."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from explorer import architectures
from explorer.architectures import Counts, Page
from explorer.errors import ExplorerError
from explorer.screens.application import NasrobApp
from explorer.screens.architecture import ArchitectureScreen, ComparisonScreen
from explorer.screens.find import FindScreen, matching
from explorer.screens.home import HomeScreen
from explorer.settings import Settings
from explorer.widgets.architecture import SheetView
from explorer.widgets.table import ResultTable
from models.architectures import genotypes
from store import Store
from tests.explorer.app.support import add_evaluation, add_weights, text_of, until

MakeApp = Callable[..., NasrobApp]

COUNTS = Counts(3_433_798, 3_910_224, 532_000_000, 1622, "0" * 64, 3, 32, 10)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counting that takes no process and no time; the architectures that were counted."""
    asked: list[str] = []

    async def count(page: Page, settings: Settings) -> Counts:
        asked.append(page.spec.canonical)
        return COUNTS

    monkeypatch.setattr(architectures, "count", count)
    return asked


async def opened(app: NasrobApp, pilot: Pilot[None], name: str) -> ArchitectureScreen:
    """The page of an architecture, with all that there is to say on it."""
    await until(pilot, lambda: app.results.ready)
    app.show_architecture(name)
    await until(pilot, lambda: isinstance(app.screen, ArchitectureScreen) and app.screen.known.rows is not None)
    assert isinstance(app.screen, ArchitectureScreen)
    return app.screen


def said(app: NasrobApp) -> str:
    """The sentences that the app has said in passing."""
    return "\n".join(notification.message for notification in app._notifications)


async def find(app: NasrobApp, pilot: Pilot[None], wanted: str) -> None:
    """Look for an architecture in the list, and choose the first."""
    await until(pilot, lambda: isinstance(app.screen, FindScreen))
    app.screen.query_one(Input).value = wanted
    await pilot.pause()
    await pilot.press("enter")


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_the_page_of_a_row(
    make_app: MakeApp, store: Store, settings: Settings, counted: list[str], size: tuple[int, int]
) -> None:
    add_weights(settings, "darts-random-4")
    app = make_app()
    app.animation_level = "none"
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.screen.query_one(ResultTable).row_count > 0)
        app.screen.query_one("#filter", Input).value = "darts-random-4"
        await until(pilot, lambda: app.screen.query_one(ResultTable).row_count == 1)
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, ArchitectureScreen) and app.screen.known.weights is not None)
        await until(pilot, lambda: "3.43M parameters" in text_of(app))
        # The options are those of the row, the rest are the architecture's own.
        assert counted[0].startswith("darts-random-4@")
        assert "layers=5" in counted[0]
        first = text_of(app)
        for part in ("● nas · darts-random", "532M multiply-adds", "normal cell", "reduction cell", "c_{k-2}"):
            assert part in first, part
        cell = genotypes.sample(4).normal
        for operation, _ in cell.edges:
            assert operation in first
        # With much room, operations stand on the lines.
        assert bool(re.search(r"[━┅═─]{2} \w+ [━┅═─]▸", first)) == (size[0] == 200)
        await pilot.press("end")
        await until(pilot, lambda: "published elsewhere" in text_of(app) or "with any options" in text_of(app))
        last = text_of(app)
        for part in ("results", "pgd-10", "8/255", "6.0", "51.0"):
            assert part in last, part
        await pilot.press("home")
        assert app.screen.query_one(SheetView).max_scroll_x == 0
        await pilot.press("escape")
        assert isinstance(app.screen, HomeScreen)


async def test_weights_results_and_options_are_said(
    make_app: MakeApp, store: Store, settings: Settings, counted: list[str]
) -> None:
    sha = add_weights(settings, "darts", seed=3)
    add_weights(settings, "pdarts")
    for architecture in ("darts", "darts-random-4", "pdarts"):
        add_evaluation(store, architecture, attack="pgd", robust=33)
    app = make_app()
    async with app.run_test(size=(140, 60)) as pilot:
        screen = await opened(app, pilot, "DARTS_V2")
        await until(pilot, lambda: "seed 3" in text_of(app))
        shown = text_of(app)
        for part in (
            sha[:8],
            "97.2 % clean",
            "layers",
            "darts-v2",
            "Liu, Simonyan",
            "skip_connect ×",
        ):
            assert part in shown, part
        assert re.search("init_channels +36 ", shown)
        rows = screen.known.rows
        assert rows is not None
        # The publication's DARTS is this one; other names that begin alike are not.
        assert {row["architecture"].lower() for row in rows} == {"darts"}
        assert {row["source"] for row in rows} == {"measured", "published"}
        assert rows[0]["source"] == "measured"
        add_evaluation(store, "darts", attack="fgsm", robust=44)
        await until(pilot, lambda: "44.0" in text_of(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen) and app.screen.page is not None)
        assert app.screen.query_one("#filter", Input).value.lower().startswith("arch:darts")
        await until(pilot, lambda: "darts-random" not in text_of(app))
        assert "darts" in text_of(app)


async def test_a_hand_crafted_network_has_a_page_without_cells(make_app: MakeApp, counted: list[str]) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, "resnet18")
        await until(pilot, lambda: "none yet: nasrob-tui train --arch resnet18" in text_of(app))
        assert "normal cell" not in text_of(app)
        await pilot.press("Y")
        assert app.clipboard == ""
        await pilot.press("c")
        await until(pilot, lambda: "nothing to compare" in said(app))
        await pilot.press("y")
        assert app.clipboard == "nasrob-tui archs show resnet18"


async def test_a_name_that_nobody_knows_is_a_sentence(make_app: MakeApp, store: Store) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.results.ready)
        app.show_architecture("[/dartz")
        await until(pilot, lambda: "does not parse" in said(app))
        app.show_architecture("dartz")
        await until(pilot, lambda: "Did you mean" in said(app))
        assert len(app.screen_stack) == 1
        assert app.bugs == []


async def test_choosing_by_typing(make_app: MakeApp, counted: list[str]) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("A")
        await until(pilot, lambda: isinstance(app.screen, FindScreen))
        listed = app.screen.query_one(OptionList)
        await until(pilot, lambda: listed.option_count > 250)
        await pilot.press(*"advr")
        await until(pilot, lambda: listed.option_count == 2)
        assert "1 of " in str(app.screen.query_one(".dialog").border_subtitle)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ArchitectureScreen))
        assert "advrush" in text_of(app)
        await pilot.press("escape", "A")
        await until(pilot, lambda: isinstance(app.screen, FindScreen))
        await pilot.press("down", "down", "up", "pagedown", "pageup", "escape")
        assert isinstance(app.screen, HomeScreen)
        await pilot.press("A")
        await find(app, pilot, "darts-random-77")
        await until(pilot, lambda: isinstance(app.screen, ArchitectureScreen))
        assert "darts-random-77" in text_of(app)


def test_what_a_search_lists_first() -> None:
    options = [(name, name, said) for name, said in (("pdarts", "P"), ("darts", "D"), ("x", "like darts"), ("y", "z"))]
    assert [key for key, _, _ in matching(options, "darts")] == ["darts", "pdarts", "x"]
    assert [key for key, _, _ in matching(options, "da like")] == ["x"]
    assert matching(options, "nothing") == []
    assert matching(options, " ") == options


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_comparing(make_app: MakeApp, counted: list[str], size: tuple[int, int]) -> None:
    app = make_app()
    app.animation_level = "none"
    async with app.run_test(size=size) as pilot:
        await opened(app, pilot, "darts-v1")
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, FindScreen))
        # Only what has such cells stands in the list.
        listed = app.screen.query_one(OptionList)
        app.screen.query_one(Input).value = "resnet18"
        await until(pilot, lambda: listed.option_count == 1)
        await find(app, pilot, "darts")
        await until(pilot, lambda: isinstance(app.screen, ComparisonScreen))
        await until(pilot, lambda: "11 of 16 edges equal" in text_of(app))
        shown = text_of(app)
        for part in (
            "= equal",
            "- only darts-v1",
            "+ only darts",
            "normal cell   5 of 8 edges equal",
            "~ skip_connect",
        ):
            assert part in shown, part
        assert ("~ node 3  skip_connect → dil_conv_3x3  from 0" in shown) == (size[1] > 24)
        await pilot.press("y")
        assert app.clipboard == "nasrob-tui archs compare darts-v1 darts"
        await pilot.press("end")
        await until(pilot, lambda: "+ max_pool_3x3" in text_of(app))
        await pilot.press("c")
        await find(app, pilot, "pdarts")
        await until(pilot, lambda: "darts-v1 against pdarts" in text_of(app))
        await pilot.press("escape")
        assert isinstance(app.screen, ArchitectureScreen)


async def test_copying_the_definition(make_app: MakeApp, counted: list[str]) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, "pdarts")
        await pilot.press("Y")
        assert genotypes.published_name(genotypes.parse(app.clipboard).identity) == "PDARTS"


async def test_colours_are_never_the_only_sign(
    make_app: MakeApp, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, "pdarts")
        dark = text_of(app)
        await pilot.press("T")
        await until(pilot, lambda: not app.current_theme.dark)
        assert text_of(app) == dark
        for part in ("┝━━", "╞══", "┅┅", "├──", "━━ convolution", "┅┅ dilated", "══ pooling", "── skip"):
            assert part in dark, part


async def test_counting_that_fails_says_why(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    async def count(page: Page, settings: Settings) -> Counts:
        raise ExplorerError("no memory left.")

    monkeypatch.setattr(architectures, "count", count)
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await opened(app, pilot, "darts")
        await until(pilot, lambda: "not counted: no memory left." in text_of(app))


async def test_counting_ends_with_the_page(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child process of a page that was left is not left running."""
    waiting = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(architectures, "counting_command", lambda page: waiting)
    app = make_app()

    def children() -> list[psutil.Process]:
        return [p for p in psutil.Process().children() if "time.sleep(60)" in " ".join(p.cmdline())]

    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, "darts")
        await until(pilot, children)
        assert "counting" in text_of(app)
        await pilot.press("escape")
        await until(pilot, lambda: not children())


def test_what_a_child_process_prints_is_read_with_care(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    page = architectures.look_up("darts")

    def counted_by(code: str) -> Any:
        monkeypatch.setattr(architectures, "counting_command", lambda page: [sys.executable, "-c", code])
        return asyncio.run(architectures.count(page, settings))

    assert counted_by('print(\'{"params": 12, "macs": 34, "more": []}\')') == Counts(params=12, macs=34)
    for code, said in (
        ("print('[]')", "was not counted"),
        ("print('{}')", "was not counted"),
        ("print('oh')", "was not counted"),
        ("import sys; sys.exit('nasrob-tui: so it is')", "so it is"),
        ("raise SystemExit(1)", "counting darts failed"),
    ):
        with pytest.raises(ExplorerError, match=said):
            counted_by(code)
    monkeypatch.setattr(architectures, "COUNTING_LIMIT", 0.05)
    with pytest.raises(ExplorerError, match="took longer"):
        counted_by("import time; time.sleep(60)")


def test_the_command_line_counts_what_the_page_asks_for(settings: Settings) -> None:
    """The published size of P-DARTS with 36 channels and 20 cells, from the process that the app starts."""
    counts = asyncio.run(architectures.count(architectures.look_up("pdarts"), settings))
    assert (counts.params, counts.params_with_aux) == (3_433_798, 3_910_224)
    assert counts.macs is not None
    assert round(counts.macs / 1e6) == 532
