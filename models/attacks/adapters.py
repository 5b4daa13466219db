"""Attacks of other libraries, run on batches and judged by our own forward pass.

They are no slot attacks: a library takes a batch and returns images. So examples go to it in chunks of a fixed size,
each with a random state of its own, and a run that goes on after a chunk ends as one that was never stopped. What a
library says of its success counts for nothing: its images are held against the eps ball and the range of pixels, and
the model predicts them in float32.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.attacks import norms
from models.attacks.engine import BALL_TOLERANCE
from models.attacks.libraries import BATCH, LIBRARY, Foreign, find
from models.attacks.slots import Outcome, Work, judgements, margins
from models.classifier import Classifier, frozen
from models.errors import DeviceError, EvaluationError
from models.evaluation import is_out_of_memory
from models.specs import AttackSpec

#: Pixels may leave [0, 1] by so much, which is far less than a grey level: some libraries compute them as hyperbolic
#: tangents. They are cut off before the image is judged; more is an error of the attack.
RANGE_TOLERANCE = 1e-4


class Counted(nn.Module):
    """A classifier that counts the rows that go through it, forward and backward. Takes float64 too, as float32."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        self.rows_forward = 0
        self.rows_backward = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows_forward += len(x)
        logits: Tensor = self.classifier(x.float())
        if logits.requires_grad:
            logits.register_hook(self._count)  # type: ignore[no-untyped-call]
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.rows_backward += len(gradient)


class Adapter:
    """One attack of another library in one configuration.

    Raises `InvalidSpec` when the library is missing, and `EvaluationError` when it has another version than the
    configuration: then results would not be those that were asked for. `keep` is handed every adversarial example that
    broke one: dataset index, image (C, H, W), predicted class.
    """

    def __init__(self, spec: AttackSpec, *, keep: Callable[[int, Tensor, int], None] | None = None) -> None:
        self.spec = spec
        self.keep = keep
        #: Rows pushed through the network so far.
        self.rows_forward = self.rows_backward = 0
        self.attack = find(spec.name)
        wanted, here = spec.setting(LIBRARY), self.attack.library.version
        if wanted != here:
            raise EvaluationError(
                f"{spec.name} was asked for with {wanted}, but {here} is installed: ask for it again."
            )

    def chunks(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """The indices in the portions that `run` takes. What is left after some whole portions is portioned alike."""
        size = int(self.spec.number(BATCH))
        for begin in range(0, len(indices), size):
            yield [int(index) for index in indices[begin : begin + size]]

    def run(
        self, classifier: Classifier, images: Tensor, labels: Tensor, indices: Sequence[int], device: torch.device
    ) -> list[Outcome]:
        """Attack one chunk: images (n, C, H, W) in [0, 1] and labels (n,) of the examples `indices`.

        An example is robust if it is classified right, and so is the image that the library made of it. The library
        says nothing of steps, so the outcomes have none; passes are an example's share of the chunk's. Raises
        `EvaluationError` when the library fails, or when an image leaves the ball of an attack that takes an eps. Of an
        attack that does not, such an image is no success: the clean one stands.
        """
        images, labels = images.to(device), labels.to(device)
        with frozen(classifier):
            logits = self._logits(classifier, images)
            predictions, rank, finite = judgements(logits, labels)
            columns = (indices, images, labels.tolist(), predictions, margins(logits, labels).tolist(), rank)
            works = [Work(int(index), *row) for index, *row in zip(*columns, strict=True)]
            found = {
                row: _outcome(work, clean=False, error="non-finite logits on the clean image")
                for row, work in enumerate(works)
                if not finite[row]
            }
            rows = [row for row in range(len(works)) if finite[row]]
            if rows:
                attacked = self._attacked(classifier, [works[row] for row in rows], device)
                found |= zip(rows, self._judged(classifier, [works[row] for row in rows], attacked), strict=True)
        return [found[row] for row in range(len(works))]

    def _logits(self, classifier: Classifier, x: Tensor) -> Tensor:
        self.rows_forward += len(x)
        with torch.no_grad():
            logits: Tensor = classifier(x)
        return logits

    def _attacked(self, classifier: Classifier, works: Sequence[Work], device: torch.device) -> Tensor:
        """The images that the library makes of the examples (n, C, H, W); what that cost goes to their accounts."""
        images = torch.stack([work.image for work in works])
        labels = torch.tensor([work.label for work in works], device=device)
        counted = Counted(classifier).eval()
        given = {
            "model": counted,
            "classes": classifier.num_classes,
            "device": device,
            "seed": self.spec.seed,
            "batch": len(works),
        }
        with _quiet(), _random_state(self.spec, works[0].index):
            try:
                run = RUNNERS[self.attack.library.name]
                made = torch.as_tensor(run(self.attack, self.spec, given, images.clone(), labels.clone()))
            except Exception as error:
                if is_out_of_memory(error):
                    raise DeviceError(
                        f"{device} ran out of memory with {len(works)} examples of {self.spec.name} at a time: ask for "
                        f"fewer with {BATCH}={max(1, len(works) // 4)}."
                    ) from error
                line = str(error).strip().partition("\n")[0]
                raise EvaluationError(f"{self.spec.name} failed with {type(error).__name__}: {line}") from error
        if made.shape != images.shape:
            raise EvaluationError(
                f"{self.spec.name} returned images of shape {tuple(made.shape)} for {tuple(images.shape)}."
            )
        self.rows_forward += counted.rows_forward
        self.rows_backward += counted.rows_backward
        for place, work in enumerate(works):
            work.forwards += _share(counted.rows_forward, len(works), place)
            work.backwards += _share(counted.rows_backward, len(works), place)
        return made.detach().to(device, torch.float32)

    def _judged(self, classifier: Classifier, works: Sequence[Work], attacked: Tensor) -> list[Outcome]:
        """Outcomes from the images that the library returned."""
        clean = torch.stack([work.image for work in works])
        labels = torch.tensor([work.label for work in works], device=clean.device)
        whole = torch.isfinite(attacked).flatten(1).all(1)
        # What cannot be judged is replaced, so that the forward pass meets nothing strange.
        inside = torch.where(norms.rows(whole, attacked), attacked, clean).clamp(0, 1)
        beyond = (attacked - inside).abs().flatten(1).amax(1).tolist()
        logits = self._logits(classifier, inside)
        predictions, rank, finite = judgements(logits, labels)
        distances = norms.length(inside - clean, self.spec.norm).tolist()
        margin, usable = margins(logits, labels).tolist(), whole.tolist()
        found = []
        for row, work in enumerate(works):
            work.forwards += 1
            near = self._near(distances[row])
            if not usable[row]:
                found.append(_outcome(work, error=f"{self.spec.name} returned an image with non-finite pixels"))
            elif not finite[row]:
                found.append(_outcome(work, error="non-finite logits under attack"))
            elif beyond[row] > RANGE_TOLERANCE:
                raise EvaluationError(self._left("the range of pixels", work, f"by {beyond[row]:.9f}"))
            elif self.attack.bounded and not near:
                raise EvaluationError(
                    self._left("its eps ball", work, f"distance {distances[row]:.9f}, eps {self.spec.eps.value:.9f}")
                )
            elif not near:
                found.append(_beyond(work))
            else:
                if self.keep and work.clean_prediction == work.label != predictions[row]:
                    self.keep(work.index, inside[row], predictions[row])
                found.append(
                    _outcome(
                        work,
                        robust=predictions[row] == work.label,
                        prediction=predictions[row],
                        margin=margin[row],
                        rank=rank[row],
                        far=distances[row],
                    )
                )
        return found

    def _near(self, distance: float) -> bool:
        """Whether an image counts: sums over many pixels round in proportion to what they add up to."""
        eps = self.spec.eps.value
        return distance <= eps + BALL_TOLERANCE * max(1.0, eps)

    def _left(self, what: str, work: Work, how: str) -> str:
        return (
            f"{self.spec.name} left {what} at example {work.index}: {how}. Such an image counts neither for the model "
            "nor against it, so there is no result; another norm or version of the library may fit."
        )


def _beyond(work: Work) -> Outcome:
    """An attack that takes no eps found nothing so near: what stands is the clean image."""
    return _outcome(work, robust=True, prediction=work.clean_prediction, margin=work.clean_margin, rank=work.clean_rank)


def _share(total: int, count: int, place: int) -> int:
    """What the example at `place` of `count` gets of a total, in whole numbers that add up to it."""
    return total // count + (place < total % count)


def _outcome(
    work: Work,
    *,
    clean: bool = True,
    robust: bool | None = None,
    prediction: int | None = None,
    margin: float | None = None,
    rank: int | None = None,
    far: float | None = None,
    error: str | None = None,
) -> Outcome:
    """The outcome of an example; `clean` is off where not even the clean image has finite logits."""
    correct = clean and work.clean_prediction == work.label
    return Outcome(
        example=work.index,
        label=work.label,
        clean_prediction=work.clean_prediction,
        adversarial_prediction=prediction,
        clean_correct=correct,
        robust=None if robust is None else correct and robust,
        broken_at_step=None,
        broken_at_restart=None,
        distance=far,
        clean_margin=work.clean_margin if clean else None,
        margin=margin,
        forwards=work.forwards,
        backwards=work.backwards,
        zero_gradient_steps=0,
        error=error,
        clean_rank=work.clean_rank if clean else None,
        rank=rank,
    )


def _torchattacks(attack: Foreign, spec: AttackSpec, given: Mapping[str, Any], images: Tensor, labels: Tensor) -> Any:
    made = attack.cls(**attack.arguments(spec, given))
    made.set_device(given["device"])
    return made(images, labels)


def _foolbox(attack: Foreign, spec: AttackSpec, given: Mapping[str, Any], images: Tensor, labels: Tensor) -> Any:
    foolbox = importlib.import_module("foolbox")
    model = foolbox.PyTorchModel(given["model"], bounds=(0, 1), device=given["device"])
    made = attack.cls(**attack.arguments(spec, given))
    repeated = made.repeat(spec.restarts) if spec.restarts > 1 else made
    _, clipped, _ = repeated(model, images, labels, epsilons=spec.eps.value)
    return clipped


def _art(attack: Foreign, spec: AttackSpec, given: Mapping[str, Any], images: Tensor, labels: Tensor) -> Any:
    estimators = importlib.import_module("art.estimators.classification")
    classifier = estimators.PyTorchClassifier(
        model=given["model"],
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=given["classes"],
        clip_values=(0.0, 1.0),
        device_type="gpu" if given["device"].type == "cuda" else "cpu",
    )
    made = attack.cls(**attack.arguments(spec, {**given, "model": classifier}))
    return made.generate(x=images.cpu().numpy(), y=labels.cpu().numpy())


def _reference(attack: Foreign, spec: AttackSpec, given: Mapping[str, Any], images: Tensor, labels: Tensor) -> Any:
    arguments = attack.arguments(spec, given)
    if isinstance(arguments.get("attacks"), str):
        arguments["attacks"] = arguments["attacks"].split("+")
    adversarial, _ = attack.cls(**arguments).run_standard_evaluation(images, labels, batch_size=len(images))
    return adversarial


#: How each library makes a batch of adversarial images.
RUNNERS: Mapping[str, Callable[[Foreign, AttackSpec, Mapping[str, Any], Tensor, Tensor], Any]] = {
    "torchattacks": _torchattacks,
    "foolbox": _foolbox,
    "art": _art,
    "reference": _reference,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What a library prints goes to stderr: stdout is for results. A trace function that it takes away comes back."""
    trace = sys.gettrace()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.settrace(trace)


@contextlib.contextmanager
def _random_state(spec: AttackSpec, first: int) -> Iterator[None]:
    """The libraries draw from global random states: seed them by attack, seed and first example, then put them back."""
    raw = hashlib.sha256(f"{spec.name}:{spec.seed}:{first}".encode()).digest()
    seed = int.from_bytes(raw[:4], "little")
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
        if on_cuda is not None:
            torch.cuda.set_rng_state_all(on_cuda)
