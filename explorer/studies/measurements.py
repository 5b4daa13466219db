"""The figures of a study, all of them from the store: by architecture and by group."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explorer.statistics import wilson
from explorer.studies.definition import Study
from explorer.studies.expansion import Expansion, Place, StudyModel, label_of, lead_of
from explorer.studies.standing import ModelState
from models.specs import AttackSpec, ThreatSpace

#: A clean accuracy below this many times that of guessing is no accuracy of a trained network.
NEAR_CHANCE = 2.0


@dataclass(frozen=True)
class Measurement:
    """One complete evaluation of the study with what the store says of it. Accuracies in percent, top-5 in a study of
    top-5.
    """

    model: StudyModel
    attack: AttackSpec
    label: str
    row: Mapping[str, Any]
    clean: float
    robust: float
    hrs: float | None
    pp_hrs: float | None

    @property
    def setting(self) -> Setting:
        return Setting(self.model.dataset, self.attack.threat_space, self.attack.eps.text)


def clean_of(m: Measurement) -> float | None:
    """Clean accuracy in percent; one of the figures that means are taken of."""
    return m.clean


def robust_of(m: Measurement) -> float | None:
    """Robust accuracy in percent."""
    return m.robust


def hrs_of(m: Measurement) -> float | None:
    """Harmonic robustness score in percent."""
    return m.hrs


def pp_hrs_of(m: Measurement) -> float | None:
    """Per-parameter HRS."""
    return m.pp_hrs


def params_of(m: Measurement) -> float | None:
    """Number of parameters."""
    return None if m.row["params"] is None else float(m.row["params"])


@dataclass(frozen=True, order=True)
class Setting:
    """What figures must share to stand in one table."""

    dataset: str
    threat_space: ThreatSpace
    eps: str


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation of `values`, one a run."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def std(self) -> float | None:
        """None for a single value."""
        if len(self.values) < 2:
            return None
        if len(set(self.values)) == 1:
            return 0.0  # exactly: the mean of equal numbers need not be that number
        mean = self.mean
        return math.sqrt(math.fsum((v - mean) ** 2 for v in self.values) / (len(self.values) - 1))


@dataclass(frozen=True)
class Line:
    """An architecture (or a pool of random ones, one a run) in one setting: every figure over its runs."""

    group: str
    label: str
    models: tuple[StudyModel, ...]
    measurements: tuple[Measurement, ...]
    #: Of the models, how many have every evaluation of the setting.
    n_complete: int

    def of(self, label: str) -> list[Measurement]:
        return [m for m in self.measurements if m.label == label]

    def mean(self, what: Callable[[Measurement], float | None], label: str | None = None) -> Mean | None:
        """A figure over the runs: of one attack, or of each model once."""
        chosen = self.of(label) if label is not None else list({m.model: m for m in self.measurements}.values())
        values = [value for m in chosen if (value := what(m)) is not None]
        return Mean(tuple(values)) if values else None

    @property
    def params(self) -> Mean | None:
        return self.mean(params_of)


@dataclass(frozen=True)
class Printed:
    """A printed row: accuracies in percent by attack."""

    architecture: str
    table: str
    dataset: str
    threat_space: str
    top_k: int
    clean: float
    robust: Mapping[str, float]
    robust_std: Mapping[str, float]
    clean_std: float | None
    params_m: float | None
    runs: int | None

    @property
    def key(self) -> str:
        return plain(self.architecture)


@dataclass(frozen=True)
class Findings:
    """Everything that a report is made of."""

    expansion: Expansion
    states: Sequence[ModelState]
    measurements: Sequence[Measurement]
    printed: Sequence[Printed]
    #: The command that runs the study again.
    command: str

    @property
    def study(self) -> Study:
        return self.expansion.study


def learned_nothing(m: Measurement) -> bool:
    """Whether a model's clean accuracy is near that of guessing, so that nothing else about it means anything."""
    return bool(m.row["n_classes"]) and m.row["clean_accuracy"] < NEAR_CHANCE * 100 / m.row["n_classes"]


def plain(name: str) -> str:
    """A name without case and punctuation, as the store's macro `architecture_key`; a package's prefix is left out."""
    return re.sub(r"[^a-z0-9]", "", name.rpartition(":")[2].partition("@")[0].lower())


def gather(expansion: Expansion, states: Sequence[ModelState], place: Place, command: str) -> Findings:
    """Read the figures of a study from the store. `states` are those of `look`."""
    return Findings(expansion, states, read(expansion, states, place), printed(expansion, place), command)


def read(expansion: Expansion, states: Sequence[ModelState], place: Place) -> list[Measurement]:
    """The complete evaluations of a study, in its order."""
    from store import Store, results

    wanted = [(state.model, one) for state in states for one in state.evaluations if one.status == "complete"]
    if not wanted:
        return []
    identities = list(dict.fromkeys(one.evaluation_id for _, one in wanted))
    rows = {row["evaluation_id"]: row for row in results.evaluation_rows(Store(place.settings.store), identities)}
    found = []
    for model, one in wanted:
        row = rows[one.evaluation_id]
        top = "_top5" if expansion.study.top_k == 5 else ""
        clean, robust = row[f"clean{top}_accuracy"], row[f"robust{top}_accuracy"]
        if clean is None or robust is None:
            continue  # every example had an error, or ranks say nothing under this verdict
        hrs = 2 * clean * robust / (clean + robust) if clean + robust else 0.0
        ratio = row["pp_hrs"] / row["hrs"] if row["pp_hrs"] is not None and row["hrs"] else None
        found.append(
            Measurement(
                model, one.attack, label_of(one.attack), row, clean, robust, hrs, None if ratio is None else hrs * ratio
            )
        )
    return found


def printed(expansion: Expansion, place: Place) -> list[Printed]:
    """The rows of the printed table that the study names, in their order."""
    from store import Store

    if expansion.study.printed is None:
        return []
    store = Store(place.settings.store)
    store.ensure()
    with store.read() as connection:
        table = connection.sql(
            "SELECT * FROM published WHERE table_label = ? ORDER BY row_number", params=[expansion.study.printed]
        ).to_arrow_table()
    found = []
    for row in table.to_pylist():
        names = {"fgsm": row["fgsm"], "f-fgsm": row["f_fgsm"], "pgd": row["pgd"]}
        found.append(
            Printed(
                architecture=row["architecture"],
                table=row["table_label"],
                dataset=row["dataset"],
                threat_space=row["threat_space"],
                top_k=row["top_k"],
                clean=row["clean"],
                robust={name: value for name, value in names.items() if value is not None},
                robust_std={"pgd": row["pgd_std"]} if row["pgd_std"] is not None else {},
                clean_std=row["clean_std"],
                params_m=row["params_m"],
                runs=row["runs"],
            )
        )
    return found


def settings_of(expansion: Expansion) -> list[Setting]:
    """Every setting of a study: dataset, threat space and eps, in its order."""
    return list(
        dict.fromkeys(
            Setting(dataset, space, attack.eps.text)
            for dataset in dict.fromkeys(model.dataset for model in expansion.models)
            for space, attacks in expansion.attacks.items()
            for attack in attacks
        )
    )


def labels_of(expansion: Expansion, setting: Setting) -> list[str]:
    """The attacks of a setting, in the order of the study."""
    attacks = expansion.attacks[setting.threat_space]
    return list(dict.fromkeys(label_of(a) for a in attacks if a.eps.text == setting.eps))


def lead(expansion: Expansion, setting: Setting) -> str:
    """The attack of a setting that HRS, plots and claims go by."""
    return lead_of([a for a in expansion.attacks[setting.threat_space] if a.eps.text == setting.eps])


def lines(expansion: Expansion, measurements: Sequence[Measurement], setting: Setting) -> list[Line]:
    """One line an architecture, over its runs; also those without any figure."""
    models: dict[tuple[str, str], list[StudyModel]] = {}
    for model in expansion.models:
        if model.dataset == setting.dataset:
            models.setdefault((model.group, model.label), []).append(model)
    n_attacks = len(labels_of(expansion, setting))
    found = []
    for (group, label), listed in models.items():
        own = [m for m in measurements if m.setting == setting and m.model in listed]
        counts = [sum(m.model == model for m in own) for model in listed]
        complete = sum(count == n_attacks for count in counts)
        found.append(Line(group, label, tuple(listed), tuple(own), complete))
    return found


def over_runs(group: Sequence[Line], what: Callable[[Measurement], float | None], label: str | None) -> Mean | None:
    """A group's figure, one value a run.

    A run is a training seed, and its value the mean over the group's architectures; where there is one seed only, a
    run is an architecture.
    """
    chosen: dict[tuple[StudyModel, str], Measurement] = {}
    for line in group:
        for m in line.of(label) if label is not None else line.measurements:
            chosen.setdefault((m.model, label or ""), m)
    by_run: dict[object, list[float]] = {}
    for m in chosen.values():
        value = what(m)
        if value is not None:
            by_run.setdefault(run_of(m.model, by_seed=is_by_seed(group)), []).append(value)
    values = tuple(math.fsum(v) / len(v) for v in by_run.values())
    return Mean(values) if values else None


def is_by_seed(group: Sequence[Line]) -> bool:
    """Whether the runs of a group are training seeds."""
    return len({model.seed for line in group for model in line.models}) > 1


def run_of(model: StudyModel, *, by_seed: bool) -> object:
    return model.seed if by_seed else (model.architecture, model.seed, model.weights)


def interval(m: Measurement) -> tuple[float, float] | None:
    """Wilson's 95 % interval of one evaluation, in percent; of top-5 figures from their own counts."""
    low, high = m.row["robust_accuracy_low"], m.row["robust_accuracy_high"]
    if m.robust == m.row["robust_accuracy"]:
        return None if low is None else (low, high)
    n = m.row["n_examples"] - m.row["n_errors"]
    return wilson(round(m.robust * n / 100), n)
