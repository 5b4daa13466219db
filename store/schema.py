"""What tables, views and macros the store has, read from the comments in its own catalogue. Needs no store file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from store.connection import memory
from store.migrate import migrate


@dataclass(frozen=True)
class Column:
    """A column of a table or view; `type` is DuckDB's name for it."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True)
class SchemaObject:
    """One table, view or macro. `table macro` is called in FROM. Tables and views have columns, macros parameters."""

    kind: Literal["table", "view", "macro", "table macro"]
    name: str
    comment: str
    columns: tuple[Column, ...] = ()
    parameters: tuple[str, ...] = ()


def describe() -> list[SchemaObject]:
    """The schema of this version: tables, then views, then macros, by name; columns in their order."""
    con = memory()
    try:
        migrate(con, where="in memory")
        columns: dict[str, list[Column]] = {}
        for table, name, kind, comment in con.execute(
            "SELECT table_name, column_name, data_type, coalesce(comment, '') FROM duckdb_columns() "
            "WHERE NOT internal ORDER BY table_name, column_index"
        ).fetchall():
            columns.setdefault(table, []).append(Column(name, kind, comment))
        relations = con.execute(
            """
            SELECT 'table', table_name, coalesce(comment, '') FROM duckdb_tables() WHERE NOT internal
            UNION ALL SELECT 'view', view_name, coalesce(comment, '') FROM duckdb_views() WHERE NOT internal
            ORDER BY ALL
            """
        ).fetchall()
        macros = con.execute(
            """
            SELECT if(function_type = 'macro', 'macro', 'table macro'), function_name, coalesce(comment, ''), parameters
            FROM duckdb_functions() WHERE NOT internal ORDER BY ALL
            """
        ).fetchall()
    finally:
        con.close()
    return [
        *(SchemaObject(kind, name, comment, columns=tuple(columns[name])) for kind, name, comment in relations),
        *(SchemaObject(kind, name, comment, parameters=tuple(names)) for kind, name, comment, names in macros),
    ]
