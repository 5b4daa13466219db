"""From outcomes as they come to the store: counted, and written in short batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from explorer import errors
from explorer.errors import ExplorerError
from explorer.jobs import rows
from store.errors import StoreBusy, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

    from models.attacks.slots import Outcome, Survival
    from store.connection import Store
    from store.rows import Counts

#: Outcomes are written at most this often, so that other processes get their turn at the store.
FLUSH_SECONDS = 1.0
#: How long to keep trying to store the last outcomes of an evaluation while others hold the store.
LAST_FLUSH_PATIENCE = 120.0


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


class Recorder:
    """Collects outcomes and stores them in short batches; while others hold the store they wait in memory.

    `warn` is told once when they have to wait.
    """

    def __init__(self, store: Store, evaluation_id: str, warn: Callable[[str], None]) -> None:
        self.store = store
        self.evaluation_id = evaluation_id
        self.warn = warn
        self.pending: list[Outcome] = []
        #: How the network is computed, once that is known.
        self.engine: str | None = None
        #: Examples of a cascade that have passed a stage since the last batch.
        self.survived: list[Survival] = []
        #: The counts of the evaluation after the latest batch.
        self.counts: Counts | None = None
        self.flushed = time.monotonic()
        self.accounted = self.flushed
        self.told = False

    def survive(self, found: Sequence[Survival]) -> None:
        """Take note of examples that have passed a stage; they are stored with the next batch."""
        self.survived.extend(found)

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
                    self.warn(f"{error} Outcomes wait in memory meanwhile.")

    def flush(self) -> None:
        """Store what is pending; raises `StoreError`, with everything still pending."""
        from store import results

        if self.survived:
            results.save_survivals(
                self.store, self.evaluation_id, [results.SurvivalRow(**vars(found)) for found in self.survived]
            )
            self.survived.clear()
            self.flushed = time.monotonic()
        if not self.pending:
            return
        now = time.monotonic()
        self.counts = results.append_outcomes(
            self.store,
            self.evaluation_id,
            rows.outcome_table(self.pending),
            seconds=now - self.accounted,
            engine=self.engine,
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
