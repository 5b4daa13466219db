"""Migrations: named, recorded, each whole or not at all; views and published figures follow the version."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import duckdb
import pytest

from store import Store, StoreTooNew, migrate, reference
from store.migrate import Migration
from store.results import append_outcomes, evaluation_rows, open_evaluation
from tests.store.rows import batch, request

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


@pytest.mark.parametrize("how", ["ensure", "read", "write"])
def test_a_store_from_before_the_ranks_keeps_its_rows(tmp_path: Path, visit: Visit, how: str) -> None:
    first = REAL[0]
    assert first.name == "001_initial"
    store = Store(tmp_path / "old.duckdb")
    with duckdb.connect(store.path) as con:
        con.execute(first.sql)
        con.execute("INSERT INTO schema_migrations VALUES (?, now()::TIMESTAMP, '0.1', ?)", [first.name, first.sha256])
        con.execute("CREATE VIEW measured AS SELECT * FROM evaluations")
        con.execute("INSERT INTO store_properties VALUES ('reference_objects', 'VIEW IF EXISTS \"measured\"')")
        con.execute("INSERT INTO subsets VALUES ('both', [0, 1])")
        con.execute(
            """
            INSERT INTO evaluations BY NAME SELECT
                'e1' AS evaluation_id, 'm' AS model_sha256, 'd' AS dataset_id, 'a' AS attack_id, '{}' AS preprocessing,
                2 AS n_requested, 'both' AS subset_digest, 'partial' AS status, 1 AS n_done, 1 AS n_counted,
                1 AS n_clean_correct, 1 AS n_robust, [] AS warnings, 'cpu' AS device, 'float32' AS "precision",
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
        before = [con.execute(f"FROM {table}").fetchall() for table in ("evaluations", "outcomes")]
    visit(store, how)
    assert applied(store) == [m.name for m in REAL]
    with store.read() as con:
        after = [con.execute(f"FROM {table}").fetchall() for table in ("evaluations", "outcomes")]
        assert after == [[(*row, None, None) for row in rows] for rows in before]
        measured = "SELECT robust_accuracy, clean_top5_accuracy, robust_top5_accuracy FROM tradeoff WHERE evaluation_id"
        assert con.execute(f"{measured} = 'e1'").fetchall() == [(100, None, None)]
    # It goes on where it was; what it has from before leaves its top-5 counts empty.
    counts = append_outcomes(store, "e1", batch([1], clean_rank=1, rank=1), seconds=1)
    assert (counts.n_counted, counts.n_clean_top5, counts.n_robust_top5) == (2, None, None)


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
        assert views == {"tradeoff", "measured", "published", "mine"}
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
