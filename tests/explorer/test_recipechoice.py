"""The choice of the recipe that the shipped studies use: what judges it, and who goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from explorer.recipechoice import CHOICES, Choice, held_out, ranked, read, to_train
from explorer.studies import definition, expansion
from explorer.training import Order
from models.architectures import registry
from models.datasets.examples import Examples

CHOICE = Choice({"slow": ("standard", {}), "quick": ("fast", {}), "wild": ("fast", {"lr": 9.0})}, ("hard",), ("easy",))


def test_held_out_images_are_of_the_training_images_and_not_learnt_from() -> None:
    images = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1) / 10
    whole = Examples("digits", "train", images, np.arange(10) % 5, 5)
    learn, judge = held_out(whole)
    assert (len(learn), len(judge)) == (8, 2)
    seen = np.concatenate([learn.images.ravel(), judge.images.ravel()])
    assert sorted(seen.tolist()) == sorted(images.ravel().tolist())
    assert np.concatenate([learn.labels, judge.labels]).tolist() == whole.labels[whole.order].tolist()
    assert learn.fingerprint != judge.fingerprint


def test_the_recipe_whose_worst_network_is_best_comes_first() -> None:
    known = {("slow", "a"): 99.0, ("slow", "b"): 60.0, ("quick", "a"): 80.0, ("quick", "b"): 70.0, ("wild", "a"): 9.0}
    assert ranked(known) == [("quick", 70.0, 75.0, 2), ("slow", 60.0, 79.5, 2), ("wild", 9.0, 9.0, 1)]
    assert [name for name, *_ in ranked({("a", "x"): 50.0, ("b", "x"): 50.0, ("b", "y"): 70.0})] == ["b", "a"]


def test_hard_networks_first_and_then_the_others_of_whoever_leads() -> None:
    known: dict[tuple[str, str], float] = {("slow", "hard"): 50.0}
    assert to_train(CHOICE, known) == [("quick", "hard"), ("wild", "hard")]
    known |= {("quick", "hard"): 70.0, ("wild", "hard"): 9.0}
    assert to_train(CHOICE, known) == [("quick", "easy")]
    known["quick", "easy"] = 40.0
    assert to_train(CHOICE, known) == [("slow", "easy")]
    known["slow", "easy"] = 41.0
    assert to_train(CHOICE, known) == []
    assert ranked(known)[0][0] == "slow"


@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
def test_shipped_studies_use_the_one_recipe_that_was_chosen(name: str) -> None:
    ((dataset, choice),) = ((dataset, choice) for dataset, choice in CHOICES.items() if dataset.startswith(name))
    known = read(Path(__file__).parents[2] / "docs" / "choices" / f"{name}.csv")
    assert to_train(choice, known) == []
    recipe, keys = choice.recipes[ranked(known)[0][0]]
    order = Order(registry.parse_architecture("darts", scale="small"), dataset, recipe=recipe, overrides=keys)
    used = set()
    for study in ("cells", "ensemble", "parameters"):
        for model in expansion.expand(definition.find(f"{name}-{study}")).models:
            assert model.order is not None
            used |= {str(order.resolved().to_dict()) for order in model.order.parts or (model.order,)}
    assert used == {str(order.resolved().to_dict())}
