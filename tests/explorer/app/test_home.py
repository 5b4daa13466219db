"""The trade-off table as a person meets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from explorer.screens.application import NasrobApp
from explorer.screens.details import DetailScreen
from explorer.screens.home import HomeScreen
from explorer.settings import Settings
from explorer.widgets.bars import Banner
from explorer.widgets.rows import PageRows
from explorer.widgets.table import ResultTable
from store import Store
from tests.explorer.app.support import add_evaluation, text_of, until

MakeApp = Callable[..., NasrobApp]


def home(app: NasrobApp) -> HomeScreen:
    return cast(HomeScreen, app.screen_stack[0])


def table(app: NasrobApp) -> ResultTable:
    return home(app).query_one("#rows", ResultTable)


def count(app: NasrobApp) -> str:
    return str(home(app).query_one("#count", Static).render())


def names(app: NasrobApp) -> list[str]:
    source = table(app).source
    assert isinstance(source, PageRows)
    return [str(source.row(i)["architecture"]) for i in range(source.row_count)]


async def filled(app: NasrobApp, pilot: Pilot[None]) -> None:
    await until(pilot, lambda: table(app).row_count > 0)


async def filter_by(app: NasrobApp, pilot: Pilot[None], text: str) -> None:
    home(app).query_one("#filter", Input).value = text
    await pilot.pause(0.2)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_opens_with_the_published_rows(make_app: MakeApp, settings: Settings, size: tuple[int, int]) -> None:
    settings.store.unlink()
    app = make_app()
    async with app.run_test(size=size) as pilot:
        await filled(app, pilot)
        shown = text_of(app)
        assert "63 of 63 models" in shown
        assert "p published elsewhere" in shown
        for heading in ("architecture", "threat", "source", "clean", "pgd-10", "HRS▼"):
            assert heading in shown
        assert "norm" in shown
        assert "publ." in shown
        if size[0] >= 140:
            # The panel beside the table is filled by a worker.
            await until(pilot, lambda: "Devaguptapu" in text_of(app))
        else:
            assert "Devaguptapu" not in shown


async def test_filter_says_n_of_n(make_app: MakeApp, store: Store) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await filled(app, pilot)
        await pilot.press("slash", *"m-4")
        await until(pilot, lambda: count(app) == "1 of 65 models")
        await pilot.press("enter")
        assert table(app).has_focus
        await filter_by(app, pilot, "clean>")
        await until(pilot, lambda: "needs a number" in text_of(app))
        assert table(app).row_count == 1
        await filter_by(app, pilot, "family:ens source:measured")
        await until(pilot, lambda: count(app) == "0 of 65 models")
        assert "no row passes" in text_of(app)
        await pilot.press("enter", "y", "down", "p", "p")
        await pilot.press("escape")
        await until(pilot, lambda: count(app) == "65 of 65 models")


async def test_views_and_sorting(make_app: MakeApp, store: Store) -> None:
    app = make_app()
    async with app.run_test(size=(160, 40)) as pilot:
        await filled(app, pilot)
        await filter_by(app, pilot, "source:measured")
        await until(pilot, lambda: names(app) == ["resnet18", "darts-random-4"])
        await pilot.press("r")
        await until(pilot, lambda: names(app) == ["darts-random-4", "resnet18"])
        await pilot.press("v")
        await until(pilot, lambda: count(app) == "3 of 144 results")
        await pilot.press("s")
        await until(pilot, lambda: "sort by" in text_of(app))
        await pilot.press("home", "enter")
        await until(pilot, lambda: names(app) == ["darts-random-4", "darts-random-4", "resnet18"])
        robust = table(app).shown.index("robust_accuracy")
        x = sum(c.render_width for c in table(app).ordered_columns[:robust]) + 2
        await pilot.click("#rows", offset=(x, 0))
        await until(pilot, lambda: names(app) == ["darts-random-4", "resnet18", "darts-random-4"])
        await pilot.press("v")
        await until(pilot, lambda: names(app) == ["darts-random-4", "resnet18"])


async def test_the_cursor_stays_on_its_row_when_results_land(make_app: MakeApp, store: Store) -> None:
    app = make_app()
    async with app.run_test(size=(120, 24)) as pilot:
        await filled(app, pilot)
        await filter_by(app, pilot, "-family:ens")
        table(app).move_cursor(row=29)
        await pilot.press("down")
        row, key, top = table(app).cursor_row, table(app).cursor_key, table(app).scroll_y
        assert row == 30
        for number in range(5):
            add_evaluation(store, f"darts-random-{10 + number}", robust=90)
        await until(pilot, lambda: table(app).row_count == 70)
        assert table(app).cursor_key == key
        assert table(app).cursor_row == row + 5
        assert table(app).scroll_y - top == 5
        assert home(app).query_one("#filter", Input).value == "-family:ens"
        assert home(app).question.sort.column == "hrs"


async def test_details_at_any_width(make_app: MakeApp, store: Store) -> None:
    app = make_app()
    async with app.run_test(size=(80, 60)) as pilot:
        await filled(app, pilot)
        await filter_by(app, pilot, "darts-random-4")
        await until(pilot, lambda: count(app) == "1 of 65 models")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, DetailScreen) and app.screen.rows)
        shown = text_of(app)
        for part in ("6.0 %", "51.0 %", "! single step stronger than PGD", "nasrob-tui eval --headless", "torch 2.9"):
            assert part in shown, part
        await pilot.press("y")
        assert app.clipboard.count("nasrob-tui eval --headless --arch darts-random-4@layers=5") == 2
        await pilot.press("escape")
        assert app.screen is home(app)


async def test_details_show_top_5_where_it_was_counted(make_app: MakeApp, store: Store) -> None:
    with store.write() as con:
        con.execute("UPDATE evaluations SET n_clean_top5 = 99, n_robust_top5 = 33 WHERE n_robust = 24")
    app = make_app()
    async with app.run_test(size=(80, 60)) as pilot:
        for name, there in (("resnet18 source:measured", True), ("darts-random-4", False)):
            await filled(app, pilot)
            await filter_by(app, pilot, name)
            await until(pilot, lambda: count(app) == "1 of 65 models")
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, DetailScreen) and app.screen.rows)
            shown = text_of(app)
            assert ("top-5" in shown) == ("99.0 % clean" in shown) == ("33.0 % robust" in shown) == there
            await pilot.press("escape")


async def test_names_are_never_markup(make_app: MakeApp, store: Store) -> None:
    wild = ["[/foo]", "[bold red]x[/]", "a|b\\[", "two\nlines\x1b[31m", "[@click=app.quit]q[/]", "ネット"]
    for name in wild:
        add_evaluation(store, name, warnings=[f"odd [/] {name}"])
    app = make_app()
    async with app.run_test(size=(200, 40)) as pilot:
        await filled(app, pilot)
        await filter_by(app, pilot, "source:measured warnings>0")
        await until(pilot, lambda: count(app) == f"{len(wild) + 1} of {65 + len(wild)} models")
        shown = text_of(app)
        for part in ("[/foo]", "[bold red]x[/]", "a|b\\[", "two�lines�[31m", "[@click=app.quit]q[/]", "ネット"):
            assert part in shown, part
        for _ in wild:
            await pilot.press("down")
            await pilot.pause(0.1)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, DetailScreen) and app.screen.rows)
        await pilot.press("escape")
        await filter_by(app, pilot, "[/foo]")
        await until(pilot, lambda: names(app) == ["[/foo]"])


async def test_copy_and_export(make_app: MakeApp, store: Store, settings: Settings) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await filled(app, pilot)
        await filter_by(app, pilot, "source:measured")
        await until(pilot, lambda: count(app) == "2 of 65 models")
        await pilot.press("y")
        assert "resnet18" in app.clipboard
        assert "24.0" in app.clipboard
        await pilot.press("e", "right", "enter")
        written = settings.home / "tradeoff.md"
        await until(pilot, written.exists)
        assert "| resnet18 |" in written.read_text()
        await pilot.press("e", "right", "enter")
        await until(pilot, lambda: "is there already" in text_of(app))
        await pilot.press("escape")
        assert app.screen is home(app)


@pytest.mark.parametrize("size", [(80, 24), (130, 40), (200, 50)])
async def test_the_plot_shows_what_compares(make_app: MakeApp, store: Store, size: tuple[int, int]) -> None:
    app = make_app()
    async with app.run_test(size=size) as pilot:
        await filled(app, pilot)
        await filter_by(app, pilot, "dataset:digits,cifar10")
        await until(pilot, lambda: names(app)[0] == "DenseNet-169")
        await pilot.press("p")
        # Rows of the other threat space are in the table and not in the plot.
        await until(pilot, lambda: "15 comparable" in text_of(app))
        assert "cifar10 · pgd-10 · 8/255 · normalized-cl" in text_of(app)
        await filter_by(app, pilot, "source:measured")
        await until(pilot, lambda: "2 comparable" in text_of(app))
        assert "digits · pgd-10 · 8/255 · pixel" in text_of(app)
        assert table(app).display == (size[0] >= 110)
        await pilot.press("escape" if size[0] < 110 else "p")
        await until(pilot, lambda: "comparable" not in text_of(app))
        assert table(app).display


async def test_light_and_dark_and_other_themes(make_app: MakeApp, store: Store) -> None:
    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        await filled(app, pilot)
        await pilot.press("T")
        assert not app.current_theme.dark
        await until(pilot, lambda: "resnet18" in text_of(app))
        app.theme = "ansi-dark" if "ansi-dark" in app.available_themes else "nord"
        await until(pilot, lambda: "resnet18" in text_of(app))


async def test_resizing_changes_the_columns(make_app: MakeApp, store: Store) -> None:
    app = make_app()
    async with app.run_test(size=(200, 40)) as pilot:
        await filled(app, pilot)
        wide = table(app).shown
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: len(table(app).shown) < len(wide))
        assert {"threat_space", "source", "dataset"} <= set(table(app).shown)
        await pilot.resize_terminal(20, 8)
        await pilot.pause()


@pytest.mark.parametrize("damage", ["foreign", "newer", "busy"])
async def test_a_store_that_cannot_be_read_is_a_calm_sentence(
    make_app: MakeApp, settings: Settings, store: Store, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if damage == "foreign":
        settings.store.write_bytes(b"not a database" * 100)
    elif damage == "newer":
        with store.write() as con:
            con.execute("INSERT INTO schema_migrations VALUES ('999_later', now()::TIMESTAMP, '9.0', 'x')")
    else:
        monkeypatch.setattr("explorer.results.PATIENCE", 0.05)
    held = store.write() if damage == "busy" else None
    if held is not None:
        held.__enter__()
    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        await filled(app, pilot)
        banner = home(app).query_one(Banner)
        await until(pilot, lambda: banner.sentence)
        assert {"foreign": "not a results store", "newer": "newer version", "busy": "is held by"}[
            damage
        ] in banner.sentence
        assert "63 of 63 models" in text_of(app)
        if held is not None:
            held.__exit__(None, None, None)
            await until(pilot, lambda: count(app) == "65 of 65 models")
            await until(pilot, lambda: not banner.sentence)
