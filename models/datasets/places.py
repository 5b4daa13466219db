"""Where data and what is computed from them are kept."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from models import home

DATA_VARIABLE = "NASROB_DATA"


def data_root(root: Path | None = None) -> Path:
    """The folder that datasets lie in: `root`, else `NASROB_DATA`, else `data` below `NASROB_HOME` or below the
    platform's data directory.
    """
    if root is not None:
        return Path(root).expanduser().absolute()
    if given := os.environ.get(DATA_VARIABLE):
        return Path(given).expanduser().absolute()
    return home.folder() / "data"


def cache_folder() -> Path:
    """The folder for what can be computed again: `cache` below `NASROB_HOME`, else the platform's cache directory."""
    if os.environ.get(home.VARIABLE):
        return home.folder() / "cache"
    import platformdirs

    return Path(platformdirs.user_cache_dir(home.APPLICATION, appauthor=False)).absolute()


def first_existing(paths: Iterable[Path]) -> Path | None:
    """The first path that is there."""
    return next((path for path in paths if path.exists()), None)
