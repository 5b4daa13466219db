"""`nasrob-tui ensemble`: what is refused in a sentence before work starts, and what is written once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from explorer import ensembles, errors
from explorer.cli import ensemble_results, evaluate
from explorer.jobs import folder, planning
from explorer.jobs.runner import Runner
from explorer.settings import load
from models.datasets import registry as datasets
from models.ensembles import parts
from models.errors import InvalidSpec
from models.specs import Preprocessing
from models.weights.catalogue import read_record
from store import Store
from tests.models.ensembles_support import CELL, DIGITS, LENET, RESNET, saved

Cli = Callable[..., tuple[int, str, str]]
OTHER = Preprocessing((0.5,), (0.25,))
JOINT = "darts-ensemble-7@cells=1-1,init_channels=2,combine=features-mean"


@pytest.fixture
def files(home: Path) -> list[Path]:
    """Networks with random weights among a person's own, the last one normalised in another way."""
    where = home / "weights" / "digits"
    where.mkdir(parents=True)
    found = []
    for name, normal in ((CELL, DIGITS), (RESNET, DIGITS), (LENET, OTHER)):
        found.append(where / f"{name}.safetensors")
        saved(found[-1], name, normal=normal)
    return found


def pick(cli: Cli, *weights: Path | str, also: tuple[str, ...] = ()) -> tuple[int, str, str]:
    words = [word for path in weights for word in ("--weights", str(path))]
    return cli("ensemble", "pick", *words, "--device", "cpu", "--threads", "1", "--format", "csv", *also)


def picked(home: Path) -> list[Path]:
    return sorted((home / "weights" / "digits").glob("ensemble-*"))


def counted(home: Path, table: str) -> int:
    with Store(home / "results.duckdb").read() as con:
        (row,) = con.sql(f"SELECT count(*) FROM {table}").fetchall()
    return int(row[0])


def attack(cli: Cli, home: Path, *more: str) -> tuple[int, str, str]:
    (path,) = picked(home)
    record = read_record(path)
    assert record is not None
    words = ("--attack", "fgsm", "--eps", "8/255", "--examples", "3", "--device", "cpu", "--threads", "1")
    return cli("ensemble", "attack", record.architecture, *words, *more)


# -- threat spaces -----------------------------------------------------------------------------------------------------


class TestThreatSpace:
    """A perturbation of normalised inputs means the same for models that normalise alike only."""

    def test_members_of_other_normalisations(self, cli: Cli, files: list[Path], home: Path) -> None:
        assert pick(cli, *files)[0] == 0
        code, _, err = attack(cli, home, "--threat-space", "normalized-clamped")
        assert code == errors.USAGE
        assert "normalise images differently" in err
        assert "--threat-space pixel" in err
        assert counted(home, "evaluations") == 0
        assert not list((home / "jobs").glob("*"))
        assert attack(cli, home, "--no-members")[0] == 0

    def test_members_that_normalise_alike(self, cli: Cli, files: list[Path], home: Path) -> None:
        assert pick(cli, *files[:2])[0] == 0
        record = read_record(picked(home)[0])
        assert record is not None
        asked = planning.Asked(architectures=(record.architecture,), attacks=("fgsm",), examples=3)
        (request,) = planning.plan(replace(asked, threat_space="normalized-clamped"), load())
        for one in (ensembles.with_members(request), *ensembles.transfers(request)):
            one.check()

    def test_a_surrogate_of_another_normalisation(self, cli: Cli, files: list[Path], home: Path) -> None:
        words = ["eval", "--headless", "--arch", CELL, "--attack", "fgsm", "--examples", "3", "--device", "cpu"]
        words += ["--threat-space", "normalized-clamped"]
        code, _, err = cli(*words, "--surrogate", LENET)
        assert code == errors.USAGE
        assert f"the surrogate {LENET}" in err
        assert not list((home / "jobs").glob("*"))
        assert cli(*words, "--surrogate", RESNET)[0] == 0

    def test_also_where_nobody_has_planned_it(self, files: list[Path], home: Path) -> None:
        """A request that somebody has written otherwise: its evaluation is refused, and leaves nothing."""
        settings = load()
        asked = planning.Asked(architectures=(CELL, LENET), attacks=("fgsm",), examples=3, device="cpu")
        (request,) = planning.plan(replace(asked, threat_space="normalized-clamped"), settings)
        target, source = request.models
        crafted = replace(request, models=(target,), attacks=ensembles.crafted_on(source, request.attacks))
        with pytest.raises(InvalidSpec, match="--threat-space pixel"):
            crafted.check()
        runner = Runner(folder.create(settings.jobs, crafted), crafted)
        assert runner.run() == errors.USAGE
        assert counted(home, "evaluations") == 0


# -- picking -----------------------------------------------------------------------------------------------------------


class TestPick:
    def test_models_of_another_dataset(self, cli: Cli, files: list[Path], home: Path) -> None:
        code, _, err = pick(cli, *files[:2], also=("--dataset", "fashion-mnist"))
        assert code == errors.USAGE
        assert "was made for 'digits', not for fashion-mnist" in err
        assert not list(home.rglob("ensemble-*.safetensors"))
        assert not (home / "results.duckdb").exists()

    def test_the_same_labels_at_another_size_are_those_of_the_dataset(self, files: list[Path]) -> None:
        member = saved(files[0], CELL)
        assert member.record is not None
        sized = replace(member, record=replace(member.record, dataset="digits@size=16"))
        ensembles._check_labels(sized, datasets.find("digits"))
        unknown = replace(member, record=replace(member.record, dataset="nobody-knows"))
        with pytest.raises(InvalidSpec, match="was made for 'nobody-knows'"):
            ensembles._check_labels(unknown, datasets.find("digits"))

    def test_a_model_and_its_copy(self, cli: Cli, files: list[Path], home: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy.safetensors"
        copy.write_bytes(files[0].read_bytes())
        code, _, err = pick(cli, files[0], copy)
        assert (code, "picked twice" in err) == (errors.USAGE, True)
        assert pick(cli, *files[:2])[0] == 0
        # The part of an ensemble that a file of its own holds too.
        (whole,) = picked(home)
        code, _, err = pick(cli, files[0], parts.name(str(whole), [0]))
        assert (code, "picked twice" in err) == (errors.USAGE, True)

    def test_options_are_of_the_ensemble_where_no_architecture_is_named(
        self, cli: Cli, files: list[Path], home: Path
    ) -> None:
        assert pick(cli, *files[:2], also=("--set", "combine=majority"))[0] == 0
        assert "combine=majority" in picked(home)[0].name
        learned = ("--set", "width=3", "--combine", "learned", "--combiner-epochs", "1")
        assert pick(cli, *files[:2], also=learned)[0] == 0
        assert sum("width=3" in path.name for path in picked(home)) == 1

    @pytest.mark.parametrize(
        ("also", "says"),
        [
            (("--set", "layers=3"), "--set layers"),
            (("--set", "width=3"), "--combine learned"),
            (("--set", "width=x", "--combine", "learned"), "whole number"),
            (("--set", "combine=majority", "--combine", "mean-probs"), "different things"),
            (("--set", "combine=best"), "combine is one of"),
            (("--seed", str(2**63)), str(2**63 - 1)),
            (("--seed", str(2**63), "--combine", "learned"), str(2**63 - 1)),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_what_makes_no_sense(
        self, also: tuple[str, ...], says: str, cli: Cli, files: list[Path], home: Path
    ) -> None:
        code, _, err = pick(cli, *files[:2], also=also)
        assert (code, says in err) == (errors.USAGE, True), err
        assert "Traceback" not in err
        assert picked(home) == []

    def test_without_a_combiner_its_seed_and_recipe_make_no_other_ensemble(
        self, cli: Cli, files: list[Path], home: Path
    ) -> None:
        for also in ((), ("--combiner-epochs", "3"), ("--seed", "7")):
            assert pick(cli, *files[:2], also=also)[0] == 0
        assert len(picked(home)) == 1
        assert counted(home, "models") == 1


# -- attacking ---------------------------------------------------------------------------------------------------------


class TestAttack:
    def test_crafted_on_members(self, cli: Cli, files: list[Path], home: Path) -> None:
        assert pick(cli, *files[:2])[0] == 0
        for text, says in (("0,1", "the ensemble itself"), ("0,0", "once"), ("5", "0 to 1"), ("x", "numbers")):
            code, _, err = attack(cli, home, "--craft-on", text)
            assert (code, says in err) == (errors.USAGE, True), err
        assert counted(home, "evaluations") == 0

    def test_gradients_of_members_that_do_not_stand_alone_are_refused_before_the_attacks(
        self, cli: Cli, home: Path
    ) -> None:
        where = home / "weights" / "digits"
        where.mkdir(parents=True)
        saved(where / "joint.safetensors", JOINT)
        words = ("ensemble", "attack", JOINT, "--attack", "fgsm", "--examples", "3", "--device", "cpu")
        code, _, err = cli(*words, "--gradients")
        assert (code, "trained as one" in err) == (errors.USAGE, True)
        assert not list((home / "jobs").glob("*"))
        assert cli(*words)[0] == 0
        code, out, _ = cli("ensemble", "report", JOINT)
        assert code == 0
        assert "its members are trained as one" in out
        assert "0 of 0" not in out

    def test_an_interruption_at_the_end_of_the_attacks_is_heard(
        self, cli: Cli, files: list[Path], home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert pick(cli, *files[:2])[0] == 0
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        run, compared = Runner.run, []
        monkeypatch.setattr(ensemble_results, "_gradients", lambda *args: compared.append(args))

        def interrupted(self: Runner) -> int:
            code = run(self)
            os.kill(os.getpid(), signal.SIGINT)
            return code

        assert attack(cli, home, "--no-members", "--gradients")[0] == 0
        assert len(compared) == 1
        monkeypatch.setattr(Runner, "run", interrupted)
        code, _, _ = attack(cli, home, "--no-members", "--gradients", "--force")
        assert code == errors.INTERRUPTED
        assert len(compared) == 1
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before

    def test_an_interruption_between_two_jobs_ends_both(
        self, cli: Cli, files: list[Path], monkeypatch: pytest.MonkeyPatch, interruptible: None
    ) -> None:
        settings = load()
        requests = [
            planning.plan(planning.Asked(architectures=(name,), attacks=("fgsm",), examples=3, device="cpu"), settings)[
                0
            ]
            for name in (CELL, RESNET)
        ]
        create, made = folder.create, []

        def interrupted(*args: Any) -> folder.Job:
            made.append(create(*args))
            if len(made) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return made[-1]

        monkeypatch.setattr(folder, "create", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate.answer(requests, settings)
        assert made[1].events() == []


# -- saying ------------------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_called_unknown(cli: Cli, files: list[Path], home: Path) -> None:
    assert pick(cli, *files[:2])[0] == 0
    code, _, err = cli("ensemble", "report", "nosuch")
    assert (code, "unknown architecture 'nosuch'" in err) == (errors.USAGE, True), err
    code, _, err = cli("ensemble", "report", "resnet18")
    assert (code, "resnet18 is no ensemble" in err) == (errors.USAGE, True), err
    code, _, err = cli("ensemble", "report", "darts-ensemble-7", "--dataset", "digits")
    assert "no complete evaluation of darts-ensemble-7 on digits" in err


@pytest.mark.parametrize(
    ("members", "measured", "says"),
    [
        (0, 0, "trained as one"),
        (3, 3, "no example has a verdict"),
        (3, 1, "1 of 3 members are measured alone on these examples: `nasrob-tui ensemble attack` measures the others"),
        (3, 0, "measures them"),
    ],
)
def test_why_there_is_no_gain(members: int, measured: int, says: str) -> None:
    assert says in ensemble_results._why_no_gain({"n_members": members, "n_measured": measured})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("darts-ensemble-7", "--seed", str(10**17)), "the training seed of darts-ensemble-7"),
        (("darts-ensemble-7@cells=3-2,cells=1-1",), "option cells twice"),
        (("darts-ensemble-7@cells=12,6,2",), "join numbers with hyphens"),
        ((f"darts-ensemble-{10**15}",), f"from 0 to {10**15 - 1}"),
    ],
)
def test_trainings_that_make_no_sense(words: tuple[str, ...], says: str, cli: Cli, home: Path) -> None:
    code, _, err = cli("ensemble", "train", *words, "--device", "cpu")
    assert (code, says in err) == (errors.USAGE, True), err
    assert "Traceback" not in err
    assert not home.exists() or not list(home.rglob("*.safetensors"))


def test_cells_may_have_commas_between(cli: Cli) -> None:
    words = ("ensemble", "sample", "--set", "init_channels=2", "--num-classes", "10", "--format", "csv")
    with_commas = cli(*words, "--set", "cells=2,1,1")
    assert with_commas[0] == 0
    assert with_commas[1] == cli(*words, "--set", "cells=2-1-1")[1]


def test_what_could_be_changed_where_no_sample_fits(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from explorer import sampling

    monkeypatch.setattr(sampling, "MOST_TRIES", 1)
    small = ("--set", "init_channels=2", "--max-params", "10")
    assert "change init_channels and cells." in cli("ensemble", "sample", *small, "--cells", "1,1")[2]
