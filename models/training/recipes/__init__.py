"""Training recipes as data, torch-free."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

from models.errors import InvalidSpec, UnknownName


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with a cosine schedule to zero, per epoch.

    `crop`, `mirror`, `cutout` switch augmentations on where the dataset allows them (its registry entry says by how
    many pixels, and that digits are not mirrored). `gradient_clip` is the L2 norm, 0 for none. `drop_path` rises
    linearly to its value.
    """

    name: str
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    crop: bool
    mirror: bool
    cutout: bool
    label_smoothing: float
    gradient_clip: float
    auxiliary_weight: float
    drop_path: float

    def __post_init__(self) -> None:
        positive = {"epochs": self.epochs, "batch_size": self.batch_size, "lr": self.lr}
        for key, value in positive.items():
            if value <= 0:
                raise InvalidSpec(f"{key} must be positive, not {value}.")
        fractions = {"momentum": self.momentum, "drop_path": self.drop_path, "label_smoothing": self.label_smoothing}
        for key, value in fractions.items():
            if not 0 <= value < 1:
                raise InvalidSpec(f"{key} must be from 0 to below 1, not {value}.")
        for key, value in {"weight_decay": self.weight_decay, "gradient_clip": self.gradient_clip}.items():
            if value < 0:
                raise InvalidSpec(f"{key} must not be negative, not {value}.")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@cache
def _read() -> dict[str, dict[str, Any]]:
    folder = resources.files("models.training.recipes")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {f.name.removesuffix(".toml"): tomllib.loads(f.read_text(encoding="utf-8")) for f in files}


def names() -> list[str]:
    return list(_read())


def load(name: str, dataset: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe as it applies to a dataset, with overrides key by key (None: not overridden)."""
    known = _read()
    if name not in known:
        raise UnknownName("recipe", name, known, listing="nasrob-tui train --help")
    values: dict[str, Any] = {**known[name]["recipe"], **known[name].get("datasets", {}).get(dataset, {})}
    allowed = {f.name for f in fields(Recipe)} - {"name"}
    for key, value in (overrides or {}).items():
        if value is None:
            continue
        if key not in allowed:
            raise UnknownName("recipe key", key, allowed, listing="nasrob-tui train --help")
        values[key] = value
    return Recipe(name=name, **values)
