"""How training images reach the device: kept whole where they fit, otherwise read a little ahead in other threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.datasets.registry import Examples
from models.training.augment import DRAWS, boxes

#: What training images may take of the memory that is free.
SHARE = 0.25
#: Sets of more bytes than this are packed where that loses nothing.
WORTH_PACKING = 1 << 26
#: Batches that are read ahead, and images that a thread crops at a time.
AHEAD, PIECE = 2, 32
#: Threads that crop photographs: decoding releases the interpreter's lock.
READERS = min(8, os.cpu_count() or 1)

Read = Callable[[NDArray[np.int64], int], NDArray[np.float32]]


class Feed(Protocol):
    """The images of a training split."""

    def batches(self, batches: list[NDArray[np.int64]], seed: int = 0) -> Iterator[Tensor]:
        """For each list of positions the images on the device: float32 (n, C, H, W) in [0, 1], a tensor of its own.

        `seed` is that of random crops, where images are read with such.
        """
        ...


def feed(examples: Examples, device: torch.device, *, crop: float = 0.0, once: bool = False) -> Feed:
    """The quickest way to bring examples to a device, again and again or `once`.

    With `crop` each image is a random part of the stored one, of at least this part of its area, resized to the
    dataset's size.
    """
    if crop:
        return Streamed(lambda positions, seed: cropped(examples, positions, seed, crop), device, READERS, PIECE)
    if examples.in_memory:
        images = torch.from_numpy(examples.images)
        if device.type != "cpu" and images.nbytes > WORTH_PACKING:
            images = packed(examples)
            images = images.to(device) if images.nbytes <= SHARE * _free(device) else images
        return Resident(images, device)
    size = len(examples) * int(np.prod(examples.image_shape))
    for place in () if once else (device, torch.device("cpu")):
        if size <= SHARE * _free(place) and (images := packed(examples)).dtype == torch.uint8:
            return Resident(images.to(place), device)
    # One thread asks; the dataset itself decodes in several.
    return Streamed(lambda positions, seed: examples.pixels(positions), device)


def packed(examples: Examples) -> Tensor:
    """All images as bytes (n, C, H, W), if every pixel is a whole number of 255ths; otherwise as float32 when they can
    be held at once, and else none at all (an empty float32 tensor).
    """
    found = np.empty((len(examples), *examples.image_shape), np.uint8)
    for begin in range(0, len(examples), 1024):
        block = examples.pixels(np.arange(begin, min(begin + 1024, len(examples))))
        found[begin : begin + 1024] = np.rint(block * 255)
        if not np.array_equal(found[begin : begin + 1024] / np.float32(255), block):
            return torch.from_numpy(examples.images) if examples.in_memory else torch.empty(0)
    return torch.from_numpy(found)


class Resident:
    """Images in one tensor, float32 or bytes, on the device or beside it."""

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.images = images
        self.device = device
        # On a GPU a division by a number becomes a product with its inverse, which rounds differently.
        self._white = torch.full((1,), 255.0, device=device)

    def batches(self, batches: list[NDArray[np.int64]], seed: int = 0) -> Iterator[Tensor]:
        for positions in batches:
            chosen = self.images[torch.from_numpy(positions).to(self.images.device)].to(self.device)
            yield chosen / self._white if chosen.dtype == torch.uint8 else chosen


class Streamed:
    """Images read when they are needed, in order, a little ahead of the training.

    `read` turns positions into pixels, `piece` positions at a time (whole batches when 0), in `readers` threads.
    """

    def __init__(self, read: Read, device: torch.device, readers: int = 1, piece: int = 0) -> None:
        self.read = read
        self.device = device
        self.readers = readers
        self.piece = piece

    def batches(self, batches: list[NDArray[np.int64]], seed: int = 0) -> Iterator[Tensor]:
        pool = ThreadPoolExecutor(self.readers, thread_name_prefix="read-images")

        def begin(positions: NDArray[np.int64]) -> list[Future[NDArray[np.float32]]]:
            size = self.piece or len(positions)
            return [pool.submit(self.read, positions[i : i + size], seed) for i in range(0, len(positions), size)]

        coming = (begin(positions) for positions in batches)
        reading = deque(islice(coming, 1 + AHEAD))
        try:
            while reading:
                batch = torch.from_numpy(np.concatenate([piece.result() for piece in reading.popleft()]))
                reading.extend(islice(coming, 1))
                if self.device.type == "cuda":
                    batch = batch.pin_memory()
                yield batch.to(self.device, non_blocking=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def cropped(examples: Examples, positions: NDArray[np.int64], seed: int, least: float) -> NDArray[np.float32]:
    """Random parts of stored images, float32 (n, C, H, W): cropped, then resized by Pillow as torchvision's
    `RandomResizedCrop` does on PIL images.

    Which part of an image is taken depends on `seed` and its position alone, not on the thread that reads it.
    """
    _, height, width = examples.image_shape
    stored = [examples.original(int(position)) for position in positions]
    draws = np.stack([np.random.default_rng([seed, int(position)]).random(DRAWS) for position in positions])
    sizes = torch.tensor([image.shape[1:] for image in stored])
    chosen = boxes(torch.from_numpy(draws), sizes, least).tolist()
    parts = []
    for image, (top, left, h, w) in zip(stored, chosen, strict=True):
        parts.append(_resize(image[:, top : top + h, left : left + w], height, width))
    return np.stack(parts)


def _resize(image: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """An image (C, h, w), bytes or float32, at another size: float32 in [0, 1]."""
    from PIL import Image as pillow

    planes = [
        np.asarray(pillow.fromarray(np.ascontiguousarray(plane)).resize((width, height), pillow.Resampling.BILINEAR))
        for plane in image
    ]
    resized = np.stack(planes).astype(np.float32)
    return resized / np.float32(255) if image.dtype == np.uint8 else resized


def _free(device: torch.device) -> int:
    """Bytes of memory that are free on a device, or in the machine where the device shares it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
