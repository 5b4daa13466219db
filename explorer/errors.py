"""Errors of the explorer, and the exit code that each error of any room means."""

from __future__ import annotations

OK, FAILED, USAGE, BUSY, INTERRUPTED = 0, 1, 2, 3, 130


class ExplorerError(Exception):
    """An error with a sentence for the user and an exit code."""

    exit_code = USAGE

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


def exit_code_of(error: BaseException) -> int | None:
    """The exit code for an error that a user can act on; None for a bug, which deserves its traceback."""
    from models.errors import DataError, DeviceError, EvaluationError, InvalidSpec, ModelsError, WeightsError
    from store.errors import StoreBusy, StoreError, StoreFull

    if isinstance(error, ExplorerError):
        return error.exit_code
    if isinstance(error, StoreBusy):
        return BUSY
    if isinstance(error, StoreFull | EvaluationError):
        return FAILED
    if isinstance(error, InvalidSpec | WeightsError | DataError | DeviceError | StoreError):
        return USAGE
    if isinstance(error, ModelsError):
        return FAILED
    if is_interruption(error):
        return INTERRUPTED
    return None


def is_interruption(error: BaseException) -> bool:
    """Whether somebody pressed ctrl-C; DuckDB, in the middle of a statement, reports that as errors of its own."""
    return (
        isinstance(error, KeyboardInterrupt)
        or type(error).__name__ == "InterruptException"
        or (isinstance(error, RuntimeError) and str(error) == "Query interrupted")
    )
