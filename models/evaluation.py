"""Model + examples + attack -> a stream of outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.attacks import registry
from models.attacks.engine import Outcome, SlotEngine, Work, judgements, margins
from models.classifier import Classifier, frozen
from models.datasets.registry import Examples
from models.errors import DeviceError, EvaluationError
from models.specs import AttackSpec

#: Slots when nobody chose: at least the first number; on small images as many as have this many pixels together, at
#: most the last.
LEAST_SLOTS, PIXELS_A_BATCH, MOST_SLOTS = 64, 64 * 32 * 32, 256


def default_slots(image_shape: tuple[int, ...]) -> int:
    """Slots for images (C, H, W), a power of two: a batch of tiny images would leave the machine waiting for Python."""
    pixels = image_shape[1] * image_shape[2]
    return min(MOST_SLOTS, max(LEAST_SLOTS, 1 << (PIXELS_A_BATCH // pixels).bit_length() - 1))


@dataclass
class CleanPass:
    """Predictions without any attack, by position in the split: filled as examples are first needed."""

    predictions: dict[int, int] = field(default_factory=dict)
    margins: dict[int, float] = field(default_factory=dict)
    ranks: dict[int, int] = field(default_factory=dict)
    #: Examples whose clean logits are not finite.
    infinite: set[int] = field(default_factory=set)


class Evaluator:
    """One model on one split of one dataset; attacks share the clean predictions.

    Raises `EvaluationError` when model and data do not fit each other or the logits cannot be believed.
    """

    def __init__(
        self, classifier: Classifier, examples: Examples, *, device: str = "cpu", slots: int | None = None
    ) -> None:
        self.device = torch.device(device)
        self.classifier = classifier.to(self.device)
        self.examples = examples
        self.slots = slots or default_slots(examples.image_shape)
        self.clean = CleanPass()
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
        self.warnings.clear()
        scale = logits.abs().amax(1, keepdim=True).clamp_min(1e-12)
        if float(((logits - again) / scale).abs().max()) > 1e-4:
            self.warnings.append(
                "randomised model: two forward passes differ, so one attack run overstates its robustness"
            )
        if bool((logits >= 0).all()) and float((logits.sum(1) - 1).abs().max()) < 1e-5:
            self.warnings.append("probabilities, not logits: the gradient of the cross-entropy is distorted")

    def run(
        self, attack: AttackSpec, indices: Sequence[int], *, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[list[Outcome]]:
        """Yield outcomes as examples leave; every index comes exactly once unless `stop` says true in between.

        On out-of-memory the number of slots is halved and the examples in flight start again; nothing is lost.
        """
        pending = dict.fromkeys(int(i) for i in indices)
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
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()

    def _attempt(self, attack: AttackSpec, indices: list[int]) -> Iterator[list[Outcome]]:
        pixel = attack.threat_space == "pixel"
        # Slots without an example would cost what slots with one do.
        slots = min(self.slots, len(indices))
        engine = SlotEngine(
            self.classifier if pixel else self.classifier.logits_of_normalized,
            registry.kernel(attack),
            slots=slots,
            device=self.device,
            transform=(lambda images: images) if pixel else self.classifier.normalize,
            enforce_ball=pixel,
        )
        settled: list[Outcome] = []

        def stream() -> Iterator[Work]:
            for index, image in self._with_clean(indices, attack, slots):
                if image is None or self._needs_no_attack(index, attack):
                    settled.append(self._settled(index))
                else:
                    yield self._work(index, image)

        for outcomes in engine.run(stream()):
            yield [*settled, *outcomes]
            settled.clear()
        if settled:
            yield settled

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

    def _needs_no_attack(self, index: int, attack: AttackSpec) -> bool:
        """Whether an example is settled by its clean prediction: it is wrong, or the logits are not finite."""
        if index not in self.clean.predictions:
            return False
        wrong = self.clean.predictions[index] != int(self.examples.labels[index])
        return index in self.clean.infinite or (attack.verdict == "worst" and wrong)

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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left."""
    kinds = (MemoryError, torch.OutOfMemoryError) if hasattr(torch, "OutOfMemoryError") else (MemoryError,)
    text = str(error)
    return isinstance(error, kinds) or "can't allocate memory" in text or "out of memory" in text.lower()
