"""Jobs and their evaluations as rows of tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from rich.style import Style
from rich.text import Text

from explorer.jobs.following import EvaluationProgress, JobProgress, TrainingProgress
from explorer.naming import short_names
from explorer.statistics import half_width
from explorer.tradeoff import Column
from explorer.widgets import cells
from explorer.widgets.inks import Inks
from models.architectures import registry as architectures
from models.ensembles import composition
from models.errors import ModelsError

#: A sign for each state: colour is never the only one.
SIGNS = {
    "queued": "·",
    "running": "▸",
    "complete": "✓",
    "failed": "✗",
    "cancelled": "■",
    "interrupted": "‖",
    "partial": "■",
}
BAR_WIDTH = 12

JOB_COLUMNS: tuple[Column, ...] = (
    Column("number", "#", "count", 4, 0, "Number of the job"),
    Column("state", "state", "text", 13, 0, "What it is doing"),
    Column("title", "what", "name", 18, 0, "Models and attacks, or what is trained"),
    Column("bar", "done", "text", BAR_WIDTH, 2, "How much of it is done"),
    Column("share", "", "cell", 7, 0, "Trainings and evaluations done"),
    Column("left", "left", "cell", 7, 1, "About how long it still takes; + with more to come that nobody can foretell"),
    Column("device", "device", "text", 8, 3, "Where it computes"),
)

EVALUATION_COLUMNS: tuple[Column, ...] = (
    Column("state", "state", "text", 10, 0, "What it is doing"),
    Column("name", "architecture", "name", 16, 0, "Architecture"),
    Column("attack", "attack", "text", 13, 0, "Attack and eps; of a training, accuracy on its images"),
    Column("bar", "done", "text", BAR_WIDTH, 3, "How much of it is done"),
    Column("share", "", "cell", 9, 1, "Examples done; of a training, epochs"),
    Column(
        "robust", "robust %", "cell", 12, 0, "Robust accuracy with half of its 95 % interval; of a training, its loss"
    ),
    Column("speed", "ex/s", "cell", 6, 4, "Examples a second"),
    Column("left", "time", "cell", 6, 2, "Time it still takes; when it is done, time it took"),
    Column("clean", "clean", "cell", 5, 5, "Accuracy without attack, percent"),
)


def state_ink(state: str, inks: Inks) -> Style:
    return {
        "running": inks.accent,
        "complete": inks.good,
        "failed": inks.error,
        "interrupted": inks.warning,
        "cancelled": inks.warning,
        "partial": inks.warning,
    }.get(state, inks.quiet)


class JobRows:
    """All jobs, one a row."""

    def __init__(self, jobs: Sequence[JobProgress], inks: Inks) -> None:
        self.jobs = jobs
        self.inks = inks

    @property
    def row_count(self) -> int:
        return len(self.jobs)

    def key(self, row: int) -> str:
        return str(self.jobs[row].number)

    def index(self, key: str) -> int | None:
        return next((i for i, job in enumerate(self.jobs) if str(job.number) == key), None)

    def cell(self, row: int, column: str) -> Text:
        job, inks = self.jobs[row], self.inks
        match column:
            case "number":
                return cells.text(job.number, inks.quiet, right=True)
            case "state":
                return cells.text(f"{SIGNS[job.state]} {job.state}", state_ink(job.state, inks))
            case "title":
                return cells.text(title(job), inks.text)
            case "bar":
                return cells.bar(job.fraction, BAR_WIDTH, state_ink(job.state, inks), inks.quiet)
            case "share":
                return cells.text(f"{job.n_trained + job.n_complete}/{job.n_steps}", inks.text, right=True)
            case "left":
                return cells.text(_left(job), inks.text, right=True)
            case "device":
                return cells.text(job.device, inks.quiet)
        return Text()


class StepRows:
    """The trainings of one job, then its evaluations, one a row."""

    def __init__(self, job: JobProgress | None, inks: Inks) -> None:
        self.job = job
        self.inks = inks
        self._trainings = job.trainings if job else ()
        self._evaluations = job.evaluations if job else ()
        trained, attacked = ([one.architecture for one in found] for found in (self._trainings, self._evaluations))
        self._names = short_names([*trained, *attacked])
        self._sources = _sources([e.attack for e in self._evaluations], [*trained, *attacked])
        self._seeds = len({t.seed for t in self._trainings if t.kind != "member"}) > 1

    @property
    def row_count(self) -> int:
        return len(self._trainings) + len(self._evaluations)

    def key(self, row: int) -> str:
        assert self.job is not None
        trainings = len(self._trainings)
        if row < trainings:
            return f"{self.job.number}/training {self._trainings[row].number}"
        return f"{self.job.number}/{self._evaluations[row - trainings].number}"

    def index(self, key: str) -> int | None:
        return next((i for i in range(self.row_count) if self.key(i) == key), None)

    def _attack(self, one: EvaluationProgress) -> str:
        """The attack, with the model that it is made on in a few characters."""
        attack, made_on, source = one.attack.partition(_MADE_ON)
        return f"{attack}{made_on}{self._sources.get(source, source)}"

    @property
    def attack_width(self) -> int:
        """Cells that the longest attack needs."""
        return max((len(self._attack(e)) for e in self._evaluations), default=0)

    @property
    def name_width(self) -> int:
        """Cells that the longest name needs."""
        names = [self._name(t) for t in self._trainings]
        names += [_sign(e) + self._names[e.architecture] for e in self._evaluations]
        return max(map(len, names), default=0)

    def cell(self, row: int, column: str) -> Text:
        trainings = len(self._trainings)
        return self._training(row, column) if row < trainings else self._evaluation(row - trainings, column)

    def _name(self, one: TrainingProgress) -> str:
        return self._names[one.architecture] + (f" seed {one.seed}" if self._seeds else "")

    def _training(self, row: int, column: str) -> Text:
        one, inks = self._trainings[row], self.inks
        match column:
            case "state":
                return cells.text(f"{SIGNS[one.state]} {one.state}", state_ink(one.state, inks))
            case "name":
                return cells.text(self._name(one), inks.text)
            case "attack":
                return cells.text(_learning(one), inks.quiet)
            case "bar":
                return cells.bar(one.fraction, BAR_WIDTH, state_ink(one.state, inks), inks.quiet)
            case "share":
                done = one.epochs if one.state == "complete" else one.epoch
                return cells.text(f"{done}/{one.epochs}" if one.epochs else "", inks.text, right=True)
            case "robust":
                return cells.text(f"loss {one.loss:.3f}" if one.loss is not None else "", inks.quiet, right=True)
            case "left":
                return cells.text(_training_time(one), inks.quiet, right=True)
            case "clean":
                clean = one.clean_accuracy
                return cells.text(cells.one_decimal(clean) if clean is not None else "", inks.quiet, right=True)
        return Text()

    def _evaluation(self, row: int, column: str) -> Text:
        one, inks = self._evaluations[row], self.inks
        match column:
            case "state":
                return cells.text(f"{SIGNS[one.state]} {one.state}", state_ink(one.state, inks))
            case "name":
                sign = _sign(one)
                return cells.text(sign + self._names[one.architecture], inks.warning if sign else inks.text)
            case "attack":
                return cells.text(self._attack(one), inks.text)
            case "bar":
                return cells.bar(one.fraction, BAR_WIDTH, state_ink(one.state, inks), inks.quiet)
            case "share":
                return cells.text(f"{one.n_done}/{one.n_requested}" if one.n_requested else "", inks.text, right=True)
            case "robust":
                return cells.text(robust(one), inks.text, right=True)
            case "speed":
                speed = one.examples_per_second
                return cells.text(
                    "" if speed is None else f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}", inks.quiet, right=True
                )
            case "left":
                return cells.text(_time(one), inks.quiet, right=True)
            case "clean":
                clean = one.clean_accuracy
                if clean is None and one.judged:
                    clean = 100 * one.n_clean_correct / one.judged
                return cells.text(cells.one_decimal(clean) if clean is not None else "", inks.quiet, right=True)
        return Text()


#: What stands between an attack and the model that it is made on.
_MADE_ON = " from "


def _sources(attacks: Sequence[str], judged: Sequence[str]) -> dict[str, str]:
    """Short names of the models that attacks are made on: of the parts of an ensemble `whole` and the positions of its
    members, otherwise without the words that all of them begin with."""
    sources = list(dict.fromkeys(attack.partition(_MADE_ON)[2] for attack in attacks if _MADE_ON in attack))
    if not sources:
        return {}
    for whole in dict.fromkeys([*judged, *sources]):
        parts = _parts(whole)
        if all(source in parts for source in sources):
            return parts
    words = [source.split("-") for source in sources]
    same = 0
    while len(words) > 1 and len({tuple(part[: same + 1]) for part in words}) == 1:
        same += 1
    return {source: "-".join(part[same:]) or source for source, part in zip(sources, words, strict=True)}


@lru_cache(maxsize=64)
def _parts(architecture: str) -> dict[str, str]:
    """What the parts of an ensemble are called, by their names without options; of a name that several members have,
    and of what is no ensemble, nothing."""
    name = architecture.partition("@")[0]
    if ":" in name:
        return {}  # nobody's code is imported for a name
    try:
        if not composition.is_ensemble(name):
            return {}
        made_of = composition.of(architectures.parse_architecture(architecture))
    except ModelsError:
        return {}
    members = [member.spec.name for member in made_of.members]
    return {name: "whole", **{one: str(i) for i, one in enumerate(members) if members.count(one) == 1}}


def title(job: JobProgress) -> str:
    """What the job is about, without the options of its architectures."""
    return re.sub(r"@\w+=[\w.-]+(,\w+=[\w.-]+)*", "", job.title)


def robust(one: EvaluationProgress) -> str:
    """Robust accuracy so far with half of its 95 % interval; empty without an example."""
    if one.state == "complete" and one.robust_accuracy is not None:
        half = ((one.robust_accuracy_high or 0.0) - (one.robust_accuracy_low or 0.0)) / 2
        return f"{one.robust_accuracy:.1f} ± {half:.1f}"
    if not 0 <= one.n_robust <= one.judged or not one.judged:
        return ""
    return f"{100 * one.n_robust / one.judged:.1f} ± {half_width(one.n_robust, one.judged):.1f}"


def _sign(one: EvaluationProgress) -> str:
    return "! " if one.warnings else ""


def _left(job: JobProgress) -> str:
    if (left := job.eta_seconds) is not None:
        return cells.clock(left)
    training = job.training
    return f"{cells.clock(training.eta_seconds)}+" if training and training.eta_seconds is not None else ""


def _learning(one: TrainingProgress) -> str:
    """What kind of training it is, and how well the training images are told apart."""
    if one.train_accuracy is not None and one.state in ("running", "partial"):
        return f"train {one.train_accuracy:.1f} %"
    if one.kind == "whole":
        return "combiner" if one.epochs else "put together"
    return "train member" if one.kind == "member" else "train"


def _training_time(one: TrainingProgress) -> str:
    if one.state == "running" and one.eta_seconds is not None:
        return cells.clock(one.eta_seconds)
    if one.from_disk:
        return "known"
    return cells.clock(one.seconds) if one.state == "complete" and one.seconds is not None else ""


def _time(one: EvaluationProgress) -> str:
    if one.state == "running" and one.eta_seconds is not None:
        return cells.clock(one.eta_seconds)
    if one.from_store:
        return "known"
    return cells.clock(one.seconds) if one.state == "complete" and one.seconds is not None else ""
