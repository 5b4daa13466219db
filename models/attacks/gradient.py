"""Attacks that follow the sign of the gradient in an L-inf ball: FGSM, F-FGSM and PGD are one rule with different
settings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.attacks.engine import SlotAttack, Slots
from models.attacks.random import key_of, uniform
from models.specs import AttackSpec


class SignGradient(SlotAttack):
    """x <- clamp(project(x + step_size * sign(gradient of the cross-entropy))).

    Starts at the clean image, or uniformly in the eps ball where `random_start` is set (then clamped to the input's
    range). The projection is to the eps ball in the L-inf norm, the clamp to the input's range, in that order.
    """

    def __init__(self, spec: AttackSpec) -> None:
        super().__init__(spec)
        self._key = key_of(spec.seed, spec.name)

    def start(self, clean: Tensor, indices: Tensor, restarts: Tensor, low: float, high: float) -> Tensor:
        if not self.spec.random_start:
            return clean
        noise = uniform(self._key, indices, restarts, clean.shape[1:])
        return (clean + (2 * noise - 1) * self.spec.eps.value).clamp_(low, high)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    def advance(self, slots: Slots, logits: Tensor, gradient: Tensor) -> None:
        eps = self.spec.eps.value
        stepped = slots.x + self.spec.step_size.value * gradient.sign()
        offset = torch.clamp(stepped - slots.clean, -eps, eps)
        slots.x = (slots.clean + offset).clamp_(slots.low, slots.high)
