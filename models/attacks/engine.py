"""The slot engine: attacks as a stream of examples through a fixed number of slots.

In evaluation mode examples do not influence each other, so an attack is a state machine per example. Every slot holds
one example with its own step counter; one forward and backward pass serves all slots; an example that is broken, or
has spent its steps, leaves with its outcome and the next one takes its place. The batch stays full until the stream
ends, and an example broken at step 2 costs two gradients, not a hundred.

The last iterate of a run needs a prediction but no gradient, so it is judged aside, in full batches of forward passes
only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.errors import EvaluationError
from models.specs import AttackSpec

#: A found perturbation may exceed eps by rounding only; more is an error of the attack, never a success.
BALL_TOLERANCE = 1e-6

#: When the stream runs dry the batch shrinks, but not below this many rows: for very small batches libraries switch to
#: other kernels whose rounding differs, and a verdict must not depend on what else is in the batch.
SMALLEST_BATCH = 16


@dataclass
class Work:
    """An example on its way through the engine, with what it has cost so far. `image` is (C, H, W)."""

    index: int
    image: Tensor
    label: int
    clean_prediction: int
    clean_margin: float
    clean_rank: int
    restart: int = 0
    step: int = 0
    forwards: int = 1
    backwards: int = 0
    zero_gradient_steps: int = 0


@dataclass(frozen=True)
class Outcome:
    """One example of one evaluation. Exactly one of `robust` and `error` is set.

    `forwards` and `backwards` are the passes spent on this example, its clean prediction included: the same whatever
    the number of slots. Rows of idle slots are the engine's (`SlotEngine.rows_forward`). `broken_at_step` is 0 when
    the start itself fooled the model, and None when the example is robust or was misclassified without any attack.
    Margins are z_label - max other logit, ranks the place of the label among the classes by logit, 1 for the predicted
    one; those without `clean_` are of the iterate that decided. `distance` is in the attack's norm and threat space.
    """

    example: int
    label: int
    clean_prediction: int
    adversarial_prediction: int | None
    clean_correct: bool
    robust: bool | None
    broken_at_step: int | None
    broken_at_restart: int | None
    distance: float | None
    clean_margin: float | None
    margin: float | None
    forwards: int
    backwards: int
    zero_gradient_steps: int
    error: str | None = None
    clean_rank: int | None = None
    rank: int | None = None


@dataclass
class Slots:
    """The state of all slots; every tensor's first dimension is the slot. `memory` is the attack's own, by name.

    `clean` and `x` are (slots, C, H, W). `low` and `high` bound the input.
    """

    clean: Tensor
    x: Tensor
    #: Label, dataset index, restart and steps taken, int64 (slots, 4): one tensor, so that a refill is one transfer.
    numbers: Tensor
    low: float = 0.0
    high: float = 1.0
    memory: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def allocate(cls, count: int, image: Tensor) -> Slots:
        """All slots hold `image` (C, H, W), on its device, so that idle ones compute something harmless."""
        clean = image.expand(count, *image.shape).clone()
        return cls(clean, clean.clone(), torch.zeros(count, 4, dtype=torch.int64, device=image.device))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def labels(self) -> Tensor:
        return self.numbers[:, 0]

    @property
    def indices(self) -> Tensor:
        return self.numbers[:, 1]

    @property
    def restarts(self) -> Tensor:
        return self.numbers[:, 2]

    @property
    def steps(self) -> Tensor:
        return self.numbers[:, 3]

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows, in this order."""
        self.clean, self.x, self.numbers = self.clean[rows], self.x[rows], self.numbers[rows]
        self.memory = {name: tensor[rows] for name, tensor in self.memory.items()}


class SlotAttack(ABC):
    """An attack: how it starts, what it keeps per slot, and how it uses one gradient."""

    spec: AttackSpec

    def __init__(self, spec: AttackSpec) -> None:
        self.spec = spec

    @abstractmethod
    def start(self, clean: Tensor, indices: Tensor, restarts: Tensor, low: float, high: float) -> Tensor:
        """The first iterates (n, C, H, W) of a block of examples, from their clean images, dataset indices and
        restarts (n,).
        """

    def reset(self, slots: Slots, rows: Tensor) -> None:  # noqa: B027 - an attack without memory has nothing to do
        """Prepare the attack's own memory in the slots in `rows` (int64), whose example has just begun."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each example (n,) that the gradient is taken of; steps go up."""

    @abstractmethod
    def advance(self, slots: Slots, logits: Tensor, gradient: Tensor) -> None:
        """Take one step in every slot, given the logits and the gradient of the loss at `slots.x`."""


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """z_label - max over the other classes (n,); negative where misclassified."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
    return own - others


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Place of the label among the classes by falling logit (n,), int64: 1 where it is predicted.

    Of equal logits the lower class comes first, as for argmax. Means nothing where a logit is NaN.
    """
    own = logits.gather(1, labels[:, None])
    lower_class = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return 1 + ((logits > own) | ((logits == own) & lower_class)).sum(1)


def judgements(logits: Tensor, labels: Tensor) -> tuple[list[int], list[int], list[int]]:
    """What the host decides on, in one transfer: predicted class, rank of the label, and 1 where all is finite."""
    finite = torch.isfinite(logits).all(1).long()
    predictions, rank, whole = torch.stack([logits.argmax(1), ranks(logits, labels), finite]).tolist()
    return predictions, rank, whole


class SlotEngine:
    """Runs one attack over a stream of examples.

    `forward` maps inputs (n, C, H, W) to logits (n, classes) and must treat examples independently of each other.
    `transform` brings images to the threat space that `forward` takes: the identity for pixels.
    `enforce_ball` is off only where the threat space itself leaves the eps ball (`normalized-clamped`).
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        attack: SlotAttack,
        *,
        slots: int,
        device: torch.device,
        transform: Callable[[Tensor], Tensor] = lambda images: images,
        enforce_ball: bool = True,
    ) -> None:
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        self.forward = forward
        self.attack = attack
        self.capacity = slots
        self.device = device
        self.transform = transform
        self.enforce_ball = enforce_ball
        self.judge_every_iterate = attack.spec.verdict == "worst"
        self._again: deque[Work] = deque()
        #: Examples about to begin, with their clean image and first iterate, prepared a block at a time.
        self._ready: deque[tuple[Work, Tensor, Tensor]] = deque()
        self._spent: list[tuple[Work, Tensor]] = []
        #: Rows pushed through the network, idle ones included: what the machine did, where outcomes say what examples
        #: needed.
        self.rows_forward = 0
        self.rows_backward = 0

    def run(self, stream: Iterable[Work]) -> Iterator[list[Outcome]]:
        """Yield the outcomes of each turn as examples leave, in the order they leave; lists may be empty."""
        source = iter(stream)
        first = next(source, None)
        if first is None:
            return
        self._again.append(first)
        occupied: list[Work | None] = [None] * self.capacity
        slots = Slots.allocate(self.capacity, self._clean([first])[0])
        while True:
            dry = self._fill(slots, occupied, source)
            if dry:
                occupied = self._shrink(slots, occupied)
            if occupied.count(None) < len(occupied):
                yield self._turn(slots, occupied)
            idle = occupied.count(None)
            if len(self._spent) >= self.capacity:
                yield self._judge(self.capacity)
            elif dry and self._spent and (idle == len(occupied) or (idle and self._restarts_wait())):
                # A full batch will not come together any more, or an idle slot could take another restart now.
                yield self._judge(len(self._spent))
            elif dry and not self._again and not self._ready and idle == len(occupied):
                return

    def _restarts_wait(self) -> bool:
        return any(work.restart + 1 < self.attack.spec.restarts for work, _ in self._spent)

    def _fill(self, slots: Slots, occupied: list[Work | None], source: Iterator[Work]) -> bool:
        """Put waiting examples into idle slots; true when none was left for some of them."""
        idle = [row for row, work in enumerate(occupied) if work is None]
        rows: list[int] = []
        clean: list[Tensor] = []
        starts: list[Tensor] = []
        numbers: list[tuple[int, int, int, int]] = []
        for row in idle:
            if not self._ready and not self._prepare(source, slots):
                break
            work, image, first = self._ready.popleft()
            occupied[row] = work
            rows.append(row)
            clean.append(image)
            starts.append(first)
            numbers.append((work.label, work.index, work.restart, 0))
        if rows:
            where = torch.tensor(rows, device=self.device)
            slots.clean[where] = torch.stack(clean)
            slots.x[where] = torch.stack(starts)
            slots.numbers[where] = torch.tensor(numbers, device=self.device)
            self.attack.reset(slots, where)
        return len(rows) < len(idle)

    def _prepare(self, source: Iterator[Work], slots: Slots) -> bool:
        """Take the next block of examples from the queue of restarts, then from the source; false when both are
        empty.
        """
        works: list[Work] = []
        while len(works) < self.capacity:
            work = self._again.popleft() if self._again else next(source, None)
            if work is None:
                break
            work.step = 0
            works.append(work)
        if not works:
            return False
        clean = self._clean(works)
        numbers = torch.tensor([(work.index, work.restart) for work in works], device=self.device)
        starts = self.attack.start(clean, numbers[:, 0], numbers[:, 1], slots.low, slots.high)
        self._ready.extend(zip(works, clean, starts, strict=True))
        return True

    def _clean(self, works: list[Work]) -> Tensor:
        """The unattacked inputs of some examples, on the device and in the threat space."""
        return self.transform(torch.stack([work.image for work in works]).to(self.device))

    def _shrink(self, slots: Slots, occupied: list[Work | None]) -> list[Work | None]:
        """Once the stream is dry, drop idle rows, so that the last examples do not pay for a full batch."""
        live = [row for row, work in enumerate(occupied) if work is not None]
        wanted = self._batch_size(len(live))
        if wanted >= len(slots):
            return occupied
        idle = [row for row, work in enumerate(occupied) if work is None]
        rows = (live + idle)[:wanted]
        slots.keep(torch.tensor(rows, device=self.device))
        return [occupied[row] for row in rows]

    def _batch_size(self, count: int) -> int:
        """Rows to compute for `count` examples."""
        return max(count, min(self.capacity, SMALLEST_BATCH))

    def _turn(self, slots: Slots, occupied: list[Work | None]) -> list[Outcome]:
        """One forward and backward pass over all slots: judge, step, and let those leave that are done."""
        x = slots.x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.forward(x)
            loss = self.attack.loss(logits, slots.labels).sum()
            (gradient,) = torch.autograd.grad(loss, x)
        logits = logits.detach()
        self.rows_forward += len(slots)
        self.rows_backward += len(slots)
        predictions = logits.argmax(1)
        # One transfer from the device for all that the host decides on.
        wrong, infinite, flat = torch.stack(
            [predictions != slots.labels, ~torch.isfinite(logits).all(1), gradient.flatten(1).abs().amax(1) == 0]
        ).tolist()
        judged_x = slots.x
        self.attack.advance(slots, logits, gradient)
        slots.numbers[:, 3] += 1

        leaving: list[int] = []
        for row, work in enumerate(occupied):
            if work is None:
                continue
            work.forwards += 1
            work.backwards += 1
            work.zero_gradient_steps += flat[row]
            if infinite[row] or (self.judge_every_iterate and wrong[row]):
                leaving.append(row)
                continue
            work.step += 1
            if work.step >= self.attack.spec.steps:
                self._spent.append((work, slots.x[row].clone()))
                occupied[row] = None
        if not leaving:
            return []
        rows = torch.tensor(leaving, device=self.device)
        works = [work for row in leaving if (work := occupied[row]) is not None]
        for row in leaving:
            occupied[row] = None
        return self._outcomes(works, judged_x[rows], slots.clean[rows], logits[rows], slots.labels[rows])

    def _judge(self, count: int) -> list[Outcome]:
        """Predict the last iterates of `count` runs; survivors with restarts left go back to the queue."""
        batch, self._spent = self._spent[:count], self._spent[count:]
        works = [work for work, _ in batch]
        x = torch.stack([x for _, x in batch])
        labels = torch.tensor([work.label for work in works], device=self.device)
        padding = self._batch_size(count) - count
        with torch.no_grad():
            padded = torch.cat([x, x[:1].expand(padding, *x.shape[1:])]) if padding > 0 else x
            logits = self.forward(padded)[:count]
        self.rows_forward += len(padded)
        for work in works:
            work.forwards += 1
        broken = ((logits.argmax(1) != labels) | ~torch.isfinite(logits).all(1)).tolist()
        done: list[int] = []
        for row, work in enumerate(works):
            if not broken[row] and work.restart + 1 < self.attack.spec.restarts:
                work.restart += 1
                self._again.append(work)
            else:
                done.append(row)
        if not done:
            return []
        rows = torch.tensor(done, device=self.device)
        leaving = [works[row] for row in done]
        return self._outcomes(leaving, x[rows], self._clean(leaving), logits[rows], labels[rows])

    def _outcomes(self, works: list[Work], x: Tensor, clean: Tensor, logits: Tensor, labels: Tensor) -> list[Outcome]:
        predictions, rank, finite = judgements(logits, labels)
        margin = margins(logits, labels).tolist()
        distance = (x - clean).abs().flatten(1).amax(1).tolist()
        limit = self.attack.spec.eps.value + BALL_TOLERANCE
        found: list[Outcome] = []
        for row, work in enumerate(works):
            if self.enforce_ball and not distance[row] <= limit:
                raise EvaluationError(
                    f"{self.attack.spec.name} left its eps ball at example {work.index}: distance {distance[row]:.9f}, "
                    f"eps {self.attack.spec.eps.value:.9f}. Please report this; nothing was recorded for it."
                )
            clean_correct = work.clean_prediction == work.label
            fooled = predictions[row] != work.label
            error = None if finite[row] else "non-finite logits under attack"
            found.append(
                Outcome(
                    example=work.index,
                    label=work.label,
                    clean_prediction=work.clean_prediction,
                    adversarial_prediction=predictions[row] if finite[row] else None,
                    clean_correct=clean_correct,
                    robust=None if error else clean_correct and not fooled,
                    broken_at_step=work.step if fooled and clean_correct and not error else None,
                    broken_at_restart=work.restart if fooled and clean_correct and not error else None,
                    distance=distance[row],
                    clean_margin=work.clean_margin,
                    margin=margin[row] if finite[row] else None,
                    forwards=work.forwards,
                    backwards=work.backwards,
                    zero_gradient_steps=work.zero_gradient_steps,
                    error=error,
                    clean_rank=work.clean_rank,
                    rank=rank[row] if finite[row] else None,
                )
            )
        return found
