"""Small members for ensembles: networks that are trained in a moment, and models in files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from models.architectures import registry
from models.classifier import Classifier
from models.datasets import registry as datasets
from models.datasets.registry import Examples
from models.ensembles.network import Ensemble
from models.specs import Preprocessing
from models.weights.catalogue import WeightsRecord
from models.weights.files import LoadedModel, load_model, save_weights

DIGITS = datasets.find("digits").preprocessing
#: The smallest networks of three families; the first two have BatchNorm everywhere.
CELL, RESNET, LENET = "darts-random-3@init_channels=2,layers=1", "resnet18@width=2", "vgg11-bn@width=2"
RULES = ("mean-logits", "mean-probs", "log-mean", "majority")


def small(seed: int, *, classes: int = 10, smooth: bool = False) -> nn.Module:
    """A convolution with BatchNorm and a linear layer for 8x8 images; without kinks where `smooth`."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh() if smooth else nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, classes),
    )
    assert isinstance(net[1], nn.BatchNorm2d)
    assert net[1].running_mean is not None
    assert net[1].running_var is not None
    net[1].running_mean.normal_(0, 0.1)
    net[1].running_var.uniform_(0.5, 1.5)
    return net


def learned_digits(seed: int, steps: int = 120) -> nn.Module:
    """The same after a second of training on digits: right on nine of ten images."""
    net = small(seed)
    examples = datasets.load("digits", "train")
    images, labels = torch.from_numpy(examples.images.copy()), torch.from_numpy(examples.labels)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(steps):
            chosen = torch.randint(len(labels), (64,))
            logits = net((images[chosen] - DIGITS.mean[0]) / DIGITS.std[0])
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(logits, labels[chosen]))
            optimizer.step()
    return net.eval()


def ensemble(
    members: list[nn.Module],
    combine: str,
    normals: list[Preprocessing | None] | None = None,
    *,
    classes: int = 10,
    width: int = 4,
) -> Ensemble:
    return Ensemble(members, normals or [None] * len(members), combine, classes, width).eval()


def few_digits(n: int = 48, *, split: str = "train") -> Examples:
    digits = datasets.load("digits", split)
    return Examples("digits", split, digits.images[:n], digits.labels[:n], 10, "0" * 64)


def saved(path: Path, architecture: str, *, seed: int = 0, normal: Preprocessing = DIGITS) -> LoadedModel:
    """A model with random tensors, none of them a default, written to a file and read back."""
    torch.manual_seed(seed)
    spec = registry.parse_architecture(architecture)
    network = registry.build(spec, num_classes=10, in_channels=1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    save_weights(path, network, record(spec.canonical, seed=seed, normal=normal))
    return load_model(path, spec, datasets.find("digits"))


def record(canonical: str, *, seed: int = 0, normal: Preprocessing = DIGITS, **more: object) -> WeightsRecord:
    return WeightsRecord(
        architecture=canonical,
        dataset="digits",
        dataset_fingerprint="0" * 64,
        num_classes=10,
        in_channels=1,
        mean=normal.mean,
        std=normal.std,
        tensors_sha256="",
        origin="trained",
        recipe_name="standard",
        recipe={"epochs": 1},
        seed=seed,
        clean_accuracy=50.0 + seed,
        **more,  # type: ignore[arg-type]
    )


def logits_of(classifier: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = classifier.eval()(images)
    return found
