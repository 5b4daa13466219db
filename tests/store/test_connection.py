"""The gate: who may open the store and when, and what a person is told when it cannot be."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from store import (
    ForeignStore,
    Store,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNotFound,
    StoreTooNew,
    faults,
)

StartPython = Callable[..., "subprocess.Popen[str]"]
RunPython = Callable[..., str]
Holder = Callable[[Store, str], int]
Visit = Callable[[Store, str], None]

HOLD = """
import sys, duckdb
con = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print("held", flush=True)
sys.stdin.read()
"""


def note(store: Store, text: str) -> None:
    with store.write() as con:
        con.execute("INSERT OR REPLACE INTO store_properties VALUES (?, 'x')", [text])


def notes(store: Store) -> set[str]:
    with store.read() as con:
        return {name for (name,) in con.execute("SELECT name FROM store_properties WHERE value = 'x'").fetchall()}


def assert_one_clear_line(error: pytest.ExceptionInfo[StoreError], path: Path) -> None:
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 400


@pytest.fixture
def holder(start_python: StartPython) -> Iterator[Holder]:
    """Another process that opens the store and keeps it until the test ends."""
    processes = []

    def hold(store: Store, mode: str) -> int:
        process = start_python(HOLD, store.path, mode)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process.pid

    yield hold
    for process in processes:
        process.communicate("")


class TestCreation:
    def test_makes_folders_and_changes_nothing_the_second_time(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "a" / "b" / "store.duckdb")
        store.ensure()
        before = store.version_stamp()
        store.ensure()
        assert store.version_stamp() == before
        assert sorted(p.name for p in store.path.parent.iterdir()) == ["store.duckdb", "store.duckdb.lock"]

    def test_writing_creates(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "store.duckdb")
        note(store, "first")
        assert notes(store) == {"first"}

    def test_reading_does_not_create(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "store.duckdb")
        with pytest.raises(StoreNotFound) as error, store.read():
            pass
        assert_one_clear_line(error, store.path)
        assert store.version_stamp() is None
        assert store.owner() is None
        assert list(tmp_path.iterdir()) == []

    def test_by_several_processes_at_once(
        self, tmp_path: Path, start_python: StartPython, run_python: RunPython
    ) -> None:
        script = """
import sys
from pathlib import Path
from store import Store
store = Store(Path(sys.argv[1]))
import duckdb, pyarrow, filelock  # so that all begin at about the same time
sys.stdin.readline()
with store.write() as con:
    con.execute("INSERT INTO store_properties VALUES (?, 'x')", [sys.argv[2]])
"""
        path = tmp_path / "new" / "store.duckdb"
        processes = [start_python(script, path, i) for i in range(3)]
        for process in processes:
            _, err = process.communicate("go\n", timeout=60)
            assert process.returncode == 0, err
        store = Store(path)
        assert notes(store) == {"0", "1", "2"}
        with store.read() as con:
            assert con.execute("SELECT count(*) FROM published").fetchall() == [(63,)]
            assert con.execute("SELECT count(*) - count(DISTINCT name) FROM schema_migrations").fetchall() == [(0,)]
        assert not list(path.parent.glob("*.new*"))

    def test_readable_by_duckdb_1_5(self, store: Store) -> None:
        with store.read() as con:
            tags = con.execute("SELECT tags FROM duckdb_databases() WHERE database_name = 'store'").fetchall()
        assert tags[0][0]["storage_version"].startswith("v1.5")

    def test_what_a_killed_creator_left_is_removed(self, tmp_path: Path) -> None:
        (tmp_path / ".store.duckdb.999999.new").write_bytes(b"half")
        (tmp_path / ".store.duckdb.999999.new.wal").write_bytes(b"half")
        Store(tmp_path / "store.duckdb").ensure()
        assert not list(tmp_path.glob(".store.duckdb*"))

    def test_the_log_of_a_store_that_was_moved_away_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "store.duckdb.wal").write_bytes(b"rows that somebody may miss")
        Store(tmp_path / "store.duckdb").ensure()
        (kept,) = tmp_path.glob("store.duckdb.wal.orphaned-*")
        assert kept.read_bytes() == b"rows that somebody may miss"

    def test_imports_are_light(self, run_python: RunPython) -> None:
        script = """
import sys
import store
print(*sys.modules)
import store.results
for name in store.__all__:
    getattr(store, name)
print(*sys.modules)
"""
        at_first, with_everything = (set(line.split()) for line in run_python(script).splitlines())
        assert not {"duckdb", "pyarrow", "psutil", "filelock", "numpy"} & at_first
        assert not {"torch", "textual", "models", "explorer"} & with_everything


class TestStrangers:
    """Files that are not ours are refused and stay as they are."""

    @staticmethod
    def sqlite_database(path: Path) -> None:
        with sqlite3.connect(path) as con:
            con.execute("CREATE TABLE t (i INTEGER)")
        con.close()

    @staticmethod
    def duckdb_database(path: Path) -> None:
        with duckdb.connect(str(path)) as con:
            con.execute("CREATE TABLE schema_migrations (version INTEGER)")

    @pytest.mark.parametrize(
        ("make", "why"),
        [
            (lambda path: path.touch(), "empty"),
            (lambda path: path.write_text("hello\n"), "not a DuckDB database"),
            (lambda path: path.write_text("hello\n" * 5000), "not a DuckDB database"),
            (sqlite_database, "not a DuckDB database"),
            (duckdb_database, "other contents"),
        ],
        ids=["empty", "short text", "long text", "sqlite", "duckdb"],
    )
    @pytest.mark.parametrize("action", ["ensure", "read", "write"])
    def test_refused(self, tmp_path: Path, visit: Visit, make: Callable[[Path], None], why: str, action: str) -> None:
        path = tmp_path / "store.duckdb"
        make(path)
        before = path.read_bytes()
        store = Store(path, timeout=1)
        with pytest.raises(ForeignStore, match=why) as error:
            visit(store, action)
        assert_one_clear_line(error, path)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("action", ["ensure", "read", "write"])
    def test_a_folder(self, tmp_path: Path, visit: Visit, action: str) -> None:
        store = Store(tmp_path, timeout=1)
        with pytest.raises(ForeignStore, match="is a folder") as error:
            visit(store, action)
        assert_one_clear_line(error, tmp_path)

    @pytest.mark.parametrize("action", ["ensure", "read", "write"])
    def test_below_a_file(self, tmp_path: Path, visit: Visit, action: str) -> None:
        (tmp_path / "file").touch()
        store = Store(tmp_path / "file" / "store.duckdb", timeout=1)
        with pytest.raises(StoreError, match="a file stands where a folder") as error:
            visit(store, action)
        assert_one_clear_line(error, tmp_path / "file")

    def test_an_empty_duckdb_database_becomes_a_store(self, tmp_path: Path) -> None:
        path = tmp_path / "store.duckdb"
        duckdb.connect(str(path)).close()
        store = Store(path)
        store.ensure()
        note(store, "adopted")
        assert notes(store) == {"adopted"}


class TestDamage:
    @pytest.mark.parametrize("fraction", [0.01, 0.5, 0.95])
    def test_truncated(self, store: Store, fraction: float) -> None:
        contents = store.path.read_bytes()
        store.path.write_bytes(contents[: int(len(contents) * fraction)])
        with pytest.raises(StoreCorrupt, match="damaged") as error, store.read() as con:
            con.execute("SELECT * FROM tradeoff").fetchall()
        assert_one_clear_line(error, store.path)

    def test_flipped_bytes(self, store: Store) -> None:
        contents = bytearray(store.path.read_bytes())
        for i in range(20_000, len(contents), 50_000):
            contents[i] ^= 0xFF
        store.path.write_bytes(contents)
        with pytest.raises(StoreCorrupt), store.read() as con:
            con.execute("SELECT * FROM tradeoff").fetchall()

    def test_damaged_log(self, store: Store, run_python: RunPython) -> None:
        script = """
import duckdb, os, sys
con = duckdb.connect(sys.argv[1])
for i in range(20):
    con.execute("INSERT INTO store_properties VALUES (?, 'x')", [f"a property by the number of {i}"])
os._exit(0)
"""
        run_python(script, store.path)
        contents = store.wal_path.read_bytes()
        assert contents.count(b"a property by the number of 7") == 1
        store.wal_path.write_bytes(contents.replace(b"the number of 7", b"the number of 8"))
        with pytest.raises(StoreCorrupt, match=r"\.wal"), store.read():
            pass

    def test_made_by_a_newer_duckdb(self, tmp_path: Path) -> None:
        said = duckdb.IOException(
            "IO Error: Trying to read a database file with version number 69, but we can only read versions between "
            "64 and 68.\nThe database file was created with a newer version of DuckDB."
        )
        error = faults.translate(said, tmp_path / "store.duckdb")
        assert isinstance(error, StoreTooNew)
        assert "upgrade" in str(error)


AS_NOBODY = """
import os, sys
from pathlib import Path
import duckdb, pyarrow, filelock, psutil, store.results, store.schema
from store import Store, StoreError
store.schema.describe()
if os.getuid() == 0:
    os.setuid(65534)
store = Store(Path(sys.argv[1]), timeout=1)
for action in sys.argv[2:]:
    try:
        if action == "ensure":
            store.ensure()
        else:
            with getattr(store, action)() as con:
                con.execute("SELECT count(*) FROM tradeoff").fetchall()
        print("ok")
    except StoreError as error:
        print(type(error).__name__, error)
"""


class TestPermissions:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Iterator[Path]:
        """A folder that everybody may enter. The folders of pytest are closed to other users."""
        for parent in (tmp_path, *tmp_path.parents):
            if parent.owner() == tmp_path.owner() and parent != Path(parent.anchor):
                try:
                    parent.chmod(parent.stat().st_mode | 0o055)
                except PermissionError:
                    break
        folder = tmp_path / "readonly"
        folder.mkdir()
        yield folder
        folder.chmod(0o755)

    def test_a_store_that_may_only_be_read(self, folder: Path, pristine: Path, run_python: RunPython) -> None:
        path = folder / "store.duckdb"
        shutil.copy(pristine, path)
        path.chmod(0o444)
        folder.chmod(0o555)
        read, ensure, write = run_python(AS_NOBODY, path, "read", "ensure", "write").splitlines()
        assert (read, ensure) == ("ok", "ok")
        assert write.startswith("StoreReadOnly")
        assert str(path) in write

    def test_a_folder_that_may_only_be_read(self, folder: Path, run_python: RunPython) -> None:
        folder.chmod(0o555)
        ensure, write = run_python(AS_NOBODY, folder / "deep" / "store.duckdb", "ensure", "write").splitlines()
        assert ensure.startswith("StoreReadOnly")
        assert write.startswith("StoreReadOnly")
        assert list(folder.iterdir()) == []

    def test_a_store_that_may_not_be_read(self, folder: Path, pristine: Path, run_python: RunPython) -> None:
        path = folder / "store.duckdb"
        shutil.copy(pristine, path)
        path.chmod(0o000)
        (read,) = run_python(AS_NOBODY, path, "read").splitlines()
        assert read.startswith("StoreReadOnly")


class TestFullDisk:
    """A limit on the size of files stands for a full disk: the writes fail in the same way, without privileges."""

    SCRIPT = """
import resource, sys
from pathlib import Path
from store import Store, StoreError
store = Store(Path(sys.argv[1]))
import duckdb, pyarrow, filelock
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    if sys.argv[3] == "create":
        store.ensure()
    else:
        with store.write() as con:
            con.execute("INSERT INTO store_properties SELECT uuid(), repeat(uuid()::TEXT, 100) FROM range(20000)")
except StoreError as error:
    print(type(error).__name__, error)
"""

    def test_the_batch_that_does_not_fit_is_refused_and_the_rest_stays(
        self, store: Store, run_python: RunPython
    ) -> None:
        note(store, "before")
        said = run_python(self.SCRIPT, store.path, store.path.stat().st_size + 500_000, "write")
        assert said.startswith(StoreFull.__name__)
        assert "not stored" in said
        assert notes(store) == {"before"}
        note(store, "after")
        assert notes(store) == {"before", "after"}

    def test_creation_leaves_nothing_behind(self, tmp_path: Path, run_python: RunPython) -> None:
        path = tmp_path / "store.duckdb"
        assert run_python(self.SCRIPT, path, 100_000, "create").startswith(StoreFull.__name__)
        assert not path.exists()
        assert not list(tmp_path.glob(".store*"))
        Store(path).ensure()


class TestBusy:
    @pytest.mark.parametrize("action", ["read", "write", "ensure"])
    def test_names_who_holds_it(self, store: Store, holder: Holder, visit: Visit, action: str) -> None:
        pid = holder(store, "write")
        impatient = Store(store.path, timeout=0.3)
        start = time.monotonic()
        with pytest.raises(StoreBusy) as error:
            visit(impatient, action)
        assert 0.25 < time.monotonic() - start < 1.5
        assert error.value.pid == pid
        assert error.value.owner
        assert "python" in error.value.owner
        assert str(pid) in str(error.value)
        assert_one_clear_line(error, store.path)
        owner = impatient.owner()
        assert owner is not None
        assert owner.pid == pid

    def test_a_reader_lets_readers_in_and_keeps_writers_out(self, store: Store, holder: Holder) -> None:
        pid = holder(store, "read")
        impatient = Store(store.path, timeout=0.2)
        assert notes(impatient) == set()
        with pytest.raises(StoreBusy) as error:
            note(impatient, "x")
        assert error.value.pid == pid
        owner = impatient.owner()
        assert owner is not None
        assert owner.pid == pid

    def test_nobody(self, store: Store) -> None:
        before = store.version_stamp()
        assert store.owner() is None
        assert store.version_stamp() == before

    def test_waits_for_a_holder_that_leaves(self, store: Store, start_python: StartPython) -> None:
        process = start_python(HOLD, store.path, "write")
        assert process.stdout is not None
        process.stdout.readline()
        threading.Timer(0.3, lambda: process.communicate("")).start()
        note(store, "patient")
        assert notes(store) == {"patient"}

    def test_threads_take_turns(self, store: Store) -> None:
        def work(i: int) -> None:
            for j in range(3):
                note(store, f"{i}-{j}")
                notes(Store(store.path))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(notes(store)) == 9

    def test_another_thread_that_keeps_it(self, store: Store) -> None:
        inside, leave = threading.Event(), threading.Event()

        def keep() -> None:
            with store.write():
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=keep)
        thread.start()
        inside.wait(10)
        try:
            with pytest.raises(StoreBusy) as error:
                note(Store(store.path, timeout=0.1), "x")
            assert error.value.pid == os.getpid()
        finally:
            leave.set()
            thread.join()

    def test_opening_it_again_in_the_same_thread_is_a_mistake_and_not_a_deadlock(self, store: Store) -> None:
        with store.read(), pytest.raises(RuntimeError, match="already open"), store.write():
            pass


class TestTransactions:
    def test_an_exception_rolls_back(self, store: Store) -> None:
        def write_and_fail() -> None:
            with store.write() as con:
                con.execute("INSERT INTO store_properties VALUES ('lost', 'x')")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_and_fail()
        assert notes(store) == set()

    def test_a_reader_cannot_write(self, store: Store) -> None:
        with pytest.raises(duckdb.InvalidInputException), store.read() as con:
            con.execute("DELETE FROM store_properties")

    def test_stamp_changes_with_every_commit(self, store: Store) -> None:
        stamps = [store.version_stamp()]
        for i in range(3):
            time.sleep(0.02)
            note(store, str(i))
            stamps.append(store.version_stamp())
        assert len(set(stamps)) == 4

    def test_kill_in_the_middle_of_a_write(self, store: Store, start_python: StartPython) -> None:
        script = """
import os, signal, sys
from pathlib import Path
from store import Store
store = Store(Path(sys.argv[1]))
with store.write() as con:
    con.execute("INSERT INTO store_properties VALUES ('committed', 'x')")
with store.write() as con:
    con.execute("INSERT INTO store_properties SELECT 'torn' || i, 'x' FROM range(50000) t(i)")
    print("writing", flush=True)
    sys.stdin.read()
"""
        process = start_python(script, store.path)
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.kill()
        process.communicate()
        assert notes(store) == {"committed"}
        note(store, "later")
        assert notes(store) == {"committed", "later"}

    def test_kill_right_after_a_commit(self, store: Store, start_python: StartPython) -> None:
        script = """
import sys
from pathlib import Path
from store.connection import Store
store = Store(Path(sys.argv[1]))
with store._turn() as deadline, store._queue(deadline):
    con = store._open_for_writing(deadline)
    con.execute("INSERT INTO store_properties VALUES ('in the log', 'x')")
    print("written", flush=True)
    sys.stdin.read()
"""
        process = start_python(script, store.path)
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.kill()
        process.communicate()
        assert store.wal_path.exists()
        assert notes(store) == {"in the log"}


def test_two_writers_and_a_reader_lose_nothing_and_wait_little(store: Store, start_python: StartPython) -> None:
    writer = """
import sys, time
from pathlib import Path
from store import Store
store, me = Store(Path(sys.argv[1])), sys.argv[2]
import duckdb, pyarrow, filelock
worst = 0.0
for i in range(8):
    start = time.monotonic()
    with store.write() as con:
        con.execute("INSERT INTO store_properties VALUES (?, 'x')", [f"{me}-{i}"])
    worst = max(worst, time.monotonic() - start)
    time.sleep(0.15)
print(worst)
"""
    reader = """
import sys, time
from pathlib import Path
from store import Store
store = Store(Path(sys.argv[1]))
import duckdb, pyarrow, filelock
worst, seen = 0.0, 0
for _ in range(16):
    start = time.monotonic()
    with store.read() as con:
        now = con.execute("SELECT count(*) FROM store_properties WHERE value = 'x'").fetchall()[0][0]
    worst = max(worst, time.monotonic() - start)
    assert now >= seen
    seen = now
    time.sleep(0.08)
print(worst)
"""
    processes = [start_python(writer, store.path, "a"), start_python(writer, store.path, "b")]
    processes.append(start_python(reader, store.path))
    waits = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        waits.append(float(out))
    assert notes(store) == {f"{me}-{i}" for me in "ab" for i in range(8)}
    assert max(waits) < 1.0
