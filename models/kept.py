"""Adversarial examples that are kept: the images that broke a model, and what the model says of them in 8 bits.

A file of them is a compressed NumPy archive. Torch is imported only where the model is asked again, so that a list of
what was kept needs none.
"""

from __future__ import annotations

import heapq
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from models.errors import DataError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

    from models.evaluation import Evaluator

#: Version of the layout of a file.
VERSION = 1

#: The prediction where the logits are not finite.
NONE = -1

Numbers = NDArray[np.int64]
Images = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of n kept examples, all int64 (n,): the dataset index, the label, the class predicted without
    attack, under it, and under it once the image is rounded to 8 bits (-1: no finite logits).
    """

    examples: Numbers
    labels: Numbers
    clean_predictions: Numbers
    predictions: Numbers
    rounded_predictions: Numbers

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def survive(self) -> NDArray[np.bool_]:
        """Which still fool the model when they are rounded to 8 bits, as in an image file."""
        survive: NDArray[np.bool_] = (self.rounded_predictions != self.labels) & (self.rounded_predictions != NONE)
        return survive


@dataclass(frozen=True, eq=False)
class Kept(Predictions):
    """The same with the images, float32 (n, channels, height, width) in [0, 1]: as they are, and as attacked."""

    clean: Images
    adversarial: Images

    @property
    def linf(self) -> NDArray[np.float32]:
        """The greatest change of a pixel (n,)."""
        found: NDArray[np.float32] = np.abs(self._changes).max(1, initial=0)
        return found

    @property
    def l2(self) -> NDArray[np.float32]:
        """The Euclidean length of the change (n,), in pixels of [0, 1]."""
        found: NDArray[np.float32] = np.sqrt((self._changes**2).sum(1))
        return found

    @property
    def _changes(self) -> Images:
        return (self.adversarial - self.clean).reshape(len(self), -1)

    def of(self, rows: Sequence[int]) -> Self:
        """Only these rows, in this order."""
        return type(self)(**{f.name: getattr(self, f.name)[list(rows)] for f in fields(self)})

    def joined(self, other: Self) -> Self:
        """These, then those."""
        return type(self)(
            **{f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)}
        )


def eight_bits(images: Images) -> NDArray[np.uint8]:
    """Images in [0, 1] as bytes, each pixel at the nearest of 256 values."""
    found: NDArray[np.uint8] = np.rint(np.clip(images, 0, 1) * np.float32(255)).astype(np.uint8)
    return found


class Keeper:
    """Keeps the adversarial examples that come first in the order of the asked indices, at most `limit` (1 or more).

    They arrive in another order, which depends on the number of slots; what is kept does not.
    """

    def __init__(self, evaluator: Evaluator, indices: Sequence[int], limit: int) -> None:
        self._evaluator = evaluator
        self._limit = limit
        self._indices = [int(example) for example in indices]
        self._place = {example: place for place, example in enumerate(self._indices)}
        #: Image and prediction by place in the order of the asked indices.
        self._found: dict[int, tuple[Images, int]] = {}
        #: The places of what was found, negated, as a heap: the last place is on top.
        self._last: list[int] = []

    def __call__(self, example: int, image: Tensor, prediction: int) -> None:
        """Take note of an image (channels, height, width) that is predicted wrongly; the hook `Evaluator.keep`."""
        place = self._place[example]
        # An example that began again, with fewer slots, comes twice.
        if place not in self._found:
            if len(self._last) < self._limit:
                heapq.heappush(self._last, -place)
            elif place < -self._last[0]:
                del self._found[-heapq.heapreplace(self._last, -place)]
            else:
                return
        self._found[place] = np.array(image.detach().float().cpu().numpy()), prediction

    def collected(self) -> Kept:
        """What was found, in the order of the asked indices, each asked about again in 8 bits."""
        places = sorted(self._found)
        examples = [self._indices[place] for place in places]
        images, predictions = [self._found[p][0] for p in places], [self._found[p][1] for p in places]
        evaluator = self._evaluator
        adversarial = np.array(images, np.float32).reshape(len(places), *evaluator.examples.image_shape)
        return Kept(
            examples=np.array(examples, np.int64),
            labels=np.array([evaluator.examples.labels[e] for e in examples], np.int64),
            clean_predictions=np.array([evaluator.clean.predictions[e] for e in examples], np.int64),
            predictions=np.array(predictions, np.int64),
            rounded_predictions=predict(evaluator, eight_bits(adversarial).astype(np.float32) / np.float32(255)),
            clean=evaluator.examples.pixels(examples) if examples else adversarial,
            adversarial=adversarial,
        )

    def merged(self, before: Kept | None) -> Kept:
        """What was found together with what an earlier session kept, of which nothing is lost."""
        now = self.collected()
        if before is None:
            return now
        known = set(before.examples.tolist())
        both = before.joined(now.of([row for row, example in enumerate(now.examples.tolist()) if example not in known]))
        order = sorted(range(len(both)), key=lambda row: self._place.get(int(both.examples[row]), len(self._place)))
        return both.of(order[: max(self._limit, len(before))])


def predict(evaluator: Evaluator, images: Images) -> Numbers:
    """The classes (n,) that the model itself, in float32, sees in images (n, C, H, W); -1 without finite logits."""
    import torch

    from models.classifier import frozen

    found = []
    with frozen(evaluator.classifier), torch.no_grad():
        for begin in range(0, len(images), evaluator.slots):
            batch = torch.from_numpy(images[begin : begin + evaluator.slots]).to(evaluator.device)
            logits = evaluator.classifier(batch)
            found += torch.where(torch.isfinite(logits).all(1), logits.argmax(1), NONE).tolist()
    return np.array(found, np.int64)


def dump(kept: Kept, file: IO[bytes]) -> None:
    """Write examples as a compressed archive, in the layout that `read` reads."""
    np.savez_compressed(file, version=np.array(VERSION), **{f.name: getattr(kept, f.name) for f in fields(kept)})


def write(path: Path, kept: Kept) -> None:
    """Write a file that is either the old one or the whole new one. Raises `OutputError` when that cannot be done."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            dump(kept, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror or error}.") from None


def read(path: Path) -> Kept:
    """The examples in a file. Raises `DataError` for one that is damaged or was written by a newer version."""
    return Kept(**_arrays(path, [f.name for f in fields(Kept)]))


def read_predictions(path: Path) -> Predictions:
    """The same without the images, which are not read. Raises as `read`."""
    return Predictions(**_arrays(path, [f.name for f in fields(Predictions)]))


def _arrays(path: Path, names: Sequence[str]) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("not an archive")
            version = int(archive["version"])
            arrays = {name: archive[name] for name in names} if version == VERSION else {}
    except FileNotFoundError:
        raise DataError(f"there is no file {path}.") from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is no whole file of kept examples ({_first_line(error)}): remove it.") from None
    if version != VERSION:
        raise DataError(f"{path} is of version {version}; this software reads {VERSION}.")
    n = arrays["examples"].shape
    for name, array in arrays.items():
        image = name in ("clean", "adversarial")
        fits = array.ndim == 4 and array.shape == arrays["clean"].shape if image else array.ndim == 1
        if not fits or array.shape[:1] != n or array.dtype != (np.float32 if image else np.int64):
            raise DataError(
                f"{path} is no whole file of kept examples ({name} is {array.dtype}{array.shape}): remove it."
            )
    return arrays


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
