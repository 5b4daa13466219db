"""Whether files are the official ones, and what to say when they are not."""

from __future__ import annotations

import hashlib
from pathlib import Path

from models.datasets.registry import Dataset
from models.errors import DataError


def read(path: Path) -> bytes:
    """The content of a file; raises `DataError` when it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing: get the dataset again.") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from None


def check(dataset: Dataset, path: Path, content: bytes, md5: str, n: int, expected: int) -> str | None:
    """None when `content` is the official file. Else a note, when it holds another number of examples than the official
    file: somebody's part of it, in the same layout.

    Raises `DataError` when it has all `expected` examples but another MD5: some of them are not what they should be.
    """
    if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5:
        return None
    if n == expected:
        raise damaged(dataset, path, f"its MD5 is not the official {md5}")
    return f"{path.name} is not the official file: it holds {n} examples, not {expected}"


def damaged(dataset: Dataset, path: Path, reason: str) -> DataError:
    """The error for a file that is not what it should be."""
    again = f"`nasrob-tui datasets {dataset.base} --download`" if dataset.downloadable else dataset.get
    return DataError(f"{path} is damaged ({reason}): get it again from {again}.")


def part(dataset: Dataset, split: str, n: int) -> tuple[str, ...]:
    """A note when a split holds another number of examples than the official one."""
    expected = dataset.sizes.get(split, n)
    return () if n == expected else (f"{n} of the {expected} examples of {dataset.base}/{split} are here",)
