"""Oxford Flowers-102 as its authors distribute it: JPEG files, labels and splits in MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.datasets import matlab, official, places, trees
from models.datasets.examples import Examples
from models.datasets.registry import Dataset

#: How `setid.mat` calls the splits.
IDS = {"train": "trnid", "val": "valid", "test": "tstid"}
LABELS, SETS = "imagelabels.mat", "setid.mat"


def locate(dataset: Dataset, split: str, root: Path) -> Path | None:
    found = places.first_existing(root / folder / SETS for folder in dataset.options["folders"])
    return found and found.parent


def load(dataset: Dataset, split: str, root: Path) -> Examples:
    """Image `i`, counted from 1, has label `labels[i - 1]`, itself counted from 1."""
    folder = locate(dataset, split, root)
    assert folder is not None
    (ids,) = matlab.read(dataset, folder / SETS, IDS[split])
    (labels,) = matlab.read(dataset, folder / LABELS, "labels")
    ids, labels = np.atleast_1d(ids), np.atleast_1d(labels)
    if not (ids.dtype.kind in "iu" and ids.size and ids.min() >= 1 and ids.max() <= labels.size):
        raise official.damaged(dataset, folder / SETS, f"its {split} images are not all in {LABELS}")
    names = [f"image_{int(i):05d}.jpg" for i in ids]
    files = [
        (name, str(folder / "jpg" / name), int(labels[int(i) - 1]) - 1) for name, i in zip(names, ids, strict=True)
    ]
    return trees.examples_of(dataset, split, files, notes=official.part(dataset, split, len(files)))
