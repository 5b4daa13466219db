"""What DuckDB and the system say when the store cannot be used, turned into the store's own errors.

DuckDB reports most of these as one exception class, so its text is what tells them apart. The texts matched here are
those of DuckDB 1.5 and 2.0; one that matches none is not a fault of the file and is left alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from store.errors import (
    ForeignStore,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNotFound,
    StoreReadOnly,
    StoreTooNew,
)

_BUSY = ("Could not set lock on file", "Conflicting lock", "being used by another process", "File is already open in")
_BUSY_HERE = ("different configuration than existing connections", "Unique file handle conflict")
_FULL = ("No space left on device", "File too large", "Disk quota exceeded", "not enough space on the disk")
_DENIED = ("Permission denied", "Read-only file system", "Operation not permitted", "Access is denied")
_FOREIGN = ("not a valid DuckDB database file", "is an existing extension", "sqlite_scanner")
_NEWER = ("database file with version number", "created with a newer version of DuckDB")
_CORRUPT = (
    "Could not read enough bytes",
    "Corrupt database file",
    "Corrupt WAL file",
    "Failure while replaying WAL",
    "database has been invalidated",
    "Failed to deserialize",
    "Serialization Error",
)


@dataclass(frozen=True)
class LockOwner:
    """The process that holds the store: `name` is the program, `command` its command line, where they can be read."""

    pid: int | None
    name: str | None
    command: str | None = None

    def __str__(self) -> str:
        if self.pid is None:
            return self.name or "another process"
        return f"{self.name or 'a process'} (PID {self.pid})"


def lock_owner(text: str) -> LockOwner:
    """Who holds the lock, from DuckDB's refusal: `Conflicting lock is held in <program> (PID n)`."""
    found = re.search(r"(?:held in|already open in)\s+(.*?)\s*\(PID (\d+)\)", text, re.DOTALL)
    if found is None:
        return LockOwner(None, None)
    return describe_process(int(found[2]), fallback=Path(found[1]).name or None)


def describe_process(pid: int, *, fallback: str | None = None) -> LockOwner:
    """Name and command line of a process; `fallback` names it when it is gone or belongs to somebody else."""
    import psutil

    name, command = fallback, None
    try:
        process = psutil.Process(pid)
        name = process.name() or fallback
        command = " ".join(" ".join(process.cmdline()).split()) or None
    except (psutil.Error, OSError):
        pass
    return LockOwner(pid, name, command)


def busy(path: Path, owner: LockOwner, timeout: float) -> StoreBusy:
    """The refusal to report when the store stayed locked for `timeout` seconds."""
    what = f" [{_shorten(owner.command)}]" if owner.command else ""
    return StoreBusy(
        f"the results store {path} is held by {owner}{what} and stayed so for {timeout:g} s: "
        "wait for it to finish or close it, then try again.",
        pid=owner.pid,
        owner=owner.name,
    )


def is_busy(error: BaseException) -> bool:
    """Whether `error` is DuckDB's refusal because somebody else has the file open."""
    return _has(str(error), _BUSY + _BUSY_HERE)


def translate(error: BaseException, path: Path) -> StoreError | None:
    """The store's error for an exception of DuckDB or the system; None when it is not about the file."""
    text = str(error)
    if is_busy(error):
        return busy(path, lock_owner(text), 0)
    if _has(text, _FULL):
        return StoreFull(
            f"no room left while writing the results store {path}: this batch was not stored, everything before it is "
            "intact; free some space and run the same command again."
        )
    if _has(text, _DENIED) or isinstance(error, PermissionError):
        return denied(path)
    if "Is a directory" in text or isinstance(error, IsADirectoryError):
        return ForeignStore(f"{path} is a folder, not a results store: give the path of a file.")
    if "Not a directory" in text or isinstance(error, NotADirectoryError | FileExistsError):
        return StoreError(
            f"the results store {path} cannot be made: a file stands where a folder of that path should be; "
            "check --store and NASROB_HOME."
        )
    if _has(text, _NEWER):
        return StoreTooNew(
            f"the results store {path} was written by a newer DuckDB than the one installed here: "
            "upgrade it (pip install --upgrade duckdb)."
        )
    if _has(text, _FOREIGN):
        return foreign(path, "the file is empty" if _is_empty(path) else "it is not a DuckDB database")
    if "database does not exist" in text or isinstance(error, FileNotFoundError):
        return missing(path)
    if _has(text, _CORRUPT) or "INTERNAL Error" in text:
        first = text.strip().splitlines()[0]
        return StoreCorrupt(
            f"the results store {path} is damaged ({_shorten(first, 160)}): restore a copy of it, or move it and "
            f"{path.name}.wal aside and start a new one."
        )
    return None


def denied(path: Path) -> StoreReadOnly:
    """The refusal to report when the file system does not permit the access."""
    return StoreReadOnly(
        f"no permission to use the results store {path} this way: make the file and its folder writable, "
        "or choose another place with --store."
    )


def missing(path: Path) -> StoreNotFound:
    """The refusal to report when there is nothing at the path."""
    return StoreNotFound(f"there is no results store at {path}: run an evaluation first, or check --store.")


def denied_upgrade(path: Path) -> StoreReadOnly:
    """The refusal for a store of an older version that may not be written."""
    return StoreReadOnly(
        f"the results store {path} is of an older version of nasrob-tui and cannot be upgraded without permission to "
        "write: make the file and its folder writable, or copy it to a place that is."
    )


def unusable(path: Path, error: OSError) -> StoreError:
    """The refusal for a path that the system does not accept for another reason."""
    return StoreError(f"the results store {path} cannot be used ({error.strerror or error}): check --store.")


def foreign(path: Path, why: str) -> ForeignStore:
    """The refusal to report for a file that is somebody else's."""
    return ForeignStore(
        f"{path} is not a results store of nasrob-tui ({why}) and was left alone: choose another path with --store."
    )


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def _has(text: str, patterns: tuple[str, ...]) -> bool:
    return any(pattern in text for pattern in patterns)


def _shorten(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
