"""Attacks that look for the smallest perturbation: DeepFool, and the attack of Carlini and Wagner."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.attacks import norms
from models.attacks.boundary import DUAL, nearest_boundary
from models.attacks.slots import STEP, Forward, Gradient, SlotAttack, Slots
from models.specs import AttackSpec


def _skip_to(slots: Slots, rows: Tensor, step: Tensor | int) -> None:
    """Make `step` the present step of some rows (bool (n,)): what lies between is not done."""
    slots.numbers[:, STEP] = torch.where(rows, step, slots.steps)


class DeepFool(SlotAttack):
    """Moosavi-Dezfooli, Fawzi and Frossard, CVPR 2016 (arXiv:1511.04599), in L2 and in L-inf.

    A step goes to the nearest boundary of the linearised classifier, towards one of the `candidates` most likely
    classes of the clean image (the label among them). The steps add up, without a box; the iterate is the clean image
    plus 1 + `overshoot` times their sum, clamped. A run ends with the first iterate that fools the model: it stays
    where it is.
    """

    inside = False
    #: Added to every distance, in units of the threat space: without it steps shrink to nothing before the boundary.
    _STABILITY = 1e-4

    def __init__(self, spec: AttackSpec) -> None:
        super().__init__(spec)
        self._candidates = int(spec.number("candidates"))
        self._overshoot = spec.number("overshoot")
        self._rivals = 1

    def prepare(self, classes: int) -> int:
        self._rivals = max(min(self._candidates, classes) - 1, 1)
        return self.runs

    def start(self, slots: Slots) -> Tensor:
        return slots.clean.clamp(slots.low, slots.high)

    def reset(self, slots: Slots, rows: Tensor) -> None:
        slots.remember("sum of steps", slots.x)[rows] = 0

    def loss(self, logits: Tensor, slots: Slots) -> Tensor:
        """How far the nearest rival of the label is ahead of it, by logit."""
        return _ahead(logits, slots.labels)

    def evaluate(self, forward: Forward, slots: Slots) -> Gradient:
        def rivals(logits: Tensor) -> Tensor:
            wrong = logits.scatter(1, slots.labels[:, None], -math.inf)
            count = min(self._candidates, logits.shape[1]) - 1
            likely = wrong.sort(dim=1, descending=True, stable=True).indices[:, :count]
            begins = slots.steps[:, None] == 0
            slots.memory["rivals"] = torch.where(begins, likely, slots.remember("rivals", likely))
            return slots.memory["rivals"]

        found = nearest_boundary(forward, slots.x, slots.labels, rivals, self.spec.norm)
        return Gradient(found.logits, found.value, found.normal)

    def passes(self) -> tuple[int, int]:
        return 1, self._rivals

    def advance(self, slots: Slots, found: Gradient) -> None:
        gradient, norm = found.gradient, self.spec.norm
        assert gradient is not None
        distance = found.loss.abs() / (norms.length(gradient, DUAL[norm]) + norms.TINY) + self._STABILITY
        step = norms.direction(gradient, norm) * norms.rows(distance, gradient)
        total = slots.memory["sum of steps"] = slots.memory["sum of steps"] + step
        moved = (slots.clean + (1 + self._overshoot) * total).clamp(slots.low, slots.high)
        fooled = found.logits.argmax(1) != slots.labels
        slots.x = torch.where(norms.rows(fooled, moved), slots.x, moved)
        _skip_to(slots, fooled, self.steps - 1)


class CarliniWagner(SlotAttack):
    """Carlini and Wagner, IEEE S&P 2017 (arXiv:1608.04644), the attack in L2.

    Adam lowers |x - clean|^2 + c * max(z_label - max other + `confidence`, 0) over w, where x = (tanh(w) + 1) / 2 is
    always inside the box. Each of `binary_search_steps` searches takes `steps` steps from the clean image with its own
    c, an example at a time: the first is `initial_const`, ten times as much follows until something was found, then the
    middle between what was enough and what was not. With one search c is fixed. The `confidence` shapes the search
    only: what counts in the end is whether the model is fooled.

    With `abort_early` a search ends when, in a tenth of its steps, the lowest loss of the example has not fallen by a
    ten-thousandth. The authors compare the present losses of a batch, and end searches that have found nothing, too;
    Adam's first large steps, or a start on the surface of the box, where tanh is flat, would then end most of them.

    Steps are counted through all searches, so that a run has `binary_search_steps` * `steps` of them.
    """

    inside = False
    _DECAY_1, _DECAY_2, _EPSILON = 0.9, 0.999, 1e-8
    #: Images are shrunk by this factor around the middle of the box, because w is infinite on its surface.
    _INTERIOR = 0.999999
    #: No c is larger; from so many searches on the last one repeats the smallest c that was enough, or takes this one.
    _LARGEST, _REPEAT_FROM = 1e10, 10

    def __init__(self, spec: AttackSpec) -> None:
        super().__init__(spec)
        self._rate, self._confidence, self._first = (
            spec.number(name) for name in ("learning_rate", "confidence", "initial_const")
        )
        self._searches = int(spec.number("binary_search_steps"))
        self._abort_early = bool(spec.setting("abort_early"))

    @property
    def steps(self) -> int:
        return self._searches * self.spec.steps

    def start(self, slots: Slots) -> Tensor:
        return self._image(self._origin(slots), slots)

    def reset(self, slots: Slots, rows: Tensor) -> None:
        for name in ("change", "mean", "square"):
            slots.remember(name, slots.x)[rows] = 0
        slots.remember("c", slots.best)[rows] = self._first
        slots.remember("too small", slots.best)[rows] = 0
        for name in ("enough", "lowest loss", "at last look"):
            slots.remember(name, slots.best)[rows] = math.inf
        slots.remember("found", slots.best > 0)[rows] = False

    def loss(self, logits: Tensor, slots: Slots) -> Tensor:
        """How far the nearest rival of the label is ahead of it, by logit: the part that needs a gradient of the model.

        The hinge and the distance are differentiated by hand in `advance`.
        """
        return _ahead(logits, slots.labels)

    def advance(self, slots: Slots, found: Gradient) -> None:
        gradient, memory = found.gradient, slots.memory
        assert gradient is not None
        inner = slots.steps % self.spec.steps
        search = slots.steps // self.spec.steps

        origin = self._origin(slots)
        half = (slots.high - slots.low) / 2
        now = torch.tanh(origin + memory["change"])
        # Exactly zero at the start, on any machine: Adam would make a whole step of a rounding error.
        offset = half * (now - torch.tanh(origin))
        short = self._confidence - found.loss
        loss = memory["c"] * short.clamp_min(0) + offset.square().flatten(1).sum(1)
        by_x = 2 * offset - norms.rows(memory["c"] * (short > 0), offset) * gradient
        by_w = by_x * half * (1 - now.square())
        memory["mean"] = self._DECAY_1 * memory["mean"] + (1 - self._DECAY_1) * by_w
        memory["square"] = self._DECAY_2 * memory["square"] + (1 - self._DECAY_2) * by_w.square()
        mean, square = (
            memory[name] / norms.rows(1 - torch.pow(decay, (inner + 1).to(by_w.dtype)), by_w)
            for name, decay in (("mean", self._DECAY_1), ("square", self._DECAY_2))
        )
        memory["change"] = memory["change"] - self._rate * mean / (square.sqrt() + self._EPSILON)

        raised = found.logits.scatter_add(
            1, slots.labels[:, None], torch.full_like(found.loss, self._confidence)[:, None]
        )
        memory["found"] = memory["found"] | (raised.argmax(1) != slots.labels)
        memory["lowest loss"] = torch.minimum(memory["lowest loss"], loss)
        over = inner == self.spec.steps - 1
        if self._abort_early:
            looks = inner % -(-self.spec.steps // 10) == 0
            stands = memory["lowest loss"] > 0.9999 * memory["at last look"]
            over = over | (looks & stands & memory["found"])
            memory["at last look"] = torch.where(looks, memory["lowest loss"], memory["at last look"])
        self._next_search(slots, over, search)
        _skip_to(slots, over, (search + 1) * self.spec.steps - 1)
        slots.x = self._image(origin + memory["change"], slots)

    def _next_search(self, slots: Slots, over: Tensor, search: Tensor) -> None:
        """Where a search is over, choose the next c and begin anew at the clean image, after the last search excepted:
        its last iterate is still judged.
        """
        memory, c, found = slots.memory, slots.memory["c"], slots.memory["found"]
        enough = memory["enough"] = torch.where(over & found, c, memory["enough"])
        too_small = memory["too small"] = torch.where(over & ~found, c, memory["too small"])
        following = torch.where(enough.isinf(), 10 * c, (too_small + enough) / 2)
        if self._searches >= self._REPEAT_FROM:
            following = torch.where(search + 2 == self._searches, enough, following)
        memory["c"] = torch.where(over, following.clamp_max(self._LARGEST), c)
        for name in ("lowest loss", "at last look"):
            memory[name] = torch.where(over, math.inf, memory[name])
        memory["found"] = found & ~over
        anew = over & (search + 1 < self._searches)
        for name in ("change", "mean", "square"):
            memory[name] = torch.where(norms.rows(anew, memory[name]), 0.0, memory[name])

    def _origin(self, slots: Slots) -> Tensor:
        """The clean images in the space of w."""
        half = (slots.high - slots.low) / 2
        unit = ((slots.clean - slots.low) / half - 1).clamp(-1, 1)
        return torch.atanh(self._INTERIOR * unit)

    def _image(self, w: Tensor, slots: Slots) -> Tensor:
        half = (slots.high - slots.low) / 2
        return (slots.low + half * (torch.tanh(w) + 1)).clamp(slots.low, slots.high)


def _ahead(logits: Tensor, labels: Tensor) -> Tensor:
    """max over the other classes - z_label (n,); of equal logits the gradient is that of the first."""
    others = logits.scatter(1, labels[:, None], -math.inf)
    best = others.argmax(1, keepdim=True)
    return (others.gather(1, best) - logits.gather(1, labels[:, None])).squeeze(1)
