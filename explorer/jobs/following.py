"""What the jobs are doing, folded from their event logs: the state that a screen shows, without reading a line twice.

Unknown events and missing keys are passed over, so that a log written by another version can still be followed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from explorer.errors import ExplorerError
from explorer.jobs.folder import START_GRACE, Event, Job, State, Tail, all_jobs
from explorer.jobs.request import Request, StepKind
from models.errors import ModelsError

if TYPE_CHECKING:
    from explorer.jobs.training import TrainingRequest

#: queued: not begun; running; complete; partial: stopped before the end; failed.
EvaluationState = Literal["queued", "running", "complete", "partial", "failed"]

#: How often the system is asked whether the process of an unfinished job lives, in seconds.
_ALIVE_SECONDS = 1.0
#: Messages kept of a job, the latest ones.
_MESSAGES = 50


@dataclass(frozen=True)
class EvaluationProgress:
    """One evaluation of a job as far as its log tells. Accuracies in percent, None while there is no example."""

    number: int
    architecture: str
    attack: str
    state: EvaluationState = "queued"
    evaluation_id: str = ""
    n_requested: int = 0
    n_done: int = 0
    n_clean_correct: int = 0
    n_robust: int = 0
    n_errors: int = 0
    #: Examples that the verdicts are counted over, where the log says so; all that are done otherwise.
    n_counted: int | None = None
    examples_per_second: float | None = None
    eta_seconds: float | None = None
    forwards: int | None = None
    seconds: float | None = None
    from_store: bool = False
    clean_accuracy: float | None = None
    robust_accuracy: float | None = None
    robust_accuracy_low: float | None = None
    robust_accuracy_high: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """How much of it is done, 0 to 1."""
        if self.state == "complete":
            return 1.0
        return min(1.0, self.n_done / self.n_requested) if self.n_requested else 0.0

    @property
    def judged(self) -> int:
        """Examples counted that have a verdict."""
        counted = self.n_done if self.n_counted is None else self.n_counted
        return max(0, counted - self.n_errors)


@dataclass(frozen=True)
class TrainingProgress:
    """One training of a job as far as its log tells. Accuracies in percent: `train_accuracy` on the training images as
    the network saw them in the latest epoch, `clean_accuracy` on the test images in the end.
    """

    number: int
    architecture: str
    seed: int = 0
    kind: StepKind = "network"
    state: EvaluationState = "queued"
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    train_accuracy: float | None = None
    eta_seconds: float | None = None
    seconds: float | None = None
    clean_accuracy: float | None = None
    sha256: str | None = None
    from_disk: bool = False

    @property
    def fraction(self) -> float:
        """How much of it is done, 0 to 1."""
        if self.state == "complete":
            return 1.0
        return min(1.0, self.epoch / self.epochs) if self.epochs else 0.0


@dataclass(frozen=True)
class JobProgress:
    """A job as a screen shows it. Never changes; a new state is a new object."""

    number: int
    folder: Path
    title: str
    command: str
    state: State = "queued"
    device: str = ""
    n_evaluations: int = 0
    evaluations: tuple[EvaluationProgress, ...] = ()
    trainings: tuple[TrainingProgress, ...] = ()
    #: The latest warnings, notes and errors, each with its kind.
    messages: tuple[tuple[str, str], ...] = ()

    @property
    def active(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def resumable(self) -> bool:
        return self.state in ("cancelled", "interrupted", "failed")

    @property
    def n_complete(self) -> int:
        return sum(e.state == "complete" for e in self.evaluations)

    @property
    def n_partial(self) -> int:
        """Evaluations that were stopped before their end, or failed in the middle."""
        return sum(e.state in ("partial", "failed") for e in self.evaluations)

    @property
    def n_trained(self) -> int:
        return sum(t.state == "complete" for t in self.trainings)

    @property
    def n_steps(self) -> int:
        """Trainings and evaluations."""
        return len(self.trainings) + max(self.n_evaluations, len(self.evaluations))

    @property
    def current(self) -> EvaluationProgress | None:
        """The evaluation under way."""
        return next((e for e in self.evaluations if e.state == "running"), None) if self.state == "running" else None

    @property
    def training(self) -> TrainingProgress | None:
        """The training under way."""
        return next((t for t in self.trainings if t.state == "running"), None) if self.state == "running" else None

    @property
    def fraction(self) -> float:
        """How much of the job is done, 0 to 1, every training and every evaluation counting the same."""
        total = self.n_steps
        done = sum(e.fraction for e in self.evaluations) + sum(t.fraction for t in self.trainings)
        return min(1.0, done / total) if total else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """About how long the whole job still takes, if evaluations to come last as long as those measured.

        None while nobody can tell: as long as there are trainings to come of which nothing is known.
        """
        training = self.training
        if training is not None:
            alone = sum(t.state in ("queued", "running") for t in self.trainings) == 1
            return training.eta_seconds if alone and not self._to_evaluate else None
        if any(t.state == "queued" for t in self.trainings):
            return None
        now = self.current
        if now is None or now.eta_seconds is None:
            return None
        lasted = [e.seconds for e in self.evaluations if e.state == "complete" and e.seconds and not e.from_store]
        if not lasted and now.examples_per_second:
            lasted = [now.n_requested / now.examples_per_second]
        return now.eta_seconds + self._to_evaluate * (sum(lasted) / len(lasted) if lasted else 0.0)

    @property
    def _to_evaluate(self) -> int:
        return sum(e.state == "queued" for e in self.evaluations)


@dataclass
class _Followed:
    """A job and how far its log has been read."""

    job: Job
    tail: Tail
    view: JobProgress
    marks: list[Event] = field(default_factory=list)
    stamp: tuple[int, ...] = ()
    asked_alive: float = float("-inf")
    #: When this process started or resumed it; its own word that it runs takes some seconds.
    starting: float | None = None


class Board:
    """All jobs of one folder. For one thread at a time; it reads files and asks about processes."""

    def __init__(self, jobs: Path) -> None:
        self.jobs = jobs
        self._followed: dict[int, _Followed] = {}
        self._numbers: tuple[int, ...] = ()

    def poll(self) -> tuple[JobProgress, ...] | None:
        """The jobs, newest first; None when nothing changed since the last call, which then costs a few `stat`."""
        found = all_jobs(self.jobs)
        numbers = tuple(job.number for job in found)
        changed = numbers != self._numbers
        self._numbers = numbers
        for gone in self._followed.keys() - set(numbers):
            del self._followed[gone]
        for job in found:
            changed |= self._look(job)
        return tuple(self._followed[n].view for n in numbers if n in self._followed) if changed else None

    def starting(self, number: int) -> None:
        """Take a job as queued until its process reports: it was started a moment ago."""
        if number in self._followed:
            self._followed[number].starting = time.monotonic()
            self._followed[number].asked_alive = float("-inf")

    def _look(self, job: Job) -> bool:
        known = self._followed.get(job.number)
        stamp = _stamp(job.events_path)
        now = time.monotonic()
        fresh = known is None
        if known is None:
            view = _begin(job)
            if view is None:
                return False
            known = self._followed[job.number] = _Followed(job, Tail(job.events_path), view)
        before = known.view
        if fresh or stamp != known.stamp:
            known.stamp = stamp
            for event in _without_superseded(list(known.tail.read())):
                known.view = fold(known.view, event)
                if event.kind in ("job_started", "job_finished"):
                    known.marks.append(event)
                    if event.kind == "job_started":
                        known.starting = None
            known.asked_alive = float("-inf")
        settled = bool(known.marks) and known.marks[-1].kind == "job_finished" and known.starting is None
        if known.asked_alive == float("-inf") or (not settled and now - known.asked_alive >= _ALIVE_SECONDS):
            known.asked_alive = now
            known.view = _settle(known.view, self._state(known, now))
        return fresh or known.view != before

    def _state(self, known: _Followed, now: float) -> State:
        if known.starting is not None:
            if now - known.starting < START_GRACE:
                return "queued"
            known.starting = None
        try:
            return known.job.state(known.marks)
        except OSError:
            return "interrupted"


def progress_of(job: Job, events: list[Event]) -> JobProgress:
    """A job as its request and the whole of its log tell, in the state that the system says it is in."""
    view = _begin(job) or JobProgress(job.number, job.folder, "", "")
    for event in _without_superseded(events):
        view = fold(view, event)
    return _settle(view, job.state(events))


def _without_superseded(events: list[Event]) -> list[Event]:
    """The events but for progress that later progress overtakes: so a log of hours is read at once."""

    def about(event: Event) -> tuple[str, Any] | None:
        key = {"progress": "evaluation_id", "training_progress": "number"}.get(event.kind)
        return (event.kind, event.data.get(key)) if key is not None else None

    last = {about(event): i for i, event in enumerate(events)}
    return [event for i, event in enumerate(events) if about(event) is None or last[about(event)] == i]


def fold(view: JobProgress, event: Event) -> JobProgress:
    """The job after one more event."""
    data = event.data
    match event.kind:
        case "job_started":
            begun = tuple(e if e.state == "complete" else replace(e, state="queued") for e in view.evaluations)
            again = tuple(t if t.state == "complete" else replace(t, state="queued") for t in view.trainings)
            return replace(
                view,
                device=_text(data, "device") or view.device,
                title=_text(data, "title") or view.title,
                n_evaluations=_whole(data, "n_evaluations", view.n_evaluations),
                evaluations=begun,
                trainings=again,
                messages=(),
            )
        case "evaluation_started":
            return _with(view, _started(data, view))
        case "progress":
            return _update(view, data, "running")
        case "evaluation_finished":
            state: EvaluationState = "complete"
            if data.get("status") in ("partial", "failed"):
                state = data["status"]
            return _update(view, data, state)
        case "training_started":
            return _trains(view, data, "running", epoch=0, loss=None, train_accuracy=None, eta_seconds=None)
        case "training_progress":
            measured = _number(data, "accuracy")
            return _trains(view, data, "running", train_accuracy=measured, eta_seconds=_number(data, "eta_seconds"))
        case "training_finished":
            return _trains(view, data, "complete", eta_seconds=None)
        case "training_failed":
            return _trains(view, data, "failed", eta_seconds=None)
        case "warning" | "note" | "error":
            said = (event.kind, _text(data, "message"))
            return replace(view, messages=(*view.messages, said)[-_MESSAGES:])
    return view


def _begin(job: Job) -> JobProgress | None:
    """A job before its first event: what its request says; None when the folder was made a moment ago and is empty."""
    try:
        request = job.request()
    except ExplorerError as error:
        if not (job.folder / "request.json").exists() and not job.events_path.exists():
            return None
        return JobProgress(job.number, job.folder, str(error), "", state="interrupted")
    trainings: tuple[TrainingProgress, ...] = ()
    if not isinstance(request, Request):
        try:
            trainings = tuple(
                TrainingProgress(s.number, s.order.architecture.canonical, s.order.seed, s.kind, epochs=s.epochs)
                for s in request.steps()
            )
            planned = [(name, attack.label) for one in request.orders for name, attack in request.evaluations(one)]
        except ModelsError as error:
            return JobProgress(job.number, job.folder, f"{request.title}: {error}", "", state="interrupted")
    else:
        planned = [(m.architecture, a.label) for m in request.models for a in request.attacks]
    evaluations = tuple(EvaluationProgress(i, name, attack) for i, (name, attack) in enumerate(planned, 1))
    return JobProgress(
        job.number,
        job.folder,
        request.title,
        _command(request),
        device=request.device,
        n_evaluations=len(planned),
        evaluations=evaluations,
        trainings=trainings,
    )


def _command(request: Request | TrainingRequest) -> str:
    """The command line that asks for the same; empty where what it names is gone, such as a folder of images."""
    try:
        return request.command()
    except ModelsError:
        return ""


def _settle(view: JobProgress, state: State) -> JobProgress:
    """The job in a state. What it was working on when it ended is partial."""
    if state in ("running", "queued"):
        return replace(view, state=state)
    ended = tuple(
        replace(e, state="partial", eta_seconds=None) if e.state == "running" else e for e in view.evaluations
    )
    left = tuple(replace(t, state="partial", eta_seconds=None) if t.state == "running" else t for t in view.trainings)
    return replace(view, state=state, evaluations=ended, trainings=left)


def _started(data: Mapping[str, Any], view: JobProgress) -> EvaluationProgress:
    return EvaluationProgress(
        number=_whole(data, "number", len(view.evaluations) + 1),
        architecture=_text(data, "architecture"),
        attack=_text(data, "attack"),
        state="running",
        evaluation_id=_text(data, "evaluation_id"),
        n_requested=_whole(data, "n_requested"),
        n_done=_whole(data, "n_done"),
        n_clean_correct=_whole(data, "n_clean_correct"),
        n_robust=_whole(data, "n_robust"),
        n_errors=_whole(data, "n_errors"),
        n_counted=data["n_counted"] if isinstance(data.get("n_counted"), int) else None,
    )


def _with(view: JobProgress, evaluation: EvaluationProgress) -> JobProgress:
    """The job with this evaluation in the place of the one that has its number."""
    others = [e for e in view.evaluations if e.number != evaluation.number]
    return replace(view, evaluations=tuple(sorted([*others, evaluation], key=lambda e: e.number)))


def _update(view: JobProgress, data: Mapping[str, Any], state: EvaluationState) -> JobProgress:
    """The job with what an event says about one of its evaluations; unknown ones are passed over."""
    for evaluation in view.evaluations:
        if evaluation.evaluation_id and evaluation.evaluation_id == data.get("evaluation_id"):
            break
    else:
        return view
    changes: dict[str, Any] = {"state": state}
    for name in (
        "n_requested",
        "n_done",
        "n_counted",
        "n_clean_correct",
        "n_robust",
        "n_errors",
        "forwards",
    ):
        if isinstance(data.get(name), int):
            changes[name] = data[name]
    for name in ("clean_accuracy", "robust_accuracy", "robust_accuracy_low", "robust_accuracy_high", "seconds"):
        changes[name] = _number(data, name) if name in data else getattr(evaluation, name)
    for name in ("examples_per_second", "eta_seconds"):
        changes[name] = _number(data, name)
    if isinstance(data.get("warnings"), list):
        changes["warnings"] = tuple(str(w) for w in data["warnings"])
    changes["from_store"] = bool(data.get("from_store", evaluation.from_store))
    return _with(view, replace(evaluation, **changes))


def _trains(view: JobProgress, data: Mapping[str, Any], state: EvaluationState, **changes: Any) -> JobProgress:
    """The job with what an event says about one of its trainings; unknown ones are passed over."""
    if not any(t.number == data.get("number") for t in view.trainings):
        return view

    def told(training: TrainingProgress) -> TrainingProgress:
        found: dict[str, Any] = {"state": state, **changes}
        for name in ("epoch", "epochs"):
            if isinstance(data.get(name), int):
                found[name] = data[name]
        for name in ("loss", "seconds", "clean_accuracy"):
            if name in data:
                found[name] = _number(data, name)
        if isinstance(data.get("sha256"), str):
            found["sha256"] = data["sha256"]
        return replace(training, **found, from_disk=bool(data.get("from_disk", False)))

    return replace(view, trainings=tuple(told(t) if t.number == data.get("number") else t for t in view.trainings))


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _whole(data: Mapping[str, Any], key: str, default: int = 0) -> int:
    value = data.get(key)
    return value if isinstance(value, int) else default


def _number(data: Mapping[str, Any], key: str) -> float | None:
    value = data.get(key)
    return float(value) if isinstance(value, int | float) else None
