"""Where this installation keeps its files. `NASROB_HOME` moves all of it."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "NASROB_HOME"
APPLICATION = "nasrob-tui"


def folder() -> Path:
    """`NASROB_HOME`, else the platform's folder for the data of programs; not made here."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir(APPLICATION, appauthor=False)).absolute()
