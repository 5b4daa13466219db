"""What the ensemble builder offers and what it proposes to do; and an attack on an ensemble as a form.

Torch-free. May read files: call it from a thread.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from explorer import architectures as pages
from explorer import ensemblelist, launching
from explorer.cellgraph import Picture
from explorer.ensemblelist import Ensemble
from explorer.errors import ExplorerError, exit_code_of
from explorer.jobs import folder, planning
from explorer.jobs.planning import Asked
from explorer.jobs.training import Afterwards, TrainingRequest
from explorer.launching import ModelChoice
from explorer.results import Results
from explorer.settings import Settings
from explorer.studies import costs
from explorer.studies.expansion import Place
from explorer.tradeoff import Statement
from explorer.training import Order
from explorer.widgets.cells import count
from models.architectures import registry as architectures
from models.architectures.options import scale_of
from models.datasets import registry as datasets
from models.datasets.registry import Dataset
from models.devices import check_name
from models.ensembles import composition
from models.errors import InvalidSpec
from models.specs import ArchitectureSpec
from models.weights import catalogue

#: The spaces that members are sampled from.
SPACES = tuple(composition.CELLS_OPTION)
#: Rules for models that are trained already.
PICKED_RULES = tuple(rule for rule in composition.RULES if rule not in composition.JOINT)
#: What may follow a training: nothing, PGD, or the attacks of a preset.
THEN = ("nothing", "pgd", "paper", "autoattack")
#: What may be measured beside the whole under attack, and the flag that asks for it.
ALSO = {"members": "--members", "transfer": "--transfer", "gradients": "--gradients"}


# -- an attack on one --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attacking:
    """The form of an attack on an ensemble, as it was typed."""

    attacks: tuple[str, ...] = ("pgd",)
    more: str = ""
    eps: str = ""
    examples: str = ""
    device: str = "auto"
    also: tuple[str, ...] = ("members",)

    def words(self, architecture: str, sha256: str | None, dataset: str, settings: Settings) -> list[str]:
        """The words of `nasrob-tui ensemble attack`. Raises an error with a sentence for what does not fit."""
        wanted = [*self.attacks, *launching.words(self.more)]
        if not wanted:
            raise ExplorerError("choose at least one attack: space does.")
        weights = (sha256,) if sha256 else ()
        asked = Asked(
            architectures=(architecture,),
            weights=weights,
            datasets=(dataset,),
            attacks=wanted,
            eps=launching.words(self.eps),
            examples=launching.whole(self.examples, "examples"),
            device=self.device.strip() or "auto",
        )
        planning.plan(asked, settings)
        if set(self.also) & {"transfer", "gradients"}:
            _require_apart(architecture)
        words = ["ensemble", "attack", architecture, *(["--weights", sha256[:16]] if sha256 else [])]
        words += ["--dataset", dataset]
        for name in wanted:
            words += ["--attack", name]
        for eps in asked.eps:
            words += ["--eps", eps]
        words += ["--examples", str(asked.examples)] if asked.examples is not None else []
        words += ["--device", asked.device] if asked.device != "auto" else []
        words += [] if "members" in self.also else ["--no-members"]
        return [*words, *(flag for name, flag in ALSO.items() if name in self.also)]


def _require_apart(architecture: str) -> None:
    """Raise `ExplorerError` for an ensemble whose members do not stand alone."""
    if composition.of(architectures.parse_architecture(architecture)).joint:
        raise ExplorerError(
            "its members are trained together and do not stand alone: choose neither transfer nor gradients."
        )


# -- building one ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """What the builder holds, as it was typed."""

    sampled: bool = True
    space: str = "darts"
    seed: str = ""
    cells: str = ""
    channels: str = ""
    rule: str = "learned"
    models: tuple[ModelChoice, ...] = ()
    dataset: str = "digits"
    training_seed: str = ""
    epochs: str = ""
    then: str = THEN[0]
    eps: str = ""
    examples: str = ""
    also: tuple[str, ...] = ()
    device: str = "auto"
    threads: str = ""
    #: SHA-256 of models that are to be chosen at first.
    wanted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Building:
    """A member as the preview shows it."""

    name: str
    said: str


@dataclass(frozen=True)
class Proposal:
    """What would be made, and how: by a job (`request`) or by a command (`words`). Or `problem`, a sentence that says
    why nothing can be; what can be shown all the same is there."""

    architecture: ArchitectureSpec | None = None
    members: tuple[Building, ...] = ()
    pictures: tuple[Picture, ...] = ()
    #: Parameters of all members, where each is known; of a sampled one they are counted from `architecture`.
    params: int | None = None
    num_classes: int = 10
    image_shape: tuple[int, int, int] = (3, 32, 32)
    request: TrainingRequest | None = None
    words: tuple[str, ...] = ()
    command: str = ""
    #: What is worth knowing before it is started.
    note: str = ""
    problem: str = ""


def offer(settings: Settings, dataset: str) -> launching.Offer:
    """The models with weights for a dataset that can be members: networks, not ensembles."""
    found = launching.offer(settings, dataset)
    fitting = tuple(m for m in found.models if m.weights is not None and m.sha256 and m.family != "ensemble")
    return replace(found, models=fitting)


def like(ensemble: Ensemble) -> Form:
    """The form to begin with that makes an ensemble once more, a sampled one by another training."""
    name, _, rest = ensemble.architecture.partition("@")
    options = dict(part.split("=", 1) for part in rest.split(",") if "=" in part)
    space, between, seed = name.partition("-ensemble-")
    form = Form(
        sampled=bool(between),
        rule=ensemble.combine,
        dataset=ensemble.dataset,
        wanted=tuple(member.sha256 for member in ensemble.members if member.sha256),
    )
    if not form.sampled:
        return form
    return replace(
        form,
        space=space,
        seed=seed,
        cells=options.get("cells", ""),
        channels=options.get("init_channels", ""),
        training_seed=str((ensemble.seed or 0) + 1),
        wanted=(),
    )


def propose(form: Form, settings: Settings, results: Results) -> Proposal:
    """Check the form and say what would be made. Never raises for what a person can mend."""
    proposal = Proposal()
    try:
        dataset = datasets.find(form.dataset)
        proposal = replace(proposal, num_classes=dataset.n_classes, image_shape=dataset.image_shape)
        proposal = _sampled(form, dataset, proposal) if form.sampled else _picked(form, dataset, proposal, results)
        if datasets.locate(dataset, "train") is None:
            raise ExplorerError(
                f"the training images of {dataset.name} are not on this machine: "
                f"`nasrob-tui datasets {shlex.quote(dataset.name)}` says where they should lie."
            )
        check_name(form.device.strip() or "auto")
        if form.sampled:
            return _to_train(form, dataset, proposal, settings)
        return _to_pick(form, dataset, proposal, settings)
    except Exception as error:
        if exit_code_of(error) is None:
            raise
        return replace(proposal, problem=str(error))


def start(request: TrainingRequest, settings: Settings) -> int:
    """Write and start a job; its number. Raises `ExplorerError`."""
    job = folder.create(settings.jobs, request)
    try:
        job.start()
    except OSError as error:
        raise ExplorerError(f"job {job.number} could not be started: {error.strerror or error}.") from None
    return job.number


# -- sampling ----------------------------------------------------------------------------------------------------------


def _sampled(form: Form, dataset: Dataset, proposal: Proposal) -> Proposal:
    seed = launching.whole(form.seed, "seed") or 0
    if seed < 0:
        raise InvalidSpec("seed must be at least 0.")
    options: dict[str, Any] = {"combine": form.rule}
    if form.cells.strip():
        options["cells"] = "-".join(form.cells.replace(",", " ").replace("-", " ").split())
    if (channels := launching.whole(form.channels, "channels")) is not None:
        options["init_channels"] = channels
    scale = scale_of(dataset.image_shape)
    spec = architectures.parse_architecture(f"{form.space}-ensemble-{seed}", options, scale=scale)
    return replace(
        proposal,
        architecture=spec,
        members=tuple(_building(member.spec) for member in composition.of(spec).members),
        pictures=pages.pictures_of(spec),
    )


def _building(spec: ArchitectureSpec) -> Building:
    options = dict(spec.options)
    cells = options.get("layers", options.get("cells_per_stage"))
    said = [] if cells is None else [f"{cells} cell{'s' * (cells != 1)}{' a stage' * ('layers' not in options)}"]
    said += [f"{options['init_channels']} channels"] if "init_channels" in options else []
    return Building(spec.name, " · ".join(said))


def _to_train(form: Form, dataset: Dataset, proposal: Proposal, settings: Settings) -> Proposal:
    """The same with the job that trains it."""
    assert proposal.architecture is not None
    seed = launching.whole(form.training_seed, "training seed") or 0
    if seed < 0:
        raise InvalidSpec("training seed must be at least 0.")
    epochs = launching.whole(form.epochs, "epochs")
    order = launching.trainable(
        Order(
            proposal.architecture,
            dataset.name,
            seed=seed,
            overrides={"epochs": epochs} if epochs is not None else {},
        )
    )
    request = TrainingRequest.of(
        [order],
        settings.store,
        then=_afterwards(form, dataset, proposal.architecture),
        device=form.device.strip() or "auto",
        threads=launching.whole(form.threads, "threads"),
    )
    note = _work(order, request, settings)
    for file in catalogue.scan(settings.weights_folders):
        record = file.record
        if (record.architecture, record.dataset, record.seed) == (order.architecture.canonical, dataset.name, seed):
            note = "it has been trained with this seed: what was trained the same way is not trained again"
    if "auxiliary_weight" in order.overrides:
        note += "; without the auxiliary head, which was made for images of another size"
    command = request.command()
    return replace(proposal, request=request, command=command.replace("\n", " && "), note=note)


def _work(order: Order, request: TrainingRequest, settings: Settings) -> str:
    """What there is to do: trainings and evaluations; and for how long, where earlier trainings here tell."""
    members = [part.resolved().epochs for part in order.parts] or [order.resolved().epochs]
    each = f"{count(members[0], 'epoch')} each" if len(set(members)) == 1 else f"{count(sum(members), 'epoch')} in all"
    said = [
        f"{count(len(members), 'member')}, {each}" if order.parts else f"trained as one, {count(members[0], 'epoch')}"
    ]
    if composition.of(order.architecture).learned:
        said.append(f"the combiner, {order.tuning().epochs}")
    if n := len(request.evaluations(request.orders[0])):
        said.append(count(n, "evaluation"))
    seconds = _seconds(order, request, settings)
    return ", then ".join(said) + (f"; training takes about {costs.about(seconds)}" if seconds is not None else "")


def _seconds(order: Order, request: TrainingRequest, settings: Settings) -> float | None:
    """How long the members take to train, None unless a training of each has been timed on this device."""
    times = costs.Times(Place(settings, request.device, request.threads))
    total = 0.0
    for part in order.parts or (order,):
        an_image = times.of(part.architecture.canonical, part.dataset)
        if an_image is None:
            return None
        total += costs.epochs_of(part) * part.entry.sizes.get("train", 0) * an_image
    return total


def _afterwards(form: Form, dataset: Dataset, spec: ArchitectureSpec) -> Afterwards | None:
    """What is attacked once it is trained."""
    if form.then == THEN[0]:
        return None
    preset = form.then != "pgd"
    asked = Asked(
        attacks=() if preset else (form.then,),
        presets=(form.then,) if preset else (),
        eps=launching.words(form.eps),
    )
    examples = launching.whole(form.examples, "examples")
    split = dataset.split_named("test")
    if examples is not None and not 1 <= examples <= dataset.sizes.get(split, examples):
        raise InvalidSpec(f"examples: {dataset.name} has {dataset.sizes[split]} to judge on, so ask for 1 to that.")
    if {"transfer", "gradients"} & set(form.also):
        _require_apart(spec.canonical)
    return Afterwards(
        tuple(planning.resolve_attacks(asked)),
        examples,
        split,
        **{name: name in form.also for name in ALSO},
    )


# -- picking -----------------------------------------------------------------------------------------------------------


def _picked(form: Form, dataset: Dataset, proposal: Proposal, results: Results) -> Proposal:
    if not form.models:
        raise ExplorerError("choose two models or more: space does.")
    specs = [architectures.parse_architecture(model.architecture) for model in form.models]
    members = tuple(
        replace(
            _building(spec),
            said=" · ".join(
                part
                for part in (
                    "" if model.seed is None else f"seed {model.seed}",
                    "" if model.clean_accuracy is None else f"{model.clean_accuracy:.1f} % clean",
                    model.weights_text,
                )
                if part
            ),
        )
        for spec, model in zip(specs, form.models, strict=True)
    )
    pictures = tuple(
        replace(picture, title=f"{i}: {picture.title}")
        for i, spec in enumerate(specs)
        for picture in pages.pictures_of(spec)
    )
    return replace(proposal, members=members, pictures=pictures, params=_params(form.models, results))


def _params(models: Sequence[ModelChoice], results: Results) -> int | None:
    """The parameters of all these models, as far as the store knows every one."""
    if not results.ready:
        return None
    found = results.query(
        Statement(
            "SELECT model_sha256, any_value(params) AS params FROM models "
            "WHERE model_sha256 IN (SELECT unnest(?)) GROUP BY ALL",
            [[model.sha256 for model in models]],  # type: ignore[list-item]
        )
    ).to_pylist()
    known = {row["model_sha256"]: row["params"] for row in found}
    return sum(known[m.sha256] for m in models) if all(m.sha256 in known for m in models) else None


def _to_pick(form: Form, dataset: Dataset, proposal: Proposal, settings: Settings) -> Proposal:
    """The same with the command that makes it."""
    if len(form.models) < 2:
        raise ExplorerError("one model is no ensemble: choose another one, space does.")
    if form.rule in composition.JOINT:
        raise InvalidSpec(f"{form.rule} trains all members together: models that are trained cannot be picked for it.")
    seed = launching.whole(form.training_seed, "seed") or 0
    if seed < 0:
        raise InvalidSpec("seed must be at least 0.")
    words = ["ensemble", "pick"]
    for model in form.models:
        words += ["--arch", model.architecture, "--weights", (model.sha256 or "")[:16]]
    words += ["--combine", form.rule, "--dataset", dataset.name]
    words += ["--seed", str(seed)] if seed else []
    if form.device.strip() not in ("", "auto"):
        words += ["--device", form.device.strip()]
    if (threads := launching.whole(form.threads, "threads")) is not None:
        words += ["--threads", str(threads)]
    learned = form.rule in composition.LEARNED
    note = (
        "the combiner is tuned; the members stay as they are" if learned else "nothing is trained: it is made at once"
    )
    return replace(proposal, words=tuple(words), command=ensemblelist.command(words, settings), note=note)
