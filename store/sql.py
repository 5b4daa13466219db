"""A person's SQL on the store: one statement that reads, in a sandbox.

The query runs on the file, opened read-only and cut off from everything else, for as long as writers may be kept
waiting. One that needs longer is stopped and starts again on a copy, in memory, of the tables it names. So nothing that
it could do reaches another file, the network or the store itself, and a query of minutes does not hold the store.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from store.connection import memory
from store.errors import QueryError

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

    from store.connection import Store

#: What a statement that reads may begin with.
_READING = {
    "select",
    "with",
    "from",
    "values",
    "table",
    "describe",
    "desc",
    "summarize",
    "show",
    "explain",
    "pivot",
    "unpivot",
}

#: Functions that can name tables by computed text, or that tell the size of tables: everything is copied for them.
_NAME_ANYTHING = {"query", "query_table", "json_execute_serialized_sql", "duckdb_tables", "pragma_storage_info"}

#: Parts of the names of functions that open files.
_OPENS_FILES = ("read", "scan", "glob", "sniff", "parquet")

#: How long a query may keep writers waiting, in seconds, before it goes on with a copy.
_HOLD = 0.4

#: Rows of one Arrow batch while reading a result.
_BATCH = 10_000

#: The name under which a query sees the store.
_NAME = "store"


@dataclass(frozen=True)
class QueryResult:
    """Rows of a query. `truncated` says that there were more than `max_rows`; how many more is not known.

    `seconds` is the time it all took, the copy out of the store included.
    """

    table: pa.Table
    truncated: bool
    seconds: float


def run_query(store: Store, sql: str, *, max_rows: int | None = 1000, timeout: float = 30.0) -> QueryResult:
    """Run one reading statement and return at most `max_rows` rows (None: all of them).

    Raises `QueryError` for a mistake in the SQL, a statement that does more than read, or a query that runs longer than
    `timeout` seconds; and the errors of the store.
    """
    started = time.perf_counter()
    with memory() as con:
        _require_reading(con, sql)
        result = None
        if _may_see_the_file(store, sql):
            result = _on_the_file(store, con, sql, max_rows, min(timeout, _HOLD))
    if result is None:
        result = _on_a_copy(store, sql, max_rows, timeout)
    if result is None:
        raise QueryError(
            f"the query ran longer than {timeout:g} s and was stopped: read fewer rows, or give it more time."
        )
    table, truncated = result
    return QueryResult(table, truncated, time.perf_counter() - started)


class _TooLong(Exception):
    """The time for a query is over."""


def _may_see_the_file(store: Store, sql: str) -> bool:
    """Whether the statement surely does not open the store's file by a function of its own.

    DuckDB lets a query read the files of attached databases as plain files even in a sandbox, and closing such a handle
    drops the lock on the store. The copy has no file. A statement that only looks suspicious merely takes longer.
    """
    words = _words(sql)
    suspicious = words & _NAME_ANYTHING or any(part in word for word in words for part in _OPENS_FILES)
    return not suspicious and store.path.name.lower() not in sql.lower()


def _on_the_file(
    store: Store, con: DuckDBPyConnection, sql: str, max_rows: int | None, timeout: float
) -> tuple[pa.Table, bool] | None:
    with store.attached(con, _NAME):
        try:
            return _run(con, sql, max_rows, timeout)
        finally:
            con.close()  # here, and not after the block: nobody else may open the file while this has it


def _on_a_copy(store: Store, sql: str, max_rows: int | None, timeout: float) -> tuple[pa.Table, bool] | None:
    with memory() as con:
        con.execute(f"ATTACH ':memory:' AS {_NAME}")
        _copy_needed_tables(store, con, sql)
        return _run(con, sql, max_rows, timeout)


def _run(con: DuckDBPyConnection, sql: str, max_rows: int | None, timeout: float) -> tuple[pa.Table, bool] | None:
    """Cut the connection off from everything but the attached store, and run the query there. None: no time left."""
    con.execute(f"USE {_NAME}")
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")
    try:
        with _limited(con, timeout):
            con.execute("BEGIN TRANSACTION READ ONLY")
            # In a thread of its own: DuckDB does not always look for ctrl-C while a statement runs, Python does.
            with ThreadPoolExecutor(1) as aside:
                fetched = aside.submit(_fetch, con, sql, max_rows)
                try:
                    return fetched.result()
                except KeyboardInterrupt as pressed:
                    while not fetched.done():  # an interrupt between two fetches is forgotten
                        con.interrupt()
                        wait([fetched], 0.05)
                    raise RuntimeError("Query interrupted") from pressed  # as DuckDB says it, where it looks
    except _TooLong:
        return None


def _require_reading(con: DuckDBPyConnection, sql: str) -> None:
    """Refuse anything but one statement that reads."""
    import duckdb

    try:
        statements = con.extract_statements(sql)
    except duckdb.Error as error:
        raise _mistake(error) from error
    # DuckDB 1.5 makes two statements of one PIVOT: a type without text of its own, and the query.
    written = [s for s in statements if s.query or s is statements[-1]]
    if not written:
        raise QueryError('there is no SQL statement: give one, such as "SELECT * FROM tradeoff".')
    if len(written) > 1:
        raise QueryError(f"there are {len(written)} SQL statements: give one at a time.")
    kind = written[0].type.name
    word = _first_word(sql)
    if kind not in ("SELECT", "EXPLAIN", "MULTI") or word not in _READING:
        raise QueryError(f"{word.upper() or kind} is not available here: only reading is, such as SELECT or DESCRIBE.")


def _first_word(sql: str) -> str:
    bare = re.sub(r"--[^\n]*|/\*.*?\*/", " ", sql, flags=re.DOTALL).lstrip(" \t\r\n(;")
    found = re.match(r"\w+", bare)
    return found[0].lower() if found else ""


def _copy_needed_tables(store: Store, con: DuckDBPyConnection, sql: str) -> None:
    """Copy the whole schema, and the rows of those tables that the statement can name."""
    with store.attached(con, "disk"):
        con.execute(f"COPY FROM DATABASE disk TO {_NAME} (SCHEMA)")
        tables = con.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = 'disk' AND NOT internal"
        ).fetchall()
        mentioned = _mentioned(con, sql)
        for schema, table in tables:
            if table.lower() in mentioned or mentioned & _NAME_ANYTHING:
                # Without its constraints, which were checked when the rows came in and would cost half the time.
                name = f'"{schema}"."{table}"'
                con.execute(f"CREATE OR REPLACE TABLE {_NAME}.{name} AS FROM disk.{name}")


def _mentioned(con: DuckDBPyConnection, sql: str) -> set[str]:
    """Every word of the statement, and of the views and macros that it can use: whatever it reads is among them."""
    definitions = dict(
        con.execute(
            """
            SELECT lower(view_name), sql FROM duckdb_views() WHERE database_name = 'disk' AND NOT internal
            UNION ALL
            SELECT lower(function_name), string_agg(macro_definition, ' ') FROM duckdb_functions()
            WHERE database_name = 'disk' AND NOT internal GROUP BY ALL
            """
        ).fetchall()
    )
    words = _words(sql)
    fresh = words
    while fresh:
        fresh = set().union(*(_words(definitions[word]) for word in fresh if word in definitions)) - words
        words = words | fresh
    return words


def _words(text: str) -> set[str]:
    # Quoted names may hold any character, so they count as a whole too.
    quoted = re.findall(r'"([^"]*)"', text)
    return {word.lower() for word in [*re.findall(r"\w+", text), *quoted]}


def _fetch(con: DuckDBPyConnection, sql: str, max_rows: int | None) -> tuple[pa.Table, bool]:
    import pyarrow as pa

    reader = con.sql(sql).to_arrow_reader(_BATCH)
    batches, rows = [], 0
    for batch in reader:
        batches.append(batch)
        rows += len(batch)
        if max_rows is not None and rows > max_rows:
            break
    table = pa.Table.from_batches(batches, schema=reader.schema)
    if max_rows is None or rows <= max_rows:
        return table, False
    return table.slice(0, max_rows), True


@contextlib.contextmanager
def _limited(con: DuckDBPyConnection, timeout: float) -> Iterator[None]:
    """Interrupt what runs inside after `timeout` seconds (`_TooLong`), and turn DuckDB's errors into `QueryError`."""
    import duckdb
    import pyarrow as pa

    over, late = threading.Event(), threading.Event()

    def watch() -> None:
        if over.wait(timeout):
            return
        late.set()
        # An interrupt between two fetches is forgotten, so it is repeated until somebody listens.
        while not over.wait(0.05):
            con.interrupt()

    watcher = threading.Thread(target=watch, name="query-time-limit")
    watcher.start()
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:  # what fails while rows stream comes through Arrow
        if late.is_set():
            raise _TooLong from error
        if "INTERRUPT Error" in str(error):
            raise KeyboardInterrupt from error
        raise _query_error(error) from error
    finally:
        over.set()
        watcher.join()


def _query_error(error: Exception) -> QueryError:
    import duckdb

    text = str(error)
    if isinstance(error, duckdb.PermissionException) or "disabled by configuration" in text:
        return QueryError(
            "the query reaches outside the results store, which is not available here: "
            "only its tables, views and macros are (nasrob-tui schema lists them)."
        )
    if "read-only mode" in text:
        return QueryError("the statement writes, which is not available here: only reading is.")
    if isinstance(error, duckdb.OutOfMemoryException):
        return QueryError("the query needs more memory than there is: read fewer rows or columns.")
    return _mistake(error)


def _mistake(error: Exception) -> QueryError:
    """DuckDB's message on one line, without the listing of the source line and of candidate functions."""
    text = " ".join(str(error).split("\n\nLINE")[0].split("\n\tCandidate")[0].split())
    stop = "" if text.endswith((".", "!", "?")) else "."
    return QueryError(f"{text}{stop} Check the SQL; `nasrob-tui schema` lists tables and columns.")
