"""The learning rate over a training, in closed form: any step can be asked for, so a resumed run needs no state."""

from __future__ import annotations

import math

from models.training.recipes.recipe import TAIL_EPOCHS, Recipe


def learning_rate(recipe: Recipe, position: float) -> float:
    """The learning rate after `position` epochs (whole, or with a fraction where the recipe sets it per step).

    - cosine, linear: from `lr` to `lr_min` over what the warm-up leaves (cosine: Loshchilov and Hutter, ICLR 2017;
      linear with a warm-up is the triangle of Smith, WACV 2017)
    - onecycle: a cosine up during the warm-up and a cosine down after it (Smith and Topin, arXiv:1708.07120, in the
      form of torch's `OneCycleLR`)
    - exponential: `lr` x `gamma` to the number of whole epochs; step: x `gamma` at every milestone passed
    - linear-tail: to nearly 0 but for the last five epochs, then with a fifth of the slope (public code of P-DARTS and
      PC-DARTS)

    The warm-up rises linearly from `warmup_start`. Schedules that count epochs from the beginning (exponential, step,
    linear-tail) are multiplied by it; the others begin where it ends.
    """
    lr, low, start, warmup, epochs = recipe.lr, recipe.lr_min, recipe.warmup_start, recipe.warmup, recipe.epochs
    rising = position < warmup
    if recipe.schedule in ("cosine", "linear", "onecycle", "constant"):
        if rising and recipe.schedule == "onecycle":
            return _cosine(start, lr, position / warmup)
        if rising:
            return start + (lr - start) * position / warmup
        if recipe.schedule == "constant":
            return lr
        if recipe.schedule == "linear":
            return lr + (low - lr) * (position - warmup) / (epochs - warmup)
        return low + 0.5 * (lr - low) * (1 + math.cos(math.pi * (position - warmup) / (epochs - warmup)))
    factor = start / lr + (1 - start / lr) * position / warmup if rising else 1.0
    if recipe.schedule == "exponential":
        return factor * lr * recipe.gamma ** int(position)
    if recipe.schedule == "step":
        # A milestone given as a part of the training may miss a whole epoch by a rounding error.
        return factor * lr * recipe.gamma ** sum(position >= m - 1e-9 for m in recipe.milestone_epochs)
    assert recipe.schedule == "linear-tail"
    straight = epochs - TAIL_EPOCHS
    left = epochs - position
    return factor * lr * (left - TAIL_EPOCHS if left > TAIL_EPOCHS else left / TAIL_EPOCHS) / straight


def held_rate(recipe: Recipe, position: float, span: float) -> float:
    """The learning rate of what begins after `position` epochs and lasts `span` of them: a step or an epoch.

    It is that of the beginning. Where that is 0, as at the start of a warm-up from 0, it is that of the middle, so that
    nothing is trained in vain: with one step an epoch that step may be all there is.
    """
    return learning_rate(recipe, position) or learning_rate(recipe, position + span / 2)


def _cosine(begin: float, end: float, part: float) -> float:
    """From `begin` to `end` along half a cosine."""
    return end + 0.5 * (begin - end) * (1 + math.cos(math.pi * part))
