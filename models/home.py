"""Where this installation keeps its files. `NASROB_HOME` moves all of it."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """`NASROB_HOME`, else the platform's folder for the data of programs; not made here."""
    given = os.environ.get("NASROB_HOME")
    if given:
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("nasrob-tui", appauthor=False)).absolute()
