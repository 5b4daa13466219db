"""MATLAB files, which SciPy reads: it is not needed for anything else, so it may be absent."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from models.datasets import official
from models.datasets.registry import Dataset
from models.errors import DataError


def read(dataset: Dataset, path: Path, *names: str) -> list[Any]:
    """The variables called `names`, squeezed; raises `DataError` when the file is damaged or SciPy is not installed."""
    try:
        loadmat = importlib.import_module("scipy.io").loadmat
    except ImportError:
        raise DataError(f"{path.name} is a MATLAB file, which SciPy reads: pip install scipy.") from None
    if not path.exists():
        raise DataError(f"{path} is missing: get the dataset again.")
    try:
        content = loadmat(path, squeeze_me=True, variable_names=names)
        return [content[name] for name in names]
    except Exception as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise official.damaged(dataset, path, reason or type(error).__name__) from None
