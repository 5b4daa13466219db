"""Runs a study: model after model is trained, then attacked, so that results appear early.

Whatever ends it (ctrl-C, a kill, a power cut, a budget), the same command goes on: trainings after their last whole
epoch, evaluations at the first missing example. What is computed depends on the study alone, never on timing or on
where it was interrupted, so that a study that was killed ends with the results of one that was not.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer import errors
from explorer.errors import ExplorerError
from explorer.jobs import folder
from explorer.jobs.folder import Event
from explorer.studies import costs
from explorer.studies.expansion import Expansion, Place, StudyModel
from explorer.studies.standing import ModelState, look_again
from explorer.training import Order, Watch, unwatched
from models.datasets import registry as datasets
from models.errors import ModelsError
from store.errors import StoreError

if TYPE_CHECKING:
    from filelock import BaseFileLock

Say = Callable[[str], None]
Listen = Callable[[], AbstractContextManager[Callable[[Event], None]]]


class BudgetSpent(KeyboardInterrupt):
    """The time of the run is over in the middle of a training."""


class Interruption:
    """Ctrl-C, SIGTERM and the end of the time, while a study runs.

    An evaluation ends politely between two steps. A training is left at once: it goes on after its last whole epoch
    anyway. A second ctrl-C always leaves at once.
    """

    SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")

    def __init__(self, max_seconds: float | None = None) -> None:
        self.asked = False
        self.max_seconds = max_seconds
        self._at_once = False
        self._deadline = time.monotonic() + max_seconds if max_seconds is not None else None
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Interruption:
        for name in self.SIGNALS:
            if hasattr(signal, name):
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._handle)
        if self._deadline is not None:
            import _thread

            self._timer = threading.Timer(max(0.0, self._deadline - time.monotonic()), _thread.interrupt_main)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return self.asked

    @property
    def spent(self) -> bool:
        """Whether the time is over."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def left(self) -> float | None:
        """Seconds that are left of the budget; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, an interruption leaves at once."""
        self._at_once = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: object) -> None:
        if self.spent and not self.asked:
            if self._at_once:
                raise BudgetSpent
            return
        again, self.asked = self.asked, True
        if self._at_once or (again and number == signal.SIGINT):
            raise KeyboardInterrupt


@dataclass
class Report:
    """How a run went. `code` is the exit code."""

    code: int = errors.OK
    trained: int = 0
    evaluated: int = 0
    #: A sentence for every model that failed or that nobody can run here.
    failures: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    #: Whether the time was over before the study was.
    out_of_time: bool = False


def lock(place: Place, name: str, *, timeout: float = 0.0) -> BaseFileLock:
    """The lock that one run of a study holds: there is one a study and home folder."""
    from filelock import FileLock

    return FileLock(_lock_path(place, name), timeout=timeout)


def _lock_path(place: Place, name: str) -> Path:
    path = place.settings.home / "studies" / f"{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExplorerError(
            f"cannot write below {path.parent}: {error.strerror or error}. Set NASROB_HOME to a folder that you can "
            "write to."
        ) from None
    return path


def is_running(place: Place, name: str) -> bool:
    """Whether a run of the study is under way on this machine."""
    from filelock import Timeout

    if not (place.settings.home / "studies" / f"{name}.lock").exists():
        return False
    try:
        with lock(place, name):
            return False
    except Timeout:
        return True


def run(
    expansion: Expansion,
    states: list[ModelState],
    place: Place,
    interruption: Interruption,
    *,
    say: Say,
    watch: Watch = unwatched,
    listen: Listen = lambda: contextlib.nullcontext(lambda event: None),
    follow: str | None = None,
) -> Report:
    """Train and evaluate what is missing of a study. `states` are those of `look`, one a model.

    `say` gets sentences, `watch` the epochs of trainings, `listen` the events of evaluations. A model that fails is
    reported and the others go on. Raises `ExplorerError` (exit code 3) when the study is being run already; `follow` is
    the command that shows how far it is.
    """
    from filelock import Timeout

    name = expansion.study.name
    try:
        # Whoever only looks whether a study is running holds the lock for a moment.
        with lock(place, name, timeout=1.0):
            return _Run(expansion, states, place, interruption, say, watch, listen).work()
    except Timeout:
        if follow is None:
            study = expansion.study
            follow = shlex.join(
                ["nasrob-tui", "study", "status", study.name if study.source == "shipped" else study.source]
            )
        raise ExplorerError(
            f"study {name} is being run already: wait for it, or follow it with `{follow}`.", errors.BUSY
        ) from None


class _Run:
    def __init__(
        self,
        expansion: Expansion,
        states: list[ModelState],
        place: Place,
        interruption: Interruption,
        say: Say,
        watch: Watch,
        listen: Listen,
    ) -> None:
        self.expansion, self.states, self.place = expansion, states, place
        self.interruption, self.say, self.watch, self.listen = interruption, say, watch, listen
        self.times = costs.Times(place)
        self.report = Report()

    def work(self) -> Report:
        report = self.report
        n = len(self.states)
        try:
            for number, state in enumerate(self.states, 1):
                if self.interruption.asked:
                    raise KeyboardInterrupt
                if self.interruption.spent:
                    raise BudgetSpent
                self._tidy(state)
                if state.n_complete < len(self.expansion.all_attacks):
                    self._model(state, f"[{number}/{n}]")
        except BudgetSpent:
            report.out_of_time = True
            self.say("the time is over; what is finished is kept, and the same command goes on")
        except KeyboardInterrupt:
            report.code = errors.INTERRUPTED
            return report
        if report.failures:
            report.code = errors.FAILED
        elif report.missing and len(report.missing) == n:
            report.code = errors.USAGE
        return report

    def _model(self, state: ModelState, mark: str) -> None:
        """Train a model if need be and evaluate it; what goes wrong with it is reported, not raised."""
        model = state.model
        try:
            if model.order is not None:
                for split in ("train", "test"):
                    datasets.load(model.dataset, split, root=self.place.data_root, download=self.place.download)
                state = look_again(model, self.expansion, self.place)
                if state.weights == "to train":
                    self._train(model, model.order, mark)
                    state = look_again(model, self.expansion, self.place)
            elif self.place.download:
                state = look_again(model, self.expansion, self.place)
            if not state.requests:
                self.report.missing.append(f"{model.title}: {state.problem}")
                self.say(f"{mark} {model.title} is left out: {state.problem}")
                return
            self._evaluate(state, mark)
        except KeyboardInterrupt:
            raise
        except (ModelsError, ExplorerError, StoreError, OSError, RuntimeError, MemoryError) as error:
            # A signal in the middle of a query comes out of DuckDB as an error of the query.
            if "interrupted" in str(error).lower() and self.interruption.asked:
                raise KeyboardInterrupt from None
            if "interrupted" in str(error).lower() and self.interruption.spent:
                raise BudgetSpent from None
            reason = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
            self.report.failures.append(f"{model.title}: {reason}")
            self.say(f"{mark} {model.title} failed: {reason}")

    def _train(self, model: StudyModel, order: Order, mark: str) -> None:
        epochs = costs.epochs_of(order)
        images = datasets.find(model.dataset).sizes.get("train", 0)
        each = self.times.of(model.architecture, model.dataset)
        cost = f", about {costs.about(each * epochs * images)}" if each else ""
        self.say(f"{mark} {model.title}: training{cost}")
        trainer = self.place.trainer(say=self.say, watch=self.watch)
        fresh = self._is_fresh(order)
        began = time.monotonic()
        with self.interruption.at_once():
            trained = trainer.train(order)
        took = time.monotonic() - began
        self.report.trained += 1
        self.say(f"{mark} {model.title}: clean {trained.record.clean_accuracy:.1f} %, {took:.0f} s")
        if fresh and images:
            self.times.note(model.architecture, model.dataset, took / (epochs * images))

    def _tidy(self, state: ModelState) -> None:
        """Remove the checkpoints of a training whose weights are here: it was killed before it could do that itself."""
        if state.weights != "here" or state.model.order is None or not self._any_checkpoint():
            return
        trainer, order = self.place.trainer(), state.model.order
        with contextlib.suppress(ModelsError, OSError):
            for part in (*order.parts, order):
                if (trained := trainer.existing(part)) is not None:
                    trainer.tidy(trained, part)

    def _is_fresh(self, order: Order) -> bool:
        """Whether a training begins at its beginning: else how long it takes tells little."""
        trainer = self.place.trainer()
        if any(trainer.existing(part) is not None for part in order.parts):
            return False
        fingerprint = datasets.load(order.dataset, "train", root=self.place.data_root).fingerprint
        begun = (f"{part.plan(fingerprint).identity}.pt" for part in order.parts or (order,))
        return not any((self.place.settings.checkpoints / name).exists() for name in begun)

    def _any_checkpoint(self) -> bool:
        checkpoints = self.place.settings.checkpoints
        return checkpoints.is_dir() and any(checkpoints.glob("*.pt"))

    def _evaluate(self, state: ModelState, mark: str) -> None:
        """Every evaluation of a model that the store does not have; each threat space is a job of its own."""
        from explorer.jobs.runner import Runner

        complete = {one.evaluation_id for one in state.evaluations if one.status == "complete"}
        wanted = {one.attack.identity: one.evaluation_id for one in state.evaluations}
        for request in state.requests:
            if wanted and all(wanted[attack.identity] in complete for attack in request.attacks):
                continue
            request = replace(request, max_seconds=self.interruption.left)
            job = folder.create(self.place.settings.jobs, request)
            with self.listen() as listener:
                runner = Runner(job, request, listeners=[listener], stop=self.interruption)
                code = runner.run()
            self.report.evaluated += len(set(runner.evaluation_ids) - complete)
            if code == errors.INTERRUPTED:
                raise KeyboardInterrupt
            if self.interruption.spent:
                raise BudgetSpent
            if code != errors.OK:
                said = [str(event.data["message"]) for event in job.events() if event.kind == "error"]
                raise ExplorerError(f"job {job.number}: {said[-1] if said else f'it ended with code {code}'}")
