"""Training: repeatable by seed, and the same weights whether or not it was interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.architectures import registry as architectures
from models.classifier import tensors_sha256
from models.datasets import registry as datasets
from models.datasets.registry import Augmentation
from models.errors import InvalidSpec, UnknownName
from models.training import loop, recipes
from models.training.augment import augment
from models.weights.files import network_tensors


def plan(name: str, *, seed: int = 0, **overrides: object) -> loop.TrainingPlan:
    dataset = datasets.find("digits")
    recipe = recipes.load(architectures.find(name.partition("@")[0]).recipe, "digits", overrides)
    spec = architectures.parse_architecture(name, small=True)
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


def test_checkpoint_of_another_plan_is_not_taken_over(tmp_path: Path) -> None:
    one, two = plan("resnet18@width=2", epochs=1), plan("resnet18@width=2", epochs=1, lr=0.01)
    alone = weights(two, tmp_path / "alone.pt")
    weights(one, tmp_path / "shared.pt")
    assert weights(two, tmp_path / "shared.pt") == alone


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"nothing")
    with pytest.raises(loop.TrainingError, match=r"x\.pt cannot be read"):
        weights(plan("resnet18@width=2", epochs=1), tmp_path / "x.pt")


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
