"""Training recipes as data, torch-free: one TOML file each, with its source and what differs on a dataset."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from models.errors import UnknownName
from models.training.recipes.recipe import Recipe, settings

__all__ = ["Recipe", "RecipeEntry", "entries", "find", "load", "names", "settings"]


@dataclass(frozen=True)
class RecipeEntry:
    """A recipe file: `values` as published, and by dataset what is different there."""

    name: str
    description: str
    source: str
    values: Mapping[str, Any]
    datasets: Mapping[str, Mapping[str, Any]]


@cache
def entries() -> dict[str, RecipeEntry]:
    """All recipes by name. A file may be `like` another and then only says what differs from it."""
    folder = resources.files("models.training.recipes")
    files = {f.name.removesuffix(".toml"): f for f in folder.iterdir() if f.name.endswith(".toml")}
    raw = {name: tomllib.loads(files[name].read_text(encoding="utf-8")) for name in sorted(files)}

    def entry(name: str) -> RecipeEntry:
        content = raw[name]
        like = entry(content["like"]) if "like" in content else None
        own: dict[str, dict[str, Any]] = content.get("datasets", {})
        inherited = like.datasets if like else {}
        return RecipeEntry(
            name=name,
            description=content["description"],
            source=content["source"],
            values={**(like.values if like else {}), **content.get("recipe", {})},
            datasets={d: {**inherited.get(d, {}), **own.get(d, {})} for d in (*inherited, *own)},
        )

    return {name: entry(name) for name in raw}


def names() -> list[str]:
    return list(entries())


def find(name: str) -> RecipeEntry:
    """The recipe called `name`, in any case; raises `UnknownName` with the nearest known names."""
    wanted = name.strip().lower().replace("_", "-")
    if wanted not in entries():
        raise UnknownName("recipe", name, entries(), listing="nasrob-tui recipes")
    return entries()[wanted]


def load(name: str, dataset: str | None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe as it applies to a dataset (as published when None), with overrides key by key (None: not overridden).

    Raises `InvalidSpec` for a key or a value that no recipe may have.
    """
    entry = find(name)
    # A dataset's name may carry its geometry.
    base = (dataset or "").partition("@")[0]
    values: dict[str, Any] = {**entry.values, **entry.datasets.get(base, {})}
    allowed = {f.name for f in settings()}
    for key, value in (overrides or {}).items():
        if value is None:
            continue
        if key not in allowed:
            raise UnknownName("recipe key", key, allowed, listing=f"nasrob-tui recipes {entry.name}")
        values[key] = value
    return Recipe(name=entry.name, **values)
