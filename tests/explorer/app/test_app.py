"""The app as a process: what it loads, how it ends, and that it leaves the terminal as it was."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from explorer import app as entry
from explorer.errors import ExplorerError
from explorer.screens.application import NasrobApp
from explorer.settings import Settings
from tests.explorer.app.support import add_job, begin, claim, text_of, until

ROOT = Path(__file__).parents[3]
LEFT = b"\x1b[?1049l"  # leave the alternate screen


def test_torch_is_never_loaded(settings: Settings) -> None:
    """A walk through every screen, in a process that has loaded nothing else."""
    script = """
        import asyncio, sys
        from pathlib import Path
        from explorer.screens.application import NasrobApp
        from explorer.settings import Settings

        async def walk(home):
            app = NasrobApp(Settings(home, home / "results.duckdb"))
            async with app.run_test(size=(160, 40)) as pilot:
                await pilot.pause(0.5)
                keys = "down p enter escape e escape 2 3 1 l space escape A down enter escape a c escape escape ?"
                for key in keys.split():
                    await pilot.press(key)
                await pilot.pause(0.5)
            assert app.bugs == [], app.bugs

        asyncio.run(walk(Path(sys.argv[1])))
        print([name for name in ("torch", "torchvision") if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(settings.home)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_the_way_in_loads_neither_textual_nor_the_commands() -> None:
    code = "import explorer.cli, explorer.app, sys; print(not {'textual', 'typer', 'pyarrow'}.isdisjoint(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "False"


def test_without_a_terminal_it_says_what_to_do(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEXTUAL_DRIVER", raising=False)
    monkeypatch.setattr(os, "isatty", lambda _: False)
    with pytest.raises(ExplorerError, match=r"needs a terminal.*--headless"):
        entry.run(settings)


async def test_quitting_says_that_jobs_go_on(
    make_app: Callable[..., NasrobApp], settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    job = add_job(settings, "resnet18")
    claim(job)
    begin(job)
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "▸1" in text_of(app))
        await pilot.press("q")
    assert "1 job goes on" in capsys.readouterr().err
    assert app.return_code == 0


class Terminal:
    """The app in a terminal of its own."""

    def __init__(self, home: Path, before: str = "") -> None:
        self.shown = b""
        command = f"{before}\nfrom explorer import app, settings\nraise SystemExit(app.run(settings.load()))"
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.environ |= {"NASROB_HOME": str(home), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
            os.execv(sys.executable, [sys.executable, "-c", command])

    def read_until(self, wanted: bytes, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while wanted not in self.shown:
            assert time.monotonic() < deadline, self.shown[-2000:]
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.terminal, 65536)
                except OSError:
                    break
        assert wanted in self.shown, self.shown[-2000:]

    def end(self, seconds: float = 10.0) -> int:
        """Wait for the end; the exit code."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if select.select([self.terminal], [], [], 0.05)[0]:
                    self.shown += os.read(self.terminal, 65536)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError("it did not end")


@pytest.fixture
def terminal(settings: Settings) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_(before: str = "") -> Terminal:
        opened.append(Terminal(settings.home, before))
        return opened[-1]

    yield open_
    for one in opened:
        if one.pid:
            os.kill(one.pid, signal.SIGKILL)
            os.waitpid(one.pid, 0)
        os.close(one.terminal)


def test_keys_and_quitting_in_a_real_terminal(terminal: Callable[..., Terminal]) -> None:
    noise = "import threading, os; threading.Timer(1.2, lambda: os.write(2, b'native noise')).start()"
    one = terminal(noise)
    one.read_until(b"published elsewhere")
    time.sleep(1.5)
    os.write(one.terminal, b"q")
    assert one.end() == 0
    screen, left, after = one.shown.partition(LEFT)
    assert left
    assert b"native noise" not in screen
    assert b"native noise" in after


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(terminal: Callable[..., Terminal], number: signal.Signals) -> None:
    one = terminal()
    one.read_until(b"published elsewhere")
    os.kill(one.pid, number)
    assert one.end() == 130
    assert LEFT in one.shown
