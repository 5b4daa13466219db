"""Training in the app: offered where weights are lacking, followed like an evaluation. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
from textual.widgets import Input

from explorer import launching
from explorer.jobs import folder
from explorer.jobs.folder import Job, all_jobs
from explorer.jobs.request import Request
from explorer.jobs.training import Afterwards, TrainingRequest
from explorer.launching import Form, ModelChoice
from explorer.results import Results
from explorer.screens.application import NasrobApp
from explorer.screens.jobs import JobsScreen
from explorer.screens.launch import LaunchScreen
from explorer.settings import Settings
from explorer.studies.costs import Times
from explorer.studies.expansion import Place
from explorer.training import Order
from models.architectures import registry as architectures
from models.attacks import registry as attacks
from tests.explorer.app.support import add_weights, claim, text_of, until

MakeApp = Callable[..., NasrobApp]

SIZES = [(80, 24), (140, 40)]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the jobs whose process would have been started."""
    numbers: list[int] = []
    monkeypatch.setattr(Job, "start", lambda job: numbers.append(job.number))
    return numbers


def add_training(settings: Settings, *names: str) -> Job:
    """A job that is written and not started: 20 epochs on digits, then two attacks."""
    orders = [
        Order(architectures.parse_architecture(name, scale="small"), "digits", overrides={"epochs": 20})
        for name in names
    ]
    then = Afterwards((attacks.resolve("fgsm"), attacks.resolve("pgd")), examples=100)
    return folder.create(settings.jobs, TrainingRequest.of(orders, settings.store, then=then))


def begin(job: Job, *, number: int = 1, epoch: int = 5) -> None:
    """Write the events of a job that is in the middle of a training."""
    job.append("job_started", device="cpu", n_trainings=2, n_evaluations=4)
    job.append("training_started", number=number, epochs=20)
    job.append("training_progress", number=number, epoch=epoch, epochs=20, loss=0.512, accuracy=87.25, eta_seconds=42.0)


# -- following ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_a_training_is_a_row_with_its_epochs(
    make_app: MakeApp, settings: Settings, size: tuple[int, int]
) -> None:
    job = add_training(settings, "darts", "resnet18")
    claim(job)
    begin(job)
    app = make_app(focus_job=job.number)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "train 87.2 %" in text_of(app))
        shown = text_of(app).splitlines()
        about_job = next(line for line in shown if "0/6" in line)
        assert "train darts, resnet18" in about_job
        assert "train darts@init_channels=4,layers=5, resnet18@width=16 on digits" in "".join(shown)
        row = next(line for line in shown if "train 87.2 %" in line)
        assert "▸ running" in row
        assert "loss 0.512" in row
        assert "0:42" in row
        assert "5/20" in row
        assert "0:42+" in about_job
        assert sum("pgd-10" in line and "· queued" in line for line in shown) == 2
        begin(job, epoch=6)
        job.append("training_finished", number=1, epochs=20, seconds=61.0, clean_accuracy=96.5, sha256="ab" * 32)
        await until(pilot, lambda: "1/6" in text_of(app))
        row = next(line for line in text_of(app).splitlines() if "✓ complete" in line)
        assert "1:01" in row
        assert "96.5" in row or size[0] < 100
        job.append("training_started", number=2, epochs=20)
        job.append("training_failed", number=2)
        await until(pilot, lambda: "✗ failed" in text_of(app))
        await pilot.press("y")
        assert app.clipboard.splitlines()[0].startswith("nasrob-tui train --arch darts@")
        await pilot.press("1")
        await until(pilot, lambda: "▸1" in text_of(app) and "pgd-10" in text_of(app))


async def test_it_is_cancelled_and_resumed(
    make_app: MakeApp, settings: Settings, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancel(job: Job) -> bool:
        job.append("job_finished", state="cancelled", exit_code=130)
        return True

    monkeypatch.setattr(Job, "cancel", cancel)
    job = add_training(settings, "darts")
    claim(job)
    begin(job)
    app = make_app(focus_job=job.number)
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: "▸ running" in text_of(app))
        await pilot.press("c")
        await until(pilot, lambda: "■ cancelled" in text_of(app) and "■ partial" in text_of(app))
        await pilot.press("r")
        await until(pilot, lambda: started == [job.number])
        await pilot.press("enter")
        await until(pilot, lambda: "training started" in text_of(app))
        assert "training progress" not in text_of(app)


# -- launching ---------------------------------------------------------------------------------------------------------


def launch(app: NasrobApp) -> LaunchScreen:
    return cast(LaunchScreen, app.screen)


@pytest.mark.parametrize("size", SIZES)
async def test_what_has_no_weights_is_trained_first(
    make_app: MakeApp, settings: Settings, started: list[int], size: tuple[int, int]
) -> None:
    app = make_app()
    async with app.run_test(size=size) as pilot:
        await pilot.press("l")
        await until(pilot, lambda: "none yet" in text_of(app))
        launch(app).query_one("#find", Input).value = "darts-random-77"
        await until(pilot, lambda: "[ ]  darts-random-77 " in text_of(app))
        launch(app).query_one("#find", Input).focus()
        await pilot.press("enter", "space")
        await until(pilot, lambda: "^t trains darts-random-77 first, then attacks it" in text_of(app))
        assert "has no weights for digits" in text_of(app)
        await pilot.press("enter")
        await pilot.pause(0.1)
        assert started == []
        # In a field a letter would be typed.
        launch(app).query_one("#eps", Input).focus()
        launch(app).query_one("#eps", Input).value = "4/255"
        launch(app).query_one("#examples", Input).value = "50"
        await pilot.press("ctrl+t")
        await until(pilot, lambda: isinstance(app.screen, JobsScreen))
        assert started == [1]
        request = all_jobs(settings.jobs)[0].request()
        assert isinstance(request, TrainingRequest)
        spec = architectures.parse_architecture("darts-random-77", scale="small")
        assert [(o.architecture, o.dataset, o.seed) for o in request.orders] == [(spec.canonical, "digits", 0)]
        assert request.then is not None
        assert [a.label for a in request.then.attacks] == ["fgsm 4/255", "f-fgsm 4/255", "pgd-10 4/255"]
        assert request.then.examples == 50
        await until(pilot, lambda: "train darts-random-77" in text_of(app))


async def test_the_others_are_attacked_meanwhile(make_app: MakeApp, settings: Settings, started: list[int]) -> None:
    sha = add_weights(settings, "resnet18")
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("l")
        await until(pilot, lambda: "none yet" in text_of(app))
        await pilot.press("space", "down", "space", "down", "space")
        bare = [m for m in launch(app).chosen.values() if m.weights is None]
        assert len(bare) == 2
        await until(
            pilot, lambda: f"trains {bare[0].text}, {bare[1].text} first, then attacks them all" in text_of(app)
        )
        await pilot.press("ctrl+t")
        await until(pilot, lambda: isinstance(app.screen, JobsScreen))
        assert started == [1, 2]
        training, beside = (folder.find(settings.jobs, number).request() for number in started)
        assert isinstance(training, TrainingRequest)
        assert [order.architecture for order in training.orders] == [m.architecture for m in bare]
        assert isinstance(beside, Request)
        assert [model.sha256 for model in beside.models] == [sha]
        assert training.then is not None
        assert beside.attacks == training.then.attacks


async def test_with_weights_there_is_nothing_to_train(
    make_app: MakeApp, settings: Settings, started: list[int]
) -> None:
    add_weights(settings, "resnet18")
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("l")
        await until(pilot, lambda: "[ ]  resnet18" in text_of(app))
        await pilot.press("space", "ctrl+t")
        await until(pilot, lambda: any("Every model chosen has weights" in n.message for n in app._notifications))
        assert started == []
        assert isinstance(app.screen, LaunchScreen)


def choice(name: str) -> ModelChoice:
    spec = architectures.parse_architecture(name, scale="small")
    return ModelChoice(spec.canonical, name, architectures.find(spec.name).family)


def propose(settings: Settings, form: Form) -> launching.Proposal:
    results = Results(settings.store)
    results.refresh()
    return launching.propose(form, settings, results)


def test_time_is_foretold_only_where_the_same_was_trained_here(settings: Settings) -> None:
    form = Form(models=(choice("darts-random-77"),), attacks=("pgd",), threads="1")
    first = propose(settings, form).first
    assert first is not None
    assert first.seconds is None
    (requested,) = first.training.orders
    Times(Place(settings, threads=1)).note(requested.architecture, "digits", 0.001)
    first = propose(settings, form).first
    assert first is not None
    epochs, images = first.training.steps()[0].epochs, requested.order().entry.sizes["train"]
    assert first.seconds == pytest.approx(0.001 * epochs * images)
    ensemble = Form(models=(choice("darts-ensemble-7"),), attacks=("pgd",), threads="1")
    first = propose(settings, ensemble).first
    assert first is not None
    assert first.seconds is None
    assert [step.kind for step in first.training.steps()] == ["member", "member", "member", "whole"]


@pytest.mark.parametrize(
    ("field", "typed"), [("eps", "nonsense"), ("examples", "100000"), ("device", "gpu"), ("threads", "0")]
)
def test_nothing_is_trained_for_a_form_that_is_wrong(settings: Settings, field: str, typed: str) -> None:
    form = replace(Form(models=(choice("darts-random-77"),), attacks=("pgd",)), **{field: typed})  # type: ignore[arg-type]
    proposal = propose(settings, form)
    assert proposal.problem
    assert proposal.first is None
