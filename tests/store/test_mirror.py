"""The copy in memory: fresh when it says so, and never in anybody's way."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from store import Mirror, Store, StoreBusy
from store.results import append_outcomes, finish_evaluation, open_evaluation
from tests.store.rows import batch, request
from tests.store.test_connection import HOLD


def settle() -> None:
    """Let the clock of the file system move on, so that a time stamp tells about changes."""
    time.sleep(0.06)


def test_creates_a_store_where_there_is_none(tmp_path: Path) -> None:
    mirror = Mirror(Store(tmp_path / "new" / "store.duckdb"))
    assert mirror.refresh()
    assert mirror.count == 141


def test_copies_only_when_something_changed(store: Store) -> None:
    settle()
    mirror = Mirror(store)
    assert mirror.stale
    assert mirror.refresh()
    assert not mirror.stale
    assert not mirror.refresh()
    open_evaluation(store, **request())
    assert mirror.stale
    assert mirror.refresh()
    assert mirror.count == 142


def test_a_change_within_one_tick_of_the_clock_is_not_missed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two commits so close that the file has the same size and time stamp after both.
    stamp = (time.time_ns() + 10**9, 1, 1)
    monkeypatch.setattr(Store, "version_stamp", lambda self: stamp)
    mirror = Mirror(store)
    mirror.refresh()
    open_evaluation(store, **request())
    assert mirror.refresh()
    assert mirror.count == 142


def test_shows_the_same_as_the_store_as_a_view_and_as_a_table(store: Store) -> None:
    open_evaluation(store, **request())
    append_outcomes(store, "e1", batch(range(50)), seconds=1)
    finish_evaluation(store, "e1", status="partial", warnings=["[/x]"])
    opened = open_evaluation(store, **request(), force=True)
    append_outcomes(store, opened.evaluation_id, batch(range(50)), seconds=1)
    settle()
    ordered = "FROM tradeoff ORDER BY row_key"
    with store.read() as con:
        expected = con.sql(ordered).to_arrow_table()
    mirror = Mirror(store)
    mirror.refresh()
    assert mirror.query(ordered) == expected
    assert mirror.count == expected.num_rows == 142
    mirror.refresh()
    assert mirror.query(ordered) == expected
    assert mirror.query(
        "SELECT table_type FROM information_schema.tables WHERE table_name = 'tradeoff'"
    ).to_pylist() == [{"table_type": "BASE TABLE"}]


def test_holds_views_macros_and_small_tables(store: Store) -> None:
    mirror = Mirror(store)
    mirror.refresh()
    assert mirror.query("SELECT hrs(60, 30) AS hrs, wilson_low(0, 5) AS low").to_pylist() == [{"hrs": 40, "low": 0}]
    assert mirror.query("FROM published").num_rows == 63
    assert mirror.query("SELECT ? AS x FROM attacks", ["[/foo]"]).num_rows == 0


def test_before_the_first_refresh_and_after_closing(store: Store) -> None:
    mirror = Mirror(store)
    with pytest.raises(RuntimeError, match="refresh"):
        mirror.query("SELECT 1")
    mirror.refresh()
    mirror.close()
    with pytest.raises(RuntimeError, match="refresh"):
        mirror.query("SELECT 1")
    assert mirror.refresh()


def test_keeps_the_old_data_while_the_store_is_busy(
    store: Store, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    mirror = Mirror(Store(store.path, timeout=0.2))
    mirror.refresh()
    open_evaluation(store, **request())
    holder = start_python(HOLD, store.path, "write")
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        assert not mirror.refresh()
        assert mirror.busy is not None
        assert mirror.busy.pid == holder.pid
        assert mirror.count == mirror.query("FROM tradeoff").num_rows == 141
        with pytest.raises(StoreBusy):
            Mirror(Store(store.path, timeout=0.2)).refresh()
    finally:
        holder.communicate("")
    assert mirror.refresh()
    assert mirror.busy is None
    assert mirror.count == 142


def test_queries_from_threads_while_it_refreshes(store: Store) -> None:
    mirror = Mirror(store)
    mirror.refresh()
    stop = threading.Event()
    failures: list[BaseException] = []

    def look() -> None:
        before = 0
        try:
            while not stop.is_set():
                now = mirror.query("SELECT count(*) AS n FROM tradeoff").to_pylist()[0]["n"]
                assert now >= before
                before = now
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(4):
        open_evaluation(store, **request(f"e{i}"))
        mirror.refresh()
        if i % 2:
            settle()
            mirror.refresh()
            mirror.refresh()  # makes it a table under the readers' eyes
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert mirror.query("FROM tradeoff").num_rows == 145
