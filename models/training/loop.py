"""The training loop: seeded, repeatable, and resumed from the last whole epoch after an interruption."""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.architectures import registry
from models.classifier import Classifier
from models.datasets.registry import Dataset, Examples
from models.errors import InvalidSpec, ModelsError
from models.specs import ArchitectureSpec, digest
from models.training import averaging, feeding
from models.training.adversarial import Adversary, one_step_gap, robust_divergence
from models.training.augment import augment, crop_area
from models.training.recipes import Recipe
from models.training.schedules import held_rate
from models.weights.files import write_atomically

#: Raised when the loop changes in a way that changes what a seed gives.
LOOP_REVISION = 2


class TrainingError(ModelsError):
    """Training went wrong in a way that more epochs will not mend."""


@dataclass(frozen=True)
class EpochReport:
    """What is known after an epoch. `loss` and `accuracy` (percent) are those of the training batches as the network
    saw them: augmented, and perturbed where the recipe has an adversary. `warning` is a sentence for the person.
    """

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    seconds: float
    resumed: bool = False
    warning: str | None = None


@dataclass(frozen=True)
class TrainingPlan:
    """All that decides which weights come out."""

    architecture: ArchitectureSpec
    dataset: Dataset
    recipe: Recipe
    seed: int
    fingerprint: str
    #: SHA-256 of parts that are trained already and stand still: the members of an ensemble whose combiner learns.
    members: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        return digest(
            {
                "architecture": self.architecture.canonical,
                "dataset": self.fingerprint,
                "recipe": self.recipe.to_dict(),
                "seed": self.seed,
                "revision": LOOP_REVISION,
            }
            | ({"members": list(self.members)} if self.members else {})
        )


def train(
    plan: TrainingPlan,
    examples: Examples,
    *,
    device: str,
    checkpoint: Path,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    build: Callable[[], Classifier] | None = None,
) -> Classifier:
    """Train from scratch, or go on where `checkpoint` left off; returns the classifier in evaluation mode.

    `build` makes the classifier to begin with, where that is not the architecture's freshly drawn one; parameters of it
    that require no gradient stay as they are.

    Where the recipe averages the weights, the averaged ones are returned. The checkpoint is written after every epoch
    and is the caller's to delete once the weights are safe. Global random state is left as it was. Raises
    `TrainingError` when the loss stops being finite, `InvalidSpec` when the recipe does not suit network or device.
    """
    where = torch.device(device)
    recipe = plan.recipe
    if recipe.precision == "float16" and where.type != "cuda":
        raise InvalidSpec(
            f"precision float16 needs a CUDA device, and this is {where.type}: use precision=bfloat16 or float32."
        )
    cuda = [where.index or 0] if where.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), _repeatable_kernels():
        torch.manual_seed(plan.seed)
        trainee = Trainee((build() if build else _build(plan)).to(where), recipe)
        begin, last = _resume(checkpoint, plan.identity, recipe.epochs, trainee, where)
        if last is not None:
            on_epoch(last)
        limits = plan.dataset.augmentation
        # Photographs are cropped as they are read, out of all that the file shows.
        crop = crop_area(recipe, limits) if limits.kind == "random-resized-crop" else 0.0
        images = feeding.feed(examples, where, crop=crop)
        for epoch in range(begin, recipe.epochs):
            started = time.perf_counter()
            # Every epoch has its own seed, so a resumed run draws what an uninterrupted one would have drawn.
            seed = int(digest([plan.seed, epoch]), 16) % 2**63
            loss, accuracy, warning = trainee.epoch(epoch, images, examples.labels, plan.dataset, seed)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss} in epoch {epoch + 1}: train with a smaller --lr (it is {recipe.lr})."
                )
            seconds = time.perf_counter() - started
            report = EpochReport(epoch + 1, recipe.epochs, loss, accuracy, seconds, warning=warning)
            _save(checkpoint, plan.identity, trainee, report)
            on_epoch(report)
    return trainee.finished()


def accuracy(classifier: Classifier, examples: Examples, *, device: str, batch_size: int = 256) -> float:
    """Clean accuracy in percent."""
    right = 0
    classifier.eval()
    positions = _split(np.arange(len(examples)), batch_size)
    batches = feeding.feed(examples, torch.device(device), once=True).batches(positions)
    with torch.no_grad():
        for chosen, images in zip(positions, batches, strict=True):
            predictions = classifier(images).argmax(1).cpu().numpy()
            right += int((predictions == examples.labels[chosen]).sum())
    return 100.0 * right / len(examples)


class Trainee:
    """A classifier with all that changes while it learns: optimizer, loss scale, averaged weights."""

    def __init__(self, classifier: Classifier, recipe: Recipe) -> None:
        self.classifier = classifier
        self.recipe = recipe
        self.adversary = Adversary.of(recipe)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self.optimizer = _optimizer(classifier.network, recipe)
        # Gradients of float16 are scaled, or the small ones would vanish; otherwise this does nothing.
        self.scaler = torch.amp.GradScaler("cuda", enabled=recipe.precision == "float16")
        self.average = averaging.average_of(classifier.network, recipe.ema_decay) if recipe.ema_decay else None

    def epoch(
        self, epoch: int, feed: feeding.Feed, labels: NDArray[np.int64], dataset: Dataset, seed: int
    ) -> tuple[float, float, str | None]:
        """One pass over the images: mean loss, accuracy in percent, and what a person should be warned of.

        All that is random in it follows from `seed`; torch's global generators are seeded.
        """
        recipe, classifier = self.recipe, self.classifier
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        classifier.train()
        _set_drop_path(classifier.network, recipe.drop_path * epoch / recipe.epochs)
        order = torch.randperm(len(labels), generator=generator).numpy()
        positions = _split(order, recipe.batch_size)
        if len(positions) > 1 and len(positions[-1]) == 1:
            # BatchNorm has no variance over one example of a 1x1 map.
            del positions[-1]
        losses, right, seen = [], [], []
        probe: tuple[Tensor, Tensor] | None = None
        for step, (chosen, batch) in enumerate(zip(positions, feed.batches(positions, seed), strict=True)):
            if recipe.per_step or step == 0:
                begins, lasts = (step / len(positions), 1 / len(positions)) if recipe.per_step else (0, 1)
                rate = held_rate(recipe, epoch + begins, lasts)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
            targets = torch.from_numpy(labels[chosen]).to(batch.device)
            images = augment(batch, recipe, dataset.augmentation, generator)
            if step == 0 and self.adversary is not None and self.adversary.steps == 1:
                probe = images, targets
            loss, logits = self._step(images, targets)
            losses.append(loss)
            right.append((logits.argmax(1) == targets).sum())
            seen.append(len(chosen))
        # One transfer an epoch: a GPU need not wait for every step's numbers.
        weighted = np.dot(torch.stack(losses).double().cpu().numpy(), seen)
        accuracy = 100.0 * int(torch.stack(right).sum()) / sum(seen)
        return float(weighted) / sum(seen), accuracy, self._overfitting(probe)

    def finished(self) -> Classifier:
        """The classifier in evaluation mode, with the averaged weights where there are any."""
        if self.average is not None:
            averaging.take_over(self.classifier.network, self.average)
        return self.classifier.eval()

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold for the training to go on as if nothing had happened."""
        return {
            "network": self.classifier.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
        }

    def restore(self, content: dict[str, Any]) -> None:
        self.classifier.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content.get("scaler") or {})
        if self.average is not None:
            self.average.load_state_dict(content["average"])

    def _step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the optimizer; the loss without the auxiliary head's, and the logits (n, classes)."""
        with self._precision(images.device):
            perturbed = self.adversary.perturb(self.classifier, images, labels) if self.adversary else images
        # Another context: what the adversary's forward passes cast to lower precision is not kept for this one.
        with self._precision(images.device):
            loss, auxiliary_loss, logits = self._losses(images, perturbed, labels)
            total = loss + self.recipe.auxiliary_weight * auxiliary_loss
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(total))
        if self.recipe.gradient_clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.classifier.parameters(), self.recipe.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.classifier.network)
        return loss.detach(), logits.detach()

    def _losses(self, images: Tensor, perturbed: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | float, Tensor]:
        """The loss, that of the auxiliary heads, and the logits of what the adversary made of the images."""
        if self.adversary is None or self.adversary.method != "trades":
            logits, auxiliary = self._outputs(perturbed)
            loss: Tensor = self.criterion(logits, labels)
        else:
            clean, auxiliary = self._outputs(images)
            logits, _ = self._outputs(perturbed)
            loss = self.criterion(clean, labels) + self.adversary.beta * robust_divergence(clean, logits)
        return loss, sum(self.criterion(output, labels) for output in auxiliary), logits

    def _outputs(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the logits of each auxiliary head that the network has."""
        output = self.classifier.network(self.classifier.normalize(images))
        if not isinstance(output, tuple):
            return output, []
        return output[0], [o for o in output[1:] if isinstance(o, Tensor)]

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        if self.recipe.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=getattr(torch, self.recipe.precision))

    def _overfitting(self, probe: tuple[Tensor, Tensor] | None) -> str | None:
        if self.adversary is None or probe is None:
            return None
        gap = one_step_gap(self.classifier, *probe, self.adversary)
        if not gap.collapsed:
            return None
        return (
            f"catastrophic overfitting: a training batch keeps {gap}. These weights only withstand the step they were "
            "trained with; use adversary=pgd, a smaller adversary_eps or fewer epochs."
        )


def _build(plan: TrainingPlan) -> Classifier:
    dataset = plan.dataset
    auxiliary = plan.recipe.auxiliary_weight > 0
    if auxiliary and not registry.find(plan.architecture.name).auxiliary:
        raise InvalidSpec(f"{plan.architecture.name} has no auxiliary head: use --set-recipe auxiliary_weight=0.")
    network = registry.build(
        plan.architecture, num_classes=dataset.n_classes, in_channels=dataset.image_shape[0], auxiliary=auxiliary
    )
    check = getattr(network, "check_auxiliary", None)
    if auxiliary and check is not None:
        check(dataset.image_shape)
    return Classifier(network, dataset.preprocessing, dataset.n_classes)


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    learning = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": learning}]
    if recipe.no_weight_decay:
        # Biases and the weights of normalisation layers are vectors; all other weights have more dimensions.
        vectors = [p for p in learning if p.ndim <= 1]
        groups = [
            {"params": [p for p in learning if p.ndim > 1]},
            {"params": vectors, "weight_decay": 0.0},
        ]
    if recipe.optimizer == "adamw":
        betas = (recipe.momentum, 0.999)
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=betas, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay
    )


def _set_drop_path(network: nn.Module, probability: float) -> None:
    """Every network that drops paths has the probability as a number `drop_path`: alone or as a member of another."""
    for module in network.modules():
        if isinstance(getattr(module, "drop_path", None), float | int):
            module.drop_path = probability  # type: ignore[assignment]


def _split(positions: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [positions[i : i + size] for i in range(0, len(positions), size)]


@contextlib.contextmanager
def _repeatable_kernels() -> Iterator[None]:
    """Kernels that give the same result each time, where a GPU has the choice."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def _save(checkpoint: Path, identity: str, trainee: Trainee, report: EpochReport) -> None:
    content = {
        "identity": identity,
        "epoch": report.epoch,
        "loss": report.loss,
        "accuracy": report.accuracy,
        "warning": report.warning,
        **trainee.state(),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(checkpoint, buffer.getvalue())


def _resume(
    checkpoint: Path, identity: str, epochs: int, trainee: Trainee, device: torch.device
) -> tuple[int, EpochReport | None]:
    """The epoch to begin with, after loading a checkpoint of the same plan; 0 when there is none that can be used."""
    if not checkpoint.exists():
        return 0, None
    try:
        content: dict[str, Any] = torch.load(checkpoint, map_location=device, weights_only=True)
        if content["identity"] != identity:
            return 0, None
        trainee.restore(content)
        epoch = int(content["epoch"])
        report = EpochReport(
            epoch,
            epochs,
            float(content["loss"]),
            float(content["accuracy"]),
            0.0,
            resumed=True,
            warning=content.get("warning"),
        )
    except Exception as error:
        raise TrainingError(
            f"the checkpoint {checkpoint} cannot be read ({str(error).partition(chr(10))[0]}): "
            "delete it to start again."
        ) from None
    return epoch, report
