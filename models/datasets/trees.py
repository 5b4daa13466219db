"""Image files in folders: which there are, and examples made of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from models.datasets.examples import Examples
from models.datasets.images import EXTENSIONS, FileImages
from models.datasets.registry import Dataset
from models.errors import DataError


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are none. Raises `DataError` when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror or error}.") from None


def image_files(folder: Path) -> list[str]:
    """Image files anywhere below a folder, as paths relative to it with /, sorted; hidden files are none."""
    return sorted(_walk(str(folder), ""))


def _walk(folder: str, prefix: str, depth: int = 0) -> Iterator[str]:
    if depth > 8:
        raise DataError(f"{folder} lies too deep: does a link lead back to a folder above?")
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror or error}.") from None
    for entry in found:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", depth + 1)
        elif is_image(entry.name):
            yield prefix + entry.name


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def examples_of(
    dataset: Dataset,
    split: str,
    files: Sequence[tuple[str, str, int]],
    *,
    classes: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> Examples:
    """Examples of image files, each given by its name within the dataset, its path and its label.

    Their natural order is that of the names, so it does not depend on where and in which folders the files lie.
    """
    ordered = sorted(files)
    native = dataset.native or dataset
    return Examples(
        dataset=dataset.name,
        split=split,
        images=FileImages(
            [key for key, _, _ in ordered], [path for _, path, _ in ordered], native.image_shape, dataset.geometry
        ),
        labels=np.fromiter((label for _, _, label in ordered), np.int64, len(ordered)),
        n_classes=dataset.n_classes,
        shuffle=f"{dataset.base if dataset.base == 'folder' else dataset.labels_of}/{split}",
        classes=dataset.classes if classes is None else classes,
        notes=notes,
    )
