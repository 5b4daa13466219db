"""The page of findings: claims, what each rests on, and the rows behind that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from explorer import findings
from explorer.filters import parse
from explorer.screens.application import NasrobApp
from explorer.screens.findings import FindingsScreen, rows_filter
from explorer.screens.home import HomeScreen
from explorer.settings import Settings
from explorer.tradeoff import Question
from explorer.widgets.table import ResultTable
from store import Store
from store.errors import StoreBusy
from tests.explorer.app.support import text_of, until
from tests.explorer.findings_support import OneVisit, add, add_groups

MakeApp = Callable[..., NasrobApp]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A store in which claim 2 holds on digits."""
    store = OneVisit(tmp_path_factory.mktemp("measured") / "results.duckdb")
    store.ensure()
    with store.together():
        add_groups(store, {"handcrafted": [20, 21, 19, 22], "searched": [10, 11, 9, 12]})
    return store.path.read_bytes()


@pytest.fixture
def filled_store(settings: Settings, measured: bytes) -> Store:
    settings.store.write_bytes(measured)
    return Store(settings.store)


def page(app: NasrobApp) -> FindingsScreen:
    assert isinstance(app.screen, FindingsScreen)
    return app.screen


async def opened(pilot: Any, app: NasrobApp) -> FindingsScreen:
    await pilot.press("5")
    await until(pilot, lambda: isinstance(app.screen, FindingsScreen) and app.screen.findings, seconds=30)
    await until(pilot, lambda: "undecided" in text_of(app))
    return page(app)


async def test_claims_comparisons_and_rows_at_80_columns(make_app: MakeApp, filled_store: Store) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, app)
        said = text_of(app).splitlines()
        assert "Small data, one step: NAS ahead" in said[2]
        assert "✓ holds" in said[3]
        assert max(map(len, said)) <= 80
        await pilot.press("down")
        await until(pilot, lambda: "hand-crafted networks are more robust" in text_of(app))
        assert "On digits, of 1 comparison 1 support it" in " ".join(text_of(app).split())
        assert not screen.query_one("#comparisons").display
        await pilot.press("enter")
        await until(pilot, lambda: screen.query_one("#comparisons").display and screen.focused is not None)
        await until(pilot, lambda: "✓ supports" in text_of(app))
        said = text_of(app).splitlines()
        assert "4 published, 1 measured" in said[1]
        assert "hand" in said[2]
        assert "nas" in said[2]
        assert not screen.query_one("#claims").display
        await pilot.press("end")
        await until(pilot, lambda: "paired, McNemar's exact test" in " ".join(text_of(app).split()))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen) and app.screen.page is not None)
        home = app.screen
        assert isinstance(home, HomeScreen)
        await until(pilot, lambda: home.page is not None and home.page.table.num_rows == 8)
        assert not home._filter_error


async def test_escape_goes_back_step_by_step(make_app: MakeApp, filled_store: Store) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, app)
        await pilot.press("enter")
        await until(pilot, lambda: screen.query_one("#comparisons").display)
        await pilot.press("escape")
        await until(pilot, lambda: screen.query_one("#claims").display)
        assert app.screen is screen
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))


@pytest.mark.parametrize("size", [(200, 60), (140, 40)])
async def test_all_at_once_where_there_is_room(make_app: MakeApp, filled_store: Store, size: tuple[int, int]) -> None:
    app = make_app()
    async with app.run_test(size=size) as pilot:
        screen = await opened(pilot, app)
        await pilot.press("down", "tab", "tab")
        await until(pilot, lambda: screen.focused is screen.query_one("#comparisons"))
        await pilot.press("end")
        await until(pilot, lambda: "digits · pgd-10 · 8/255 · pixel · 50 examples" in text_of(app))
        said = text_of(app)
        shared = "layers=5 by standard"
        for part in ("Parameters help up to about", "effect", "best of each", "rule", "cifar100", "Hedges", shared):
            assert part in said, part
        assert screen.query_one("#claims").size.height == 6
        assert "4 : 4" in said
        assert max(map(len, said.splitlines())) <= size[0]


async def test_commands_are_copied(make_app: MakeApp, filled_store: Store) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await opened(pilot, app)
        await pilot.press("y")
        assert app.clipboard == "nasrob-tui findings --claim 1"
        await pilot.press("n")
        assert app.clipboard.startswith("nasrob-tui train --dataset digits")
        await pilot.press("down", "n")
        await pilot.pause()
        assert app.clipboard.startswith("nasrob-tui train")  # claim 2 is decided: nothing was copied
        assert any("decided" in n.message for n in app._notifications)


async def test_signs_do_not_need_colours(
    make_app: MakeApp, filled_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot, app)
        assert "✓ holds" in text_of(app)
        assert "? undecided" in text_of(app)
        await pilot.press("T")
        await until(pilot, lambda: not app.current_theme.dark)
        assert "✓ holds" in text_of(app)


async def test_new_results_are_taken_up(make_app: MakeApp, filled_store: Store) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot, app)
        await pilot.press("down")
        assert screen.findings[1].measured[0].b is not None
        add(filled_store, "found-9", "searched", 11)
        await until(pilot, lambda: len(screen.findings[1].measured[0].evaluation_ids) == 9, seconds=30)
        # The cursor stays on its claim.
        assert screen.query_one("#claims", ResultTable).cursor_key == "2"


async def test_a_busy_store_is_asked_again(
    make_app: MakeApp, filled_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Exception] = [StoreBusy("the store is busy: process 1 holds it")]
    compute = findings.compute

    def once_busy(store: Store) -> list[findings.Finding]:
        if answers:
            raise answers.pop()
        return compute(store)

    monkeypatch.setattr(findings, "compute", once_busy)
    monkeypatch.setattr("explorer.screens.findings.PAUSE", 2.0)
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: "process 1 holds it" in text_of(app))
        await until(pilot, lambda: page(app).findings and "process 1" not in text_of(app), seconds=30)


async def test_typing_never_waits_for_the_computation(
    make_app: MakeApp, filled_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done in a thread: the app goes elsewhere while it lasts."""
    go_on, threads = threading.Event(), []

    def slow(store: Store) -> list[findings.Finding]:
        threads.append(threading.current_thread())
        go_on.wait(10)
        return []

    monkeypatch.setattr(findings, "compute", slow)
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: threads)
        assert "computing" in text_of(app)
        assert threads[0] is not threading.main_thread()
        await pilot.press("1")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))
        go_on.set()


def test_rows_behind_a_comparison_are_found_by_its_filter(settings: Settings, filled_store: Store) -> None:
    from explorer.results import Results

    results = Results(settings.store)
    results.refresh()
    try:
        for one in findings.compute(filled_store):
            for c in (*one.published_comparisons, *one.measured):
                table = results.page(Question(parse(rows_filter(c)), pivot=False)).table
                groups = [group for group in (c.a, c.b) if group is not None]
                wanted = {m.architecture for group in groups for m in group.members}
                assert wanted <= set(table["architecture"].to_pylist()), c.place
                assert set(table["source"].to_pylist()) == {c.source}
                if c.source == "measured":
                    assert set(table["row_key"].to_pylist()) == set(c.evaluation_ids)
    finally:
        results.close()
