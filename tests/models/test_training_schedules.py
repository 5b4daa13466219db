"""The learning rate against torch's own schedulers and against what the papers' public code does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from models.training import recipes
from models.training.schedules import held_rate, learning_rate

EPOCHS, STEPS = 12, 5


def recipe(**keys: Any) -> recipes.Recipe:
    return recipes.load("standard", None, {"epochs": EPOCHS, "lr": 0.4, **keys})


def ours(found: recipes.Recipe) -> list[float]:
    """The learning rate of every step of the training."""
    return [
        learning_rate(found, epoch + step / STEPS if found.per_step else epoch)
        for epoch in range(found.epochs)
        for step in range(STEPS)
    ]


def theirs(make: Callable[[torch.optim.Optimizer], Any], *, per_step: bool) -> list[float]:
    """What a scheduler of torch sets, stepped after every step or every epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4, momentum=0.9)
    scheduler = make(optimizer)
    found = []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if per_step:
                scheduler.step()
        if not per_step:
            scheduler.step()
    return found


TOTAL = EPOCHS * STEPS


@pytest.mark.parametrize(
    ("keys", "peer"),
    [
        ({}, lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS)),
        (
            {"per_step": True, "lr_min": 0.01},
            lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL, eta_min=0.01),
        ),
        ({"schedule": "constant"}, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        ({"schedule": "exponential", "gamma": 0.97}, lambda o: lr_scheduler.ExponentialLR(o, 0.97)),
        (
            {"schedule": "step", "milestones": [3, 0.75], "gamma": 0.2},
            lambda o: lr_scheduler.MultiStepLR(o, [3, 9], gamma=0.2),
        ),
        (
            {"schedule": "linear", "per_step": True, "lr_min": 0.1},
            lambda o: lr_scheduler.LinearLR(o, 1.0, 0.25, total_iters=TOTAL),
        ),
        (
            {"schedule": "linear", "per_step": True, "warmup_fraction": 0.25},
            lambda o: lr_scheduler.CyclicLR(o, 0.0, 0.4, step_size_up=TOTAL // 4, step_size_down=TOTAL * 3 // 4),
        ),
        (
            {"schedule": "onecycle", "per_step": True, "warmup_epochs": 4, "warmup_start": 0.016, "lr_min": 0.4 / 25e4},
            # torch counts the peak and the end as steps of their own.
            lambda o: lr_scheduler.OneCycleLR(o, 0.4, total_steps=TOTAL + 1, pct_start=21 / (TOTAL + 1)),
        ),
        (
            {"schedule": "exponential", "gamma": 0.5, "warmup_epochs": 4, "warmup_start": 0.1},
            lambda o: lr_scheduler.ChainedScheduler(
                [lr_scheduler.LinearLR(o, 0.25, 1.0, total_iters=4), lr_scheduler.ExponentialLR(o, 0.5)]
            ),
        ),
    ],
)
def test_schedule_is_that_of_torch(keys: dict[str, Any], peer: Callable[[torch.optim.Optimizer], Any]) -> None:
    found = recipe(**keys)
    assert ours(found) == pytest.approx(theirs(peer, per_step=found.per_step), rel=1e-9, abs=1e-12)


def test_exponential_falls_by_whole_epochs_also_when_set_before_every_step() -> None:
    found = recipe(schedule="exponential", gamma=0.97, per_step=True)
    assert ours(found) == ours(recipe(schedule="exponential", gamma=0.97))


def test_linear_tail_is_that_of_the_public_code() -> None:
    """245 equal steps, then five of a fifth; the first five epochs at 1/5, 2/5, ... of it (P-DARTS, PC-DARTS)."""
    found = recipes.load("pc-darts-imagenet", None)
    for epoch in range(250):
        left = 250 - epoch
        expected = 0.5 * (left - 5) / 245 if left > 5 else 0.5 * left / (245 * 5)
        if epoch < 5:
            expected *= (epoch + 1) / 5
        assert learning_rate(found, epoch) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("darts", {0: 0.025, 300: 0.0125, 599: 0.025 * 6.853892e-06}),
        ("darts-imagenet", {0: 0.1, 1: 0.097, 100: 0.1 * 0.97**100}),
        ("huyvnphan", {0: 0.0, 15: 0.005, 30: 0.01, 65: 0.005}),
        ("robnet", {0: 0.02, 10: 0.61, 20: 1.2, 95: 0.6005}),
        ("advrush", {98: 0.1, 99: 0.01, 148: 0.01, 149: 0.001}),
        ("trades", {73: 0.1, 74: 0.01}),
        ("pgd-at", {99: 0.1, 100: 0.01, 150: 0.001}),
        ("imagenet", {29: 0.1, 30: 0.01, 60: 0.001}),
        ("fast-at", {0: 0.0, 3.75: 0.1, 7.5: 0.2, 11.25: 0.1}),
    ],
)
def test_recipes_reach_what_their_sources_say(name: str, points: dict[float, float]) -> None:
    found = recipes.load(name, None)
    assert {at: learning_rate(found, at) for at in points} == pytest.approx(points, rel=1e-6)


@pytest.mark.parametrize("name", recipes.names())
@pytest.mark.parametrize("dataset", [None, "digits"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_no_step_of_any_recipe_has_the_rate_0(name: str, dataset: str | None, steps: int) -> None:
    """Where the schedule is 0 the step gets the rate of its middle; everywhere else that of the schedule."""
    found = recipes.load(name, dataset)
    span = 1 / steps if found.per_step else 1
    places = [epoch + step / steps for epoch in range(found.epochs) for step in range(steps if found.per_step else 1)]
    rates = [held_rate(found, place, span) for place in places]
    assert min(rates) > 0
    assert max(rates) <= found.lr * (1 + 1e-12)
    zero = [place for place in places if learning_rate(found, place) == 0]
    assert zero in ([], [0])
    assert [r for r, place in zip(rates, places, strict=True) if place not in zero] == [
        learning_rate(found, place) for place in places if place not in zero
    ]


def test_a_single_step_in_a_single_epoch_is_not_in_vain() -> None:
    """Up to 0.4 in the first fifth, then down to 0: at half of it five eighths are left."""
    found = recipes.load("fast", None, {"epochs": 1})
    assert held_rate(found, 0, 1) == pytest.approx(0.4 * 5 / 8)
    rising = recipe(schedule="linear", warmup_epochs=4)  # set before every epoch
    assert [held_rate(rising, epoch, 1) for epoch in range(5)] == pytest.approx([0.05, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("name", recipes.names())
@pytest.mark.parametrize("dataset", [None, "digits"])
def test_every_recipe_keeps_its_learning_rate_within_bounds(name: str, dataset: str | None) -> None:
    found = recipes.load(name, dataset)
    rates = ours(found)
    assert max(rates) <= found.lr * (1 + 1e-12)
    assert min(rates) >= 0
    assert rates[-1] < max(rates)
