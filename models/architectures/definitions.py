"""Definitions: what a search found (a genotype, a genome, a list of blocks), from the shipped data or from a person.

A definition that a person gives gets a name made of the hash of its content and is kept in a file of its own, so that
a job, a later session or the results store can name it. Torch-free; nothing in a definition is ever executed.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import IO, Any

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
from models.architectures.wording import short
from models.errors import InvalidSpec, OutputError
from models.specs import canonical_json, digest

#: Keys of a data file's entry that are about the definition, not part of it.
_ABOUT = ("source", "published", "note", "provenance", "description", "also_in", "aliases")
_DIGITS = 12
#: The longest definition that was published has less than a million characters.
_MOST_CHARACTERS = 5_000_000
#: Python's literals take a hundred times their length in memory to read.
_MOST_LITERAL = 200_000
#: Names that data may use by themselves: the registry's, and those of the two packages of networks. Anything else, such
#: as `package.module:factory`, imports code that only a person may choose.
PLAIN_NAME = re.compile(r"((torchvision|timm):[\w.-]+|[a-z0-9][a-z0-9-]*)", re.ASCII)
#: A name and the sign after it, as before a genotype that is copied from code.
_ASSIGNED = r"[A-Za-z_]\w*\s*=\s*"
#: What the data of some spaces are recognised by.
_SPACE_OF_KEY = {
    "net_config": "densenas",
    "genome": "nsga-macro",
    "codes": "robnet",
    "cell": "nasbench201",
    "widths": "nats-size",
    "network": "proxyless",
}


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
        if self.name == "ensemble":
            return f"{data.get('space', 'darts')}{self.template}"
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
        Space("ensemble", "", "check_ensemble", "-ensemble-<seed>", "ensemble"),
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

        A cell of NAS-Bench-201 is called by its index in the benchmark, a sampled ensemble by its seed.
        """
        if self.sampled:
            return f"{self.data['space']}-ensemble-{self.data['seed']}"
        if self.space == "nasbench201":
            return f"nasbench201-{nasbench201_space.index_of(str(self.data['cell']))}"
        return f"{SPACES[self.space].stem}-{self.identity[:_DIGITS]}"

    @property
    def genotype(self) -> Genotype | None:
        """The cells, for a definition of the DARTS space."""
        return Genotype.from_dict(self.data) if self.space == "darts" else None

    @property
    def sampled(self) -> bool:
        """Whether it is an ensemble that follows from a seed."""
        return self.space == "ensemble" and "seed" in self.data

    @property
    def factories(self) -> tuple[str, ...]:
        """Names of an ensemble's members that are code of a person's, which is imported when they are built."""
        members = self.data.get("members", ()) if self.space == "ensemble" else ()
        names = (str(member["architecture"]).partition("@")[0] for member in members)
        return tuple(name for name in names if not PLAIN_NAME.fullmatch(name))

    @property
    def layers(self) -> int | None:
        """Number of layers, where the definition has a cell of its own for each."""
        cells = self.data["codes"] if self.space == "robnet" else ()
        return len(cells) if len(cells) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        return {"space": self.space, "data": self.data}

    @classmethod
    def from_dict(cls, value: object, *, picked: bool = False) -> Definition:
        """From `{"space": ..., "data": ...}`; raises `InvalidSpec` when it is none.

        An ensemble may have members that are code only where a person `picked` them here.
        """
        if not (
            isinstance(value, dict)
            and isinstance(value.get("space"), str)
            and value["space"] in SPACES
            and isinstance(value.get("data"), dict)
        ):
            raise InvalidSpec(f"a definition needs a space ({', '.join(SPACES)}) and data.")
        space = SPACES[value["space"]]
        check: Callable[[dict[str, Any]], dict[str, Any]] = globals()[space.check]
        found = cls(space.name, check(value["data"]))
        if not picked and (code := found.factories):
            raise InvalidSpec(
                f"its member {short(code[0])} is code from outside, which no definition may name: pick the ensemble "
                "here from models that you trust."
            )
        return found


def check_genotype(data: dict[str, Any]) -> dict[str, Any]:
    """A genotype's fields and nothing else."""
    return Genotype.from_dict(data).to_dict()


def check_cell201(data: dict[str, Any]) -> dict[str, Any]:
    """A cell string of NAS-Bench-201."""
    return {"cell": nasbench201_space.to_string(nasbench201_space.parse(_text(data, "cell")))}


def check_widths(data: dict[str, Any]) -> dict[str, Any]:
    """Five widths of the NATS-Bench size space."""
    return {"widths": ":".join(map(str, nasbench201_space.parse_widths(_text(data, "widths"))))}


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise InvalidSpec(f"the {key} of the definition is a text, not {short(value)}.")
    return value


def check_genome(data: dict[str, Any]) -> dict[str, Any]:
    """A genome of NSGA-Net's macro space."""
    return nsga_macro_space.check(data)


def check_codes(data: dict[str, Any]) -> dict[str, Any]:
    """The cells of a RobNet, fourteen codes each."""
    return {"codes": [list(cell) for cell in robnet_space.parse(data.get("codes"))]}


def check_net_config(data: dict[str, Any]) -> dict[str, Any]:
    """The blocks of a DenseNAS network."""
    return densenas_space.check(data)


def check_blocks(data: dict[str, Any]) -> dict[str, Any]:
    """The blocks of a ProxylessNAS network."""
    return proxyless_space.check(data)


def check_ensemble(data: dict[str, Any]) -> dict[str, Any]:
    """What an ensemble is made of."""
    from models.ensembles import composition

    return composition.check(data)


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


def _packaged() -> Path:
    """Where the definitions lie of what comes with the package and is called by a hash."""
    return Path(str(resources.files("models.weights"))) / "shipped" / "definitions"


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
    """The definition kept under a name, here or of weights that come with the package; None when there is none.

    Raises `InvalidSpec` for a damaged file.
    """
    if not re.fullmatch(rf"[a-z0-9-]+-[0-9a-f]{{{_DIGITS}}}", name):
        return None
    for path in (folder() / f"{name}.json", _packaged() / f"{name}.json"):
        try:
            text = path.read_text(encoding="utf-8")
            break
        except OSError:
            continue
    else:
        return None
    try:
        definition = Definition.from_dict(json.loads(text), picked=True)
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
    the NATS-Bench size space, macro genomes of NSGA-Net, codes of RobNet, the `net_config` files of DenseNAS, the
    `.config` files of ProxylessNAS, and JSON with `space` and `data`, or with the data alone. Lists and dictionaries
    may also be Python's, with a name and `=` before them. Raises `InvalidSpec` for anything else.
    """
    try:
        return _read(re.sub(rf"\A\s*{_ASSIGNED}(?=[\[{{|])", "", text).strip())
    except RecursionError:
        raise InvalidSpec("that nests too deeply to be a definition.") from None


def _read(text: str) -> Definition:
    if text.startswith("|"):
        return Definition.from_dict({"space": "nasbench201", "data": {"cell": text}})
    if re.fullmatch(r"\d+(:\d+){4}", text):
        return Definition.from_dict({"space": "nats-size", "data": {"widths": text}})
    value: Any = _literal(text) if text.startswith(("{", "[")) else None
    match value:
        case {"space": _, "data": _}:
            return Definition.from_dict(value)
        case {"name": "ProxylessNASNets" | "PyramidTreeNet"}:
            return Definition("proxyless", proxyless_config.definition_from_config(value))
        case {"genotype": dict(cells)}:
            return Definition("darts", Genotype.from_dict(cells).to_dict())
        case {"genotype": list() | tuple() as codes}:
            return Definition.from_dict({"space": "robnet", "data": {"codes": codes}})
        case dict() if space := next((space for key, space in _SPACE_OF_KEY.items() if key in value), None):
            return Definition.from_dict({"space": space, "data": value})
        case [str(), *_]:
            return Definition.from_dict({"space": "robnet", "data": {"codes": [value]}})
        case [[str(), *_], *_]:
            return Definition.from_dict({"space": "robnet", "data": {"codes": value}})
        case [[[_, _], str(), *_], *_]:
            return Definition.from_dict({"space": "densenas", "data": {"net_config": value}})
        case [[[*_], *_], *_]:
            return Definition.from_dict({"space": "nsga-macro", "data": {"genome": value}})
        case dict() if not any(str(key).startswith("normal") for key in value):
            keys = ", ".join(f"{key} ({space})" for key, space in _SPACE_OF_KEY.items())
            raise InvalidSpec(f"that is no definition: it has none of normal (a genotype), {keys}, or space and data.")
        case list() if not densenas_space.looks_like_net_config(text):
            raise InvalidSpec(
                "that list is no definition: a macro genome lists phases, RobNet's codes cells, a net_config blocks."
            )
    if not text.startswith("{") and densenas_space.looks_like_net_config(text):
        return Definition.from_dict({"space": "densenas", "data": densenas_space.parse_net_config(text)})
    return Definition("darts", genotypes.parse(text).to_dict())


def _literal(text: str) -> Any:
    """The value of JSON or of a Python literal; None for text that is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > _MOST_LITERAL:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def given(text: str) -> Definition | None:
    """The definition in what a person wrote for an architecture: its text, or `file:PATH`; None for a mere name.

    Raises `InvalidSpec` for what looks like a definition and is none.
    """
    text = text.strip()
    if text.startswith("file:"):
        path = Path(text.removeprefix("file:")).expanduser()
        try:
            with path.open("rb") as file:
                content = decoded(file)
        except OSError as error:
            raise InvalidSpec(f"cannot read the definition {path}: {error.strerror or error}.") from None
        except InvalidSpec as error:
            raise InvalidSpec(f"{path} {error}") from None
        try:
            return read(content)
        except InvalidSpec as error:
            raise InvalidSpec(f"{path}: {error}") from None
    if text.startswith(("{", "[", "|")) or re.match(rf"({_ASSIGNED})?(Genotype\s*\(|[\[{{|])|\d+(:\d+){{4}}$", text):
        return read(text)
    return None


def decoded(file: IO[bytes]) -> str:
    """The text in a file or a pipe, of which no more is read than a definition may have.

    Raises `InvalidSpec`, as the rest of a sentence, for what is too large or no text.
    """
    content = file.read(_MOST_CHARACTERS + 1)
    if b"\0" in content:
        raise InvalidSpec("is no text, so it holds no definition.")
    if not content.strip():
        raise InvalidSpec("is empty.")
    if len(content) > _MOST_CHARACTERS:
        raise InvalidSpec("is too large for a definition.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidSpec("is no text, so it holds no definition.") from None


def sample(space: str, seed: int) -> Definition:
    """A random point of a space, the same for the same seed everywhere."""
    if space == "darts":
        return Definition(space, genotypes.sample(seed).to_dict())
    if space == "nasbench201":
        return Definition(space, {"cell": nasbench201_space.sample(seed)})
    if space.endswith("-ensemble"):
        return Definition.from_dict(
            {"space": "ensemble", "data": {"space": space.removesuffix("-ensemble"), "seed": seed}}
        )
    raise InvalidSpec(f"nothing is sampled from the space {space!r}.")


def by_index(index: int) -> Definition:
    """A cell of NAS-Bench-201 by its index in the benchmark; raises `InvalidSpec` beyond 15 624."""
    return Definition("nasbench201", {"cell": nasbench201_space.to_string(nasbench201_space.by_index(index))})
