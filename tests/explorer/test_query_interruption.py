"""Ctrl-C while a statement of a person's own runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LONG = "SELECT count(*) FROM range(100000000000) AS t(i) WHERE i % 3 = 1"


@pytest.mark.parametrize("turn", range(3))
def test_ctrl_c_ends_a_long_statement(turn: int, home: Path) -> None:
    """Long before its time is over, every time: by itself DuckDB 2.0.1 does not always look."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from explorer.cli import run; "
        f"print('begins', flush=True); sys.exit(run(['sql', {LONG!r}, '--timeout', '600']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "nasrob-tui: interrupted\n"
