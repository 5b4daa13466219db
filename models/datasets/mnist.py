"""MNIST and Fashion-MNIST as their authors distribute them: idx files, as they are or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.datasets import official, places
from models.datasets.examples import Examples
from models.datasets.images import ArrayImages
from models.datasets.registry import Dataset

#: No idx file of these datasets is larger, unpacked.
MOST_BYTES = 64 << 20
UNSIGNED_BYTES = 8


def locate(dataset: Dataset, split: str, root: Path) -> Path | None:
    first = next(iter(dataset.options["files"][split]))
    # An absolute folder replaces the root.
    names = [root / folder / name for folder in dataset.options["folders"] for name in (first, f"{first}.gz")]
    found = places.first_existing(names)
    return found and found.parent


def load(dataset: Dataset, split: str, root: Path) -> Examples:
    folder = locate(dataset, split, root)
    assert folder is not None
    (images, first), (labels, second) = (
        _idx(dataset, folder, name, md5, dataset.sizes[split], dimensions)
        for (name, md5), dimensions in zip(dataset.options["files"][split].items(), (3, 1), strict=True)
    )
    return Examples(
        dataset=dataset.name,
        split=split,
        images=ArrayImages(images[:, None], dataset.geometry),
        labels=labels.astype(np.int64),
        n_classes=dataset.n_classes,
        shuffle=f"{dataset.labels_of}/{split}",
        classes=dataset.classes,
        notes=tuple(note for note in (first, second) if note),
    )


def _idx(
    dataset: Dataset, folder: Path, name: str, md5: str, expected: int, dimensions: int
) -> tuple[NDArray[Any], str | None]:
    """The array of bytes in an idx file, with a note when it is not the official one.

    Two zero bytes, a type, the number of dimensions, each dimension as a big-endian 32-bit number, then the values.
    """
    path = places.first_existing([folder / name, folder / f"{name}.gz"]) or folder / name
    content = official.read(path)
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError("it is too large")
        header = 4 + 4 * dimensions
        if content[:4] != bytes((0, 0, UNSIGNED_BYTES, dimensions)) or len(content) < header:
            raise ValueError(f"it is no idx file of bytes in {dimensions} dimensions")
        shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dimensions, 4))
        if len(content) != header + math.prod(shape):
            raise ValueError(f"it should be {header + math.prod(shape)} bytes and is {len(content)}")
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise official.damaged(dataset, path, str(error)) from None
    note = official.check(dataset, path, content, md5, shape[0], expected)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape), note
