"""CIFAR-10 and CIFAR-100 as their authors distribute them: pickled batches of bytes. No code in a pickle is run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.datasets import official, pickles, places
from models.datasets.examples import Examples
from models.datasets.images import ArrayImages
from models.datasets.registry import Dataset


def locate(dataset: Dataset, split: str, root: Path) -> Path | None:
    first = next(iter(dataset.options["files"][split]))
    found = places.first_existing(root / folder / first for folder in dataset.options["folders"])
    return found and found.parent


def load(dataset: Dataset, split: str, root: Path) -> Examples:
    """The batches of a split, in their order. A row holds 1024 red, 1024 green and 1024 blue values."""
    folder = locate(dataset, split, root)
    assert folder is not None
    files: dict[str, str] = dataset.options["files"][split]
    images, labels, notes = [], [], []
    for name, md5 in files.items():
        batch, batch_labels, note = _batch(dataset, folder / name, md5, dataset.sizes[split] // len(files))
        images.append(batch)
        labels.append(batch_labels)
        notes += [note] if note else []
    return Examples(
        dataset=dataset.name,
        split=split,
        images=ArrayImages(np.concatenate(images), dataset.geometry),
        labels=np.concatenate(labels),
        n_classes=dataset.n_classes,
        shuffle=f"{dataset.labels_of}/{split}",
        classes=dataset.classes,
        notes=tuple(notes),
    )


def _batch(
    dataset: Dataset, path: Path, md5: str, expected: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], str | None]:
    """Images uint8 (n, 3, 32, 32) and labels int64 (n,) of one file, with a note when it is not the official one."""
    content = official.read(path)
    try:
        batch = pickles.loads(content)
        rows = batch["data"]
        numbers = batch["labels"] if "labels" in batch else batch["fine_labels"]
        if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape != (len(numbers), 3 * 32 * 32):
            raise ValueError("its images are not rows of 3072 bytes, one for each label")
        if not all(type(n) is int and 0 <= n < dataset.n_classes for n in numbers):
            raise ValueError(f"its labels are not all 0 to {dataset.n_classes - 1}")
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise official.damaged(dataset, path, reason) from None
    note = official.check(dataset, path, content, md5, len(rows), expected)
    return rows.reshape(-1, 3, 32, 32), np.array(numbers, np.int64), note
