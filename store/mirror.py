"""A copy of the store in memory, for screens that sort, filter and plot: queries on it never wait for a writer.

The file is held only while the copy is made. Each copy is a new database that takes the place of the old one, so a
query sees one state of the store from its beginning to its end. While the store keeps changing, `tradeoff` is a view of
the copy; once it rests, the next `refresh` makes it a table, and queries on it become several times faster.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from store.connection import memory
from store.errors import StoreBusy
from store.migrate import transaction
from store.reference import view_sql

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

    from store.connection import Store

#: What a mirror holds, besides every view and macro.
TABLES = (
    "architectures",
    "datasets",
    "models",
    "ensemble_members",
    "attacks",
    "evaluations",
    "publications",
    "published_results",
    "family_baselines",
)

#: What is empty in a mirror, for there may be millions of rows: no view reads it, and macros that do (`paired`,
#: `ensemble_summary`, ...) are to be asked of the store.
LEFT_OUT = ("outcomes", "subsets", "gradient_cosines")

#: The number of rows of `tradeoff`, without its joins.
_COUNT = "SELECT (SELECT count(*) FROM evaluations WHERE NOT staging) + (SELECT count(*) FROM published_results)"

#: A file changed this recently may change again without a new time stamp, in nanoseconds.
_UNSETTLED = 50_000_000


class _Copy:
    """One state of the store in memory."""

    def __init__(self, con: DuckDBPyConnection, count: int) -> None:
        self.con = con
        self.count = count
        self.materialised = False
        self.users = 0


class Mirror:
    """The store's tables but those of `LEFT_OUT`, its views and its macros in memory.

    Starts empty: call `refresh` first, and then whenever the store may have changed. All methods may be called from any
    thread.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        #: Why the last refresh kept the old data: another process holds the store. None when it did not.
        self.busy: StoreBusy | None = None
        self._now: _Copy | None = None
        self._stamp: tuple[int, ...] | None = None
        self._swapping = threading.Lock()
        self._refreshing = threading.Lock()

    @property
    def count(self) -> int:
        """Number of rows of `tradeoff` in the mirror, published ones included."""
        copy = self._now
        return copy.count if copy else 0

    @property
    def stale(self) -> bool:
        """Whether the store changed since the last refresh. Costs microseconds."""
        return self._stamp is None or self.store.version_stamp() != self._stamp

    def refresh(self) -> bool:
        """Copy again if the store changed, creating it if there is none; True when the data are new.

        When another process holds the store beyond its timeout, the old data stay and `busy` says who; without old data
        the `StoreBusy` is raised. Other errors of the store are raised.
        """
        with self._refreshing:
            if not self.stale:
                self.busy = None
                self._materialise()
                return False
            try:
                if self.store.version_stamp() is None:
                    self.store.ensure()
                stamp, con = self._copy()
            except StoreBusy as error:
                if self._now is None:
                    raise
                self.busy = error
                return False
            self.busy = None
            self._replace(_Copy(con, con.execute(_COUNT).fetchall()[0][0]), stamp)
            return True

    def query(self, sql: str, params: object = None) -> pa.Table:
        """The result of a query of this software on the mirror. Raises `RuntimeError` before the first `refresh`."""
        with self._using() as cursor:
            return cursor.sql(sql, params=params).to_arrow_table()

    def close(self) -> None:
        """Free the memory, once running queries have ended. A later `refresh` fills it again."""
        with self._refreshing:
            self._replace(None, None)

    @contextlib.contextmanager
    def _using(self) -> Iterator[DuckDBPyConnection]:
        """A cursor on the present copy, which stays open until the block ends even if it is replaced meanwhile."""
        with self._swapping:
            copy = self._now
            if copy is None:
                raise RuntimeError("the mirror is empty: call refresh() first")
            copy.users += 1
        try:
            with copy.con.cursor() as cursor:
                yield cursor
        finally:
            with self._swapping:
                copy.users -= 1
                self._close_if_done(copy)

    def _replace(self, copy: _Copy | None, stamp: tuple[int, ...] | None) -> None:
        with self._swapping:
            before, self._now, self._stamp = self._now, copy, stamp
            if before is not None:
                self._close_if_done(before)

    def _close_if_done(self, copy: _Copy) -> None:
        """Closing a connection closes its cursors too, so the last user of a replaced copy does it."""
        if copy is not self._now and not copy.users:
            copy.con.close()

    def _copy(self) -> tuple[tuple[int, ...] | None, DuckDBPyConnection]:
        """A new in-memory database, and the stamp of the state of the store that it holds."""
        con = memory()
        try:
            with self.store.attached(con, "disk"):
                # Under the lock: what the stamp names is what is copied.
                stamp = self.store.version_stamp()
                for table in TABLES:
                    con.execute(f"CREATE TABLE {table} AS FROM disk.{table}")
                for table in LEFT_OUT:  # the macros over them need the tables to exist
                    con.execute(f"CREATE TABLE {table} AS FROM disk.{table} LIMIT 0")
            con.execute(view_sql(comments=False))
        except BaseException:
            con.close()
            raise
        if stamp is not None and time.time_ns() - max((stamp[0], *stamp[3:4])) < _UNSETTLED:
            stamp = None
        return stamp, con

    def _materialise(self) -> None:
        """Make `tradeoff` a table, unless it is one."""
        copy = self._now
        if copy is None or copy.materialised:
            return
        with self._using() as cursor:
            materialise(cursor)
        copy.materialised = True


def materialise(con: DuckDBPyConnection) -> None:
    """Make `tradeoff` a table of a database that does not change any more; nobody sees it without."""
    con.execute("CREATE TABLE materialised AS FROM tradeoff")
    with transaction(con):
        con.execute("DROP VIEW tradeoff")
        con.execute("ALTER TABLE materialised RENAME TO tradeoff")
