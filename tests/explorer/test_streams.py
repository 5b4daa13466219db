"""stdout is for data, whatever the code of somebody else writes there, and however the streams of the process are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

#: A network that writes to stdout in every way there is: when it is imported, built, run, and after the program ended.
NOISY = """
import atexit, ctypes, os, sys
import torch
from torch import nn

def make_noise():
    os.write(1, b"NOISE by descriptor\\n")
    print("NOISE by print")
    print("NOISE by the original stdout", file=sys.__stdout__)
    ctypes.CDLL(None).puts(b"NOISE by C, buffered")
    os.system("echo NOISE by a child")

make_noise()
atexit.register(os.write, 1, b"NOISE at the end\\n")

class Noisy(nn.Sequential):
    calls = 0
    def forward(self, x):
        if self.calls < 3:
            make_noise()
        self.calls += 1
        return super().forward(x)

def net(hidden=4, num_classes=10, in_channels=1):
    make_noise()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Noisy(nn.Flatten(), nn.Linear(64 * in_channels, hidden), nn.Linear(hidden, num_classes))
"""

#: Several command lines in one process, each as if it were the process's own; after each its exit code.
SCRIPT = """
import json, sys
from explorer.cli import run
for words in json.loads(sys.argv[1]):
    sys.argv = ["nasrob-tui", *words]
    code = run()
    sys.stdout.write(f"\\n{code} ended\\n")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "noisy.py").write_text(NOISY, encoding="utf-8")
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "NASROB_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}


def test_noise_of_a_network_is_not_in_the_output_of_any_command(folder: Path, home: Path) -> None:
    import torch
    from torch import nn

    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Linear(6, 10))
    torch.save(network.state_dict(), folder / "w.pt")
    one_thread = ("--threads", "1", "--format", "json")
    commands = [
        ("archs", "show", "noisy:net", "--input-size", "8", "--in-channels", "1", "--format", "json"),
        ("train", "--arch", "noisy:net", "--epochs", "1", *one_thread),
        ("weights", "add", "w.pt", "--arch", "noisy:net", "--set", "hidden=6", "--dataset", "digits", *one_thread),
        ("eval", "--headless", "--arch", "noisy:net", "--attack", "fgsm", "--examples", "20", *one_thread),
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        capture_output=True,
        text=True,
        env=environment(home),
        cwd=folder,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "NOISE" not in done.stdout
    *printed, rest = done.stdout.split("\n0 ended\n")
    assert rest == "", done.stderr
    shown, trained, added, evaluated = (json.loads(text) for text in printed)
    assert shown["params"] == 64 * 4 + 4 + 4 * 10 + 10
    assert (trained[0]["architecture"], added[0]["architecture"]) == ("noisy:net", "noisy:net@hidden=6")
    assert evaluated[0]["status"] == "complete"
    for way in ("by descriptor", "by print", "by the original stdout", "by C, buffered", "by a child", "at the end"):
        assert f"NOISE {way}" in done.stderr


@pytest.mark.parametrize("closed", [{0}, {1}, {2}, {1, 2}, {0, 1, 2}], ids=str)
def test_no_file_gets_the_descriptor_of_a_closed_stream(closed: set[int], tmp_path: Path) -> None:
    """What a network writes to descriptor 1 would else go into the results store."""
    script = """
import os
from explorer.cli.streams import foreign_code, reserve_stdout
reserve_stdout()
store = open("store", "w")
assert store.fileno() > 2, store.fileno()
with foreign_code():
    os.write(1, b"NOISE\\n")
    print("NOISE")
print("data", flush=True)
store.write("results")
"""

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    done = subprocess.run(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        cwd=tmp_path,
        preexec_fn=close,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if 1 in closed else "data\n")
    assert done.stderr == ("" if 2 in closed else "NOISE\nNOISE\n")
    assert (tmp_path / "store").read_text() == "results"


def test_output_stays_where_somebody_captures_it(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a process that is not ours alone nothing is done to its descriptors."""
    from typer.testing import CliRunner

    from explorer.cli.program import app

    (folder / "talking.py").write_text(NOISY.replace("atexit.register", "# atexit.register"), encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "talking", raising=False)

    def streams() -> Any:
        return os.fstat(1).st_ino, sys.stdout, sys.__stdout__

    before = streams()
    words = ("archs", "show", "talking:net", "--input-size", "8", "--in-channels", "1", "--format", "json")
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["params"] == 310
    assert "NOISE by print" in result.stderr
    assert streams() == before
    capfd.readouterr()


def test_the_app_gets_its_terminal_back(tmp_path: Path) -> None:
    """Descriptor 1 leads where it led, and what was printed before comes first."""
    script = """
import os, sys
from explorer.cli.streams import release_stdout, reserve_stdout
reserve_stdout()
reserve_stdout()
print("data")
os.write(1, b"talk\\n")
release_stdout()
os.write(1, b"screen\\n")
print("more data")
"""
    env = environment(tmp_path)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)
    assert (done.stdout, done.stderr) == ("data\nscreen\nmore data\n", "talk\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_the_stream_is_like_that_of_python(unbuffered: str, tmp_path: Path) -> None:
    script = """
import sys
def properties():
    out = sys.stdout
    return out.encoding, out.errors, out.line_buffering, out.write_through, out.isatty(), type(out.buffer).__name__
before = properties()
from explorer.cli.streams import reserve_stdout
reserve_stdout()
assert sys.stdout.fileno() > 2
assert properties() == before, (properties(), before)
print("ünï\\ncode")
"""
    env = environment(tmp_path) | {"PYTHONUNBUFFERED": unbuffered, "PYTHONIOENCODING": "latin-1:replace"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=env)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == "ünï\ncode\n".encode("latin-1")
