"""The slot engine: attacks as a stream of examples through a fixed number of slots.

In evaluation mode examples do not influence each other, so an attack is a state machine per example. Every slot holds
one example with its own step counter; one forward and backward pass serves all slots; an example that is broken, or
has spent its steps, leaves with its outcome and the next one takes its place. The batch stays full until the stream
ends, and an example broken at step 2 costs two gradients, not a hundred.

What is decided in a turn is decided on the device, with masks; the host looks every `poll` turns, because on a GPU each
look waits for all that is queued. The last iterate of a run needs a prediction but no gradient, so it is judged aside,
in full batches of forward passes only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from models.attacks.norms import rows as per_row
from models.attacks.slots import (
    BROKEN,
    CODE,
    FLAT,
    HIT_STEP,
    INFINITE,
    RUNNING,
    SPENT,
    STEP,
    TURNS,
    Forward,
    Found,
    Outcome,
    SlotAttack,
    Slots,
    Work,
    judgements,
    margins,
)
from models.errors import EvaluationError

#: A found perturbation may exceed eps by rounding only (of eps, where that is above 1); more is an error of the attack,
#: never a success.
BALL_TOLERANCE = 1e-6

#: When the stream runs dry the batch shrinks, but not below this many rows: for very small batches libraries switch to
#: other kernels whose rounding differs, and a verdict must not depend on what else is in the batch.
SMALLEST_BATCH = 16


class SlotEngine:
    """Runs one attack over a stream of examples.

    `forward` maps inputs (n, C, H, W) to logits (n, classes) and must treat examples independently of each other; its
    gradient is followed. `judge` is the float32 forward pass that gives verdicts, where that is another one: of the
    same model, computed as it was loaded, which then has to confirm what `forward` claims (`confirm`); or of the model
    under attack, where `forward` is a surrogate (`transfer`). Where `forward` is in float32 too and differs by rounding
    only, claims are confirmed whose margin is within `rounding` times the largest logit.
    `transform` brings images to the threat space that `forward` takes: the identity for pixels.
    `keep` is handed every adversarial example that broke one: dataset index, iterate (C, H, W), predicted class.
    `enforce_ball` is off only where the threat space itself leaves the eps ball (`normalized-clamped`).
    """

    def __init__(
        self,
        forward: Forward,
        attack: SlotAttack,
        *,
        slots: int,
        device: torch.device,
        classes: int,
        judge: Forward | None = None,
        rounding: float | None = None,
        transfer: bool = False,
        transform: Callable[[Tensor], Tensor] = lambda images: images,
        enforce_ball: bool = True,
        poll: int | None = None,
        keep: Callable[[int, Tensor, int], None] | None = None,
    ) -> None:
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        self.forward = forward
        self.judge = judge or forward
        self.transfer = transfer
        self.confirm = judge is not None and not transfer
        self.rounding = rounding
        self.attack = attack
        self.runs = attack.prepare(classes)
        self.capacity = slots
        self.device = device
        self.transform = transform
        self.enforce_ball = enforce_ball and attack.inside
        # A look waits for the GPU; between two looks an example that is done still takes turns.
        self.poll = poll or (max(1, min(4, attack.steps // 5)) if device.type == "cuda" else 1)
        self.verdict = attack.spec.verdict
        #: eps as distances are computed: in float32.
        self.eps = float(torch.tensor(attack.spec.eps.value, dtype=torch.float32))
        self.keep = keep
        self._again: deque[Work] = deque()
        #: Examples about to begin, with their clean image, first iterate and target, prepared a block at a time.
        self._ready: deque[tuple[Work, Tensor, Tensor, int]] = deque()
        self._spent: list[tuple[Work, Tensor]] = []
        #: Rows pushed through the network, idle ones included: what the machine did, where outcomes say what examples
        #: needed.
        self.rows_forward = 0
        self.rows_backward = 0

    def run(self, stream: Iterable[Work]) -> Iterator[list[Outcome]]:
        """Yield the outcomes of each look as examples leave, in the order they leave; lists may be empty."""
        source = iter(stream)
        first = next(source, None)
        if first is None:
            return
        self._again.append(first)
        occupied: list[Work | None] = [None] * self.capacity
        slots = Slots.allocate(self.capacity, self._clean([first])[0])
        while True:
            dry = self._fill(slots, occupied, source)
            if dry and not self._runs_wait():
                occupied = self._shrink(slots, occupied)
            if occupied.count(None) < len(occupied):
                for _ in range(self.poll):
                    self._turn(slots)
                yield self._collect(slots, occupied)
            idle = occupied.count(None)
            if len(self._spent) >= self.capacity:
                yield self._judge(self.capacity)
            elif dry and self._spent and (idle == len(occupied) or (idle and self._runs_wait())):
                # A full batch will not come together any more, or an idle slot could take another run now.
                yield self._judge(len(self._spent))
            elif dry and not self._again and not self._ready and idle == len(occupied):
                return

    def _runs_wait(self) -> bool:
        return any(work.run + 1 < self.runs for work, _ in self._spent)

    def _fill(self, slots: Slots, occupied: list[Work | None], source: Iterator[Work]) -> bool:
        """Put waiting examples into idle slots; true when none was left for some of them."""
        idle = [row for row, work in enumerate(occupied) if work is None]
        rows: list[int] = []
        clean: list[Tensor] = []
        starts: list[Tensor] = []
        numbers: list[list[int]] = []
        for row in idle:
            if not self._ready and not self._prepare(source):
                break
            work, image, first, target = self._ready.popleft()
            occupied[row] = work
            rows.append(row)
            clean.append(image)
            starts.append(first)
            numbers.append([work.label, work.index, work.run, target, 0, 0, 0, 0, RUNNING])
        if rows:
            where = torch.tensor(rows, device=self.device)
            slots.clean[where] = torch.stack(clean)
            slots.x[where] = torch.stack(starts)
            slots.numbers[where] = torch.tensor(numbers, device=self.device)
            slots.best[where] = float("inf")
            self.attack.reset(slots, where)
        return len(rows) < len(idle)

    def _prepare(self, source: Iterator[Work]) -> bool:
        """Take the next block of examples from the queue of further runs, then from the source; false when both are
        empty.
        """
        works: list[Work] = []
        while len(works) < self.capacity:
            work = self._again.popleft() if self._again else next(source, None)
            if work is None:
                break
            works.append(work)
        if not works:
            return False
        targets = [self.attack.target_of(work) for work in works]
        clean = self._clean(works)
        numbers = [[w.label, w.index, w.run, t, 0, 0, 0, 0, RUNNING] for w, t in zip(works, targets, strict=True)]
        best = torch.full((len(works),), float("inf"), device=self.device)
        block = Slots(clean, clean, torch.tensor(numbers, device=self.device), clean, best)
        self._ready.extend(zip(works, clean, self.attack.start(block), targets, strict=True))
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

    def _turn(self, slots: Slots) -> None:
        """Evaluate all slots, note what fools the model, and take a step. Nothing here waits for the device."""
        attack, numbers, x = self.attack, slots.numbers, slots.x
        found = attack.evaluate(self.forward, slots)
        forwards, backwards = attack.passes()
        self.rows_forward += forwards * len(slots)
        self.rows_backward += backwards * len(slots)
        logits = self._logits_of(x) if self.transfer else found.logits
        running = numbers[:, CODE] == RUNNING
        whole = torch.isfinite(logits).all(1)
        if self.verdict != "last":
            wrong = running & whole & (logits.argmax(1) != slots.labels)
            self._capture(slots, x, logits, wrong)
        lost = running & ~whole
        numbers[:, TURNS] += running
        if found.gradient is not None:
            numbers[:, FLAT] += running & (found.gradient.flatten(1).abs().amax(1) == 0)
        stepped = attack.advance(slots, found)
        # Broken ones are counted on too: what full precision does not confirm has taken this step like any other.
        numbers[:, STEP] += 1 if stepped is None else stepped
        spent = (numbers[:, CODE] == RUNNING) & (numbers[:, STEP] >= attack.steps)
        numbers[:, CODE].masked_fill_(spent, SPENT).masked_fill_(lost, INFINITE)
        if self.poll > 1:
            # The slot goes on computing until the next look; its last iterate must be the one that spent its steps.
            self._keep_last(slots, spent)

    def _logits_of(self, x: Tensor) -> Tensor:
        self.rows_forward += len(x)
        with torch.no_grad():
            return self.judge(x)

    def _capture(self, slots: Slots, x: Tensor, logits: Tensor, wrong: Tensor) -> None:
        """Note the iterates `x` that fool the model: the first of a run, or under `closest` the nearest."""
        if slots.hit_logits is None:
            slots.hit_logits = torch.zeros_like(logits)
        closest = self.verdict == "closest"
        if closest or not self.attack.inside:
            far = self.attack.distance(x - slots.clean)
            wrong = wrong & (far < slots.best if closest else far <= self.eps)
        if self.poll == 1 and not bool(wrong.any()):
            return
        if closest:
            slots.best = torch.where(wrong, far, slots.best)
        slots.hit = torch.where(per_row(wrong, x), x, slots.hit)
        slots.hit_logits = torch.where(wrong[:, None], logits, slots.hit_logits)
        numbers = slots.numbers
        numbers[:, HIT_STEP] = torch.where(wrong, numbers[:, STEP], numbers[:, HIT_STEP])
        if not closest:
            numbers[:, CODE].masked_fill_(wrong, BROKEN)

    def _keep_last(self, slots: Slots, spent: Tensor) -> None:
        last = slots.remember("last iterate", slots.x)
        slots.memory["last iterate"] = torch.where(per_row(spent, last), slots.x, last)

    def _collect(self, slots: Slots, occupied: list[Work | None]) -> list[Outcome]:
        """Look at the slots: the one transfer from the device. Examples that are done leave."""
        broken: list[int] = []
        infinite: list[int] = []
        forwards, backwards = self.attack.passes()
        values = slots.numbers.tolist()
        claimed = [row for row, work in enumerate(occupied) if work is not None and values[row][CODE] == BROKEN]
        doubtful = self._doubtful(slots, claimed) if self.confirm and claimed else []
        refuted = self._refuted(slots, doubtful) if doubtful else set()
        for row, work in enumerate(occupied):
            value = values[row]
            if work is None or value[CODE] == RUNNING or row in refuted:
                continue
            work.forwards += value[TURNS] * (forwards + self.transfer)
            work.backwards += value[TURNS] * backwards
            work.zero_gradient_steps += value[FLAT]
            if value[CODE] == SPENT:
                last = slots.memory["last iterate"] if self.poll > 1 else slots.x
                if slots.hit_logits is not None and self.verdict == "closest":
                    self._note(work, slots.hit[row], slots.hit_logits[row], float(slots.best[row]), value[HIT_STEP])
                self._spent.append((work, last[row].clone()))
                occupied[row] = None
            else:
                (broken if value[CODE] == BROKEN else infinite).append(row)
        found: list[Outcome] = []
        if broken:
            assert slots.hit_logits is not None
            rows = torch.tensor(broken, device=self.device)
            works = self._leave(occupied, broken)
            steps = [values[row][HIT_STEP] for row in broken]
            found = self._outcomes(works, slots.hit[rows], slots.clean[rows], slots.hit_logits[rows], steps)
        if infinite:
            found += [self._unjudged(work) for work in self._leave(occupied, infinite)]
        return found

    def _leave(self, occupied: list[Work | None], rows: list[int]) -> list[Work]:
        works = [work for row in rows if (work := occupied[row]) is not None]
        for row in rows:
            occupied[row] = None
        return works

    def _doubtful(self, slots: Slots, claimed: list[int]) -> list[int]:
        """Of the slots that claim to be broken those whose logits leave room for rounding: all of them where the claim
        was made in less than float32.
        """
        if self.rounding is None:
            return claimed
        assert slots.hit_logits is not None
        rows = torch.tensor(claimed, device=self.device)
        logits = slots.hit_logits[rows]
        clear = margins(logits, slots.labels[rows]) < -self.rounding * logits.abs().amax(1)
        return [row for row, ok in zip(claimed, clear.tolist(), strict=True) if not ok]

    def _refuted(self, slots: Slots, claimed: list[int]) -> set[int]:
        """Of the slots that claim to be broken those whose iterate does not fool the model in full precision.

        They go on where they are; those that hold get the logits of the full-precision pass.
        """
        assert slots.hit_logits is not None
        rows = torch.tensor(claimed, device=self.device)
        logits = self._padded(slots.hit[rows])
        slots.hit_logits[rows] = logits
        holds = (~torch.isfinite(logits).all(1)) | (logits.argmax(1) != slots.labels[rows])
        gone = [row for row, ok in zip(claimed, holds.tolist(), strict=True) if not ok]
        if gone:
            back = torch.tensor(gone, device=self.device)
            over = slots.numbers[back, STEP] >= self.attack.steps
            slots.numbers[back, CODE] = torch.where(over, SPENT, RUNNING)
            if self.poll > 1:
                slots.remember("last iterate", slots.x)[back] = slots.x[back]
        return set(gone)

    def _padded(self, x: Tensor) -> Tensor:
        """Full-precision logits of some rows, in a batch that is not too small."""
        padding = max(0, min(self.capacity, SMALLEST_BATCH) - len(x))
        padded = torch.cat([x, x[:1].expand(padding, *x.shape[1:])]) if padding else x
        return self._logits_of(padded)[: len(x)]

    def _note(self, work: Work, x: Tensor, logits: Tensor, distance: float, step: int) -> None:
        """Keep an adversarial example if it is the closest of all runs."""
        if distance < (work.found.distance if work.found else float("inf")):
            work.found = Found(x.clone(), logits.clone(), distance, work.run, step)

    def _judge(self, count: int) -> list[Outcome]:
        """Predict the last iterates of `count` runs; survivors with runs left go back to the queue."""
        batch, self._spent = self._spent[:count], self._spent[count:]
        works = [work for work, _ in batch]
        x = torch.stack([x for _, x in batch])
        clean = self._clean(works)
        labels = torch.tensor([work.label for work in works], device=self.device)
        logits = self._padded(x)
        for work in works:
            work.forwards += 1
        wrong = logits.argmax(1) != labels
        far = self.attack.distance(x - clean)
        if not self.attack.inside and self.verdict != "closest":
            wrong &= far <= self.eps
        codes = (wrong + 2 * ~torch.isfinite(logits).all(1)).tolist()
        distances = far.tolist()
        steps = self.attack.steps
        done: list[int] = []
        found: list[Outcome] = []
        for row, work in enumerate(works):
            if codes[row] >= 2:
                found.append(self._unjudged(work))
                continue
            if codes[row] == 1 and self.verdict == "closest":
                self._note(work, x[row], logits[row], distances[row], steps)
            elif codes[row] == 1:
                done.append(row)
                continue
            if work.run + 1 < self.runs:
                work.run += 1
                self._again.append(work)
            else:
                done.append(row)
        if done and self.verdict == "closest":
            for row in done:
                best = works[row].found
                x[row], logits[row] = (best.x, best.logits) if best else (clean[row], logits[row])
        if done:
            rows = torch.tensor(done, device=self.device)
            leaving = [works[row] for row in done]
            found += self._outcomes(leaving, x[rows], clean[rows], logits[rows], [steps] * len(done))
        return found

    def _outcomes(self, works: list[Work], x: Tensor, clean: Tensor, logits: Tensor, steps: list[int]) -> list[Outcome]:
        """Outcomes of examples that are done, from the iterate that decides, its logits, and the step it was met at."""
        labels = torch.tensor([work.label for work in works], device=self.device)
        predictions, rank, finite = judgements(logits, labels)
        margin = margins(logits, labels).tolist()
        distance = self.attack.distance(x - clean).tolist()
        eps, limit = self.eps, self.eps + BALL_TOLERANCE * max(1.0, self.eps)
        outcomes: list[Outcome] = []
        for row, work in enumerate(works):
            if not finite[row]:
                outcomes.append(self._outcome(work, error="non-finite logits under attack"))
                continue
            if self.enforce_ball and not distance[row] <= limit:
                raise EvaluationError(
                    f"{self.attack.spec.name} left its eps ball at example {work.index}: distance {distance[row]:.9f}, "
                    f"eps {eps:.9f}. Please report this; nothing was recorded for it."
                )
            nearest = work.found if self.verdict == "closest" else None
            fooled = predictions[row] != work.label
            # A distance computed in another batch may differ in its last digit.
            near = self.attack.inside or distance[row] <= limit
            if self.keep and fooled and near and work.clean_prediction == work.label:
                self.keep(work.index, x[row], predictions[row])
            if not self.attack.inside and (nearest is None if self.verdict == "closest" else not near):
                # No iterate in the ball fooled the model (or none at all): what stands is the clean image.
                outcomes.append(self._outcome(work, robust=True))
                continue
            outcomes.append(
                self._outcome(
                    work,
                    robust=not (fooled and near),
                    prediction=predictions[row],
                    # The closest one lies on the border by design; its distance decides, not its margin.
                    margin=None if nearest else margin[row],
                    rank=rank[row],
                    distance=distance[row],
                    step=nearest.step if nearest else steps[row],
                    run=nearest.run if nearest else work.run,
                )
            )
        return outcomes

    def _outcome(
        self,
        work: Work,
        *,
        robust: bool | None = None,
        prediction: int | None = None,
        margin: float | None = None,
        rank: int | None = None,
        distance: float | None = None,
        step: int | None = None,
        run: int | None = None,
        error: str | None = None,
    ) -> Outcome:
        correct = work.clean_prediction == work.label
        broken = robust is False and correct
        as_it_was = robust is not None and prediction is None
        return Outcome(
            example=work.index,
            label=work.label,
            clean_prediction=work.clean_prediction,
            adversarial_prediction=work.clean_prediction if as_it_was else prediction,
            clean_correct=correct,
            robust=None if error else correct and bool(robust),
            broken_at_step=step if broken else None,
            broken_at_restart=run if broken else None,
            distance=distance,
            clean_margin=work.clean_margin,
            margin=work.clean_margin if as_it_was else margin,
            forwards=work.forwards,
            backwards=work.backwards,
            zero_gradient_steps=work.zero_gradient_steps,
            error=error,
            clean_rank=work.clean_rank,
            rank=work.clean_rank if as_it_was else rank,
        )

    def _unjudged(self, work: Work) -> Outcome:
        """An example whose logits are not finite under the attack."""
        return self._outcome(work, error="non-finite logits under attack")
