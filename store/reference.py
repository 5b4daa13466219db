"""What every store holds besides results: views, macros, and figures published elsewhere.

They are not history but a copy of what this version ships, so they are replaced as a whole whenever they differ.
Views and macros are SQL files; published figures are CSV files in the form in which they were printed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from store.fetch import one

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: Property that says which views, macros and published figures the store holds.
_REFERENCE = "reference_sha256"
#: Property that lists the views and macros this software created, so that retired ones can be removed.
_OBJECTS = "reference_objects"


@cache
def reference_sha256() -> str:
    """Identity of this version's views, macros and published figures, and of the tables they were made for."""
    everything = texts("migrations", ".sql") + texts("views", ".sql") + texts("published", ".csv")
    return hashlib.sha256(repr(everything).encode()).hexdigest()


@cache
def view_sql(*, comments: bool = True) -> str:
    """The statements that create every view and macro, in dependency order, with or without those that comment them."""
    text = "\n".join(text for _, text in texts("views", ".sql"))
    return text if comments else without_comments(text)


def without_comments(sql: str) -> str:
    """Statements of ours without those that comment what they make, which take most of the time; each is a line."""
    return "\n".join(line for line in sql.splitlines() if not line.startswith("COMMENT ON "))


def stored_reference(con: DuckDBPyConnection, prefix: str = "") -> str | None:
    """Identity of the views, macros and published figures that the store holds; `prefix` names an attached one."""
    row = one(con, f"SELECT value FROM {prefix}store_properties WHERE name = ?", [_REFERENCE])
    return row[0] if row else None


def refresh_reference(con: DuckDBPyConnection) -> None:
    """Replace views, macros and published figures by this version's. The caller holds the transaction."""
    before = one(con, "SELECT value FROM store_properties WHERE name = ?", [_OBJECTS])
    for item in before[0].split("\n") if before and before[0] else ():
        con.execute(f"DROP {item}")
    theirs = set(_objects(con))
    con.execute(view_sql())
    ours = [item for item in _objects(con) if item not in theirs]
    for name, value in ((_OBJECTS, "\n".join(ours)), (_REFERENCE, reference_sha256())):
        con.execute("INSERT OR REPLACE INTO store_properties VALUES (?, ?)", [name, value])
    load_published(con)


def texts(folder: str, suffix: str) -> list[tuple[str, str]]:
    """Names and contents of the packaged files of a folder, in the order of their names."""
    files = [f for f in (resources.files("store") / folder).iterdir() if f.name.endswith(suffix)]
    return [(f.name, f.read_text(encoding="utf-8")) for f in sorted(files, key=lambda f: f.name)]


def _objects(con: DuckDBPyConnection) -> list[str]:
    """The views and macros of the connected database, as what a DROP statement names."""
    rows = con.execute(
        """
        SELECT 'VIEW IF EXISTS "' || view_name || '"' FROM duckdb_views()
        WHERE NOT internal AND database_name = current_database()
        UNION ALL
        SELECT DISTINCT if(function_type = 'macro', 'MACRO', 'MACRO TABLE') || ' IF EXISTS "' || function_name || '"'
        FROM duckdb_functions() WHERE NOT internal AND database_name = current_database()
        """
    ).fetchall()
    return sorted(text for (text,) in rows)


def load_published(con: DuckDBPyConnection) -> None:
    """Replace the published figures by this version's."""
    publications = _read_csv("publications.csv")
    lineages = {row["architecture"]: row["lineage"] for row in _read_csv("lineages.csv")}
    results: list[dict[str, str | None]] = []
    for publication in publications:
        rows_of_table: dict[str | None, int] = {}
        for row in _read_csv(f"{publication['publication_id']}.csv"):
            number = rows_of_table[row["table"]] = rows_of_table.get(row["table"], 0) + 1
            results.extend(_printed(publication, row, number, lineages[row["architecture"]]))
    con.execute("DELETE FROM family_baselines")
    _insert(con, "family_baselines", _read_csv("family_baselines.csv"))
    con.execute(
        "DELETE FROM published_results WHERE publication_id IN (SELECT unnest(?))",
        [[p["publication_id"] for p in publications]],
    )
    _insert(con, "published_results", results)
    columns = ("publication_id", "citation", "url", "threat_space", "notes")
    for publication in publications:
        con.execute("INSERT OR REPLACE INTO publications VALUES (?, ?, ?, ?, ?)", [publication[c] for c in columns])


def _printed(
    publication: dict[str, str | None], row: dict[str, str | None], number: int, lineage: str | None
) -> list[dict[str, str | None]]:
    """One row of the study's tables as one row a printed robust accuracy; values stay the text that was printed."""
    common = {
        "publication_id": publication["publication_id"],
        "table_label": row["table"],
        "row_number": str(number),
        "dataset": row["dataset"],
        "architecture": row["architecture"],
        "family": row["family"],
        "lineage": lineage,
        "params_m": row["params_m"],
        "params_m_std": row["params_m_std"],
        "top_k": row["top_k"],
        "norm": publication["norm"],
        "eps_text": publication["eps_text"],
        "eps": _decimal(publication["eps_text"]),
        "clean_accuracy": row["clean"],
        "clean_std": row["clean_std"],
        "runs": row["runs"],
    }
    pgd_only = {
        "steps": publication["pgd_steps"],
        "step_size": _decimal(publication["pgd_step_size_text"]),
        "robust_std": row["pgd_std"],
        "hrs_printed": row["hrs"],
        "pp_hrs_printed": row["pp_hrs"],
    }
    columns = {"fgsm": "fgsm", "f-fgsm": "f_fgsm", "pgd": "pgd"}
    return [
        common | {"attack": attack, "robust_accuracy": row[column]} | (pgd_only if attack == "pgd" else {})
        for attack, column in columns.items()
        if row[column] is not None
    ]


def _decimal(fraction: str | None) -> str | None:
    """`8/255` as the nearest number, in text that reads back to it."""
    if fraction is None:
        return None
    numerator, _, denominator = fraction.partition("/")
    return repr(float(numerator) / float(denominator or 1))


def _insert(con: DuckDBPyConnection, table: str, rows: list[dict[str, str | None]]) -> None:
    """Insert rows of text (None for empty) in one statement; DuckDB casts to the types of the columns."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    # By JSON: to hand over an Arrow table would load Arrow, which takes longer than all else here.
    fields = ", ".join(f"'$.{name}'" for name in names)
    con.execute(
        f"""
        INSERT INTO {table} ({", ".join(names)})
        SELECT {", ".join(f"cells[{i}]" for i in range(1, len(names) + 1))}
        FROM (SELECT json_extract_string(unnest(?::JSON[]), [{fields}]) AS cells)
        """,
        [[json.dumps(row) for row in rows]],
    )


def _read_csv(name: str) -> list[dict[str, str | None]]:
    text = (resources.files("store") / "published" / name).read_text(encoding="utf-8")
    return [{key: value or None for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]
