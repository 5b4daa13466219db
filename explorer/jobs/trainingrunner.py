"""The process of a job that trains: networks and ensembles one after the other, each attacked once it has weights.

Members of ensembles are trained like any network. Whatever ends the job, the same request goes on after the last whole
epoch: trainings that are done are found by their files.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from explorer.jobs.folder import Job
from explorer.jobs.request import RequestedModel
from explorer.jobs.runner import LOG_SECONDS, JobProcess, Listener, Runner
from explorer.jobs.training import RequestedTraining, Step, TrainingRequest
from explorer.settings import Settings
from explorer.settings import load as load_settings
from explorer.training import Trained, Trainer
from models.architectures import external
from models.datasets import registry as datasets
from models.errors import DeviceError, ModelsError

if TYPE_CHECKING:
    from models.training.loop import EpochReport


class TrainingRunner(JobProcess):
    """Works off a request to train. Inside `at_once` an interruption may raise `KeyboardInterrupt` at any moment: an
    epoch can take long, and one that is cut short costs nothing but its own time.
    """

    def __init__(
        self,
        job: Job,
        request: TrainingRequest,
        *,
        listeners: Sequence[Listener] = (),
        stop: Callable[[], bool] = lambda: False,
        at_once: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        super().__init__(job, listeners=listeners, stop=stop)
        self.request = request
        self.at_once = at_once
        self.settings: Settings = load_settings(Path(request.store))
        #: Trainings that earlier processes of this job have finished: `force` trains anew, but once a job.
        self._finished_before = {
            event.data.get("number")
            for event in job.events()
            if event.kind == "training_finished" and not event.data.get("from_disk")
        }
        self._logged_progress = 0.0
        self._resumed = False

    def work(self) -> None:
        from models import devices

        request = self.request
        if request.import_from is not None:
            external.search_also(request.import_from)
        request.check()
        device = devices.choose(request.device)
        threads = devices.set_threads(request.threads)
        label = devices.label(device)
        steps = request.steps()
        self.emit(
            "job_started",
            title=request.title,
            device=label,
            threads=threads,
            n_trainings=len(steps),
            n_evaluations=sum(len(request.evaluations(one)) for one in request.orders),
        )
        number = 0
        for requested, mine in zip(request.orders, _by_order(steps), strict=True):
            if self.stop():
                return
            trained = self._train(mine)
            if trained is not None:
                self._evaluate(requested, trained, device, label, number)
            number += len(request.evaluations(requested))

    # -- training ------------------------------------------------------------------------------------------------------

    def _train(self, steps: list[Step]) -> Trained | None:
        """One order: a network, or members and what is made of them. None when it failed, which is reported."""
        *members, last = steps
        if not members:
            return self._step(last, lambda trainer: trainer.train(last.order))
        try:
            known = None if self._forced(last) else self._trainer(last).existing(last.order)
        except ModelsError as error:
            self._failed(last, error)
            return None
        if known is not None:
            self._trainer(last).tidy(known, last.order)
            for step, said in zip(members, known.record.members or (), strict=False):
                self._tell_finished(step, said["sha256"], said.get("clean_accuracy"), None, 0.0, from_disk=True)
            self._tell_known(last, known)
            return known
        parts: list[Trained] = []
        for step in members:
            if self.stop():
                raise KeyboardInterrupt
            part = self._step(step, lambda trainer, step=step: trainer.train(step.order))  # type: ignore[misc]
            parts += [] if part is None else [part]
        if len(parts) < len(members):
            self.emit("training_failed", number=last.number, architecture=last.order.architecture.canonical)
            return None
        return self._step(last, lambda trainer: self._combine(trainer, members, parts, last))

    def _combine(self, trainer: Trainer, members: list[Step], parts: list[Trained], last: Step) -> Trained:
        from models.weights.files import load_model

        loaded = [
            load_model(part.path, step.order.architecture, step.order.entry)
            for step, part in zip(members, parts, strict=True)
        ]
        images = datasets.load(last.order.dataset, "train", root=self.request.root)
        return trainer.combine(last.order, loaded, last.order.path(self.settings, images.fingerprint))

    def _step(self, step: Step, train: Callable[[Trainer], Trained]) -> Trained | None:
        """One training, found on disk or done; None when it failed, which is reported."""
        trainer = self._trainer(step)
        try:
            known = trainer.existing(step.order) if step.kind != "whole" and not trainer.force else None
            if known is not None:
                trainer.tidy(known, step.order)
                self._tell_known(step, known)
                return known
            order = step.order
            self.emit(
                "training_started",
                number=step.number,
                title=_title(step),
                architecture=order.architecture.canonical,
                dataset=order.dataset,
                seed=order.seed,
                epochs=step.epochs,
            )
            self._resumed = False
            began = time.monotonic()
            trained = train(trainer)
        except ModelsError as error:
            self._failed(step, error)
            return None
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
                raise
            self._failed(step, DeviceError("the memory does not suffice: train with a smaller batch_size."))
            return None
        seconds = time.monotonic() - began
        if not self._resumed and step.kind != "whole":
            self._note_time(step, seconds)
        record = trained.record
        self._tell_finished(step, record.tensors_sha256, record.clean_accuracy, trained.path, seconds, from_disk=False)
        return trained

    def _note_time(self, step: Step, seconds: float) -> None:
        """Remember how long it took, so that the next one like it can be foretold."""
        from explorer.studies import costs
        from explorer.studies.expansion import Place

        order, request = step.order, self.request
        images = order.entry.sizes.get("train", 0)
        if images:
            place = Place(self.settings, device=request.device, threads=request.threads)
            each = seconds / (images * costs.epochs_of(order))
            costs.Times(place).note(order.architecture.canonical, order.dataset, each)

    def _trainer(self, step: Step) -> Trainer:
        request = self.request
        return Trainer(
            self.settings,
            device=request.device,
            threads=request.threads,
            data_root=request.root,
            force=self._forced(step),
            say=self._say,
            watch=partial(self._watch, step),
        )

    def _forced(self, step: Step) -> bool:
        return self.request.force and step.number not in self._finished_before

    def _say(self, text: str) -> None:
        self.emit("note", message=text)

    @contextlib.contextmanager
    def _watch(self, step: Step, title: str, epochs: int) -> Iterator[Callable[[EpochReport], None]]:
        """Report every epoch with the time that is left, and stop between two of them when somebody asked."""
        took: list[float] = []
        warned = False

        def told(report: EpochReport) -> None:
            nonlocal warned
            if report.resumed:
                self._resumed = True
            else:
                took.append(report.seconds)
            last = report.epoch == report.epochs
            if report.warning and (not warned or last):
                warned = True
                self.emit("warning", message=f"{title}: epoch {report.epoch}: {report.warning}")
            now = time.monotonic()
            log = last or report.resumed or now - self._logged_progress >= LOG_SECONDS
            if log:
                self._logged_progress = now
            self.emit(
                "training_progress",
                log=log,
                number=step.number,
                epoch=report.epoch,
                epochs=report.epochs,
                loss=report.loss,
                accuracy=report.accuracy,
                eta_seconds=sum(took) / len(took) * (report.epochs - report.epoch) if took else None,
            )
            if self.stop() and not last:
                raise KeyboardInterrupt

        with self.at_once():
            yield told

    def _failed(self, step: Step, error: ModelsError) -> None:
        self.fail(error, _title(step))
        self.emit("training_failed", number=step.number, architecture=step.order.architecture.canonical)

    def _tell_known(self, step: Step, known: Trained) -> None:
        record = known.record
        self._tell_finished(step, record.tensors_sha256, record.clean_accuracy, known.path, 0.0, from_disk=True)

    def _tell_finished(
        self,
        step: Step,
        sha256: str,
        clean_accuracy: float | None,
        path: Path | None,
        seconds: float,
        *,
        from_disk: bool,
    ) -> None:
        order = step.order
        self.emit(
            "training_finished",
            number=step.number,
            title=_title(step),
            architecture=order.architecture.canonical,
            dataset=order.dataset,
            seed=order.seed,
            epochs=step.epochs,
            sha256=sha256,
            clean_accuracy=clean_accuracy,
            path=str(path) if path is not None else None,
            seconds=seconds,
            from_disk=from_disk,
        )

    # -- evaluating ----------------------------------------------------------------------------------------------------

    def _evaluate(self, requested: RequestedTraining, trained: Trained, device: str, label: str, after: int) -> None:
        """What is to be done with the weights of one order, its evaluations numbered from `after` on."""
        record = trained.record
        model = RequestedModel(
            record.architecture, str(trained.path), record.tensors_sha256, tuple(record.mean), tuple(record.std)
        )
        try:
            for request in self.request.requests(requested, model):
                runner = Runner(self.job, request, listeners=self.listeners, stop=self.stop)
                runner.store.ensure()
                runner.evaluate(device, label, after=after)
                after += len(request.models) * len(request.attacks)
                self.evaluation_ids += runner.evaluation_ids
                self.failures += runner.failures
                if self.stop():
                    return
            if self.request.then is not None and self.request.then.gradients and requested.members:
                self._gradients(requested, model)
        except ModelsError as error:
            self.fail(error, requested.architecture)

    def _gradients(self, requested: RequestedTraining, model: RequestedModel) -> None:
        from explorer import ensembles
        from store import Store

        store = Store(Path(self.request.store))
        store.ensure()
        whole = self.request.whole(requested, model)
        n = ensembles.measure_cosines(store, model, whole, self.request.device)
        self.emit("gradients_measured", architecture=model.architecture, model_sha256=model.sha256, n_examples=n)


def _by_order(steps: list[Step]) -> list[list[Step]]:
    """The steps of each order: members end with the whole that is made of them."""
    orders: list[list[Step]] = [[]]
    for step in steps:
        orders[-1].append(step)
        if step.kind != "member":
            orders.append([])
    return orders[:-1]


def _title(step: Step) -> str:
    order = step.order
    what = f"{order.architecture.canonical}, seed {order.seed}"
    return f"{what}, combiner" if step.kind == "whole" and step.epochs else what
