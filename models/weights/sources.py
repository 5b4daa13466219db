"""Where a model's tensors come from: a file, a package that publishes them, or the factory itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.architectures import registry
from models.classifier import Classifier, tensors_sha256
from models.datasets.registry import Dataset
from models.ensembles import assembling, parts
from models.errors import WeightsError
from models.specs import ArchitectureSpec, Preprocessing
from models.weights.files import LoadedModel, load_model, network_tensors


def load(
    weights: str, architecture: ArchitectureSpec, dataset: Dataset, *, preprocessing: Preprocessing
) -> LoadedModel:
    """A classifier with the weights called `weights`: a path, `factory`, `torchvision:NAME` or `timm:pretrained`; or
    `PATH#members=1` for a part of the ensemble in a file.

    Raises `WeightsError` when they cannot be had, do not fit, or are random.
    """
    if weights == "factory":
        return _as_returned(architecture, dataset, preprocessing)
    path, positions = parts.split(weights)
    if positions is not None:
        found = assembling.part_of(load_model(Path(path), None, dataset), positions)
        if found.architecture != architecture:
            raise WeightsError(f"{weights} is {found.architecture.canonical}, not {architecture.canonical}.")
        if found.preprocessing == preprocessing:
            return found
        # What a person says goes before what the file says, as with any weights.
        classifier = Classifier(found.classifier.network, preprocessing, dataset.n_classes)
        return replace(found, classifier=classifier, preprocessing=preprocessing)
    package, _, name = weights.partition(":")
    if package in ("torchvision", "timm") and name and not Path(weights).exists():
        return _published(weights, architecture, dataset, preprocessing)
    return load_model(Path(weights), architecture, dataset, preprocessing=preprocessing)


def _as_returned(architecture: ArchitectureSpec, dataset: Dataset, preprocessing: Preprocessing) -> LoadedModel:
    """What the factory returns. It is called twice: tensors that differ are random, and no model."""

    def call() -> nn.Module:
        return registry.build(architecture, num_classes=dataset.n_classes, in_channels=dataset.image_shape[0])

    network = call()
    sha256 = tensors_sha256(network_tensors(network))
    again = tensors_sha256(network_tensors(call()))
    if again != sha256:
        raise WeightsError(
            f"{architecture.canonical} returns other weights at every call, so they are random: give its weights with "
            "--weights FILE."
        )
    return _model(network, "factory", architecture, dataset, preprocessing, sha256)


def _published(
    weights: str, architecture: ArchitectureSpec, dataset: Dataset, preprocessing: Preprocessing
) -> LoadedModel:
    """The weights that torchvision or timm publish; downloaded once, then kept in their own caches."""
    package, _, name = weights.partition(":")
    model = architecture.name.partition(":")[2]
    if package != architecture.name.partition(":")[0]:
        raise WeightsError(f"{weights} are no weights of {architecture.canonical}.")
    if dataset.n_classes != 1000:
        raise WeightsError(
            f"{weights} of {model} has 1000 classes and {dataset.name} has {dataset.n_classes}: evaluate it on "
            "imagenet, or train or give weights of your own."
        )
    try:
        if package == "torchvision":
            from torchvision import models

            # Some weights want another constructor (ViT at 384 pixels, GoogLeNet's heads): torchvision knows.
            network = models.get_model(model, weights=models.get_model_weights(model)[name], progress=False)
        else:
            import timm

            options: dict[str, Any] = dict(architecture.options)
            network = timm.create_model(model, pretrained=True, **options)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise WeightsError(
            f"the published weights {weights} of {model} cannot be had ({type(error).__name__}: {reason}). Without "
            "internet, get the file elsewhere and name it with --weights."
        ) from None
    return _model(network, weights, architecture, dataset, preprocessing, tensors_sha256(network_tensors(network)))


def _model(
    network: nn.Module,
    weights: str,
    architecture: ArchitectureSpec,
    dataset: Dataset,
    preprocessing: Preprocessing,
    sha256: str,
) -> LoadedModel:
    for name, tensor in network_tensors(network).items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WeightsError(f"{weights} of {architecture.canonical} holds non-finite values in {name}.")
    return LoadedModel(
        classifier=Classifier(network, preprocessing, dataset.n_classes),
        architecture=architecture,
        preprocessing=preprocessing,
        sha256=sha256,
        path=Path(weights),
        record=None,
    )
