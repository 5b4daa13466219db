"""The launch screen: what it offers, what it checks, what it starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from textual.widgets import Input

from explorer import launching
from explorer.jobs.folder import Job, all_jobs
from explorer.launching import Form
from explorer.results import Results
from explorer.screens.application import NasrobApp
from explorer.screens.jobs import JobsScreen
from explorer.screens.launch import LaunchScreen
from explorer.settings import Settings
from tests.explorer.app.support import add_weights, text_of, until

MakeApp = Callable[..., NasrobApp]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the jobs whose process would have been started."""
    numbers: list[int] = []
    monkeypatch.setattr(Job, "start", lambda job: numbers.append(job.number))
    return numbers


def launch(app: NasrobApp) -> LaunchScreen:
    return cast(LaunchScreen, app.screen)


async def test_a_job_is_started(make_app: MakeApp, settings: Settings, started: list[int]) -> None:
    add_weights(settings, "resnet18", seed=0)
    second = add_weights(settings, "resnet18", seed=1)
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("l")
        await until(pilot, lambda: "none yet" in text_of(app))
        assert "choose at least one model" in text_of(app)
        await pilot.press("enter")
        assert started == []
        await pilot.press("down", "space")
        await until(pilot, lambda: "0 of 3 evaluations are in the store, 3 to do" in text_of(app))
        launch(app).query_one("#eps", Input).value = "2/255 8/255"
        launch(app).query_one("#more", Input).value = "pgd-50"
        launch(app).query_one("#examples", Input).value = "100"
        await until(pilot, lambda: "0 of 8 evaluations" in text_of(app))
        await pilot.press("ctrl+y")
        assert app.clipboard.count("--attack") == 8
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, JobsScreen))
        assert started == [1]
        request = all_jobs(settings.jobs)[0].request()
        assert [m.sha256 for m in request.models] == [second]
        assert (request.examples, len(request.attacks)) == (100, 8)
        await until(pilot, lambda: "· queued" in text_of(app))


@pytest.mark.parametrize(
    ("field", "typed", "said"),
    [
        ("eps", "nonsense", "not a non-negative number or fraction"),
        ("eps", "8", "Did you mean 8/255?"),
        ("examples", "x", "examples takes a whole number"),
        ("examples", "100000", "ask for 1 to"),
        ("more", "pdg", "Did you mean"),
        ("device", "gpu", "use auto, cpu, cuda"),
        ("threads", "0", "at least 1"),
        ("seed", "-1", "seed must be at least 0"),
    ],
)
async def test_what_does_not_fit_is_said_at_once(settings: Settings, field: str, typed: str, said: str) -> None:
    add_weights(settings, "resnet18")
    results = Results(settings.store)
    results.refresh()
    models = launching.offer(settings, "digits").models[:1]
    name = {"more": "more_attacks"}.get(field, field)
    form = Form(models=models, attacks=("pgd",), **{name: typed})
    proposal = launching.propose(form, settings, results)
    assert said in proposal.problem
    assert not proposal.requests


async def test_without_weights_the_train_command_is_named(
    make_app: MakeApp, settings: Settings, started: list[int]
) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("l")
        await until(pilot, lambda: "none yet" in text_of(app))
        launch(app).query_one("#find", Input).focus()
        launch(app).query_one("#find", Input).value = "darts-random-77"
        await until(pilot, lambda: "[ ]  darts-random-77 " in text_of(app))
        await pilot.press("enter", "space")
        await until(pilot, lambda: "has no weights for digits. Train it: nasrob-tui train" in text_of(app))
        await pilot.press("ctrl+y")
        assert app.clipboard.startswith("nasrob-tui train --arch darts-random-77 --set init_channels=4")
        await pilot.press("enter")
        await pilot.pause(0.2)
        assert started == []
        assert isinstance(app.screen, LaunchScreen)
        await pilot.press("escape")
        assert not isinstance(app.screen, LaunchScreen)


async def test_the_form_can_be_walked_by_keys(make_app: MakeApp, settings: Settings) -> None:
    add_weights(settings, "resnet18")
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("l")
        await until(pilot, lambda: "[ ]  resnet18" in text_of(app))
        await pilot.press("space", "tab", "tab", "tab", "space")
        await until(pilot, lambda: "of 2 evaluations" in text_of(app))
        assert "[ ] fgsm" in text_of(app)
        await pilot.press("down", "down", "up", "down")
        assert app.focused is launch(app).query_one("#eps")
        await pilot.press("q", "1", "?")
        assert launch(app).query_one("#eps", Input).value == "q1?"


def test_evaluations_that_are_known_are_counted(settings: Settings) -> None:
    add_weights(settings, "resnet18")
    results = Results(settings.store)
    results.refresh()
    form = Form(models=launching.offer(settings, "digits").models[:1], attacks=("fgsm", "pgd"), examples="100")
    proposal = launching.propose(form, settings, results)
    request = proposal.requests[0]
    identity = request.evaluation(request.models[0], request.attacks[1]).identity
    with results.store.write() as con:
        con.execute(
            """
            INSERT INTO evaluations BY NAME
            SELECT ? AS evaluation_id, 'm' AS model_sha256, 'd' AS dataset_id, 'a' AS attack_id, '{}' AS preprocessing,
                100 AS n_requested, 100 AS n_done, 100 AS n_counted,
                'x' AS subset_digest, 'complete' AS status, []::TEXT[] AS warnings,
                'cpu' AS device, 'float32' AS "precision", '0' AS software_version, '2' AS torch_version,
                1 AS engine_revision, TIMESTAMP '2026-01-01' AS started_at, TIMESTAMP '2026-01-01' AS updated_at
            """,
            [identity],
        )
    results.refresh()
    assert (proposal.n_evaluations, proposal.n_known) == (2, 0)
    assert launching.propose(form, settings, results).n_known == 1
