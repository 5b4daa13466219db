"""Ensembles put together from trained members, and taken apart again. A member keeps its tensors and so its SHA-256."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from models.architectures import definitions, registry
from models.classifier import Classifier, tensors_sha256
from models.datasets.registry import Dataset
from models.ensembles import composition, parts
from models.ensembles.composition import Member
from models.ensembles.network import Ensemble
from models.errors import WeightsError
from models.specs import ArchitectureSpec, Preprocessing
from models.weights.catalogue import WeightsRecord
from models.weights.files import LoadedModel, network_tensors
from models.weights.fit import is_auxiliary


def pick(members: Sequence[LoadedModel], combine: str, *, width: int | None = None) -> ArchitectureSpec:
    """The architecture of an ensemble of these models. Where they normalise differently, each keeps its own."""
    own = len({member.preprocessing for member in members}) > 1
    definition = composition.picked(
        [Member(m.architecture.canonical, m.preprocessing if own else None) for m in members]
    )
    options: dict[str, Any] = {"combine": combine} | ({"width": width} if width is not None else {})
    return registry.parse_architecture(definitions.remember(definition), options)


def assemble(architecture: ArchitectureSpec, members: Sequence[LoadedModel], dataset: Dataset) -> Classifier:
    """The ensemble with its members' weights; a learned combiner is as it was drawn, and still to be tuned.

    What stands before it normalises as all members do, or not at all where each has its own normalisation. Raises
    `WeightsError` when a member is of another architecture than the ensemble says, or made for other images.
    """
    made_of = composition.of(architecture)
    if made_of.joint:
        raise WeightsError(f"{architecture.canonical} is trained as one: its members cannot be put together.")
    if len(members) != len(made_of.members):
        raise WeightsError(f"{architecture.canonical} has {len(made_of.members)} members, not {len(members)}.")
    network = registry.build(architecture, num_classes=dataset.n_classes, in_channels=dataset.image_shape[0])
    assert isinstance(network, Ensemble)
    before = normalisation(architecture, members, dataset)
    for position, (wanted, found) in enumerate(zip(made_of.members, members, strict=True)):
        if found.architecture.canonical != wanted.architecture:
            raise WeightsError(
                f"member {position} of {architecture.canonical} is {wanted.architecture}, not "
                f"{found.architecture.canonical}."
            )
        if found.preprocessing != (wanted.preprocessing or before):
            raise WeightsError(
                f"member {position} of {architecture.canonical}, {wanted.architecture}, normalises images in another "
                "way than the ensemble says: pick the members anew."
            )
        tensors = network_tensors(found.classifier.network)
        # Updated in place: some modules (torchvision's MNASNet) read their version from the dictionary's metadata.
        state = network.members[position].state_dict()
        here = {name: tensor.shape for name, tensor in state.items() if not is_auxiliary(name)}
        if here != {name: tensor.shape for name, tensor in tensors.items()}:
            raise WeightsError(
                f"the tensors of member {position} do not fit {wanted.architecture} for {dataset.name}: was it made "
                "for other images?"
            )
        state.update(tensors)
        network.members[position].load_state_dict(state)
    return Classifier(network, before, dataset.n_classes)


def normalisation(architecture: ArchitectureSpec, members: Sequence[LoadedModel], dataset: Dataset) -> Preprocessing:
    """What stands before an ensemble of these members: the normalisation that they share, or one that does nothing."""
    if any(member.preprocessing is None for member in composition.of(architecture).members):
        return members[0].preprocessing
    channels = dataset.image_shape[0]
    return Preprocessing((0.0,) * channels, (1.0,) * channels)


def members_of(loaded: Sequence[LoadedModel]) -> list[dict[str, Any]]:
    """What the record of an ensemble says about its members."""
    return [
        {
            "architecture": member.architecture.canonical,
            "sha256": member.sha256,
            "seed": member.record.seed if member.record else None,
            "clean_accuracy": member.record.clean_accuracy if member.record else None,
            "recipe_name": member.record.recipe_name if member.record else None,
            "recipe": member.record.recipe if member.record else None,
        }
        for member in loaded
    ]


def part_of(whole: LoadedModel, positions: Sequence[int]) -> LoadedModel:
    """One member of an ensemble, or an ensemble of some of them, with the weights they have in the whole.

    Raises `WeightsError` where the whole is no ensemble of members that stand alone, or says another member is there.
    """
    if not composition.is_ensemble(whole.architecture.name):
        raise WeightsError(
            f"{whole.path} holds {whole.architecture.canonical}, which is no ensemble: it has no members."
        )
    architecture = parts.architecture(whole.architecture, positions)
    if architecture == whole.architecture:
        return whole
    ensemble = whole.classifier.network
    assert isinstance(ensemble, Ensemble)
    made_of = composition.of(whole.architecture)
    network: nn.Module
    before = whole.preprocessing
    if len(positions) == 1:
        (position,) = positions
        network = ensemble.members[position]
        before = made_of.members[position].preprocessing or before
    else:
        part = parts.of(made_of, positions)
        network = Ensemble(
            [copy.deepcopy(ensemble.members[i]) for i in positions],
            [member.preprocessing for member in part.members],
            part.combine,
            ensemble.num_classes,
            part.width,
        )
    sha256 = tensors_sha256(network_tensors(network))
    return LoadedModel(
        classifier=Classifier(network, before, whole.classifier.num_classes),
        architecture=architecture,
        preprocessing=before,
        sha256=sha256,
        path=whole.path.with_name(parts.name(whole.path.name, positions)),
        record=_record_of(whole, positions[0], architecture, before, sha256) if len(positions) == 1 else None,
    )


def _record_of(
    model: LoadedModel, position: int, architecture: ArchitectureSpec, normal: Preprocessing, sha256: str
) -> WeightsRecord | None:
    """What the ensemble's file knows about one member. Raises `WeightsError` where that is about another one."""
    whole = model.record
    if whole is None or not whole.members or position >= len(whole.members):
        return None
    member = whole.members[position]
    if (member["architecture"], member["sha256"]) != (architecture.canonical, sha256):
        raise WeightsError(
            f"{model.path} has a damaged record: what it says of member {position} is about other weights. Make the "
            "ensemble again."
        )
    return WeightsRecord(
        architecture=member["architecture"],
        dataset=whole.dataset,
        dataset_fingerprint=whole.dataset_fingerprint,
        num_classes=whole.num_classes,
        in_channels=whole.in_channels,
        mean=normal.mean,
        std=normal.std,
        tensors_sha256=member["sha256"],
        origin=whole.origin,
        recipe_name=member.get("recipe_name"),
        recipe=member.get("recipe"),
        seed=member.get("seed"),
        clean_accuracy=member.get("clean_accuracy"),
        clean_examples=whole.clean_examples,
        software_version=whole.software_version,
        created_at=whole.created_at,
        geometry=whole.geometry,
    )
