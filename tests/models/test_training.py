"""Training: repeatable by seed, and the same weights whether or not it was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.architectures import registry as architectures
from models.classifier import tensors_sha256
from models.datasets import registry as datasets
from models.datasets.registry import Augmentation, Examples
from models.errors import InvalidSpec, UnknownName
from models.training import averaging, feeding, loop, recipes
from models.training.augment import augment
from models.weights.files import network_tensors


def plan(name: str, *, seed: int = 0, **overrides: object) -> loop.TrainingPlan:
    dataset = datasets.find("digits")
    recipe = recipes.load(architectures.find(name.partition("@")[0]).recipe, "digits", overrides)
    spec = architectures.parse_architecture(name, scale="small")
    return loop.TrainingPlan(spec, dataset, recipe, seed, datasets.load("digits", "train").fingerprint)


def weights(found: loop.TrainingPlan, checkpoint: Path, stop_after: int | None = None) -> str:
    torch.set_num_threads(1)

    def on_epoch(report: loop.EpochReport) -> None:
        if report.epoch == stop_after and not report.resumed:
            raise KeyboardInterrupt

    classifier = loop.train(
        found, datasets.load("digits", "train"), device="cpu", checkpoint=checkpoint, on_epoch=on_epoch
    )
    return tensors_sha256(network_tensors(classifier.network))


@pytest.mark.parametrize("name", ["vgg16-bn@width=2", "darts@init_channels=2,layers=3"])
def test_same_seed_same_weights_interrupted_or_not(name: str, tmp_path: Path) -> None:
    """The VGG has dropout and the cell network drop path: their randomness is resumed too."""
    found = plan(name, epochs=3)
    state = torch.random.get_rng_state()
    straight = weights(found, tmp_path / "a.pt")
    assert torch.equal(torch.random.get_rng_state(), state), "global random state is left alone"
    torch.manual_seed(99)
    with pytest.raises(KeyboardInterrupt):
        weights(found, tmp_path / "b.pt", stop_after=1)
    assert weights(found, tmp_path / "b.pt") == straight
    assert weights(plan(name, epochs=3, seed=1), tmp_path / "c.pt") != straight


FEW = {"epochs": 3, "batch_size": 16, "ema_decay": 0.7}


def few_digits() -> Examples:
    digits = datasets.load("digits", "train")
    return Examples("digits", "train", digits.images[:48], digits.labels[:48], 10, "0" * 64)


def few(recipe: str, checkpoint: Path, stop_after: int | None = None, **keys: Any) -> dict[str, torch.Tensor]:
    """The tensors of a small network trained on a few digits."""
    torch.set_num_threads(1)

    def on_epoch(report: loop.EpochReport) -> None:
        if report.epoch == stop_after and not report.resumed:
            raise KeyboardInterrupt

    examples = few_digits()
    found = recipes.load(recipe, "digits", {**FEW, **keys})
    spec = architectures.parse_architecture("vgg16-bn@width=2")
    training = loop.TrainingPlan(spec, datasets.find("digits"), found, 0, examples.fingerprint)
    classifier = loop.train(training, examples, device="cpu", checkpoint=checkpoint, on_epoch=on_epoch)
    return network_tensors(classifier.network)


@pytest.mark.parametrize(
    ("recipe", "keys"),
    [
        ("pgd-at", {"adversary_steps": 2}),
        ("trades", {"adversary_steps": 2, "optimizer": "adamw", "lr": 0.01}),
        ("fast-at", {"precision": "bfloat16", "no_weight_decay": True}),
        ("darts-imagenet", {"resized_crop": 0.3}),
    ],
)
def test_averages_adversaries_and_schedules_resume_exactly(recipe: str, keys: dict[str, Any], tmp_path: Path) -> None:
    """Interrupted after any epoch, the same weights to the bit as without."""
    straight = tensors_sha256(few(recipe, tmp_path / "straight", **keys))
    for stop in (1, 2):
        torch.manual_seed(stop)
        with pytest.raises(KeyboardInterrupt):
            few(recipe, tmp_path / f"{stop}", stop, **keys)
        assert tensors_sha256(few(recipe, tmp_path / f"{stop}", **keys)) == straight


def test_an_epoch_of_a_single_batch_trains(tmp_path: Path) -> None:
    """The warm-up of `fast` begins at 0, and here it has one step: other learning rates give other weights."""
    one = {"epochs": 1, "batch_size": 48, "ema_decay": 0.0}
    found = [few("fast", tmp_path / str(lr), lr=lr, **one) for lr in (0.1, 0.2)]
    assert all(torch.isfinite(t).all() for tensors in found for t in tensors.values() if t.is_floating_point())
    assert not torch.equal(found[0]["classifier.0.weight"], found[1]["classifier.0.weight"])


def test_average_is_the_formula() -> None:
    network = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
    average = averaging.average_of(network, 0.9)
    expected = None
    for value in (1.0, 2.0, 5.0):
        with torch.no_grad():
            network[0].weight.fill_(value)
            network[1].running_mean.fill_(10 * value)
            network[1].num_batches_tracked.fill_(int(value))
        average.update_parameters(network)
        expected = value if expected is None else 0.9 * expected + 0.1 * value
    averaging.take_over(network, average)
    assert network[0].weight.tolist() == [pytest.approx([expected] * 2)]
    assert network[1].running_mean.item() == pytest.approx(10 * expected)
    assert network[1].num_batches_tracked.item() == 5


def test_averaged_weights_are_the_ones_returned(tmp_path: Path) -> None:
    """The weights of every step are averaged: 3 steps an epoch here, of which the checkpoint holds the last."""
    found = few("standard", tmp_path / "x")
    content = torch.load(tmp_path / "x", weights_only=True)
    assert int(content["average"]["n_averaged"]) == 9
    for key, tensor in found.items():
        source = content["average"][f"module.{key}"] if tensor.is_floating_point() else content["network"][key]
        assert torch.equal(tensor, source)
    assert not torch.equal(found["classifier.0.weight"], content["network"]["classifier.0.weight"])
    last = few("standard", tmp_path / "y", ema_decay=0)
    assert torch.equal(last["classifier.0.weight"], content["network"]["classifier.0.weight"])


def test_bfloat16_trains_nearly_as_float32_and_keeps_float32_weights(tmp_path: Path) -> None:
    single = few("standard", tmp_path / "a", epochs=1, ema_decay=0)
    half = few("standard", tmp_path / "b", epochs=1, ema_decay=0, precision="bfloat16")
    assert {t.dtype for t in half.values()} == {t.dtype for t in single.values()}
    key = "features.0.weight"
    assert not torch.equal(single[key], half[key])
    assert torch.allclose(single[key], half[key], atol=0.1)


def test_float16_is_refused_where_it_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="precision=bfloat16"):
        few("standard", tmp_path / "x", precision="float16")


def test_weight_decay_spares_biases_and_normalisation_where_the_recipe_says() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    whole = loop._optimizer(network, recipes.load("standard", None))
    assert [(len(g["params"]), g["weight_decay"]) for g in whole.param_groups] == [(6, 5e-4)]
    for name, kind in (("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)):
        keys = {"no_weight_decay": True, "optimizer": name, "nesterov": False}
        split = loop._optimizer(network, recipes.load("standard", None, keys))
        assert isinstance(split, kind)
        assert [[p.ndim for p in g["params"]] for g in split.param_groups] == [[4, 2], [1, 1, 1, 1]]
        assert [g["weight_decay"] for g in split.param_groups] == [5e-4, 0.0]


def test_learning_rate_is_set_before_every_step_or_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = few_digits()
    rates: dict[bool, list[float]] = {True: [], False: []}
    for per_step, seen in rates.items():
        keys = {"schedule": "linear", "lr": 0.3, "epochs": 3, "batch_size": 16, "per_step": per_step}
        classifier = loop.Classifier(Heads(), datasets.find("digits").preprocessing, 10)
        trainee = loop.Trainee(classifier, recipes.load("standard", "digits", keys))
        step = trainee._step

        def watched(*batch: Any, step: Any = step, trainee: Any = trainee, seen: list[float] = seen) -> Any:
            seen.append(trainee.optimizer.param_groups[0]["lr"])
            return step(*batch)

        monkeypatch.setattr(trainee, "_step", watched)
        images = feeding.feed(examples, torch.device("cpu"))
        for epoch in range(3):
            trainee.epoch(epoch, images, examples.labels, datasets.find("digits"), seed=epoch)
    assert rates[True] == pytest.approx([0.3 * (9 - i) / 9 for i in range(9)])
    assert rates[False] == pytest.approx([0.3, 0.3, 0.3, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1])


def test_drop_path_reaches_every_network_that_has_it() -> None:
    """Also the members of an ensemble; a module of that name is no probability."""

    class Member(nn.Module):
        drop_path = 0.0

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop_path = nn.Identity()

    ensemble = nn.ModuleList([Member(), Member(), Other()])
    loop._set_drop_path(ensemble, 0.3)
    assert [ensemble[0].drop_path, ensemble[1].drop_path] == [0.3, 0.3]
    assert isinstance(ensemble[2].drop_path, nn.Identity)


class Heads(nn.Module):
    """Logits and two auxiliary outputs, one of them switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.side = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        return self.main(x.flatten(1)), self.side(x.flatten(1)), None


def test_auxiliary_outputs_weigh_in_and_are_not_reported() -> None:
    torch.manual_seed(0)
    network = Heads()
    keys = {"auxiliary_weight": 0.4, "momentum": 0, "nesterov": False, "weight_decay": 0}
    trainee = loop.Trainee(
        loop.Classifier(network, datasets.find("digits").preprocessing, 10),
        recipes.load("standard", "digits", keys),
    )
    for group in trainee.optimizer.param_groups:
        group["lr"] = 1.0
    examples = few_digits()
    images, labels = torch.from_numpy(examples.images.copy()), torch.from_numpy(examples.labels)
    normalised = trainee.classifier.normalize(images)
    main, side, _ = network(normalised)
    expected = nn.functional.cross_entropy(main, labels)
    (gradient,) = torch.autograd.grad(0.4 * nn.functional.cross_entropy(side, labels), [network.side.weight])
    before = network.side.weight.detach().clone()
    loss, logits = trainee._step(images, labels)
    assert loss.item() == pytest.approx(expected.item())
    assert torch.allclose(logits, main, atol=1e-6)
    assert torch.allclose(network.side.weight, before - gradient, atol=1e-6)


def test_checkpoint_of_another_plan_is_not_taken_over(tmp_path: Path) -> None:
    one, two = plan("resnet18@width=2", epochs=1), plan("resnet18@width=2", epochs=1, lr=0.01)
    alone = weights(two, tmp_path / "alone.pt")
    weights(one, tmp_path / "shared.pt")
    assert weights(two, tmp_path / "shared.pt") == alone


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"nothing")
    with pytest.raises(loop.TrainingError, match=r"x\.pt cannot be read"):
        weights(plan("resnet18@width=2", epochs=1), tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["resnet18@width=2", "darts@init_channels=2,layers=3"])
def test_auxiliary_head_that_is_not_there_is_named_with_the_way_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"auxiliary head.*auxiliary_weight=0"):
        weights(plan(name, epochs=1, auxiliary_weight=0.4), tmp_path / "x.pt")


def test_diverging_loss_is_an_error_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(loop.TrainingError, match="smaller --lr"):
        weights(plan("resnet18@width=2", epochs=3, lr=1e9), tmp_path / "x.pt")


def test_recipes_are_the_published_ones_and_digits_differ_only_where_they_must() -> None:
    published = recipes.load("darts", "cifar10")
    assert (published.epochs, published.batch_size, published.lr, published.weight_decay) == (600, 96, 0.025, 3e-4)
    assert (published.auxiliary_weight, published.drop_path, published.gradient_clip, published.cutout) == (
        0.4, 0.2, 5.0, True,
    )  # fmt: skip
    digits = recipes.load("darts", "digits")
    assert digits.auxiliary_weight == 0
    assert (digits.momentum, digits.weight_decay, digits.gradient_clip) == (0.9, 3e-4, 5.0)
    with pytest.raises(UnknownName, match="'standard'"):
        recipes.load("standrd", "digits")
    with pytest.raises(UnknownName, match="'weight_decay'"):
        recipes.load("darts", "digits", {"weight_decai": 1})
    with pytest.raises(InvalidSpec, match="positive"):
        recipes.load("darts", "digits", {"epochs": 0})


def test_augmentation_shifts_blanks_and_respects_the_dataset() -> None:
    recipe = recipes.load("darts", "digits")
    images = torch.rand(64, 1, 8, 8) + 0.5
    one = augment(images, recipe, Augmentation(1, False, 4), torch.Generator().manual_seed(0))
    assert torch.equal(one, augment(images, recipe, Augmentation(1, False, 4), torch.Generator().manual_seed(0)))
    assert one.shape == images.shape
    nothing = augment(images, recipe, Augmentation(0, False, 0), torch.Generator())
    assert torch.equal(nothing, images)
    shifted = augment(images, recipe, Augmentation(1, False, 0), torch.Generator().manual_seed(0))
    inside = sum(
        bool(torch.equal(s[0, 1:7, 1:7], i[0, 1 + dy : 7 + dy, 1 + dx : 7 + dx]))
        for s, i in zip(shifted, images, strict=True)
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    )
    assert inside == 64, "every crop is the image moved by at most one pixel"
    blanked = augment(images, recipe, Augmentation(0, False, 4), torch.Generator().manual_seed(0))
    holes = (blanked == 0).flatten(1).sum(1)
    assert holes.min() >= 4
    assert holes.max() == 16
    mirrored = augment(images, recipe, Augmentation(0, True, 0), torch.Generator().manual_seed(0))
    flipped = sum(bool(torch.equal(m, i.flip(2))) for m, i in zip(mirrored, images, strict=True))
    assert 15 < flipped < 49
