"""Anybody's image folder: `folder:/path/to/images`.

Either every subfolder is a class, labelled in the order of their names, or a file `labels.csv` (file, label) stands
beside the images: its labels are numbers from 0, or names that are labelled in their order. Subfolders that are called
`train`, `val` and `test`, and hold classes or such a file themselves, are splits; without them there is the one split
`test`. Subfolders that are all called by WordNet identities of ImageNet's classes have ImageNet's 1000 labels.

Options go behind an @: those of the geometry (`size`, `resize`, `crop`, `interpolation`), and `like=NAME` for images of
the classes of a known dataset: then subfolders or labels are its class names, its class numbers or, for ImageNet,
identities, and image size and normalisation are its own. `folder:/data/imagenetv2@like=imagenet,size=288`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from models.datasets import official, registry, trees
from models.datasets.examples import Examples
from models.datasets.geometry import Geometry
from models.datasets.registry import FOLDER, Dataset
from models.errors import DataError, InvalidSpec, UnknownName
from models.specs import split_options

SPLITS = ("train", "val", "test")
LIST = "labels.csv"
LIKE = "like"


def describe(text: str) -> Dataset:
    """The dataset that `folder:/path` with options stands for, from the names of folders and the lists alone.

    Raises `DataError` when there is no such folder or no classes are found in it.
    """
    path, options = _parse(text)
    folders = _splits(path)
    names = sorted({name for folder in folders.values() for name in _class_names(folder)})
    like = options.pop(LIKE, None)
    wnids = set(registry.class_wnids())
    base = f"{FOLDER}{path}" + (f"@{LIKE}={like}" if like else "")
    # Photographs of the usual size, unless they are like something else.
    model = registry.entries()["imagenet"]
    if like is not None or (names and all(name in wnids for name in names)):
        model = _known(like or "imagenet")
        n_classes, classes, labels_of = model.n_classes, model.classes, model.labels_of
    else:
        numbered = all(_is_number(name) for name in names) and all((f / LIST).exists() for f in folders.values())
        n_classes = 1 + max(map(int, names), default=0) if numbered else len(names)
        classes, labels_of = (() if numbered else tuple(names)), base
        if n_classes < 2:
            raise DataError(
                f"{path} holds {len(names) or 'no'} class{'es' * (len(names) != 1)}: expected a subfolder of images "
                f"for each class, or images with a file {LIST} (file, label)."
            )
    dataset = replace(
        model,
        name=base,
        description=f"the images in {path}",
        source=str(path),
        license="that of the images",
        loader="models.datasets.folder",
        splits=tuple(folders),
        n_classes=n_classes,
        test_split=next(split for split in ("test", "val", "train") if split in folders),
        classes=classes,
        labels_of=labels_of,
        sizes={},
        layout=(
            f"subfolders {', '.join(SPLITS[:-1])} and {SPLITS[-1]}, each with a subfolder of images for each class or "
            f"with images and a file {LIST}; without them all of the folder is the split test"
        ),
        get="wherever the folder came from",
        downloadable=False,
        options={LIKE: like} if like else {},
        native=None,
    )
    if not options:
        return dataset
    return dataset.with_geometry(Geometry.from_options(options, dataset.geometry, photographs=dataset.photographs))


def locate(dataset: Dataset, split: str, root: Path) -> Path | None:
    path, _ = _parse(dataset.name)
    return _splits(path).get(split)


def load(dataset: Dataset, split: str, root: Path) -> Examples:
    folder = locate(dataset, split, root)
    assert folder is not None
    label_of = _labels(dataset)
    files: list[tuple[str, str, int]] = []
    if (folder / LIST).exists():
        files = [(name, str(folder / name), label_of(label)) for name, label in _listed(folder)]
    else:
        for name in trees.subfolders(folder):
            found = trees.image_files(folder / name)
            if not found:
                raise DataError(
                    f"the class folder {folder / name} holds no images (jpg, png, ...): fill it, or take it away."
                )
            files += [(f"{name}/{file}", str(folder / name / file), label_of(name)) for file in found]
    return trees.examples_of(dataset, split, files)


def _parse(text: str) -> tuple[Path, dict[str, str]]:
    """Path and options; an @ may be part of the path."""
    place = text[len(FOLDER) :].strip()
    if not place:
        raise InvalidSpec(f"{text!r} names no folder: write {FOLDER}/path/to/images.")
    options: dict[str, str] = {}
    try:
        path = Path(place).expanduser()
        if "@" in place and not path.exists():
            head, _, tail = place.rpartition("@")
            _, options = split_options(f"folder@{tail}")
            path = Path(head).expanduser()
        there = path.is_dir()
    except (OSError, RuntimeError) as error:
        # A folder that may not be looked into, a name that is too long, ~ and the name of nobody here.
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot read the folder {place}: {reason}.") from None
    if not there:
        raise DataError(f"there is no folder {path}: {FOLDER} needs the path of a folder of images.")
    return path.absolute(), options


def _splits(path: Path) -> dict[str, Path]:
    names = trees.subfolders(path)
    found = {split: path / split for split in SPLITS if split in names}
    if len(found) == len(names) and any(trees.subfolders(f) or (f / LIST).exists() for f in found.values()):
        return found
    return {"test": path}


def _class_names(folder: Path) -> list[str]:
    return [label for _, label in _listed(folder)] if (folder / LIST).exists() else trees.subfolders(folder)


def _known(like: str) -> Dataset:
    if like.strip().lower().startswith(FOLDER):
        raise InvalidSpec(f"{LIKE} takes the name of a known dataset, such as imagenet.")
    try:
        return registry.find(like)
    except UnknownName as error:
        raise InvalidSpec(f"{LIKE}: {error}") from None


def _labels(dataset: Dataset) -> Callable[[str], int]:
    """What a folder's or a list's name for a class means as a label."""
    # Two of ImageNet's classes are called crane: such a name says nothing.
    classes = {name: i for i, name in enumerate(dataset.classes) if dataset.classes.count(name) == 1}
    if dataset.labels_of == "imagenet":
        classes |= {wnid: label for label, wnid in enumerate(registry.class_wnids())}
    # The names of folders that stand for themselves may be numbers, and are names all the same.
    numbers = dataset.labels_of != (dataset.native or dataset).name or not dataset.classes

    def label(name: str) -> int:
        if name in classes:
            return classes[name]
        if numbers and _is_number(name) and int(name) < dataset.n_classes:
            return int(name)
        whose = dataset.options.get(LIKE, dataset.labels_of if dataset.labels_of in registry.entries() else "")
        raise DataError(
            f"{dataset.source} has a class {name!r}, which is none of the {dataset.n_classes} classes"
            f"{f' of {whose}' if whose else ''}: rename it, or take it away."
        )

    return label


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _listed(folder: Path) -> list[tuple[str, str]]:
    """File and label of each line of the list; raises `DataError` for a line that is not that, or a file outside."""
    path = folder / LIST
    found: dict[str, str] = {}
    for number, row in enumerate(_rows(path), 1):
        if len(row) < 2 or not row[0].strip() or not row[1].strip():
            raise DataError(f"{path}, line {number}: expected a file and a label, separated by a comma.")
        name, label = row[0].strip(), row[1].strip()
        if number == 1 and not trees.is_image(name):
            continue
        parts = Path(name).parts
        if Path(name).is_absolute() or ".." in parts:
            raise DataError(f"{path}, line {number}: {name!r} does not lie in the folder.")
        if name in found:
            raise DataError(f"{path}, line {number}: {name!r} is listed twice.")
        found[name] = label
    return list(found.items())


def _rows(path: Path) -> Iterable[list[str]]:
    try:
        text = official.read(path).decode("utf-8-sig")
        return [row for row in csv.reader(text.splitlines()) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a comma-separated list in UTF-8 ({error}).") from None
