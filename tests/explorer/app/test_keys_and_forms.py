"""Keys that come in bursts, forms that are not lost, and text that says when it is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from textual import events
from textual.content import Content
from textual.pilot import Pilot
from textual.widgets import Input, Static

from explorer import actions, ensemblebuilding, launching, naming
from explorer.ensemblebuilding import Form
from explorer.errands import Errands
from explorer.jobs.following import EvaluationProgress, JobProgress
from explorer.results import Results
from explorer.screens import help as help_screen
from explorer.screens.application import NasrobApp
from explorer.screens.details import DetailScreen
from explorer.screens.ensemble import EnsembleScreen
from explorer.screens.ensemble_builder import EnsembleBuilderScreen
from explorer.screens.findings import FindingsScreen
from explorer.screens.home import HomeScreen
from explorer.screens.jobs import JobsScreen
from explorer.screens.launch import LaunchScreen
from explorer.screens.log import LogScreen
from explorer.screens.sql import SqlScreen
from explorer.settings import Settings
from explorer.shipped import preview as shipped_preview
from explorer.shipped import provide
from explorer.training import Order
from explorer.widgets import cells
from explorer.widgets.inks import inks_of
from explorer.widgets.progress import StepRows
from explorer.widgets.said import wrapped
from models.architectures import registry as architectures
from models.architectures.options import scale_of
from models.datasets import registry as datasets
from store import Store
from store.errors import StoreError
from tests.explorer.app.ensemble_support import WHOLE, Ensembles, sha_of
from tests.explorer.app.support import add_job, add_weights, begin, claim, text_of, until

MakeApp = Callable[..., NasrobApp]

_CHARACTERS = {"minus": "-", "slash": "/", "space": " "}


def burst(app: NasrobApp, *keys: str) -> None:
    """Keys that are all there before the first of them is taken."""
    for key in keys:
        character = key if len(key) == 1 else _CHARACTERS.get(key)
        app.post_message(events.Key(key, character))


def said(app: NasrobApp) -> str:
    return "\n".join(notification.message for notification in app._notifications)


# -- keys in bursts ----------------------------------------------------------------------------------------------------


async def test_of_keys_that_come_together_each_goes_where_the_one_before_led(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        burst(app, "4", "n")
        await until(pilot, lambda: isinstance(app.screen, EnsembleBuilderScreen) and app.focused is not None)
        screen = app.screen
        burst(app, "tab", "tab", "8", "backspace", "9", "tab", "3", "minus", "3", "tab", "2")
        await until(pilot, lambda: screen.query_one("#channels", Input).value)
        assert [screen.query_one(f"#{name}", Input).value for name in ("seed", "cells", "channels")] == [
            "9",
            "3-3",
            "2",
        ]


async def test_what_is_pasted_waits_for_its_turn(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        burst(app, "slash")
        app.post_message(events.Paste("darts"))
        burst(app, "minus")
        await until(pilot, lambda: app.screen.query_one("#filter", Input).value == "darts-")


async def test_keys_before_anything_is_drawn_are_not_lost(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        burst(app, "slash", "v", "g", "g")
        await until(pilot, lambda: app.screen.query_one("#filter", Input).value == "vgg")
        assert isinstance(app.screen, HomeScreen)
        assert app.screen.question.pivot


async def test_a_key_whose_widget_is_gone_holds_up_no_other(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explorer.widgets.inturn.PATIENCE", 0.05)
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        # As if what was sent behind a key had gone down with a widget.
        app._taking = True
        burst(app, "slash", "x")
        await until(pilot, lambda: app.screen.query_one("#filter", Input).value == "x")


# -- forms -------------------------------------------------------------------------------------------------------------


async def _launch(app: NasrobApp, pilot: Pilot[None]) -> None:
    await pilot.press("l")
    await until(pilot, lambda: isinstance(app.screen, LaunchScreen) and "none yet" in text_of(app))


async def _build(app: NasrobApp, pilot: Pilot[None]) -> None:
    await pilot.press("4", "n")
    await until(pilot, lambda: isinstance(app.screen, EnsembleBuilderScreen) and app.screen.offer.asked)


@pytest.mark.parametrize(("opened", "touch"), [(_launch, "space"), (_build, "right")])
async def test_a_form_that_something_was_entered_in_is_left_by_escape_only(
    make_app: MakeApp, settings: Settings, opened: Callable[..., object], touch: str
) -> None:
    add_weights(settings, "resnet18")
    app = make_app()
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(app, pilot)  # type: ignore[misc]
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, JobsScreen))
        await opened(app, pilot)  # type: ignore[misc]
        form = app.screen
        await pilot.press(touch)
        for key in ("1", "2", "3", "4", "5", "q"):
            await pilot.press(key)
        assert app.screen is form
        assert app.is_running
        assert "is not finished: escape leaves it" in said(app)
        titles = [command.title for command in app.get_system_commands(app.screen)]
        assert not any(title.startswith(("jobs", "quit", "trade-off")) for title in titles)
        await pilot.press("A")
        await until(pilot, lambda: app.screen is not form)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is form)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is not form)
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, JobsScreen))


@pytest.mark.parametrize(("opened", "keys"), [(_launch, ["space"]), (_build, [])])
async def test_without_a_dataset_it_is_the_one_that_stands_in_its_place(
    make_app: MakeApp, settings: Settings, opened: Callable[..., object], keys: list[str]
) -> None:
    add_weights(settings, "resnet18")
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)  # type: ignore[misc]
        app.screen.query_one("#dataset", Input).value = ""
        await pilot.press(*keys)
        assert app.screen.form.dataset == "digits"  # type: ignore[attr-defined]
        await until(pilot, lambda: "unknown" not in text_of(app) and "= nasrob-tui" in text_of(app))


@pytest.fixture
def results(settings: Settings) -> Iterator[Results]:
    found = Results(settings.store)
    found.refresh()
    yield found
    found.close()


def test_a_negative_seed_of_the_training_is_refused(settings: Settings, results: Results) -> None:
    found = ensemblebuilding.propose(Form(training_seed="-1"), settings, results)
    assert found.problem == "training seed must be at least 0."
    assert found.request is None


@pytest.mark.parametrize(
    ("dataset", "without"), [("fashion-mnist", True), ("cifar10", False), ("digits", False), ("imagenet", False)]
)
@pytest.mark.parametrize("name", ["darts-ensemble-0", "darts"])
def test_no_auxiliary_head_is_ordered_that_images_do_not_fit(name: str, dataset: str, without: bool) -> None:
    scale = scale_of(datasets.find(dataset).image_shape)
    order = Order(architectures.parse_architecture(name, scale=scale), dataset, overrides={"epochs": 1})
    found = launching.trainable(order)
    assert found.overrides == {"epochs": 1, **({"auxiliary_weight": 0.0} if without else {})}


# -- what is cut says so -----------------------------------------------------------------------------------------------


def test_text_is_broken_between_words_and_cut_with_an_ellipsis() -> None:
    text = Content("= nasrob-tui train --arch darts@layers=10,init_channels=4 --dataset digits --seed 0")
    assert [line.plain for line in wrapped(text, 40)] == [
        "= nasrob-tui train --arch",
        "darts@layers=10,init_channels=4",
        "--dataset digits --seed 0",
    ]
    two = [line.plain for line in wrapped(text, 40, 2)]
    assert two == ["= nasrob-tui train --arch", "darts@layers=10,init_channels=4…"]
    assert [line.plain for line in wrapped(Content("a" * 30), 10, 2)] == ["a" * 10, "a" * 9 + "…"]
    assert [line.plain for line in wrapped(Content("short"), 10, 2)] == ["short"]


async def test_a_command_that_does_not_fit_ends_in_an_ellipsis(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await _build(app, pilot)
        await until(pilot, lambda: "= nasrob-tui train" in text_of(app))
        await pilot.pause()
        lines = text_of(app).splitlines()
        (first,) = [i for i, line in enumerate(lines) if "= nasrob-tui train" in line]
        assert lines[first + 1].rstrip().endswith("…")
        assert "--seed 0" not in text_of(app)
        await pilot.resize_terminal(200, 40)
        await until(pilot, lambda: "--seed 0" in text_of(app))


async def test_the_title_of_a_log_is_cut_with_an_ellipsis(make_app: MakeApp, settings: Settings) -> None:
    job = add_job(settings, *(f"darts-random-{i}" for i in range(9)))
    app = make_app()
    async with app.run_test(size=(60, 24)) as pilot:
        await until(pilot, lambda: app.jobs)
        app.push_screen(LogScreen(app.jobs[0]))
        await until(pilot, lambda: f"#{job.number}" in text_of(app))
        assert text_of(app).splitlines()[1].rstrip().endswith("…")


def test_no_label_is_cut_in_the_help() -> None:
    assert max(len(action.label) for action in actions.ACTIONS) <= help_screen._LABEL_WIDTH
    assert "theme" in actions.find("app.theme").label


# -- the store that cannot be made -------------------------------------------------------------------------------------


@pytest.fixture
def impossible(tmp_path: Path, settings: Settings) -> Results:
    """Results of a store whose folder is a file."""
    (tmp_path / "file").write_text("")
    where = Settings(home=tmp_path / "file", store=tmp_path / "file" / "results.duckdb")
    return Results(where.store, prepare=partial(provide, where), preview=partial(shipped_preview, where))


def test_a_store_that_cannot_be_made_says_why(impossible: Results) -> None:
    assert impossible.refresh().changed
    for _ in range(2):
        with pytest.raises(StoreError) as raised:
            impossible.made_store()
        assert "run an evaluation first" not in str(raised.value)
        assert "file" in str(raised.value)
    impossible.close()


async def test_pages_say_why_there_is_no_store(settings: Settings, impossible: Results) -> None:
    app = NasrobApp(settings, results=impossible)
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: app.freshness.problem)
        reason = " ".join(str(app.freshness.problem).split()[:3])
        await pilot.press("5")
        await until(pilot, lambda: isinstance(app.screen, FindingsScreen))
        await until(pilot, lambda: reason in str(app.screen.query_one("#finding-text", Static).render()))
        assert "computing" not in text_of(app)
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, SqlScreen))
        await pilot.press("f5")
        await until(pilot, lambda: reason in str(app.screen.query_one("#answer", Static).render()))
        app.push_screen(EnsembleScreen(WHOLE, None, "digits"))
        await until(pilot, lambda: reason in " ".join(text_of(app).split()))
    assert app.bugs == []
    impossible.close()


async def test_the_query_is_broken_anew_at_another_width(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(60, 16)) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: "robust_accuracy DESC" in text_of(app))
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "source, clean_accuracy," in text_of(app))
        assert text_of(app).count("clean_accuracy") == 1


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_have_the_options_that_differ_and_seeds_where_nothing_else_does() -> None:
    found = naming.telling_names(
        [
            ("darts@init_channels=4,layers=10", 0),
            ("darts@init_channels=4,layers=5", 0),
            ("darts@init_channels=4,layers=5", 1),
            ("resnet18@width=8", 0),
            ("pdarts", None),
            ("vgg@width=2", None),
            ("vgg", None),
        ]
    )
    assert list(found.values()) == [
        "darts@L=10",
        "darts@L=5 s0",
        "darts@L=5 s1",
        "resnet18",
        "pdarts",
        "vgg@width=2",
        "vgg",
    ]
    assert naming.short_names(["a@x=1", "a@x=2", "b@x=1"]) == {"a@x=1": "a@x=1", "a@x=2": "a@x=2", "b@x=1": "b"}


def test_short_options_are_understood_where_they_are_typed() -> None:
    from models.architectures import registry

    long = "darts@init_channels=6,layers=7"
    (short, _) = naming.short_names([long, "darts@init_channels=8,layers=9"]).values()
    assert set(short.partition("@")[2].split(",")) == {"C=6", "L=7"}
    assert registry.parse_architecture(short).canonical == long
    for name in ("darts-random-3", "robnet-large", "nsganet"):
        keys = {option.name for option in registry.find(name).options}
        assert keys >= set(naming.PAPERS), name


def test_a_folder_of_images_is_called_by_its_last_part() -> None:
    assert cells.dataset("folder:/somewhere/far away/flowers/") == "flowers/"
    assert cells.dataset("folder:/somewhere/far away/flowers@size=32") == "flowers@size=32/"
    assert cells.dataset("digits") == "digits"


def _transfers(*sources: str) -> JobProgress:
    steps = [
        EvaluationProgress(i, "darts-random-9000@layers=3", f"pgd-10 8/255 from {source}")
        for i, source in enumerate(sources)
    ]
    return JobProgress(1, Path("/jobs/1"), "transfers", "", evaluations=tuple(steps))


@pytest.mark.parametrize(
    ("sources", "shown"),
    [
        (("darts-ensemble-9", "darts-random-9001"), ("whole", "1")),
        (("darts-random-9000", "darts-random-9001"), ("9000", "9001")),
        (("resnet18",), ("resnet18",)),
    ],
)
async def test_transfers_say_what_they_are_made_on(
    make_app: MakeApp, sources: tuple[str, ...], shown: tuple[str, ...]
) -> None:
    app = make_app()
    async with app.run_test():
        rows = StepRows(_transfers(*sources), inks_of(app))
        found = [rows.cell(i, "attack").plain for i in range(rows.row_count)]
        assert found == [f"pgd-10 8/255 from {source}" for source in shown]
        assert rows.attack_width == max(map(len, found))


# -- jobs that are running ---------------------------------------------------------------------------------------------


async def test_every_screen_says_how_many_jobs_are_running(make_app: MakeApp, settings: Settings, store: Store) -> None:
    job = add_job(settings, "resnet18")
    claim(job)
    begin(job)
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.jobs and isinstance(app.screen, HomeScreen) and app.screen.page)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, DetailScreen) and "Jobs ▸1" in text_of(app))
        app.push_screen(LogScreen(app.jobs[0]))
        await until(pilot, lambda: isinstance(app.screen, LogScreen) and "Jobs ▸1" in text_of(app))
        await pilot.press("escape", "escape", "l")
        await until(pilot, lambda: "launch · 0 chosen" in text_of(app) and "Jobs ▸1" in text_of(app))


async def test_what_an_attack_measures_too_is_being_measured(
    make_app: MakeApp, ensembles: Ensembles, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensembles.attacked()
    words = ["ensemble", "attack", WHOLE, "--weights", sha_of(WHOLE)[:16], "--dataset", "digits"]
    words += ["--attack", "pgd", "--members", "--transfer"]
    going: list[tuple[str, ...]] = []
    monkeypatch.setattr(Errands, "under_way", property(lambda errands: going))
    app = make_app()
    async with app.run_test(size=(120, 50)) as pilot:
        await until(pilot, lambda: app.results.ready)
        screen = EnsembleScreen(WHOLE, sha_of(WHOLE), "digits")
        app.push_screen(screen)
        await until(pilot, lambda: "x measures them" in text_of(app))
        for other in (["square" if word == "pgd" else word for word in words], words[:-1]):
            going[:] = [tuple(other)]
            app.errands_moved.publish(tuple(other))
            await pilot.pause()
            assert "being measured" not in text_of(app)
        going[:] = [tuple(words)]
        app.errands_moved.publish(tuple(words))
        await until(pilot, lambda: "6 pairs not measured: being measured …" in text_of(app))
        going.clear()
        step = EvaluationProgress(1, WHOLE, "pgd-10 8/255 from darts-random-1", state="running")
        app.jobs = (JobProgress(1, Path("/jobs/1"), "", "", state="running", evaluations=(step,)),)
        app.jobs_moved.publish(app.jobs)
        await pilot.pause()
        assert "6 pairs not measured: being measured …" in text_of(app)
