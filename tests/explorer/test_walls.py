"""The walls between the rooms, and what starting up must not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imported(code: str, **env: str) -> set[str]:
    """The top-level packages in `sys.modules` after `code` ran in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **env},
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("words", [["--help"], ["eval", "--help"], ["train", "--help"], ["archs"], ["attacks"]])
def test_command_line_starts_without_torch_and_textual(words: list[str], tmp_path: Path) -> None:
    code = "import contextlib, io\nfrom explorer.cli import run\n"
    code += f"with contextlib.redirect_stdout(io.StringIO()): run({words})"
    found = imported(code, NASROB_HOME=str(tmp_path))
    assert not found & {"torch", "textual", "torchvision", "duckdb"}


def test_help_answers_at_once() -> None:
    """0.4 s is the promise; the least of three runs, so that a busy machine does not fail the test."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-P", "-m", "nasrob_tui", "--help"], capture_output=True, text=True, check=True
        )
        times.append(time.perf_counter() - began)
    assert "Usage: nasrob-tui" in done.stdout
    assert min(times) < 0.4


def test_store_needs_no_torch_and_models_catalogues_need_none_either() -> None:
    found = imported("import store, store.results, store.mirror, store.sql, store.schema, store.connection")
    assert not found & {"torch", "textual", "models", "explorer"}
    found = imported(
        "import models.specs, models.architectures.registry as a, models.attacks.registry as b, "
        "models.datasets.registry as d, models.weights.catalogue, models.training.recipes\n"
        "a.entries(); b.entries(); d.load('digits', 'test')"
    )
    assert not found & {"torch", "textual", "store", "explorer"}


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_torch_is_imported_in_the_models_room_alone() -> None:
    outside = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for room in ("store", "explorer")
        for path in (ROOT / room).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith(("import torch", "from torch"))
    ]
    assert outside == []


def test_a_folder_that_shadows_a_room_is_named(tmp_path: Path) -> None:
    """The names are common words: somebody else's `models` on PYTHONPATH must not be taken for ours."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import nasrob_tui; nasrob_tui.main()"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    )
    assert done.returncode == 2
    assert str(tmp_path / "models") in done.stderr
    assert "PYTHONPATH" in done.stderr
    assert "Traceback" not in done.stderr
