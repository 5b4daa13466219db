"""What an evaluation will cost, told before it starts: passes, and time measured on one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.attacks import libraries, registry
from models.evaluation import Evaluator
from models.specs import AttackSpec


@dataclass(frozen=True)
class Estimate:
    """Passes of all examples together, and seconds. `most` is reached if every example that is correct survives;
    `expected` supposes that those survive which survive a single step.
    """

    examples: int
    forwards_most: int
    backwards_most: int
    seconds_most: float
    forwards_expected: int
    backwards_expected: int
    seconds_expected: float


def cost(attack: AttackSpec, classes: int) -> tuple[int, int]:
    """Forward and backward passes for an example that survives everything, its clean prediction included."""
    if libraries.is_foreign(attack.name):
        # A library does not say what it spends: a gradient a step is the best guess.
        steps = attack.steps * attack.restarts
        return steps + 2, steps
    forwards, backwards = 1, 0
    for stage in attack.stages or (attack,):
        kernel = registry.kernel(stage)
        runs = kernel.prepare(classes)
        each = kernel.passes()
        forwards += runs * (kernel.steps * (each[0] + (attack.surrogate is not None)) + 1)
        backwards += runs * kernel.steps * each[1]
    return forwards, backwards


def estimate(evaluator: Evaluator, attack: AttackSpec, indices: Sequence[int]) -> Estimate:
    """Look at one batch: how long the passes take, how many examples are correct, how many survive one step."""
    classes = evaluator.examples.n_classes
    batch = [int(i) for i in indices[: evaluator.slots]]
    forward, both = _seconds(evaluator, batch)
    correct = survive = 0
    if batch:
        one_step = registry.resolve("fgsm", eps=attack.eps.text, norm=attack.norm)
        if attack.threat_space != one_step.threat_space:
            one_step = replace(one_step, threat_space=attack.threat_space)
        for outcomes in evaluator.run(one_step, batch):
            correct += sum(o.clean_correct for o in outcomes)
            survive += sum(bool(o.robust) for o in outcomes)
    n = len(indices)
    forwards, backwards = cost(attack, classes)

    def all_(share: float) -> tuple[int, int, float]:
        f = round(n * (1 + share * (forwards - 1)))
        b = round(n * share * backwards)
        return f, b, b * both + (f - b) * forward

    most = all_(correct / max(len(batch), 1))
    # An example that breaks at the first step costs a pass of each kind.
    expected = all_(survive / max(len(batch), 1))
    return Estimate(n, *most, *expected)


def _seconds(evaluator: Evaluator, batch: list[int]) -> tuple[float, float]:
    """Seconds for a forward pass, and for one with its backward pass, of one example in a full batch."""
    if not batch:
        return 0.0, 0.0
    x = torch.from_numpy(evaluator.examples.pixels(batch)).to(evaluator.device)

    def forward() -> Tensor:
        with torch.no_grad():
            logits: Tensor = evaluator.classifier(x)
            return logits

    def both() -> Tensor:
        y = x.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(evaluator.classifier(y).logsumexp(1).sum(), y)
            return gradient

    from models.classifier import frozen

    with frozen(evaluator.classifier):
        return _timed(forward) / len(batch), _timed(both) / len(batch)


def _timed(work: Callable[[], Tensor]) -> float:
    """Seconds, the better of two after one to warm up; waits for the device."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        float(work().flatten()[0])
        took.append(time.perf_counter() - began)
    return min(took[1:])
