"""Fixtures of the store's tests: a store made once and copied, and Python in other processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from store import Store

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a new store. Tests copy it and never open it."""
    path = tmp_path_factory.mktemp("pristine") / "store.duckdb"
    Store(path).ensure()
    return path


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Store:
    path = tmp_path / "store.duckdb"
    shutil.copy(pristine, path)
    return Store(path, timeout=5)


@pytest.fixture
def start_python() -> Callable[..., subprocess.Popen[str]]:
    """Start a script in another process. Its arguments are in `sys.argv[1:]`; `store` and `tests` can be imported."""

    def start(script: str, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def run_python(start_python: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """Run a script in another process to its end and return what it printed; fails if the script does."""

    def run(script: str, *arguments: object) -> str:
        out, err = (process := start_python(script, *arguments)).communicate(timeout=60)
        assert process.returncode == 0, err
        return out

    return run


@pytest.fixture
def visit() -> Callable[[Store, str], None]:
    """Go into the store and out again: by `ensure`, `read` or `write`."""

    def go(store: Store, how: str) -> None:
        if how == "ensure":
            store.ensure()
            return
        with getattr(store, how)():
            pass

    return go
