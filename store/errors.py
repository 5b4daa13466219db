"""Errors of the store. `str(error)` is one clear sentence or two: what happened, where, and what to do next."""

from __future__ import annotations


class StoreError(Exception):
    """Base of everything that can go wrong with the results store."""


class StoreBusy(StoreError):
    """Another process (or thread) kept the store longer than the timeout. Trying again is the right answer.

    `pid` and `owner` (the name of the program) say who holds it, where the system tells.
    """

    def __init__(self, message: str, *, pid: int | None = None, owner: str | None = None) -> None:
        super().__init__(message)
        self.pid = pid
        self.owner = owner


class StoreNotFound(StoreError):
    """There is no store at the path, and what was asked for does not create one."""


class ForeignStore(StoreError):
    """What lies at the path is not a results store of this software. It is never written to."""


class StoreTooNew(StoreError):
    """The store was written by a newer version of this software, or of DuckDB, than the one that runs."""


class StoreCorrupt(StoreError):
    """The file is a results store, or was one, and is damaged."""


class StoreReadOnly(StoreError):
    """The file or its folder does not permit what was asked for."""


class StoreFull(StoreError):
    """There is no room left for the store. The batch that did not fit was not stored; earlier ones are intact."""


class ShippedDamaged(StoreError):
    """The results that come with the package cannot be taken in: a file is missing or not as it was written."""


class EvaluationNotFound(StoreError):
    """No evaluation of the store, or more than one, answers to the identity that was given."""


class QueryError(StoreError):
    """A person's SQL has a mistake, does more than read, or takes too long."""
