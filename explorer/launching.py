"""What the launch screen offers and what it proposes to do. May read files: call it from a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from explorer.errors import ExplorerError, exit_code_of
from explorer.jobs import folder, planning
from explorer.jobs.planning import Asked
from explorer.jobs.request import Request
from explorer.results import Results
from explorer.settings import Settings
from models.architectures import registry as architectures
from models.architectures.options import scale_of
from models.datasets import registry as datasets
from models.errors import ModelsError
from models.weights import catalogue


@dataclass(frozen=True)
class ModelChoice:
    """An architecture with weights for the dataset, or without any, which cannot be attacked yet."""

    architecture: str
    family: str
    weights: str | None = None
    sha256: str | None = None
    seed: int | None = None
    clean_accuracy: float | None = None

    @property
    def key(self) -> str:
        """The weights where there are some: an architecture may have several."""
        return self.sha256 or self.architecture


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
    verdict: str = "worst"


@dataclass(frozen=True)
class Proposal:
    """What would be done: the requests, how many evaluations they hold and how many of those are in the store. Or
    `problem`, a sentence that says why nothing can be done."""

    requests: tuple[Request, ...] = ()
    n_evaluations: int = 0
    n_known: int = 0
    problem: str = ""

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
    """The models there are for a dataset: those with weights first."""

    dataset: str
    models: tuple[ModelChoice, ...] = field(default=())
    #: Whether there is a dataset of that name.
    known: bool = True


def datasets_here() -> list[str]:
    """The datasets whose examples to be judged on lie on this machine, the one that ships with the package first."""
    return [
        name
        for name, dataset in datasets.entries().items()
        if datasets.locate(dataset, dataset.split_named("test")) is not None
    ]


def offer(settings: Settings, dataset_name: str) -> Offer:
    """Every set of weights for the dataset, then every architecture of the registry's short list that has none."""
    try:
        dataset = datasets.find(dataset_name)
    except ModelsError:
        return Offer(dataset_name, known=False)
    found: dict[str, ModelChoice] = {}
    for file in catalogue.scan(settings.weights_folders):
        record = file.record
        if record.dataset not in (dataset.name, dataset.labels_of):
            continue
        try:
            # Without anybody naming it, so that a file cannot choose code to import.
            family = architectures.find(catalogue.architecture_of(record, file.path).name).family
        except ModelsError:
            continue  # weights of an architecture that this version does not know, or of somebody's code
        choice = ModelChoice(
            record.architecture, family, str(file.path), record.tensors_sha256, record.seed, record.clean_accuracy
        )
        found.setdefault(record.tensors_sha256, choice)
    trained = sorted(found.values(), key=lambda m: (m.architecture, m.seed or 0))
    have = {m.architecture for m in trained}
    bare = []
    for name, entry in architectures.entries().items():
        if "<" in name or not entry.curated:
            continue
        canonical = architectures.parse_architecture(name, scale=scale_of(dataset.image_shape)).canonical
        if canonical not in have:
            bare.append(ModelChoice(canonical, entry.family))
    return Offer(dataset.name, (*trained, *bare))


def typed(text: str, dataset_name: str) -> ModelChoice | None:
    """The architecture that a person typed, such as `darts-random-7` or `darts@layers=8`; None when it is none."""
    try:
        spec = architectures.parse_architecture(text, scale=scale_of(datasets.find(dataset_name).image_shape))
        return ModelChoice(spec.canonical, architectures.find(spec.name).family)
    except ModelsError:
        return None


def propose(form: Form, settings: Settings, results: Results) -> Proposal:
    """Check the form and say what would be done. Never raises for what a person can mend."""
    try:
        requests = tuple(planning.plan(_asked(form), settings))
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
        return Proposal(problem=str(error))


def start(proposal: Proposal, settings: Settings) -> list[int]:
    """Write and start a job a request; the numbers of the jobs. Raises `ExplorerError`."""
    numbers = []
    for request in proposal.requests:
        job = folder.create(settings.jobs, request)
        try:
            job.start()
        except OSError as error:
            raise ExplorerError(f"job {job.number} could not be started: {error.strerror or error}.") from None
        numbers.append(job.number)
    return numbers


def _asked(form: Form) -> Asked:
    if not form.models:
        raise ExplorerError("choose at least one model: space does.")
    attacks = [*form.attacks, *_words(form.more_attacks)]
    if not attacks:
        raise ExplorerError("choose at least one attack.")
    untrained = [m.architecture for m in form.models if m.weights is None]
    return Asked(
        # Without weights the plan fails, with the sentence that says how to get some.
        architectures=untrained[:1] or [m.architecture for m in form.models],
        weights=() if untrained else [m.weights for m in form.models if m.weights is not None],
        datasets=(form.dataset,),
        attacks=attacks,
        eps=_words(form.eps),
        seed=_whole(form.seed, "seed") or 0,
        examples=_whole(form.examples, "examples"),
        threat_space=form.threat_space,
        verdict=form.verdict,
        device=form.device.strip() or "auto",
        threads=_whole(form.threads, "threads"),
    )


def _words(text: str) -> Sequence[str]:
    """Words with spaces or commas between them; a comma inside `pgd@steps=20,eps=4/255` separates nothing."""
    return [word for part in text.split() for word in ([part] if "@" in part else part.split(",")) if word]


def _whole(text: str, what: str) -> int | None:
    if not text.strip():
        return None
    try:
        return int(text)
    except ValueError:
        raise ExplorerError(f"{what} takes a whole number, not {text.strip()!r}.") from None
