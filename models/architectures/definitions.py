"""Definitions: what a search found (a genotype, a genome, a list of blocks), from the shipped data or from a person.

A definition that a person gives gets a name made of the hash of its content and is kept in a file of its own, so that
a job, a later session or the results store can name it. Torch-free; nothing in a definition is ever executed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from models import home
from models.architectures import (
    densenas_space,
    genotypes,
    nasbench201_space,
    nsga_macro_space,
    proxyless_config,
    proxyless_space,
    robnet_space,
)
from models.architectures.genotypes import Genotype
from models.errors import InvalidSpec, OutputError
from models.specs import canonical_json, digest

#: Keys of a data file's entry that are about the definition, not part of it.
_ABOUT = ("source", "published", "note", "provenance", "description", "also_in")
_DIGITS = 12
#: The longest definition that was published has less than a million characters.
_MOST_CHARACTERS = 5_000_000


@dataclass(frozen=True)
class Space:
    """A search space: the data file of its published definitions, how its definitions are checked, and what a
    definition that a person gives is called.
    """

    name: str
    file: str
    #: Function of this module that returns a definition in its normal form or raises `InvalidSpec`.
    check: str
    #: Registry entry whose builder and options such a definition takes.
    template: str
    stem: str
    #: Another entry for some of its definitions: key, value and entry.
    unless: tuple[str, str, str] | None = None

    def template_for(self, data: dict[str, Any]) -> str:
        if self.unless is not None and data.get(self.unless[0]) == self.unless[1]:
            return self.unless[2]
        return self.template


SPACES: dict[str, Space] = {
    space.name: space
    for space in (
        Space("darts", "genotypes.json", "check_genotype", "darts", "darts-cell"),
        Space("nasbench201", "nasbench201.json", "check_cell201", "nasbench201-best", "nasbench201"),
        Space("nats-size", "nats-size.json", "check_widths", "nats-size-largest", "nats-size"),
        Space("nsga-macro", "nsga-macro.json", "check_genome", "nsganet-macro", "nsga-macro"),
        Space("robnet", "robnet.json", "check_codes", "robnet-large", "robnet"),
        Space("densenas", "densenas.json", "check_net_config", "densenas-a", "densenas"),
        Space(
            "proxyless",
            "proxyless.json",
            "check_blocks",
            "proxyless-gpu",
            "proxyless",
            unless=("network", "tree", "proxyless-cifar"),
        ),
    )
}


@dataclass(frozen=True)
class Definition:
    """One point of a search space, as JSON-ready data."""

    space: str
    data: dict[str, Any]

    @property
    def identity(self) -> str:
        """Hash of space and content."""
        return digest({"space": self.space, "data": self.data})

    @property
    def name(self) -> str:
        """The architecture name of a definition that a person gave: `darts-cell-3f9a…`.

        A cell of NAS-Bench-201 is called by its index in the benchmark.
        """
        if self.space == "nasbench201":
            return f"nasbench201-{nasbench201_space.index_of(str(self.data['cell']))}"
        return f"{SPACES[self.space].stem}-{self.identity[:_DIGITS]}"

    @property
    def genotype(self) -> Genotype | None:
        """The cells, for a definition of the DARTS space."""
        return Genotype.from_dict(self.data) if self.space == "darts" else None

    def to_dict(self) -> dict[str, Any]:
        return {"space": self.space, "data": self.data}

    @classmethod
    def from_dict(cls, value: object) -> Definition:
        """From `{"space": ..., "data": ...}`; raises `InvalidSpec` when it is none."""
        if not isinstance(value, dict) or value.get("space") not in SPACES or not isinstance(value.get("data"), dict):
            raise InvalidSpec(f"a definition needs a space ({', '.join(SPACES)}) and data.")
        space = SPACES[value["space"]]
        check: Callable[[dict[str, Any]], dict[str, Any]] = globals()[space.check]
        return cls(space.name, check(value["data"]))


def check_genotype(data: dict[str, Any]) -> dict[str, Any]:
    """A genotype's fields and nothing else."""
    return Genotype.from_dict(data).to_dict()


def check_cell201(data: dict[str, Any]) -> dict[str, Any]:
    """A cell string of NAS-Bench-201."""
    return {"cell": nasbench201_space.to_string(nasbench201_space.parse(str(data.get("cell"))))}


def check_widths(data: dict[str, Any]) -> dict[str, Any]:
    """Five widths of the NATS-Bench size space."""
    return {"widths": ":".join(map(str, nasbench201_space.parse_widths(str(data.get("widths")))))}


def check_genome(data: dict[str, Any]) -> dict[str, Any]:
    """A genome of NSGA-Net's macro space."""
    return nsga_macro_space.check(data)


def check_codes(data: dict[str, Any]) -> dict[str, Any]:
    """The cells of a RobNet, fourteen codes each."""
    robnet_space.parse(data.get("codes"))
    return {"codes": data["codes"]}


def check_net_config(data: dict[str, Any]) -> dict[str, Any]:
    """The blocks of a DenseNAS network."""
    return densenas_space.check(data)


def check_blocks(data: dict[str, Any]) -> dict[str, Any]:
    """The blocks of a ProxylessNAS network."""
    return proxyless_space.check(data)


@cache
def shipped(space: str) -> dict[str, dict[str, Any]]:
    """The published definitions of a space by key, each with its `source`."""
    text = resources.files("models.architectures.data").joinpath(SPACES[space].file).read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def published(space: str, key: str) -> Definition:
    """One published definition."""
    entry = shipped(space)[key]
    return Definition(space, {k: v for k, v in entry.items() if k not in _ABOUT})


def folder() -> Path:
    """Where definitions that people gave are kept."""
    return home.folder() / "definitions"


def remember(definition: Definition) -> str:
    """Keep a definition and return its name. Raises `OutputError` when it cannot be written."""
    path = folder() / f"{definition.name}.json"
    if not path.exists():
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(canonical_json(definition.to_dict()), encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            raise OutputError(f"cannot keep the definition in {path}: {error.strerror or error}.") from None
    return definition.name


def recall(name: str) -> Definition | None:
    """The definition kept under a name; None when there is none. Raises `InvalidSpec` for a damaged file."""
    if not re.fullmatch(rf"[a-z0-9-]+-[0-9a-f]{{{_DIGITS}}}", name):
        return None
    path = folder() / f"{name}.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    try:
        definition = Definition.from_dict(json.loads(text))
    except (ValueError, InvalidSpec) as error:
        raise InvalidSpec(f"{path} is damaged ({error}): give the definition again.") from None
    if definition.name != name:
        raise InvalidSpec(f"{path} does not hold the definition that its name says: give the definition again.")
    return definition


def kept() -> list[str]:
    """Names of the definitions that people gave."""
    return sorted(p.stem for p in folder().glob("*.json")) if folder().is_dir() else []


def read(text: str) -> Definition:
    """A definition as a person writes, pastes or downloads it.

    Understood are genotypes in the DARTS format (see `genotypes.parse`), cell strings of NAS-Bench-201, five widths of
    the NATS-Bench size space, macro genomes of NSGA-Net, the `net_config` files of DenseNAS, the `.config` files of
    ProxylessNAS, and JSON with `space` and `data`. Raises `InvalidSpec` for anything else.
    """
    text = text.strip()
    if text.startswith("|"):
        return Definition.from_dict({"space": "nasbench201", "data": {"cell": text}})
    if re.fullmatch(r"\d+(:\d+){4}", text):
        return Definition.from_dict({"space": "nats-size", "data": {"widths": text}})
    if "net_type" in text and not text.startswith("{"):
        return Definition.from_dict({"space": "densenas", "data": densenas_space.parse_net_config(text)})
    if text.startswith(("{", "[")):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        match value:
            case {"space": _, "data": _}:
                return Definition.from_dict(value)
            case {"name": "ProxylessNASNets" | "PyramidTreeNet"}:
                return Definition("proxyless", proxyless_config.definition_from_config(value))
            case list():
                return Definition.from_dict({"space": "nsga-macro", "data": {"genome": value}})
    return Definition("darts", genotypes.parse(text).to_dict())


def given(text: str) -> Definition | None:
    """The definition in what a person wrote for an architecture: its text, or `file:PATH`; None for a mere name.

    Raises `InvalidSpec` for what looks like a definition and is none.
    """
    text = text.strip()
    if text.startswith("file:"):
        path = Path(text.removeprefix("file:")).expanduser()
        try:
            with path.open(encoding="utf-8") as file:
                content = file.read(_MOST_CHARACTERS + 1)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InvalidSpec(f"cannot read the definition {path}: {reason}.") from None
        if len(content) > _MOST_CHARACTERS:
            raise InvalidSpec(f"{path} is too large for a definition.")
        try:
            return read(content)
        except InvalidSpec as error:
            raise InvalidSpec(f"{path}: {error}") from None
    if text.startswith(("{", "[", "|")) or re.match(r"\w*\s*=?\s*Genotype\s*\(|\d+(:\d+){4}$", text):
        return read(text)
    return None


def sample(space: str, seed: int) -> Definition:
    """A random point of a space, the same for the same seed everywhere."""
    if space == "darts":
        return Definition(space, genotypes.sample(seed).to_dict())
    if space == "nasbench201":
        return Definition(space, {"cell": nasbench201_space.sample(seed)})
    raise InvalidSpec(f"nothing is sampled from the space {space!r}.")


def by_index(index: int) -> Definition:
    """A cell of NAS-Bench-201 by its index in the benchmark; raises `InvalidSpec` beyond 15 624."""
    return Definition("nasbench201", {"cell": nasbench201_space.to_string(nasbench201_space.by_index(index))})
