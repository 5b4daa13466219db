"""Results that come with the package: taken in once, whole or not at all, and never over what is there."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from store import ShippedDamaged, Store, StoreError, shipping
from store.results import (
    MemberRow,
    append_outcomes,
    finish_evaluation,
    gradient_cosine_schema,
    open_evaluation,
    outcomes,
    record_model,
    save_gradient_cosines,
)
from store.shipping import export_results, provide, provide_shipped
from tests.store.rows import architecture, attack, batch, evaluation, model, request

HOME = "/home/somebody/weights"
TABLES = tuple(shipping._TABLES)
Start = Callable[..., "subprocess.Popen[str]"]


def add(store: Store, evaluation_id: str, n: int = 20, *, complete: bool = True, **rows: Any) -> None:
    """An evaluation of `n` examples, of the request that `rows` changes."""
    asked = request() | rows
    changes = {
        "model_sha256": asked["model"].model_sha256,
        "architecture_id": asked["architecture"].architecture_id,
        "attack_id": asked["attack"].attack_id,
    }
    asked["evaluation"] = evaluation(
        evaluation_id, n_requested=n, hostname="their-host", job_id="7", device="cpu", **changes
    )
    open_evaluation(store, **asked)
    append_outcomes(store, evaluation_id, batch(range(n if complete else n // 2)), seconds=1.5)
    finish_evaluation(store, evaluation_id, status="complete" if complete else "partial", warnings=["[/x]"])


@pytest.fixture(scope="session")
def source(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Results as they are on the machine that measures them. Tests only read it."""
    path = tmp_path_factory.mktemp("source") / "store.duckdb"
    shutil.copy(pristine, path)
    store = Store(path)
    first, second = (
        (
            architecture(name, architecture_id=f"{name}@layers=5"),
            model(name[0] * 64, architecture_id=f"{name}@layers=5", weights_path=f"{HOME}/{name}.safetensors"),
        )
        for name in ("darts", "resnet")
    )
    record_model(store, architecture("unused"), model("u" * 64, architecture_id="unused@layers=5"))
    add(store, "e1", architecture=first[0], model=first[1])
    surrogate = {"architecture": "resnet@layers=5", "sha256": "r" * 64, "mean": [0.1], "std": [0.2]}
    crafted = attack(
        attack_id="from-resnet",
        verdict="last",
        config={"name": "pgd", "surrogate": {**surrogate, "weights": f"{HOME}/resnet.safetensors"}},
    )
    record_model(store, *second)
    add(store, "e2", architecture=first[0], model=first[1], attack=crafted)
    pair = model(
        "p" * 64,
        architecture_id="pair@layers=5",
        weights_path=f"{HOME}\\pair.safetensors",
        combine="mean-logits",
        members=[MemberRow(architecture_id=r.architecture_id, model_sha256=m.model_sha256) for r, m in (first, second)],
    )
    add(store, "e3", architecture=architecture("pair", family="ensemble"), model=pair)
    add(store, "half", architecture=first[0], model=first[1], attack=attack(attack_id="pgd-2"), complete=False)
    again = request(n_requested=20) | {"architecture": first[0], "model": first[1]}
    again["evaluation"] = evaluation("e1", n_requested=20, model_sha256="d" * 64)
    assert open_evaluation(store, **again, force=True).staging
    cosines = [
        {"dataset_id": "digits/test#12345678", "example": i, "model_sha256_a": "d" * 64, "model_sha256_b": other * 64}
        | {"architecture_id_a": "darts@layers=5", "architecture_id_b": f"{name}@layers=5", "cosine": i / 10}
        for i in range(3)
        for other, name in (("r", "resnet"), ("u", "unused"))
    ]
    save_gradient_cosines(store, pa.Table.from_pylist(cosines, schema=gradient_cosine_schema()))
    return store


@pytest.fixture(scope="session")
def written(source: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is shipped of it. Tests that change it copy it."""
    folder = tmp_path_factory.mktemp("shipped")
    assert export_results(source, folder) == 3
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "shipped"))


def query(store: Store, sql: str) -> list[tuple[Any, ...]]:
    with store.read() as con:
        return con.execute(sql).fetchall()


def everything(store: Store) -> list[list[tuple[Any, ...]]]:
    with store.read() as con:
        return [con.execute(f"FROM {table} ORDER BY ALL").fetchall() for table in (*TABLES, "store_properties")]


def rewrite(folder: Path, table: str, select: str) -> None:
    """Replace a shipped table by what `select` makes of `old`, with its manifest."""
    path, new = folder / f"{table}.parquet", folder / "new.parquet"
    with duckdb.connect() as con:
        con.execute(f"CREATE VIEW old AS FROM read_parquet('{path}')")
        con.execute(f"COPY ({select}) TO '{new}' (FORMAT parquet)")
    new.replace(path)
    change_manifest(folder, {table: {"rows": 0, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}})


def change_manifest(folder: Path, tables: dict[str, Any], *, without: tuple[str, ...] = ()) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["tables"] |= tables
    manifest["tables"] = {name: entry for name, entry in manifest["tables"].items() if name not in without}
    path.write_text(json.dumps(manifest))


class TestTakingIn:
    def test_a_new_store_holds_what_was_measured(self, source: Store, written: Path, tmp_path: Path) -> None:
        store = Store(tmp_path / "new" / "store.duckdb")
        assert provide(store, written) == 3
        assert query(store, "SELECT evaluation_id FROM evaluations ORDER BY ALL") == [("e1",), ("e2",), ("e3",)]
        for evaluation_id in ("e1", "e2", "e3"):
            assert outcomes(store, evaluation_id) == outcomes(source, evaluation_id)
        same = "SELECT * EXCLUDE (hostname, job_id) FROM evaluations WHERE status = 'complete' ORDER BY ALL"
        assert query(store, same) == query(source, same)
        same = (
            "SELECT * EXCLUDE (weights_path, origin) FROM models WHERE label <> '' AND model_sha256 < 'u' ORDER BY ALL"
        )
        assert query(store, same) == query(source, same)
        for table in ("datasets", "subsets", "ensemble_members"):
            assert query(store, f"FROM {table} ORDER BY ALL") == query(source, f"FROM {table} ORDER BY ALL")
        assert query(store, "SELECT count(*) FROM tradeoff WHERE source = 'measured'") == [(3,)]
        (parts,) = query(store, "SELECT list(evaluation_id ORDER BY position NULLS FIRST) FROM ensemble_parts('e3')")
        assert parts == (["e3", "e1", None],)
        assert query(store, "SELECT n, mean FROM member_cosines('e3')") == [(3, pytest.approx(0.1))]

    def test_only_what_belongs_to_complete_evaluations_is_shipped(self, written: Path) -> None:
        with duckdb.connect() as con:
            counts = {t: con.execute(f"SELECT count(*) FROM '{written}/{t}.parquet'").fetchall()[0][0] for t in TABLES}
            models = con.execute(f"SELECT model_sha256[1] FROM '{written}/models.parquet' ORDER BY ALL").fetchall()
        assert counts == {
            "architectures": 3,
            "datasets": 1,
            "models": 3,
            "ensemble_members": 2,
            "attacks": 2,
            "subsets": 1,
            "evaluations": 3,
            "outcomes": 60,
            "gradient_cosines": 3,
        }
        assert models == [("d",), ("p",), ("r",)], "attacked, an ensemble, and one that is a member and a source"

    def test_nothing_of_the_machine_is_shipped(self, written: Path) -> None:
        with duckdb.connect() as con:
            rows = [con.execute(f"SELECT x::TEXT FROM '{written}/{t}.parquet' AS x").fetchall() for t in TABLES]
            paths = con.execute(f"SELECT weights_path, origin FROM '{written}/models.parquet' ORDER BY ALL").fetchall()
            config = con.execute(
                f"SELECT config FROM '{written}/attacks.parquet' WHERE attack_id = 'from-resnet'"
            ).fetchall()[0][0]
        text = str(rows)
        assert "their-host" not in text
        assert "somebody" not in text
        assert paths == [(f"shipped:digits/{name}.safetensors", "shipped") for name in ("darts", "pair", "resnet")]
        assert json.loads(config)["surrogate"]["weights"] == "shipped:digits/resnet.safetensors"
        assert config == json.dumps(json.loads(config), sort_keys=True), "as the store writes it"

    def test_twice_is_once(self, store: Store, written: Path) -> None:
        assert provide(store, written) == 3
        before, stamp = everything(store), store.version_stamp()
        assert provide(store, written) == 0
        assert store.version_stamp() == stamp, "nothing was written"
        assert everything(store) == before

    def test_what_a_person_deletes_stays_deleted(self, store: Store, written: Path) -> None:
        provide(store, written)
        with store.write() as con:
            con.execute("DELETE FROM evaluations WHERE evaluation_id = 'e1'")
            con.execute("DELETE FROM outcomes WHERE evaluation_id = 'e1'")
        assert provide(store, written) == 0
        assert query(store, "SELECT count(*) FROM evaluations") == [(2,)]

    def test_what_is_there_stays_as_it_is(self, store: Store, written: Path) -> None:
        mine = model("d" * 64, weights_path="/mine/darts.safetensors", label="mine")
        add(store, "e1", complete=False, model=mine)
        pair = [MemberRow(architecture_id="mine", model_sha256="x")]
        record_model(
            store,
            architecture("pair"),
            model("p" * 64, architecture_id="pair@layers=5", combine="majority", members=pair),
        )
        before = {
            sql: query(store, sql)
            for sql in (
                "FROM evaluations WHERE evaluation_id = 'e1'",
                "FROM outcomes WHERE evaluation_id = 'e1' ORDER BY example",
                "FROM models WHERE model_sha256 IN (repeat('d', 64), repeat('p', 64)) ORDER BY ALL",
                "FROM ensemble_members",
                "FROM architectures WHERE name = 'pair'",
            )
        }
        assert provide(store, written) == 2
        assert {sql: query(store, sql) for sql in before} == before
        assert query(store, "SELECT count(*) FROM outcomes") == [(10 + 40,)]
        # It goes on, and is not in the way of what came.
        opened = append_outcomes(store, "e1", batch(range(20)), seconds=1)
        assert (opened.n_new, opened.n_done) == (10, 20)

    def test_a_model_from_before_ensembles_learns_that_it_is_one(self, store: Store, written: Path) -> None:
        record_model(store, architecture("pair"), model("p" * 64, architecture_id="pair@layers=5", label="mine"))
        provide(store, written)
        assert query(store, "SELECT label, combine, n_members FROM ensembles") == [("mine", "mean-logits", 2)]

    def test_a_later_version_adds_what_is_new(self, store: Store, source: Store, tmp_path: Path) -> None:
        first, second = tmp_path / "1", tmp_path / "2"
        assert export_results(source, first, ["e1"]) == 1
        assert export_results(source, second, ["e3", "e1", "e1"]) == 2
        assert provide(store, first) == 1
        assert provide(store, second) == 1
        assert provide(store, first) == provide(store, second) == 0
        assert query(store, "SELECT evaluation_id, count(*) FROM outcomes GROUP BY ALL ORDER BY ALL") == [
            ("e1", 20),
            ("e3", 20),
        ]

    @pytest.mark.parametrize("there", [False, True])
    def test_a_folder_without_results_is_none(self, tmp_path: Path, there: bool) -> None:
        folder = tmp_path / "shipped"
        if there:
            folder.mkdir()
        store = Store(tmp_path / "store.duckdb")
        assert provide(store, folder) == 0
        assert not store.path.exists()

    def test_it_can_be_switched_off(
        self, store: Store, written: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(shipping, "FOLDER", written)
        monkeypatch.setenv("NASROB_SHIPPED", "off")
        assert provide_shipped(store) == 0
        monkeypatch.delenv("NASROB_SHIPPED")
        assert provide_shipped(store) == 3


class TestOtherSchemas:
    def test_columns_and_tables_that_came_later_stay_empty(self, store: Store, folder: Path) -> None:
        rewrite(folder, "models", "SELECT * EXCLUDE (combine, macs) FROM old")
        rewrite(folder, "outcomes", "SELECT * EXCLUDE (stage, clean_rank, rank) FROM old")
        rewrite(folder, "evaluations", "SELECT * EXCLUDE (engine, n_clean_top5, hostname, staging) FROM old")
        for table in ("ensemble_members", "gradient_cosines"):
            (folder / f"{table}.parquet").unlink()
        change_manifest(folder, {}, without=("ensemble_members", "gradient_cosines"))
        assert provide(store, folder) == 3
        assert query(store, "SELECT DISTINCT combine, macs FROM models") == [(None, None)]
        assert query(store, "SELECT DISTINCT stage, clean_rank, rank FROM outcomes") == [(None, None, None)]
        assert query(store, "SELECT DISTINCT engine, staging, n_done FROM evaluations") == [(None, False, 20)]
        assert query(store, "SELECT count(*) FROM ensemble_members") == [(0,)]

    def test_what_only_a_later_version_knows_is_left_out(self, store: Store, folder: Path) -> None:
        rewrite(folder, "evaluations", "SELECT *, 'x' AS later FROM old")
        change_manifest(folder, {"later_table": {"rows": 1, "sha256": "0" * 64}})
        assert provide(store, folder) == 3


def truncate(folder: Path) -> None:
    path = folder / "outcomes.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def flip(folder: Path) -> None:
    path = folder / "evaluations.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def no_parquet(folder: Path) -> None:
    path = folder / "models.parquet"
    path.write_bytes(b"something else")
    change_manifest(folder, {"models": {"sha256": hashlib.sha256(b"something else").hexdigest()}})


def torn_page(folder: Path) -> None:
    """A Parquet file whose pages are noise behind a footer and a hash that are right."""
    path = folder / "outcomes.parquet"
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[-8:-4], "little")
    content[4 : len(content) - 8 - length] = b"\xaa" * (len(content) - 12 - length)
    path.write_bytes(content)
    change_manifest(folder, {"outcomes": {"rows": 0, "sha256": hashlib.sha256(content).hexdigest()}})


DAMAGE: dict[str, Callable[[Path], object]] = {
    "outcomes.parquet is not as it was written": truncate,
    "evaluations.parquet is not as it was written": flip,
    "models.parquet cannot be read": no_parquet,
    "attacks.parquet is missing": lambda folder: (folder / "attacks.parquet").unlink(),
    "are damaged": torn_page,
    "manifest.json is missing": lambda folder: (folder / "manifest.json").unlink(),
    "manifest.json cannot be read": lambda folder: (folder / "manifest.json").write_text('{"tables": [1]}'),
    "Constraint Error": lambda folder: rewrite(folder, "outcomes", "SELECT * REPLACE (NULL AS robust) FROM old"),
    "NOT NULL constraint failed": lambda folder: rewrite(folder, "evaluations", "SELECT * EXCLUDE (device) FROM old"),
    "Conversion Error": lambda folder: rewrite(folder, "evaluations", "SELECT * REPLACE ('x' AS n_done) FROM old"),
}


class TestDamage:
    @pytest.mark.parametrize("what", DAMAGE)
    def test_damage_is_told_in_one_sentence_and_changes_nothing(self, store: Store, folder: Path, what: str) -> None:
        add(store, "mine")
        before = everything(store)
        DAMAGE[what](folder)
        with pytest.raises(ShippedDamaged, match=what) as error:
            provide(store, folder)
        assert str(folder) in str(error.value)
        assert "NASROB_SHIPPED=off" in str(error.value)
        assert "\n" not in str(error.value)
        assert everything(store) == before

    def test_damaged_files_make_no_store(self, folder: Path, tmp_path: Path) -> None:
        truncate(folder)
        store = Store(tmp_path / "none.duckdb")
        with pytest.raises(ShippedDamaged):
            provide(store, folder)
        assert not store.path.exists()

    def test_a_mended_folder_is_taken_in(self, store: Store, folder: Path) -> None:
        content = (folder / "outcomes.parquet").read_bytes()
        truncate(folder)
        with pytest.raises(ShippedDamaged):
            provide(store, folder)
        (folder / "outcomes.parquet").write_bytes(content)
        assert provide(store, folder) == 3


KILLED = """
import contextlib, os, signal, sys
from pathlib import Path
from store import Store, connection, shipping

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

when = sys.argv[3]
if when == "half":
    complete = shipping._complete
    shipping._complete = lambda con, table, *rest: die() if table == "gradient_cosines" else complete(con, table, *rest)
elif when == "before commit":
    take_in = shipping._take_in
    shipping._take_in = lambda *arguments: (take_in(*arguments), die())
else:
    transaction = connection.transaction

    @contextlib.contextmanager
    def committed(con):
        with transaction(con):
            yield con
        die()

    connection.transaction = committed
shipping.provide(Store(Path(sys.argv[1])), Path(sys.argv[2]))
"""


class TestProcesses:
    @pytest.mark.parametrize(("when", "left"), [("half", 3), ("before commit", 3), ("after commit", 0)])
    def test_killed_in_the_middle(
        self, store: Store, written: Path, start_python: Start, when: str, left: int, tmp_path: Path
    ) -> None:
        with start_python(KILLED, store.path, written, when) as process:
            _, err = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, err
        assert provide(store, written) == left
        whole = Store(tmp_path / "whole.duckdb")
        provide(whole, written)
        assert everything(store)[:-1] == everything(whole)[:-1]

    def test_two_at_once(self, written: Path, start_python: Start, tmp_path: Path) -> None:
        store = Store(tmp_path / "new.duckdb")
        script = (
            "import sys; from pathlib import Path; from store import Store; from store.shipping import provide;"
            "print(flush=True); sys.stdin.readline(); print(provide(Store(Path(sys.argv[1])), Path(sys.argv[2])))"
        )
        processes = [start_python(script, store.path, written) for _ in range(2)]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        counts = [process.communicate(timeout=60) for process in processes]
        assert sorted(int(out) for out, _ in counts) == [0, 3], counts
        assert query(store, "SELECT count(*) FROM outcomes") == [(60,)]


class TestWriting:
    def test_the_same_results_are_the_same_bytes(self, source: Store, written: Path, tmp_path: Path) -> None:
        store = Store(tmp_path / "store.duckdb")
        provide(store, written)
        for i, origin in enumerate((source, store)):
            export_results(origin, tmp_path / str(i))
            for path in written.iterdir():
                assert (tmp_path / str(i) / path.name).read_bytes() == path.read_bytes(), path.name
        assert {path.name for path in written.iterdir()} == {f"{t}.parquet" for t in TABLES} | {"manifest.json"}

    def test_rows_are_in_order_whatever_order_they_came_in(self, written: Path) -> None:
        with duckdb.connect() as con:
            for table, keys in shipping._TABLES.items():
                file = f"'{written}/{table}.parquet'"
                columns = ", ".join(keys)
                stored = con.execute(f"SELECT {columns} FROM {file}").fetchall()
                assert stored == sorted(stored), table

    @pytest.mark.parametrize("asked", ["nobody", "half"])
    def test_only_complete_evaluations_can_be_asked_for(self, source: Store, tmp_path: Path, asked: str) -> None:
        with pytest.raises(StoreError, match=f"'{asked}'"):
            export_results(source, tmp_path / "out", ["e1", asked])
        assert not (tmp_path / "out").exists()

    def test_a_folder_that_cannot_be_made(self, source: Store, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="cannot write results"):
            export_results(source, tmp_path / "file")

    def test_an_empty_store_ships_nothing(self, store: Store, tmp_path: Path) -> None:
        assert export_results(store, tmp_path / "out") == 0
        assert provide(store, tmp_path / "out") == 0
