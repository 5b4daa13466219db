"""What the launch screen offers and what it proposes to do. May read files: call it from a thread."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from explorer import elsewhere
from explorer.errors import ExplorerError, exit_code_of
from explorer.jobs import folder, planning
from explorer.jobs.planning import AS_RETURNED, Asked
from explorer.jobs.request import Request
from explorer.jobs.training import Afterwards, TrainingRequest
from explorer.results import Results
from explorer.settings import Settings
from explorer.training import Order
from models.architectures import external
from models.architectures import registry as architectures
from models.architectures.options import Scale, scale_of
from models.attacks import registry as attacks
from models.datasets import registry as datasets
from models.datasets.registry import Dataset
from models.errors import ModelsError, WeightsError
from models.specs import ArchitectureSpec
from models.weights import catalogue
from models.weights.catalogue import WeightsFile

#: The attacks that are chosen at first: those of the study.
USUAL_ATTACKS = ("fgsm", "f-fgsm", "pgd")
#: Classes of the datasets that torchvision and timm publish weights for.
_PUBLISHED_FOR = "imagenet"


@dataclass(frozen=True)
class ModelChoice:
    """An architecture with weights for the dataset, or without any, which cannot be attacked yet."""

    #: The canonical text, and what a person writes for it.
    architecture: str
    text: str
    family: str
    #: A file, or the name of weights that are none: `factory`, `torchvision:IMAGENET1K_V1`, `timm:pretrained`.
    weights: str | None = None
    sha256: str | None = None
    seed: int | None = None
    clean_accuracy: float | None = None
    recipe: str | None = None
    #: When the weights were made, ISO 8601; empty where nobody wrote it down.
    made: str = ""

    @property
    def key(self) -> str:
        """Architecture and weights: an architecture may have several, and several may share their tensors."""
        return f"{self.architecture} {self.sha256 or self.weights or ''}"

    @property
    def weights_text(self) -> str:
        """The weights in a few characters."""
        if self.sha256:
            return self.sha256[:8]
        if self.weights is None:
            return "none yet"
        if self.weights == AS_RETURNED:
            return "as returned"
        package, _, name = self.weights.partition(":")
        return name if package in ("torchvision", "timm") and name else Path(self.weights).name

    def mentions(self, text: str) -> bool:
        """Whether its name holds some text, or its SHA-256 begins with it."""
        wanted = text.strip().lower()
        return wanted in f"{self.text} {self.architecture}".lower() or (self.sha256 or "").startswith(wanted)


@dataclass(frozen=True)
class Form:
    """What the screen holds, as it was typed."""

    models: tuple[ModelChoice, ...] = ()
    dataset: str = "digits"
    attacks: tuple[str, ...] = ()
    more_attacks: str = ""
    eps: str = ""
    examples: str = ""
    seed: str = ""
    device: str = "auto"
    threads: str = ""
    threat_space: str = "pixel"
    verdict: str | None = None


@dataclass(frozen=True)
class TrainFirst:
    """The job that trains what has no weights and attacks it then, and those that attack the other models meanwhile.
    `seconds` is about how long the trainings take, None where nothing like them was trained here before.
    """

    training: TrainingRequest
    beside: tuple[Request, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class Proposal:
    """What would be done: the requests, how many evaluations they hold and how many of those are in the store. Or
    `problem`, a sentence that says why nothing can be done."""

    requests: tuple[Request, ...] = ()
    n_evaluations: int = 0
    n_known: int = 0
    problem: str = ""
    #: What would help where models have no weights: to train them first.
    first: TrainFirst | None = None

    @property
    def command(self) -> str:
        """The command lines that ask for the same."""
        return "\n".join(request.command() for request in self.requests)

    @property
    def remedy(self) -> str:
        """The command that would mend the problem; empty when there is none."""
        return self.problem.partition("Train it: ")[2]


@dataclass(frozen=True)
class Offer:
    """The models there are for a dataset: those with weights first. `problem` is a sentence that says why nothing can
    be judged on it."""

    dataset: str
    models: tuple[ModelChoice, ...] = ()
    #: The datasets that are on this machine.
    here: tuple[str, ...] = ()
    problem: str = ""
    #: The dataset as it was typed.
    asked: str = ""


@dataclass(frozen=True)
class Typed:
    """What was typed for a model that no list has, and the models it stands for. `problem` is a sentence that says why
    it stands for none."""

    architecture: str
    weights: str
    dataset: str
    models: tuple[ModelChoice, ...] = ()
    problem: str = ""


# -- data ------------------------------------------------------------------------------------------------------------


def datasets_here() -> tuple[str, ...]:
    """The datasets whose examples to be judged on lie on this machine, the one that ships with the package first."""
    return tuple(name for name, dataset in datasets.entries().items() if _is_here(dataset))


def usual_attacks() -> tuple[str, ...]:
    """The attacks to begin with."""
    return tuple(name for name in USUAL_ATTACKS if name in attacks.entries())


def _is_here(dataset: Dataset) -> bool:
    try:
        return datasets.locate(dataset, dataset.split_named("test")) is not None
    except OSError:
        return False  # in a folder of somebody else's


def _dataset(name: str, here: Sequence[str]) -> Dataset:
    """The dataset to judge on. Raises `ExplorerError` when there is no such, or when it is not on this machine: with
    those that are."""
    if not name.strip():
        raise ExplorerError(f"name a dataset. {_named(here)}")
    try:
        dataset = datasets.find(name)
        if _is_here(dataset):
            return dataset
    except ModelsError as error:
        raise ExplorerError(f"{error} {_named(here)}") from None
    fetched = ", and --download fetches it" if dataset.downloadable else ""
    raise ExplorerError(
        f"{dataset.name} is not on this machine: `nasrob-tui datasets {shlex.quote(dataset.name)}` says where it "
        f"should lie{fetched}. {_named(here)}"
    )


def _named(here: Sequence[str]) -> str:
    return f"On this machine are {', '.join(here)}; folder:PATH takes any folder of images."


# -- models ----------------------------------------------------------------------------------------------------------


def offer(settings: Settings, dataset_name: str) -> Offer:
    """Every set of weights for the dataset, then every architecture of the registry's short list that has none."""
    here = datasets_here()
    try:
        dataset = _dataset(dataset_name, here)
    except ExplorerError as error:
        return Offer(dataset_name, here=here, problem=str(error), asked=dataset_name)
    scale = scale_of(dataset.image_shape)
    trained = _newest_first(
        choice
        for file in catalogue.scan(settings.weights_folders)
        # Without anybody naming the architecture, so that a file cannot choose code to import.
        if _fits(file, dataset) and (choice := _choice(file, scale)) is not None
    )
    have = {m.architecture for m in trained}
    bare = []
    for name, entry in architectures.entries().items():
        if "<" in name or not entry.curated:
            continue
        spec = architectures.parse_architecture(name, scale=scale)
        if spec.canonical not in have:
            bare.append(_bare(spec, scale))
    return Offer(dataset.name, (*trained, *bare), here, asked=dataset_name)


async def look_up(architecture: str, weights: str, dataset_name: str, settings: Settings) -> Typed:
    """What a person means who types an architecture, weights, or both: see `typed`. Never raises for what a person can
    mend, and never blocks."""
    asked = Typed(architecture.strip(), weights.strip(), dataset_name)
    try:
        known = None
        if elsewhere.knows_more(architecture):
            dataset = await asyncio.to_thread(datasets.find, dataset_name)
            known = await elsewhere.look_up(architecture, scale_of(dataset.image_shape), settings)
        return await asyncio.to_thread(typed, asked, settings, known)
    except Exception as error:
        if exit_code_of(error) is None:
            raise
        return replace(asked, problem=str(error))


def typed(asked: Typed, settings: Settings, known: tuple[ArchitectureSpec, str] | None = None) -> Typed:
    """The models that an architecture, as `--arch` takes it, and weights, as `--weights` takes them, stand for.

    Without weights these are all that there are for the dataset, those of the very architecture and the newest first,
    published ones among them; then the architecture without any, if it has none. `known` is the architecture and its
    family where that has been found out. Raises an error with a sentence for what is none of these.
    """
    try:
        dataset = datasets.find(asked.dataset)
    except ModelsError:
        return asked  # which is said where the dataset stands
    scale = scale_of(dataset.image_shape)
    spec = known[0] if known is not None else None
    if spec is None and asked.architecture:
        spec = architectures.parse_architecture(asked.architecture, scale=scale)
    family = known[1] if known is not None else architectures.find(spec.name).family if spec is not None else ""
    files = catalogue.scan(settings.weights_folders)
    if asked.weights:
        found = [_named_weights(asked.weights, spec, family, dataset, files)]
    elif spec is not None:
        found = _all_weights(spec, family, dataset, files)
    else:
        return asked
    return replace(asked, models=tuple(found))


def _all_weights(
    spec: ArchitectureSpec, family: str, dataset: Dataset, files: Iterable[WeightsFile]
) -> list[ModelChoice]:
    """Everything that there is to attack of an architecture, with the options given first, then with others."""
    scale = scale_of(dataset.image_shape)
    bare = _bare(spec, scale, family)
    trained = _newest_first(
        choice
        for file in files
        if file.record.architecture.partition("@")[0] == spec.name and _fits(file, dataset)
        # A person typed the name: code that it stands for may be imported.
        if (choice := _choice(file, scale, named=bare)) is not None
    )
    own = [choice for choice in trained if choice.architecture == spec.canonical]
    if dataset.labels_of == _PUBLISHED_FOR:
        own += [_with_published(bare, name) for name in _published(spec.name)]
    if external.is_factory(spec.name):
        own.append(replace(bare, weights=AS_RETURNED))
    return [*(own or [bare]), *(choice for choice in trained if choice.architecture != spec.canonical)]


def _named_weights(
    text: str, spec: ArchitectureSpec | None, family: str, dataset: Dataset, files: Sequence[WeightsFile]
) -> ModelChoice:
    """The model in the weights that a person names: a file, the beginning of a SHA-256, or published ones."""
    scale = scale_of(dataset.image_shape)
    bare = _bare(spec, scale, family) if spec is not None else None
    path = _path(text)
    if bare is not None and spec is not None and not _exists(path):
        if text == AS_RETURNED and external.is_factory(spec.name):
            return replace(bare, weights=AS_RETURNED)
        if (published := _published_as(spec.name, text)) is not None:
            if dataset.labels_of != _PUBLISHED_FOR:
                raise WeightsError(
                    f"{text} of {bare.text} knows the 1000 classes of {_PUBLISHED_FOR}, not those of {dataset.name}: "
                    "choose that dataset, or name a file with weights of your own."
                )
            return _with_published(bare, published)
    if not _exists(path) and not (len(text) >= 6 and set(text.lower()) <= set("0123456789abcdef")):
        names = [name.partition(":")[2] for name in _published(spec.name)] if spec is not None else []
        beside = f" Published ones are {', '.join(names)}." if names else ""
        raise WeightsError(f"there is no weights file {text}.{beside}")
    path = catalogue.locate(str(path) if _exists(path) else text, files)
    record = catalogue.read_record(path) if path.suffix == ".safetensors" else None
    if record is None:
        if bare is None:
            raise WeightsError(f"{path.name} does not say which architecture it is for: type that, too.")
        return replace(bare, weights=str(path.absolute()))
    catalogue.architecture_of(record, path, given=spec)
    if (record.num_classes, record.in_channels) != (dataset.n_classes, dataset.image_shape[0]):
        raise WeightsError(
            f"{path.name} is for {record.dataset}: {record.num_classes} classes of images with {record.in_channels} "
            f"channels, where {dataset.name} has {dataset.n_classes} and {dataset.image_shape[0]}."
        )
    choice = _choice(WeightsFile(path.absolute(), record), scale, named=bare)
    assert choice is not None, "its architecture was found just now"
    return choice


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)  # ~ and the name of nobody here


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False  # too long for a name, or in a folder of somebody else's


def _fits(file: WeightsFile, dataset: Dataset) -> bool:
    """Whether weights were made for the same labels, perhaps of another set of images or at another size."""
    if file.record.dataset in (dataset.name, dataset.labels_of):
        return True
    try:
        return datasets.find(file.record.dataset).labels_of == dataset.labels_of
    except ModelsError:
        return False


def _choice(file: WeightsFile, scale: Scale, *, named: ModelChoice | None = None) -> ModelChoice | None:
    """The model in a file. `named` is one of the same architecture, perhaps with other options, that a person named.

    None for an architecture that this version does not know, and for somebody's code that nobody named.
    """
    record = file.record
    name = record.architecture.partition("@")[0]
    if external.is_factory(name) or elsewhere.knows_more(name):
        if named is None or named.architecture.partition("@")[0] != name:
            return None
        text, family = record.architecture, named.family
    else:
        try:
            spec = catalogue.architecture_of(record, file.path)
            text, family = _text(spec, scale), architectures.find(spec.name).family
        except ModelsError:
            return None
    return ModelChoice(
        record.architecture,
        text,
        family,
        str(file.path),
        record.tensors_sha256,
        record.seed,
        record.clean_accuracy,
        record.recipe_name or record.origin,
        record.created_at,
    )


def _bare(spec: ArchitectureSpec, scale: Scale, family: str | None = None) -> ModelChoice:
    return ModelChoice(spec.canonical, _text(spec, scale), family or architectures.find(spec.name).family)


def _text(spec: ArchitectureSpec, scale: Scale) -> str:
    """The name alone where the options are those that images of this size get by themselves."""
    if elsewhere.knows_more(spec.name):
        return spec.canonical
    return spec.name if architectures.find(spec.name).resolve({}, scale=scale) == spec else spec.canonical


def _newest_first(found: Iterable[ModelChoice]) -> list[ModelChoice]:
    """By architecture, the newest first; the same model is listed once."""
    unique: dict[str, ModelChoice] = {}
    for choice in found:
        unique.setdefault(choice.key, choice)
    by_seed = sorted(unique.values(), key=lambda m: m.seed or 0)
    return sorted(sorted(by_seed, key=lambda m: m.made, reverse=True), key=lambda m: m.text)


def _published(architecture: str) -> list[str]:
    """The weights that an architecture's package publishes, the usual ones first, as `--weights` takes them."""
    package, _, name = architecture.partition(":")
    if package == "timm":
        return ["timm:pretrained"]
    known = external.torchvision_models().get(name) if package == "torchvision" else None
    if known is None:
        return []
    names = sorted(known["weights"], key=lambda weights: weights != known["default"])
    return [f"torchvision:{weights}" for weights in names]


def _with_published(bare: ModelChoice, weights: str) -> ModelChoice:
    known = external.torchvision_models().get(bare.architecture.partition(":")[2], {"weights": {}})["weights"]
    accuracy = known.get(weights.partition(":")[2], {}).get("top1")
    return replace(bare, weights=weights, recipe="published", clean_accuracy=accuracy)


def _published_as(architecture: str, text: str) -> str | None:
    """What `--weights` takes for published weights as a person writes them: `DEFAULT`, `IMAGENET1K_V2`, `pretrained`.

    None when they are no such. Without torch: whether timm has them is seen when the job is planned.
    """
    names = _published(architecture)
    wanted = text.partition(":")[2] or text
    if names and wanted.upper() in ("DEFAULT", "PRETRAINED"):
        return names[0]
    return next((name for name in names if name.partition(":")[2].upper() == wanted.upper()), None)


# -- what would be done ----------------------------------------------------------------------------------------------


async def check(form: Form, settings: Settings, results: Results) -> Proposal:
    """`propose`, with the help of the packages that some models come from. Never blocks."""
    planned = None
    if elsewhere.plans_more((model.architecture, model.weights) for model in form.models):
        try:
            planned = await elsewhere.plan(_asked(form), settings)
        except Exception as error:
            if exit_code_of(error) is None:
                raise
            return Proposal(problem=str(error))
    return await asyncio.to_thread(propose, form, settings, results, planned)


def propose(form: Form, settings: Settings, results: Results, planned: tuple[Request, ...] | None = None) -> Proposal:
    """Check the form and say what would be done, `planned` if that has been thought out. Never raises for what a person
    can mend."""
    try:
        requests = planned if planned is not None else tuple(planning.plan(_asked(form), settings))
        identities = {
            request.evaluation(model, attack).identity
            for request in requests
            for model in request.models
            for attack in request.attacks
            if model.sha256 is not None
        }
        known = results.complete(sorted(identities)) if results.ready else 0
        total = sum(len(request.models) * len(request.attacks) for request in requests)
        return Proposal(requests, total, known)
    except Exception as error:
        if exit_code_of(error) is None:
            raise
        return Proposal(problem=str(error), first=_train_first(form, settings))


def _train_first(form: Form, settings: Settings) -> TrainFirst | None:
    """How to train the models that have no weights; None where all have some or something else is wrong."""
    bare = [model for model in form.models if model.weights is None]
    rest = tuple(model for model in form.models if model.weights is not None)
    if not bare or any(elsewhere.knows_more(model.architecture) for model in bare):
        return None
    try:
        dataset = _dataset(form.dataset, datasets_here())
        if datasets.locate(dataset, dataset.split_named("train")) is None:
            return None
        asked = _asked(replace(form, models=rest)) if rest else _without_models(form)
        datasets.load(dataset.name, dataset.split_named("test")).subset(asked.examples)
        specs = [architectures.parse_architecture(model.architecture) for model in bare]
        orders = [trainable(Order(spec, dataset.name)) for spec in specs]
        then = Afterwards(tuple(planning.resolve_attacks(asked)), asked.examples)
        training = TrainingRequest.of(orders, settings.store, then=then, device=asked.device, threads=asked.threads)
        beside = tuple(planning.plan(asked, settings)) if rest else ()
        return TrainFirst(training, beside, _seconds(training, settings))
    except Exception as error:
        if not isinstance(error, OSError) and exit_code_of(error) is None:
            raise
        return None


def trainable(order: Order) -> Order:
    """The order, without an auxiliary head where its recipe asks for one that these images do not fit: such a training
    would be refused in the job. Raises `InvalidSpec` for what would be refused anyway."""
    sides = order.entry.image_shape[1:]
    for part in order.parts or (order,):
        if part.resolved().auxiliary_weight > 0 and not all(_fits_head(part.architecture, side) for side in sides):
            order = replace(order, overrides={**order.overrides, "auxiliary_weight": 0.0})
            break
    order.check()
    return order


def _fits_head(spec: ArchitectureSpec, side: int) -> bool:
    """Whether the auxiliary head of a network of DARTS-format cells, the only one with demands, takes images of a side.

    It was made for the maps of images of side 32, of 8 by 8 after two layers of stride 2, and in the ImageNet form for
    those of side 224, of 7 by 7 after five.
    """
    # The usual form is left out of a specification's options.
    forms = [option.default for option in architectures.find(spec.name).options if option.name == "form"]
    if not forms:
        return True
    times, made_for = (5, 7) if dict(spec.options).get("form", forms[0]) == "imagenet" else (2, 8)
    for _ in range(times):
        side = -(-side // 2)
    return side == made_for


def _seconds(training: TrainingRequest, settings: Settings) -> float | None:
    """How long the trainings take, by what the same ones took here before. The combiner of an ensemble takes little
    beside its members."""
    from explorer.studies.costs import Times, epochs_of
    from explorer.studies.expansion import Place

    times = Times(Place(settings, device=training.device, threads=training.threads))
    total = 0.0
    for order in (step.order for step in training.steps() if step.kind != "whole"):
        each = times.of(order.architecture.canonical, order.dataset)
        if each is None:
            return None
        total += each * epochs_of(order) * order.entry.sizes.get("train", 0)
    return total


def start(proposal: Proposal, settings: Settings) -> list[int]:
    """Write and start a job a request; the numbers of the jobs. Raises `ExplorerError`."""
    return _start(proposal.requests, settings)


def train_first(first: TrainFirst, settings: Settings) -> list[int]:
    """Write and start the job that trains, then those beside it; the numbers of the jobs. Raises `ExplorerError`."""
    return _start((first.training, *first.beside), settings)


def _start(requests: Sequence[Request | TrainingRequest], settings: Settings) -> list[int]:
    numbers = []
    for request in requests:
        job = folder.create(settings.jobs, request)
        try:
            job.start()
        except OSError as error:
            raise ExplorerError(f"job {job.number} could not be started: {error.strerror or error}.") from None
        numbers.append(job.number)
    return numbers


def _asked(form: Form) -> Asked:
    """What the form asks for. Raises `ExplorerError` where it is not complete."""
    dataset = _dataset(form.dataset, datasets_here())
    if not form.models:
        raise ExplorerError("choose at least one model: space does.")
    asked = _without_models(form)
    untrained = [m for m in form.models if m.weights is None]
    for model in untrained:
        if external.pretrained(model.architecture.partition("@")[0]) is not None:
            raise ExplorerError(
                f"{model.text} has no weights for {dataset.name}, and its published ones know other classes: name a "
                "file with some in the field weights. Train it: nasrob-tui train --arch "
                f"{model.architecture} --dataset {dataset.name}"
            )
    return replace(
        asked,
        # Without weights the plan fails, with the sentence that says how to get some.
        architectures=[m.architecture for m in untrained[:1] or form.models],
        weights=() if untrained else [m.weights for m in form.models if m.weights is not None],
    )


def _without_models(form: Form) -> Asked:
    """What the form asks for of any model."""
    wanted = [*form.attacks, *words(form.more_attacks)]
    if not wanted:
        raise ExplorerError("choose at least one attack.")
    return Asked(
        datasets=(form.dataset,),
        attacks=wanted,
        eps=words(form.eps),
        seed=whole(form.seed, "seed") or 0,
        examples=whole(form.examples, "examples"),
        threat_space=form.threat_space,
        verdict=form.verdict,
        device=form.device.strip() or "auto",
        threads=whole(form.threads, "threads"),
    )


def words(text: str) -> Sequence[str]:
    """Words with spaces or commas between them; a comma inside `pgd@steps=20,eps=4/255` separates nothing."""
    return [word for part in text.split() for word in ([part] if "@" in part else part.split(",")) if word]


def whole(text: str, what: str) -> int | None:
    """The whole number that was typed, None for nothing; raises `ExplorerError` with `what` for anything else."""
    if not text.strip():
        return None
    try:
        return int(text)
    except ValueError:
        raise ExplorerError(f"{what} takes a whole number, not {text.strip()!r}.") from None
