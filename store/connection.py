"""The one gate to the results store: nothing else opens its file.

DuckDB lets one process at a time write a file and refuses everybody else at once. So the store is opened for one short
batch and closed again; who is refused waits a little and tries again; writers queue on a lock file of their own, so
that they do not starve each other. The path itself is never opened by ordinary means: on POSIX systems closing such a
handle would silently drop DuckDB's lock, and with it another process's rows.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from store import faults
from store.errors import StoreReadOnly
from store.faults import LockOwner
from store.migrate import State, migrate, state, too_new, transaction

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["LockOwner", "Store", "memory"]

T = TypeVar("T")

#: Waiting between two attempts, in seconds: it grows from the first to the last, with jitter.
_FIRST_WAIT, _LAST_WAIT = 0.004, 0.08


def _config() -> dict[str, str | bool | int | float | list[str]]:
    """Settings of every connection.

    Extensions are never fetched behind a person's back, a file made by DuckDB 2 stays readable by 1.5, and a machine
    with many cores does not start a thread on each for a batch of milliseconds.
    """
    return {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "storage_compatibility_version": "v1.5.0",
        "threads": str(min(4, os.cpu_count() or 1)),
    }


def memory() -> DuckDBPyConnection:
    """A new in-memory database with the settings of every connection here. It never spills to a file."""
    import duckdb

    return duckdb.connect(":memory:", config=_config() | {"temp_directory": ""})


class Store:
    """The results store at `path`, symbolic links resolved. Making the object does no I/O beyond that.

    `timeout` is how long, in seconds, to wait for other processes before `StoreBusy`. Every method may raise the errors
    of `store.errors`, whose messages are meant for people. Objects may be shared between threads; a thread that has the
    store open must not open it again.
    """

    def __init__(self, path: Path, *, timeout: float = 15.0) -> None:
        self.path = Path(os.path.realpath(path))
        self.timeout = timeout

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    @property
    def lock_path(self) -> Path:
        """The file on which writers queue. It holds nothing and stays in place."""
        return self.path.with_name(self.path.name + ".lock")

    @property
    def wal_path(self) -> Path:
        """DuckDB's write-ahead log: part of the store when it exists."""
        return self.path.with_name(self.path.name + ".wal")

    def ensure(self) -> None:
        """Create the store, parent folders included, or bring it to this version's schema. Idempotent."""
        with self._turn() as deadline:
            if self.path.exists():
                self._open_for_reading(deadline).close()
            else:
                with self._queue(deadline):
                    self._open_for_writing(deadline).close()

    @contextlib.contextmanager
    def write(self) -> Iterator[DuckDBPyConnection]:
        """One transaction: committed at the end of the block, rolled back on any exception.

        Creates or upgrades the store first if need be. Keep the block short (milliseconds): everybody else waits.
        """
        with self._turn() as deadline, self._queue(deadline):
            con = self._open_for_writing(deadline)
            try:
                with self._faults(), transaction(con):
                    yield con
            finally:
                con.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[DuckDBPyConnection]:
        """A read-only connection. Keep the block short: writers wait. Raises `StoreNotFound` when there is no store."""
        with self._turn() as deadline:
            con = self._open_for_reading(deadline)
            try:
                with self._faults():
                    yield con
            finally:
                con.close()

    @contextlib.contextmanager
    def attached(self, con: DuckDBPyConnection, alias: str) -> Iterator[None]:
        """The store as the read-only database `alias` of the in-memory connection `con`, to copy out of it.

        Keep the block short: writers wait. `con` may be closed inside it. Raises `StoreNotFound` without a store.
        """
        target = str(self.path).replace("'", "''")
        with self._turn() as deadline:
            self._open_current(
                deadline,
                lambda: con.execute(f"ATTACH '{target}' AS {alias} (READ_ONLY)"),
                look=lambda _: state(con, database=alias),
                close=lambda _: con.execute(f"DETACH {alias}"),
            )
            try:
                with self._faults():
                    yield
            finally:
                with contextlib.suppress(Exception):
                    con.execute(f"DETACH {alias}")

    def version_stamp(self) -> tuple[int, ...] | None:
        """Times and sizes of the files: changes when the contents do. None when there is no store. Takes no lock."""
        try:
            main = self.path.stat()
        except OSError:
            return None
        stamp = (main.st_mtime_ns, main.st_size, main.st_ino)
        try:
            wal = self.wal_path.stat()
        except OSError:
            return stamp
        return (*stamp, wal.st_mtime_ns, wal.st_size)

    def owner(self) -> LockOwner | None:
        """Who keeps the store from being opened right now, found by trying; None when nobody does."""
        gate = _Gate.of(self.path)
        if gate.taken:
            return faults.describe_process(os.getpid())
        with gate.passing(self.path, time.monotonic() + self.timeout, self.timeout):
            try:
                reader = self._connect(read_only=True)
                ours = state(reader).ours
                reader.close()
                if ours:  # readers refuse only a writer, and a stranger's file is none of our business
                    self._connect(read_only=False).close()
            except Exception as error:
                return faults.lock_owner(str(error)) if faults.is_busy(error) else None
        return None

    # -- turns -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _turn(self) -> Iterator[float]:
        """This thread's turn in this process; gives the time (monotonic) at which waiting ends."""
        deadline = time.monotonic() + self.timeout
        with _Gate.of(self.path).passing(self.path, deadline, self.timeout):
            yield deadline

    @contextlib.contextmanager
    def _queue(self, deadline: float) -> Iterator[None]:
        """This process's turn among the writers. Makes the store's folder."""
        import filelock

        lock = filelock.FileLock(self.lock_path, timeout=max(0.0, deadline - time.monotonic()), poll_interval=0.01)
        try:
            if self.path.is_dir():
                raise IsADirectoryError(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            raise faults.busy(self.path, self._blocker(), self.timeout) from None
        except FileNotFoundError as error:  # the folder cannot be made, so "run an evaluation first" would not help
            raise faults.unusable(self.path, error) from error
        except OSError as error:
            raise faults.translate(error, self.path) or faults.unusable(self.path, error) from error
        try:
            yield
        finally:
            lock.release()

    def _blocker(self) -> LockOwner:
        """Who holds the store while the queue does not move, as far as trying to open it tells."""
        try:
            self._connect(read_only=True).close()
        except Exception as error:
            if faults.is_busy(error):
                return faults.lock_owner(str(error))
        return LockOwner(None, "another process that writes to it")

    # -- opening ---------------------------------------------------------------------------------------------------

    def _connect(self, *, read_only: bool, path: Path | None = None) -> DuckDBPyConnection:
        import duckdb

        return duckdb.connect(str(path or self.path), read_only=read_only, config=_config())

    def _patiently(self, action: Callable[[], T], deadline: float) -> T:
        """The result of `action`, tried until nobody else holds the store or the deadline has passed."""
        wait = _FIRST_WAIT
        while True:
            try:
                return action()
            except Exception as error:
                left = deadline - time.monotonic()
                if not faults.is_busy(error):
                    raise faults.translate(error, self.path) or error from error
                if left <= 0:
                    raise faults.busy(self.path, faults.lock_owner(str(error)), self.timeout) from error
                time.sleep(min(left, wait * random.uniform(0.5, 1.5)))
                wait = min(_LAST_WAIT, wait * 1.6)

    def _open_for_reading(self, deadline: float) -> DuckDBPyConnection:
        return self._open_current(
            deadline, lambda: self._connect(read_only=True), look=state, close=lambda con: con.close()
        )

    def _open_current(
        self, deadline: float, opened: Callable[[], T], *, look: Callable[[T], State], close: Callable[[T], object]
    ) -> T:
        """Open for reading by `opened`, having brought the store to this version's schema if it was not there."""
        handle = self._patiently(opened, deadline)
        try:
            with self._faults():
                found = look(handle)
        except BaseException:
            close(handle)
            raise
        if found.current:
            return handle
        close(handle)
        self._refuse_strangers(found)
        try:
            with self._queue(deadline):
                self._open_for_writing(deadline).close()
        except StoreReadOnly:
            # Views of another version of the software are readable; tables it would have to change are not.
            if found.pending:
                raise faults.denied_upgrade(self.path) from None
        return self._patiently(opened, deadline)

    def _open_for_writing(self, deadline: float) -> DuckDBPyConnection:
        """Open read-write at this version's schema, creating the store if need be. The caller holds the queue."""
        if not self.path.exists():
            self._create()
        con = self._patiently(lambda: self._connect(read_only=False), deadline)
        try:
            with self._faults():
                found = state(con)
                self._refuse_strangers(found)
                if not found.current:
                    migrate(con, where=str(self.path))
        except BaseException:
            con.close()
            raise
        return con

    def _refuse_strangers(self, found: State) -> None:
        if not found.ours:
            raise faults.foreign(self.path, "it is a DuckDB database with other contents")
        if found.unknown:
            raise too_new(str(self.path), found)

    def _create(self) -> None:
        """Make the store under another name and move it into place: there is a whole store at the path, or none."""
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}.new")
        leftovers = [draft, draft.with_name(draft.name + ".wal")]
        leftovers += self.path.parent.glob(f".{_escaped(self.path.name)}.*.new*")
        try:
            _remove(leftovers)
            con = self._connect(read_only=False, path=draft)
            try:
                migrate(con, where=str(self.path))
            finally:
                con.close()
            if self.wal_path.exists():
                # The log of a store that was moved away: DuckDB would discard it, and whoever misses it may want it.
                self.wal_path.rename(self.wal_path.with_name(f"{self.wal_path.name}.orphaned-{time.time_ns()}"))
            _move_unless_taken(draft, self.path)
        except Exception as error:
            raise faults.translate(error, self.path) or error from error
        finally:
            _remove(leftovers)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn what DuckDB reports about the file, while it is open, into the store's errors."""
        import duckdb

        try:
            yield
        except duckdb.Error as error:
            raise faults.translate(error, self.path) or error from error


class _Gate:
    """Lets one thread of this process at a time near one store: DuckDB cannot open a file twice in two modes."""

    _gates: dict[str, _Gate] = {}  # noqa: RUF012 - one registry for the process
    _registry = threading.Lock()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None

    @classmethod
    def of(cls, path: Path) -> _Gate:
        with cls._registry:
            return cls._gates.setdefault(str(path), cls())

    @property
    def taken(self) -> bool:
        return self._lock.locked()

    @contextlib.contextmanager
    def passing(self, path: Path, deadline: float, timeout: float) -> Iterator[None]:
        if self._holder == threading.get_ident():
            raise RuntimeError(f"{path} is already open in this thread: finish that block first")
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise faults.busy(path, faults.describe_process(os.getpid()), timeout)
        self._holder = threading.get_ident()
        try:
            yield
        finally:
            self._holder = None
            self._lock.release()


def _move_unless_taken(source: Path, target: Path) -> None:
    """Give `source` the name `target`, unless something has that name by now."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not target.exists():
            source.rename(target)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _escaped(name: str) -> str:
    import glob

    return glob.escape(name)
