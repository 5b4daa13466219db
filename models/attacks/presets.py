"""Presets: sets of attacks as data, ours and a person's own. Torch-free."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from models import home
from models.errors import InvalidSpec, UnknownName

#: File of a person's own presets in the home folder.
FILE = "presets.toml"


@dataclass(frozen=True)
class Preset:
    """Attacks in the form that `registry.resolve` reads, and the eps for each; none: the attacks' own."""

    name: str
    description: str
    attacks: tuple[str, ...]
    eps: tuple[str, ...] = ()
    #: Where it is written: `shipped`, or the file.
    source: str = "shipped"


def entries() -> dict[str, Preset]:
    """Every preset by name; a person's own go before shipped ones of the same name.

    Raises `InvalidSpec` for a file that cannot be read.
    """
    text = resources.files("models.attacks").joinpath("presets.toml").read_text(encoding="utf-8")
    found = {name: _preset(name, fields, "shipped") for name, fields in tomllib.loads(text).items()}
    own = home.folder() / FILE
    if own.is_file():
        found |= from_file(own)
    return found


def from_file(path: Path) -> dict[str, Preset]:
    """The presets in a TOML file; raises `InvalidSpec` with a sentence."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSpec(f"{path} cannot be read as presets: {error}.") from None
    return {name: _preset(name, fields, str(path)) for name, fields in raw.items()}


def find(name: str) -> Preset:
    """The preset `name`; raises `UnknownName` with the nearest."""
    known = entries()
    if name.strip().lower() in known:
        return known[name.strip().lower()]
    raise UnknownName("preset", name, known, listing="nasrob-tui attacks --presets")


def _preset(name: str, fields: Any, source: str) -> Preset:
    where = f"preset {name} in {source}"
    if not isinstance(fields, dict) or not set(fields) <= {"description", "attacks", "eps"}:
        raise InvalidSpec(f"{where}: a preset is a table with attacks, and perhaps eps and description.")
    attacks, eps = fields.get("attacks", []), fields.get("eps", [])
    for what, words in (("attacks", attacks), ("eps", eps)):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InvalidSpec(f'{where}: {what} is a list of texts, such as ["pgd-20"] or ["8/255"].')
    if not attacks:
        raise InvalidSpec(f"{where} names no attack.")
    return Preset(name, str(fields.get("description", "")), tuple(attacks), tuple(eps), source)
