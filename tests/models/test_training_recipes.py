"""Recipes as data: what they say, what they refuse, and that each of them trains."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from explorer.cli import recipes as listing
from explorer.render import Format
from models.architectures import registry as architectures
from models.classifier import Classifier, tensors_sha256
from models.datasets import registry as datasets
from models.datasets.registry import Examples
from models.errors import InvalidSpec, UnknownName
from models.training import loop, recipes
from models.training.feeding import feed

FIRST_KEYS = {
    "name", "epochs", "batch_size", "lr", "momentum", "nesterov", "weight_decay", "crop", "mirror", "cutout",
    "label_smoothing", "gradient_clip", "auxiliary_weight", "drop_path",
}  # fmt: skip


def some_digits(n: int) -> Examples:
    digits = datasets.load("digits", "train")
    return Examples("digits", "train", digits.images[:n], digits.labels[:n], 10, "0" * 64)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("standard", {"epochs": 200, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4, "nesterov": True}),
        ("kuangliu", {"epochs": 200, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4, "nesterov": False}),
        ("huyvnphan", {"epochs": 100, "batch_size": 256, "lr": 0.01, "weight_decay": 0.01, "warmup_fraction": 0.3}),
        ("nasbench201", {"epochs": 200, "batch_size": 256, "lr": 0.1, "weight_decay": 5e-4, "cutout": False}),
        ("darts", {"epochs": 600, "batch_size": 96, "lr": 0.025, "drop_path": 0.2, "auxiliary_weight": 0.4}),
        ("pdarts", {"epochs": 600, "batch_size": 128, "drop_path": 0.3, "weight_decay": 3e-4, "gradient_clip": 5.0}),
        ("pc-darts", {"epochs": 600, "batch_size": 96, "drop_path": 0.3, "auxiliary_weight": 0.4, "cutout": True}),
        ("nsga-macro", {"epochs": 350, "batch_size": 128, "cutout": True, "auxiliary_weight": 0.0}),
        ("darts-imagenet", {"epochs": 250, "batch_size": 128, "gamma": 0.97, "weight_decay": 3e-5, "drop_path": 0.0}),
        ("tiny-imagenet", {"batch_size": 128, "lr": 0.1, "label_smoothing": 0.1, "auxiliary_weight": 0.4}),
        ("pdarts-imagenet", {"batch_size": 1024, "lr": 0.5, "schedule": "linear-tail"}),
        ("densenas", {"epochs": 240, "batch_size": 1024, "lr": 0.5, "weight_decay": 4e-5, "label_smoothing": 0.1}),
        (
            "robnet",
            {"batch_size": 1536, "lr": 1.2, "weight_decay": 1e-4, "no_weight_decay": True, "adversary_steps": 7},
        ),
        ("advrush", {"batch_size": 64, "adversary_eps": "0.031", "adversary_step_size": "0.01", "adversary_steps": 7}),
        ("pgd-at", {"adversary": "pgd", "adversary_eps": "8/255", "adversary_step_size": "2/255"}),
        ("trades", {"adversary_eps": "0.031", "adversary_step_size": "0.007", "adversary_beta": 6.0, "epochs": 76}),
        ("fast-at", {"adversary": "fgsm", "adversary_step_size": "1.25 eps", "epochs": 15, "lr": 0.2}),
    ],
)
def test_recipes_say_what_their_sources_say(name: str, published: dict[str, Any]) -> None:
    found = recipes.load(name, None)
    assert {key: getattr(found, key) for key in published} == published


def test_first_recipes_keep_the_identity_of_what_was_trained_with_them() -> None:
    """Keys that came later are not part of a recipe's data as long as they say "nothing of the kind"."""
    for name in ("standard", "darts"):
        found = recipes.load(name, "digits")
        assert set(found.to_dict()) == FIRST_KEYS
        assert recipes.load(name, "digits", {"schedule": "cosine", "ema_decay": 0}).to_dict() == found.to_dict()
        changed = recipes.load(name, "digits", {"ema_decay": 0.9, "milestones": [1, 2]}).to_dict()
        assert changed == {**found.to_dict(), "ema_decay": 0.9, "milestones": [1.0, 2.0]}
        assert json.loads(json.dumps(changed)) == changed


def test_a_dataset_seen_at_another_size_keeps_its_settings() -> None:
    assert recipes.load("standard", "digits@size=16") == recipes.load("standard", "digits")
    assert recipes.load("standard", "digits").epochs != recipes.load("standard", None).epochs


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("standard", {"weight_decai": 1}, "Did you mean 'weight_decay'"),
        ("standard", {"speed": 1}, "nasrob-tui recipes standard"),
        ("standard", {"epochs": 1.5}, "whole number"),
        ("standard", {"epochs": True}, "no number"),
        ("standard", {"lr": "fast"}, "lr: 'fast' is no number"),
        ("standard", {"lr": float("nan")}, "no number"),
        ("standard", {"momentum": 1}, "below 1"),
        ("standard", {"weight_decay": -1}, "negative"),
        ("standard", {"cutout": 1}, "true or false"),
        ("standard", {"schedule": "cosin"}, "Did you mean 'cosine'"),
        ("standard", {"precision": "half"}, "float32, bfloat16, float16"),
        ("standard", {"optimizer": "adamw"}, "nesterov=false"),
        ("standard", {"momentum": 0}, "nesterov"),
        ("standard", {"schedule": "step"}, "milestones"),
        ("standard", {"schedule": "step", "milestones": [0.5, 0.2]}, "rise"),
        ("standard", {"schedule": "step", "milestones": [100]}, "within the 30 epochs"),
        ("standard", {"milestones": 3}, "list of numbers"),
        ("standard", {"schedule": "linear-tail", "epochs": 5}, "more than 5"),
        ("standard", {"warmup_epochs": 30}, "leaves nothing of 30"),
        ("standard", {"warmup_epochs": 1, "warmup_fraction": 0.1}, "one of them"),
        ("standard", {"warmup_start": 1}, "above lr"),
        ("standard", {"lr_min": 1}, "above lr"),
        ("standard", {"color_jitter": [0.4]}, "4 numbers"),
        ("standard", {"color_jitter": [0, 0, 0, 0.6]}, "hue"),
        ("pgd-at", {"adversary_eps": 8}, "8/255"),
        ("pgd-at", {"adversary_eps": 0}, "adversary=none"),
        ("pgd-at", {"adversary_step_size": "0 eps"}, "positive"),
        ("pgd-at", {"adversary": "fgsm"}, "adversary_steps=1"),
        ("pgd-at", {"adversary": "pdg"}, "'pgd'"),
    ],
)
def test_bad_keys_and_values_get_one_sentence(name: str, overrides: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        recipes.load(name, "digits", overrides)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_distances_are_read_as_people_write_them() -> None:
    for text, value in (("4/255", 4 / 255), (0.1, 0.1), ("0.1", 0.1)):
        found = recipes.load("pgd-at", "digits", {"adversary_eps": text, "adversary_step_size": "0.25 eps"})
        assert found.eps == pytest.approx(value)
        assert found.step_size == pytest.approx(value / 4)
    assert recipes.load("pgd-at", None).step_size == 2 / 255
    assert recipes.load("fast-at", None).step_size == pytest.approx(10 / 255)


def test_unknown_recipe_is_named_and_names_are_forgiving() -> None:
    assert recipes.find("PC_DARTS").name == "pc-darts"
    with pytest.raises(UnknownName, match="'trades'"):
        recipes.find("tradess")


def test_every_architecture_names_a_recipe_that_there_is() -> None:
    assert {entry.recipe for entry in architectures.entries().values()} <= set(recipes.names())


@pytest.mark.parametrize("dataset", [None, "digits"])
@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_trains(name: str, dataset: str | None) -> None:
    """Two steps on sixteen digits, as published and as for digits; the auxiliary head has no place on 8x8 images."""
    torch.set_num_threads(1)
    recipe = recipes.load(name, dataset, {"batch_size": 8, "auxiliary_weight": 0})
    digits = datasets.find("digits")
    spec = architectures.parse_architecture(
        "darts@init_channels=2,layers=3" if recipe.drop_path else "resnet18@width=2"
    )
    torch.manual_seed(0)
    network = architectures.build(spec, num_classes=10, in_channels=1)
    trainee = loop.Trainee(Classifier(network, digits.preprocessing, 10), recipe)
    before = {key: value.clone() for key, value in network.named_parameters()}
    examples = some_digits(16)
    epoch = recipe.epochs // 2
    loss, accuracy, _ = trainee.epoch(epoch, feed(examples, torch.device("cpu")), examples.labels, digits, seed=0)
    assert 0 < loss < 100
    assert 0 <= accuracy <= 100
    assert trainee.optimizer.param_groups[0]["lr"] > 0
    moved = [key for key, value in network.named_parameters() if not torch.equal(value, before[key])]
    # The very last layers of an edge may see a gradient of zero; most weights must move.
    assert len(moved) > 0.8 * len(before)
    assert not trainee.finished().training
    assert tensors_sha256(dict(network.named_parameters())) != tensors_sha256(before)


def test_listing_shows_every_recipe_and_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    listing.command(name=None, dataset=None, format=Format.json)
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == recipes.names()
    assert all(row["description"] and row["source"] for row in rows)
    listing.command(name="trades", dataset="digits", format=Format.json)
    keys = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(keys) == {field.name for field in recipes.settings()}
    assert (keys["epochs"]["value"], keys["epochs"]["published"]) == (30, 76)
    assert all(row["meaning"] for row in keys.values())
    listing.command(name="imagenet", dataset=None, format=Format.table)
    table = capsys.readouterr().out
    assert "milestones" in table
    assert "[30, 60]" in table
    with pytest.raises(UnknownName):
        listing.command(name="imagnet", dataset=None, format=Format.table)
