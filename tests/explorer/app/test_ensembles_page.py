"""The page of ensembles: what it lists, what it says of one, where its keys lead; and the form of an attack."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any, cast

import pytest
from textual.widgets import Input

from explorer import architectures, ensemblelist
from explorer.architectures import Counts, Page
from explorer.ensemblebuilding import Attacking
from explorer.jobs import folder
from explorer.jobs.folder import Job
from explorer.jobs.training import TrainingRequest
from explorer.results import Results
from explorer.screens.application import NasrobApp
from explorer.screens.architecture import ArchitectureScreen
from explorer.screens.ensemble import EnsembleScreen
from explorer.screens.ensemble_attack import EnsembleAttackScreen
from explorer.screens.ensemble_builder import EnsembleBuilderScreen
from explorer.screens.ensembles import EnsembleRows, EnsemblesScreen
from explorer.screens.launch import LaunchScreen
from explorer.settings import Settings
from explorer.training import Order
from explorer.widgets.choice import Choice
from explorer.widgets.table import ResultTable
from models.architectures import registry
from models.errors import InvalidSpec, WeightsError
from models.weights.catalogue import WeightsRecord
from tests.explorer.app.ensemble_support import MEMBERS, WHOLE, Ensembles, sha_of, understood
from tests.explorer.app.support import claim, text_of, until

MakeApp = Callable[..., NasrobApp]

OTHER = "darts-ensemble-1@cells=2-1,init_channels=8,combine=majority"


def page(app: NasrobApp) -> EnsemblesScreen:
    return cast(EnsemblesScreen, app.screen)


def rows_of(app: NasrobApp) -> EnsembleRows:
    return cast(EnsembleRows, app.screen.query_one(ResultTable).source)


def add_file(settings: Settings, architecture: str = WHOLE, dataset: str = "digits") -> str:
    """A weights file of an ensemble with a record and no tensors; returns the SHA-256 it claims."""
    members = [
        {"architecture": member, "sha256": sha_of(member), "seed": i, "clean_accuracy": 90.0 + i}
        for i, member in enumerate(MEMBERS)
    ]
    record = WeightsRecord(
        architecture=architecture,
        dataset=dataset,
        dataset_fingerprint="f",
        num_classes=10,
        in_channels=1,
        mean=(0.5,),
        std=(0.25,),
        tensors_sha256=sha_of(architecture),
        origin="trained",
        seed=0,
        clean_accuracy=97.2,
        members=members,
    )
    header = json.dumps({"__metadata__": record.to_header()}).encode()
    path = settings.weights / dataset / "ensemble.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return sha_of(architecture)


def training(settings: Settings, architecture: str = OTHER, seed: int = 4) -> Job:
    """A job that is written, to train an ensemble."""
    order = Order(registry.parse_architecture(architecture), "digits", seed)
    return folder.create(settings.jobs, TrainingRequest.of([order], settings.store))


async def test_without_an_ensemble_the_page_says_how_to_make_one(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: "There is no ensemble yet." in text_of(app))
        await pilot.press("y")
        assert understood(app.clipboard.split()[1:])["names"] == ["darts-ensemble-0"]
        await pilot.press("enter", "a")  # nothing to open
        assert isinstance(app.screen, EnsemblesScreen)
        await pilot.press("l")
        await until(pilot, lambda: isinstance(app.screen, LaunchScreen))
        await pilot.press("escape")
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, EnsembleBuilderScreen))
        await pilot.press("escape")
        await pilot.press("escape")
        assert len(app.screen_stack) == 1


@pytest.mark.parametrize("size", [(80, 24), (140, 40), (200, 60)])
async def test_an_ensemble_is_listed_with_its_latest_results(
    make_app: MakeApp, ensembles: Ensembles, size: tuple[int, int]
) -> None:
    ensembles.attacked()
    app = make_app()
    async with app.run_test(size=size) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: "darts-random-1" in text_of(app))
        shown = text_of(app)
        row = next(line for line in shown.splitlines() if "pgd-10 8/255" in line)
        for part in ("darts-ensemble-0", "100.0", "62.5", "+12.5"):
            assert part in row, part
        for part in (
            "mean-logits: the mean of the members' logits",
            "50.0 robust",
            "96.5 clean",
            "/w/file.safetensors",
        ):
            assert part in shown, part
        if size[1] >= 40:
            assert "0: normal cell" in shown


def test_of_a_store_every_figure_is_read(settings: Settings, ensembles: Ensembles) -> None:
    ensembles.attacked(minute=5)
    ensembles.transfer(MEMBERS[0], WHOLE, "++++++++")
    results = Results(settings.store)
    results.refresh()
    (one,) = ensemblelist.listing(settings, results)
    assert (one.dataset, one.combine, one.params, one.macs, one.seed) == ("digits", "mean-logits", 43100, 1000, 0)
    assert [(m.position, m.architecture, m.clean) for m in one.members] == [
        (0, MEMBERS[0], 96.5),
        (1, MEMBERS[1], 96.5),
    ]
    # What was made on a member is no attack on the ensemble.
    (row,) = one.evaluations
    assert (row["whole"], row["best_member"], row["gain_over_best"]) == (62.5, 50.0, 12.5)
    assert {i: alone["robust_accuracy"] for i, alone in row["alone"].items()} == {0: 50.0, 1: 50.0}
    results.close()


def test_weights_that_the_store_has_not_heard_of_are_listed(settings: Settings, ensembles: Ensembles) -> None:
    sha = add_file(settings)
    results = Results(settings.store)
    results.refresh()
    (one,) = ensemblelist.listing(settings, results)
    assert (one.sha256, one.clean, one.evaluations) == (sha, 97.2, ())
    assert [member.clean for member in one.members] == [90.0, 91.0]
    ensembles.whole()
    results.refresh()
    (one,) = ensemblelist.listing(settings, results)
    assert one.weights_path == "/w/file.safetensors"
    results.close()


async def test_the_keys_lead_on(make_app: MakeApp, ensembles: Ensembles, monkeypatch: pytest.MonkeyPatch) -> None:
    async def count(page: Page, settings: Settings, **of: Any) -> Counts:
        return Counts(43100, 43100, 1000)

    monkeypatch.setattr(architectures, "count", count)
    identity = ensembles.attacked()
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: page(app).current)
        await pilot.press("y")
        assert understood(app.clipboard.split()[1:])["evaluation"] == identity
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, EnsembleScreen) and app.screen.insight)
        await pilot.press("escape")
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, ArchitectureScreen))
        assert app.screen.page.spec.canonical == WHOLE  # type: ignore[attr-defined]
        await pilot.press("escape")
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, EnsembleBuilderScreen))
        form = cast(EnsembleBuilderScreen, app.screen).form
        assert (form.space, form.seed, form.cells, form.channels) == ("darts", "0", "2-1", "8")
        assert (form.rule, form.training_seed, form.sampled) == ("mean-logits", "1", True)
        await pilot.press("escape")
        assert isinstance(app.screen, EnsemblesScreen)
        commands = {command.help for command in app.get_system_commands(app.screen)}
        assert "Open the results of the ensemble under the cursor" in commands


async def test_a_training_is_a_row_until_there_are_weights(
    make_app: MakeApp, settings: Settings, ensembles: Ensembles, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    monkeypatch.setattr(Job, "start", lambda job: started.append(job.number))
    ensembles.whole()
    job = training(settings)
    claim(job)
    job.append("job_started", title="train", device="cpu", threads=1, n_evaluations=0)
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: rows_of(app).row_count == 2 and "trains, 0 %" in text_of(app))
        assert "▸" in rows_of(app).cell(0, "state").plain
        assert "job 1 running" in text_of(app)
        await pilot.press("enter", "t")
        assert isinstance(app.screen, EnsemblesScreen)
        assert started == []
        job.append("job_finished", state="cancelled")
        await until(pilot, lambda: "job 1 cancelled; t goes on with it" in text_of(app))
        await pilot.press("t")
        await until(pilot, lambda: started == [1])
        await pilot.press("y")
        asked = understood(app.clipboard.split()[1:])
        assert (asked["names"], asked["seed"]) == ([OTHER], 4)
        # Weights have come: one row less, and the cursor is on what became of it.
        before = page(app).current
        assert before is not None
        assert before.job == 1
        ensembles.model(OTHER, MEMBERS, combine="majority", seed=4)
        await until(pilot, lambda: all(one.sha256 for one in page(app).ensembles or [before]))
        await pilot.pause()
        now = page(app).current
        assert now is not None
        assert (now.architecture, now.seed) == (OTHER, 4)


async def test_the_cursor_stays_when_others_come(make_app: MakeApp, ensembles: Ensembles) -> None:
    ensembles.whole()
    ensembles.model(OTHER, MEMBERS, combine="majority", day=2)
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: rows_of(app).row_count == 2)
        await pilot.press("down")
        assert page(app).current is not None
        assert page(app).current.architecture == WHOLE  # type: ignore[union-attr]
        ensembles.whole(WHOLE.replace("ensemble-0", "ensemble-7"), day=3)
        await until(pilot, lambda: rows_of(app).row_count == 3)
        assert [one.name[-1] for one in rows_of(app).ensembles] == ["7", "1", "0"]
        assert page(app).current.architecture == WHOLE  # type: ignore[union-attr]


async def test_names_that_are_the_same_are_told_apart(make_app: MakeApp, ensembles: Ensembles) -> None:
    for architecture in (WHOLE, WHOLE.replace("mean-logits", "majority"), OTHER, OTHER.replace("=2-1", "=1-1")):
        ensembles.whole(architecture)
    app = make_app()
    async with app.run_test(size=(160, 30)) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: rows_of(app).row_count == 4)
        assert sorted(rows_of(app).names) == [
            "darts-ensemble-0",
            "darts-ensemble-0",
            "darts-ensemble-1@cells=1-1",
            "darts-ensemble-1@cells=2-1",
        ]


# -- an attack on one --------------------------------------------------------------------------------------------------


async def test_an_attack_is_a_small_form(
    make_app: MakeApp, settings: Settings, ensembles: Ensembles, sent: list[list[str]]
) -> None:
    sha = add_file(settings)
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: page(app).current)
        await pilot.press("l")
        await until(pilot, lambda: "= nasrob-tui ensemble attack" in text_of(app))
        form = cast(EnsembleAttackScreen, app.screen)
        form.query_one("#eps", Input).value = "8"
        await until(pilot, lambda: not form.words and "8/255?" in text_of(app))
        await pilot.press("enter")
        await pilot.pause(0.2)
        assert sent == []
        assert app.screen is form
        form.query_one("#eps", Input).value = "2/255 4/255"
        form.query_one("#examples", Input).value = "50"
        form.query_one("#also", Choice).focus()
        await pilot.press("right", "space")
        await until(pilot, lambda: "--transfer" in form.words)
        await pilot.press("ctrl+y")
        await pilot.press("enter")
        await until(pilot, lambda: sent)
        await until(pilot, lambda: app.screen is not form)
        assert app.clipboard.split()[1:] == sent[0]
        asked = understood(sent[0])
        assert (asked["names"], asked["eps"], asked["examples"]) == ([WHOLE], ["2/255", "4/255"], 50)
        assert sha.startswith(asked["weights"][0])
        assert asked["attack"] == ["pgd"]
        assert (asked["members"], asked["transfer"], asked["cosines"]) == (True, True, False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attacks": ()}, "at least one attack"),
        ({"more": "pdg"}, "Did you mean"),
        ({"eps": "nonsense"}, "not a non-negative number"),
        ({"examples": "x"}, "examples takes a whole number"),
        ({"examples": "100000"}, "ask for 1 to"),
        ({"device": "gpu"}, "use auto, cpu, cuda"),
    ],
)
def test_an_attack_that_does_not_fit_is_refused(settings: Settings, changes: dict[str, Any], said: str) -> None:
    sha = add_file(settings)
    assert Attacking().words(WHOLE, sha, "digits", settings)[-1] == "--members"
    with pytest.raises(Exception, match=said.replace("?", r"\?")):
        Attacking(**changes).words(WHOLE, sha, "digits", settings)


def test_members_that_do_not_stand_alone_are_not_attacked_through_each_other(settings: Settings) -> None:
    joint = "darts-ensemble-0@cells=2-2,init_channels=8,combine=features-mean"
    sha = add_file(settings, joint)
    assert "--no-members" in Attacking(also=()).words(joint, sha, "digits", settings)
    with pytest.raises(Exception, match="do not stand alone"):
        Attacking(also=("transfer",)).words(joint, sha, "digits", settings)


def test_an_ensemble_without_its_file_cannot_be_attacked(settings: Settings) -> None:
    with pytest.raises((WeightsError, InvalidSpec), match="SHA-256"):
        Attacking().words(WHOLE, sha_of(WHOLE), "digits", settings)
