"""Trainings from code: networks and ensembles, member by member, resumed, kept apart from test data."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from explorer.settings import Settings
from explorer.training import Order, Trained, Trainer
from models.architectures import registry
from models.classifier import tensors_sha256
from models.datasets import registry as datasets
from models.datasets.registry import Examples
from models.ensembles import assembling, composition, tuning
from models.errors import InvalidSpec
from models.specs import Preprocessing
from models.training.loop import EpochReport
from models.weights.files import load_model, save_weights
from store import Store
from tests.models.ensembles_support import CELL, few_digits, record, saved

ENSEMBLE = "darts-ensemble-5@cells=1-1,init_channels=2"
QUICK = {"epochs": 2, "batch_size": 24}
ENTRY = datasets.find("digits")


@pytest.fixture(autouse=True)
def splits(monkeypatch: pytest.MonkeyPatch) -> dict[str, Examples]:
    """A few digits for each split. What is put here is what a training gets."""
    torch.set_num_threads(1)
    found = {
        "train": replace_fingerprint(few_digits(48), "1" * 64),
        "test": replace_fingerprint(few_digits(30, split="test"), "2" * 64),
    }
    monkeypatch.setattr(datasets, "load", lambda name, split, **more: found[split])
    return found


def replace_fingerprint(examples: Examples, fingerprint: str) -> Examples:
    return Examples("digits", examples.split, examples.images, examples.labels, 10, fingerprint)


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home, home / "results.duckdb")


class Watched:
    """What a person is told of trainings; interrupts one after an epoch if asked to."""

    def __init__(self, stop: Callable[[str, EpochReport], bool] = lambda title, report: False) -> None:
        self.epochs: list[tuple[str, int, int, bool]] = []
        self.stop = stop

    @contextmanager
    def __call__(self, title: str, epochs: int) -> Iterator[Callable[[EpochReport], None]]:
        def told(report: EpochReport) -> None:
            self.epochs.append((title.partition("@")[0], report.epoch, epochs, report.resumed))
            if self.stop(title, report):
                raise KeyboardInterrupt

        yield told


def trainer(settings: Settings, **more: Any) -> Trainer:
    return Trainer(settings, device="cpu", threads=1, say=lambda text: None, **more)


def order(text: str = ENSEMBLE, *, seed: int = 3, **more: Any) -> Order:
    given = {"overrides": QUICK, "combiner": {"epochs": 2, "batch_size": 24}} | more
    return Order(registry.parse_architecture(text), "digits", seed, **given)


def sha256(trained: Trained) -> str:
    return trained.record.tensors_sha256


def tensors_of_members(path: Path) -> list[str]:
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(path).items():
        place, _, rest = name.partition(".")
        if place == "members":
            position, _, own = rest.partition(".")
            found.setdefault(position, {})[own] = tensor
    return [tensors_sha256(found[position]) for position in sorted(found)]


class TestOrders:
    def test_members_have_the_seeds_of_the_ensemble(self) -> None:
        found = order(recipe="standard").parts
        assert [(part.architecture.canonical, part.seed) for part in found] == [
            (f"darts-random-{5000 + i}@init_channels=2,layers=1", 300 + i) for i in range(2)
        ]
        assert all((part.recipe, part.overrides, part.dataset) == ("standard", QUICK, "digits") for part in found)
        assert all(not part.parts for part in found)

    def test_what_is_trained_as_one_has_no_parts(self) -> None:
        assert order("resnet18@width=2").parts == ()
        assert order("darts-ensemble-7@cells=1-1,init_channels=2,combine=features-mean").parts == ()

    def test_everything_that_decides_about_weights_is_in_the_name(self, settings: Settings) -> None:
        names = {
            order(text, **more).path(settings, fingerprint).name
            for text, more, fingerprint in (
                (ENSEMBLE, {}, "1" * 64),
                (ENSEMBLE, {}, "3" * 64),
                (ENSEMBLE, {"seed": 4}, "1" * 64),
                (ENSEMBLE, {"overrides": {"epochs": 3}}, "1" * 64),
                (ENSEMBLE, {"combiner": {"epochs": 3}}, "1" * 64),
                (ENSEMBLE, {"recipe": "standard"}, "1" * 64),
                (f"{ENSEMBLE},combine=majority", {}, "1" * 64),
                (f"{ENSEMBLE},width=8", {}, "1" * 64),
            )
        }
        assert len(names) == 8
        still = order(f"{ENSEMBLE},combine=majority")
        assert still.path(settings, "") == replace(still, combiner={"epochs": 9}).path(settings, "")

    def test_names_of_files_are_as_long_as_file_systems_take(self, settings: Settings) -> None:
        cells = "-".join(["12"] * 100)
        one, two = (
            order(f"darts-ensemble-7@cells={cells},combine={rule}").path(settings, "")
            for rule in ("mean-logits", "mean-probs")
        )
        assert len(one.name.encode()) < 230
        assert one != two

    @pytest.mark.parametrize(
        ("text", "more", "says"),
        [
            (ENSEMBLE, {"overrides": {"epochs": 0}}, "epochs"),
            (ENSEMBLE, {"combiner": {"epochs": 0}}, "epochs"),
            (ENSEMBLE, {"overrides": {"epoch": 2}}, "epochs"),
            (ENSEMBLE, {"recipe": "standrd"}, "standard"),
            ("nasbench201-ensemble-5", {"overrides": {"auxiliary_weight": 0.4}}, "has no auxiliary head"),
            ("resnet18@width=2", {"overrides": {"lr": -1}}, "lr"),
            ("resnet18@width=2", {"seed": -1}, "from 0 to 9223372036854775807, not -1"),
            ("resnet18@width=2", {"seed": 2**63}, "from 0 to 9223372036854775807"),
            (ENSEMBLE, {"seed": -1}, "from 0 to"),
            (ENSEMBLE, {"seed": 92233720368547759}, "the training seed of darts-ensemble-5"),
            (f"{ENSEMBLE},combine=majority", {"seed": 10**17}, "from 0 to 92233720368547758, not 1"),
            ("darts-ensemble-7@cells=1-1,init_channels=2,combine=features-mean", {"seed": 2**63}, "seed"),
        ],
    )
    def test_what_would_be_refused_in_the_middle_is_refused_now(
        self, text: str, more: dict[str, Any], says: str, settings: Settings
    ) -> None:
        asked = order(text, **more)
        with pytest.raises(InvalidSpec, match=says):
            asked.check()
        with pytest.raises(InvalidSpec, match=says):
            trainer(settings).train(asked)
        assert not settings.weights.exists()

    def test_the_largest_seed_of_an_ensemble_is_one_of_its_last_member_too(self) -> None:
        largest = order(seed=92233720368547758)
        largest.check()
        assert [part.seed for part in largest.parts] == [2**63 - 8, 2**63 - 7]
        largest.parts[1].check()
        order("resnet18@width=2", seed=2**63 - 1).check()

    def test_an_ensemble_of_models_that_normalise_differently_is_not_trained_anew(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        mixed = [
            saved(tmp_path / "a.safetensors", CELL),
            saved(tmp_path / "b.safetensors", CELL, normal=Preprocessing((0.5,), (0.5,))),
        ]
        spec = assembling.pick(mixed, "mean-logits")
        with pytest.raises(InvalidSpec, match="normalise images differently, and cannot be trained anew"):
            trainer(settings).train(Order(spec, "digits"))


class TestTraining:
    def test_members_then_the_combiner_into_one_file(self, settings: Settings) -> None:
        watch = Watched()
        trained = trainer(settings, watch=watch).train(order())
        assert trained.fresh
        assert watch.epochs == [
            *[(f"darts-random-{5000 + i}", epoch, 2, False) for i in range(2) for epoch in (1, 2)],
            *[("darts-ensemble-5", epoch, 2, False) for epoch in (1, 2)],
        ]
        about = trained.record
        assert about.architecture == f"{ENSEMBLE},combine=learned"
        assert about.members is not None
        alone = [trainer(settings).train(part) for part in order().parts]
        assert not any(member.fresh for member in alone)
        assert [
            (m["architecture"], m["sha256"], m["seed"], m["clean_accuracy"], m["recipe"]) for m in about.members
        ] == [
            (m.record.architecture, sha256(m), m.record.seed, m.record.clean_accuracy, m.record.recipe) for m in alone
        ]
        assert tensors_of_members(trained.path) == [sha256(member) for member in alone]
        assert about.recipe is not None
        assert about.recipe == (alone[0].record.recipe or {}) | {"combiner": order().tuning().to_dict()}
        assert about.recipe_name == "darts+combiner"
        assert (about.seed, about.dataset_fingerprint, about.clean_examples) == (3, "1" * 64, 30)
        assert list(settings.checkpoints.iterdir()) == [], "checkpoints go once the weights are safe"
        with Store(settings.store).read() as con:
            known = con.sql("SELECT architecture_id FROM models ORDER BY 1").fetchall()
        assert len(known) == 3
        loaded = load_model(trained.path, None, ENTRY)
        assert loaded.sha256 == sha256(trained)

    def test_what_is_trained_is_not_trained_again(self, settings: Settings) -> None:
        first = trainer(settings).train(order())
        said: list[str] = []
        watch = Watched()
        again = replace(trainer(settings), say=said.append, watch=watch).train(order())
        assert (again.path, again.record, again.fresh) == (first.path, first.record, False)
        assert watch.epochs == []
        assert said == [f"{ENSEMBLE},combine=learned is trained already (--force trains it again)"]
        # Another rule takes the same members, and trains nothing.
        other = trainer(settings, watch=watch).train(order(f"{ENSEMBLE},combine=mean-probs"))
        assert watch.epochs == []
        assert other.fresh
        assert tensors_of_members(other.path) == tensors_of_members(first.path)
        assert other.record.recipe_name == "darts"
        # By force all of it is trained anew, with the same seeds to the same tensors.
        forced = trainer(settings, force=True, watch=watch).train(order())
        assert len(watch.epochs) == 6
        assert sha256(forced) == sha256(first)

    @pytest.mark.parametrize("what", ["network", "combiner"])
    def test_what_a_kill_has_left_behind_goes(self, what: str, settings: Settings, tmp_path: Path) -> None:
        """Killed while a checkpoint was written, or between weights and the removal of their checkpoint."""
        left = Watched(lambda title, report: "combiner" in title or what == "network")
        asked = order("resnet18@width=2") if what == "network" else order()
        with pytest.raises(KeyboardInterrupt):
            trainer(settings, watch=left).train(asked)
        (checkpoint,) = settings.checkpoints.iterdir()
        gone = subprocess.Popen(["true"])
        gone.wait()
        halves = [
            settings.checkpoints / f".{checkpoint.name}.{pid}.part" for pid in (gone.pid, os.getpid(), os.getppid())
        ]
        for half in halves:
            half.write_bytes(b"half")
        other = settings.checkpoints / f".0{checkpoint.name}.{gone.pid}.part"
        other.write_bytes(b"half")
        kept, content = {halves[-1], other}, checkpoint.read_bytes()
        made = trainer(settings).train(asked)
        assert set(settings.checkpoints.iterdir()) == kept, "a living process may be writing; others have their own"
        checkpoint.write_bytes(content)
        # One that is newer is of a training that has begun anew.
        for age, expected in ((60, kept | {checkpoint}), (-60, kept)):
            when = made.path.stat().st_mtime + age
            os.utime(checkpoint, (when, when))
            assert not trainer(settings).train(asked).fresh
            assert set(settings.checkpoints.iterdir()) == expected

    @pytest.mark.parametrize("where", ["darts-random-5001", "combiner"])
    def test_interrupted_it_goes_on_and_ends_the_same(self, where: str, settings: Settings, tmp_path: Path) -> None:
        other = Settings(tmp_path / "other", tmp_path / "other" / "results.duckdb")
        straight = trainer(other).train(order())
        stopped = Watched(lambda title, report: where in title and report.epoch == 1 and not report.resumed)
        with pytest.raises(KeyboardInterrupt):
            trainer(settings, watch=stopped).train(order())
        assert trainer(settings).existing(order()) is None
        torch.manual_seed(77)
        watch = Watched()
        again = trainer(settings, watch=watch).train(order())
        assert watch.epochs[0][1] == 1, "the epoch that is done is told"
        assert watch.epochs[0][3]
        assert ("darts-random-5000", 1, 2, False) not in watch.epochs
        assert sha256(again) == sha256(straight)
        assert again.record.members == straight.record.members

    @pytest.mark.parametrize("where", ["darts-random-5001", "combiner"])
    def test_by_force_it_begins_anew_once(self, where: str, settings: Settings) -> None:
        """Interrupted, it goes on with the member that it had come to; those that other processes trained count."""
        first = trainer(settings).train(order())
        forced = trainer(settings, force=True)
        assert forced.missing_members(order()) == list(order().parts)
        forced.train(order().parts[0])
        assert forced.missing_members(order()) == [order().parts[1]]
        stopped = Watched(lambda title, report: where in title and report.epoch == 1)
        with pytest.raises(KeyboardInterrupt):
            replace(forced, watch=stopped).train(order())
        assert "darts-random-5000" not in {title for title, *_ in stopped.epochs}
        watch = Watched()
        again = replace(forced, watch=watch).train(order())
        left = {"darts-random-5001", "darts-ensemble-5"} if where != "combiner" else {"darts-ensemble-5"}
        assert {title for title, *_ in watch.epochs} == left
        assert watch.epochs[0][3], "it goes on after the last whole epoch"
        assert sha256(again) == sha256(first)
        assert list(settings.checkpoints.iterdir()) == []
        # That one is over: by force everything is trained again.
        assert forced.missing_members(order()) == list(order().parts)

    def test_another_file_is_written_and_found_only_for_a_network(self, settings: Settings, tmp_path: Path) -> None:
        """Of an ensemble only the usual name says how its members were trained."""
        out = tmp_path / "out.safetensors"
        made = trainer(settings).train(order(f"{ENSEMBLE},combine=majority"), out=out)
        assert made.path == out
        watch = Watched()
        again = trainer(settings, watch=watch).train(order(f"{ENSEMBLE},combine=majority"), out=out)
        assert again.fresh
        assert sha256(again) == sha256(made)
        assert watch.epochs == [], "its members are found"
        alone = order("resnet18@width=2", overrides={"epochs": 1})
        assert trainer(settings).train(alone, out=tmp_path / "one.safetensors").fresh
        assert not trainer(settings).train(alone, out=tmp_path / "one.safetensors").fresh
        longer = replace(alone, overrides={"epochs": 2})
        assert trainer(settings).existing(longer, out=tmp_path / "one.safetensors") is None

    def test_parts_that_are_trained_together_are_one_training(self, settings: Settings) -> None:
        watch = Watched()
        text = "darts-ensemble-7@cells=1-1,init_channels=2,combine=features-concat"
        trained = trainer(settings, watch=watch).train(order(text))
        assert watch.epochs == [("darts-ensemble-7", 1, 2, False), ("darts-ensemble-7", 2, 2, False)]
        assert trained.record.members is None
        assert load_model(trained.path, None, ENTRY).sha256 == sha256(trained)

    def test_a_rule_that_cannot_join_its_members_is_refused_before_anything_is_trained(
        self, settings: Settings
    ) -> None:
        watch = Watched()
        with pytest.raises(InvalidSpec, match="is one of mean-logits"):
            trainer(settings, watch=watch).train(
                order("nasbench201-ensemble-5@cells=1-1,init_channels=2,combine=features-mean")
            )
        assert watch.epochs == []

    def test_a_member_that_is_code_is_trained_like_any_other(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        code = tmp_path / "code"
        code.mkdir()
        (code / "nasrob_test_trained_member.py").write_text(
            "from torch import nn\n"
            "def make(num_classes, in_channels):\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))\n"
        )
        monkeypatch.chdir(code)
        name = "nasrob_test_trained_member:make"
        picked = composition.picked([composition.Member(name), composition.Member("resnet18@width=2")])
        from models.architectures import definitions

        text = f"{definitions.remember(picked)}@combine=mean-logits"
        trained = trainer(settings).train(order(text))
        assert trained.record.members is not None
        assert [m["architecture"] for m in trained.record.members] == [name, "resnet18@width=2"]


class TestTestData:
    """Members and combiner learn from training images alone: nothing of the test split reaches a tensor."""

    def test_other_test_images_and_labels_make_no_difference(
        self, settings: Settings, splits: dict[str, Examples], tmp_path: Path
    ) -> None:
        first = trainer(settings).train(order())
        rng = np.random.default_rng(0)
        images = rng.random((30, 1, 8, 8), dtype=np.float32)
        splits["test"] = Examples("digits", "test", images, rng.integers(0, 10, 30), 10, "4" * 64)
        elsewhere = Settings(tmp_path / "other", tmp_path / "other" / "results.duckdb")
        second = trainer(elsewhere).train(order())
        assert sha256(second) == sha256(first)
        assert second.record.clean_accuracy != first.record.clean_accuracy, "the images are others"
        # The same change to the training images does.
        splits["train"] = Examples("digits", "train", images, splits["test"].labels, 10, "5" * 64)
        third = trainer(elsewhere).train(order())
        assert sha256(third) != sha256(first)

    def test_tuning_asks_for_no_test_data(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        tune, load = tuning.tune, datasets.load
        state = {"tuning": False, "tuned": False}

        def watched(*arguments: Any, **more: Any) -> Any:
            state["tuning"] = True
            try:
                return tune(*arguments, **more)
            finally:
                state.update(tuning=False, tuned=True)

        def guarded(name: str, split: str, **more: Any) -> Examples:
            assert not (state["tuning"] and split == "test"), "the combiner is shown test data"
            return load(name, split, **more)

        monkeypatch.setattr(tuning, "tune", watched)
        monkeypatch.setattr(datasets, "load", guarded)
        trainer(settings).train(order())
        assert state == {"tuning": False, "tuned": True}


class TestCombining:
    """Models that are trained already, wherever they come from."""

    def test_members_keep_their_identity_and_their_normalisation(self, settings: Settings, tmp_path: Path) -> None:
        other = Preprocessing((0.5,), (0.25,))
        members = [
            saved(tmp_path / "a.safetensors", CELL),
            saved(tmp_path / "b.safetensors", "resnet18@width=2", normal=other),
        ]
        spec = assembling.pick(members, "learned")
        out = tmp_path / "whole.safetensors"
        made = trainer(settings).combine(Order(spec, "digits", 1, combiner={"epochs": 1}), members, out)
        assert made.record.preprocessing == Preprocessing((0.0,), (1.0,))
        assert tensors_of_members(out) == [member.sha256 for member in members]
        whole = load_model(out, None, ENTRY)
        for i, member in enumerate(members):
            part = assembling.part_of(whole, [i])
            assert (part.sha256, part.preprocessing) == (member.sha256, member.preprocessing)

    def test_weights_without_a_record_can_be_members(self, settings: Settings, tmp_path: Path) -> None:
        members = [replace(saved(tmp_path / f"{i}.safetensors", CELL, seed=i), record=None) for i in range(2)]
        spec = assembling.pick(members, "majority")
        made = trainer(settings).combine(Order(spec, "digits"), members, tmp_path / "whole.safetensors")
        assert made.record.recipe_name == "elsewhere"
        assert made.record.members is not None
        assert [(m["seed"], m["recipe"]) for m in made.record.members] == [(None, None)] * 2
        assert assembling.part_of(load_model(made.path, None, ENTRY), [1]).sha256 == members[1].sha256


def test_a_file_of_another_training_under_the_same_name_is_not_taken(settings: Settings) -> None:
    """A file that somebody put there: of another architecture, seed or data."""
    asked = order("resnet18@width=2", overrides={"epochs": 1})
    made = trainer(settings).train(asked)
    network = load_model(made.path, None, ENTRY).classifier.network
    assert trainer(settings).existing(asked) is not None
    changes: tuple[dict[str, Any], ...] = ({"seed": 9}, {"dataset_fingerprint": "9" * 64}, {"recipe": {}})
    for change in changes:
        save_weights(made.path, network, replace(made.record, **change))
        assert trainer(settings).existing(asked) is None
    save_weights(made.path, network, record("resnet18@width=2"))
    assert trainer(settings).existing(asked) is None
