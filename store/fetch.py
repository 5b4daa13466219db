"""Small queries on a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def one(con: DuckDBPyConnection, sql: str, params: object = None) -> tuple[Any, ...] | None:
    """The first row, or None. Fetches all of them: DuckDB 2 refuses other work while a result is half read."""
    rows = con.execute(sql, params).fetchall()
    return rows[0] if rows else None
