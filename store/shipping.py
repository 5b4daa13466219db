"""Results that come with the package: written once by `export_results`, taken into a person's store by `provide`.

A folder of shipped results holds a Parquet file a table, and a manifest with their hashes. Only complete evaluations
are in it, and nothing of the machine that measured them: no host, no job, no path. What a store has already is never
changed, and a folder is taken in once, so that what a person deletes stays deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.connection import memory
from store.errors import ShippedDamaged, StoreError, StoreNotFound
from store.fetch import one
from store.migrate import migrations
from store.mirror import LEFT_OUT, materialise
from store.reference import load_published, view_sql, without_comments

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from store.connection import Store

#: Where the results of this version lie.
FOLDER = Path(__file__).with_name("shipped")

#: `off` leaves shipped results out.
VARIABLE = "NASROB_SHIPPED"

#: What the weights of shipped models begin with, in place of a folder.
SCHEME = "shipped:"

_MANIFEST = "manifest.json"

#: Beginning of the property that says that a folder was taken in; its manifest's hash follows.
_PROPERTY = "shipped:"

#: The tables of a folder, in the order in which they are taken in, each with what identifies and orders its rows.
_TABLES = {
    "architectures": ("architecture_id",),
    "datasets": ("dataset_id",),
    "models": ("model_sha256", "architecture_id"),
    "ensemble_members": ("model_sha256", "architecture_id", "position"),
    "attacks": ("attack_id",),
    "subsets": ("subset_digest",),
    "evaluations": ("evaluation_id",),
    "outcomes": ("evaluation_id", "example"),
    "gradient_cosines": (
        "dataset_id",
        "model_sha256_a",
        "architecture_id_a",
        "model_sha256_b",
        "architecture_id_b",
        "example",
    ),
}

#: What tells whether rows are there already. The members of an ensemble are one thing: those that are there stay.
_ONCE = {table: tuple(key for key in keys if key != "position") for table, keys in _TABLES.items()}

#: Which rows of the attached store `disk` go along with the chosen evaluations, which are in `evaluations`. Of models
#: those that were attacked, that ensembles are made of, and that attacks were crafted on.
_CHOSEN = {
    "attacks": "FROM disk.attacks SEMI JOIN evaluations USING (attack_id)",
    "datasets": "FROM disk.datasets SEMI JOIN evaluations USING (dataset_id)",
    "subsets": "FROM disk.subsets SEMI JOIN evaluations USING (subset_digest)",
    "outcomes": "FROM disk.outcomes SEMI JOIN evaluations USING (evaluation_id)",
    "models": """
        WITH RECURSIVE wanted AS (
            SELECT model_sha256, architecture_id FROM evaluations
            UNION
            SELECT json_extract_string(config, '$.surrogate.sha256'),
                json_extract_string(config, '$.surrogate.architecture')
            FROM attacks
            UNION
            SELECT m.member_sha256, m.member_architecture_id
            FROM disk.ensemble_members AS m JOIN wanted USING (model_sha256, architecture_id)
        )
        SELECT * FROM disk.models SEMI JOIN wanted USING (model_sha256, architecture_id)
    """,
    "ensemble_members": "FROM disk.ensemble_members SEMI JOIN models USING (model_sha256, architecture_id)",
    "architectures": """
        SELECT * FROM disk.architectures WHERE architecture_id IN (
            SELECT architecture_id FROM evaluations
            UNION SELECT architecture_id FROM models
            UNION SELECT member_architecture_id FROM ensemble_members
        )
    """,
    "gradient_cosines": """
        SELECT g.* FROM disk.gradient_cosines AS g
        SEMI JOIN datasets USING (dataset_id)
        SEMI JOIN models AS a ON a.model_sha256 = g.model_sha256_a AND a.architecture_id = g.architecture_id_a
        SEMI JOIN models AS b ON b.model_sha256 = g.model_sha256_b AND b.architecture_id = g.architecture_id_b
    """,
}


def provide_shipped(store: Store) -> int:
    """Take in the results of this version, unless `NASROB_SHIPPED=off`; see `provide`."""
    return provide(store, FOLDER) if wanted() else 0


def wanted() -> bool:
    """Whether what comes with the package, weights and results, is to be seen: `NASROB_SHIPPED=off` hides it."""
    return os.environ.get(VARIABLE, "").strip().lower() not in ("off", "0", "no", "false")


def provide(store: Store, folder: Path) -> int:
    """Take the results of `folder` into the store, once, and return how many evaluations are new.

    Makes the store if there is none. An evaluation that the store has, complete or not, stays as it is, and so does
    every other row. All or nothing, in one transaction. Columns that the folder does not have yet stay empty. A folder
    with no results is none: 0. Raises `ShippedDamaged`, with the store untouched, for a file that is missing or is not
    what was written, and the errors of the store.
    """
    manifest = _read(folder, _MANIFEST, missing_ok=True)
    if manifest is None:
        if any(folder.glob("*.parquet")):
            raise _damaged(folder, f"{_MANIFEST} is missing")
        return 0
    name = _PROPERTY + hashlib.sha256(manifest).hexdigest()
    try:
        with store.read() as con:
            if _is_noted(con, name):
                return 0
    except StoreNotFound:
        pass
    tables = _checked(folder, manifest)
    with store.write() as con:
        if _is_noted(con, name):  # another process was here meanwhile
            return 0
        return _take_in(con, folder, tables, name)


def preview(folder: Path | None = None) -> DuckDBPyConnection:
    """What a new store will hold, in memory and without the tables that a mirror leaves out: published figures, and the
    results of `folder` where they are whole. A tenth of a second, where making the store takes most of one.
    """
    con = memory()
    for migration in migrations():
        con.execute(without_comments(migration.sql))
    con.execute(view_sql(comments=False))
    load_published(con)
    manifest = _read(folder, _MANIFEST, missing_ok=True) if folder else None
    if folder is not None and manifest is not None:
        try:
            _take_in(con, folder, _checked(folder, manifest, without=LEFT_OUT), _PROPERTY)
        except ShippedDamaged:  # whoever takes them into the store says so
            con.close()
            return preview()
    materialise(con)
    return con


def export_results(store: Store, folder: Path, evaluation_ids: Sequence[str] | None = None) -> int:
    """Write results of the store to `folder`, made if need be, for `provide`, and return how many evaluations.

    Every complete evaluation, or those of `evaluation_ids`; what they are about goes along, with their outcomes. The
    same results give the same bytes (with the same DuckDB). Raises `StoreError` for an identity that is unknown or not
    complete, and for a folder that cannot be written; and the errors of the store.
    """
    import duckdb

    with memory() as con:
        with store.attached(con, "disk"):
            _choose(con, evaluation_ids)
            for table, rows in _CHOSEN.items():
                con.execute(f"CREATE TABLE {table} AS {rows}")
        _anonymise(con)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files = {table: _write(con, table, folder) for table in _TABLES}
            applied = [row[0] for row in con.execute("SELECT name FROM schema_migrations ORDER BY name").fetchall()]
            text = json.dumps({"schema": applied, "tables": files}, indent=1) + "\n"
            _put(folder / _MANIFEST, text.encode())
        except (OSError, duckdb.IOException) as error:
            why = str(error).split("\n")[0]
            raise StoreError(f"cannot write results to {folder} ({why}): give a folder that can be written.") from error
        return int(files["evaluations"]["rows"])


# -- taking in -----------------------------------------------------------------------------------------------------


def _is_noted(con: DuckDBPyConnection, name: str) -> bool:
    return one(con, "SELECT 1 FROM store_properties WHERE name = ?", [name]) is not None


def _checked(folder: Path, manifest: bytes, *, without: Sequence[str] = ()) -> dict[str, set[str]]:
    """The tables of the folder that this version knows, with their columns; every byte is what was written."""
    import duckdb

    try:
        listed = {str(table): str(entry["sha256"]) for table, entry in json.loads(manifest)["tables"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"{_MANIFEST} cannot be read") from error
    tables: dict[str, set[str]] = {}
    with memory() as con:
        for table in (t for t in _TABLES if t in listed and t not in without):
            content = _read(folder, f"{table}.parquet")
            assert content is not None
            if hashlib.sha256(content).hexdigest() != listed[table]:
                raise _damaged(folder, f"{table}.parquet is not as it was written")
            try:
                columns = con.execute("DESCRIBE FROM read_parquet(?)", [str(folder / f"{table}.parquet")]).fetchall()
            except duckdb.Error as error:
                raise _damaged(folder, f"{table}.parquet cannot be read") from error
            tables[table] = {row[0] for row in columns}
    return tables


def _take_in(con: DuckDBPyConnection, folder: Path, tables: dict[str, set[str]], name: str) -> int:
    """Insert what is new, and note that it was done. The caller holds the transaction."""
    import duckdb

    files = {table: str(folder / f"{table}.parquet") for table in tables}
    new: list[str] = []
    known = False
    try:
        if "evaluations" in files:
            given = "SELECT evaluation_id, EXISTS (FROM evaluations WHERE evaluation_id = e.evaluation_id) FROM"
            found = con.execute(f"{given} read_parquet(?) AS e", [files["evaluations"]]).fetchall()
            new = [evaluation_id for evaluation_id, there in found if not there]
            known = len(new) < len(found)
        for table in tables:
            columns = [row[0] for row in con.execute(f"DESCRIBE {table}").fetchall() if row[0] in tables[table]]
            source = f"INSERT INTO {table} BY NAME SELECT {', '.join(map(_quoted, columns))} FROM read_parquet($file)"
            if table not in ("evaluations", "outcomes"):
                _complete(con, table, files[table], columns)
                con.execute(f"{source} ANTI JOIN {table} USING ({', '.join(_ONCE[table])})", {"file": files[table]})
            elif known:
                only = {"file": files[table], "new": new}
                con.execute(f"{source} WHERE evaluation_id IN (SELECT unnest($new::TEXT[]))", only)
            else:  # on a new store, where it counts: half the time
                con.execute(source, {"file": files[table]})
    except duckdb.Error as error:
        # Those that are about the store, the machine or an impatient person are not the folder's fault.
        ours = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.InternalException, duckdb.InterruptException)
        if isinstance(error, ours):
            raise
        raise _damaged(folder, " ".join(str(error).split("\n")[0].split())) from error
    con.execute("INSERT INTO store_properties VALUES (?, ?)", [name, str(len(new))])
    return len(new)


def _complete(con: DuckDBPyConnection, table: str, file: str, columns: list[str]) -> None:
    """Say how members are combined of a model that the store knows from before it could."""
    if table == "models" and "combine" in columns:
        con.execute(
            """
            UPDATE models SET combine = given.combine FROM read_parquet(?) AS given
            WHERE models.model_sha256 = given.model_sha256 AND models.architecture_id = given.architecture_id
                AND models.combine IS NULL AND given.combine IS NOT NULL
            """,
            [file],
        )


def _quoted(name: str) -> str:
    return f'"{name}"'


def _read(folder: Path, name: str, *, missing_ok: bool = False) -> bytes | None:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError as error:
        if missing_ok:
            return None
        raise _damaged(folder, f"{name} is missing") from error
    except OSError as error:
        raise _damaged(folder, f"{name} cannot be read: {error.strerror or error}") from error


def _damaged(folder: Path, why: str) -> ShippedDamaged:
    return ShippedDamaged(
        f"the shipped results in {folder} are damaged ({why}) and were not taken in: install nasrob-tui again, "
        f"or set {VARIABLE}=off to go on without them."
    )


# -- writing out ---------------------------------------------------------------------------------------------------


def _choose(con: DuckDBPyConnection, evaluation_ids: Sequence[str] | None) -> None:
    """Make `evaluations` of the connection: those of the store `disk` that are asked for, and its migrations."""
    con.execute("CREATE TABLE schema_migrations AS FROM disk.schema_migrations")
    con.execute("CREATE TABLE evaluations AS FROM disk.evaluations WHERE status = 'complete' AND NOT staging")
    if evaluation_ids is None:
        return
    asked = list(dict.fromkeys(evaluation_ids))
    unknown = con.execute(
        "SELECT id FROM (SELECT unnest(?::TEXT[]) AS id) WHERE id NOT IN (SELECT evaluation_id FROM evaluations)",
        [asked],
    ).fetchall()
    if unknown:
        names = ", ".join(repr(row[0]) for row in unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        raise StoreError(f"cannot export {names}: the store has no complete evaluation of that identity.")
    con.execute("DELETE FROM evaluations WHERE evaluation_id NOT IN (SELECT unnest(?::TEXT[]))", [asked])


def _anonymise(con: DuckDBPyConnection) -> None:
    """Take out what is of one machine only, and say of models that they are shipped."""
    con.execute("UPDATE evaluations SET hostname = NULL, job_id = NULL")
    models = con.execute("SELECT model_sha256, architecture_id, trained_on, weights_path FROM models").fetchall()
    trained_on = {(sha256, architecture): dataset for sha256, architecture, dataset, _ in models}
    for sha256, architecture, dataset, path in models:
        con.execute(
            "UPDATE models SET origin = 'shipped', weights_path = ? WHERE model_sha256 = ? AND architecture_id = ?",
            [_shipped_path(path, dataset), sha256, architecture],
        )
    crafted = "SELECT attack_id, config FROM attacks WHERE json_extract(config, '$.surrogate') IS NOT NULL"
    for attack_id, text in con.execute(crafted).fetchall():
        config: dict[str, Any] = json.loads(text)
        source = config["surrogate"]
        dataset = trained_on.get((source.get("sha256"), source.get("architecture")), "")
        source["weights"] = _shipped_path(source["weights"], dataset) if source.get("weights") and dataset else ""
        con.execute(
            "UPDATE attacks SET config = ? WHERE attack_id = ?", [json.dumps(config, sort_keys=True), attack_id]
        )


def _shipped_path(path: str, dataset: str) -> str:
    """`/somewhere/NAME.safetensors` as `shipped:DATASET/NAME.safetensors`; what is of that form already stays."""
    if path.startswith(SCHEME):
        return path
    return f"{SCHEME}{dataset}/{path.replace(chr(92), '/').rpartition('/')[2]}"


def _write(con: DuckDBPyConnection, table: str, folder: Path) -> dict[str, Any]:
    """Write one table, its rows in order, and describe the file."""
    order = ", ".join(_TABLES[table])
    if table == "outcomes":  # a model's clean margins are the same under every attack: side by side they take no room
        order = f"(SELECT model_sha256 FROM evaluations AS e WHERE e.evaluation_id = outcomes.evaluation_id), {order}"
    draft = folder / f".{table}.parquet.{os.getpid()}.new"
    target = str(draft).replace("'", "''")
    try:
        options = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 19"
        con.execute(f"COPY (FROM {table} ORDER BY {order}) TO '{target}' ({options})")
        content = draft.read_bytes()
        draft.replace(folder / f"{table}.parquet")
    finally:
        draft.unlink(missing_ok=True)
    count = one(con, f"SELECT count(*) FROM {table}")
    assert count is not None
    return {"rows": count[0], "sha256": hashlib.sha256(content).hexdigest()}


def _put(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    draft.write_bytes(content)
    draft.replace(path)
