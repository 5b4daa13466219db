"""Bring a DuckDB connection to the schema that this version expects.

Migrations are SQL files, applied once each in the order of their names, every one in a transaction together with its
record, so that a crash leaves a store which the next start continues.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from store.errors import StoreTooNew
from store.fetch import one
from store.reference import reference_sha256, refresh_reference, stored_reference, texts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True)
class Migration:
    """One schema change; `name` orders and identifies it."""

    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True)
class State:
    """What a store has been through, against what this version knows.

    `ours` is False for a database with contents that this software did not make.
    """

    ours: bool
    applied: tuple[str, ...]
    reference: str | None
    #: Migrations that have our name but were applied with another text, by another build of this software.
    altered: tuple[str, ...] = ()

    @property
    def pending(self) -> tuple[Migration, ...]:
        return tuple(m for m in migrations() if m.name not in self.applied)

    @property
    def unknown(self) -> tuple[str, ...]:
        known = {m.name for m in migrations()} - set(self.altered)
        return tuple(name for name in self.applied if name not in known)

    @property
    def current(self) -> bool:
        """Nothing to do: every migration applied, and views and published figures are this version's."""
        return self.ours and not self.pending and not self.unknown and self.reference == reference_sha256()


@cache
def migrations() -> tuple[Migration, ...]:
    """The migrations of this version, in the order of their names."""
    return tuple(Migration(name.removesuffix(".sql"), text) for name, text in texts("migrations", ".sql"))


@cache
def software_version() -> str:
    """Version of the installed distribution; `unknown` when it runs from a plain folder."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("nasrob-tui")
    except PackageNotFoundError:
        return "unknown"


def state(con: DuckDBPyConnection, *, database: str | None = None) -> State:
    """Read what the connected (or the attached) database has been through. Cheap: two small tables."""
    import duckdb

    prefix = f"{database}." if database else ""
    try:
        applied = con.execute(f"SELECT name, sha256 FROM {prefix}schema_migrations ORDER BY name").fetchall()
        reference = stored_reference(con, prefix)
    except (duckdb.CatalogException, duckdb.BinderException):
        return State(_is_empty(con, database), (), None)
    ours = {m.name: m.sha256 for m in migrations()}
    altered = tuple(name for name, sha256 in applied if ours.get(name, sha256) != sha256)
    return State(True, tuple(name for name, _ in applied), reference, altered)


def migrate(con: DuckDBPyConnection, *, where: str) -> State:
    """Apply what is pending and return the new state. `where` names the store in errors.

    Raises `StoreTooNew`, before any change, when the store has migrations that this version does not know.
    """
    found = state(con)
    if found.unknown:
        raise too_new(where, found)
    with _past_the_log(con):
        for migration in found.pending:
            with transaction(con):
                con.execute(migration.sql)
                con.execute(
                    "INSERT INTO schema_migrations VALUES (?, current_timestamp AT TIME ZONE 'UTC', ?, ?)",
                    [migration.name, software_version(), migration.sha256],
                )
        if found.reference != reference_sha256():
            with transaction(con):
                refresh_reference(con)
    return state(con)


def too_new(where: str, found: State) -> StoreTooNew:
    """The refusal for a store with migrations that this version does not know."""
    return StoreTooNew(
        f"the results store {where} was made or upgraded by another, newer version of nasrob-tui (migration "
        f"{', '.join(found.unknown)} is unknown to version {software_version()}): upgrade nasrob-tui, "
        "or choose another store with --store."
    )


@contextlib.contextmanager
def _past_the_log(con: DuckDBPyConnection) -> Iterator[None]:
    """Let every commit go into the file itself, which then holds all of it or nothing, and none into the log.

    DuckDB 1.5 cannot replay an ALTER TABLE or a COMMENT ON COLUMN on a table with certain CHECKs, so a store killed
    right after such a commit could not be opened again.
    """
    con.execute("SET wal_autocheckpoint = '0b'")
    try:
        yield
    finally:
        con.execute("RESET wal_autocheckpoint")


@contextlib.contextmanager
def transaction(con: DuckDBPyConnection) -> Iterator[None]:
    """Commit what happens inside; on any exception, an interrupt included, roll it back and pass the exception on."""
    con.execute("BEGIN")
    try:
        yield
        con.execute("COMMIT")
    except BaseException:
        # After a failed COMMIT there is nothing left to roll back.
        with contextlib.suppress(Exception):
            con.execute("ROLLBACK")
        raise


def _is_empty(con: DuckDBPyConnection, database: str | None) -> bool:
    row = one(
        con,
        """
        WITH here AS (SELECT coalesce(?, current_database()) AS name)
        SELECT (SELECT count(*) FROM duckdb_tables(), here WHERE NOT internal AND database_name = here.name)
            + (SELECT count(*) FROM duckdb_views(), here WHERE NOT internal AND database_name = here.name)
        """,
        [database],
    )
    return row is not None and row[0] == 0
