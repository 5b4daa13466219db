"""Auto-PGD: gradient steps whose size follows the loss, from a random start on the border of the eps ball.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML
2020 (arXiv:2003.01690), for L-inf and L2; the same authors' "Mind the box", ICML 2021 (arXiv:2103.01208), for L1. Where
the papers leave room, the choice is that of the authors' code, AutoAttack.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.attacks import norms
from models.attacks.norms import TINY
from models.attacks.random import key_of, normal, uniform
from models.attacks.slots import Gradient, SlotAttack, Slots, Work
from models.specs import AttackSpec

#: Share of the steps before the first check, by which the windows between checks get shorter, and of the shortest one.
FIRST_WINDOW, SHORTER_BY, SHORTEST_WINDOW = 0.22, 0.03, 0.06

#: L1: balls, as multiples of eps, that the first iterates lie in when they begin large, and their shares of the steps.
LARGE_BALLS, LARGE_SHARE = (3.0, 2.0), 0.3
#: L1: share of the steps between checks, share of the coordinates that the first step moves, what the number of
#: perturbed coordinates is divided by for the next ones, what a step size is divided by and how often at most in all.
SPARSE_WINDOW, FIRST_COORDINATES, SPARSER_BY, STEP_DIVISOR, SMALLEST_STEP = 0.04, 0.2, 1.5, 1.5, 10
#: L1: fewer perturbed coordinates than this share of those at the check before count as progress in sparsity.
SPARSER_BELOW = 0.95

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of the label (n,); `targets` mean nothing."""
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Difference of logits ratio (n,): -(z_y - max other z) / (z_first - z_third); `targets` mean nothing.

    With fewer than three classes there is no third logit: it is the margin, max other z - z_y.
    """
    order = logits.topk(min(3, logits.shape[1]), dim=1)
    first, second = order.values[:, 0], order.values[:, min(1, logits.shape[1] - 1)]
    own = _logit(logits, labels)
    other = torch.where(order.indices[:, 0] == labels, second, first)
    if logits.shape[1] < 3:
        return other - own
    return -(own - other) / (first - order.values[:, 2] + TINY)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Targeted difference of logits ratio (n,): -(z_y - z_t) / (z_first - (z_third + z_fourth) / 2).

    With fewer than four classes there is no fourth logit: it is the margin, z_t - z_y.
    """
    own, wanted = _logit(logits, labels), _logit(logits, targets)
    if logits.shape[1] < 4:
        return wanted - own
    order = logits.topk(4, dim=1).values
    return -(own - wanted) / (order[:, 0] - 0.5 * (order[:, 2] + order[:, 3]) + TINY)


def _logit(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "dlr": dlr, "dlr-targeted": targeted_dlr}


@dataclass(frozen=True)
class Plan:
    """What happens in each turn of a run; every tensor is (turns,), and a row a turn.

    A run is one phase, or several in balls that shrink. A phase evaluates its start and then an iterate a step; its
    last turn moves to the start of the next phase. `eps` is the ball of the turn's iterate, `eps_next` that of the one
    after it.
    """

    first: Tensor
    check: Tensor
    #: Steps since the check before, where there is a check.
    window: Tensor
    leave: Tensor
    eps: Tensor
    eps_next: Tensor

    def at(self, turn: Tensor) -> Plan:
        """The same for rows that are at different turns (n,)."""
        return Plan(*(t[turn] for t in (self.first, self.check, self.window, self.leave, self.eps, self.eps_next)))

    def __len__(self) -> int:
        return len(self.first)


def plan(phases: list[tuple[int, float]], windows: Callable[[int], list[int]], device: torch.device) -> Plan:
    """The turns of phases, each given by its steps and its eps; `windows` gives the steps between a phase's checks."""
    table: list[tuple[bool, bool, int, bool, float, float]] = []
    for number, (steps, eps) in enumerate(phases):
        checks: dict[int, int] = {}
        done = 0
        for window in windows(steps):
            done += window
            checks[done] = window
        last = number == len(phases) - 1
        for step in range(steps + 1):
            leave = step == steps and not last
            following = phases[number + 1][1] if leave else eps
            table.append((step == 0, step in checks, checks.get(step, 0), leave, eps, following))
    return Plan(*(torch.tensor(column, device=device) for column in zip(*table, strict=True)))


def shorter_and_shorter(steps: int) -> list[int]:
    """Steps between the checks in L-inf and L2."""
    window = max(int(FIRST_WINDOW * steps), 1)
    windows: list[int] = []
    while sum(windows) + window <= steps:
        windows.append(window)
        window = max(window - max(int(SHORTER_BY * steps), 1), max(int(SHORTEST_WINDOW * steps), 1))
    return windows


def always_alike(steps: int) -> list[int]:
    """Steps between the checks in L1."""
    window = max(int(SPARSE_WINDOW * steps), 1)
    return [window] * (steps // window)


def phases(steps: int, eps: float, *, large: bool) -> list[tuple[int, float]]:
    """Steps and eps of each phase. Large ones take their share of the steps, but leave one for the last phase."""
    share = min(math.ceil(LARGE_SHARE * steps), (steps - 1) // 2) if large else 0
    early = [(share, multiple * eps) for multiple in LARGE_BALLS if share]
    return [*early, (steps - share * len(early), eps)]


class APGD(SlotAttack):
    """Auto-PGD in L-inf, L2 and L1 on the cross-entropy, the DLR loss, or the targeted DLR loss.

    L-inf and L2: a step of the present size (2 eps at first) along the gradient, projected, then mixed with the move
    before (the setting `momentum` is the share of the new one) and projected again. At checkpoints that get closer, the
    size of an example's step is halved if its loss rose in no more than the share `rho` of the steps since the last
    one, or if its best loss has not risen since the last one and nothing was halved there; it then goes on from its
    best iterate. L1: a step of constant length that moves the coordinates with the largest gradients only, as many as
    follow from the number of those perturbed in the best iterate. With the setting `large_eps` 30 % of the steps are
    taken in the ball of 3 eps, 30 % in that of 2 eps, each phase from the best iterate of the one before; an iterate
    counts only if it lies in the ball of eps.

    Targeted: one run (times restarts) for each of the `targets` most likely classes but the label, on the clean image,
    the most likely first; any misclassification counts.
    """

    def __init__(self, spec: AttackSpec) -> None:
        super().__init__(spec)
        own = dict(spec.settings)
        self._loss = LOSSES[spec.loss]
        self._key = key_of(spec.seed, spec.name)
        self._rho, self._momentum = spec.number("rho"), spec.number("momentum")
        self._sparse = spec.norm == "L1"
        # What lies in the ball of eps in exact arithmetic may miss it by rounding, the sum of many numbers being large.
        self.inside = not self._sparse
        self.targeted = spec.loss == "dlr-targeted"
        self._targets = int(spec.number("targets")) if self.targeted else 1
        self._phases = phases(spec.steps, spec.eps.value, large=self._sparse and bool(own.get("large_eps", True)))
        self._windows = always_alike if self._sparse else shorter_and_shorter
        self._plan: Plan | None = None

    @property
    def runs(self) -> int:
        return self.spec.restarts * self._targets

    def prepare(self, classes: int) -> int:
        return self.spec.restarts * max(1, min(self._targets, classes - 1))

    def target_of(self, work: Work) -> int:
        if not self.targeted:
            return work.label
        others = [kind for kind in work.top if kind != work.label]
        rank = work.run // self.spec.restarts
        return others[rank] if rank < len(others) else work.label

    def start(self, slots: Slots) -> Tensor:
        clean, shape = slots.clean, tuple(slots.clean.shape[1:])
        first = self._phases[0][1]
        if self.spec.norm == "Linf":
            offset = 2 * uniform(self._key, slots.indices, slots.runs, shape) - 1
        else:
            offset = normal(self._key, slots.indices, slots.runs, shape)
        offset = offset.to(clean.dtype)
        if self._sparse:
            eps = torch.full_like(clean.flatten(1)[:, 0], first)
            x = clean + offset
            if len(self._phases) > 1:
                # The authors' code projects a start in a large ball twice, which decides what counts as perturbed.
                x = self._into_sparse(x, x - clean, slots, eps)
                offset = x - clean
            return self._into_sparse(x, offset, slots, eps)
        if self.spec.norm == "L2":
            first *= norms.JUST_INSIDE
        return (clean + first * _unit(offset, self.spec.norm)).clamp_(slots.low, slots.high)

    def reset(self, slots: Slots, rows: Tensor) -> None:
        # Everything else is set in the first turn.
        slots.remember("turn", slots.labels)[rows] = 0

    def loss(self, logits: Tensor, slots: Slots) -> Tensor:
        return self._loss(logits, slots.labels, slots.targets)

    def advance(self, slots: Slots, found: Gradient) -> Tensor | None:
        if self._plan is None:
            self._plan = plan(self._phases, self._windows, slots.x.device)
        # Turns are counted here: those that begin a phase are no steps of the engine's, and a slot whose success a pass
        # in full precision refutes has moved on since.
        turn = slots.remember("turn", slots.labels)
        now = self._plan.at(turn)
        slots.memory["turn"] = (turn + 1).clamp_max(len(self._plan) - 1)
        gradient = self._best(slots, found, now)
        if self._sparse:
            slots.x = self._sparse_step(slots, now, gradient)
            return None if len(self._phases) == 1 else ~now.leave
        slots.x = self._step(slots, found.loss, now, gradient)
        return None

    def _best(self, slots: Slots, found: Gradient, now: Plan) -> Tensor:
        """Keep the iterate with the highest loss of the phase, its gradient and loss; returns this turn's gradient."""
        assert found.gradient is not None
        # A gradient that is not finite must not make the image so, which would be taken for an error of the model.
        gradient = found.gradient.nan_to_num()
        memory, best = slots.memory, slots.remember("best loss", found.loss)
        better = now.first | (found.loss > best)
        wide = norms.rows(better, gradient)
        memory["best loss"] = torch.where(better, found.loss, best)
        memory["best x"] = torch.where(wide, slots.x, slots.remember("best x", slots.x))
        memory["best gradient"] = torch.where(wide, gradient, slots.remember("best gradient", gradient))
        return gradient

    def _step(self, slots: Slots, loss: Tensor, now: Plan, gradient: Tensor) -> Tensor:
        """The next iterate in L-inf and L2."""
        memory, first, best = slots.memory, now.first, slots.memory["best loss"]
        # As in the authors' code the first step's loss is compared with 0, not with that of the start (there, the row
        # before the first is the last, which is empty), and nothing is "unchanged" at the first check.
        rises = slots.remember("rises", loss) + (loss > slots.remember("loss before", loss))
        rises = torch.where(first, 0, rises)
        memory["loss before"] = torch.where(first, 0, loss)
        halved_before = first | slots.remember("halved", first)
        best_before = slots.remember("best at check", best)
        stuck = ~halved_before & (best_before >= best)
        halve = now.check & ((rises <= self._rho * now.window) | stuck)
        memory["rises"] = rises.masked_fill(now.check, 0)
        memory["halved"] = torch.where(now.check, halve, halved_before)
        memory["best at check"] = torch.where(now.check, best, best_before)
        size = torch.where(first, 2 * self.spec.eps.value, slots.remember("step size", loss))
        size = torch.where(halve, size / 2, size)
        memory["step size"] = size

        again = norms.rows(halve, gradient)
        x = torch.where(again, memory["best x"], slots.x)
        gradient = torch.where(again, memory["best gradient"], gradient)
        begins = norms.rows(first, x)
        # After a halving the move before is still counted from the iterate that was given up.
        move = x - torch.where(begins, x, slots.remember("x before", x))
        memory["x before"] = x
        share = torch.where(begins, 1.0, self._momentum).to(x.dtype)
        steepest = gradient.sign() if self.spec.norm == "Linf" else _unit(gradient, "L2")
        stepped = self._into(x + norms.rows(size, x) * steepest, slots)
        return self._into(x + (stepped - x) * share + move * (1 - share), slots)

    def _into(self, x: Tensor, slots: Slots) -> Tensor:
        """Project to the ball, then to the input's range."""
        clean, eps, low, high = slots.clean, self.spec.eps.value, slots.low, slots.high
        if self.spec.norm == "Linf":
            return x.clamp((clean - eps).clamp_(low, high), (clean + eps).clamp_(low, high))
        offset = x - clean
        length = norms.length(offset, self.spec.norm).clamp_max(eps * norms.JUST_INSIDE)
        return (clean + _unit(offset, self.spec.norm) * norms.rows(length, x)).clamp_(low, high)

    def _sparse_step(self, slots: Slots, now: Plan, gradient: Tensor) -> Tensor:
        """The next iterate in L1, or the start of the next phase."""
        memory, clean, first, check = slots.memory, slots.clean, now.first, now.check
        pixels = gradient[0].numel()
        eps = now.eps.to(clean.dtype)
        perturbed = (memory["best x"] != clean).flatten(1).sum(1).to(clean.dtype)
        at_first = perturbed
        share_at_first = perturbed / pixels / SPARSER_BY
        if len(self._phases) == 1:
            at_first, share_at_first = torch.full_like(eps, pixels), torch.full_like(eps, FIRST_COORDINATES)
        before = slots.remember("perturbed", eps)
        sparser = check & (perturbed / before < SPARSER_BELOW)
        size = slots.remember("step size", eps)
        size = torch.where(check, torch.where(sparser, eps, size / STEP_DIVISOR).clamp(eps / SMALLEST_STEP, eps), size)
        size = torch.where(first, eps, size)
        share = torch.where(check, perturbed / pixels / SPARSER_BY, slots.remember("share", eps))
        share = torch.where(first, share_at_first, share)
        memory["step size"], memory["share"] = size, share
        memory["perturbed"] = torch.where(first, at_first, torch.where(check, perturbed, before))

        again = norms.rows(sparser, gradient)
        x = torch.where(again, memory["best x"], slots.x)
        gradient = torch.where(again, memory["best gradient"], gradient)
        magnitude = gradient.abs().flatten(1)
        place = ((1 - share) * pixels).clamp(0, pixels - 1).long()
        least = magnitude.sort(1).values.gather(1, place[:, None])
        moves = gradient.sign() * (magnitude >= least).view_as(gradient)
        stepped = x + norms.rows(size, x) * moves / (norms.rows(norms.length(moves, "L1"), x) + 1e-10)
        leave = norms.rows(now.leave, x)
        offset = torch.where(leave, memory["best x"], stepped) - clean
        x = torch.where(leave, memory["best x"], clean + offset)
        return self._into_sparse(x, offset, slots, now.eps_next.to(clean.dtype))

    def _into_sparse(self, x: Tensor, offset: Tensor, slots: Slots, eps: Tensor) -> Tensor:
        """Project to the L1 balls of `eps` (n,) and the input's range together; `offset` is x - clean but for rounding.

        What is added to which is as in the authors' code: the rounding decides which coordinates count as perturbed.
        """
        correction = norms.l1_correction(offset, slots.clean, eps * norms.JUST_INSIDE, slots.low, slots.high)
        return (x + correction).clamp_(slots.low, slots.high)


def _unit(offset: Tensor, norm: str) -> Tensor:
    """Every row over its length; a length near zero makes it shorter than one, as in the authors' code."""
    return offset / (norms.rows(norms.length(offset, norm), offset) + TINY)
