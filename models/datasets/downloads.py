"""Fetch datasets with torchvision's downloaders, into a folder aside first: half a download is never taken for data."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import os
import shutil
import socket
import sys
import tarfile
import tempfile
import textwrap
import zipfile
import zlib
from pathlib import Path
from typing import Any

from models.datasets.registry import Dataset
from models.errors import DataError, OutputError

#: A connection that says nothing for this long is given up.
PATIENCE_SECONDS = 30.0


def fetch(dataset: Dataset, root: Path) -> None:
    """Put all splits of a dataset below `root`.

    An archive that lies there already is unpacked rather than fetched again, if it is the official one. Progress
    goes to stderr. Raises `DataError` when the dataset cannot be had this way, now or at all.
    """
    how = dataset.options.get("download")
    if how is None:
        raise DataError(f"{dataset.base} cannot be downloaded by this program: get it from {dataset.get}.")
    try:
        root.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".download-{dataset.base}-", dir=root))
    except OSError as error:
        raise OutputError(f"cannot write to {root}: {error.strerror or error}. Choose another folder.") from None
    patience = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(PATIENCE_SECONDS)
        archive = how.get("archive")
        if archive is not None and (root / archive).is_file():
            (aside / archive).parent.mkdir(parents=True, exist_ok=True)
            # A copy, since the downloader writes over an archive whose MD5 is not the official one.
            shutil.copyfile(root / archive, aside / archive)
        with contextlib.redirect_stdout(sys.stderr):
            _download(how, aside)
        if archive is not None:
            (aside / archive).unlink(missing_ok=True)
        _move(aside, root)
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        ImportError,
        zlib.error,
        http.client.HTTPException,
        tarfile.TarError,
        zipfile.BadZipFile,
    ) as error:
        reason = textwrap.shorten(str(error), 200) or type(error).__name__
        raise DataError(
            f"{dataset.base} could not be downloaded ({reason}): check the network, or get it from {dataset.get} and "
            f"put it below {root} as {dataset.layout}."
        ) from None
    finally:
        socket.setdefaulttimeout(patience)
        shutil.rmtree(aside, ignore_errors=True)


def _download(how: dict[str, str], folder: Path) -> None:
    datasets = importlib.import_module("torchvision.datasets")

    if "url" in how:
        datasets.utils.download_and_extract_archive(how["url"], str(folder), filename=how["archive"], md5=how["md5"])
        return
    kind: Any = getattr(datasets, how["torchvision"])
    # They check MD5 sums. Those that ask for a split fetch one file for each.
    if how["torchvision"] == "SVHN":
        for split in ("train", "test"):
            kind(str(folder), split=split, download=True)
    elif how["torchvision"] == "Flowers102":
        kind(str(folder), split="test", download=True)
    else:
        kind(str(folder), train=False, download=True)


def _move(source: Path, target: Path) -> None:
    """Put what is in one folder into another on the same disk, in place of what has the same name."""
    for path in sorted(source.iterdir()):
        goal = target / path.name
        if path.is_dir() and goal.is_dir():
            _move(path, goal)
        else:
            os.replace(path, goal)
