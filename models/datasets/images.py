"""Where the pixels of a split come from: an array in memory, or image files, decoded when they are asked for."""

from __future__ import annotations

import os
import struct
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.datasets.fingerprints import FileState, Progress, files_fingerprint, fingerprint, hash_files, workers
from models.datasets.fingerprints import with_geometry as fingerprint_with_geometry
from models.datasets.geometry import Geometry
from models.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

#: Decoded images that are kept in case they are asked for again, in bytes.
KEPT_BYTES = 256 << 20

#: What torchvision takes for an image file.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

Positions = NDArray[np.int64] | Sequence[int]


class Images(ABC):
    """The images of a split in its natural order, all of one `shape` (channels, height, width)."""

    shape: tuple[int, int, int]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pixels(self, positions: Positions) -> NDArray[np.float32]:
        """The images at `positions` as float32 (k, channels, height, width) in [0, 1], a new array."""

    @abstractmethod
    def original(self, position: int) -> NDArray[Any]:
        """One image as it is stored, before any geometry: (channels, height, width), uint8 or float32 in [0, 1]."""

    @abstractmethod
    def fingerprint(self, labels: NDArray[np.int64], progress: Progress) -> str:
        """The SHA-256 of these images with their labels."""

    def prefetch(self, positions: Positions) -> None:  # noqa: B027 - images in memory need none
        """Begin to decode images that will be asked for soon."""


class ArrayImages(Images):
    """An array (n, channels, height, width), uint8 or float32 in [0, 1]; as stored, or seen through a geometry.

    Bytes stay bytes in memory and become pixels, value / 255 as torchvision's `ToTensor` has it, when asked for.
    """

    def __init__(self, array: NDArray[Any], geometry: Geometry | None = None) -> None:
        self.array = array
        self.geometry = geometry
        side = (geometry.crop, geometry.crop) if geometry else (array.shape[2], array.shape[3])
        self.shape = (array.shape[1], *side)

    def __len__(self) -> int:
        return len(self.array)

    def pixels(self, positions: Positions) -> NDArray[np.float32]:
        chosen = self.array[np.asarray(positions, np.int64)]
        if self.geometry is None:
            return _floats(chosen)
        if not len(chosen):
            return np.empty((0, *self.shape), np.float32)
        return np.stack([_floats(self._resized(image, self.geometry)) for image in chosen])

    def _resized(self, image: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
        from PIL import Image as pillow

        if image.dtype == np.uint8 and len(image) == 3:
            return _planes(geometry.apply(pillow.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))), "an image"))
        # Channel by channel; bicubic weights can leave [0, 1].
        channels = [np.asarray(geometry.apply(pillow.fromarray(channel), "an image")) for channel in image]
        stacked = np.stack(channels)
        return stacked if image.dtype == np.uint8 else np.clip(stacked, 0.0, 1.0)

    def original(self, position: int) -> NDArray[Any]:
        stored: NDArray[Any] = self.array[position]
        return stored

    def fingerprint(self, labels: NDArray[np.int64], progress: Progress) -> str:
        content = fingerprint(self.array, labels.astype("<i8"))
        return fingerprint_with_geometry(content, self.geometry.text if self.geometry else None)


class FileImages(Images):
    """Image files, decoded by a few threads when their pixels are asked for; the latest are kept for a while.

    `keys` name the files within the dataset and `paths` on this machine, in the same order. Files are brought to
    `channels` (1 grey, 3 RGB) as torchvision's loader does: grey images become RGB, CMYK is converted, transparency is
    dropped, EXIF orientation is ignored. `shape` is that of every image where there is no geometry. One thread at a
    time may call.
    """

    def __init__(
        self, keys: Sequence[str], paths: Sequence[str], shape: tuple[int, int, int], geometry: Geometry | None
    ) -> None:
        self.keys = keys
        self.paths = paths
        self.channels = shape[0]
        self.geometry = geometry
        self.shape = (shape[0], geometry.crop, geometry.crop) if geometry else shape
        self._states: list[FileState] | None = None
        self._kept: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._coming: dict[int, Future[NDArray[np.uint8]]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def pixels(self, positions: Positions) -> NDArray[np.float32]:
        wanted = [int(i) for i in positions]
        self.prefetch(wanted)
        found = np.empty((len(wanted), *self.shape), np.float32)
        for row, i in enumerate(wanted):
            found[row] = _floats(self._take(i))
        return found

    def prefetch(self, positions: Positions) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=workers(), thread_name_prefix="decode")
        for i in map(int, positions):
            if i not in self._kept and i not in self._coming:
                self._coming[i] = self._pool.submit(self._decode, i)

    def _take(self, i: int) -> NDArray[np.uint8]:
        if i in self._coming:
            self._kept[i] = self._coming.pop(i).result()
        image = self._kept.get(i)
        if image is None:
            # It was pushed out by the others of a block that is larger than what is kept.
            image = self._kept[i] = self._decode(i)
        self._kept.move_to_end(i)
        while len(self._kept) * image.nbytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return image

    def _decode(self, i: int) -> NDArray[np.uint8]:
        image = self._open(i)
        if self.geometry is not None:
            image = self.geometry.apply(image, self.paths[i])
        planes = _planes(image)
        if planes.shape != self.shape:
            size = f"{planes.shape[2]}x{planes.shape[1]}"
            raise DataError(
                f"{self.paths[i]} is {size} pixels, not {self.shape[2]}x{self.shape[1]} as all of this dataset are: "
                "get the file again."
            )
        return planes

    def original(self, position: int) -> NDArray[Any]:
        return _planes(self._open(position))

    def _open(self, i: int) -> Image:
        """The whole image in the wanted mode; raises `DataError` for a file that is damaged, gone or changed."""
        from PIL import Image as pillow

        path = self.paths[i]
        try:
            with open(path, "rb") as file:
                now = os.fstat(file.fileno())
                if not now.st_size:
                    raise ValueError("it is empty")
                if self._states is not None:
                    then = self._states[i]
                    if (now.st_size, now.st_mtime_ns) != (then.size, then.mtime_ns):
                        raise DataError(f"{path} has changed since its dataset was fingerprinted: start again.")
                with pillow.open(file) as image:
                    image.load()
                    return _in_mode(image, "L" if self.channels == 1 else "RGB", path)
        except FileNotFoundError:
            raise DataError(f"{path} is missing: get the dataset again, or put the file back.") from None
        except (
            OSError,
            SyntaxError,
            ValueError,
            EOFError,
            IndexError,
            KeyError,
            TypeError,
            struct.error,
            pillow.DecompressionBombError,
        ) as error:
            raise DataError(
                f"{path} cannot be read as an image ({_reason(error, path)}): get the file again, or take it out of "
                "the dataset."
            ) from None

    def fingerprint(self, labels: NDArray[np.int64], progress: Progress) -> str:
        self._states = hash_files(self.paths, progress)
        content = files_fingerprint(self.keys, labels, [state.sha256 for state in self._states])
        return fingerprint_with_geometry(content, self.geometry.text if self.geometry else None)


def _reason(error: Exception, path: str) -> str:
    """What is wrong with an image file, without the names that Python has for open files."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is in no image format that Pillow knows"
    if isinstance(error, struct.error):
        return "it is cut short"
    return str(error).strip().partition("\n")[0].replace(path, "the file") or type(error).__name__


def _in_mode(image: Image, mode: str, path: str) -> Image:
    from PIL import Image as pillow

    if image.mode == mode:
        return image.copy()
    if image.mode.startswith("I;16"):
        # Pillow would cut 16-bit grey levels off at 255; their high byte is the picture.
        image = pillow.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise DataError(f"{path} has 32-bit grey levels of unknown range: convert it to 8 bits a channel.")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def _planes(image: Image) -> NDArray[np.uint8]:
    """A Pillow image as uint8 (channels, height, width)."""
    array = np.asarray(image)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def _floats(array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype != np.uint8:
        return array.astype(np.float32, copy=False)
    found = array.astype(np.float32)
    found /= np.float32(255)
    return found
