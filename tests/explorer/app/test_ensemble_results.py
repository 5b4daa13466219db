"""The page of an ensemble's results: what it says, what it starts, and that it stays where it is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import pytest
from rich.style import Style
from textual.pilot import Pilot

from explorer import ensembleresults
from explorer import errands as errands_module
from explorer.ensemblepage import chance, points, whisker
from explorer.errands import Errands
from explorer.errors import ExplorerError
from explorer.screens.application import NasrobApp
from explorer.screens.ensemble import EnsembleScreen
from explorer.screens.ensemble_attack import EnsembleAttackScreen
from explorer.settings import Settings
from explorer.widgets.architecture import SheetView
from explorer.widgets.bars import Banner
from models.attacks import registry as attacks
from store import Store
from store.errors import StoreBusy
from tests.explorer.app.ensemble_support import (
    MEMBERS,
    WHOLE,
    Ensembles,
    pgd,
    sha_of,
    understood,
)
from tests.explorer.app.support import text_of, until

MakeApp = Callable[..., NasrobApp]


async def opened(app: NasrobApp, pilot: Pilot[None], architecture: str = WHOLE) -> EnsembleScreen:
    """The page of an ensemble, with all that there is to say on it."""
    await until(pilot, lambda: app.results.ready)
    screen = EnsembleScreen(architecture, sha_of(architecture), "digits")
    app.push_screen(screen)
    await until(pilot, lambda: screen.rows is not None and (not screen.rows or screen.insight is not None))
    return screen


def said(app: NasrobApp) -> str:
    return "\n".join(notification.message for notification in app._notifications)


@pytest.mark.parametrize("size", [(80, 24), (140, 40), (200, 60)])
async def test_the_figures_are_those_of_the_store(
    make_app: MakeApp, ensembles: Ensembles, size: tuple[int, int]
) -> None:
    ensembles.attacked()
    ensembles.transfer(WHOLE, MEMBERS[0], "+++++++-")
    ensembles.cosines([0.8, 0.6, -0.2])
    app = make_app()
    app.animation_level = "none"
    async with app.run_test(size=size) as pilot:
        screen = await opened(app, pilot)
        await until(pilot, lambda: screen.insight is not None and screen.insight.over_best is not None)
        await pilot.pause()
        first = text_of(app)
        for part in ("pgd-10 8/255", "8 examples", "darts-random-1", "62.5", "50.0", "75.0", "●", "+12.5 points"):
            assert part in first, part
        assert "gain over the best member (0)" in first
        assert "McNemar p = 1.00" in first
        assert "darts-ensemble-0" in first
        await pilot.press("end")
        await pilot.pause()
        everything = first + text_of(app)
        if size[1] < 40:
            for _ in range(4):
                await pilot.press("pageup")
                await pilot.pause()
                everything += text_of(app)
        # White box in brackets, one through another without; what nobody measured has a key that does.
        for part in ("[62.5]", "87.5", "[50.0]", "5 pairs not measured: x measures them", "0.40", "66.7", "2 of 8"):
            assert part in everything, part
        assert "says 7" in everything
        assert app.screen.query_one(SheetView).max_scroll_x == 0


async def test_the_intervals_are_those_of_a_paired_bootstrap(settings: Settings, ensembles: Ensembles) -> None:
    identity = ensembles.attacked()
    store = Store(settings.store)
    (row,) = ensembleresults.evaluations(store, WHOLE, sha_of(WHOLE))
    insight = ensembleresults.look(store, row)
    assert insight.identity == identity
    assert insight.over_best is None
    found = ensembleresults.with_intervals(store, insight)
    with store.read() as con:
        best = next(part["evaluation_id"] for part in insight.parts if part["part"] == "0")
        expected = con.execute(
            "SELECT difference_low, difference_high FROM paired_bootstrap($1, $2)", [identity, best]
        ).fetchone()
    assert found.over_best == expected
    # Per example the whole is 1, 1, 1, 1, 1, 0, 0, 0 and the mean member 1, 1, 1/2, 1/2, 1/2, 1/2, 0, 0.
    assert found.over_mean is not None
    low, high = found.over_mean
    assert low < found.summary["gain_over_mean"] == 12.5 < high
    assert low >= -100
    assert high <= 50
    assert found.oracle == pytest.approx((40.93, 92.85), abs=0.01)
    assert found.after(found) == found
    assert insight.after(found).over_mean == found.over_mean


async def test_left_and_right_lead_to_the_other_evaluations(make_app: MakeApp, ensembles: Ensembles) -> None:
    latest = ensembles.attacked(minute=5)
    earlier = ensembles.evaluation(WHOLE, "+-------", pgd("16/255"))
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(app, pilot)
        assert "1 of 2" in text_of(app)
        assert screen.insight is not None
        assert screen.insight.identity == latest
        await pilot.press("right")
        await until(pilot, lambda: screen.insight is not None and screen.insight.identity == earlier)
        await until(pilot, lambda: "pgd-10 16/255" in text_of(app) and "12.5" in text_of(app))
        assert "2 of 2" in text_of(app)
        await pilot.press("y")
        assert understood(app.clipboard.split()[1:])["evaluation"] == earlier
        await pilot.press("left")
        await until(pilot, lambda: screen.insight is not None and screen.insight.identity == latest)


async def test_new_results_come_in_and_the_view_stays(make_app: MakeApp, ensembles: Ensembles) -> None:
    identity = ensembles.attacked()
    app = make_app()
    app.animation_level = "none"
    async with app.run_test(size=(90, 14)) as pilot:
        screen = await opened(app, pilot)
        await until(pilot, lambda: screen.insight is not None and screen.insight.over_best is not None)
        await pilot.press("down", "down", "down")
        await pilot.pause()
        before = screen.query_one(SheetView).scroll_y
        assert before > 0
        ensembles.transfer(MEMBERS[0], MEMBERS[1], "+++++++-")
        ensembles.evaluation(WHOLE, "+-------", pgd("16/255"), minute=9)
        await until(pilot, lambda: screen.rows is not None and len(screen.rows) == 2)
        await until(pilot, lambda: screen.insight is not None and screen.insight.transfers_missing == 5)
        assert screen.insight is not None
        assert screen.insight.identity == identity
        assert screen.query_one(SheetView).scroll_y == before


async def test_what_is_missing_is_measured_by_a_command(
    make_app: MakeApp, ensembles: Ensembles, sent: list[list[str]]
) -> None:
    ensembles.attacked(members=False)
    app = make_app()
    async with app.run_test(size=(120, 50)) as pilot:
        await opened(app, pilot)
        await until(pilot, lambda: "2 of 2 members have not been attacked alone" in text_of(app))
        await pilot.press("m", "x", "g")
        await until(pilot, lambda: len(sent) == 3)
        members, transfer, gradients = map(understood, sent)
        for asked in (members, transfer, gradients):
            assert (asked["names"], asked["dataset"], asked["examples"]) == ([WHOLE], "digits", 8)
            assert sha_of(WHOLE).startswith(asked["weights"][0])
        assert attacks.resolve(members["attack"][0]) == pgd()
        assert members["members"]
        assert not members["transfer"]
        assert transfer["transfer"]
        await until(pilot, lambda: text_of(app).count("being measured …") == 2)
        await pilot.press("x")
        await until(pilot, lambda: "under way already" in said(app))
        assert len(sent) == 3


async def test_what_is_measured_is_not_measured_again(
    make_app: MakeApp, ensembles: Ensembles, sent: list[list[str]]
) -> None:
    ensembles.attacked()
    ensembles.cosines([0.5] * 8)
    everybody = (WHOLE, *MEMBERS)
    for source in everybody:
        for target in everybody:
            if source != target:
                ensembles.transfer(source, target, "++++++++")
    app = make_app()
    async with app.run_test(size=(120, 50)) as pilot:
        screen = await opened(app, pilot)
        assert screen.insight is not None
        assert screen.insight.transfers_missing == screen.insight.cosines_missing == 0
        assert "not measured" not in text_of(app)
        await pilot.press("m", "x", "g", "right")
        await pilot.pause(0.1)
        assert sent == []
        for sentence in ("Every member has been", "Every pair has been", "have been compared", "one evaluation only"):
            assert sentence in said(app)


async def test_members_that_were_trained_together_do_not_stand_alone(
    make_app: MakeApp, ensembles: Ensembles, sent: list[list[str]]
) -> None:
    joint = "darts-ensemble-0@cells=2-2,init_channels=8,combine=features-mean"
    ensembles.model(joint, combine="features-mean")
    ensembles.evaluation(joint, "++--")
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await opened(app, pilot, joint)
        await until(pilot, lambda: "trained together and do not stand alone" in text_of(app))
        assert "transfer:" not in text_of(app)
        await pilot.press("x", "m", "g")
        await until(pilot, lambda: said(app).count("only the whole is attacked") == 3)
        assert sent == []


async def test_an_attack_that_cannot_be_made_on_another_model_says_so(
    make_app: MakeApp, ensembles: Ensembles, sent: list[list[str]]
) -> None:
    ensembles.attacked(attacks.resolve("square", eps="8/255"))
    app = make_app()
    async with app.run_test(size=(100, 40)) as pilot:
        await opened(app, pilot)
        await until(pilot, lambda: "square cannot be made on another model" in text_of(app))
        await pilot.press("x")
        await until(pilot, lambda: "transfers are measured with pgd" in said(app))
        assert sent == []


async def test_without_a_result_the_page_says_how_to_get_one(make_app: MakeApp, ensembles: Ensembles) -> None:
    ensembles.whole()
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        await until(pilot, lambda: "no complete evaluation" in text_of(app))
        await pilot.press("y")
        assert understood(app.clipboard.split()[1:])["names"] == [WHOLE]
        assert app.clipboard.split()[2] == "attack"
        await pilot.press("x", "g", "m", "left")  # nothing to do
        await pilot.press("l")
        await until(pilot, lambda: isinstance(app.screen, EnsembleAttackScreen))
        await pilot.press("escape")
        await pilot.press("escape")
        assert len(app.screen_stack) == 1


async def test_a_busy_store_is_asked_again(
    make_app: MakeApp, ensembles: Ensembles, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensembles.attacked()
    read = ensembleresults.evaluations
    asked: list[str] = []

    def busy_once(store: Store, architecture: str, sha256: str | None) -> list[dict[str, object]]:
        asked.append(architecture)
        if len(asked) == 1:
            raise StoreBusy("the store is in use by another process.")
        return read(store, architecture, sha256)

    monkeypatch.setattr(ensembleresults, "evaluations", busy_once)
    monkeypatch.setattr("explorer.screens.ensemble.PAUSE", 0.3)
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        screen = EnsembleScreen(WHOLE, sha_of(WHOLE), "digits")
        await until(pilot, lambda: app.results.ready)
        app.push_screen(screen)
        await until(pilot, lambda: "in use by another process" in text_of(app))
        await until(pilot, lambda: screen.insight is not None)
        await until(pilot, lambda: not screen.query_one(Banner).sentence)


# -- commands that are more than one job -------------------------------------------------------------------------------


def script(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let every command be a line of Python."""
    monkeypatch.setattr(errands_module, "command_of", lambda words: [sys.executable, "-c", text])


async def test_the_last_line_of_a_command_is_what_it_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, "import sys; print('a', file=sys.stderr); print('nasrob-tui: b', file=sys.stderr)")
    assert await Errands(settings).run(["x"]) == "b"
    script(monkeypatch, "import sys; sys.exit('nasrob-tui: no such thing.')")
    with pytest.raises(ExplorerError, match=r"^no such thing\.$"):
        await Errands(settings).run(["x"])
    script(monkeypatch, "import sys; sys.exit(130)")
    with pytest.raises(ExplorerError, match="it was stopped"):
        await Errands(settings).run(["x"])


async def test_a_command_goes_on_when_nobody_waits(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings.home / "made"
    script(monkeypatch, f"import time, pathlib; time.sleep(0.5); pathlib.Path({str(made)!r}).touch()")
    errands = Errands(settings)
    waiting = asyncio.ensure_future(errands.run(["x"]))
    await asyncio.sleep(0.1)
    assert errands.going(["x"])
    assert errands.busy
    assert not errands.going(["y"])
    with pytest.raises(ExplorerError, match="under way already"):
        await errands.run(["x"])
    waiting.cancel()
    for _ in range(200):
        if made.exists() and not errands.going(["x"]):
            break
        await asyncio.sleep(0.05)
    assert made.exists()
    assert not errands.busy


# -- how it is written -------------------------------------------------------------------------------------------------


def test_differences_and_chances_are_written_as_people_do() -> None:
    assert [points(value) for value in (2.54, -0.04, 0.0, -3.0)] == ["+2.5", "0.0", "0.0", "-3.0"]
    assert [chance(value) for value in (0.0004, 0.0372, 0.83)] == ["p < 0.001", "p = 0.037", "p = 0.83"]


@pytest.mark.parametrize(
    ("value", "between", "drawn"),
    [
        (50.0, (25.0, 75.0), "┈┈├─●─┤┈┈"),
        (0.0, (0.0, 10.0), "●┤┈┈┈┈┈┈┈"),
        (100.0, (100.0, 100.0), "┈┈┈┈┈┈┈┈●"),
        (50.0, None, "┈┈┈┈●┈┈┈┈"),
        (None, None, "not measured"),
    ],
)
def test_a_value_is_a_dot_in_its_interval(value: float | None, between: tuple[float, float] | None, drawn: str) -> None:
    assert whisker(value, between, 9, Style(), Style()).plain == drawn
