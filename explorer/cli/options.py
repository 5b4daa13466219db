"""What several commands share: options, and the way into the app."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from explorer.errors import ExplorerError
from explorer.render import Format

if TYPE_CHECKING:
    from explorer.settings import Settings

StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Results file (default: results.duckdb below NASROB_HOME).")
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print: for people, or for programs.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:<n> or mps.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads to use (default: as many as torch takes).")
]
DataRootOption = Annotated[
    Path | None,
    typer.Option("--data-root", help="Folder that datasets lie in (default: NASROB_DATA, or data below NASROB_HOME)."),
]
DownloadOption = Annotated[bool, typer.Option("--download", help="Fetch the dataset if it is not here.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="An option of the architecture, such as init_channels=16. Repeatable."
    ),
]


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
