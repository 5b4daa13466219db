"""The one registry of datasets. Torch-free: examples are NumPy arrays until an evaluation puts them on a device.

What there is stands in `catalogue.toml`; how a format is read stands in the module that an entry names as its loader. A
dataset is asked for by name, with options of its geometry if need be: `cifar10`, `imagenet@size=288`,
`folder:/path/to/images@like=imagenet`.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from models.datasets.examples import Examples
from models.datasets.fingerprints import fingerprint
from models.datasets.geometry import Geometry
from models.datasets.places import DATA_VARIABLE, data_root
from models.datasets.subsets import subset_digest
from models.errors import DataError, InvalidSpec, UnknownName
from models.specs import Preprocessing, split_options

__all__ = [
    "Augmentation",
    "Dataset",
    "Examples",
    "Geometry",
    "data_root",
    "entries",
    "find",
    "fingerprint",
    "forget",
    "load",
    "locate",
    "missing",
    "subset_digest",
]

FOLDER = "folder:"

#: Networks of the published size are wasted on images of at most this side.
SMALL_SIDE = 16


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied: padding of the random crop, mirror, side of the cutout square, in pixels.

    `random-resized-crop` is for photographs: a random part of the stored image (`Examples.original`), resized to the
    input size.
    """

    crop_padding: int
    mirror: bool
    cutout: int
    kind: Literal["pad-crop", "random-resized-crop"] = "pad-crop"

    def scaled(self, factor: float) -> Augmentation:
        """The same relative to images larger by `factor`."""
        return replace(self, crop_padding=round(self.crop_padding * factor), cutout=round(self.cutout * factor))


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
    #: The split that models are judged on; `test` is read as this one where there is none of that name.
    test_split: str = "test"
    #: Names of the classes, where they are known before the data are there.
    classes: tuple[str, ...] = ()
    #: The dataset whose classes these are, in the same order: its weights fit here too.
    labels_of: str = ""
    #: How files become images; None when images are taken as stored.
    geometry: Geometry | None = None
    #: Whether images are photographs of any size, of which the centre is taken.
    photographs: bool = False
    #: Official number of examples of each split.
    sizes: Mapping[str, int] = field(default_factory=dict, compare=False)
    #: The layout of files that is expected below the data folder, for people.
    layout: str = ""
    #: Where to get the data, for people.
    get: str = ""
    #: Whether `load(..., download=True)` can fetch it.
    downloadable: bool = False
    #: What the loader needs to know.
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)
    #: The dataset at the image size that it has by itself, when this is the same at another one.
    native: Dataset | None = field(default=None, compare=False)

    @property
    def base(self) -> str:
        """The name without options; all folders of images are `folder`."""
        return "folder" if self.name.startswith(FOLDER) else self.name.partition("@")[0]

    @property
    def slug(self) -> str:
        """The name as part of a file's path: that of a folder of images is its own name and a digest of its path."""
        if not re.search(r"[^\w.@=,-]", self.name):
            return self.name
        last = re.sub(r"[^\w.-]+", "-", self.name.rpartition("/")[2]).strip("-")
        return f"{self.name.partition(':')[0]}-{last}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"

    def split_named(self, text: str) -> str:
        """The split that `text` means: `test` is the split to judge on, also where its name is `val`.

        Raises `InvalidSpec` for a split that the dataset does not have.
        """
        if text in self.splits:
            return text
        if text == "test":
            return self.test_split
        # What a folder's splits are is the choice of whoever lays it out.
        expected = f". Expected are {self.layout}" if self.base == "folder" else ""
        raise InvalidSpec(f"{self.name} has no split {text!r}, only {' and '.join(self.splits)}{expected}.")

    def with_geometry(self, geometry: Geometry) -> Dataset:
        """The same dataset at another image size, under a name of its own."""
        native = self.native or self
        if geometry == native.geometry:
            return native
        side = geometry.crop
        # A folder of images may have an option already.
        separator = "," if "like" in native.options else "@"
        return replace(
            native,
            name=f"{native.name}{separator}{geometry.text}",
            geometry=geometry,
            image_shape=(native.image_shape[0], side, side),
            augmentation=native.augmentation.scaled(side / max(native.image_shape[1:])),
            small=side <= SMALL_SIDE,
            native=native,
        )


class Loader(Protocol):
    """What a loader module offers. `root` is the data folder."""

    def locate(self, dataset: Dataset, split: str, root: Path) -> Path | None:
        """The file or folder that holds a split; None when it is not there. Looks at names only."""

    def load(self, dataset: Dataset, split: str, root: Path) -> Examples:
        """The examples of a split that `locate` has found; raises `DataError` when they are damaged."""


@cache
def entries() -> dict[str, Dataset]:
    """All datasets that have a name of their own, by it."""
    text = resources.files("models.datasets").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return {name: _entry(name, data) for name, data in tomllib.loads(text).items()}


def _entry(name: str, data: dict[str, Any]) -> Dataset:
    shape = cast(tuple[int, int, int], tuple(data["image_shape"]))
    classes = data.get("classes", ())
    geometry = data.get("geometry")
    return Dataset(
        name=name,
        description=data["description"],
        source=data["source"],
        license=data["license"],
        loader=data["loader"],
        splits=tuple(data["sizes"]),
        n_classes=data["n_classes"],
        image_shape=shape,
        preprocessing=Preprocessing(tuple(data["mean"]), tuple(data["std"])),
        augmentation=Augmentation(**data["augmentation"]),
        small=max(shape[1:]) <= SMALL_SIDE,
        test_split=data.get("test_split", "test"),
        classes=class_names() if classes == "imagenet" else tuple(classes),
        labels_of=data.get("labels_of", name),
        geometry=Geometry.parse(geometry) if geometry else None,
        photographs=data.get("photographs", False),
        sizes=data["sizes"],
        layout=data.get("layout", ""),
        get=data.get("get", ""),
        downloadable="download" in data,
        options={key: data[key] for key in ("files", "folders", "download", "prefix") if key in data},
    )


def class_names() -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes, in their official order."""
    return tuple(name for _, name in _imagenet_classes())


def class_wnids() -> tuple[str, ...]:
    """The WordNet identities of ImageNet's 1000 classes, such as n01440764, in their official order."""
    return tuple(wnid for wnid, _ in _imagenet_classes())


@cache
def _imagenet_classes() -> tuple[tuple[str, str], ...]:
    file = resources.files("models.datasets").joinpath("imagenet_classes.csv")
    rows = csv.reader(file.read_text(encoding="utf-8").splitlines()[1:])
    return tuple((wnid, name) for wnid, name in rows)


def find(name: str) -> Dataset:
    """The dataset called `name`, which may carry options of its geometry; capitals, - and _ make no difference.

    Raises `UnknownName` with the nearest known ones, `InvalidSpec` for options that make no sense and, for a folder of
    images, `DataError` when it is not there or not laid out as it must be.
    """
    if name.strip().lower().startswith(FOLDER):
        return cast(Dataset, importlib.import_module("models.datasets.folder").describe(name.strip()))
    base, options = split_options(name)
    known = {_folded(key): dataset for key, dataset in entries().items()}
    dataset = known.get(_folded(base))
    if dataset is None:
        raise UnknownName("dataset", base, entries(), listing="nasrob-tui datasets")
    if not options:
        return dataset
    return dataset.with_geometry(Geometry.from_options(options, dataset.geometry, photographs=dataset.photographs))


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())


def locate(dataset: Dataset, split: str, *, root: Path | None = None) -> Path | None:
    """Where a split lies on this machine, None when it does not: nothing is read."""
    return _loader(dataset).locate(dataset, split, data_root(root))


def load(
    name: str, split: str, *, root: Path | None = None, download: bool = False, geometry: Geometry | None = None
) -> Examples:
    """The examples of one split of the dataset called `name`; `split` as `Dataset.split_named` takes it.

    `root` is the folder that datasets lie in (see `data_root`). With `download`, what is missing or damaged is fetched
    first, where that can be done. `geometry` goes before the one in the name. Examples are kept for the next call;
    image files are not read before their pixels or the fingerprint are asked for.

    Raises `DataError` when the data are missing or damaged.
    """
    dataset = find(name)
    if geometry is not None:
        dataset = dataset.with_geometry(geometry)
    split = dataset.split_named(split)
    place = data_root(root)
    if download:
        try:
            return _load(dataset.name, split, str(place))
        except DataError:
            importlib.import_module("models.datasets.downloads").fetch(dataset, place)
    return _load(dataset.name, split, str(place))


def forget() -> None:
    """Read datasets anew at the next `load`: files may have changed."""
    _load.cache_clear()


@lru_cache(maxsize=8)
def _load(name: str, split: str, root: str) -> Examples:
    dataset = find(name)
    loader = _loader(dataset)
    if loader.locate(dataset, split, Path(root)) is None:
        raise DataError(missing(dataset, split, root=Path(root)))
    examples = loader.load(dataset, split, Path(root))
    if examples.image_shape != dataset.image_shape:
        raise DataError(f"{name}/{split}: images are {examples.image_shape}, expected {dataset.image_shape}.")
    return examples


def missing(dataset: Dataset, split: str, *, root: Path | None = None) -> str:
    """One sentence for a split that is not there: where it was looked for, the layout, and how to get it."""
    if dataset.downloadable:
        how = f"`nasrob-tui datasets {dataset.base} --download` fetches it ({dataset.get})"
    else:
        how = f"get it from {dataset.get}"
    return (
        f"{dataset.base}/{split} is not on this machine: looked in {data_root(root)} for {dataset.layout}; {how}, and "
        f"{DATA_VARIABLE} names another folder to look in."
    )


def _loader(dataset: Dataset) -> Loader:
    return cast(Loader, importlib.import_module(dataset.loader))
