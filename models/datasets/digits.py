"""The 1 797 handwritten digits that ship with the package. See digits.README.md for source, licence and split."""

from __future__ import annotations

from importlib import resources

import numpy as np

from models.datasets.registry import Examples, fingerprint
from models.errors import DataError


def load(split: str) -> Examples:
    """One stored split; grey levels 0 to 16 become pixels 0 to 1."""
    path = resources.files("models.datasets").joinpath("digits.npz")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            chosen = data[split].astype(np.int64)
            images, labels = data["images"][chosen], data["labels"][chosen]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"the shipped digits cannot be read ({error}): reinstall nasrob-tui.") from None
    return Examples(
        dataset="digits",
        split=split,
        images=images.astype(np.float32)[:, None] / np.float32(16),
        labels=labels.astype(np.int64),
        n_classes=10,
        fingerprint=fingerprint(images, labels),
    )
