"""FAB, the fast adaptive boundary attack: small steps along the decision boundary, ever closer to the clean image."""

from __future__ import annotations

import torch
from torch import Tensor

from models.attacks import norms
from models.attacks.boundary import nearest_boundary, to_hyperplane
from models.attacks.random import key_of, normal, uniform
from models.attacks.slots import Forward, Gradient, SlotAttack, Slots, Work
from models.specs import AttackSpec


class Fab(SlotAttack):
    """Croce and Hein, ICML 2020 (arXiv:1907.02044), algorithm 1, as AutoAttack runs it.

    A step linearises the classifier at the iterate, projects iterate and clean image onto the nearest hyperplane inside
    the box, goes `eta` times as far, and mixes the two by their lengths, the clean image's share being at most
    `alpha_max`. An iterate that fools the model is first drawn back to clean + `beta` * (iterate - clean); that is part
    of the same step. So a step takes two forward passes (is the iterate adversarial; logits where the gradient is
    taken) and a backward pass for every class that is looked at: with the setting `targets` only the present target,
    one of the most likely classes of the clean image; without it all classes but the label, which is slow for many.

    The first restart begins at the clean image, later ones at a random point at half of eps.
    """

    inside = False

    def __init__(self, spec: AttackSpec) -> None:
        super().__init__(spec)
        self._alpha_max, self._eta, self._beta = (spec.number(name) for name in ("alpha_max", "eta", "beta"))
        self._targets = int(dict(spec.settings).get("targets", 0))
        self.targeted = self._targets > 0
        self._key = key_of(spec.seed, spec.name)
        self._rivals = 1

    @property
    def runs(self) -> int:
        return self.spec.restarts * max(self._targets, 1)

    def prepare(self, classes: int) -> int:
        self._rivals = 1 if self.targeted else max(classes - 1, 1)
        return self.spec.restarts * max(min(self._targets, classes - 1), 1)

    def target_of(self, work: Work) -> int:
        others = [k for k in work.top if k != work.label]
        return others[work.run // self.spec.restarts] if self.targeted else work.label

    def start(self, slots: Slots) -> Tensor:
        clean = _anchor(slots)
        if self.spec.restarts == 1:
            return clean
        shape, norm = tuple(clean.shape[1:]), self.spec.norm
        if norm == "Linf":
            noise = 2 * uniform(self._key, slots.indices, slots.runs, shape) - 1
        else:
            noise = normal(self._key, slots.indices, slots.runs, shape)
        noise = noise / norms.rows(norms.length(noise, norm).clamp_min(norms.TINY), noise)
        noisy = (clean + self.spec.eps.value / 2 * noise).clamp(slots.low, slots.high)
        return torch.where(norms.rows(slots.runs % self.spec.restarts == 0, clean), clean, noisy)

    def loss(self, logits: Tensor, slots: Slots) -> Tensor:
        """How far the nearest rival of the label is ahead of it, by logit; the target where there is one."""
        own = logits.gather(1, slots.labels[:, None])
        return (logits.gather(1, self._classes(logits, slots)) - own).amax(1)

    def _classes(self, logits: Tensor, slots: Slots) -> Tensor:
        """The classes (n, k) to whose boundary a step may go."""
        if self.targeted:
            return slots.targets[:, None]
        further = torch.arange(1, logits.shape[1], device=logits.device)
        return (slots.labels[:, None] + further) % logits.shape[1]

    def evaluate(self, forward: Forward, slots: Slots) -> Gradient:
        with torch.no_grad():
            logits = forward(slots.x)
        fooled = (logits.argmax(1) != slots.labels) & (slots.steps > 0)
        anchor = _anchor(slots)
        back = anchor + self._beta * (slots.x - anchor)
        at = torch.where(norms.rows(fooled, back), back, slots.x)
        found = nearest_boundary(forward, at, slots.labels, lambda z: self._classes(z, slots), self.spec.norm)
        slots.memory["drawn back"] = at
        return Gradient(logits, found.value, found.normal)

    def passes(self) -> tuple[int, int]:
        return 2, self._rivals

    def advance(self, slots: Slots, found: Gradient) -> None:
        gradient, value, norm = found.gradient, found.loss, self.spec.norm
        assert gradient is not None
        x, anchor = slots.memory["drawn back"], _anchor(slots)
        at_anchor = value + (gradient * (anchor - x)).flatten(1).sum(1)
        from_x = to_hyperplane(x, gradient, value, norm, low=slots.low, high=slots.high)
        from_anchor = to_hyperplane(anchor, gradient, at_anchor, norm, low=slots.low, high=slots.high)
        # The floors decide when both points lie on the hyperplane, as in the authors' code.
        near, far = (norms.length(offset, norm).clamp_min(1e-8) for offset in (from_x, from_anchor))
        share = norms.rows((near / (near + far)).clamp_max(self._alpha_max), x)
        mixed = (x + self._eta * from_x) * (1 - share) + (anchor + self._eta * from_anchor) * share
        slots.x = mixed.clamp(slots.low, slots.high)


def _anchor(slots: Slots) -> Tensor:
    """The clean images, inside the box: in the threat space `normalized-clamped` they may lie outside."""
    return slots.clean.clamp(slots.low, slots.high)
