"""The 1 797 handwritten digits that ship with the package. See digits.README.md for source, licence and split."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from models.datasets.examples import Examples
from models.datasets.fingerprints import fingerprint, with_geometry
from models.datasets.images import ArrayImages
from models.datasets.registry import Dataset
from models.errors import DataError


def locate(dataset: Dataset, split: str, root: Path) -> Path:
    """They are always there."""
    return Path(str(resources.files("models.datasets").joinpath("digits.npz")))


def load(dataset: Dataset, split: str, root: Path) -> Examples:
    """One stored split, in the balanced order in which it is stored; grey levels 0 to 16 become pixels 0 to 1."""
    path = locate(dataset, split, root)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            chosen = data[split].astype(np.int64)
            images, labels = data["images"][chosen], data["labels"][chosen]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"the shipped digits cannot be read ({error}): reinstall nasrob-tui.") from None
    pixels = images.astype(np.float32)[:, None] / np.float32(16)
    geometry = dataset.geometry
    return Examples(
        dataset=dataset.name,
        split=split,
        images=ArrayImages(pixels, geometry) if geometry else pixels,
        labels=labels.astype(np.int64),
        n_classes=dataset.n_classes,
        fingerprint=with_geometry(fingerprint(images, labels), geometry.text if geometry else None),
        classes=dataset.classes,
    )
