"""The way into the app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explorer.errors import ExplorerError

if TYPE_CHECKING:
    from explorer.settings import Settings


def open_app(settings: Settings, focus_job: int | None = None) -> int:
    """Open the app, on a job if one is given; returns its exit code. Raises `ExplorerError` without a terminal."""
    import sys

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ExplorerError(
            "the app needs a terminal. In scripts use `nasrob-tui eval --headless`; "
            "`nasrob-tui --help` lists the commands."
        )
    from explorer.app import run
    from explorer.cli.streams import release_stdout

    release_stdout()
    return run(settings, focus_job=focus_job)
