"""Tiny-ImageNet as distributed, or with its validation images moved into a folder a class.

A class is the position of its WordNet identity among the 200, sorted: what torchvision's `ImageFolder` makes of them.
"""

from __future__ import annotations

from pathlib import Path

from models.datasets import official, places, registry, trees
from models.datasets.examples import Examples
from models.datasets.registry import Dataset
from models.errors import DataError

ANNOTATIONS, WNIDS = "val_annotations.txt", "wnids.txt"


def locate(dataset: Dataset, split: str, root: Path) -> Path | None:
    return places.first_existing(root / folder / split for folder in dataset.options["folders"])


def load(dataset: Dataset, split: str, root: Path) -> Examples:
    folder = locate(dataset, split, root)
    assert folder is not None
    wnids = _wnids(dataset, folder.parent)
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    annotations = folder / ANNOTATIONS
    # Where validation images were moved, the list of their old places and an empty folder may have stayed.
    flat = trees.image_files(folder / "images") if split == "val" and (folder / "images").is_dir() else []
    if flat:
        wnid_of = _annotations(dataset, annotations)
        if missing := [name for name in flat if name not in wnid_of]:
            raise official.damaged(dataset, annotations, f"it names no class for {missing[0]}")
        files = [
            (name, str(folder / "images" / name), label_of[_known(wnid_of[name], label_of, annotations)])
            for name in flat
        ]
    else:
        files = []
        for wnid in (name for name in trees.subfolders(folder) if name != "images"):
            label = label_of[_known(wnid, label_of, folder)]
            found = trees.image_files(folder / wnid)
            # File names are unique, and the same in every layout.
            files += [(name.rpartition("/")[2], str(folder / wnid / name), label) for name in found]
    if not files:
        raise DataError(f"{folder} holds no images: expected {dataset.layout}.")
    names = dict(zip(registry.class_wnids(), registry.class_names(), strict=True))
    return trees.examples_of(
        dataset,
        split,
        files,
        classes=tuple(names.get(wnid, wnid) for wnid in wnids),
        notes=official.part(dataset, split, len(files)),
    )


def _wnids(dataset: Dataset, base: Path) -> list[str]:
    """The 200 identities, sorted: of the list that comes with the images, else of the class folders."""
    listed = base / WNIDS
    if listed.exists():
        wnids = sorted(set(official.read(listed).decode("ascii", "replace").split()))
    else:
        folders = [base / split for split in dataset.splits if (base / split).is_dir()]
        wnids = sorted({name for folder in folders for name in trees.subfolders(folder)} - {"images"})
    if len(wnids) != dataset.n_classes:
        where = listed if listed.exists() else f"{base} without {WNIDS}"
        raise DataError(
            f"{where} names {len(wnids)} classes, not {dataset.n_classes}, so labels cannot be told: get {WNIDS} from "
            f"{dataset.get}."
        )
    return wnids


def _annotations(dataset: Dataset, path: Path) -> dict[str, str]:
    """The identity by file name; a bounding box follows on each line."""
    lines = [line.split("\t") for line in official.read(path).decode("utf-8", "replace").splitlines() if line.strip()]
    if not all(len(line) >= 2 and "/" not in line[0] for line in lines):
        raise official.damaged(dataset, path, "its lines are not file name, tab, identity")
    return {line[0]: line[1] for line in lines}


def _known(wnid: str, label_of: dict[str, int], where: Path) -> str:
    if wnid not in label_of:
        raise DataError(f"{where} has a class {wnid!r} that is none of the {len(label_of)}: take it away.")
    return wnid
