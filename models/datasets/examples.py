"""The examples of one split: labels, a stable order, a fingerprint, and pixels when they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.datasets.fingerprints import Progress
from models.datasets.images import ArrayImages, Images, Positions
from models.datasets.subsets import balanced_order
from models.errors import DataError, InvalidSpec

#: Splits whose float32 pixels need more than this are read a batch at a time.
MEMORY_BYTES = 2 << 30


class Examples:
    """The examples of one split. A position is an index into the split's natural order, from 0.

    `labels` int64 (n,); `pixels(positions)` gives float32 (k, channels, height, width) in [0, 1]. `classes` are the
    names of the classes where they are known; `notes` are what a reader of results on these examples should know, such
    as that they are a part of the official set.
    """

    def __init__(
        self,
        dataset: str,
        split: str,
        images: NDArray[Any] | Images,
        labels: NDArray[np.int64],
        n_classes: int,
        fingerprint: str | None = None,
        *,
        shuffle: str | None = None,
        classes: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        """`images` is an array (n, channels, height, width), float32 in [0, 1] or uint8, or where to read them.

        Without a `fingerprint` it is taken of the content when first asked for. `shuffle` seeds the stored order (see
        `balanced_order`); without it examples are stored as they come. Raises `DataError` when images and labels do not
        fit each other or are out of range.
        """
        self.dataset = dataset
        self.split = split
        self.labels = labels
        self.n_classes = n_classes
        self.classes = classes
        self.notes = notes
        self._fingerprint = fingerprint
        self._shuffle = shuffle
        self._order: NDArray[np.int64] | None = None
        if isinstance(images, Images):
            self._images = images
        else:
            if images.ndim != 4 or len(images) != len(labels):
                raise DataError(f"{dataset}/{split}: images {images.shape} and labels {labels.shape} do not match.")
            self._check_range(images)
            self._images = ArrayImages(images)
        if len(self._images) != len(labels):
            raise DataError(f"{dataset}/{split}: there are {len(self._images)} images and {len(labels)} labels.")
        if not len(labels):
            raise DataError(f"{dataset}/{split} has no examples.")
        if not (labels.min() >= 0 and labels.max() < n_classes):
            raise DataError(f"{dataset}/{split}: labels must be 0 to {n_classes - 1}.")

    def _check_range(self, images: NDArray[Any]) -> None:
        if images.dtype == np.uint8 or not images.size:
            return
        low, high = float(images.min()), float(images.max())
        if not (low >= 0.0 and high <= 1.0):
            raise DataError(
                f"{self.dataset}/{self.split}: images range from {low:g} to {high:g}; they must be [0, 1] pixels. "
                "Normalisation is the model's first layer, not the data's."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self._images.shape

    def pixels(self, positions: Positions) -> NDArray[np.float32]:
        """The images at `positions`, float32 (k, channels, height, width) in [0, 1]: a new array.

        Raises `DataError` for an image file that is damaged or gone.
        """
        return self._images.pixels(positions)

    def prefetch(self, positions: Positions) -> None:
        """Begin to decode images that will be asked for soon, in other threads."""
        self._images.prefetch(positions)

    def original(self, position: int) -> NDArray[Any]:
        """One image as stored, before any geometry: (channels, height, width), uint8 or float32 in [0, 1]."""
        return self._images.original(position)

    @property
    def in_memory(self) -> bool:
        """Whether all images together are few enough to be held as float32."""
        return 4 * len(self) * int(np.prod(self.image_shape)) <= MEMORY_BYTES

    @property
    def images(self) -> NDArray[np.float32]:
        """All images, float32 (n, channels, height, width); raises `DataError` when they are too many for that.

        Made anew at each call, unless they are float32 in memory already.
        """
        stored = self._images.array if isinstance(self._images, ArrayImages) and not self._images.geometry else None
        if stored is not None and stored.dtype == np.float32:
            return stored
        if not self.in_memory:
            raise DataError(
                f"{self.dataset}/{self.split} has {len(self)} images of {'x'.join(map(str, self.image_shape))}, too "
                "many to hold at once: read them in batches."
            )
        return self.pixels(np.arange(len(self)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of content and geometry; see `take_fingerprint`."""
        return self.take_fingerprint()

    def take_fingerprint(self, progress: Progress = lambda done, total: None) -> str:
        """The fingerprint, taken now if it was not yet: the first time, that reads every file of the split through.

        `progress` is told the number of files done and of all.
        """
        if self._fingerprint is None:
            self._fingerprint = self._images.fingerprint(self.labels, progress)
        return self._fingerprint

    @property
    def identifier(self) -> str:
        """Name, split and the beginning of the fingerprint, for people: `digits/test#a3f1c2d4`."""
        return f"{self.dataset}/{self.split}#{self.fingerprint[:8]}"

    @property
    def order(self) -> NDArray[np.int64]:
        """The stored order: positions (n,), class-balanced from the beginning, the same on every machine."""
        if self._order is None:
            n = len(self)
            self._order = balanced_order(self.labels, self._shuffle) if self._shuffle else np.arange(n, dtype=np.int64)
        return self._order

    def subset(self, n: int | None) -> NDArray[np.int64]:
        """Positions of the first `n` examples in stored order (all when None): the same for every model.

        Raises `InvalidSpec` when there are not that many.
        """
        if n is None:
            return self.order.copy()
        if not 1 <= n <= len(self):
            raise InvalidSpec(
                f"{self.dataset}/{self.split} has {len(self)} examples: ask for 1 to {len(self)}, not {n}."
            )
        return self.order[:n].copy()

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of examples of each class, int64 (n_classes,)."""
        return np.bincount(self.labels, minlength=self.n_classes).astype(np.int64)
