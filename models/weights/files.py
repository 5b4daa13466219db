"""Write and read weights. Reading never runs code from a file: safetensors, or torch files with `weights_only`."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from models.architectures import registry
from models.classifier import Classifier, tensors_sha256
from models.datasets.registry import Dataset
from models.errors import OutputError, WeightsError
from models.specs import ArchitectureSpec, Preprocessing
from models.weights import containers
from models.weights.catalogue import WeightsRecord, architecture_of, read_record
from models.weights.containers import Contents
from models.weights.fit import Expected, Fit, cast, is_auxiliary, match


@dataclass(frozen=True)
class LoadedModel:
    """A classifier ready to be evaluated, with its identity and, where the file has one, its record."""

    classifier: Classifier
    architecture: ArchitectureSpec
    preprocessing: Preprocessing
    sha256: str
    path: Path
    record: WeightsRecord | None
    #: How the file's tensors lie on the network's: what was passed over, renamed or cast. None for a package's weights.
    fit: Fit | None = None


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
    """The tensors that make a model: its state without the training-only auxiliary head, on the CPU.

    A tensor under two names comes as two: safetensors holds no shared memory, and every name must be there.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in network.state_dict().items():
        if is_auxiliary(name):
            continue
        tensor = value.detach().cpu().contiguous()
        if tensor.numel() and tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor
    return tensors


def save_weights(path: Path, network: nn.Module, record: WeightsRecord) -> WeightsRecord:
    """Write the network's tensors with `record`, whose SHA-256 and definition are filled in; returns the completed
    record.
    """
    tensors = network_tensors(network)
    definition = registry.find(record.architecture.partition("@")[0]).definition
    record = replace(
        record,
        tensors_sha256=tensors_sha256(tensors),
        definition=definition.to_dict() if definition is not None else None,
    )
    write_atomically(path, save(tensors, metadata=record.to_header()))
    return record


def load_model(
    path: Path,
    architecture: ArchitectureSpec | None,
    dataset: Dataset,
    *,
    preprocessing: Preprocessing | None = None,
    entry: str | None = None,
) -> LoadedModel:
    """Read weights into a classifier for a dataset.

    A file of ours names its architecture; for any other `architecture` must be given. `preprocessing` replaces what
    the file, or else the dataset, says (see `model_of`); `entry` chooses among several sets of weights in a checkpoint.

    Raises `WeightsError` when the file is damaged, is for another architecture or number of classes, or does not fit
    key by key.
    """
    path = Path(path)
    if not path.exists():
        raise WeightsError(f"there is no weights file {path}.")
    record = read_record(path) if containers.recognise(path) == "safetensors" else None
    if record is not None:
        architecture = architecture_of(record, path, given=architecture)
        if (record.num_classes, record.in_channels) != (dataset.n_classes, dataset.image_shape[0]):
            raise WeightsError(
                f"{path} was made for {record.num_classes} classes and {record.in_channels} channels; "
                f"{dataset.name} has {dataset.n_classes} and {dataset.image_shape[0]}."
            )
    if architecture is None:
        raise WeightsError(f"{path} does not say which architecture it is for: name it with --arch.")
    loaded = model_of(
        containers.read(path), architecture, dataset, record=record, preprocessing=preprocessing, entry=entry
    )
    if record is not None and record.tensors_sha256 != loaded.sha256:
        raise WeightsError(
            f"{path} is damaged: its tensors have SHA-256 {loaded.sha256[:12]}…, its record says "
            f"{record.tensors_sha256[:12]}…. Get the file again, or train it again."
        )
    return loaded


def model_of(
    contents: Contents,
    architecture: ArchitectureSpec,
    dataset: Dataset,
    *,
    record: WeightsRecord | None = None,
    preprocessing: Preprocessing | None = None,
    entry: str | None = None,
) -> LoadedModel:
    """The classifier that the contents of a checkpoint make; raises `WeightsError` where they do not fit.

    It normalises as `preprocessing` says, else as the record, the constants of a normalising layer in the file, or the
    dataset does, the first that there is.
    """
    network = registry.build(architecture, num_classes=dataset.n_classes, in_channels=dataset.image_shape[0])
    expected = Expected.of(network)
    fit = match(expected, contents, entry=entry)
    if not fit.fits:
        raise WeightsError(f"{contents.path} does not fit {architecture.canonical}: tensors {fit.misfit()}.")
    state = network.state_dict()
    given = cast(fit, contents, {name: tensor.dtype for name, tensor in state.items()})
    for name, others in expected.tied.items():
        if any(name in given and o in given and not torch.equal(given[name], given[o]) for o in others):
            raise WeightsError(
                f"{contents.path} holds two different tensors for {name} and {others[0]}, which are one in "
                f"{architecture.canonical}."
            )
    # Updated in place: some modules (torchvision's MNASNet) read their version from the dictionary's metadata.
    state.update(given)
    network.load_state_dict(state)
    if preprocessing is None and record is not None:
        preprocessing = record.preprocessing
    own = fit.preprocessing(contents, dataset.image_shape[0])
    preprocessing = preprocessing or own or dataset.preprocessing
    classifier = Classifier(network, preprocessing, dataset.n_classes)
    return LoadedModel(
        classifier, architecture, preprocessing, tensors_sha256(network_tensors(network)), contents.path, record, fit
    )
