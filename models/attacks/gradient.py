"""Attacks that follow the gradient with a step size of their own in an eps ball: FGSM, R-FGSM, F-FGSM, Step-LL,
Iter-LL, BIM, PGD and MI-FGSM are one rule with different settings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.attacks import norms
from models.attacks.random import key_of, normal
from models.attacks.slots import Gradient, SlotAttack, Slots, Work
from models.specs import AttackSpec


class Descent(SlotAttack):
    """x <- clamp(clean + project(x + step_size * direction(gradient) - clean)).

    The direction is the sign of the gradient for L-inf, the gradient over its length otherwise; the projection is to
    the eps ball in the norm, the clamp to the input's range, in that order.

    Settings: `start` is `uniform` (in the eps ball, then clamped) or `sign` (R-FGSM: the sign of a Gaussian times
    eps - step_size, as published with step_size = eps / 2). With `momentum` the direction is that of a sum: the
    gradient over its mean absolute value, plus `momentum` times the sum before (MI-FGSM). `target` `least-likely`
    lowers the cross-entropy of the least likely class of the clean image instead of raising that of the label.
    """

    def __init__(self, spec: AttackSpec) -> None:
        super().__init__(spec)
        assert spec.step_size is not None
        self._step = spec.step_size.value
        self._key = key_of(spec.seed, spec.name)
        own = dict(spec.settings)
        self.targeted = own.get("target", "none") == "least-likely"
        self._momentum = float(own["momentum"]) if "momentum" in own else None
        self._start = own.get("start", "uniform") if spec.random_start else "clean"
        # A sum over all pixels rounds by more than the ball's tolerance, so an iterate in L1 counts where it is inside.
        self.inside = spec.norm != "L1"

    def target_of(self, work: Work) -> int:
        return work.least if self.targeted else work.label

    def start(self, slots: Slots) -> Tensor:
        clean, eps = slots.clean, self.spec.eps.value
        if self._start == "clean":
            return clean
        shape = tuple(clean.shape[1:])
        if self._start == "sign":
            noise = normal(self._key, slots.indices, slots.runs, shape).sign() * max(0.0, eps - self._step)
        else:
            noise = norms.random_offset(self._key, slots.indices, slots.runs, shape, eps, self.spec.norm)
        return (clean + noise).clamp_(slots.low, slots.high)

    def reset(self, slots: Slots, rows: Tensor) -> None:
        if self._momentum is not None:
            slots.remember("momentum", slots.x)[rows] = 0

    def loss(self, logits: Tensor, slots: Slots) -> Tensor:
        loss = nn.functional.cross_entropy(logits, slots.targets, reduction="none")
        return -loss if self.targeted else loss

    def advance(self, slots: Slots, found: Gradient) -> None:
        gradient = found.gradient
        assert gradient is not None
        if self._momentum is not None:
            scale = gradient.abs().flatten(1).mean(1).clamp_min(norms.TINY)
            gradient = gradient / norms.rows(scale, gradient) + self._momentum * slots.memory["momentum"]
            slots.memory["momentum"] = gradient
        stepped = slots.x + self._step * norms.direction(gradient, self.spec.norm)
        offset = norms.project(stepped - slots.clean, self.spec.eps.value, self.spec.norm)
        slots.x = (slots.clean + offset).clamp_(slots.low, slots.high)


class Noise(SlotAttack):
    """Random noise as a baseline: every step another draw from the eps ball, no gradient.

    The setting `distribution` is `uniform` in the ball, or `gaussian`: standard deviation eps / 2 a pixel for L-inf, a
    Gaussian direction of length eps otherwise; projected to the ball and clamped to the input's range. The start is a
    draw too.
    """

    gradient = False

    def __init__(self, spec: AttackSpec) -> None:
        super().__init__(spec)
        self._key = key_of(spec.seed, spec.name)
        self._gaussian = spec.setting("distribution") == "gaussian"

    def _draw(self, slots: Slots, which: Tensor) -> Tensor:
        shape, eps, norm = tuple(slots.clean.shape[1:]), self.spec.eps.value, self.spec.norm
        if not self._gaussian:
            offset = norms.random_offset(self._key, slots.indices, which, shape, eps, norm)
        elif norm == "Linf":
            offset = normal(self._key, slots.indices, which, shape).mul_(eps / 2)
        else:
            offset = norms.direction(normal(self._key, slots.indices, which, shape), norm) * eps
        return (slots.clean + norms.project(offset, eps, norm)).clamp_(slots.low, slots.high)

    def start(self, slots: Slots) -> Tensor:
        return self._draw(slots, slots.runs * (self.spec.steps + 1))

    def loss(self, logits: Tensor, slots: Slots) -> Tensor:
        return torch.zeros(len(logits), device=logits.device)

    def advance(self, slots: Slots, found: Gradient) -> None:
        slots.x = self._draw(slots, slots.runs * (self.spec.steps + 1) + slots.steps + 1)
