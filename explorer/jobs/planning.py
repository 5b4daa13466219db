"""From what a person types to a validated request: names, options, weights. Torch-free, so that the app can plan
too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from explorer.errors import ExplorerError
from explorer.jobs.request import Request, RequestedModel
from explorer.settings import Settings
from models.architectures import external
from models.architectures import registry as architectures
from models.architectures.options import scale_of
from models.architectures.registry import Architecture
from models.attacks import presets
from models.attacks import registry as attacks
from models.datasets import registry as datasets
from models.datasets.registry import Dataset, Geometry
from models.devices import check_name
from models.ensembles import composition, parts
from models.errors import InvalidSpec, ModelsError, WeightsError
from models.specs import (
    PRECISIONS,
    SWITCHES,
    VERDICTS,
    ArchitectureSpec,
    AttackSpec,
    Preprocessing,
    Surrogate,
    ThreatSpace,
    Verdict,
)
from models.weights import catalogue

#: Weights that are no file: what a factory returns.
AS_RETURNED = "factory"


@dataclass(frozen=True)
class Asked:
    """What was typed, before any of it is looked up. None means: not given."""

    architectures: Sequence[str] = ()
    weights: Sequence[str] = ()
    datasets: Sequence[str] = ("digits",)
    #: None: those of the presets, or PGD if there is none either.
    attacks: Sequence[str] = ()
    presets: Sequence[str] = ()
    eps: Sequence[str] = ()
    options: Sequence[str] = ()
    steps: int | None = None
    step_size: str | None = None
    restarts: int | None = None
    seed: int = 0
    examples: int | None = None
    split: str = "test"
    threat_space: str = "pixel"
    #: None: the attack's own.
    verdict: str | None = None
    norm: str | None = None
    device: str = "auto"
    threads: int | None = None
    slots: int | None = None
    force: bool = False
    input_size: int | None = None
    resize: int | None = None
    interpolation: str | None = None
    mean: str | None = None
    std: str | None = None
    data_root: str | None = None
    download: bool = False
    precision: str = "float32"
    compile: str = "auto"
    channels_last: str = "auto"
    fold: str = "auto"
    #: Such as `90`, `30m` or `2h`.
    max_time: str | None = None
    max_forwards: int | None = None
    estimate: bool = False
    save_examples: int = 0
    #: What a person says of networks of theirs: handcrafted or nas.
    family: str | None = None
    surrogate: str | None = None
    surrogate_weights: str | None = None


@dataclass(frozen=True)
class Chosen:
    """A model, and the geometry that it wants of photographs (None: the dataset's own)."""

    model: RequestedModel
    geometry: Geometry | None = None


def plan(asked: Asked, settings: Settings) -> list[Request]:
    """One request a dataset and image size. Raises an error with a sentence for whatever does not exist or does not
    fit.
    """
    check_name(asked.device)
    for what, number in (("--threads", asked.threads), ("--batch-size", asked.slots), ("--examples", asked.examples)):
        if number is not None and number < 1:
            raise InvalidSpec(f"{what} must be at least 1, not {number}.")
    for flag, value in (("compile", asked.compile), ("channels-last", asked.channels_last), ("fold", asked.fold)):
        if value not in SWITCHES:
            raise InvalidSpec(f"--{flag} is auto, on or off, not {value!r}.")
    if asked.precision not in ("auto", *PRECISIONS):
        raise InvalidSpec(f"--precision is auto, {', '.join(PRECISIONS)}, not {asked.precision!r}.")
    for what, number in (("--max-forwards", asked.max_forwards), ("--save-examples", asked.save_examples)):
        if number is not None and number < 0:
            raise InvalidSpec(f"{what} must not be negative: {number}.")
    if asked.save_examples and asked.threat_space == "normalized-clamped":
        raise InvalidSpec(
            "--save-examples keeps images, and in the threat space normalized-clamped there are none: its examples are "
            "normalised inputs that no pixels need belong to. Use --threat-space pixel."
        )
    if asked.family not in (None, "handcrafted", "nas"):
        raise InvalidSpec(f"--family is handcrafted or nas, not {asked.family!r}.")
    max_seconds = parse_duration(asked.max_time) if asked.max_time else None
    specs = resolve_attacks(asked)
    root = Path(asked.data_root).expanduser().absolute() if asked.data_root else None
    requests = []
    for name in dict.fromkeys(asked.datasets):
        dataset = _with_geometry(datasets.find(name), asked)
        groups: dict[str, list[RequestedModel]] = {}
        for chosen in resolve_models(asked, dataset, settings):
            at = dataset if chosen.geometry is None else dataset.with_geometry(chosen.geometry)
            groups.setdefault(at.name, []).append(chosen.model)
        for at_name, models in groups.items():
            split = dataset.split_named(asked.split)
            datasets.load(at_name, split, root=root, download=asked.download).subset(asked.examples)
            surrogate = _surrogate(asked, datasets.find(at_name), settings)
            requests.append(
                Request(
                    models=tuple(models),
                    dataset=at_name,
                    split=split,
                    examples=asked.examples,
                    attacks=tuple(_crafted_on(spec, surrogate) for spec in specs),
                    precision=asked.precision,
                    compile=asked.compile,
                    channels_last=asked.channels_last,
                    fold=asked.fold,
                    max_seconds=max_seconds,
                    max_forwards=asked.max_forwards,
                    estimate=asked.estimate,
                    save_examples=asked.save_examples,
                    store=str(settings.store),
                    device=asked.device,
                    threads=asked.threads,
                    slots=asked.slots,
                    force=asked.force,
                    data_root=str(root) if root else None,
                    import_from=str(Path.cwd()) if any(_is_code(m.architecture) for m in models) else None,
                )
            )
            requests[-1].check()
    return requests


def parse_duration(text: str) -> float:
    """Seconds in `90`, `90s`, `30m`, `2h` or `1.5d`; raises `InvalidSpec`."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([smhd]?)", text.strip().lower())
    if match is None or float(match.group(1)) == 0:
        raise InvalidSpec(f"{text!r} is no duration: write 90s, 30m, 2h or 1d.")
    return float(match.group(1)) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match.group(2)]


def _surrogate(asked: Asked, dataset: Dataset, settings: Settings) -> Surrogate | None:
    """The model that attacks are to be crafted on; None when it is the attacked one itself."""
    if asked.surrogate is None:
        if asked.surrogate_weights is not None:
            raise InvalidSpec("--surrogate-weights belongs to --surrogate ARCHITECTURE.")
        return None
    weights = (asked.surrogate_weights,) if asked.surrogate_weights else ()
    one = replace(
        asked, architectures=(asked.surrogate,), weights=weights, mean=None, std=None, options=(), family=None
    )
    (chosen,) = resolve_models(one, dataset, settings)
    model = chosen.model
    if model.sha256 is None:
        raise WeightsError(
            f"the weights of the surrogate {model.architecture} have no record yet: take them in first, with "
            "`nasrob-tui weights add`."
        )
    return Surrogate(model.architecture, model.sha256, model.mean, model.std, model.weights)


def _transferred(name: str, verdict: Verdict | None) -> Verdict:
    """The verdict on an attack that is crafted on a surrogate; raises `InvalidSpec` for one that cannot be."""
    spec = attacks.resolve(name)
    if spec.stages or not attacks.find(spec.name).transfers:
        raise InvalidSpec(
            f"{spec.name} cannot be crafted on a surrogate: use an attack along the gradient, such as pgd."
        )
    # Looking at the attacked model in every step would be more than a transfer.
    return verdict or "last"


def _crafted_on(spec: AttackSpec, surrogate: Surrogate | None) -> AttackSpec:
    """The attack crafted on another model and judged, at its end, on the attacked one."""
    return spec if surrogate is None else replace(spec, surrogate=surrogate)


def _is_code(architecture: str) -> bool:
    return external.is_factory(architecture.partition("@")[0])


def _with_geometry(dataset: Dataset, asked: Asked) -> Dataset:
    """The dataset at the image size that was asked for."""
    given = {"size": asked.input_size, "resize": asked.resize, "interpolation": asked.interpolation}
    options = {key: str(value) for key, value in given.items() if value is not None}
    if not options or (set(options) == {"size"} and asked.input_size == dataset.image_shape[1]):
        return dataset
    return dataset.with_geometry(Geometry.from_options(options, dataset.geometry, photographs=dataset.photographs))


def resolve_attacks(asked: Asked) -> list[AttackSpec]:
    """Every attack at every eps, without repetition.

    `--steps`, `--step-size` and `--restarts` are for iterated attacks: of several attacks they leave those alone whose
    number of steps is fixed, so that a step size meant for PGD does not weaken F-FGSM. A single attack takes them, or
    refuses.
    """
    if asked.threat_space not in ("pixel", "normalized-clamped"):
        raise InvalidSpec(f"threat space {asked.threat_space!r} is unknown: pixel or normalized-clamped.")
    threat_space: ThreatSpace = "pixel" if asked.threat_space == "pixel" else "normalized-clamped"
    verdict = _verdict(asked.verdict)
    iterated: dict[str, Any] = {"steps": asked.steps, "step_size": asked.step_size, "restarts": asked.restarts}
    wanted: dict[str, tuple[str | None, ...]] = {}
    for preset in map(presets.find, asked.presets):
        for name in preset.attacks:
            wanted[name] = tuple(asked.eps) or preset.eps or (None,)
    for name in asked.attacks or (() if asked.presets else ("pgd",)):
        wanted[name] = tuple(asked.eps) or (None,)
    names = list(wanted)
    takes = [_is_iterated(name) or len(names) == 1 for name in names]
    given = [key for key, value in iterated.items() if value is not None]
    if given and not any(takes):
        flags = ", ".join("--" + key.replace("_", "-") for key in given)
        raise InvalidSpec(f"{flags}: none of {', '.join(names)} is iterated, so there is nothing to set.")
    found: dict[str, AttackSpec] = {}
    for name, iterates in zip(names, takes, strict=True):
        for eps in wanted[name]:
            spec = attacks.resolve(
                name,
                eps=eps,
                norm=asked.norm,
                seed=asked.seed,
                threat_space=threat_space,
                verdict=_transferred(name, verdict) if asked.surrogate is not None else verdict,
                **(iterated if iterates else {}),
            )
            found.setdefault(spec.identity, spec)
    # A ladder climbs: what a smaller eps has broken is not attacked again.
    return sorted(found.values(), key=lambda spec: spec.eps.value if spec.name == "sweep" else 0.0)


def _verdict(text: str | None) -> Verdict | None:
    for known in VERDICTS:
        if text == known:
            return known
    if text is not None:
        raise InvalidSpec(f"verdict {text!r} is unknown: {', '.join(VERDICTS)}.")
    return None


def _is_iterated(text: str) -> bool:
    """Whether `--steps` and the like are meant for the attack: it has steps of a size that a person chooses."""
    spec = attacks.resolve(text)
    return spec.steps > 1 and spec.step_size is not None


def resolve_models(asked: Asked, dataset: Dataset, settings: Settings) -> list[Chosen]:
    """The models asked for: each architecture with the weights named for it, or with the ones there are for the
    dataset.
    """
    overrides = parse_options(asked.options)
    scale = scale_of(dataset.image_shape)
    specs = [
        architectures.parse_architecture(text, _options_for(text, overrides, asked.architectures), scale=scale)
        for text in asked.architectures
    ]
    given = Preprocessing.parse(asked.mean, asked.std)
    normal = given.of_channels(dataset.image_shape[0]) if given is not None else None
    context = _Context(asked, dataset, catalogue.scan(settings.weights_folders), normal)
    if not asked.weights:
        if not specs:
            raise ExplorerError("name at least one --arch: `nasrob-tui archs` lists them.")
        return [_only_weights(spec, context) for spec in dict.fromkeys(specs)]
    if specs and len(specs) != len(asked.weights):
        raise ExplorerError(
            f"{len(specs)} --arch but {len(asked.weights)} --weights: give one file for each architecture, or none."
        )
    named: Sequence[ArchitectureSpec | None] = specs or [None] * len(asked.weights)
    pairs = zip(named, asked.weights, strict=True)
    return [_named_weights(spec, text, context) for spec, text in pairs]


@dataclass(frozen=True)
class _Context:
    """What choosing weights needs to know."""

    asked: Asked
    dataset: Dataset
    files: list[catalogue.WeightsFile]
    #: The normalisation that a person gave, before any file's or dataset's.
    preprocessing: Preprocessing | None

    def model(
        self, spec: ArchitectureSpec, weights: str, sha256: str | None, own: Preprocessing, geometry: Geometry | None
    ) -> Chosen:
        """`own` and `geometry` are what the weights want; what a person gave goes before them."""
        normal = self.preprocessing or own
        asked = self.asked
        free = asked.input_size is None and asked.resize is None and asked.interpolation is None
        wanted = geometry if free and self.dataset.native is None else None
        family = self.asked.family
        if family is not None and not external.is_factory(spec.name):
            raise InvalidSpec(f"--family is for networks of your own; {spec.name} is known to be of its family.")
        return Chosen(RequestedModel(spec.canonical, weights, sha256, normal.mean, normal.std, family), wanted)

    def from_file(self, file: catalogue.WeightsFile, spec: ArchitectureSpec) -> Chosen:
        """The model in a file of ours, which must be of the architecture that a person named."""
        record = file.record
        spec = catalogue.architecture_of(record, file.path, given=spec)
        geometry = Geometry.parse(record.geometry) if record.geometry else None
        return self.model(spec, str(file.path), record.tensors_sha256, record.preprocessing, geometry)


def parse_options(options: Sequence[str], *, flag: str = "--set") -> dict[str, str]:
    """`--set key=value`, repeated."""
    found: dict[str, str] = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise InvalidSpec(f"{flag} {text!r} is not of the form key=value.")
        if found.get(key.strip(), value.strip()) != value.strip():
            raise InvalidSpec(f"{flag} gives {key.strip()} twice: {found[key.strip()]} and {value.strip()}.")
        found[key.strip()] = value.strip()
    return found


def _options_for(text: str, overrides: Mapping[str, str], everybody: Sequence[str]) -> dict[str, str]:
    """Of several architectures each takes the options it has; an option that none of them has is an error."""
    entry = architectures.find(text.partition("@")[0])
    known = _option_names([entry])
    found = [architectures.find(other.partition("@")[0]) for other in everybody]
    others = _option_names(found)
    if entry.free_options:
        return (
            dict(overrides) if len(everybody) == 1 else {k: v for k, v in overrides.items() if _plain(k) not in others}
        )
    if any(other.free_options for other in found):
        return {k: v for k, v in overrides.items() if _plain(k) in known}
    return {k: v for k, v in overrides.items() if _plain(k) in known or _plain(k) not in others}


def _option_names(entries: Sequence[Architecture]) -> set[str]:
    """Every name under which one of the architectures takes an option."""
    return {_plain(name) for entry in entries for o in entry.options for name in (o.name, *o.aliases)}


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _only_weights(spec: ArchitectureSpec, context: _Context) -> Chosen:
    dataset, files = context.dataset, context.files
    found = catalogue.matching(files, spec, dataset.name) or [
        file for file in _unique(files) if file.record.architecture == spec.canonical and _fits(file, dataset)
    ]
    # Those that come with the package make way for a person's own; of several the one with the first seed is meant.
    own_files = [f for f in found if not f.path.is_relative_to(catalogue.shipped_folder())]
    found = own_files or [f for f in found if (f.record.seed or 0) == min(g.record.seed or 0 for g in found)]
    if len(found) == 1:
        return context.from_file(found[0], spec)
    if found:
        choices = "; ".join(f"{f.record.tensors_sha256[:12]} (seed {f.record.seed}, {f.path.name})" for f in found[:6])
        raise WeightsError(
            f"{len(found)} sets of weights fit {spec.canonical} on {dataset.name}: "
            f"choose with --weights SHA256 or file. They are: {choices}."
        )
    if external.is_factory(spec.name):
        return context.model(spec, AS_RETURNED, None, dataset.preprocessing, None)
    if (own := external.pretrained(spec.name)) is not None:
        raise WeightsError(
            f"{spec.canonical} has no weights here for {dataset.name}. `--weights {own}` takes its published ones, or "
            "give a file with --weights."
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


def _unique(files: list[catalogue.WeightsFile]) -> list[catalogue.WeightsFile]:
    """The files without repetition of a model."""
    return list({(file.record.tensors_sha256, file.record.architecture): file for file in reversed(files)}.values())


def _fits(file: catalogue.WeightsFile, dataset: Dataset) -> bool:
    """Whether weights were made for the same labels, perhaps of another set of images or at another size."""
    try:
        return datasets.find(file.record.dataset).labels_of == dataset.labels_of
    except ModelsError:
        return False


def _named_weights(spec: ArchitectureSpec | None, text: str, context: _Context) -> Chosen:
    dataset, files = context.dataset, context.files
    path = Path(text).expanduser()
    if spec is not None and not path.exists():
        if text == AS_RETURNED and external.is_factory(spec.name):
            return context.model(spec, AS_RETURNED, None, dataset.preprocessing, None)
        if (published := external.preprocessing(spec.name, text)) is not None:
            geometry = Geometry(published.resize, published.crop, published.interpolation)
            own = Preprocessing(published.mean, published.std)
            return context.model(spec, published.weights, None, own, geometry)
    part = parts.split(text) if path.name and not path.exists() else (text, None)
    if part[1] is None and not path.exists() and (found := catalogue.member_by_sha256(text, files)) is not None:
        part = str(found[0].path), (found[1],)
    if part[1] is not None:
        return _part_of(spec, Path(part[0]).expanduser(), part[1], context)
    if not path.exists() and len(text) >= 6 and all(c in "0123456789abcdef" for c in text.lower()):
        path = catalogue.by_sha256(text, files, architecture=spec.canonical if spec is not None else None).path
    if not path.exists():
        raise WeightsError(f"there is no weights file {text}.")
    if not path.is_file():
        raise WeightsError(f"{text} is not a file.")
    record = catalogue.read_record(path) if path.suffix == ".safetensors" else None
    if record is None:
        if spec is None:
            raise WeightsError(f"{path} does not say which architecture it is for: name it with --arch.")
        return context.model(spec, str(path.absolute()), None, dataset.preprocessing, None)
    named = catalogue.architecture_of(record, path, given=spec)
    geometry_of_file = Geometry.parse(record.geometry) if record.geometry else None
    return context.model(named, str(path.absolute()), record.tensors_sha256, record.preprocessing, geometry_of_file)


def _part_of(spec: ArchitectureSpec | None, path: Path, positions: tuple[int, ...], context: _Context) -> Chosen:
    """Members of the ensemble in a file. Which tensors several of them have together is known once they are read."""
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}.")
    record = catalogue.read_record(path) if path.suffix == ".safetensors" else None
    if record is None or not record.members:
        raise WeightsError(f"{path} holds no ensemble, so it has no members to name.")
    whole = catalogue.architecture_of(record, path)
    chosen = parts.architecture(whole, positions)
    if spec is not None and spec != chosen:
        raise WeightsError(f"{parts.name(str(path), positions)} is {chosen.canonical}, not {spec.canonical}.")
    if chosen == whole:
        return context.from_file(catalogue.WeightsFile(path.absolute(), record), whole)
    one = len(positions) == 1
    own = composition.of(whole).members[positions[0]].preprocessing if one else None
    sha256 = str(record.members[positions[0]]["sha256"]) if one else None
    geometry = Geometry.parse(record.geometry) if record.geometry else None
    weights = parts.name(str(path.absolute()), positions)
    return context.model(chosen, weights, sha256, own or record.preprocessing, geometry)
