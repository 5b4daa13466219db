"""Migrations: named, recorded, each whole or not at all; views and published figures follow the version."""

from __future__ import annotations

import hashlib
import signal
import subprocess
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import duckdb
import pytest

from store import Store, StoreTooNew, describe, migrate, reference
from store.migrate import Migration
from store.results import MemberRow, append_outcomes, evaluation_rows, open_evaluation, record_model
from tests.store.rows import architecture, batch, model, request

Visit = Callable[[Store, str], None]

REAL = migrate.migrations()
ADD_COLUMN = Migration(
    "900_colour", "ALTER TABLE models ADD COLUMN colour TEXT; COMMENT ON COLUMN models.colour IS 'Its colour.';"
)
BROKEN = Migration(
    "901_broken", "ALTER TABLE models ADD COLUMN size TEXT; DELETE FROM evaluations; SELECT error('this cannot work');"
)


def use(monkeypatch: pytest.MonkeyPatch, *extra: Migration) -> None:
    monkeypatch.setattr(migrate, "migrations", lambda: (*REAL, *extra))


def applied(store: Store) -> list[str]:
    with store.read() as con:
        return applied_in(con)


def applied_in(con: duckdb.DuckDBPyConnection) -> list[str]:
    return [name for (name,) in con.execute("SELECT name FROM schema_migrations ORDER BY name").fetchall()]


def columns(store: Store, table: str) -> set[str]:
    with store.read() as con:
        return {row[0] for row in con.execute(f"DESCRIBE {table}").fetchall()}


@pytest.fixture
def used(store: Store) -> Store:
    """A store with an evaluation in it."""
    open_evaluation(store, **request())
    append_outcomes(store, "e1", batch(range(20)), seconds=1)
    return store


def test_every_migration_is_recorded_with_its_text(store: Store) -> None:
    with store.read() as con:
        rows = con.execute("SELECT name, sha256, software_version, applied_at FROM schema_migrations").fetchall()
    folder = resources.files("store") / "migrations"
    for name, sha256, version, applied_at in rows:
        text = (folder / f"{name}.sql").read_bytes()
        assert hashlib.sha256(text).hexdigest() == sha256
        assert version
        assert applied_at
    assert [row[0] for row in rows] == [m.name for m in REAL]


@pytest.mark.parametrize("how", ["ensure", "read", "write"])
def test_an_earlier_store_is_upgraded_with_its_results(
    used: Store, visit: Visit, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    before = evaluation_rows(used, ["e1"])
    use(monkeypatch, ADD_COLUMN)
    visit(used, how)
    assert applied(used) == [*(m.name for m in REAL), "900_colour"]
    assert "colour" in columns(used, "models")
    assert evaluation_rows(used, ["e1"]) == before


def test_a_migration_that_fails_changes_nothing(used: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = evaluation_rows(used, ["e1"])
    use(monkeypatch, ADD_COLUMN, BROKEN)
    with pytest.raises(duckdb.Error, match="cannot work"):
        used.ensure()
    use(monkeypatch, ADD_COLUMN)  # the one before it is whole
    assert applied(used) == [*(m.name for m in REAL), "900_colour"]
    assert "size" not in columns(used, "models")
    assert evaluation_rows(used, ["e1"]) == before


def old_store(path: Path, version: int) -> Store:
    """A store at the schema of an earlier version: `version` migrations, and a view over its tables."""
    with duckdb.connect(path) as con:
        for migration in REAL[:version]:
            con.execute(migration.sql)
            con.execute(
                "INSERT INTO schema_migrations VALUES (?, now()::TIMESTAMP, '0.1', ?)",
                [migration.name, migration.sha256],
            )
        con.execute("CREATE VIEW measured AS SELECT * FROM evaluations LEFT JOIN models USING (model_sha256)")
        con.execute("INSERT INTO store_properties VALUES ('reference_objects', 'VIEW IF EXISTS \"measured\"')")
        con.execute("INSERT INTO subsets VALUES ('both', [0, 1])")
        con.execute(
            """
            INSERT INTO evaluations BY NAME SELECT
                'e1' AS evaluation_id, 'm' AS model_sha256, 'd' AS dataset_id, 'a' AS attack_id, '{}' AS preprocessing,
                2 AS n_requested, 'both' AS subset_digest, 'partial' AS status, 1 AS n_done, 1 AS n_counted,
                1 AS n_clean_correct, 1 AS n_robust, ['w'] AS warnings, 'cpu' AS device, 'float32' AS "precision",
                '0.1' AS software_version, '2.9' AS torch_version, 1 AS engine_revision,
                now()::TIMESTAMP AS started_at, now()::TIMESTAMP AS updated_at
            """
        )
        con.execute(
            """
            INSERT INTO outcomes BY NAME SELECT
                'e1' AS evaluation_id, 0 AS example, 3 AS label, 3 AS clean_prediction, 3 AS adversarial_prediction,
                true AS clean_correct, true AS robust, 2 AS forwards, 1 AS backwards, 0 AS zero_gradient_steps
            """
        )
    return Store(path)


def all_columns(path: Path, *relations: str) -> list[str]:
    """Queries for all that the tables and views hold now, which later versions must still answer alike."""
    with duckdb.connect(path) as con:
        columns = {name: con.execute(f"DESCRIBE {name}").fetchall() for name in relations}
    names = {name: ", ".join(f'"{row[0]}"' for row in rows) for name, rows in columns.items()}
    return [f"SELECT {names[name]} FROM {name} ORDER BY ALL" for name in relations]


def contents(path: Path, selects: list[str]) -> list[list[tuple[object, ...]]]:
    """What is kept, read without this software, so without an upgrade."""
    with duckdb.connect(path) as con:
        return [con.execute(sql).fetchall() for sql in selects]


@pytest.mark.parametrize("how", ["ensure", "read", "write"])
def test_a_store_from_before_the_ranks_keeps_its_rows(tmp_path: Path, visit: Visit, how: str) -> None:
    assert REAL[0].name == "001_initial"
    store = old_store(tmp_path / "old.duckdb", 1)
    selects = all_columns(store.path, "evaluations", "outcomes")
    before = contents(store.path, selects)
    visit(store, how)
    assert applied(store) == [m.name for m in REAL]
    assert contents(store.path, selects) == before
    with store.read() as con:
        assert con.execute("SELECT n_clean_top5, n_robust_top5 FROM evaluations").fetchall() == [(None, None)]
        assert con.execute("SELECT clean_rank, rank FROM outcomes").fetchall() == [(None, None)]
        measured = "SELECT robust_accuracy, clean_top5_accuracy, robust_top5_accuracy FROM tradeoff WHERE evaluation_id"
        assert con.execute(f"{measured} = 'e1'").fetchall() == [(100, None, None)]
    # It goes on where it was; what it has from before leaves its top-5 counts empty.
    counts = append_outcomes(store, "e1", batch([1], clean_rank=1, rank=1), seconds=1)
    assert (counts.n_counted, counts.n_clean_top5, counts.n_robust_top5) == (2, None, None)


KILLED = """
import os, signal, sys, duckdb
from store.migrate import migrate, migrations
con = duckdb.connect(sys.argv[1])
if sys.argv[2] == "after commit":
    migrate(con, where="here")
else:
    (migration,) = (m for m in migrations() if m.name == sys.argv[3])
    statements = con.extract_statements(migration.sql)
    count = {"begun": 1, "half": len(statements) // 2, "before commit": len(statements)}[sys.argv[2]]
    con.execute("BEGIN")
    for statement in statements[:count]:
        con.execute(statement)
os.kill(os.getpid(), signal.SIGKILL)
"""


class TestModelIdentity:
    """Version 2 knew a model by its tensors alone; version 3 knows it by tensors and architecture."""

    KEPT = ("models", "evaluations", "outcomes", "subsets", "architectures", "their_view")

    @staticmethod
    def second(path: Path) -> Store:
        """A store of version 2: 30 models of 3 architectures with every column filled, 90 evaluations of them, one of a
        model that nobody recorded, and a view of a person's own."""
        assert [m.name for m in REAL[1:3]] == ["002_ranks", "003_model_identity"]
        store = old_store(path, 2)
        with duckdb.connect(path) as con:
            con.execute(
                """
                INSERT INTO architectures SELECT
                    'net-' || i, 'net', 'nas', 'net', '{"i": 1}', NULL, 'A net', 'nowhere', now()::TIMESTAMP
                FROM range(3) AS t(i);
                INSERT INTO models SELECT
                    'sha-' || i, 'net-' || i % 3, 'digits', 10, 100 + i, 7, 'trained', '/w/' || i, '{"epochs": 3}', i,
                    97.5, 'net ' || i, now()::TIMESTAMP, now()::TIMESTAMP
                FROM range(30) AS t(i);
                INSERT INTO evaluations BY NAME
                SELECT e.* REPLACE ('of-' || i AS evaluation_id, 'sha-' || i % 30 AS model_sha256)
                FROM evaluations AS e, range(90) AS t(i);
                CREATE VIEW their_view AS SELECT sum(params) AS params, count(*) AS n FROM models
                """
            )
        return store

    @staticmethod
    def check_upgraded(store: Store) -> None:
        """Every evaluation has the architecture of its model, and the tables take what they are for."""
        with store.read() as con:
            assert applied_in(con) == [m.name for m in REAL]
            assert con.execute("SELECT evaluation_id FROM evaluations WHERE architecture_id IS NULL").fetchall() == [
                ("e1",)
            ]
            wrong = "evaluation_id <> 'e1' AND architecture_id <> 'net-' || (model_sha256[5:]::INTEGER % 3)"
            assert con.execute(f"SELECT count(*) FROM measured WHERE {wrong}").fetchall() == [(0,)]
            assert con.execute("SELECT count(*), count(params), count(family) FROM measured").fetchall() == [
                (91, 90, 90)
            ]
            comments = con.execute(
                "SELECT count(*) FROM duckdb_columns() WHERE NOT internal AND comment IS NULL AND table_name "
                "IN ('models', 'evaluations')"
            )
            assert comments.fetchall() == [(0,)]
        record_model(
            store,
            architecture(architecture_id="net-9"),
            model("sha-1", architecture_id="net-9", label="the same tensors"),
        )
        with store.write() as con:
            assert con.execute("SELECT count(*) FROM models WHERE model_sha256 = 'sha-1'").fetchall() == [(2,)]
            assert con.execute("SELECT count(*) FROM measured").fetchall() == [(91,)]
            with pytest.raises(duckdb.ConstraintException):
                con.execute("INSERT INTO models FROM models WHERE architecture_id = 'net-9'")

    @pytest.mark.parametrize("how", ["ensure", "read", "write"])
    def test_a_store_of_version_2_keeps_everything(self, tmp_path: Path, visit: Visit, how: str) -> None:
        store = self.second(tmp_path / "old.duckdb")
        selects = all_columns(store.path, *self.KEPT)
        before = contents(store.path, selects)
        visit(store, how)
        assert contents(store.path, selects) == before
        self.check_upgraded(store)

    @pytest.mark.parametrize("when", ["begun", "half", "before commit", "after commit"])
    def test_a_kill_in_the_middle_leaves_a_store_that_the_next_start_upgrades(
        self, tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]], when: str
    ) -> None:
        store = self.second(tmp_path / "old.duckdb")
        selects = all_columns(store.path, *self.KEPT)
        before = contents(store.path, selects)
        with start_python(KILLED, store.path, when, "003_model_identity") as process:
            _, err = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, err
        store.ensure()
        assert contents(store.path, selects) == before
        self.check_upgraded(store)


class TestBeforeEnsembles:
    """Version 4 knew models of one network only."""

    KEPT = ("models", "evaluations", "outcomes", "subsets", "architectures")

    @staticmethod
    def fourth(path: Path) -> Store:
        assert [m.name for m in REAL[3:5]] == ["004_attacks", "005_ensembles"]
        store = old_store(path, 4)
        with duckdb.connect(path) as con:
            con.execute(
                """
                INSERT INTO models SELECT
                    'sha-' || i, 'net', 'digits', 10, 100 + i, 7, 'trained', '/w/' || i, '{"epochs": 3}', i,
                    97.5, 'net ' || i, now()::TIMESTAMP, now()::TIMESTAMP
                FROM range(3) AS t(i)
                """
            )
        return store

    @staticmethod
    def check_upgraded(store: Store) -> None:
        with store.read() as con:
            assert applied_in(con) == [m.name for m in REAL]
            assert con.execute("SELECT DISTINCT combine FROM models").fetchall() == [(None,)]
            assert con.execute("FROM ensembles").fetchall() == []
            tables = "'models', 'ensemble_members', 'gradient_cosines'"
            silent = f"SELECT count(*) FROM duckdb_columns() WHERE comment IS NULL AND table_name IN ({tables})"
            assert con.execute(silent).fetchall() == [(0,)]
        record_model(
            store,
            architecture(architecture_id="net"),
            model(
                "sha-0",
                architecture_id="net",
                combine="majority",
                members=[MemberRow(architecture_id="net", model_sha256="sha-1")],
            ),
        )
        with store.read() as con:
            assert con.execute("SELECT combine, n_members FROM ensembles").fetchall() == [("majority", 1)]

    @pytest.mark.parametrize("how", ["ensure", "read", "write"])
    def test_a_store_of_version_4_keeps_everything(self, tmp_path: Path, visit: Visit, how: str) -> None:
        store = self.fourth(tmp_path / "old.duckdb")
        selects = all_columns(store.path, *self.KEPT)
        before = contents(store.path, selects)
        visit(store, how)
        assert contents(store.path, selects) == before
        self.check_upgraded(store)

    @pytest.mark.parametrize("when", ["begun", "half", "before commit", "after commit"])
    def test_a_kill_in_the_middle_leaves_a_store_that_the_next_start_upgrades(
        self, tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]], when: str
    ) -> None:
        store = self.fourth(tmp_path / "old.duckdb")
        selects = all_columns(store.path, *self.KEPT)
        before = contents(store.path, selects)
        with start_python(KILLED, store.path, when, "005_ensembles") as process:
            _, err = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, err
        store.ensure()
        assert contents(store.path, selects) == before
        self.check_upgraded(store)


@pytest.mark.parametrize("how", ["ensure", "read", "write"])
def test_a_newer_store_is_refused_and_stays_as_it_is(
    used: Store, visit: Visit, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    use(monkeypatch, ADD_COLUMN)
    used.ensure()
    use(monkeypatch)
    contents = used.path.read_bytes()
    with pytest.raises(StoreTooNew, match="900_colour") as error:
        visit(used, how)
    assert str(used.path) in str(error.value)
    assert used.path.read_bytes() == contents


def test_views_of_another_version_are_replaced_and_those_of_a_person_kept(used: Store) -> None:
    with used.write() as con:
        con.execute("CREATE VIEW retired AS SELECT 1 AS x")
        con.execute("CREATE VIEW mine AS SELECT count(*) AS n FROM tradeoff")
        con.execute("DROP VIEW tradeoff")
        con.execute("UPDATE published_results SET robust_accuracy = 99")
        con.execute("UPDATE store_properties SET value = 'an older one' WHERE name = 'reference_sha256'")
        con.execute(
            "UPDATE store_properties SET value = value || chr(10) || 'VIEW IF EXISTS \"retired\"' "
            "WHERE name = 'reference_objects'"
        )
    with used.read() as con:
        views = {row[0] for row in con.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()}
        ours = {o.name for o in describe() if o.kind == "view"}
        assert views == ours | {"mine"}
        assert con.execute("SELECT n FROM mine").fetchall() == con.execute("SELECT count(*) FROM tradeoff").fetchall()
        assert con.execute("SELECT count(*) FROM published_results WHERE robust_accuracy = 99").fetchall() == [(0,)]
        assert con.execute("SELECT count(*) FROM published_results").fetchall() == [(141,)]


def test_figures_of_a_persons_own_publication_survive_an_upgrade(store: Store) -> None:
    with store.write() as con:
        con.execute("INSERT INTO publications VALUES ('mine2026', 'Me', NULL, 'pixel', NULL)")
        con.execute(
            "INSERT INTO published_results BY NAME "
            "SELECT * REPLACE ('mine2026' AS publication_id) FROM published_results LIMIT 1"
        )
        con.execute("UPDATE store_properties SET value = 'an older one' WHERE name = 'reference_sha256'")
    with store.read() as con:
        assert con.execute("SELECT count(*) FROM tradeoff WHERE publication = 'mine2026'").fetchall() == [(1,)]
        assert con.execute("SELECT count(*) FROM published").fetchall() == [(63,)]


def test_the_reference_changes_with_any_of_its_files() -> None:
    everything = reference.texts("migrations", ".sql") + reference.texts("views", ".sql")
    assert len(everything) >= 6
    assert all(text.strip() for _, text in everything)
    assert "COMMENT ON" in reference.view_sql()
    assert "COMMENT ON" not in reference.view_sql(comments=False)


def test_a_migration_applied_with_another_text_is_not_taken_for_ours(store: Store) -> None:
    """A store of another build has our migration's name and other tables: refused, not half understood."""
    store.ensure()
    with store.write() as con:
        con.execute("UPDATE schema_migrations SET sha256 = 'another text'")
    with pytest.raises(StoreTooNew, match="001_initial"):
        store.ensure()
