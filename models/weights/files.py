"""Write and read weights. Reading never runs code from a file: safetensors, or torch files with `weights_only`."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from models.architectures import registry
from models.classifier import Classifier, tensors_sha256
from models.datasets.registry import Dataset
from models.errors import OutputError, WeightsError
from models.specs import ArchitectureSpec, Preprocessing
from models.weights.catalogue import WeightsRecord, read_record

AUXILIARY_PREFIX = "auxiliary_head."


@dataclass(frozen=True)
class LoadedModel:
    """A classifier ready to be evaluated, with its identity and, where the file has one, its record."""

    classifier: Classifier
    architecture: ArchitectureSpec
    preprocessing: Preprocessing
    sha256: str
    path: Path
    record: WeightsRecord | None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is either the old one or the whole new one, whatever happens in between."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. Free some space or choose another folder."
        ) from None


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The tensors that make a model: its state without the training-only auxiliary head, on the CPU."""
    state = network.state_dict()
    return {k: v.detach().cpu().contiguous() for k, v in state.items() if not k.startswith(AUXILIARY_PREFIX)}


def save_weights(path: Path, network: nn.Module, record: WeightsRecord) -> WeightsRecord:
    """Write the network's tensors with `record`, whose SHA-256 is filled in; returns the completed record."""
    tensors = network_tensors(network)
    record = replace(record, tensors_sha256=tensors_sha256(tensors))
    write_atomically(path, save(tensors, metadata=record.to_header()))
    return record


def load_model(path: Path, architecture: ArchitectureSpec | None, dataset: Dataset) -> LoadedModel:
    """Read weights into a classifier for a dataset.

    A file of ours names its architecture; for any other `architecture` must be given. Raises `WeightsError` when the
    file is damaged, is for another architecture or number of classes, or does not fit key by key.
    """
    path = Path(path)
    if not path.exists():
        raise WeightsError(f"there is no weights file {path}.")
    record = read_record(path) if path.suffix == ".safetensors" else None
    if record is not None:
        named = registry.parse_architecture(record.architecture)
        if architecture is not None and architecture != named:
            raise WeightsError(f"{path} holds weights of {named.canonical}, not of {architecture.canonical}.")
        architecture = named
        if (record.num_classes, record.in_channels) != (dataset.n_classes, dataset.image_shape[0]):
            raise WeightsError(
                f"{path} was made for {record.num_classes} classes and {record.in_channels} channels; "
                f"{dataset.name} has {dataset.n_classes} and {dataset.image_shape[0]}."
            )
    if architecture is None:
        raise WeightsError(f"{path} does not say which architecture it is for: name it with --arch.")
    tensors = _read_tensors(path)
    network = registry.build(architecture, num_classes=dataset.n_classes, in_channels=dataset.image_shape[0])
    _fit(network, tensors, architecture, path)
    sha256 = tensors_sha256(network_tensors(network))
    if record is not None and record.tensors_sha256 != sha256:
        raise WeightsError(
            f"{path} is damaged: its tensors have SHA-256 {sha256[:12]}…, its record says "
            f"{record.tensors_sha256[:12]}…. Get the file again, or train it again."
        )
    preprocessing = record.preprocessing if record is not None else dataset.preprocessing
    classifier = Classifier(network, preprocessing, dataset.n_classes)
    return LoadedModel(classifier, architecture, preprocessing, sha256, path, record)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise WeightsError(f"cannot read {path}: {error}. The file is damaged; get it again.") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path} holds more than tensors (a pickled model?), and loading it would run its code. Convert it where "
            "you trust it: torch.save(model.state_dict(), 'weights.pt')."
        ) from None
    except Exception as error:
        raise WeightsError(f"cannot read {path}: {str(error).partition(chr(10))[0]}.") from None
    return _find_tensors(content, path)


def _find_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a training script saved: bare, or under a usual key; `module.` prefixes come off."""
    for key in ("state_dict", "model", "net", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path} holds no state dict: expected names with tensors, bare or under 'state_dict'.")
    tensors = {str(k): v for k, v in content.items()}
    if all(k.startswith("module.") for k in tensors):
        tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    return tensors


def _fit(network: nn.Module, tensors: dict[str, Tensor], architecture: ArchitectureSpec, path: Path) -> None:
    expected = network.state_dict()
    given = {k: v for k, v in tensors.items() if not k.startswith(AUXILIARY_PREFIX)}
    # Files from before torch 0.4.1 lack these counters, which evaluation does not use.
    missing = [k for k in expected if k not in given and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in given if k not in expected]
    misshapen = [k for k in expected if k in given and expected[k].shape != given[k].shape]
    if missing or unexpected or misshapen:
        parts = []
        if missing:
            parts.append(f"{len(missing)} missing (first: {missing[0]})")
        if unexpected:
            parts.append(f"{len(unexpected)} that it does not have (first: {unexpected[0]})")
        if misshapen:
            key = misshapen[0]
            shapes = f"{tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
            parts.append(f"{len(misshapen)} of another shape (first: {key}, {shapes})")
        raise WeightsError(f"{path} does not fit {architecture.canonical}: tensors {'; '.join(parts)}.")
    for key, tensor in given.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{path} holds non-finite values in {key}: these weights give no valid prediction.")
    network.load_state_dict({k: given.get(k, expected[k]).to(expected[k].dtype) for k in expected})
