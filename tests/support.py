"""Helpers of the tests that are no fixtures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.attacks import registry
from models.attacks.slots import INDEX, LABEL, TARGET, Outcome, Slots
from models.classifier import Classifier
from models.datasets import registry as datasets
from models.datasets.registry import Examples
from models.evaluation import Evaluator
from models.specs import ArchitectureSpec, AttackSpec, Preprocessing
from models.training import loop, recipes
from models.weights.catalogue import WeightsRecord
from models.weights.files import save_weights


def train_small(folder: Path, name: str, *, epochs: int, seed: int = 0, **options: int) -> Path:
    """Train a small network on digits and save its weights the way the command does."""
    torch.set_num_threads(1)
    dataset = datasets.find("digits")
    examples = datasets.load("digits", "train")
    spec = ArchitectureSpec(name, tuple(options.items()))
    recipe = recipes.load("standard", "digits", {"epochs": epochs})
    plan = loop.TrainingPlan(spec, dataset, recipe, seed, examples.fingerprint)
    classifier = loop.train(plan, examples, device="cpu", checkpoint=folder / "checkpoint.pt")
    path = folder / f"{spec.canonical}-seed{seed}.safetensors"
    save_weights(
        path,
        classifier.network,
        WeightsRecord(
            architecture=spec.canonical,
            dataset="digits",
            dataset_fingerprint=examples.fingerprint,
            num_classes=10,
            in_channels=1,
            mean=dataset.preprocessing.mean,
            std=dataset.preprocessing.std,
            tensors_sha256="",
            origin="trained",
            recipe_name=recipe.name,
            recipe=recipe.to_dict(),
            seed=seed,
        ),
    )
    return path


class Linear(nn.Module):
    """Logits x W^T + b on flattened images, with a record of the shapes it saw."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.bias = nn.Parameter(bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def classifier_of(network: nn.Module, *, classes: int, channels: int = 1) -> Classifier:
    """A network that takes pixels as they are."""
    return Classifier(network, Preprocessing((0.0,) * channels, (1.0,) * channels), classes)


def examples_of(images: Tensor, labels: Tensor, classes: int) -> Examples:
    return Examples(
        dataset="made-up",
        split="test",
        images=images.numpy().astype(np.float32),
        labels=labels.numpy().astype(np.int64),
        n_classes=classes,
        fingerprint="0" * 64,
    )


def outcomes(evaluator: Evaluator, attack: AttackSpec, indices: Iterable[int]) -> dict[int, Outcome]:
    """All outcomes of a run by example."""
    return {o.example: o for batch in evaluator.run(attack, list(indices)) for o in batch}


def attack(name: str, **settings: object) -> AttackSpec:
    return registry.resolve(name, **settings)  # type: ignore[arg-type]


#: Steps that are enough to test an attack's rules with; the published numbers would take minutes.
QUICK_STEPS = {"square": 60, "cw": 12, "deepfool": 10}


def quick(name: str, eps: float, *, shape: tuple[int, ...] = (1, 8, 8), **settings: object) -> AttackSpec:
    """An attack with few steps and targets, at a bound that is as large in its norm, for images of `shape`, as `eps` is
    in L-inf.
    """
    pixels = int(np.prod(shape))
    norm = str(settings.get("norm") or registry.find(name.partition("@")[0]).norm)
    factor = {"Linf": 1.0, "L2": pixels**0.5, "L1": float(pixels)}[norm]
    return _quicker(attack(name, eps=repr(eps * factor), **settings))


def _quicker(spec: AttackSpec) -> AttackSpec:
    few = {"targets": 2, "binary_search_steps": 2, "eot": 2}
    own = tuple((k, min(v, few[k]) if k in few and not isinstance(v, str) else v) for k, v in spec.settings)
    steps = min(spec.steps, QUICK_STEPS.get(spec.name, 10))
    return replace(spec, steps=steps, settings=own, stages=tuple(_quicker(stage) for stage in spec.stages))


def robust(found: dict[int, Outcome]) -> set[int]:
    return {index for index, outcome in found.items() if outcome.robust}


def block(clean: Tensor, labels: Tensor | None = None) -> Slots:
    """Examples 0, 1, ... that begin their first run at their clean images (n, C, H, W)."""
    numbers = torch.zeros(len(clean), 9, dtype=torch.int64)
    numbers[:, INDEX] = torch.arange(len(clean))
    if labels is not None:
        numbers[:, LABEL] = labels
        numbers[:, TARGET] = labels
    return Slots(clean, clean, numbers, clean, torch.full((len(clean),), torch.inf))


def run_attacks(names: Sequence[str]) -> list[AttackSpec]:
    return [attack(name) for name in names]
