"""The one registry of architectures. Names, options and lineage without torch; `build` imports it.

An entry is data in `catalogue.json`; a builder is a function that turns options into a network.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from models.architectures import genotypes
from models.architectures.genotypes import Genotype
from models.errors import InvalidSpec, UnknownName
from models.specs import ArchitectureSpec, OptionValue, split_options

if TYPE_CHECKING:
    from torch import nn

_SEED_MARK = "<seed>"


@dataclass(frozen=True)
class Option:
    """A whole-number option of an architecture: the published value, and one that suits small images."""

    name: str
    default: int
    small: int
    minimum: int
    maximum: int
    help: str

    def check(self, value: object, architecture: str) -> int:
        """The value as an integer; raises `InvalidSpec` when it is none or out of range."""
        try:
            number = int(str(value))
        except ValueError:
            raise InvalidSpec(f"{architecture}: option {self.name} takes a whole number, not {value!r}.") from None
        if not self.minimum <= number <= self.maximum:
            raise InvalidSpec(
                f"{architecture}: option {self.name} must be {self.minimum} to {self.maximum}, not {number}."
            )
        return number


@dataclass(frozen=True)
class Architecture:
    """A registry entry: what a topology is called, where it comes from, and how it is built."""

    name: str
    family: str
    lineage: str
    builder: str
    options: tuple[Option, ...]
    description: str
    source: str
    recipe: str
    genotype: Genotype | None = None
    aliases: tuple[str, ...] = ()

    def resolve(self, given: Mapping[str, object], *, small: bool) -> ArchitectureSpec:
        """The specification with every option filled in: as given, else the published value, or the small one.

        Raises `InvalidSpec` for an option that this architecture does not have.
        """
        known = {o.name: o for o in self.options}
        for key in given:
            if key not in known:
                raise UnknownName(f"option of {self.name}", key, known, listing="nasrob-tui archs --format json")
        values = tuple(
            (o.name, o.check(given.get(o.name, o.small if small else o.default), self.name)) for o in self.options
        )
        return ArchitectureSpec(self.name, values)


@cache
def entries() -> dict[str, Architecture]:
    """All entries by name. The one that ends in `<seed>` stands for a family of sampled cells."""
    raw: dict[str, dict[str, Any]] = json.loads(
        resources.files("models.architectures").joinpath("catalogue.json").read_text(encoding="utf-8")
    )
    found: dict[str, Architecture] = {}
    for name, entry in raw.items():
        fields = {**raw[entry["like"]], **entry} if "like" in entry else entry
        cell = fields.get("genotype")
        found[name] = Architecture(
            name=name,
            family=fields["family"],
            lineage=fields["lineage"],
            builder=fields["builder"],
            options=tuple(
                Option(key, o["default"], o["small"], o["min"], o["max"], o["help"])
                for key, o in fields["options"].items()
            ),
            description=fields["description"],
            source=fields["source"],
            recipe=fields["recipe"],
            genotype=Genotype.from_dict(genotypes.published()[cell]) if cell and cell != "sample" else None,
            aliases=tuple(entry.get("aliases", ())),
        )
    return found


def find(name: str) -> Architecture:
    """The entry called `name` or by one of its aliases, in any case; `darts-random-7` is made on the spot.

    Raises `UnknownName` with the nearest known names.
    """
    known = entries()
    wanted = name.strip().lower()
    for entry in known.values():
        if wanted == entry.name or wanted in entry.aliases:
            return entry
        if entry.name.endswith(_SEED_MARK):
            stem = entry.name.removesuffix(_SEED_MARK)
            if match := re.fullmatch(re.escape(stem) + r"(0|[1-9]\d{0,17})", wanted):
                seed = int(match.group(1))
                said = f"A random cell of the DARTS space, seed {seed}"
                return replace(entry, name=wanted, genotype=genotypes.sample(seed), description=said, aliases=())
            if wanted.startswith(stem) or wanted == stem.rstrip("-"):
                raise InvalidSpec(f"{name!r} needs a seed, a whole number from 0 on: for example {stem}7.")
    names: Iterable[str] = [*known, *(a for e in known.values() for a in e.aliases)]
    raise UnknownName("architecture", name, names, listing="nasrob-tui archs")


def parse_architecture(
    text: str, overrides: Mapping[str, OptionValue | str] | None = None, *, small: bool = False
) -> ArchitectureSpec:
    """Read an architecture as a person writes it, with options in the text or in `overrides` (which yield to the
    text).
    """
    name, options = split_options(text)
    return find(name).resolve({**(overrides or {}), **options}, small=small)


def build(spec: ArchitectureSpec, *, num_classes: int, in_channels: int, auxiliary: bool = False) -> nn.Module:
    """A freshly initialised network, taking normalised images (N, in_channels, H, W) to logits (N, num_classes).

    `auxiliary` adds the training-only head of a cell network; other builders refuse it with `InvalidSpec`.
    """
    entry = find(spec.name)
    module, _, function = entry.builder.partition(":")
    arguments: dict[str, Any] = {**dict(spec.options), "num_classes": num_classes, "in_channels": in_channels}
    if entry.genotype is not None:
        arguments |= {"genotype": entry.genotype, "auxiliary": auxiliary}
    elif auxiliary:
        raise InvalidSpec(f"{spec.name} has no auxiliary head.")
    network: nn.Module = getattr(importlib.import_module(module), function)(**arguments)
    return network
