"""A person's SQL: what reads works, what does more is refused in one sentence, and nothing holds the store for long."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from store import QueryError, Store, StoreNotFound, run_query, sql
from store.results import append_outcomes, finish_evaluation, open_evaluation
from tests.store.rows import batch, request


@pytest.fixture(scope="module")
def shared(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with 20 outcomes that no test changes."""
    store = Store(tmp_path_factory.mktemp("shared") / "store.duckdb")
    shutil.copy(pristine, store.path)
    open_evaluation(store, **request(n_requested=20))
    append_outcomes(store, "e1", batch(range(20)), seconds=1)
    finish_evaluation(store, "e1", status="complete")
    return store


@pytest.fixture(params=["file", "copy"])
def filled(shared: Store, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """That store, to be queried on the file or, as if the query took long, on a copy."""
    if request.param == "copy":
        monkeypatch.setattr(sql, "_may_see_the_file", lambda store, sql: False)
    return shared


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT count(*) FROM outcomes", 1),
        ("select Example from OUTCOMES", 20),
        ('SELECT * FROM "outcomes";', 20),
        ("FROM tradeoff", 142),
        ("-- a comment\n/* another; one */ (SELECT 1)", 1),
        ("VALUES (1), (2)", 2),
        ("TABLE attacks", 1),
        ("WITH t AS (FROM published) SELECT * FROM t", 63),
        ("SELECT * FROM worst_case(['e1']) WHERE n_examples = 17", 1),
        ("DESCRIBE tradeoff", 68),
        ("SUMMARIZE attacks", 15),
        ("SHOW TABLES", 23),
        ("EXPLAIN SELECT * FROM outcomes", 1),
        ("PIVOT published ON dataset USING avg(pgd) GROUP BY family", 2),
        ("WITH p AS (PIVOT published ON dataset USING avg(pgd) GROUP BY family) FROM p", 2),
        ("UNPIVOT (SELECT clean, pgd FROM published) ON clean, pgd", 126),
        ("SELECT * FROM query('FROM out' || 'comes')", 20),
        ("SELECT * FROM query_table('outcomes')", 20),
        ("SELECT * FROM json_execute_serialized_sql(json_serialize_sql('FROM store.outcomes'))", 20),
        ("SELECT json_extract_string(config, '$.eps') FROM attacks", 1),
        ("SELECT 1 WHERE false", 0),
        ("SELECT * FROM store.outcomes", 20),
    ],
)
def test_reads(filled: Store, query: str, rows: int) -> None:
    result = run_query(filled, query)
    assert (result.table.num_rows, result.truncated) == (rows, False)


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO family_baselines VALUES ('x', 'y')",
        "UPDATE evaluations SET n_robust = 0",
        "DELETE FROM outcomes",
        "CREATE TABLE x (i INTEGER)",
        "CREATE TEMP VIEW x AS SELECT 1",
        "DROP TABLE outcomes",
        "ALTER TABLE outcomes ADD COLUMN x TEXT",
        "ATTACH '/tmp/other.db'",
        "DETACH store",
        "USE memory",
        "COPY outcomes TO '/tmp/stolen.csv'",
        "EXPORT DATABASE '/tmp/stolen'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "RESET threads",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "CHECKPOINT",
        "VACUUM",
        "BEGIN",
        "PREPARE p AS SELECT 1",
        "WITH gone AS (DELETE FROM outcomes RETURNING *) SELECT * FROM gone",
        "/* SELECT */ DELETE FROM outcomes",
    ],
)
def test_whatever_does_more_than_read_is_refused(shared: Store, query: str) -> None:
    before = shared.version_stamp()
    with pytest.raises(QueryError) as error:
        run_query(shared, query)
    assert "\n" not in str(error.value)
    assert shared.version_stamp() == before


def test_a_statement_inside_explain_does_not_write_either(filled: Store) -> None:
    with pytest.raises(QueryError, match="writes"):
        run_query(filled, "EXPLAIN ANALYZE DELETE FROM outcomes")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('{store}')",
        "SELECT * FROM read_text('{store}.wal')",
        "FROM '{store}'",
        "SELECT * FROM query('FROM re' || 'ad_blob(''{store}'')')",
        "FROM '/etc/passwd'",
        "FROM 'https://example.org/data.parquet'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM parquet_scan('/tmp/x')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM (FROM read_json('/etc/hosts'))",
    ],
)
def test_files_and_the_network_are_out_of_reach(shared: Store, query: str) -> None:
    with pytest.raises(QueryError) as error:
        run_query(shared, query.format(store=shared.path))
    assert "root" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "no SQL statement"),
        ("  -- nothing\n;", "no SQL statement"),
        ("SELECT 1; SELECT 2", "2 SQL statements"),
        ("SELEC 1", "syntax error"),
        ("SELECT nope FROM tradeoff", '"nope" not found'),
        ("SELECT * FROM outcome", 'Did you mean "outcomes"'),
        ("SELECT hrs(1)", r"hrs\(c, p\)"),
        ("SELECT sqrt('x'::TEXT::INTEGER)", "Could not convert"),
        ("SELECT CASE WHEN range = 5000 THEN error('late') END FROM range(6000)", "late"),
    ],
)
def test_mistakes_are_told_in_one_line(shared: Store, query: str, said: str) -> None:
    with pytest.raises(QueryError, match=said) as error:
        run_query(shared, query, max_rows=None)
    assert "\n" not in str(error.value)
    assert "LINE" not in str(error.value)


@pytest.mark.parametrize(
    ("max_rows", "rows", "truncated"), [(5, 5, True), (20, 20, False), (21, 20, False), (None, 20, False)]
)
def test_tells_that_there_are_more(filled: Store, max_rows: int | None, rows: int, truncated: bool) -> None:
    result = run_query(filled, "SELECT example FROM outcomes ORDER BY example", max_rows=max_rows)
    assert result.table.column("example").to_pylist() == list(range(rows))
    assert result.truncated is truncated


def test_a_first_page_of_very_much_comes_at_once(shared: Store) -> None:
    result = run_query(shared, "SELECT * FROM range(100_000_000_000)", max_rows=10, timeout=20)
    assert (result.table.num_rows, result.truncated) == (10, True)
    assert result.seconds < 5


@pytest.mark.parametrize("query", ["SELECT count(*) FROM range(10_000_000_000_000)", "FROM range(10_000_000_000_000)"])
def test_a_time_limit(shared: Store, query: str) -> None:
    start = time.monotonic()
    with pytest.raises(QueryError, match=r"longer than 0\.1 s"):
        run_query(shared, query, timeout=0.1, max_rows=None)
    assert time.monotonic() - start < 3


def test_a_long_query_lets_writers_in(store: Store) -> None:
    open_evaluation(store, **request())
    append_outcomes(store, "e1", batch(range(20)), seconds=1)
    said: list[str] = []

    def ask() -> None:
        try:
            run_query(store, "SELECT count(*) FROM outcomes, range(10_000_000_000_000)", timeout=0.8)
        except QueryError as error:
            said.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    waits = []
    for i in range(3):
        time.sleep(0.15)
        start = time.monotonic()
        append_outcomes(Store(store.path), "e1", batch([50 + i]), seconds=1)
        waits.append(time.monotonic() - start)
    assert thread.is_alive()
    thread.join()
    assert max(waits) < 1.0
    assert "longer" in said[0]


def test_a_persons_own_tables_and_views_are_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    open_evaluation(store, **request())
    append_outcomes(store, "e1", batch(range(20)), seconds=1)
    with store.write() as con:
        con.execute("CREATE SCHEMA lab")
        con.execute("CREATE TABLE lab.notes AS SELECT 'a' AS text")
        con.execute("CREATE VIEW both_of_them AS SELECT count(*) AS n FROM lab.notes, outcomes")
        con.execute("CREATE MACRO half_of(x) AS (SELECT x * count(*) / 2 FROM outcomes)")
    for _ in range(2):
        assert run_query(store, "SELECT * FROM both_of_them").table.to_pylist() == [{"n": 20}]
        assert run_query(store, "SELECT half_of(3) AS x").table.to_pylist() == [{"x": 30}]
        monkeypatch.setattr(sql, "_may_see_the_file", lambda store, sql: False)


def test_strings_are_data(filled: Store) -> None:
    result = run_query(filled, "SELECT '[/foo] drop; table' AS x, 'read_csv' AS y")
    assert result.table.to_pylist() == [{"x": "[/foo] drop; table", "y": "read_csv"}]


def test_without_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound):
        run_query(Store(tmp_path / "none.duckdb"), "SELECT 1")
    assert list(tmp_path.iterdir()) == []
