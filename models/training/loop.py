"""The training loop: seeded, repeatable, and resumed from the last whole epoch after an interruption."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.architectures import registry
from models.architectures.cells import AuxiliaryHead, CellNetwork
from models.classifier import Classifier
from models.datasets.registry import Dataset, Examples
from models.errors import InvalidSpec, ModelsError
from models.specs import ArchitectureSpec, digest
from models.training.augment import augment
from models.training.recipes import Recipe
from models.weights.files import write_atomically

#: Raised when the loop changes in a way that changes what a seed gives.
LOOP_REVISION = 1


class TrainingError(ModelsError):
    """Training went wrong in a way that more epochs will not mend."""


@dataclass(frozen=True)
class EpochReport:
    """What is known after an epoch. `loss` and `accuracy` (percent) are those of the augmented training batches."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    seconds: float
    resumed: bool = False


@dataclass(frozen=True)
class TrainingPlan:
    """All that decides which weights come out."""

    architecture: ArchitectureSpec
    dataset: Dataset
    recipe: Recipe
    seed: int
    fingerprint: str

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
        )


def train(
    plan: TrainingPlan,
    examples: Examples,
    *,
    device: str,
    checkpoint: Path,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> Classifier:
    """Train from scratch, or go on where `checkpoint` left off; returns the classifier in evaluation mode.

    The checkpoint is written after every epoch and is the caller's to delete once the weights are safe. Global random
    state is left as it was. Raises `TrainingError` when the loss stops being finite.
    """
    where = torch.device(device)
    recipe = plan.recipe
    cuda = [where.index or 0] if where.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(plan.seed)
        classifier = _build(plan).to(where)
        network = classifier.network
        optimizer = torch.optim.SGD(
            network.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
        begin, last = _resume(checkpoint, plan.identity, recipe.epochs, network, optimizer, where)
        if last is not None:
            on_epoch(last)
        images = torch.from_numpy(examples.images).to(where)
        labels = torch.from_numpy(examples.labels).to(where)
        for epoch in range(begin, recipe.epochs):
            started = time.perf_counter()
            # Every epoch has its own seed, so a resumed run draws what an uninterrupted one would have drawn.
            seed = int(digest([plan.seed, epoch]), 16) % 2**63
            torch.manual_seed(seed)
            generator = torch.Generator().manual_seed(seed)
            for group in optimizer.param_groups:
                group["lr"] = 0.5 * recipe.lr * (1 + math.cos(math.pi * epoch / recipe.epochs))
            if isinstance(network, CellNetwork):
                network.drop_path = recipe.drop_path * epoch / recipe.epochs
            loss, accuracy = _epoch(classifier, optimizer, images, labels, recipe, plan.dataset, generator)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss} in epoch {epoch + 1}: train with a smaller --lr (it is {recipe.lr})."
                )
            report = EpochReport(epoch + 1, recipe.epochs, loss, accuracy, time.perf_counter() - started)
            _save(checkpoint, plan.identity, network, optimizer, report)
            on_epoch(report)
    return classifier.eval()


def accuracy(classifier: Classifier, examples: Examples, *, device: str, batch_size: int = 256) -> float:
    """Clean accuracy in percent."""
    right = 0
    classifier.eval()
    with torch.no_grad():
        for begin in range(0, len(examples), batch_size):
            images = torch.from_numpy(np.ascontiguousarray(examples.images[begin : begin + batch_size])).to(device)
            predictions = classifier(images).argmax(1).cpu().numpy()
            right += int((predictions == examples.labels[begin : begin + batch_size]).sum())
    return 100.0 * right / len(examples)


def _build(plan: TrainingPlan) -> Classifier:
    dataset, recipe = plan.dataset, plan.recipe
    auxiliary = recipe.auxiliary_weight > 0
    if auxiliary and dataset.image_shape[1] // 4 != AuxiliaryHead.MAP_SIDE:
        raise InvalidSpec(
            f"the auxiliary head needs images of side {4 * AuxiliaryHead.MAP_SIDE}; {dataset.name} has "
            f"{dataset.image_shape[1]}: use --set-recipe auxiliary_weight=0."
        )
    network = registry.build(
        plan.architecture, num_classes=dataset.n_classes, in_channels=dataset.image_shape[0], auxiliary=auxiliary
    )
    return Classifier(network, dataset.preprocessing, dataset.n_classes)


def _epoch(
    classifier: Classifier,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    dataset: Dataset,
    generator: torch.Generator,
) -> tuple[float, float]:
    classifier.train()
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    order = torch.randperm(len(images), generator=generator).to(images.device)
    total = right = 0.0
    seen = 0
    for begin in range(0, len(order), recipe.batch_size):
        chosen = order[begin : begin + recipe.batch_size]
        if len(chosen) == 1 and len(order) > 1:
            # BatchNorm has no variance over one example of a 1x1 map.
            continue
        batch = augment(images[chosen], recipe, dataset.augmentation, generator)
        output = classifier.network(classifier.normalize(batch))
        logits, auxiliary = output if isinstance(output, tuple) else (output, None)
        loss = criterion(logits, labels[chosen])
        total += loss.item() * len(chosen)
        right += (logits.argmax(1) == labels[chosen]).sum().item()
        seen += len(chosen)
        if auxiliary is not None:
            loss = loss + recipe.auxiliary_weight * criterion(auxiliary, labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.gradient_clip:
            nn.utils.clip_grad_norm_(classifier.parameters(), recipe.gradient_clip)
        optimizer.step()
    return total / seen, 100.0 * right / seen


def _save(
    checkpoint: Path, identity: str, network: nn.Module, optimizer: torch.optim.Optimizer, report: EpochReport
) -> None:
    content = {
        "identity": identity,
        "epoch": report.epoch,
        "loss": report.loss,
        "accuracy": report.accuracy,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(checkpoint, buffer.getvalue())


def _resume(
    checkpoint: Path,
    identity: str,
    epochs: int,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> tuple[int, EpochReport | None]:
    """The epoch to begin with, after loading a checkpoint of the same plan; 0 when there is none that can be used."""
    if not checkpoint.exists():
        return 0, None
    try:
        content: dict[str, Any] = torch.load(checkpoint, map_location=device, weights_only=True)
        if content["identity"] != identity:
            return 0, None
        network.load_state_dict(content["network"])
        optimizer.load_state_dict(content["optimizer"])
        epoch = int(content["epoch"])
        loss, accuracy = float(content["loss"]), float(content["accuracy"])
    except Exception as error:
        raise TrainingError(
            f"the checkpoint {checkpoint} cannot be read ({str(error).partition(chr(10))[0]}): "
            "delete it to start again."
        ) from None
    return epoch, EpochReport(epoch, epochs, loss, accuracy, 0.0, resumed=True)
