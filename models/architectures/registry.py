"""The one registry of architectures. Names, options and lineage without torch; `build` imports it.

An entry is data in `catalogue/*.json`; a builder is a function that turns options into a network. Beside the entries
there are names that are understood on the spot: seeded samples (`darts-random-7`), cells by index
(`nasbench201-1234`), definitions that a person gives (`Genotype(...)`, a file), and networks of other packages
(`torchvision:resnet50`, `timm:efficientnet_lite0`, `package.module:factory`).
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.architectures import definitions, external, genotypes
from models.architectures.definitions import Definition
from models.architectures.genotypes import Genotype
from models.architectures.options import Option, Scale
from models.architectures.wording import short
from models.errors import InvalidSpec, UnknownName
from models.specs import ArchitectureSpec, OptionValue, split_options

if TYPE_CHECKING:
    from torch import nn

_SEED_MARK = "<seed>"
#: Networks of DenseNAS whose block lists are in none of the authors' code.
UNPUBLISHED = ("densenas-large", "densenas-r1", "densenas-r2", "densenas-r3")
_SEED = re.compile(r"0|[1-9]\d{0,17}")
_LARGEST_SEED = 10**18 - 1
#: The members of a sampled ensemble have the seeds from a thousand times its own.
LARGEST_OF_ENSEMBLES = 10**15 - 1
#: Of a name that nobody knows so many characters are repeated, and searched for like ones.
_MOST_NAME = 80
#: A random cell as people call it who have not met `darts-random-7`.
_RANDOM = re.compile(r"(?:darts-)?(?:random|rand|rs)-?(?:seed|net|arch|cell)?-?(\d{1,18})")


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
    definition: Definition | None = None
    aliases: tuple[str, ...] = ()
    #: The recipe for large images, where that is another.
    recipe_large: str = ""
    #: Arguments of the builder that are no options.
    fixed: Mapping[str, Any] = field(default_factory=dict)
    #: Whether there is an auxiliary head for training.
    auxiliary: bool = False
    #: Side of the images it was made for and number of classes, where only one makes sense.
    input_size: int | None = None
    num_classes: int | None = None
    #: Takes any option, as the keyword arguments of a factory.
    free_options: bool = False
    #: For an entry that stands for seeded samples, the space that they are drawn from.
    samples: str = ""
    #: Belongs to the short list that a menu shows first.
    curated: bool = True

    @property
    def genotype(self) -> Genotype | None:
        """The cells, where the architecture is made of DARTS-format cells."""
        return self.definition.genotype if self.definition else None

    def recipe_for(self, scale: Scale) -> str:
        """Name of the training recipe for images of a scale."""
        return self.recipe_large or self.recipe if scale == "large" else self.recipe

    def resolve(self, given: Mapping[str, object], *, scale: Scale = "published") -> ArchitectureSpec:
        """The specification with every option filled in: as given, else the value for images of that scale.

        Raises `InvalidSpec` for an option that this architecture does not have.
        """
        given = self.named(given)
        if self.free_options:
            return ArchitectureSpec(self.name, tuple((k, external.read_value(v)) for k, v in given.items()))
        values = []
        for option in self.options:
            value = self.check(option.name, given.get(option.name, option.value_at(scale)))
            if not (option.quiet and value == option.default):
                values.append((option.name, value))
        return ArchitectureSpec(self.name, tuple(values))

    def named(self, given: Mapping[str, object], *, besides: Mapping[str, object] | None = None) -> dict[str, object]:
        """Options under their full names, in the order given: `C` is `init_channels`. `besides` are more of them, given
        in another place.

        Raises `InvalidSpec` for an option that this architecture does not have, and for one that is given twice with
        different values.
        """
        known = {o.name: o for o in self.options}
        full = {alias: o.name for o in self.options for alias in (o.name, *o.aliases)}
        found: dict[str, object] = {}
        elsewhere: set[str] = set()
        for place in (besides or {}, given):
            for key, value in place.items():
                name = key if self.free_options else full.get(key.lower().replace("-", "_"), "")
                if not (self.free_options or name):
                    listing = f"nasrob-tui archs show {self.name}"
                    raise UnknownName(f"option of {self.name}", key[:_MOST_NAME], known, listing=listing)
                if name in found and self.check(name, found[name]) != self.check(name, value):
                    first, second = (short(str(v)) for v in (found[name], value))
                    said = f"--set says {first} and its text {second}" if name in elsewhere else f"{first} and {second}"
                    raise InvalidSpec(f"{self.name} is given two values of {name}, {said}: leave one of them out.")
                found[name] = value
            elsewhere = set(found)
        return found

    def check(self, name: str, value: object) -> OptionValue:
        """The value of an option in its type; raises `InvalidSpec` when it is none that the option takes."""
        if self.free_options:
            return external.read_value(value)
        return next(o for o in self.options if o.name == name).check(value, self.name)


def _folded(name: str) -> str:
    return name.strip().lower().replace("_", "-")


@cache
def entries() -> dict[str, Architecture]:
    """All entries by name. One that ends in `<seed>` stands for a family of sampled cells.

    The catalogue's come first; then every published DARTS-format genotype that none of them builds.
    """
    raw: dict[str, dict[str, Any]] = {}
    for file in sorted(resources.files("models.architectures.catalogue").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".json"):
            raw |= json.loads(file.read_text(encoding="utf-8"))
    found = {name: _entry(name, _inherited(raw, name), entry) for name, entry in raw.items()}
    built = {json.dumps(e["definition"]) for e in raw.values() if "definition" in e}
    template = found["darts"]
    for key, cell in genotypes.published().items():
        name = _folded(key)
        if json.dumps({"space": "darts", "data": key}) in built or name in found:
            continue
        found[name] = replace(
            template,
            name=name,
            lineage=re.split(r"[-_]", name)[0],
            definition=definitions.published("darts", key),
            aliases=tuple(cell.get("aliases", ())),
            description=f"Cells of the published genotype {key}",
            source=cell["source"],
            curated=False,
        )
    for other in (*external.torchvision_entries(), *external.registered()):
        found.setdefault(other.name, other)
    return found


def _inherited(raw: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """An entry's fields with those of the entry that it is like, and likewise for each of its options."""
    entry = raw[name]
    if "like" not in entry:
        return entry
    base = _inherited(raw, entry["like"])
    options, own = base.get("options", {}), entry.get("options", {})
    merged = {key: {**options.get(key, {}), **own.get(key, {})} for key in {**options, **own}}
    return {**base, **entry, "options": merged}


def _entry(name: str, fields: dict[str, Any], own: dict[str, Any]) -> Architecture:
    chosen = fields.get("definition")
    return Architecture(
        name=name,
        family=fields["family"],
        lineage=fields["lineage"],
        builder=fields["builder"],
        options=tuple(Option.from_dict(key, o) for key, o in fields.get("options", {}).items()),
        description=fields["description"],
        source=fields["source"],
        recipe=fields["recipe"],
        definition=(
            definitions.published(chosen["space"], chosen["data"]) if chosen and chosen["data"] != "sample" else None
        ),
        samples=chosen["space"] if chosen and chosen["data"] == "sample" else "",
        aliases=tuple(own.get("aliases", ())),
        recipe_large=fields.get("recipe_large", ""),
        fixed=fields.get("fixed", {}),
        auxiliary=fields.get("auxiliary", False),
        input_size=fields.get("input_size"),
        num_classes=fields.get("num_classes"),
    )


@cache
def _by_folded_name() -> dict[str, str]:
    """Every name and alias, folded, with the entry it stands for."""
    found: dict[str, str] = {}
    for entry in entries().values():
        for name in (entry.name, *entry.aliases):
            found.setdefault(_folded(name), entry.name)
    for key in genotypes.published():
        for entry in entries().values():
            if entry.definition == definitions.published("darts", key):
                found.setdefault(_folded(key), entry.name)
                break
    return found


def find(name: str) -> Architecture:
    """The entry called `name` or by one of its aliases, in any case and with `_` for `-`; or one made on the spot.

    Raises `UnknownName` with the nearest known names, `InvalidSpec` for a definition that makes no sense.
    """
    wanted = _folded(name)
    known = _by_folded_name()
    if wanted in known and _SEED_MARK not in wanted:
        return entries()[known[wanted]]
    if is_unpublished(name):
        raise InvalidSpec(
            f"the blocks of {wanted} were published only beside its weights: give the net_config file that came with "
            "them as --arch file:PATH, or let `nasrob-tui weights add` read them off the weights."
        )
    made = _sampled(wanted, name) or _indexed(wanted) or _defined(name) or external.find(name)
    if made is not None:
        return made
    if not name.isprintable():
        raise InvalidSpec("that is neither a definition nor the name of an architecture.")
    _say_what_was_meant(name.strip())
    names: Iterable[str] = [n for n in known if _SEED_MARK not in n]
    raise UnknownName("architecture", name[:_MOST_NAME], names, listing="nasrob-tui archs")


def _say_what_was_meant(name: str) -> None:
    """Raise `InvalidSpec` with the right name for one that stands for something under another."""
    if match := _RANDOM.fullmatch(_folded(name)):
        raise InvalidSpec(
            f"unknown architecture {short(name)}: a random cell of the DARTS space is called by its seed, "
            f"darts-random-{int(match[1])}."
        )
    if elsewhere := external.packaged(name):
        packages = " and of ".join(text.partition(":")[0] for text in elsewhere)
        raise InvalidSpec(f"{short(name)} is a model of {packages}: write {' or '.join(elsewhere)}.")
    try:
        is_file = Path(name).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return  # too long for a file's name, or with characters that none has
    if is_file:
        raise InvalidSpec(
            f"{name} is a file: write file:{name} for a genotype or another definition in it; weights are named with "
            "--weights."
        )


def is_unpublished(name: str) -> bool:
    """Whether a name stands for a network whose definition only its weights hold."""
    return _folded(name) in UNPUBLISHED


def _sampled(wanted: str, written: str) -> Architecture | None:
    """A seeded sample: `darts-random-7`, `nasbench201-random-7`."""
    for entry in entries().values():
        if not entry.name.endswith(_SEED_MARK):
            continue
        stem = entry.name.removesuffix(_SEED_MARK)
        if not wanted.startswith(stem) and wanted != stem.rstrip("-"):
            continue
        seed = wanted.removeprefix(stem)
        largest = LARGEST_OF_ENSEMBLES if entry.family == "ensemble" else _LARGEST_SEED
        if not _SEED.fullmatch(seed) or int(seed) > largest:
            raise InvalidSpec(
                f"{short(written)} needs a seed, a whole number from 0 to {largest}: for example {stem}7."
            )
        definition = definitions.sample(entry.samples, int(seed))
        said = f"{entry.description.partition(',')[0]}, seed {seed}"
        return replace(entry, name=wanted, definition=definition, description=said, aliases=(), curated=False)
    return None


def _indexed(wanted: str) -> Architecture | None:
    """A cell of NAS-Bench-201 by its index in the benchmark: `nasbench201-1234`."""
    if not (match := re.fullmatch(r"nas-?bench-?201-(\d{1,9})", wanted)):
        return None
    return _of(definitions.by_index(int(match.group(1))))


def _defined(text: str) -> Architecture | None:
    """The architecture of a definition that a person gives: its text, a file, or the name it was kept under."""
    found = definitions.recall(text.strip().lower())
    if found is None:
        found = definitions.given(text)
        if found is None:
            return None
        if _published(found) is None and found.space != "nasbench201" and not found.sampled:
            definitions.remember(found)
    return _of(found)


def _published(definition: Definition) -> Architecture | None:
    """The entry that is this very definition."""
    for entry in entries().values():
        if entry.definition == definition:
            return entry
    return None


def _of(definition: Definition) -> Architecture:
    """The architecture of a definition: the published one if it is published, else one of its own name."""
    if (entry := _published(definition)) is not None:
        return entry
    if definition.sampled:
        return find(definition.name)
    space = definitions.SPACES[definition.space]
    template = entries()[space.template_for(definition.data)]
    if definition.space == "ensemble":
        return _picked(definition, template)
    known = definition.space == "nasbench201"
    options = template.options
    if (layers := definition.layers) is not None:
        options = tuple(_of_layers(option, layers) if option.name == "layers" else option for option in options)
    return replace(
        template,
        options=options,
        name=definition.name,
        lineage=space.stem,
        definition=definition,
        description=f"{definition.name}: " + ("a cell of the benchmark" if known else "given by a person"),
        source=template.source.partition(";")[0],
        aliases=(),
        curated=False,
    )


def _picked(definition: Definition, template: Architecture) -> Architecture:
    """An ensemble of members that somebody chose."""
    members = definition.data["members"]
    return replace(
        template,
        options=tuple(
            replace(o, default="mean-logits", small="mean-logits", large="mean-logits") if o.name == "combine" else o
            for o in template.options
            if o.name in ("combine", "width")
        ),
        name=definition.name,
        lineage="ensemble",
        definition=definition,
        samples="",
        description=f"An ensemble of {len(members)}: {', '.join(m['architecture'].partition('@')[0] for m in members)}",
        source="picked by a person",
        recipe="standard",
        recipe_large="",
        aliases=(),
        curated=False,
    )


def _of_layers(option: Option, layers: int) -> Option:
    """The number of layers where there is a cell for each of so many."""
    return replace(option, default=layers, small=min(int(option.small), layers), large=layers, maximum=layers)


def parse_architecture(
    text: str,
    overrides: Mapping[str, OptionValue | str] | None = None,
    *,
    scale: Scale = "published",
) -> ArchitectureSpec:
    """Read an architecture as a person writes it, with options in the text or in `overrides`.

    Raises `InvalidSpec` for what makes no sense, and where the two say different things.
    """
    name, options = split_options(text)
    entry = find(name)
    return entry.resolve(entry.named(options, besides=overrides), scale=scale)


def build(spec: ArchitectureSpec, *, num_classes: int, in_channels: int, auxiliary: bool = False) -> nn.Module:
    """A freshly initialised network, taking normalised images (N, in_channels, H, W) to logits (N, num_classes).

    `auxiliary` adds the training-only head of a cell network; other builders refuse it with `InvalidSpec`.
    """
    entry = find(spec.name)
    if auxiliary and not entry.auxiliary:
        raise InvalidSpec(f"{spec.name} has no auxiliary head.")
    given = dict(spec.options)
    quiet = {o.name: o.default for o in entry.options if o.quiet}
    arguments: dict[str, Any] = {
        **entry.fixed,
        **quiet,
        **given,
        "num_classes": num_classes,
        "in_channels": in_channels,
    }
    if entry.definition is not None:
        arguments["definition"] = entry.definition.data
    if entry.auxiliary:
        arguments["auxiliary"] = auxiliary
    module, _, function = entry.builder.partition(":")
    network: nn.Module = getattr(importlib.import_module(module), function)(**arguments)
    return network
