"""Choosing models in the launch dialog: any architecture that can be typed, with any weights that there are for it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from textual import events
from textual.widgets import Input

from explorer import elsewhere, launching
from explorer.errors import ExplorerError
from explorer.jobs import planning
from explorer.jobs.folder import Job, all_jobs
from explorer.jobs.planning import Asked
from explorer.launching import Form, Typed
from explorer.results import Results
from explorer.screens.application import NasrobApp
from explorer.screens.home import HomeScreen
from explorer.screens.jobs import JobsScreen
from explorer.screens.launch import LaunchScreen
from explorer.settings import Settings
from explorer.widgets.choice import Choice
from models.architectures import genotypes
from models.errors import ModelsError
from models.specs import ArchitectureSpec
from tests.explorer.app.support import add_weights, text_of, until

MakeApp = Callable[..., NasrobApp]
FACTORY = "somebodys.networks:small"


def launch(app: NasrobApp) -> LaunchScreen:
    return cast(LaunchScreen, app.screen)


def found(settings: Settings, architecture: str = "", weights: str = "", dataset: str = "digits") -> Typed:
    return launching.typed(Typed(architecture, weights, dataset), settings)


def why_not(settings: Settings, architecture: str = "", weights: str = "", dataset: str = "digits") -> str:
    with pytest.raises(ModelsError) as raised:
        found(settings, architecture, weights, dataset)
    return str(raised.value)


# -- what is typed ---------------------------------------------------------------------------------------------------


def test_weights_of_any_typed_name_are_found_the_newest_first(settings: Settings) -> None:
    old = add_weights(settings, "darts", seed=0, created_at="2026-01-01T00:00:00+00:00", recipe_name="darts")
    new = add_weights(settings, "darts", seed=1, created_at="2026-02-01T00:00:00+00:00", recipe_name="trades")
    other = add_weights(settings, "darts@layers=8", seed=2)
    add_weights(settings, "pdarts", seed=3)
    add_weights(settings, "darts", seed=4, dataset="cifar10", num_classes=10, in_channels=3)
    for text in ("darts", "DARTS_V2", "darts@layers=5", genotype_text("DARTS_V2")):
        models = found(settings, text).models
        assert [m.sha256 for m in models] == [new, old, other], text
        assert [m.recipe for m in models] == ["trades", "darts", "trained"]
    # With the options that only the last one has, that comes first.
    assert [m.sha256 for m in found(settings, "darts@layers=8").models] == [other, new, old]
    # The name alone where the options are the usual ones.
    assert [m.text for m in found(settings, "darts").models] == ["darts", "darts", "darts@init_channels=4,layers=8"]
    (bare,) = found(settings, "darts-random-5").models
    assert (bare.weights, bare.weights_text) == (None, "none yet")


def genotype_text(key: str) -> str:
    """A published genotype as its authors print it."""
    cell = genotypes.Genotype.from_dict(genotypes.published()[key])
    return str(cell)


def test_weights_of_somebodys_code_are_found_once_it_is_named(settings: Settings) -> None:
    sha = add_weights(settings, FACTORY)
    wide = add_weights(settings, f"{FACTORY}@width=8", seed=1)
    assert FACTORY not in {m.text for m in launching.offer(settings, "digits").models}
    models = found(settings, FACTORY).models
    assert [(m.sha256, m.weights_text) for m in models] == [(sha, sha[:8]), (None, "as returned"), (wide, wide[:8])]
    assert models[1].weights == planning.AS_RETURNED
    # All of them can be asked for at once: none stands in the way of the others.
    results = Results(settings.store)
    proposal = launching.propose(Form(models=models, attacks=("pgd",)), settings, results)
    assert [m.weights for m in proposal.requests[0].models] == [m.weights for m in models]
    assert proposal.n_evaluations == 3
    assert "somebodys" not in sys.modules


def test_published_weights_are_for_the_classes_they_know(settings: Settings) -> None:
    models = found(settings, "torchvision:resnet50", dataset="foolbox-imagenet").models
    assert [m.weights_text for m in models] == ["IMAGENET1K_V2", "IMAGENET1K_V1"]
    assert [m.clean_accuracy for m in models] == [80.858, 76.13]
    for text in ("DEFAULT", "imagenet1k_v2", "torchvision:IMAGENET1K_V2"):
        assert found(settings, "torchvision:resnet50", text, "foolbox-imagenet").models == models[:1], text
    (timm,) = found(settings, "timm:resnet18", dataset="foolbox-imagenet").models
    assert (timm.weights, timm.weights_text) == ("timm:pretrained", "pretrained")
    assert found(settings, "timm:resnet18", "pretrained", "foolbox-imagenet").models == (timm,)
    assert [m.weights for m in found(settings, "torchvision:resnet50").models] == [None]
    assert "knows the 1000 classes of imagenet, not those of digits" in why_not(
        settings, "torchvision:resnet50", "DEFAULT"
    )
    said = why_not(settings, "torchvision:resnet50", "IMAGENET1K_V7", "foolbox-imagenet")
    assert "there is no weights file IMAGENET1K_V7. Published ones are IMAGENET1K_V2, IMAGENET1K_V1." in said
    results = Results(settings.store)
    proposal = launching.propose(Form(models=models, dataset="foolbox-imagenet", attacks=("fgsm",)), settings, results)
    # Each at the geometry that its weights want.
    assert [r.models[0].weights for r in proposal.requests] == [
        "torchvision:IMAGENET1K_V2",
        "torchvision:IMAGENET1K_V1",
    ]


def test_a_file_or_a_sha_names_the_weights(settings: Settings, tmp_path: Path) -> None:
    sha = add_weights(settings, "resnet18")
    (file,) = settings.weights.rglob("*.safetensors")
    for architecture, weights in (("", str(file)), ("resnet18", str(file)), ("", sha[:10]), ("resnet18", sha)):
        (model,) = found(settings, architecture, weights).models
        assert (model.text, model.sha256, model.weights) == ("resnet18", sha, str(file))
    checkpoint = tmp_path / "of mine.pt"
    checkpoint.write_bytes(b"some zip")
    (model,) = found(settings, "darts", str(checkpoint)).models
    assert (model.text, model.weights, model.weights_text) == ("darts", str(checkpoint), "of mine.pt")
    for architecture, weights, dataset, said in (
        ("", str(checkpoint), "digits", "does not say which architecture it is for"),
        ("darts", str(file), "digits", "holds weights of resnet18@width=16, not of darts"),
        ("", str(file), "foolbox-cifar10", "is for digits: 10 classes of images with 1 channel"),
        ("darts", "/nowhere.pt", "digits", "there is no weights file /nowhere.pt."),
        ("darts", "x" * 5000, "digits", "there is no weights file"),
        ("darts", "~nobody-of-that-name/x.pt", "digits", "there is no weights file"),
        ("darts", str(tmp_path), "digits", "is not a file"),
        ("", "abcdef", "digits", "no weights begin with SHA-256 abcdef"),
        ("dartz", "", "digits", "Did you mean 'darts'"),
        ("Genotype(normal=", "", "digits", "does not parse"),
    ):
        assert said in why_not(settings, architecture, weights, dataset)


def test_torchvision_of_a_name_not_listed_is_asked_for_elsewhere(settings: Settings) -> None:
    """In a process of its own: torch stays out of the one that asks, for a name that is none and a file that claims
    one."""
    add_weights(settings, "resnet18", architecture="torchvision:resnet1888")
    code = f"""
import asyncio, sys
from pathlib import Path
from explorer import launching
from explorer.settings import Settings
settings = Settings(Path({str(settings.home)!r}), Path({str(settings.store)!r}))
print(len(launching.offer(settings, "digits").models) > 10)
print(asyncio.run(launching.look_up("torchvision:resnet1888", "", "digits", settings)).problem)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    offered, said, torch = done.stdout.splitlines()
    assert (offered, torch) == ("True", "False")
    assert said.startswith("unknown torchvision model 'resnet1888'. Did you mean 'resnet18'")


def test_what_the_child_answers(settings: Settings) -> None:
    where = {"home": str(settings.home), "store": str(settings.store)}
    asked = elsewhere.answer({"what": "architecture", "text": "darts@layers=8", "scale": "small", **where})
    assert asked == {"name": "darts", "options": (("init_channels", 4), ("layers", 8)), "family": "nas"}
    question = {"architectures": ["timm:resnet18"], "weights": ["timm:pretrained"], "datasets": ["foolbox-imagenet"]}
    planned = elsewhere.answer({"what": "plan", "asked": question, **where})
    assert planned["requests"][0]["models"][0]["weights"] == "timm:pretrained"
    assert planned == json.loads(json.dumps(planned))
    question["datasets"] = ["nonsense"]
    assert "unknown dataset 'nonsense'" in elsewhere.answer({"what": "plan", "asked": question, **where})["problem"]


async def test_what_packages_plan_is_taken_from_elsewhere(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only forms that need it go there, and its problem is said."""
    times = []

    async def plan(asked: Asked, settings: Settings) -> tuple[object, ...]:
        times.append(asked)
        return tuple(planning.plan(asked, settings))

    monkeypatch.setattr(elsewhere, "plan", plan)
    results = Results(settings.store)
    timm = found(settings, "timm:resnet18", dataset="foolbox-imagenet").models
    form = Form(models=timm, dataset="foolbox-imagenet", attacks=("fgsm",))
    assert (await launching.check(form, settings, results)).n_evaluations == 1
    assert [asked.weights for asked in times] == [["timm:pretrained"]]
    torchvision = found(settings, "torchvision:resnet18", dataset="foolbox-imagenet").models
    form = Form(models=torchvision, dataset="foolbox-imagenet", attacks=("fgsm",))
    assert (await launching.check(form, settings, results)).n_evaluations == 1
    assert len(times) == 1
    form = Form(models=timm, dataset="foolbox-imagenet", attacks=("pdg",))
    assert "Did you mean" in (await launching.check(form, settings, results)).problem


# -- in the dialog ---------------------------------------------------------------------------------------------------


async def test_a_typed_factory_with_weights_is_launched(
    make_app: MakeApp, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "start", lambda job: None)
    add_weights(settings, FACTORY, seed=0, created_at="2026-01-01T00:00:00+00:00")
    new = add_weights(settings, FACTORY, seed=1, created_at="2026-02-01T00:00:00+00:00", recipe_name="trades")
    threads: list[threading.Thread] = []
    real = launching.typed

    def typed(*arguments: object) -> Typed:
        threads.append(threading.current_thread())
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(launching, "typed", typed)
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("l")
        await until(pilot, lambda: "none yet" in text_of(app))
        await pilot.press("slash", *FACTORY)
        await until(pilot, lambda: "as returned" in text_of(app))
        lines = [line for line in text_of(app).splitlines() if f"[ ]  {FACTORY}" in line]
        assert [("trades" in line, new[:8] in line, "97.2" in line) for line in lines] == [
            (True, True, True),
            (False, False, True),
            (False, False, False),
        ]
        await pilot.press("enter", "space")
        await until(pilot, lambda: "0 of 3 evaluations are in the store" in text_of(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, JobsScreen))
    assert [m.sha256 for m in all_jobs(settings.jobs)[0].request().models] == [new]
    assert threads
    assert threading.main_thread() not in threads


async def test_what_is_typed_and_is_nothing_is_said(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.press("l")
        await until(pilot, lambda: "none yet" in text_of(app))
        await pilot.press("slash", *"dartz-9")
        await until(pilot, lambda: "! unknown architecture 'dartz-9'" in text_of(app))
        # There is nothing to go to.
        await pilot.press("enter")
        assert app.focused is launch(app).query_one("#find")
        launch(app).query_one("#find", Input).value = "darts"
        launch(app).query_one("#weights", Input).value = "/nowhere.pt"
        await until(pilot, lambda: "! there is no weights file /nowhere.pt" in text_of(app))


async def test_a_pasted_genotype_is_one_line_and_its_end_is_seen(make_app: MakeApp, settings: Settings) -> None:
    sha = add_weights(settings, "darts")
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("l", "slash")
        printed = genotype_text("DARTS_V2").replace("), (", "),\n    (")
        launch(app).query_one("#find").post_message(events.Paste(printed))
        await until(pilot, lambda: sha[:8] in text_of(app))
        assert "reduce" in launch(app).query_one("#find", Input).value
        # No scroll bar lies on the line.
        assert printed.replace("\n    ", " ")[-20:].strip() in text_of(app).splitlines()[1]


async def test_keys_go_through_the_form_in_order(make_app: MakeApp, settings: Settings) -> None:
    add_weights(settings, "resnet18")
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("l")
        await until(pilot, lambda: "[ ]  resnet18" in text_of(app))
        assert app.focused is launch(app).query_one("#models")
        order = []
        await pilot.press("slash")
        for _ in range(13):
            order.append(app.focused.id if app.focused else None)
            await pilot.press("tab")
        assert order == [
            *("find", "weights", "models", "dataset", "examples", "attacks", "more"),
            *("eps", "threat", "verdict", "device", "threads", "seed"),
        ]
        for leave in ("escape", "down", "enter"):
            await pilot.press("slash", "r", leave)
            assert app.focused is launch(app).query_one("#models"), leave
        # What is typed goes in the place of what stood there.
        assert launch(app).query_one("#find", Input).value == "r"
        await pilot.press("escape")
        assert isinstance(app.screen, HomeScreen)


async def test_the_cursor_is_seen_without_colours(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("l")
        await pilot.pause()
        choice = launch(app).query_one("#attacks", Choice)
        cursor, other = choice.get_visual_style("choice--cursor"), choice.get_visual_style("choice--other")
        assert cursor.background is not None
        assert other.background is not None
        assert abs(cursor.background.brightness - other.background.brightness) > 0.5


async def test_the_page_of_a_name_that_only_torchvision_may_know(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not looked up here, which would import torch."""
    asked = []

    async def look_up(text: str, scale: str, settings: Settings) -> tuple[ArchitectureSpec, str]:
        asked.append(text)
        if "1888" in text:
            raise ExplorerError("unknown torchvision model.")
        return ArchitectureSpec(text), "handcrafted"

    monkeypatch.setattr(elsewhere, "look_up", look_up)
    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        app.show_architecture("torchvision:resnet1888")
        await until(pilot, lambda: "unknown torchvision model." in [n.message for n in app._notifications])
        app.show_architecture("torchvision:newest")
        await until(pilot, lambda: any("newer than this version" in n.message for n in app._notifications))
        assert len(app.screen_stack) == 1
        app.show_architecture("torchvision:resnet18")
        await until(pilot, lambda: len(app.screen_stack) == 2)
        assert asked == ["torchvision:resnet1888", "torchvision:newest"]


# -- the dataset -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("digit", "unknown dataset 'digit'. Did you mean 'digits'"),
        ("", "name a dataset."),
        ("digits@size=nonsense", "size must be a number of pixels"),
        ("folder:/nowhere", "there is no folder /nowhere"),
        ("cifar10", "cifar10 is not on this machine: `nasrob-tui datasets cifar10` says where it should lie, and"),
    ],
)
def test_a_dataset_that_cannot_be_had_is_said_before_anything_else(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, dataset: str, said: str
) -> None:
    monkeypatch.setenv("NASROB_DATA", str(settings.home / "data"))
    for form in (Form(dataset=dataset), Form(dataset=dataset, attacks=("nonsense",))):
        problem = launching.propose(form, settings, Results(settings.store)).problem
        assert said in problem
        assert "On this machine are digits, " in problem
    offer = launching.offer(settings, dataset)
    assert (said in offer.problem, offer.models) == (True, ())
    assert "cifar10" not in offer.here


async def test_the_choice_is_kept_while_the_dataset_is_typed_and_found_again(
    make_app: MakeApp, settings: Settings
) -> None:
    add_weights(settings, "resnet18")
    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.press("l")
        await until(pilot, lambda: "[ ]  resnet18" in text_of(app))
        await pilot.press("space")
        await until(pilot, lambda: "0 of 3 evaluations" in text_of(app))
        field = launch(app).query_one("#dataset", Input)
        field.value = "digitsss"
        await until(pilot, lambda: "! unknown dataset 'digitsss'. Did you mean 'digits'" in text_of(app))
        assert "On this machine are digits" in " ".join(text_of(app).split())
        assert "1 chosen" in text_of(app)
        field.value = "foolbox-cifar10"
        await until(pilot, lambda: "! the model chosen is for digits: choose some for foolbox-cifar10" in text_of(app))
        assert "0 chosen" in text_of(app)
        field.value = "digits"
        await until(pilot, lambda: "0 of 3 evaluations" in text_of(app))
        assert "1 chosen" in text_of(app)
        assert "[x]  resnet18" in text_of(app)


async def test_models_of_one_dataset_are_never_launched_on_another(
    make_app: MakeApp, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enter may come before anybody has looked for models of the dataset that was just typed."""
    monkeypatch.setattr(Job, "start", lambda job: None)
    add_weights(settings, "resnet18")
    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.press("l")
        await until(pilot, lambda: "[ ]  resnet18" in text_of(app))
        await pilot.press("space")
        await until(pilot, lambda: "0 of 3 evaluations" in text_of(app))
        launch(app).query_one("#dataset", Input).value = "foolbox-mnist"
        await pilot.press("enter")
        await until(pilot, lambda: "! " in text_of(app))
        await pilot.pause(0.3)
        assert all_jobs(settings.jobs) == []
