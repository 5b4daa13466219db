"""ImageNet (ILSVRC 2012) in the layouts that people have: a folder a class, or validation images and a list of labels.

A class is the position of its WordNet identity in the official list of 1000, also when only some classes are here.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from models.datasets import matlab, official, registry, trees
from models.datasets.examples import Examples
from models.datasets.registry import Dataset
from models.errors import DataError

NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)

#: Lists of the labels of flat validation images, and where they may lie relative to the folder `val`: the first two
#: have names that other things have too.
LISTS = ("val.txt", "labels.csv", "LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt")
BESIDE = (".", "..")
NEARBY = (*BESIDE, "../..", "../../..", "../../../..")
DEVKIT = "ILSVRC2012_devkit_t12/data"
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


def locate(dataset: Dataset, split: str, root: Path) -> Path | None:
    # A `train` of something else in the data folder itself is not ours: its folders must be called as classes are.
    candidates = (root / folder / split for folder in dataset.options["folders"])
    return next((folder for folder in candidates if folder.is_dir() and _looks_right(folder, split)), None)


def _looks_right(folder: Path, split: str) -> bool:
    wnids = set(registry.class_wnids())
    if (folder.parent / "wnids.txt").exists():
        # That is Tiny-ImageNet.
        return False
    return any(name in wnids for name in trees.subfolders(folder)) or (split == "val" and bool(_flat(folder)))


def load(dataset: Dataset, split: str, root: Path) -> Examples:
    folder = locate(dataset, split, root)
    assert folder is not None
    label_of = {wnid: label for label, wnid in enumerate(registry.class_wnids())}
    files: list[tuple[str, str, int]] = []
    classes = trees.subfolders(folder)
    if unknown := [name for name in classes if name not in label_of]:
        raise DataError(
            f"{folder} has a folder {unknown[0]!r}, which is none of ImageNet's 1000 classes: move it away."
        )
    for wnid in classes:
        # File names are unique, and the same in every layout.
        for name in trees.image_files(folder / wnid):
            files.append((name.rpartition("/")[2], str(folder / wnid / name), label_of[wnid]))
    if not classes:
        flat = _flat(folder)
        labels = _labels(dataset, folder, label_of)
        if missing := [name for name in flat if name not in labels]:
            raise DataError(f"the list of labels beside {folder} has none for {missing[0]}: get the list again.")
        files = [(name, str(folder / name), labels[name]) for name in flat]
    if not files:
        raise DataError(f"{folder} holds no images: expected {dataset.layout}.")
    return trees.examples_of(dataset, split, files, notes=official.part(dataset, split, len(files)))


def _flat(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if NUMBERED.fullmatch(path.name))


def _labels(dataset: Dataset, folder: Path, label_of: dict[str, int]) -> dict[str, int]:
    """The label of every validation image by file name, from whichever list is there."""
    for place in NEARBY:
        for name in LISTS if place in BESIDE else LISTS[2:]:
            if (path := folder / place / name).exists():
                return _listed(dataset, path, label_of)
        for devkit in (folder / place / DEVKIT, folder / place):
            if (devkit / TRUTH).exists() and (devkit / META).exists():
                return _devkit(dataset, devkit, label_of)
    raise DataError(
        f"{folder} holds validation images without class folders, and no list of their labels: put {LISTS[0]} (file "
        f"name and class number a line) beside it, or {LISTS[2]}, or the folder {DEVKIT.partition('/')[0]}."
    )


def _listed(dataset: Dataset, path: Path, label_of: dict[str, int]) -> dict[str, int]:
    """A list of file names with classes, as numbers from 0 or identities; or of identities alone, in order."""
    text = official.read(path).decode("utf-8", "replace")
    lines = text.splitlines()
    rows = csv.reader(lines) if path.suffix == ".csv" else [line.split() for line in lines]
    found: dict[str, int] = {}
    for number, row in enumerate(filter(None, rows), 1):
        cells = [f"ILSVRC2012_val_{number:08d}.JPEG", *row] if len(row) == 1 else row
        name = cells[0] if "." in cells[0] else f"{cells[0]}.JPEG"
        # Kaggle's list has boxes after the identity.
        label = _label(cells[1].split()[0] if cells[1].strip() else "", label_of)
        if label is not None:
            found[name.rpartition("/")[2]] = label
        elif number > 1 or path.suffix != ".csv":
            raise official.damaged(dataset, path, f"line {number} names no class: {','.join(row)[:60]!r}")
    return found


def _label(text: str, label_of: dict[str, int]) -> int | None:
    if text.isascii() and text.isdigit() and int(text) < len(label_of):
        return int(text)
    return label_of.get(text)


def _devkit(dataset: Dataset, folder: Path, label_of: dict[str, int]) -> dict[str, int]:
    """The development kit: ILSVRC numbers of the images in order, and which identity has which number."""
    (synsets,) = matlab.read(dataset, folder / META, "synsets")
    try:
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        numbers = [int(word) for word in official.read(folder / TRUTH).split()]
        return {f"ILSVRC2012_val_{i:08d}.JPEG": label_of[wnids[n]] for i, n in enumerate(numbers, 1)}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise official.damaged(dataset, folder / TRUTH, f"{type(error).__name__}: {error}") from None
