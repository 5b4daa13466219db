"""From what a person types to a validated request: names, options, weights. Torch-free, so that the app can plan
too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explorer.errors import ExplorerError
from explorer.jobs.request import Request, RequestedModel
from explorer.settings import Settings
from models.architectures import registry as architectures
from models.attacks import registry as attacks
from models.datasets import registry as datasets
from models.datasets.registry import Dataset
from models.devices import check_name
from models.errors import InvalidSpec, WeightsError
from models.specs import ArchitectureSpec, AttackSpec, ThreatSpace, Verdict
from models.weights import catalogue


@dataclass(frozen=True)
class Asked:
    """What was typed, before any of it is looked up. None means: not given."""

    architectures: Sequence[str] = ()
    weights: Sequence[str] = ()
    datasets: Sequence[str] = ("digits",)
    attacks: Sequence[str] = ("pgd",)
    eps: Sequence[str] = ()
    options: Sequence[str] = ()
    steps: int | None = None
    step_size: str | None = None
    restarts: int | None = None
    seed: int = 0
    examples: int | None = None
    split: str = "test"
    threat_space: str = "pixel"
    verdict: str = "worst"
    device: str = "auto"
    threads: int | None = None
    slots: int | None = None
    force: bool = False


def plan(asked: Asked, settings: Settings) -> list[Request]:
    """One request a dataset. Raises an error with a sentence for whatever does not exist or does not fit."""
    check_name(asked.device)
    for what, number in (("--threads", asked.threads), ("--batch-size", asked.slots), ("--examples", asked.examples)):
        if number is not None and number < 1:
            raise InvalidSpec(f"{what} must be at least 1, not {number}.")
    specs = resolve_attacks(asked)
    requests = []
    for name in dict.fromkeys(asked.datasets):
        dataset = datasets.find(name)
        datasets.load(dataset.name, asked.split).subset(asked.examples)
        requests.append(
            Request(
                models=tuple(resolve_models(asked, dataset, settings)),
                dataset=dataset.name,
                split=asked.split,
                examples=asked.examples,
                attacks=tuple(specs),
                store=str(settings.store),
                device=asked.device,
                threads=asked.threads,
                slots=asked.slots,
                force=asked.force,
            )
        )
    return requests


def resolve_attacks(asked: Asked) -> list[AttackSpec]:
    """Every attack at every eps, without repetition.

    `--steps`, `--step-size` and `--restarts` are for iterated attacks: of several attacks they leave those alone whose
    number of steps is fixed, so that a step size meant for PGD does not weaken F-FGSM. A single attack takes them, or
    refuses.
    """
    if not asked.attacks:
        raise ExplorerError("name at least one --attack: `nasrob-tui attacks` lists them.")
    if asked.threat_space not in ("pixel", "normalized-clamped"):
        raise InvalidSpec(f"threat space {asked.threat_space!r} is unknown: pixel or normalized-clamped.")
    if asked.verdict not in ("worst", "last"):
        raise InvalidSpec(f"verdict {asked.verdict!r} is unknown: worst or last.")
    threat_space: ThreatSpace = "pixel" if asked.threat_space == "pixel" else "normalized-clamped"
    verdict: Verdict = "worst" if asked.verdict == "worst" else "last"
    iterated: dict[str, Any] = {"steps": asked.steps, "step_size": asked.step_size, "restarts": asked.restarts}
    names = list(dict.fromkeys(asked.attacks))
    takes = [_is_iterated(name) or len(names) == 1 for name in names]
    given = [key for key, value in iterated.items() if value is not None]
    if given and not any(takes):
        flags = ", ".join("--" + key.replace("_", "-") for key in given)
        raise InvalidSpec(f"{flags}: none of {', '.join(names)} is iterated, so there is nothing to set.")
    found: dict[str, AttackSpec] = {}
    for name, iterates in zip(names, takes, strict=True):
        for eps in asked.eps or (None,):
            spec = attacks.resolve(
                name,
                eps=eps,
                seed=asked.seed,
                threat_space=threat_space,
                verdict=verdict,
                **(iterated if iterates else {}),
            )
            found.setdefault(spec.identity, spec)
    return list(found.values())


def _is_iterated(text: str) -> bool:
    return attacks.resolve(text).steps > 1


def resolve_models(asked: Asked, dataset: Dataset, settings: Settings) -> list[RequestedModel]:
    """The models asked for: each architecture with the weights named for it, or with the ones there are for the
    dataset.
    """
    overrides = parse_options(asked.options)
    specs = [
        architectures.parse_architecture(text, _options_for(text, overrides, asked.architectures), small=dataset.small)
        for text in asked.architectures
    ]
    files = catalogue.scan(settings.weights_folders)
    if not asked.weights:
        if not specs:
            raise ExplorerError("name at least one --arch: `nasrob-tui archs` lists them.")
        return [_only_weights(spec, dataset, files) for spec in dict.fromkeys(specs)]
    if specs and len(specs) != len(asked.weights):
        raise ExplorerError(
            f"{len(specs)} --arch but {len(asked.weights)} --weights: give one file for each architecture, or none."
        )
    named: Sequence[ArchitectureSpec | None] = specs or [None] * len(asked.weights)
    pairs = zip(named, asked.weights, strict=True)
    return [_named_weights(spec, text, dataset, files) for spec, text in pairs]


def parse_options(options: Sequence[str]) -> dict[str, str]:
    """`--set key=value`, repeated."""
    found: dict[str, str] = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise InvalidSpec(f"--set {text!r} is not of the form key=value.")
        found[key.strip()] = value.strip()
    return found


def _options_for(text: str, overrides: Mapping[str, str], everybody: Sequence[str]) -> dict[str, str]:
    """Of several architectures each takes the options it has; an option that none of them has is an error."""
    known = {o.name for o in architectures.find(text.partition("@")[0]).options}
    others = {o.name for other in everybody for o in architectures.find(other.partition("@")[0]).options}
    return {k: v for k, v in overrides.items() if k in known or k not in others}


def _model(spec: ArchitectureSpec, file: catalogue.WeightsFile) -> RequestedModel:
    record = file.record
    return RequestedModel(spec.canonical, str(file.path), record.tensors_sha256, record.mean, record.std)


def _only_weights(spec: ArchitectureSpec, dataset: Dataset, files: list[catalogue.WeightsFile]) -> RequestedModel:
    found = catalogue.matching(files, spec, dataset.name)
    if len(found) == 1:
        return _model(spec, found[0])
    if found:
        choices = "; ".join(f"{f.record.tensors_sha256[:12]} (seed {f.record.seed}, {f.path.name})" for f in found[:6])
        raise WeightsError(
            f"{len(found)} sets of weights fit {spec.canonical} on {dataset.name}: "
            f"choose with --weights SHA256 or file. They are: {choices}."
        )
    options = "".join(f" --set {k}={v}" for k, v in spec.options)
    train = f"nasrob-tui train --arch {spec.name}{options} --dataset {dataset.name}"
    others = sorted(
        {
            f.record.architecture
            for f in files
            if f.record.dataset == dataset.name and f.record.architecture.split("@")[0] == spec.name
        }
    )
    beside = f" There are weights for {', '.join(others)}: name it so to use them." if others else ""
    raise WeightsError(f"{spec.canonical} has no weights for {dataset.name}.{beside} Train it: {train}")


def _named_weights(
    spec: ArchitectureSpec | None, text: str, dataset: Dataset, files: list[catalogue.WeightsFile]
) -> RequestedModel:
    path = Path(text).expanduser()
    if not path.exists() and len(text) >= 6 and all(c in "0123456789abcdef" for c in text.lower()):
        by_hash = {f.record.tensors_sha256: f for f in files if f.record.tensors_sha256.startswith(text.lower())}
        if len(by_hash) > 1:
            raise WeightsError(f"{len(by_hash)} sets of weights begin with {text}: give more digits.")
        if not by_hash:
            raise WeightsError(f"no weights begin with SHA-256 {text}: `nasrob-tui weights` lists what there is.")
        path = next(iter(by_hash.values())).path
    if not path.exists():
        raise WeightsError(f"there is no weights file {text}.")
    if not path.is_file():
        raise WeightsError(f"{text} is not a file.")
    record = catalogue.read_record(path) if path.suffix == ".safetensors" else None
    if record is None:
        if spec is None:
            raise WeightsError(f"{path} does not say which architecture it is for: name it with --arch.")
        normal = dataset.preprocessing
        return RequestedModel(spec.canonical, str(path.absolute()), None, normal.mean, normal.std)
    named = architectures.parse_architecture(record.architecture)
    if spec is not None and named != spec:
        raise WeightsError(f"{path} holds weights of {named.canonical}, not of {spec.canonical}.")
    return RequestedModel(named.canonical, str(path.absolute()), record.tensors_sha256, record.mean, record.std)
