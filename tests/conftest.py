"""What several tests need: a home of their own, and a small network trained once."""

from __future__ import annotations

import os

# Before torch is imported anywhere: two threads a process on two cores are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# What comes with the package would be in every store: tests that want it say so.
os.environ["NASROB_SHIPPED"] = "off"

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty NASROB_HOME."""
    folder = tmp_path / "home"
    monkeypatch.setenv("NASROB_HOME", str(folder))
    return folder


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT is KeyboardInterrupt, as in a terminal: started in the background, Python leaves it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small ResNet on digits: about 95 % clean accuracy, no robustness to speak of at 32/255."""
    from tests.support import train_small

    return train_small(tmp_path_factory.mktemp("weights"), "resnet18", width=8, epochs=6)


@pytest.fixture
def home_with_weights(home: Path, trained: Path) -> Path:
    """A NASROB_HOME in which `resnet18@width=8` has weights for digits."""
    folder = home / "weights" / "digits"
    folder.mkdir(parents=True)
    (folder / trained.name).write_bytes(trained.read_bytes())
    return home


@pytest.fixture
def cli(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process; returns exit code, stdout, stderr."""
    from explorer.cli import run

    def call(*words: str) -> tuple[int, str, str]:
        code = run(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
