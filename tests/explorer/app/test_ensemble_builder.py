"""The builder of ensembles: what it shows while one chooses, what it refuses, what it starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from textual.widgets import Input

from explorer import architectures, ensemblebuilding, launching
from explorer.architectures import Counts, Page
from explorer.ensemblebuilding import Form
from explorer.ensemblelist import Ensemble, Member
from explorer.errors import ExplorerError
from explorer.jobs.folder import Job, all_jobs
from explorer.jobs.training import TrainingRequest
from explorer.results import Results
from explorer.screens.application import NasrobApp
from explorer.screens.ensemble_builder import EnsembleBuilderScreen
from explorer.screens.ensembles import EnsemblesScreen
from explorer.screens.jobs import JobsScreen
from explorer.settings import Settings
from explorer.studies.costs import Times
from explorer.studies.expansion import Place
from explorer.widgets.choice import Choice
from explorer.widgets.table import ResultTable
from models.architectures import genotypes
from models.ensembles import composition
from tests.explorer.app.ensemble_support import understood
from tests.explorer.app.support import add_weights, text_of, until

MakeApp = Callable[..., NasrobApp]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the jobs whose process would have been started."""
    numbers: list[int] = []
    monkeypatch.setattr(Job, "start", lambda job: numbers.append(job.number))
    return numbers


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counting that takes no process and no time; what was counted."""
    asked: list[str] = []

    async def count(page: Page, settings: Settings, *, of: list[str]) -> Counts:
        if "nasbench201" in page.spec.name:
            raise ExplorerError("it cannot be built.")
        asked.append(" ".join([page.spec.canonical, *of]))
        return Counts(3_210_000, 3_210_000, 87_000_000, in_channels=1, input_size=8, num_classes=10)

    monkeypatch.setattr(architectures, "count", count)
    monkeypatch.setattr("explorer.screens.ensemble_builder.COUNTING_PAUSE", 0.0)
    return asked


@pytest.fixture
def results(settings: Settings) -> Any:
    found = Results(settings.store)
    found.refresh()
    yield found
    found.close()


def builder(app: NasrobApp) -> EnsembleBuilderScreen:
    return cast(EnsembleBuilderScreen, app.screen)


async def opened(app: NasrobApp, pilot: Any) -> EnsembleBuilderScreen:
    await until(pilot, lambda: app.results.ready)
    await pilot.press("4", "n")
    await until(pilot, lambda: isinstance(app.screen, EnsembleBuilderScreen) and builder(app).offer.asked)
    return builder(app)


# -- sampling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(80, 24), (140, 40), (200, 60)])
async def test_a_sampled_ensemble_is_shown_and_trained(
    make_app: MakeApp, settings: Settings, started: list[int], counted: list[str], size: tuple[int, int]
) -> None:
    app = make_app()
    app.animation_level = "none"
    async with app.run_test(size=size) as pilot:
        screen = await opened(app, pilot)
        screen.query_one("#seed", Input).value = "7"
        screen.query_one("#cells", Input).value = "2, 1"
        screen.query_one("#channels", Input).value = "4"
        screen.query_one("#epochs", Input).value = "1"
        screen.query_one("#training-seed", Input).value = "3"
        name = "darts-ensemble-7@cells=2-1,init_channels=4,combine=learned"
        await until(pilot, lambda: "3.21M parameters" in text_of(app) and name in text_of(app))
        assert counted[-1] == f"{name} --in-channels=1 --input-size=8 --num-classes=10"
        for part in ("darts-random-7000", "darts-random-7001", "2 cells · 4 channels", "1 cell · 4 channels"):
            assert part in text_of(app), part
        assert "2 members, 1 epoch each, then the combiner" in text_of(app)
        screen.query_one("#then", Choice).focus()
        await pilot.press("right")
        screen.query_one("#eps", Input).value = "4/255"
        screen.query_one("#examples", Input).value = "60"
        await until(pilot, lambda: "then 3 evaluations" in text_of(app))
        await pilot.press("pagedown")
        await pilot.pause()
        shown = text_of(app)
        for operation, _ in genotypes.sample(7000).normal.edges[:2]:
            assert operation in shown
        await pilot.press("ctrl+y")
        train, attack = (line.split()[1:] for line in app.clipboard.split(" && "))
        assert (understood(train)["arch"], understood(train)["seed"]) == ([name], 3)
        asked = understood(attack)
        assert (asked["names"], asked["examples"], asked["members"]) == ([name], 60, True)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, JobsScreen))
        assert started == [1]
        request = all_jobs(settings.jobs)[0].request()
        assert isinstance(request, TrainingRequest)
        (order,) = request.orders
        assert (order.architecture, order.dataset, order.seed) == (name, "digits", 3)
        assert dict(order.overrides) == {"epochs": 1}
        assert request.then is not None
        assert [a.label for a in request.then.attacks] == ["pgd-10 4/255"]
        assert (request.then.examples, request.then.members, request.then.transfer) == (60, True, False)


async def test_what_cannot_be_counted_says_why(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        screen = await opened(app, pilot)
        screen.query_one("#space", Choice).focus()
        await pilot.press("right")
        await until(pilot, lambda: "not counted: it cannot be built." in text_of(app))
        assert "nasbench201-random-1" in text_of(app)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": "x"}, "seed takes a whole number"),
        ({"seed": "-1"}, "seed must be at least 0"),
        ({"cells": "two"}, "cells"),
        ({"cells": "0-1"}, "cells"),
        ({"cells": "3"}, "cells"),
        ({"channels": "0"}, "init_channels"),
        ({"dataset": "digitz"}, "Did you mean"),
        ({"dataset": ""}, "dataset"),
        ({"dataset": "cifar100"}, "not on this machine"),
        ({"training_seed": "x"}, "training seed takes a whole number"),
        ({"epochs": "0"}, "epochs"),
        ({"then": "pgd", "eps": "8"}, "Did you mean 8/255"),
        ({"then": "pgd", "examples": "100000"}, "ask for 1 to"),
        ({"then": "pgd", "also": ("transfer",), "rule": "features-mean", "cells": "1-1"}, "do not stand alone"),
        ({"device": "gpu"}, "use auto, cpu, cuda"),
        ({"threads": "x"}, "threads takes a whole number"),
        ({"threads": "0"}, "threads"),
    ],
)
def test_what_does_not_fit_is_a_sentence(
    settings: Settings, results: Results, changes: dict[str, Any], said: str
) -> None:
    proposal = ensemblebuilding.propose(Form(**changes), settings, results)
    assert said in proposal.problem
    assert proposal.problem.count("\n") == 0
    assert proposal.request is None
    assert proposal.command == ""


async def test_a_form_that_does_not_fit_starts_nothing(
    make_app: MakeApp, settings: Settings, started: list[int]
) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(app, pilot)
        screen.query_one("#cells", Input).value = "nonsense"
        await until(pilot, lambda: "! " in text_of(app))
        await pilot.press("enter")
        await pilot.pause(0.3)
        assert started == []
        assert app.screen is screen
        await pilot.press("ctrl+y")
        assert app.clipboard == ""
        screen.query_one("#cells", Input).value = ""
        await until(pilot, lambda: "3 members, " in text_of(app))


@pytest.mark.parametrize("rule", list(composition.RULES))
def test_every_rule_can_be_trained(settings: Settings, results: Results, rule: str) -> None:
    also = () if rule in composition.JOINT else ("members", "transfer", "gradients")
    form = Form(rule=rule, cells="1-1", then="paper", also=also, examples="20")
    proposal = ensemblebuilding.propose(form, settings, results)
    assert proposal.problem == ""
    assert proposal.request is not None
    assert proposal.request.orders[0].architecture.endswith(f"combine={rule}")
    for line in proposal.command.split(" && "):
        understood(line.split()[1:])
    joint = rule in composition.JOINT
    assert proposal.note.startswith("trained as one, " if joint else "2 members, ")
    assert ("the combiner" in proposal.note) == (rule in composition.LEARNED)


def test_the_time_is_said_where_every_member_has_been_timed(settings: Settings, results: Results) -> None:
    form = Form(cells="1-1", channels="4", epochs="10", rule="mean-probs")
    first = ensemblebuilding.propose(form, settings, results)
    assert "takes about" not in first.note
    times = Times(Place(settings))
    assert first.request is not None
    members = [part.architecture.canonical for part in first.request.orders[0].order().parts]
    times.note(members[0], "digits", 0.001)
    assert "takes about" not in ensemblebuilding.propose(form, settings, results).note
    times.note(members[1], "digits", 0.003)
    # 10 epochs of the training images, at 4 ms for both members together.
    images = first.request.orders[0].order().entry.sizes["train"]
    assert f"takes about {images * 10 * 0.004:.0f} s" in ensemblebuilding.propose(form, settings, results).note


def test_weights_that_are_there_are_mentioned(settings: Settings, results: Results) -> None:
    name = "darts-ensemble-0"
    add_weights(settings, name, architecture=f"{name}@cells=1-1,init_channels=4,combine=learned")
    assert "it has been trained" in ensemblebuilding.propose(Form(cells="1-1"), settings, results).note
    other = ensemblebuilding.propose(Form(cells="1-1", training_seed="1"), settings, results)
    assert "it has been trained" not in other.note


# -- picking -----------------------------------------------------------------------------------------------------------


async def test_models_are_picked(
    make_app: MakeApp, settings: Settings, started: list[int], sent: list[list[str]]
) -> None:
    shas = [add_weights(settings, f"darts-random-{i}", seed=i) for i in range(3)]
    add_weights(settings, "darts-ensemble-0", seed=9)
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(app, pilot)
        await pilot.press("right")
        await until(pilot, lambda: "[ ]  darts-random-2" in text_of(app))
        # An ensemble is no member, and what cannot be picked for is not offered.
        assert "darts-ensemble-0" not in text_of(app)
        assert "features-mean" not in text_of(app)
        await until(pilot, lambda: "choose two models or more" in text_of(app))
        screen.query_one(ResultTable).focus()
        await pilot.press("down", "down", "space")
        await until(pilot, lambda: "one model is no ensemble" in text_of(app))
        await pilot.press("enter")
        await pilot.pause(0.2)
        assert sent == []
        await pilot.press("up", "up", "space")
        await until(pilot, lambda: "2 of 3 chosen" in text_of(app) and "nothing is trained" in text_of(app))
        assert screen.query_one(ResultTable).cursor_row == 0
        await pilot.press("slash", *"random-1")
        await until(pilot, lambda: "darts-random-0" not in "".join(text_of(app).splitlines()[4:9]))
        await pilot.press("escape")
        assert screen.query_one(ResultTable).has_focus
        await pilot.press("ctrl+y")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, EnsemblesScreen))
        assert started == []
        assert app.clipboard.split()[1:] == sent[0]
        asked = understood(sent[0])
        # In the order in which they were chosen.
        assert [name.partition("@")[0] for name in asked["arch"]] == ["darts-random-2", "darts-random-0"]
        assert [shas[2].startswith(asked["weights"][0]), shas[0].startswith(asked["weights"][1])] == [True, True]
        assert (asked["combine"], asked["dataset"]) == ("mean-logits", "digits")


async def test_a_picked_ensemble_is_picked_anew_from_its_members(make_app: MakeApp, settings: Settings) -> None:
    shas = [add_weights(settings, f"darts-random-{i}", seed=i) for i in range(3)]
    members = tuple(Member(i, f"darts-random-{i}@init_channels=8,layers=8", shas[i]) for i in (2, 1))
    like = Ensemble("ensemble-0123456789ab@combine=majority", "ensemble-0123456789ab", "digits", "majority", members)
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: app.results.ready)
        app.push_screen(EnsembleBuilderScreen(like))
        await until(pilot, lambda: "2 of 3 chosen" in text_of(app) and "nothing is trained" in text_of(app))
        form = builder(app).form
        assert not form.sampled
        assert form.rule == "majority"
        assert [model.sha256 for model in form.models] == [shas[2], shas[1]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rule": "features-mean"}, "cannot be picked"),
        ({"training_seed": "-1"}, "seed must be at least 0"),
        ({"threads": "x"}, "threads takes a whole number"),
        ({"device": "gpu"}, "use auto, cpu, cuda"),
    ],
)
def test_a_pick_that_does_not_fit_is_refused(
    settings: Settings, results: Results, changes: dict[str, Any], said: str
) -> None:
    for i in range(2):
        add_weights(settings, f"darts-random-{i}", seed=i)
    models = ensemblebuilding.offer(settings, "digits").models
    usual = {"sampled": False, "models": models, "rule": "majority"}
    assert ensemblebuilding.propose(Form(**usual), settings, results).words  # type: ignore[arg-type]
    proposal = ensemblebuilding.propose(Form(**{**usual, **changes}), settings, results)
    assert said in proposal.problem
    assert proposal.words == ()


def test_the_parameters_of_picked_models_are_those_of_the_store(
    settings: Settings, ensembles: Any, results: Results
) -> None:
    names = [f"darts-random-{i}" for i in range(2)]
    for i, name in enumerate(names):
        add_weights(settings, name, seed=i)
    models = launching.offer(settings, "digits").models[:2]
    form = Form(sampled=False, models=models, rule="majority")
    assert ensemblebuilding.propose(form, settings, results).params is None
    with ensembles.store.write() as con:
        for model in models:
            con.execute(
                "INSERT INTO models BY NAME SELECT ? AS model_sha256, ? AS architecture_id, 'digits' AS trained_on, "
                "10 AS n_classes, 1500 AS params, 'trained' AS origin, 'w' AS weights_path, 'a' AS label, "
                "now()::TIMESTAMP AS recorded_at",
                [model.sha256, model.architecture],
            )
    results.refresh()
    assert ensemblebuilding.propose(form, settings, results).params == 3000
