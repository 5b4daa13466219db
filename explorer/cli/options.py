"""What several commands share: options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from explorer.render import Format

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
