"""From a study to the list of what it takes: models, attacks, evaluations.

Only the registries are asked, so that a study can be looked at where its data are not.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.errors import ExplorerError
from explorer.jobs import planning
from explorer.jobs.planning import Asked
from explorer.studies.definition import PUBLISHED, SEED_MARK, TRAINED, Entry, Group, Study, Training
from explorer.training import Order, Trainer
from models.architectures import external
from models.architectures import registry as architectures
from models.architectures.options import scale_of
from models.datasets import registry as datasets
from models.datasets.registry import Dataset
from models.errors import ModelsError
from models.specs import ArchitectureSpec, AttackSpec, ThreatSpace

if TYPE_CHECKING:
    from explorer.settings import Settings


@dataclass(frozen=True)
class StudyModel:
    """One model of a study: an architecture on a dataset, with the seed that it is trained with (None: not trained).

    `spec` is None for an architecture whose definition only its weights hold.
    """

    group: str
    label: str
    text: str
    spec: ArchitectureSpec | None
    dataset: str
    seed: int | None
    #: Its training; what is the same otherwise is one model.
    order: Order | None = field(compare=False)
    weights: str
    weights_needed: str | None
    printed: str | None
    #: Whether its architecture is one of several under this label: one a training seed.
    pooled: bool = False

    @property
    def architecture(self) -> str:
        """Canonical text, or what was written where it cannot be resolved."""
        return self.spec.canonical if self.spec is not None else self.text

    @property
    def title(self) -> str:
        named = self.text.partition("@")[0] if self.pooled else self.label
        return f"{named} on {self.dataset}" + (f", seed {self.seed}" if self.seed is not None else "")


@dataclass(frozen=True)
class Expansion:
    """All that a study asks for, in the order in which it is done."""

    study: Study
    models: tuple[StudyModel, ...]
    #: By threat space, in the order of the study.
    attacks: Mapping[ThreatSpace, tuple[AttackSpec, ...]]

    @property
    def all_attacks(self) -> list[AttackSpec]:
        return [spec for specs in self.attacks.values() for spec in specs]

    @property
    def n_evaluations(self) -> int:
        return len(self.models) * len(self.all_attacks)


@dataclass(frozen=True)
class Place:
    """Where a study works: what is no part of it and changes no result."""

    settings: Settings
    device: str = "auto"
    threads: int | None = None
    data_root: Path | None = None
    download: bool = False

    def trainer(self, **more: Any) -> Trainer:
        return Trainer(self.settings, device=self.device, threads=self.threads, data_root=self.data_root, **more)


def expand(study: Study, brought: Mapping[str, str] | None = None) -> Expansion:
    """Every model and attack of a study. `brought` are weights by label or architecture.

    Raises `ExplorerError` that names file and key for an architecture, option, dataset, recipe or attack that does not
    exist.
    """
    attacks: dict[ThreatSpace, tuple[AttackSpec, ...]] = {
        space: tuple(_attacks(study, space)) for space in _spaces(study)
    }
    _check_claims(study, [spec for specs in attacks.values() for spec in specs])
    models: list[StudyModel] = []
    named = Counter(_name(entry) for group in study.groups for entry in group.entries)
    unused = dict(brought or {})
    known_data: dict[str, str] = {}
    for name in study.datasets:
        dataset = _named(study, "datasets", lambda name=name: datasets.find(name))
        if (same := known_data.setdefault(dataset.name, name)) != name:
            raise ExplorerError(f"{study.where}: datasets: {same!r} and {name!r} are the same dataset: name it once.")
        _check_examples(study, dataset)
        for group in study.groups:
            seeds = group.seeds or study.seeds
            own: list[StudyModel] = []
            for entry in group.entries:
                own += _models(study, group, entry, dataset, seeds, named, unused, brought or {})
            _check_twice(study, group, own)
            models += own
    if unused:
        known = ", ".join(dict.fromkeys(model.label for model in models))
        raise ExplorerError(f"--weights {next(iter(unused))}: {study.where} has no such architecture, only {known}.")
    _check_options(study)
    _check_printed(study)
    return Expansion(study, tuple(models), attacks)


def _spaces(study: Study) -> Iterator[ThreatSpace]:
    for text in study.threat_spaces:
        yield "pixel" if text == "pixel" else "normalized-clamped"


def _named(study: Study, key: str, look: Any) -> Any:
    """What `look` finds; an error of a registry with file and key before it."""
    try:
        return look()
    except ModelsError as error:
        raise ExplorerError(f"{study.where}: {key}: {error}") from None


def _attacks(study: Study, space: ThreatSpace) -> list[AttackSpec]:
    asked = Asked(
        attacks=study.attacks,
        presets=study.presets,
        eps=study.eps,
        seed=study.attack_seed,
        threat_space=space,
        verdict=study.verdict,
    )
    found: list[AttackSpec] = _named(study, "attacks", lambda: planning.resolve_attacks(asked))
    return found


def label_of(attack: AttackSpec) -> str:
    """An attack without its eps: `pgd-10`."""
    return attack.label.replace(f" {attack.eps}", "", 1)


def lead_of(attacks: Sequence[AttackSpec]) -> str:
    """Label of the attack that a study judges by: PGD as in the publication (the longest), else the last one."""
    along = [spec for spec in attacks if spec.name == "pgd"]
    chosen = max(along, key=lambda spec: spec.steps * spec.restarts) if along else attacks[-1]
    return label_of(chosen)


def _check_claims(study: Study, attacks: Sequence[AttackSpec]) -> None:
    labels = {label_of(spec) for spec in attacks}
    for i, claim in enumerate(study.claims, 1):
        if claim.attack is not None and claim.attack not in labels:
            said = f"no attack of the study is called {claim.attack!r}; they are {', '.join(sorted(labels))}"
            raise ExplorerError(f"{study.where}: claims.{i}.attack: {said}.")


def _check_examples(study: Study, dataset: Dataset) -> None:
    """Refuse more examples than there are, where a dataset's size is known without its files."""
    size = dataset.sizes.get(dataset.split_named("test"))
    if size is not None:
        check_size(study, dataset.name, size)


def check_size(study: Study, dataset: str, size: int) -> None:
    """Refuse more examples than the `size` of the test split. Raises `ExplorerError`."""
    if study.examples is not None and study.examples > size:
        said = f'{dataset} has {size} test examples, not {study.examples}: give a smaller number, or "all"'
        raise ExplorerError(f"{study.where}: examples: {said}.")


def _check_twice(study: Study, group: Group, models: Sequence[StudyModel]) -> None:
    """Refuse a group in which one model counts twice: it would pass for a further run."""
    found: dict[object, StudyModel] = {}
    for model in models:
        # The recipe is the group's.
        same = found.setdefault((model.architecture, model.seed, model.weights), model)
        if same is model:
            continue
        one, other = repr(same.text), repr(model.text)
        who = f"{one} is listed twice" if one == other else f"{one} and {other} are the same architecture"
        said = f"{who}: list it once; further runs come from further seeds"
        raise ExplorerError(f"{study.where}: groups.{group.name}.architectures: {said}.")


def _check_printed(study: Study) -> None:
    """Refuse a table that nobody printed."""
    if study.printed is not None and study.printed not in printed_tables():
        said = f"{study.printed!r} is no table of the published data; they are {', '.join(printed_tables())}"
        raise ExplorerError(f"{study.where}: printed: {said}.")


@cache
def printed_tables() -> tuple[str, ...]:
    """Labels of the tables whose figures every store holds, in their order."""
    folder = resources.files("store").joinpath("published")

    def rows(name: str) -> Iterator[Mapping[str, str]]:
        yield from csv.DictReader(folder.joinpath(name).read_text(encoding="utf-8").splitlines())

    found = (row["table"] for one in rows("publications.csv") for row in rows(f"{one['publication_id']}.csv"))
    return tuple(dict.fromkeys(found))


def _models(
    study: Study,
    group: Group,
    entry: Entry,
    dataset: Dataset,
    seeds: Sequence[int],
    named: Mapping[str, int],
    unused: dict[str, str],
    brought: Mapping[str, str],
) -> list[StudyModel]:
    key = f"groups.{group.name}.architectures"
    found = []
    weights = entry.weights or group.weights
    per_seed = SEED_MARK in entry.architecture
    for seed in seeds:
        text = entry.architecture.replace(SEED_MARK, str(seed))
        label = entry.label or _short(text, named[_name(entry)])
        given = next((name for name in (label, entry.label, text, entry.architecture) if name in brought), None)
        if given is not None:
            unused.pop(given, None)
        source = brought[given] if given is not None else weights
        spec = None
        if not architectures.is_unpublished(text.partition("@")[0]):
            spec = _named(study, key, lambda text=text: resolve(study, group, text, dataset))
        elif not entry.weights_needed:
            _named(study, key, lambda text=text: architectures.find(text.partition("@")[0]))
        needed = entry.weights_needed if given is None else None
        order = None
        if source == TRAINED and needed is None and spec is not None:
            order = _order(study, group, spec, dataset, seed)
        elif source == PUBLISHED and spec is not None:
            own = external.pretrained(spec.name)
            if own is None:
                said = f"no package publishes weights of {spec.name}: give weights, or train it"
                raise ExplorerError(f"{study.where}: {key}: {said}.")
            source = own
        trains = order is not None
        found.append(
            StudyModel(
                group=group.name,
                label=_short(entry.architecture, named[_name(entry)]).replace(SEED_MARK, "*")
                if per_seed and not entry.label
                else label,
                text=text,
                spec=spec,
                dataset=dataset.name,
                seed=seed if trains or per_seed else None,
                order=order,
                weights=source,
                weights_needed=needed,
                printed=entry.printed,
                pooled=per_seed,
            )
        )
        if not (trains or per_seed):
            break  # weights that are there already have no training seed to vary
    return found


def _name(entry: Entry) -> str:
    return entry.architecture.partition("@")[0]


def _short(text: str, n_called: int) -> str:
    """An architecture without its options, where no other of the study is called so."""
    return text.partition("@")[0] if n_called < 2 else text


def _order(study: Study, group: Group, spec: ArchitectureSpec, dataset: Dataset, seed: int) -> Order:
    own = group.training or Training()
    order = Order(
        architecture=spec,
        dataset=dataset.name,
        seed=seed,
        recipe=own.name or study.training.name,
        overrides={**study.training.overrides, **own.overrides},
    )
    where = f"groups.{group.name}.recipe" if group.training else "recipe"
    _named(study, where, order.check)
    return order


def resolve(study: Study, group: Group, text: str, dataset: Dataset) -> ArchitectureSpec:
    """An architecture with the options of study and group that it has. What its own text says goes before them."""
    name, _, written = text.partition("@")
    entry = architectures.find(name)
    own = {part.partition("=")[0].strip() for part in written.split(",") if part}
    taken: dict[str, Any] = {}
    for options in (study.options, group.options):
        for key, value in options.items():
            if entry.free_options or not (full := _option(entry, key)):
                continue
            if not any(_option(entry, other) == full for other in own):
                taken[full] = value
    return architectures.parse_architecture(text, taken, scale=scale_of(dataset.image_shape))


def _option(entry: Any, key: str) -> str | None:
    """The full name of an option of an architecture; None where it has none of that name."""
    folded = key.lower().replace("-", "_")
    return next((o.name for o in entry.options if folded in (o.name, *o.aliases)), None)


def _check_options(study: Study) -> None:
    """Refuse an option that none of the architectures it is for has."""
    for key, options, groups in (
        ("options", study.options, study.groups),
        *((f"groups.{g.name}.options", g.options, (g,)) for g in study.groups),
    ):
        names = [e.architecture.replace(SEED_MARK, "0").partition("@")[0] for g in groups for e in g.entries]
        entries = [architectures.find(name) for name in names if not architectures.is_unpublished(name)]
        for option in options:
            if not any(_option(entry, option) for entry in entries):
                known = sorted({o.name for entry in entries for o in entry.options})
                said = f"no architecture here has this option; they have {', '.join(known) or 'none'}"
                raise ExplorerError(f"{study.where}: {key}.{option}: {said}.")
