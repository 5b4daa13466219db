"""SVHN, format 2 (cropped digits), as its authors distribute it: MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.datasets import matlab, official, places
from models.datasets.examples import Examples
from models.datasets.images import ArrayImages
from models.datasets.registry import Dataset


def locate(dataset: Dataset, split: str, root: Path) -> Path | None:
    (name,) = dataset.options["files"][split]
    return places.first_existing(root / folder / name for folder in dataset.options["folders"])


def load(dataset: Dataset, split: str, root: Path) -> Examples:
    """`X` holds bytes (32, 32, 3, n), `y` the digits, with 10 for zero."""
    path = locate(dataset, split, root)
    assert path is not None
    (md5,) = dataset.options["files"][split].values()
    images, digits = matlab.read(dataset, path, "X", "y")
    digits = np.atleast_1d(digits)
    if images.ndim == 3:
        # A single image, squeezed.
        images = images[..., None]
    if images.dtype != np.uint8 or images.shape != (32, 32, 3, digits.size) or digits.ndim != 1:
        raise official.damaged(dataset, path, f"X is {images.shape} and y {digits.shape}, not (32, 32, 3, n) and (n,)")
    labels = digits.astype(np.int64)
    labels[labels == 10] = 0
    note = official.check(dataset, path, official.read(path), md5, len(labels), dataset.sizes[split])
    return Examples(
        dataset=dataset.name,
        split=split,
        images=ArrayImages(np.ascontiguousarray(images.transpose(3, 2, 0, 1)), dataset.geometry),
        labels=labels,
        n_classes=dataset.n_classes,
        shuffle=f"{dataset.labels_of}/{split}",
        classes=dataset.classes,
        notes=(note,) if note else (),
    )
