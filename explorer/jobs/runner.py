"""The process of a job: works off the request, stores outcomes as they come, and says what happens.

The command line runs it in the foreground, the app starts it detached; there is no other way to a result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer import errors
from explorer.jobs.folder import Event, Job
from explorer.jobs.request import Request
from explorer.jobs.subject import Subject
from models.architectures import external
from models.errors import ModelsError

if TYPE_CHECKING:
    from store.connection import Store

#: Progress is written to the job's log at most this often.
LOG_SECONDS = 0.25

Listener = Callable[[Event], None]


class JobProcess:
    """What the process of every job does: it claims the job, says what happens and how it ended.

    `stop` is asked between steps; when it says true, what is finished is kept.
    """

    def __init__(
        self, job: Job, *, listeners: Sequence[Listener] = (), stop: Callable[[], bool] = lambda: False
    ) -> None:
        self.job = job
        self.listeners = list(listeners)
        self.stop = stop
        #: Identities of the evaluations of the job, in order, as far as they are known.
        self.evaluation_ids: list[str] = []
        #: Exit codes of what failed.
        self.failures: list[int] = []

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
            self.work()
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
            if state == "complete" and self.unfinished:
                state = "cancelled"
            self.emit("job_finished", state=state, exit_code=exit_code)
        return exit_code

    def work(self) -> None:
        """Everything that the request asks for."""
        raise NotImplementedError

    @property
    def unfinished(self) -> bool:
        """Whether the work stopped before its end without anybody asking for it."""
        return False

    def fail(self, error: ModelsError, about: str) -> None:
        """Report a part of the work that cannot be done; the others go on."""
        self.failures.append(errors.exit_code_of(error) or errors.FAILED)
        self.emit("error", message=f"{about}: {error}")

    def _failure(self) -> int:
        """One code for all failures: an input error only if each of them is one."""
        return errors.USAGE if set(self.failures) == {errors.USAGE} else errors.FAILED


class Runner(JobProcess):
    """Works off a request to evaluate. When it is stopped, what is finished is stored and marked partial."""

    def __init__(
        self,
        job: Job,
        request: Request,
        *,
        listeners: Sequence[Listener] = (),
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        from store import Store

        super().__init__(job, listeners=listeners, stop=stop)
        self.request = request
        self.store: Store = Store(Path(request.store))
        self._logged_progress = 0.0
        self._began = time.monotonic()
        #: Rows pushed forward through networks by this job, for the budget.
        self.forwards = 0
        self._told_budget = False

    def work(self) -> None:
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
        self.evaluate(device, label)

    def evaluate(self, device: str, label: str, *, after: int = 0) -> None:
        """Every evaluation of the request, numbered from `after` on; `label` is what the device is called."""
        request = self.request
        number = after
        for model in request.models:
            if self.must_stop():
                return
            try:
                subject = Subject(self, model, device, label)
            except ModelsError as error:
                number += len(request.attacks)
                self.fail(error, model.architecture)
                continue
            for attack in request.attacks:
                number += 1
                if self.must_stop():
                    return
                try:
                    subject.evaluate(attack, number)
                except ModelsError as error:
                    self.fail(error, f"{model.architecture}, {attack.label}")

    @property
    def unfinished(self) -> bool:
        return self._told_budget

    def must_stop(self) -> bool:
        """Whether to stop after this step: somebody asked, or the budget of the request is spent."""
        return self.stop() or self.over_budget()

    def over_budget(self) -> bool:
        """Whether the time or the forward passes of the request are spent; says so once."""
        request = self.request
        spent = None
        if request.max_seconds is not None and time.monotonic() - self._began >= request.max_seconds:
            spent = f"the time of {request.max_seconds:g} s"
        elif request.max_forwards is not None and self.forwards >= request.max_forwards:
            spent = f"the budget of {request.max_forwards:,} forward passes"
        if spent and not self._told_budget:
            self._told_budget = True
            self.emit("note", message=f"{spent} is spent; what is finished is stored, and the same command goes on")
        return spent is not None

    def progress(self, data: dict[str, Any]) -> None:
        """Show progress; log it less often."""
        now = time.monotonic()
        log = now - self._logged_progress >= LOG_SECONDS
        if log:
            self._logged_progress = now
        self.emit("progress", log=log, **data)
