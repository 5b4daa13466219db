"""Real images for the tests of datasets: those that ship in foolbox, laid out as the official datasets are."""

from __future__ import annotations

import csv
import gzip
import re
import shutil
import struct
from importlib import util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WNIDS = [
    row[0]
    for row in csv.reader(
        (Path(__file__).parents[2] / "models/datasets/imagenet_classes.csv")
        .read_text(encoding="utf-8")
        .splitlines()[1:]
    )
]


def sample_paths(prefix: str) -> list[tuple[Path, int]]:
    """foolbox's images of a dataset in order, each with its label, found without our code."""
    spec = util.find_spec("foolbox")
    assert spec is not None
    assert spec.origin is not None
    found = sorted((Path(spec.origin).parent / "data").glob(f"{prefix}_*"))
    assert len(found) == 20
    return [(path, int(re.findall(r"_(\d+)\.", path.name)[0])) for path in found]


def sample_arrays(prefix: str) -> tuple[NDArray[np.uint8], list[int]]:
    """The same as uint8 (20, height, width[, 3])."""
    pairs = sample_paths(prefix)
    return np.stack([np.asarray(Image.open(path)) for path, _ in pairs]), [label for _, label in pairs]


def write_idx(folder: Path, stem: str, images: NDArray[np.uint8], labels: list[int], *, packed: bool) -> None:
    """MNIST's files of one split."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        f"{stem}-images-idx3-ubyte": struct.pack(">IIII", 0x803, *images.shape) + images.tobytes(),
        f"{stem}-labels-idx1-ubyte": struct.pack(">II", 0x801, len(labels)) + bytes(labels),
    }
    for name, content in contents.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def old_pickle(key: str, images: NDArray[np.uint8], labels: list[int]) -> bytes:
    """A batch as the authors of CIFAR pickled it, with Python 2: its strings are bytes, its array of NumPy 1."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes((len(value),)) + value if len(value) < 256 else b"T" + struct.pack("<I", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR("
    array += b"K\x01(" + number(rows.shape[0]) + number(rows.shape[1]) + b"t"
    array += (
        b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNN" + number(-1) * 2 + b"K\x00tb"
    )
    array += b"\x89" + text(rows.tobytes()) + b"tb"
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(key.encode()) + listed + b"u."


def write_cifar10(root: Path) -> dict[str, tuple[NDArray[np.uint8], list[int]]]:
    """CIFAR-10's files, with two images a training batch and ten test images; returns what is in them."""
    images, labels = sample_arrays("cifar10")
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i in range(5):
        part = slice(2 * i, 2 * i + 2)
        (folder / f"data_batch_{i + 1}").write_bytes(old_pickle("labels", images[part], labels[part]))
    (folder / "test_batch").write_bytes(old_pickle("labels", images[10:], labels[10:]))
    return {"train": (images[:10], labels[:10]), "test": (images[10:], labels[10:])}


def write_imagenet(root: Path) -> list[tuple[str, int]]:
    """foolbox's ImageNet images as `val/<wnid>/ILSVRC2012_val_0000000i.JPEG`; returns their names and labels."""
    named = []
    for i, (path, label) in enumerate(sample_paths("imagenet"), 1):
        folder = root / "imagenet" / "val" / WNIDS[label]
        folder.mkdir(parents=True, exist_ok=True)
        name = f"ILSVRC2012_val_{i:08d}.JPEG"
        shutil.copyfile(path, folder / name)
        named.append((name, label))
    return named


def as_pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 (n, height, width[, 3]) as float32 (n, channels, height, width) in [0, 1]."""
    planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return planes.astype(np.float32) / np.float32(255)
