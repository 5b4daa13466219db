"""Model + examples + attack -> a stream of outcomes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor

from models.attacks import forwarding, libraries, registry
from models.attacks.engine import SlotEngine
from models.attacks.forwarding import Forwarding, Plan, Speed
from models.attacks.slots import (
    TOP_CLASSES,
    Forward,
    Outcome,
    Survival,
    Work,
    judgements,
    margins,
)
from models.classifier import Classifier, frozen
from models.datasets.registry import Examples
from models.errors import DeviceError, EvaluationError
from models.specs import AttackSpec

#: Slots when nobody chose: at least the first number; on small images as many as have this many pixels together, at
#: most the last.
LEAST_SLOTS, PIXELS_A_BATCH, MOST_SLOTS = 64, 64 * 32 * 32, 256

#: Examples that go through the stages of a cascade together, in slots.
CASCADE_BLOCK = 8


#: So many times as many slots on a GPU, which a small batch does not fill; where they do not fit they are halved.
GPU_FACTOR = 8


def default_slots(image_shape: tuple[int, ...], device: str = "cpu") -> int:
    """Slots for images (C, H, W), a power of two: a batch of tiny images would leave the machine waiting for Python."""
    pixels = image_shape[1] * image_shape[2]
    slots = min(MOST_SLOTS, max(LEAST_SLOTS, 1 << (PIXELS_A_BATCH // pixels).bit_length() - 1))
    return slots * (GPU_FACTOR if device == "cuda" else 1)


#: The network as it was loaded, in float32.
EXACT = Speed("float32", "off", "off", "off")


@dataclass
class CleanPass:
    """Predictions without any attack, by position in the split: filled as examples are first needed."""

    predictions: dict[int, int] = field(default_factory=dict)
    margins: dict[int, float] = field(default_factory=dict)
    ranks: dict[int, int] = field(default_factory=dict)
    #: The most likely classes, the best first, and the least likely one: where targeted attacks go.
    top: dict[int, tuple[int, ...]] = field(default_factory=dict)
    least: dict[int, int] = field(default_factory=dict)
    #: Examples whose clean logits are not finite.
    infinite: set[int] = field(default_factory=set)


class Evaluator:
    """One model on one split of one dataset; attacks share the clean predictions.

    Raises `EvaluationError` when model and data do not fit each other or the logits cannot be believed.
    """

    def __init__(
        self,
        classifier: Classifier,
        examples: Examples,
        *,
        device: str = "cpu",
        slots: int | None = None,
        speed: Speed = EXACT,
        surrogate: Classifier | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.classifier = classifier.to(self.device)
        self.examples = examples
        self.slots = slots or default_slots(examples.image_shape, self.device.type)
        self.clean = CleanPass()
        self.speed = speed
        #: The model that attacks with a surrogate are crafted on.
        self.surrogate = surrogate.to(self.device) if surrogate is not None else None
        #: Forward and backward passes expected in all, so that `auto` can tell what pays.
        self.work_ahead = 0.0
        #: Is handed every adversarial example that broke one: dataset index, image (C, H, W), predicted class.
        self.keep: Callable[[int, Tensor, int], None] | None = None
        #: Rows pushed through the network so far, idle slots included.
        self.rows_forward = self.rows_backward = 0
        #: How the network is computed, in words; empty until the first attack.
        self.how = ""
        self._forwarding: Forwarding | None = None
        #: What a reader of the number should know about the model; filled by `check`.
        self.warnings: list[str] = []
        if examples.n_classes != classifier.num_classes:
            raise EvaluationError(
                f"the model has {classifier.num_classes} classes and {examples.dataset} has {examples.n_classes}."
            )

    def check(self, indices: Sequence[int]) -> None:
        """Look at one batch: two forward passes must agree, and logits must not be probabilities.

        Fills `warnings`; raises `EvaluationError` when a forward pass fails.
        """
        batch = self._images(list(indices)[: self.slots]).to(self.device)
        with frozen(self.classifier), torch.no_grad():
            try:
                logits = self.classifier(batch)
                again = self.classifier(batch)
            except (RuntimeError, ValueError) as error:
                if is_out_of_memory(error):
                    return
                first_line = str(error).strip().partition("\n")[0]
                raise EvaluationError(
                    f"the model cannot take {self.examples.dataset} images of shape "
                    f"{self.examples.image_shape}: {first_line}."
                ) from error
        self.warnings[:] = getattr(self.classifier.network, "doubts", ())
        scale = logits.abs().amax(1, keepdim=True).clamp_min(1e-12)
        if float(((logits - again) / scale).abs().max()) > 1e-4:
            self.warnings.append(
                "randomised model: two forward passes differ, so one attack run overstates its robustness"
            )
        if bool((logits >= 0).all()) and float((logits.sum(1) - 1).abs().max()) < 1e-5:
            self.warnings.append("probabilities, not logits: the gradient of the cross-entropy is distorted")

    def run(
        self,
        attack: AttackSpec,
        indices: Sequence[int],
        *,
        stop: Callable[[], bool] = lambda: False,
        survivals: Mapping[int, Survival] = MappingProxyType({}),
        survived: Callable[[list[Survival]], None] = lambda found: None,
    ) -> Iterator[list[Outcome]]:
        """Yield outcomes as examples leave; every index comes exactly once unless `stop` says true in between.

        Of a cascade `survived` is told which examples have passed a stage, and `survivals` says so of an earlier
        session, by example: the attack goes on at the next stage. On out-of-memory the number of slots is halved and
        the examples in flight start again; nothing is lost.
        """
        wanted = [int(i) for i in indices]
        if not attack.stages:
            yield from self._whole(attack, wanted, stop)
            return
        size = CASCADE_BLOCK * self.slots
        for begin in range(0, len(wanted), size):
            yield from self._cascade(attack, wanted[begin : begin + size], stop, survivals, survived)
            if stop():
                return

    def _cascade(
        self,
        attack: AttackSpec,
        block: list[int],
        stop: Callable[[], bool],
        survivals: Mapping[int, Survival],
        survived: Callable[[list[Survival]], None],
    ) -> Iterator[list[Outcome]]:
        """All stages on a block of examples, each on those that are left.

        Block by block, so that finished examples come early and a running accuracy means something.
        """
        standing = {i: survivals.get(i, Survival(i, 0, 1, 0, 0, None)) for i in block}
        for number, stage in enumerate(attack.stages):
            todo = [i for i, state in standing.items() if state.stages == number]
            for outcomes in self._whole(stage, todo, stop):
                passed: list[Survival] = []
                done: list[Outcome] = []
                for outcome in outcomes:
                    before = standing.pop(outcome.example)
                    after = _after(before, outcome)
                    if outcome.robust and number + 1 < len(attack.stages):
                        standing[outcome.example] = after
                        passed.append(after)
                    else:
                        broken = outcome.broken_at_step is not None
                        done.append(
                            replace(
                                outcome,
                                forwards=after.forwards,
                                backwards=after.backwards,
                                zero_gradient_steps=after.zero_gradient_steps,
                                margin=after.margin if outcome.robust else outcome.margin,
                                stage=_named(stage, attack) if broken else None,
                            )
                        )
                if passed:
                    survived(passed)
                yield done
            if stop():
                return

    def _whole(self, attack: AttackSpec, indices: list[int], stop: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """One attack to its end."""
        pending = dict.fromkeys(indices)
        with frozen(self.classifier):
            while pending:
                try:
                    for outcomes in self._attempt(attack, list(pending)):
                        for outcome in outcomes:
                            del pending[outcome.example]
                        yield outcomes
                        if stop():
                            return
                    break
                except (RuntimeError, MemoryError) as error:
                    if "does not require grad" in str(error):
                        raise EvaluationError(
                            "the model's output has no gradient with respect to its input (torch.no_grad or detach in "
                            "its forward?), and this attack needs one."
                        ) from error
                    if not is_out_of_memory(error):
                        raise
                if self.slots == 1:
                    raise DeviceError(f"{self.device} ran out of memory with a single example: use a smaller model.")
                self.slots = max(1, self.slots // 2)
                self._forwarding = None
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()

    def _attempt(self, attack: AttackSpec, indices: list[int]) -> Iterator[list[Outcome]]:
        if libraries.is_foreign(attack.name):
            yield from self._foreign(attack, indices)
            return
        pixel = attack.threat_space == "pixel"
        # Slots without an example would cost what slots with one do.
        slots = min(self.slots, len(indices))
        kernel = registry.kernel(attack)
        judge = self.classifier if pixel else self.classifier.logits_of_normalized
        forward: Forward = judge
        rounding = None
        if self.surrogate is not None and attack.surrogate is not None:
            forward = self.surrogate if pixel else self.surrogate.logits_of_normalized
        elif not (how := self._how(attack, indices)).plan.exact:
            forward = how.forward if pixel else how.of_normalized
            rounding = forwarding.ROUNDING if how.plan.precision == "float32" else None
        engine = SlotEngine(
            forward,
            kernel,
            slots=slots,
            device=self.device,
            classes=self.examples.n_classes,
            judge=judge if forward is not judge else None,
            rounding=rounding,
            transfer=attack.surrogate is not None,
            transform=(lambda images: images) if pixel else self.classifier.normalize,
            enforce_ball=pixel,
            keep=self.keep,
        )
        settled: list[Outcome] = []

        def stream() -> Iterator[Work]:
            for index, image in self._with_clean(indices, attack, slots):
                if image is None or self._needs_no_attack(index, attack):
                    settled.append(self._settled(index))
                else:
                    yield self._work(index, image)

        for outcomes in engine.run(stream()):
            self.rows_forward += engine.rows_forward
            self.rows_backward += engine.rows_backward
            engine.rows_forward = engine.rows_backward = 0
            yield [*settled, *outcomes]
            settled.clear()
        if settled:
            yield settled

    def _foreign(self, attack: AttackSpec, indices: list[int]) -> Iterator[list[Outcome]]:
        """An attack of another library, chunk by chunk."""
        from models.attacks.adapters import Adapter

        adapter = Adapter(attack, keep=self.keep)
        for chunk in adapter.chunks(indices):
            labels = torch.from_numpy(self.examples.labels[chunk])
            yield adapter.run(self.classifier, self._images(chunk), labels, chunk, self.device)
            self.rows_forward += adapter.rows_forward
            self.rows_backward += adapter.rows_backward
            adapter.rows_forward = adapter.rows_backward = 0

    def compute_as(self, how: str) -> None:
        """Compute the network as an earlier session did, in the words of `how`, as far as that is left to `auto`: so an
        evaluation that is continued rounds as it did before. What cannot be done so here is chosen anew.
        """
        asked, before = self.speed, Plan.parse(how)
        free = {name: getattr(asked, name) == "auto" for name in ("compile", "channels_last", "fold")}
        if before.precision != forwarding.precision_for(asked.precision, self.device) or not all(free.values()):
            return
        with contextlib.suppress(EvaluationError, RuntimeError):
            self.how, self._forwarding = how, Forwarding(self.classifier, before, self.slots)

    def _how(self, attack: AttackSpec, indices: list[int]) -> Forwarding:
        """How the network is computed in this evaluator: decided once, at the first attack."""
        if self._forwarding is None and self.speed == EXACT:
            self.how, self._forwarding = str(Plan()), Forwarding(self.classifier, Plan(), self.slots)
        if self._forwarding is None:
            batch = self._images(indices[: self.slots]).to(self.device)
            plan, self.how = forwarding.choose(self.classifier, batch, self.speed, self.work_ahead / self.slots)
            self._forwarding = Forwarding(self.classifier, plan, self.slots)
        if attack.verdict == "closest":
            # What comes closest lies on the border, where only the network itself can tell.
            return Forwarding(self.classifier, Plan(), self.slots)
        return self._forwarding

    def _with_clean(self, indices: list[int], attack: AttackSpec, slots: int) -> Iterator[tuple[int, Tensor | None]]:
        """The same indices, each with its image and with its clean prediction at hand, computed a batch ahead.

        An image is read once, for its clean prediction and the attack on it; None for an example that needs neither.
        """
        blocks = [indices[begin : begin + slots] for begin in range(0, len(indices), slots)]
        for block, following in zip(blocks, [*blocks[1:], []], strict=True):
            wanted = [i for i in block if not self._needs_no_attack(i, attack)]
            images = self._images(wanted)
            self.examples.prefetch([i for i in following if not self._needs_no_attack(i, attack)])
            row_of = {i: row for row, i in enumerate(wanted)}
            missing = [i for i in wanted if i not in self.clean.predictions]
            if missing:
                self._predict(missing, images[[row_of[i] for i in missing]], slots)
            for i in block:
                yield i, images[row_of[i]] if i in row_of else None

    def _predict(self, indices: list[int], images: Tensor, slots: int) -> None:
        """Put the clean predictions for some examples where they are kept; at most as many as there are slots."""
        labels = torch.from_numpy(self.examples.labels[indices]).to(self.device)
        images = images.to(self.device)
        padding = slots - len(indices)
        with torch.no_grad():
            logits = self.classifier(torch.cat([images, images[:1].expand(padding, *images.shape[1:])]))
        logits = logits[: len(indices)]
        predictions, rank, finite = judgements(logits, labels)
        self.clean.infinite.update(i for i, ok in zip(indices, finite, strict=True) if not ok)
        self.clean.predictions.update(zip(indices, predictions, strict=True))
        self.clean.ranks.update(zip(indices, rank, strict=True))
        self.clean.margins.update(zip(indices, margins(logits, labels).tolist(), strict=True))
        # A stable sort puts the lower of two equal classes first, as argmax does.
        top = logits.sort(dim=1, descending=True, stable=True).indices[:, :TOP_CLASSES]
        self.clean.top.update(zip(indices, map(tuple, top.tolist()), strict=True))
        self.clean.least.update(zip(indices, logits.argmin(1).tolist(), strict=True))

    def _needs_no_attack(self, index: int, attack: AttackSpec) -> bool:
        """Whether an example is settled by its clean prediction: it is wrong, or the logits are not finite."""
        if index not in self.clean.predictions:
            return False
        wrong = self.clean.predictions[index] != int(self.examples.labels[index])
        return index in self.clean.infinite or (attack.verdict != "last" and wrong)

    def _images(self, indices: list[int]) -> Tensor:
        return torch.from_numpy(self.examples.pixels(indices))

    def _work(self, index: int, image: Tensor) -> Work:
        return Work(
            index=index,
            image=image,
            label=int(self.examples.labels[index]),
            clean_prediction=self.clean.predictions[index],
            clean_margin=self.clean.margins[index],
            clean_rank=self.clean.ranks[index],
            top=self.clean.top[index],
            least=self.clean.least[index],
        )

    def _settled(self, index: int) -> Outcome:
        """An example that needs no attack: misclassified as it is, or without finite logits."""
        infinite = index in self.clean.infinite
        label, prediction = int(self.examples.labels[index]), self.clean.predictions[index]
        return Outcome(
            example=index,
            label=label,
            clean_prediction=prediction,
            adversarial_prediction=None if infinite else prediction,
            clean_correct=not infinite and prediction == label,
            robust=None if infinite else False,
            broken_at_step=None,
            broken_at_restart=None,
            distance=None if infinite else 0.0,
            clean_margin=None if infinite else self.clean.margins[index],
            margin=None if infinite else self.clean.margins[index],
            forwards=1,
            backwards=0,
            zero_gradient_steps=0,
            error="non-finite logits on the clean image" if infinite else None,
            clean_rank=None if infinite else self.clean.ranks[index],
            rank=None if infinite else self.clean.ranks[index],
        )


def _named(stage: AttackSpec, attack: AttackSpec) -> str:
    """A stage by name, or of a ladder, whose stages are one attack, with its eps."""
    return f"{stage.name} {stage.eps}" if attack.name == "sweep" else stage.name


def _after(before: Survival, outcome: Outcome) -> Survival:
    """What an example has been through after one more stage. The clean prediction is counted once."""
    margins_ = [m for m in (before.margin, outcome.margin) if m is not None]
    return Survival(
        outcome.example,
        before.stages + 1,
        before.forwards + outcome.forwards - 1,
        before.backwards + outcome.backwards,
        before.zero_gradient_steps + outcome.zero_gradient_steps,
        min(margins_, default=None),
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left."""
    kinds = (MemoryError, torch.OutOfMemoryError) if hasattr(torch, "OutOfMemoryError") else (MemoryError,)
    text = str(error)
    return isinstance(error, kinds) or "can't allocate memory" in text or "out of memory" in text.lower()
