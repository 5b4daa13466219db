"""The process of a job: works off the request, stores outcomes as they come, and says what happens.

The command line runs it in the foreground, the app starts it detached; there is no other way to a result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer import errors
from explorer.errors import ExplorerError
from explorer.jobs import rows
from explorer.jobs.folder import Event, Job
from explorer.jobs.request import Request, RequestedModel
from models.architectures import external
from models.architectures import registry as architectures
from models.datasets import registry as datasets
from models.errors import ModelsError, WeightsError
from models.specs import AttackSpec, EvaluationSpec, Preprocessing
from store.errors import StoreBusy, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

    from models.attacks.engine import Outcome
    from models.evaluation import Evaluator
    from models.weights.files import LoadedModel
    from store.connection import Store
    from store.rows import Counts, OpenedEvaluation

#: Outcomes are written at most this often, so that other processes get their turn at the store.
FLUSH_SECONDS = 1.0
#: Progress is shown at most this often, and written to the job's log at most that often.
SHOW_SECONDS, LOG_SECONDS = 0.1, 0.25
#: How long to keep trying to store the last outcomes of an evaluation while others hold the store.
LAST_FLUSH_PATIENCE = 120.0

#: Share of examples with a gradient of zero from which a reader is warned.
ZERO_GRADIENTS_TO_WARN = 0.01

Listener = Callable[[Event], None]


class Tally:
    """Running counts of one evaluation, stored outcomes included.

    Examples that break soon are done first, so the share of robust ones among those done is no estimate: it starts near
    zero on any model. Verdicts are counted over the examples before the first one that is still in work.
    """

    def __init__(self, indices: Sequence[int], stored: pa.Table) -> None:
        self.n_done = self.n_counted = self.n_clean_correct = self.n_robust = self.n_errors = 0
        self.forwards = self.backwards = 0
        self._waiting: dict[int, tuple[bool, bool, bool]] = {}
        self._order = iter(indices)
        self._next = next(self._order, None)
        columns = ("example", "clean_correct", "robust", "error", "forwards", "backwards")
        for row in zip(*(stored[name].to_pylist() for name in columns), strict=True):
            self._enter(*row)
        self._count()

    def add(self, outcomes: Sequence[Outcome]) -> None:
        for o in outcomes:
            self._enter(o.example, o.clean_correct, o.robust, o.error, o.forwards, o.backwards)
        self._count()

    def _enter(
        self, example: int, clean_correct: bool, robust: bool | None, error: str | None, forwards: int, backwards: int
    ) -> None:
        self.n_done += 1
        self.forwards += forwards
        self.backwards += backwards
        self._waiting[example] = (clean_correct and error is None, bool(robust), error is not None)

    def _count(self) -> None:
        while self._next is not None and self._next in self._waiting:
            clean_correct, robust, error = self._waiting.pop(self._next)
            self.n_counted += 1
            self.n_clean_correct += clean_correct
            self.n_robust += robust
            self.n_errors += error
            self._next = next(self._order, None)

    def to_dict(self) -> dict[str, Any]:
        """The counts, as events report them."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


class Runner:
    """Works off one job. `stop` is asked between steps; when it says true, what is finished is stored and marked
    partial.
    """

    def __init__(
        self,
        job: Job,
        request: Request,
        *,
        listeners: Sequence[Listener] = (),
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        from store import Store

        self.job = job
        self.request = request
        self.listeners = list(listeners)
        self.stop = stop
        self.store: Store = Store(Path(request.store))
        #: Identities of the evaluations of the request, in order, as far as they are known.
        self.evaluation_ids: list[str] = []
        #: Exit codes of the evaluations that failed.
        self.failures: list[int] = []
        self._logged_progress = 0.0

    def emit(self, kind: str, *, log: bool = True, **data: Any) -> None:
        """Tell the listeners and, unless `log` is off, the job's event log.

        A listener that cannot be told any more (a closed pipe, a terminal that is gone) is dropped: the work goes on.
        """
        event = self.job.append(kind, **data) if log else Event("", kind, data)
        for listener in list(self.listeners):
            try:
                listener(event)
            except OSError:
                self.listeners.remove(listener)

    def run(self) -> int:
        """Do the work; returns the exit code. Errors that a user can act on are reported, never raised."""
        exit_code = errors.FAILED
        try:
            self.job.claim()
            self._work()
            exit_code = errors.INTERRUPTED if self.stop() else self._failure() if self.failures else errors.OK
        except Exception as error:
            code = errors.exit_code_of(error)
            exit_code = errors.FAILED if code is None else code
            self.emit("error", message=str(error) if code is not None else f"{type(error).__name__}: {error}")
            if code is None:
                raise
        except KeyboardInterrupt:
            exit_code = errors.INTERRUPTED
        except SystemExit as leaving:
            # A network of somebody else called sys.exit.
            self.emit("error", message=f"the model's code left the program (SystemExit: {leaving}).")
        finally:
            state = {errors.OK: "complete", errors.INTERRUPTED: "cancelled"}.get(exit_code, "failed")
            self.emit("job_finished", state=state, exit_code=exit_code)
        return exit_code

    def _work(self) -> None:
        from models import devices

        request = self.request
        if request.import_from is not None:
            external.search_also(request.import_from)
        device = devices.choose(request.device)
        threads = devices.set_threads(request.threads)
        label = devices.label(device)
        total = len(request.models) * len(request.attacks)
        self.emit("job_started", title=request.title, device=label, threads=threads, n_evaluations=total)
        self.store.ensure()
        number = 0
        for model in request.models:
            if self.stop():
                return
            try:
                subject = Subject(self, model, device, label)
            except ModelsError as error:
                number += len(request.attacks)
                self._fail(error, model.architecture)
                continue
            for attack in request.attacks:
                number += 1
                if self.stop():
                    return
                try:
                    subject.evaluate(attack, number)
                except ModelsError as error:
                    self._fail(error, f"{model.architecture}, {attack.label}")

    def _fail(self, error: ModelsError, about: str) -> None:
        """Report an evaluation that cannot be done; the others go on."""
        self.failures.append(errors.exit_code_of(error) or errors.FAILED)
        self.emit("error", message=f"{about}: {error}")

    def _failure(self) -> int:
        """One code for all failures: an input error only if each of them is one."""
        return errors.USAGE if set(self.failures) == {errors.USAGE} else errors.FAILED

    def progress(self, data: dict[str, Any]) -> None:
        """Show progress; log it less often."""
        now = time.monotonic()
        log = now - self._logged_progress >= LOG_SECONDS
        if log:
            self._logged_progress = now
        self.emit("progress", log=log, **data)


class Subject:
    """One model of a job, loaded and checked, under its attacks."""

    def __init__(self, runner: Runner, model: RequestedModel, device: str, device_label: str) -> None:
        from models import counting
        from models.architectures import factories
        from models.evaluation import Evaluator
        from models.weights import sources

        request = runner.request
        self.runner = runner
        self.model = model
        self.device_label = device_label
        self.dataset = datasets.find(request.dataset)
        self.examples = datasets.load(request.dataset, request.split, root=request.root)
        self.indices = [int(i) for i in self.examples.subset(request.examples)]
        self.spec = architectures.parse_architecture(model.architecture)
        normal = Preprocessing(model.mean, model.std)
        self.loaded: LoadedModel = sources.load(model.weights, self.spec, self.dataset, preprocessing=normal)
        if model.sha256 is not None and model.sha256 != self.loaded.sha256:
            raise WeightsError(f"{model.weights} has changed since the job was written: ask for it again.")
        self.code = factories.source_digest(self.spec.name) if external.is_factory(self.spec.name) else None
        self._refuse_another_architecture()
        self.counts = counting.of_network(self.loaded.classifier.network, self.dataset.image_shape)
        self.evaluator: Evaluator = Evaluator(self.loaded.classifier, self.examples, device=device, slots=request.slots)
        self.evaluator.check(self.indices)

    def _refuse_another_architecture(self) -> None:
        """A model is known by its tensors, so a store holds one architecture for them.

        Networks that differ only in layers without tensors (pooling, activations) can share all tensors; results of one
        must never stand under the name of the other.
        """
        with self.runner.store.read() as connection:
            row = connection.execute(
                "SELECT architecture_id FROM models WHERE model_sha256 = ?", [self.loaded.sha256]
            ).fetchone()
        if row is not None and row[0] != self.spec.canonical:
            raise WeightsError(
                f"these very tensors are in the store as {row[0]}: evaluate {self.spec.canonical} in another store "
                "(--store FILE), so that the results of the two stay apart."
            )

    def evaluate(self, attack: AttackSpec, number: int) -> None:
        """One evaluation: answered from the store, continued at the missing examples, or begun."""
        from store import results

        runner, request = self.runner, self.runner.request
        spec = request.evaluation(self.model, attack, self.loaded.sha256, self.code)
        runner.evaluation_ids.append(spec.identity)
        opened = self._open(spec)
        done = {int(i) for i in opened.done}
        tally = Tally(self.indices, results.outcomes(runner.store, opened.evaluation_id))
        runner.emit(
            "evaluation_started",
            evaluation_id=spec.identity,
            number=number,
            architecture=self.model.architecture,
            model_sha256=self.loaded.sha256,
            dataset=self.examples.identifier,
            attack=attack.label,
            eps=attack.eps.text,
            n_requested=len(self.indices),
            **tally.to_dict(),
        )
        if opened.status == "complete":
            self._report(spec.identity, from_store=True)
            return
        missing = [i for i in self.indices if i not in done]
        recorder = Recorder(runner, opened.evaluation_id)
        began = time.monotonic()
        first = tally.n_done
        shown = 0.0
        try:
            for outcomes in self.evaluator.run(attack, missing, stop=runner.stop):
                tally.add(outcomes)
                recorder.add(outcomes)
                now = time.monotonic()
                if now - shown >= SHOW_SECONDS:
                    shown = now
                    rate = (tally.n_done - first) / max(now - began, 1e-9)
                    runner.progress(
                        {
                            "evaluation_id": spec.identity,
                            "n_requested": len(self.indices),
                            **tally.to_dict(),
                            "examples_per_second": rate,
                            "eta_seconds": (len(self.indices) - tally.n_done) / rate if rate else None,
                        }
                    )
        except BaseException as error:
            # Whatever ended it, what is finished stays.
            recorder.close()
            failed = isinstance(error, ModelsError)
            results.finish_evaluation(
                runner.store,
                opened.evaluation_id,
                status="failed" if failed else "partial",
                warnings=[*self.evaluator.warnings, *([str(error)] if failed else [])],
            )
            raise
        recorder.close()
        complete = tally.n_done >= len(self.indices)
        finished = results.finish_evaluation(
            runner.store,
            opened.evaluation_id,
            status="complete" if complete else "partial",
            warnings=self._warnings(recorder.counts),
        )
        if finished.replaced:
            differ = f"{finished.n_changed} of {finished.n_compared} verdicts differ from the earlier result"
            said = f"re-run of {spec.identity}: {differ}"
            runner.emit("warning" if finished.n_changed else "note", message=said)
        elif opened.staging:
            state = f"the re-run of {spec.identity} has {tally.n_done} of {len(self.indices)} examples"
            said = f"{state}; the earlier result stands until it is complete"
            runner.emit("note", message=said)
        self._report(spec.identity, from_store=False)

    def _open(self, spec: EvaluationSpec) -> OpenedEvaluation:
        from store import results

        request = self.runner.request
        return results.open_evaluation(
            self.runner.store,
            architecture=rows.architecture_row(self.spec),
            dataset=rows.dataset_row(self.dataset, self.examples),
            model=rows.model_row(
                self.spec, self.dataset, self.loaded.sha256, str(self.loaded.path), self.loaded.record, self.counts
            ),
            attack=rows.attack_row(spec.attack),
            evaluation=rows.evaluation_row(
                spec,
                self.examples.identifier,
                self.indices,
                device=self.device_label,
                job=self.runner.job.number,
            ),
            force=request.force,
        )

    def _warnings(self, counts: Counts | None) -> list[str]:
        found = [*self.examples.notes, *self.evaluator.warnings]
        if counts is not None and counts.n_errors:
            found.append(f"{counts.n_errors} examples gave non-finite logits and are in no accuracy")
        if counts is not None and counts.n_zero_gradient > ZERO_GRADIENTS_TO_WARN * counts.n_counted:
            found.append(
                f"{counts.n_zero_gradient} of {counts.n_counted} examples met a gradient of zero, where this attack "
                "stands still: the model may only look robust"
            )
        return found

    def _report(self, evaluation_id: str, *, from_store: bool) -> None:
        from store import results

        row = results.evaluation_rows(self.runner.store, [evaluation_id])[0]
        keys = (
            "status",
            "clean_accuracy",
            "robust_accuracy",
            "robust_accuracy_low",
            "robust_accuracy_high",
            "seconds",
            "warnings",
        )
        self.runner.emit(
            "evaluation_finished",
            evaluation_id=evaluation_id,
            from_store=from_store,
            n_done=row["n_done"],
            n_counted=row["n_examples"],
            **{key: row[key] for key in keys},
        )


class Recorder:
    """Collects outcomes and stores them in short batches; while others hold the store they wait in memory."""

    def __init__(self, runner: Runner, evaluation_id: str) -> None:
        self.runner = runner
        self.evaluation_id = evaluation_id
        self.pending: list[Outcome] = []
        #: The counts of the evaluation after the latest batch.
        self.counts: Counts | None = None
        self.flushed = time.monotonic()
        self.accounted = self.flushed
        self.told = False

    def add(self, outcomes: Sequence[Outcome]) -> None:
        self.pending.extend(outcomes)
        if time.monotonic() - self.flushed >= FLUSH_SECONDS:
            try:
                self.flush()
            except StoreBusy as error:
                # The work goes on; the next batch tries again.
                self.flushed = time.monotonic()
                if not self.told:
                    self.told = True
                    self.runner.emit("warning", message=f"{error} Outcomes wait in memory meanwhile.")

    def flush(self) -> None:
        """Store what is pending; raises `StoreError`, with everything still pending."""
        from store import results

        if not self.pending:
            return
        now = time.monotonic()
        self.counts = results.append_outcomes(
            self.runner.store, self.evaluation_id, rows.outcome_table(self.pending), seconds=now - self.accounted
        )
        self.accounted = now
        self.pending.clear()
        self.flushed = time.monotonic()

    def close(self) -> None:
        """Store the rest, waiting for others if need be; raises `ExplorerError` if it cannot be done."""
        deadline = time.monotonic() + LAST_FLUSH_PATIENCE
        while True:
            try:
                return self.flush()
            except StoreError as error:
                if isinstance(error, StoreBusy) and time.monotonic() < deadline:
                    continue
                lost = f"{len(self.pending)} outcomes were not stored."
                raise ExplorerError(f"{error} {lost}", errors.exit_code_of(error)) from None
