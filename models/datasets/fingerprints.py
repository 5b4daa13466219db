"""What a dataset holds, as one SHA-256: over arrays, or over files, each of which is read for it only once."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.datasets import places
from models.errors import DataError

#: Told the number of files done and of all files.
Progress = Callable[[int, int], None]

#: A file changed less than this long ago may change again without its time stamp telling.
SETTLED_NANOSECONDS = 2_000_000_000
#: Files between two commits of the cache: what a killed process has hashed is not lost.
FILES_A_COMMIT = 2000


def fingerprint(images: NDArray[np.generic], labels: NDArray[np.generic]) -> str:
    """SHA-256 over shape, type and bytes of images and labels in stored order."""
    sha = hashlib.sha256()
    for array in (images, labels):
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def with_geometry(content: str, geometry: str | None) -> str:
    """The fingerprint of content seen through a geometry; of the content itself when it is taken as stored."""
    return content if geometry is None else hashlib.sha256(f"{content} {geometry}".encode()).hexdigest()


def files_fingerprint(keys: Sequence[str], labels: NDArray[np.int64], hashes: Sequence[str]) -> str:
    """SHA-256 over name, label and SHA-256 of every file, sorted by name.

    The names are those within the dataset, so that the same files give the same fingerprint wherever they lie.
    """
    sha = hashlib.sha256()
    for i in sorted(range(len(keys)), key=keys.__getitem__):
        sha.update(f"{keys[i]}\t{int(labels[i])}\t{hashes[i]}\n".encode(errors="surrogateescape"))
    return sha.hexdigest()


@dataclass(frozen=True)
class FileState:
    """What a file was when it was hashed: its SHA-256, its size in bytes and its time of last change."""

    sha256: str
    size: int
    mtime_ns: int


def hash_files(paths: Sequence[str], progress: Progress = lambda done, total: None) -> list[FileState]:
    """The state of every file, in order; raises `DataError` for one that cannot be read.

    What is known of a file with the same path, size and time of change comes from a cache, which is a convenience: when
    it cannot be opened or written, everything is read again.
    """
    with closing(HashCache(places.cache_folder() / "files.sqlite")) as cache:
        known = [cache.find(path) for path in paths]
        missing = [i for i, found in enumerate(known) if found is None]
        done = len(paths) - len(missing)
        progress(done, len(paths))
        with ThreadPoolExecutor(max_workers=workers()) as pool:
            for begin in range(0, len(missing), FILES_A_COMMIT):
                block = missing[begin : begin + FILES_A_COMMIT]
                for i, state in zip(block, pool.map(hash_file, [paths[i] for i in block]), strict=True):
                    known[i] = state
                    cache.add(paths[i], state)
                    done += 1
                    if done % 100 == 0 or done == len(paths):
                        progress(done, len(paths))
                cache.commit()
    return [state for state in known if state is not None]


def workers() -> int:
    """Threads that read and decode files."""
    return min(8, os.cpu_count() or 1)


def hash_file(path: str) -> FileState:
    """Read a file through; raises `DataError` when that cannot be done."""
    sha = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            # Before it is read: a change in between shows as another time of change afterwards.
            state = os.fstat(file.fileno())
            while chunk := file.read(1 << 20):
                sha.update(chunk)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from None
    return FileState(sha.hexdigest(), state.st_size, state.st_mtime_ns)


class HashCache:
    """SHA-256 by path, size and time of last change, in a file. Without the file it knows nothing and keeps nothing."""

    def __init__(self, path: Path) -> None:
        self._connection: sqlite3.Connection | None = None
        with suppress(OSError, sqlite3.Error):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=5)
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT) "
                "WITHOUT ROWID"
            )

    def find(self, path: str) -> FileState | None:
        """What is known of the file as it is now."""
        if self._connection is None:
            return None
        with suppress(OSError, sqlite3.Error, UnicodeError):
            now = os.stat(path)
            row = self._connection.execute("SELECT * FROM files WHERE path = ?", (path,)).fetchone()
            if row is not None and (row[1], row[2]) == (now.st_size, now.st_mtime_ns):
                return FileState(str(row[3]), now.st_size, now.st_mtime_ns)
        return None

    def add(self, path: str, state: FileState) -> None:
        if self._connection is None or time.time_ns() - state.mtime_ns < SETTLED_NANOSECONDS:
            return
        with suppress(sqlite3.Error, UnicodeError):
            values = (path, state.size, state.mtime_ns, state.sha256)
            self._connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", values)

    def commit(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.commit()

    def close(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
