"""Ensembles in files: put together from trained members, taken apart, tuned; and what a file may not do."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from models.architectures import definitions, registry
from models.classifier import Classifier, tensors_sha256
from models.datasets import registry as datasets
from models.datasets.registry import Examples
from models.ensembles import assembling, composition, parts, tuning
from models.ensembles.composition import Member
from models.ensembles.network import COMBINATIONS, Ensemble
from models.errors import InvalidSpec, WeightsError
from models.evaluation import Evaluator
from models.specs import Preprocessing, canonical_json
from models.training import loop, recipes
from models.weights import catalogue, sources
from models.weights.files import LoadedModel, load_model, network_tensors, save_weights
from tests.models.ensembles_support import CELL, DIGITS, LENET, RESNET, few_digits, logits_of, record, saved
from tests.support import attack, outcomes

ENTRY = datasets.find("digits")
OTHER = Preprocessing((0.5,), (0.25,))
IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def members(tmp_path: Path) -> list[LoadedModel]:
    """Networks of three families, normalised alike."""
    return [
        saved(tmp_path / f"{i}.safetensors", name, seed=i)
        for i, name in enumerate((CELL, RESNET, "darts-random-9@c=2,layers=2"))
    ]


def written(path: Path, members: Sequence[LoadedModel], combine: str = "mean-logits", **more: Any) -> LoadedModel:
    """An ensemble of these members in a file, and read back."""
    spec = assembling.pick(members, combine, **more)
    torch.manual_seed(5)
    made = assembling.assemble(spec, members, ENTRY)
    normal = assembling.normalisation(spec, members, ENTRY)
    about = record(spec.canonical, seed=9, normal=normal, members=assembling.members_of(members))
    save_weights(path, made.network, about)
    return load_model(path, None, ENTRY)


def rewritten(path: Path, **changes: Any) -> Path:
    """The same tensors under a record that somebody has changed."""
    header = json.loads(catalogue.read_header(path)["nasrob"]) | changes
    save_file(load_file(path), path, metadata={"format": catalogue.FORMAT, "nasrob": canonical_json(header)})
    return path


class TestPuttingTogether:
    def test_members_keep_every_tensor_and_so_their_identity(self, members: list[LoadedModel], tmp_path: Path) -> None:
        whole = written(tmp_path / "whole.safetensors", members)
        assert whole.architecture.canonical.endswith("@combine=mean-logits")
        tensors = load_file(tmp_path / "whole.safetensors")
        for i, member in enumerate(members):
            own = {
                name.removeprefix(f"members.{i}."): tensor
                for name, tensor in tensors.items()
                if name.startswith(f"members.{i}.")
            }
            assert tensors_sha256(own) == member.sha256
            assert member.record is not None
            assert member.sha256 == member.record.tensors_sha256
        together = torch.stack([logits_of(member.classifier, IMAGES) for member in members])
        assert torch.allclose(logits_of(whole.classifier, IMAGES), together.mean(0), atol=1e-6)
        assert whole.record is not None
        assert whole.record.members is not None
        assert [(m["architecture"], m["sha256"], m["seed"], m["clean_accuracy"]) for m in whole.record.members] == [
            (m.architecture.canonical, m.sha256, i, 50.0 + i) for i, m in enumerate(members)
        ]

    @pytest.mark.parametrize("combine", ["mean-logits", "mean-probs", "majority"])
    def test_members_that_normalise_differently_keep_their_own_normalisation(
        self, combine: str, tmp_path: Path
    ) -> None:
        mixed = [
            saved(tmp_path / "a.safetensors", RESNET),
            saved(tmp_path / "b.safetensors", LENET, normal=OTHER),
        ]
        whole = written(tmp_path / "whole.safetensors", mixed, combine)
        assert whole.preprocessing == Preprocessing((0.0,), (1.0,))
        assert [m.preprocessing for m in composition.of(whole.architecture).members] == [DIGITS, OTHER]
        by_hand = COMBINATIONS[combine](torch.stack([logits_of(member.classifier, IMAGES) for member in mixed]))
        assert torch.allclose(logits_of(whole.classifier, IMAGES), by_hand, atol=1e-5)
        for i, member in enumerate(mixed):
            part = assembling.part_of(whole, [i])
            assert (part.preprocessing, part.sha256) == (member.preprocessing, member.sha256)
            assert torch.equal(logits_of(part.classifier, IMAGES), logits_of(member.classifier, IMAGES))

    def test_members_that_share_a_normalisation_of_their_own_share_it_in_front(self, tmp_path: Path) -> None:
        alike = [saved(tmp_path / f"{i}.safetensors", RESNET, seed=i, normal=OTHER) for i in range(2)]
        whole = written(tmp_path / "whole.safetensors", alike)
        assert whole.preprocessing == OTHER
        assert all(member.preprocessing is None for member in composition.of(whole.architecture).members)

    def test_the_order_and_the_number_of_members_are_those_of_the_architecture(
        self, members: list[LoadedModel]
    ) -> None:
        spec = assembling.pick(members, "mean-logits")
        with pytest.raises(WeightsError, match=r"member 0 of .* is darts-random-3@.*, not resnet18@"):
            assembling.assemble(spec, [members[1], members[0], members[2]], ENTRY)
        with pytest.raises(WeightsError, match="has 3 members, not 2"):
            assembling.assemble(spec, members[:2], ENTRY)

    def test_a_member_that_normalises_in_another_way_than_was_picked_is_refused(
        self, members: list[LoadedModel], tmp_path: Path
    ) -> None:
        spec = assembling.pick(members, "mean-logits")
        other = saved(tmp_path / "other.safetensors", RESNET, normal=OTHER)
        with pytest.raises(WeightsError, match=r"member 1 of .* normalises images in another way"):
            assembling.assemble(spec, [members[0], other, members[2]], ENTRY)

    def test_a_member_for_other_images_is_refused(self, members: list[LoadedModel]) -> None:
        network = registry.build(members[1].architecture, num_classes=7, in_channels=1)
        other = replace(members[1], classifier=Classifier(network, DIGITS, 7))
        with pytest.raises(WeightsError, match=r"member 1 do not fit .* for digits: was it made for other images"):
            assembling.assemble(assembling.pick(members, "majority"), [members[0], other, members[2]], ENTRY)

    def test_what_is_trained_as_one_is_not_put_together(self, members: list[LoadedModel]) -> None:
        with pytest.raises(WeightsError, match="is trained as one"):
            assembling.assemble(assembling.pick(members, "features-mean"), members, ENTRY)

    def test_a_network_that_reads_its_version_from_the_state_dict_can_be_a_member(self, tmp_path: Path) -> None:
        """torchvision's MNASNet refuses a state dict without metadata."""
        cifar10 = datasets.find("cifar10")
        spec = registry.parse_architecture("torchvision:mnasnet0_5")
        torch.manual_seed(0)
        network = registry.build(spec, num_classes=10, in_channels=3)
        normal = cifar10.preprocessing
        model = LoadedModel(
            Classifier(network, normal, 10), spec, normal, tensors_sha256(network_tensors(network)), tmp_path, None
        )
        made = assembling.assemble(assembling.pick([model, model], "mean-logits"), [model, model], cifar10)
        assert isinstance(made.network, Ensemble)
        assert tensors_sha256(network_tensors(made.network.members[1])) == model.sha256

    def test_names_and_widths_of_a_learned_combiner(self, members: list[LoadedModel]) -> None:
        spec = assembling.pick(members, "learned", width=5)
        assert spec.canonical.endswith("@combine=learned,width=5")
        found = assembling.assemble(spec, members, ENTRY).network
        assert isinstance(found, Ensemble)
        assert found.get_parameter("combiner.0.weight").shape == (5, 30)


class TestParts:
    def test_names(self, tmp_path: Path) -> None:
        assert parts.name("x.safetensors", [0, 2]) == "x.safetensors#members=0,2"
        assert parts.split("a/x.safetensors#members=0,2") == ("a/x.safetensors", (0, 2))
        assert parts.split("x.safetensors") == ("x.safetensors", None)
        odd = tmp_path / "x#members=1"
        odd.write_bytes(b"")
        assert parts.split(str(odd)) == (str(odd), None), "a file of that very name is one"
        assert parts.split(f"{odd}#members=3") == (str(odd), (3,))

    @pytest.mark.parametrize("text", ["", "a", "-1", "1,", "1,,2", "0 1", "１", "99999", "1.0", "0,2#members=1x"])
    def test_what_is_no_list_of_members(self, text: str) -> None:
        with pytest.raises(WeightsError, match="numbers from 0 with commas between"):
            parts.split(f"x#members={text}")

    @pytest.mark.parametrize("text", ["2,1", "1,1"])
    def test_members_are_named_once_and_in_order(self, text: str) -> None:
        with pytest.raises(WeightsError, match="name each member once, in their order"):
            parts.split(f"x#members={text}")

    def test_one_member_is_the_member(self, members: list[LoadedModel], tmp_path: Path) -> None:
        whole = written(tmp_path / "whole.safetensors", members, "learned")
        for i, member in enumerate(members):
            part = sources.load(f"{whole.path}#members={i}", member.architecture, ENTRY, preprocessing=DIGITS)
            assert (part.architecture, part.sha256) == (member.architecture, member.sha256)
            assert torch.equal(logits_of(part.classifier, IMAGES), logits_of(member.classifier, IMAGES))
            assert part.record is not None
            assert member.record is not None
            same = ("architecture", "tensors_sha256", "seed", "clean_accuracy", "recipe", "recipe_name", "mean", "std")
            assert {key: getattr(part.record, key) for key in same} == {
                key: getattr(member.record, key) for key in same
            }
            assert str(part.path) == f"{whole.path}#members={i}"

    @pytest.mark.parametrize(("combine", "rule"), [("majority", "majority"), ("learned", "mean-logits")])
    def test_some_members_are_an_ensemble_without_a_combiner(
        self, combine: str, rule: str, members: list[LoadedModel], tmp_path: Path
    ) -> None:
        whole = written(tmp_path / "whole.safetensors", members, combine)
        two = [members[0], members[2]]
        spec = assembling.pick(two, rule)
        part = sources.load(f"{whole.path}#members=0,2", spec, ENTRY, preprocessing=DIGITS)
        assert part.architecture == spec
        together = torch.stack([logits_of(member.classifier, IMAGES) for member in two])
        assert torch.allclose(logits_of(part.classifier, IMAGES), COMBINATIONS[rule](together), atol=1e-6)
        alone = written(tmp_path / "two.safetensors", two, rule)
        assert part.sha256 == alone.sha256, "the same as picked from the two"

    def test_some_members_keep_their_normalisations(self, tmp_path: Path) -> None:
        mixed = [
            saved(tmp_path / f"{i}.safetensors", RESNET, seed=i, normal=normal)
            for i, normal in enumerate((DIGITS, OTHER, DIGITS))
        ]
        whole = written(tmp_path / "whole.safetensors", mixed)
        part = assembling.part_of(whole, [1, 2])
        by_hand = torch.stack([logits_of(member.classifier, IMAGES) for member in mixed[1:]]).mean(0)
        assert torch.allclose(logits_of(part.classifier, IMAGES), by_hand, atol=1e-5)

    def test_all_members_are_the_whole(self, members: list[LoadedModel], tmp_path: Path) -> None:
        whole = written(tmp_path / "whole.safetensors", members, "learned")
        part = sources.load(f"{whole.path}#members=0,1,2", whole.architecture, ENTRY, preprocessing=DIGITS)
        assert part.sha256 == whole.sha256
        assert torch.equal(logits_of(part.classifier, IMAGES), logits_of(whole.classifier, IMAGES))

    def test_members_that_there_are_not(self, members: list[LoadedModel], tmp_path: Path) -> None:
        whole = written(tmp_path / "whole.safetensors", members)
        for text, says in (("3", "has members 0 to 2, not 3"), ("0,9", "has members 0 to 2, not 9")):
            with pytest.raises(WeightsError, match=says):
                sources.load(f"{whole.path}#members={text}", members[0].architecture, ENTRY, preprocessing=DIGITS)
        with pytest.raises(WeightsError, match=r"members=0 is darts-random-3@.*, not resnet18@width=2"):
            sources.load(f"{whole.path}#members=0", members[1].architecture, ENTRY, preprocessing=DIGITS)
        with pytest.raises(WeightsError, match="which is no ensemble: it has no members"):
            sources.load(f"{members[0].path}#members=0", members[0].architecture, ENTRY, preprocessing=DIGITS)

    def test_what_was_trained_as_one_has_no_parts(self, tmp_path: Path) -> None:
        spec = registry.parse_architecture("darts-ensemble-7@cells=1-1,init_channels=2,combine=features-mean")
        network = registry.build(spec, num_classes=10, in_channels=1)
        save_weights(tmp_path / "x.safetensors", network, record(spec.canonical))
        with pytest.raises(WeightsError, match="none of them stands alone"):
            assembling.part_of(load_model(tmp_path / "x.safetensors", None, ENTRY), [0])

    def test_parts_of_a_sampled_ensemble_are_the_sampled_cells(self, tmp_path: Path) -> None:
        spec = registry.parse_architecture("nasbench201-ensemble-2@cells=1-1,init_channels=2,combine=mean-probs")
        torch.manual_seed(0)
        save_weights(
            tmp_path / "x.safetensors",
            registry.build(spec, num_classes=10, in_channels=1),
            record(spec.canonical),
        )
        whole = load_model(tmp_path / "x.safetensors", None, ENTRY)
        part = assembling.part_of(whole, [1])
        assert part.architecture.canonical == "nasbench201-random-2001@init_channels=2,cells_per_stage=1"
        assert part.record is None, "the file says nothing about its members"

    @pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"architecture": RESNET}])
    def test_a_record_that_is_about_other_members_is_damage(
        self, change: dict[str, str], members: list[LoadedModel], tmp_path: Path
    ) -> None:
        whole = written(tmp_path / "whole.safetensors", members)
        assert whole.record is not None
        assert whole.record.members is not None
        said = [whole.record.members[0] | change, *whole.record.members[1:]]
        broken = load_model(rewritten(whole.path, members=said), None, ENTRY)
        with pytest.raises(WeightsError, match="damaged record: what it says of member 0"):
            assembling.part_of(broken, [0])
        assert assembling.part_of(broken, [1]).sha256 == members[1].sha256

    @pytest.mark.parametrize("members_", [5, [5], [{"architecture": "x"}], [{"architecture": 1, "sha256": "x"}]])
    def test_members_of_another_kind_are_damage(
        self, members_: object, members: list[LoadedModel], tmp_path: Path
    ) -> None:
        path = written(tmp_path / "whole.safetensors", members).path
        with pytest.raises(WeightsError, match="damaged record"):
            catalogue.read_record(rewritten(path, members=members_))

    def test_a_part_is_attacked_as_the_member_is(self, members: list[LoadedModel], tmp_path: Path) -> None:
        whole = written(tmp_path / "whole.safetensors", members, "learned")
        part = assembling.part_of(whole, [1])
        test = few_digits(40, split="test")
        spec = attack("pgd", eps="8/255", steps=3, verdict="last")
        found = [outcomes(Evaluator(m.classifier, test, slots=16), spec, range(40)) for m in (part, members[1])]
        assert found[0] == found[1]


class Counted(Examples):
    """Examples that count who looks at their images and labels."""

    def __init__(self, of: Examples) -> None:
        self.looked = 0
        super().__init__(of.dataset, of.split, of.images, of.labels, of.n_classes, of.fingerprint)
        self.looked = 0

    def pixels(self, positions: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        self.looked += 1
        return super().pixels(positions)

    @property
    def labels(self) -> NDArray[np.int64]:
        self.looked += 1
        return self._labels

    @labels.setter
    def labels(self, value: NDArray[np.int64]) -> None:
        self._labels = value


class TestTuning:
    """The combiner learns, on training images alone, and nothing else moves."""

    def plan(self, members: Sequence[LoadedModel], seed: int = 3, **keys: Any) -> loop.TrainingPlan:
        spec = assembling.pick(members, "learned", width=8)
        recipe = recipes.load("combiner", "digits", {"epochs": 3, "batch_size": 16, **keys})
        return loop.TrainingPlan(spec, ENTRY, recipe, seed, "0" * 64, tuple(m.sha256 for m in members))

    def tuned(
        self,
        members: Sequence[LoadedModel],
        checkpoint: Path,
        *,
        stop_after: int | None = None,
        examples: Examples | None = None,
        seed: int = 3,
        **keys: Any,
    ) -> Classifier:
        torch.set_num_threads(1)
        plan = self.plan(members, seed, **keys)

        def on_epoch(report: loop.EpochReport) -> None:
            if report.epoch == stop_after and not report.resumed:
                raise KeyboardInterrupt

        return tuning.tune(
            plan,
            lambda: assembling.assemble(plan.architecture, members, ENTRY),
            examples or few_digits(),
            device="cpu",
            checkpoint=checkpoint,
            on_epoch=on_epoch,
        )

    @pytest.mark.parametrize(
        "keys",
        [
            {},
            {"ema_decay": 0.7},
            {"adversary": "pgd", "adversary_eps": "8/255", "adversary_steps": 2},
            {"gradient_clip": 1.0, "drop_path": 0.5, "optimizer": "sgd", "weight_decay": 0.1},
        ],
        ids=["as it is", "averaged", "adversarial", "with everything"],
    )
    def test_members_keep_every_tensor(self, keys: dict[str, Any], members: list[LoadedModel], tmp_path: Path) -> None:
        """The statistics of BatchNorm and its counters included; the combiner's weights and statistics move."""
        state = torch.random.get_rng_state()
        torch.manual_seed(self.plan(members, **keys).seed)
        before = network_tensors(assembling.assemble(self.plan(members).architecture, members, ENTRY).network)
        torch.random.set_rng_state(state)
        after = network_tensors(self.tuned(members, tmp_path / "c.pt", **keys).network)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert before.keys() == after.keys()
        for name, tensor in after.items():
            if name.startswith("members."):
                assert torch.equal(tensor, before[name]), name
            elif not name.endswith("bias"):
                assert not torch.equal(tensor, before[name]), name
        assert sum("num_batches_tracked" in name for name in after if name.startswith("members.")) > 3
        for i, member in enumerate(members):
            own = {n.removeprefix(f"members.{i}."): t for n, t in after.items() if n.startswith(f"members.{i}.")}
            assert tensors_sha256(own) == member.sha256

    def test_it_learns(self, members: list[LoadedModel], tmp_path: Path) -> None:
        """Random members tell images apart: a combiner of their logits does better than chance on what it saw."""
        keys: dict[str, Any] = {"epochs": 30, "lr": 0.03, "crop": False, "mirror": False}
        tuned = self.tuned(members, tmp_path / "c.pt", **keys)
        assert loop.accuracy(tuned, few_digits(), device="cpu") > 40
        assert not tuned.training
        assert all(p.requires_grad for p in tuned.parameters())

    def test_same_seed_same_weights_interrupted_or_not(self, members: list[LoadedModel], tmp_path: Path) -> None:
        def sha256(name: str, **more: Any) -> str:
            return tensors_sha256(network_tensors(self.tuned(members, tmp_path / name, **more).network))

        straight = sha256("a.pt")
        torch.manual_seed(99)
        with pytest.raises(KeyboardInterrupt):
            sha256("b.pt", stop_after=1)
        assert sha256("b.pt") == straight
        assert sha256("c.pt", seed=4) != straight

    def test_a_checkpoint_of_other_members_is_not_taken_over(self, members: list[LoadedModel], tmp_path: Path) -> None:
        """The same architectures trained with other seeds are other members."""
        others = [saved(tmp_path / "o.safetensors", CELL, seed=8), *members[1:]]
        assert self.plan(others).architecture == self.plan(members).architecture
        assert self.plan(others).identity != self.plan(members).identity
        alone = tensors_sha256(network_tensors(self.tuned(others, tmp_path / "a.pt").network))
        self.tuned(members, tmp_path / "b.pt")
        assert tensors_sha256(network_tensors(self.tuned(others, tmp_path / "b.pt").network)) == alone

    def test_test_data_are_not_looked_at(
        self, members: list[LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train, test = Counted(few_digits()), Counted(few_digits(split="test"))
        asked = []

        def load(name: str, split: str, **more: object) -> Examples:
            asked.append(split)
            return test if split == "test" else train

        monkeypatch.setattr(datasets, "load", load)
        self.tuned(members, tmp_path / "c.pt", examples=train)
        assert train.looked > 0
        assert (test.looked, asked) == (0, [])


# -- what files say ----------------------------------------------------------------------------------------------------

WIDTHS = {"space": "nats-size", "data": {"widths": "8:8:8:8:8"}}
FACTORY = "nasrob_test_ensemble_member:make"
CODE = """
from torch import nn
def make(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a person's in the current folder."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "nasrob_test_ensemble_member.py").write_text(CODE)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("nasrob_test_ensemble_member", None)
    return FACTORY


class TestWhatAFileSays:
    def test_a_machine_that_has_never_heard_of_the_members(
        self, members: list[LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also of a cell that only a person knows."""
        text = str(registry.find("darts-random-77").genotype)
        mine = registry.find(text).name
        cell = saved(tmp_path / "cell.safetensors", f"{mine}@init_channels=2,layers=1")
        whole = written(tmp_path / "whole.safetensors", [*members, cell])
        assert mine.startswith("darts-cell-")
        there = tmp_path / "another machine"
        monkeypatch.setenv("NASROB_HOME", str(there))
        with pytest.raises(InvalidSpec):
            registry.find(whole.architecture.name)
        again = load_model(whole.path, None, ENTRY)
        assert again.architecture == whole.architecture
        assert again.sha256 == whole.sha256
        assert torch.equal(logits_of(again.classifier, IMAGES), logits_of(whole.classifier, IMAGES))
        part = sources.load(f"{whole.path}#members=3", cell.architecture, ENTRY, preprocessing=DIGITS)
        assert part.sha256 == cell.sha256
        assert sorted(p.stem for p in (there / "definitions").iterdir()) == sorted([mine, whole.architecture.name])

    def test_a_sampled_ensemble_needs_no_definition_of_its_members(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = registry.parse_architecture("darts-ensemble-7@cells=1-1,init_channels=2,combine=mean-logits")
        network = registry.build(spec, num_classes=10, in_channels=1)
        save_weights(tmp_path / "x.safetensors", network, record(spec.canonical))
        monkeypatch.setenv("NASROB_HOME", str(tmp_path / "there"))
        assert load_model(tmp_path / "x.safetensors", None, ENTRY).architecture == spec

    @pytest.mark.parametrize("name", ["os:system", "nasrob_test_ensemble_member:make", "subprocess:run"])
    def test_no_file_makes_a_member_be_imported(
        self, name: str, code: str, members: list[LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def imported(**options: object) -> None:
            raise AssertionError(f"a file had {options} imported")

        monkeypatch.setattr("models.architectures.factories.imported", imported)
        path = written(tmp_path / "whole.safetensors", members).path
        data = {"members": [{"architecture": RESNET}, {"architecture": name}]}
        evil = definitions.Definition("ensemble", data)
        rewritten(path, architecture=f"{evil.name}@combine=mean-logits", definition=evil.to_dict())
        for architecture in (None, members[0].architecture):
            with pytest.raises(WeightsError, match="is code from outside, which no definition may name"):
                load_model(path, architecture, ENTRY)
        assert evil.name not in definitions.kept()
        # Nor does text that a person pastes, or downloads.
        (tmp_path / "evil.json").write_text(json.dumps(evil.to_dict()))
        for text in (json.dumps(evil.to_dict()), f"file:{tmp_path / 'evil.json'}"):
            with pytest.raises(InvalidSpec, match="is code from outside"):
                registry.find(text)
        # Under the name of an ensemble that was picked here, it is another.
        kept = assembling.pick(members[:2], "mean-logits")
        rewritten(path, architecture=kept.canonical, definition=evil.to_dict())
        with pytest.raises(WeightsError, match="code from outside"):
            load_model(path, None, ENTRY)
        assert name.partition(":")[0] not in sys.modules or name.startswith(("os:", "subprocess:"))

    def test_a_person_picks_members_that_are_code(
        self, code: str, members: list[LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = registry.parse_architecture(code)
        torch.manual_seed(0)
        network = registry.build(spec, num_classes=10, in_channels=1)
        save_weights(tmp_path / "mine.safetensors", network, record(spec.canonical))
        mine = load_model(tmp_path / "mine.safetensors", spec, ENTRY)
        whole = written(tmp_path / "whole.safetensors", [members[1], mine])
        assert registry.find(whole.architecture.name).definition is not None
        by_hand = torch.stack([logits_of(m.classifier, IMAGES) for m in (members[1], mine)]).mean(0)
        assert torch.allclose(logits_of(whole.classifier, IMAGES), by_hand, atol=1e-6)
        part = sources.load(f"{whole.path}#members=1", spec, ENTRY, preprocessing=DIGITS)
        assert part.sha256 == mine.sha256
        # Elsewhere the same file is refused.
        monkeypatch.setenv("NASROB_HOME", str(tmp_path / "there"))
        with pytest.raises(WeightsError, match="code from outside"):
            load_model(whole.path, None, ENTRY)

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            ({}, "sampled from darts or nasbench201"),
            ({"members": []}, "2 to 100 members"),
            ({"members": [{"architecture": RESNET}]}, "2 to 100 members"),
            ({"members": [{"architecture": RESNET}] * 1_000_000}, "2 to 100 members"),
            ({"members": {"architecture": RESNET}}, "2 to 100 members"),
            ({"members": [RESNET, RESNET]}, "names its architecture, unlike 'resnet18@width=2'"),
            ({"members": [{"architecture": 5}] * 2}, "names its architecture"),
            ({"members": [{"architecture": "x" * 10**6}] * 2}, "unknown architecture"),
            ({"members": [{"architecture": "file:/etc/hostname"}] * 2}, "is no name of an architecture"),
            ({"members": [{"architecture": '{"space": "darts", "data": {}}'}] * 2}, "is no name of an architecture"),
            ({"members": [{"architecture": "Genotype(normal=[])"}] * 2}, "is no name of an architecture"),
            ({"members": [{"architecture": ""}] * 2}, "is no name of an architecture"),
            ({"members": [{"architecture": f"{RESNET},depth=3"}] * 2}, "option of resnet18"),
            ({"members": [{"architecture": "darts-ensemble-7"}] * 2}, "not another ensemble"),
            ({"members": [{"architecture": "models.classifier:Classifier"}] * 2}, "is a package of nasrob-tui itself"),
            ({"members": [{"architecture": RESNET, "definition": 5}] * 2}, "needs a space"),
            ({"members": [{"architecture": RESNET, "definition": {"space": []}}] * 2}, "needs a space"),
            (
                {"members": [{"architecture": RESNET, "definition": WIDTHS}] * 2},
                "is another here than where the ensemble was made",
            ),
            ({"members": [{"architecture": RESNET, "mean": [0.5]}] * 2}, "lists of numbers"),
            ({"members": [{"architecture": RESNET, "mean": "0", "std": "1"}] * 2}, "lists of numbers"),
            ({"members": [{"architecture": RESNET, "mean": [10**400], "std": [1]}] * 2}, "lists of numbers"),
            ({"members": [{"architecture": RESNET, "mean": [float("nan")], "std": [1]}] * 2}, "lists of numbers"),
            ({"members": [{"architecture": RESNET, "mean": [[0]], "std": [1]}] * 2}, "lists of numbers"),
            ({"members": [{"architecture": RESNET, "mean": [0], "std": [0]}] * 2}, "std positive"),
            ({"members": [{"architecture": RESNET, "mean": [], "std": []}] * 2}, "one of each a channel"),
            ({"members": [{"architecture": RESNET, "mean": [0, 0], "std": [1]}] * 2}, "one of each a channel"),
            ({"space": "robnet", "seed": 1}, "sampled from"),
            ({"space": [], "seed": 1}, "sampled from"),
            ({"space": "darts", "seed": True}, "the seed of an ensemble is a whole number"),
            ({"space": "darts", "seed": 1.0}, "the seed of an ensemble is a whole number"),
            ({"space": "darts", "seed": -1}, "the seed of an ensemble is a whole number"),
            ({"space": "darts", "seed": 10**15}, "the seed of an ensemble is a whole number"),
            ({"space": "darts", "seed": "7"}, "the seed of an ensemble is a whole number"),
        ],
        ids=lambda value: str(value)[:60],
    )
    def test_definitions_that_make_no_sense_are_refused_in_a_sentence(self, data: dict[str, Any], says: str) -> None:
        with pytest.raises(InvalidSpec, match=says) as caught:
            definitions.Definition.from_dict({"space": "ensemble", "data": data})
        assert len(str(caught.value)) < 300

    def test_ensembles_in_ensembles_are_refused_at_once(self) -> None:
        inner: dict[str, Any] = {"space": "ensemble", "data": {"members": [{"architecture": RESNET}] * 2}}
        for _ in range(150):
            member = {"architecture": "ensemble-0123456789ab", "definition": inner}
            inner = {"space": "ensemble", "data": {"members": [member, member]}}
        with pytest.raises(InvalidSpec, match="not another ensemble"):
            definitions.Definition.from_dict(inner)
        picked = composition.picked([Member(RESNET), Member(CELL)])
        definitions.remember(picked)
        with pytest.raises(InvalidSpec, match="not another ensemble"):
            composition.picked([Member(f"{picked.name}@combine=majority"), Member(RESNET)])

    def test_a_member_under_the_name_of_another_is_refused(self, members: list[LoadedModel], tmp_path: Path) -> None:
        """A file cannot put its own cells behind a name that is known here."""
        whole = written(tmp_path / "whole.safetensors", members)
        definition = registry.find(whole.architecture.name).definition
        assert definition is not None
        data = json.loads(canonical_json(definition.data))
        data["members"][0]["definition"] = definitions.sample("darts", 99).to_dict()
        false = definitions.Definition("ensemble", data)
        rewritten(whole.path, architecture=f"{false.name}@combine=mean-logits", definition=false.to_dict())
        with pytest.raises(WeightsError, match="'darts-random-3' is another here"):
            load_model(whole.path, None, ENTRY)

    def test_a_damaged_definition_at_home_is_named(self, members: list[LoadedModel]) -> None:
        spec = assembling.pick(members, "mean-logits")
        path = definitions.folder() / f"{spec.name}.json"
        content = path.read_text()
        for text in (content[: len(content) // 2], content.replace("darts-random-3", "darts-random-4"), "[]"):
            path.write_text(text)
            with pytest.raises(InvalidSpec, match="give the definition again") as caught:
                registry.find(spec.name)
            assert len(str(caught.value)) < 400

    def test_a_name_with_another_definition_is_refused(self, members: list[LoadedModel], tmp_path: Path) -> None:
        whole = written(tmp_path / "whole.safetensors", members)
        other = composition.picked([Member(m.architecture.canonical) for m in members[::-1]])
        rewritten(whole.path, definition=other.to_dict())
        with pytest.raises(WeightsError, match="its definition differs"):
            load_model(whole.path, None, ENTRY)

    def test_options_of_a_record_are_checked(self, members: list[LoadedModel], tmp_path: Path) -> None:
        whole = written(tmp_path / "whole.safetensors", members)
        for options in ("combine=best", "combine=learned,width=10000000", "cells=1-1"):
            rewritten(whole.path, architecture=f"{whole.architecture.name}@{options}")
            with pytest.raises(WeightsError, match="not known here"):
                load_model(whole.path, None, ENTRY)
        rewritten(whole.path, architecture=f"{whole.architecture.name}@combine=learned")
        with pytest.raises(WeightsError, match="missing"):
            load_model(whole.path, None, ENTRY)


def test_an_ensemble_record_is_data(members: list[LoadedModel], tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.safetensors", members)
    assert whole.record is not None
    assert json.loads(canonical_json(asdict(whole.record))) == json.loads(catalogue.read_header(whole.path)["nasrob"])


def test_the_largest_and_smallest_of_a_record_are_taken(members: list[LoadedModel], tmp_path: Path) -> None:
    path = written(tmp_path / "whole.safetensors", members).path
    said = json.loads(catalogue.read_header(path)["nasrob"])["members"]
    for seed, accuracy, recipe in ((0, 0, {}), (2**63 - 1, 100.0, None), (None, None, None)):
        about: dict[str, Any] = {"seed": seed, "clean_accuracy": accuracy, "recipe": recipe}
        rewritten(path, seed=seed, clean_accuracy=accuracy, recipe=recipe, members=[m | about for m in said])
        assert load_model(path, None, ENTRY).record is not None


WRONG: list[tuple[str, Any]] = [
    *(("recipe", wrong) for wrong in ("x", 5, [1])),
    *(("seed", wrong) for wrong in ("y", 1.0, True, -1, 2**63, 2**70)),
    *(("clean_accuracy", wrong) for wrong in ("z", True, -0.1, 100.1, 10**400, "<1e400>", "<NaN>", "<-Infinity>")),
    ("recipe", {"lr": "<NaN>"}),
    ("recipe_name", 5),
]


@pytest.mark.parametrize(("key", "wrong"), WRONG, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("where", ["whole", "member"])
def test_a_record_that_lies_about_a_training_is_damaged(
    key: str, wrong: Any, where: str, members: list[LoadedModel], tmp_path: Path
) -> None:
    path = written(tmp_path / "whole.safetensors", members[:2]).path
    header = json.loads(catalogue.read_header(path)["nasrob"])
    (header if where == "whole" else header["members"][1])[key] = wrong
    # Numbers that are no JSON, though Python reads them.
    text = re.sub('"<([^>]*)>"', r"\1", json.dumps(header))
    save_file(load_file(path), path, metadata={"format": catalogue.FORMAT, "nasrob": text})
    with pytest.raises(WeightsError, match="damaged record") as caught:
        catalogue.read_record(path)
    assert len(str(caught.value)) < 400
    assert catalogue.scan([tmp_path])[-1].path != path
