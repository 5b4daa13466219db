"""The one registry of datasets. Torch-free: examples are NumPy arrays until an evaluation puts them on a device."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from models.errors import DataError, InvalidSpec, UnknownName
from models.specs import Preprocessing, digest


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied: padding of the random crop, mirror, side of the cutout square, in pixels."""

    crop_padding: int
    mirror: bool
    cutout: int


@dataclass(frozen=True)
class Dataset:
    """A registry entry: what the examples are, where they come from, and what a model of them looks like."""

    name: str
    description: str
    source: str
    license: str
    loader: str
    splits: tuple[str, ...]
    n_classes: int
    image_shape: tuple[int, int, int]
    preprocessing: Preprocessing
    augmentation: Augmentation
    #: Networks of the published size would be wasted on these images: architectures default to their small options.
    small: bool


@dataclass(frozen=True)
class Examples:
    """The examples of one split in their stored order.

    `images` float32 (n, channels, height, width) in [0, 1]; `labels` int64 (n,).
    """

    dataset: str
    split: str
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    n_classes: int
    fingerprint: str

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) != len(self.labels):
            raise DataError(
                f"{self.dataset}/{self.split}: images {self.images.shape} and labels {self.labels.shape} do not match."
            )
        low, high = float(self.images.min()), float(self.images.max())
        if not (low >= 0.0 and high <= 1.0):
            raise DataError(
                f"{self.dataset}/{self.split}: images range from {low:g} to {high:g}; they must be [0, 1] pixels. "
                "Normalisation is the model's first layer, not the data's."
            )
        if len(self.labels) and not (self.labels.min() >= 0 and self.labels.max() < self.n_classes):
            raise DataError(f"{self.dataset}/{self.split}: labels must be 0 to {self.n_classes - 1}.")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def identifier(self) -> str:
        """Name, split and the beginning of the fingerprint, for people: `digits/test#a3f1c2d4`."""
        return f"{self.dataset}/{self.split}#{self.fingerprint[:8]}"

    def subset(self, n: int | None) -> NDArray[np.int64]:
        """Positions of the first `n` examples in stored order (all when None): the same for every model.

        Raises `InvalidSpec` when there are not that many.
        """
        if n is None:
            return np.arange(len(self), dtype=np.int64)
        if not 1 <= n <= len(self):
            raise InvalidSpec(
                f"{self.dataset}/{self.split} has {len(self)} examples: ask for 1 to {len(self)}, not {n}."
            )
        return np.arange(n, dtype=np.int64)


def subset_digest(indices: NDArray[np.int64]) -> str:
    """Identity of a list of examples, in order."""
    return digest([int(i) for i in indices])


def fingerprint(images: NDArray[np.generic], labels: NDArray[np.generic]) -> str:
    """SHA-256 over shape, type and bytes of images and labels in stored order."""
    sha = hashlib.sha256()
    for array in (images, labels):
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


_DATASETS = (
    Dataset(
        name="digits",
        description="1 797 real handwritten digits, 8x8 grey scans",
        source="Alpaydin and Kaynak, UCI Optical Recognition of Handwritten Digits, 1998, doi:10.24432/C50P49",
        license="CC BY 4.0",
        loader="models.datasets.digits:load",
        splits=("train", "test"),
        n_classes=10,
        image_shape=(1, 8, 8),
        preprocessing=Preprocessing(mean=(0.3048,), std=(0.3755,)),
        augmentation=Augmentation(crop_padding=1, mirror=False, cutout=4),
        small=True,
    ),
)


def entries() -> dict[str, Dataset]:
    return {d.name: d for d in _DATASETS}


def find(name: str) -> Dataset:
    """The dataset called `name`; raises `UnknownName` with the nearest known ones."""
    known = entries()
    if name.strip().lower() in known:
        return known[name.strip().lower()]
    raise UnknownName("dataset", name, known, listing="nasrob-tui datasets")


@cache
def load(name: str, split: str) -> Examples:
    """The examples of one split; raises `DataError` when they are missing or damaged."""
    dataset = find(name)
    if split not in dataset.splits:
        raise InvalidSpec(f"{name} has no split {split!r}: {', '.join(dataset.splits)}.")
    module, _, function = dataset.loader.partition(":")
    examples: Examples = getattr(importlib.import_module(module), function)(split)
    if examples.images.shape[1:] != dataset.image_shape:
        raise DataError(f"{name}/{split}: images are {examples.images.shape[1:]}, expected {dataset.image_shape}.")
    return examples
