"""A study as it is written: a TOML file, read and checked. Data only; nothing in it is ever executed.

Whether the names in it exist is not asked here but in `explorer.studies.expansion`.
"""

from __future__ import annotations

import itertools
import math
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from explorer.errors import ExplorerError
from models.errors import UnknownName, nearest

#: A range of whole numbers in an architecture's name, and the place of the training seed.
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
SEED_MARK = "{seed}"
#: `20 random cells, seeds 0-19`: what a person writes for `darts-random-{0..19}`.
_RANDOM = re.compile(
    r"(?P<count>\d{1,6}) random (?:(?P<space>darts|nasbench201) )?cells, seeds (?P<first>\d{1,9})-(?P<last>\d{1,9})"
)
#: A study of more models than this is a slip of the pen: it would run for years.
MOST_MODELS = 10_000
#: Whole numbers of TOML, and those that the store keeps, seeds say, have 64 bits.
_MOST_WHOLE = 2**63 - 1
#: Tables and lists in each other: a study needs four.
_DEEPEST = 16
#: Of a value that is refused, so much is repeated.
_MOST_SAID = 80

#: Where weights come from besides a name that `--weights` takes: trained by the study, or published by a package.
TRAINED, PUBLISHED = "trained", "published"
PLOTS = ("tradeoff", "parameters")

_STUDY_KEYS = (
    "name", "title", "description", "seeds", "datasets", "recipe", "options", "attacks", "presets", "eps",
    "threat_spaces", "verdict", "attack_seed", "examples", "engine", "groups", "claims", "printed", "top_k", "plots",
)  # fmt: skip
_GROUP_KEYS = ("name", "description", "architectures", "options", "recipe", "seeds", "weights", "printed")
_ENTRY_KEYS = ("architecture", "label", "weights", "weights_needed", "printed")
_CLAIM_KEYS = ("says", "more", "less", "attack")
_ENGINE_KEYS = ("precision", "compile", "channels_last", "fold", "slots")


@dataclass(frozen=True)
class Entry:
    """One architecture of a group. `architecture` may hold the mark `{seed}`, for one architecture a training seed.

    `weights` goes before the group's. `weights_needed` says why a person has to bring them. `printed` is the name in
    the publication's table.
    """

    architecture: str
    label: str | None = None
    weights: str | None = None
    weights_needed: str | None = None
    printed: str | None = None


@dataclass(frozen=True)
class Training:
    """A recipe by name (None: each architecture's own), and what is different from it."""

    name: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Architectures that the report speaks of together. None where the study's own values hold."""

    name: str
    description: str
    entries: tuple[Entry, ...]
    options: Mapping[str, str]
    training: Training | None
    seeds: tuple[int, ...] | None
    weights: str
    #: The name of a printed row that is the mean of such a group.
    printed: str | None = None


@dataclass(frozen=True)
class Claim:
    """A sentence to be tested: that networks of the group `more` keep more accuracy than those of `less`."""

    says: str
    more: str
    less: str
    #: Label of the attack, such as pgd-10; None: the strongest of the study.
    attack: str | None = None


@dataclass(frozen=True)
class Engine:
    """How networks are computed. Nothing here is chosen by timing, so that a study gives the same again."""

    precision: str = "float32"
    compile: str = "off"
    channels_last: str = "off"
    fold: str = "off"
    slots: int = 64


@dataclass(frozen=True)
class Study:
    """A whole study. `source` is `shipped` or the file's path, `text` the file as it stands."""

    name: str
    title: str
    description: str
    seeds: tuple[int, ...]
    datasets: tuple[str, ...]
    training: Training
    options: Mapping[str, str]
    attacks: tuple[str, ...]
    presets: tuple[str, ...]
    eps: tuple[str, ...]
    threat_spaces: tuple[str, ...]
    verdict: str | None
    attack_seed: int
    #: None: all.
    examples: int | None
    engine: Engine
    groups: tuple[Group, ...]
    claims: tuple[Claim, ...]
    #: Table of the publication that the figures are shown beside.
    printed: str | None
    top_k: int
    plots: tuple[str, ...]
    source: str
    text: str

    @property
    def where(self) -> str:
        """What errors call the file."""
        return f"study {self.name}" if self.source == "shipped" else self.source

    def group(self, name: str) -> Group:
        return next(group for group in self.groups if group.name == name)


def shipped() -> list[str]:
    """Names of the studies that come with the package, in the order of the alphabet."""
    folder = resources.files("explorer.studies").joinpath("shipped")
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def find(text: str) -> Study:
    """The study that `text` means: a shipped one by name, or a file.

    Raises `ExplorerError` with one sentence for a file that is no study, `UnknownName` for a name that nobody knows.
    """
    if text in shipped():
        file = resources.files("explorer.studies").joinpath("shipped").joinpath(f"{text}.toml")
        return parse(file.read_text(encoding="utf-8"), source="shipped", where=f"study {text}")
    path = Path(text).expanduser()
    try:
        if path.is_file():
            return parse(path.read_text(encoding="utf-8"), source=str(path), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ExplorerError(f"{path} cannot be read as a study: {error}.") from None
    if text.endswith(".toml") or "/" in text:
        raise ExplorerError(f"there is no study file {text}.")
    raise UnknownName("study", text, shipped(), listing="nasrob-tui study list")


def parse(text: str, *, source: str, where: str) -> Study:
    """A study from the text of its file; `where` is what errors call it. Raises `ExplorerError`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ExplorerError(f"{where} is not valid TOML: {error}.") from None
    except ValueError:
        raise ExplorerError(f"{where} cannot be read: a whole number in it has more than 64 bits.") from None
    except RecursionError:
        raise ExplorerError(f"{where} cannot be read: its lists or tables are nested too deeply.") from None
    _check_values(raw, where)
    table = _Table(raw, where)
    table.check(_STUDY_KEYS)
    name = table.text("name")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
        raise table.error(
            "name", f"{_said(name)} is no name: lower-case letters, digits and hyphens, at most 64 of them"
        )
    groups = tuple(_group(one) for one in table.tables("groups"))
    if not groups:
        raise table.error("groups", "a study has at least one [[groups]] with architectures")
    names = [group.name for group in groups]
    for twice in {n for n in names if names.count(n) > 1}:
        raise table.error("groups", f"the name {_said(twice)} is given twice")
    seeds = table.seeds("seeds") or (0,)
    names_of_data = table.texts("datasets")
    _check_count(table, groups, seeds, len(names_of_data))
    examples = table.get("examples", "all")
    if examples != "all" and not (_is_whole(examples) and examples > 0):
        raise table.error("examples", f'{_said(examples)} is neither a number of examples nor "all"')
    attacks, presets = table.texts("attacks", ()), table.texts("presets", ())
    if not (attacks or presets):
        raise table.error("attacks", "name at least one attack or one of the presets")
    spaces = table.texts("threat_spaces", ("pixel",))
    for space in spaces:
        table.choice("threat_spaces", space, ("pixel", "normalized-clamped"))
    verdict = table.get("verdict", None)
    if verdict is not None:
        table.choice("verdict", verdict, ("worst", "last", "closest"))
    plots = table.texts("plots", ("tradeoff",))
    for plot in plots:
        table.choice("plots", plot, PLOTS)
    return Study(
        name=name,
        title=table.text("title"),
        description=table.prose("description"),
        seeds=seeds,
        datasets=names_of_data,
        training=_training(table) or Training(),
        options=table.options("options"),
        attacks=attacks,
        presets=presets,
        eps=table.texts("eps", ()),
        threat_spaces=spaces,
        verdict=verdict,
        attack_seed=table.whole("attack_seed", 0),
        examples=None if examples == "all" else int(examples),
        engine=_engine(table),
        groups=groups,
        claims=tuple(_claim(one, names) for one in table.tables("claims")),
        printed=table.text("printed", "") or None,
        top_k=int(table.choice("top_k", table.get("top_k", 1), (1, 5))),
        plots=plots,
        source=source,
        text=text,
    )


class _Table:
    """A table of the file with the words that errors need: the file, and the path of keys to it."""

    def __init__(self, raw: Mapping[str, Any], where: str, path: str = "") -> None:
        self.raw, self.where, self.path = raw, where, path

    def error(self, key: str, said: str) -> ExplorerError:
        return ExplorerError(f"{self.where}: {self.key(key)}: {said}.")

    def key(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def check(self, known: Sequence[str]) -> None:
        """Refuse keys that mean nothing here, with the nearest that does."""
        for key in self.raw:
            if key not in known:
                near = nearest(key, known, limit=1)
                meant = f"did you mean {near[0]!r}" if near else f"known are {', '.join(known)}"
                raise self.error(key, f"this key is unknown; {meant}{'?' if near else ''}".rstrip("?"))

    def get(self, key: str, default: Any) -> Any:
        return self.raw.get(key, default)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.raw.get(key, default)
        if value is None:
            raise self.error(key, "this key is missing")
        if not isinstance(value, str) or (default is None and not value.strip()):
            raise self.error(key, f"{_said(value)} is no text")
        return self.one_line(key, value)

    def one_line(self, key: str, value: str) -> str:
        if "\n" in value or "\t" in value:
            raise self.error(key, f"{_said(value)} has a line break or a tab: write it on one line")
        return value.strip()

    def prose(self, key: str) -> str:
        """A text that may go over several lines; their breaks mean nothing."""
        value = self.raw.get(key, "")
        if not isinstance(value, str):
            raise self.error(key, f"{_said(value)} is no text")
        return " ".join(value.split())

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of texts, at least one where the file has the key; a single text stands for a list of one."""
        value = self.raw.get(key, default)
        if value is None:
            raise self.error(key, "this key is missing")
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list | tuple) or not all(isinstance(v, str) and v.strip() for v in listed):
            raise self.error(key, f"{_said(value)} is no list of texts")
        if key in self.raw and not listed:
            raise self.error(key, "the list is empty")
        return tuple(dict.fromkeys(self.one_line(key, v) for v in listed))

    def whole(self, key: str, default: int, least: int = 0) -> int:
        value = self.raw.get(key, default)
        if not _is_whole(value) or value < least:
            raise self.error(key, f"{_said(value)} is no whole number of at least {least}")
        return int(value)

    def choice(self, key: str, value: Any, known: Sequence[Any]) -> Any:
        # For Python true is 1, and 5.0 is 5.
        if not any(value == one and type(value) is type(one) for one in known):
            raise self.error(key, f"{_said(value)} is none of {', '.join(map(str, known))}")
        return value

    def seeds(self, key: str) -> tuple[int, ...] | None:
        """`[0, 1, 2]`, or `"0-2"`; None where the key is missing."""
        value = self.raw.get(key)
        if value is None:
            return None
        if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,9})\s*-\s*(\d{1,9})", value.strip())):
            first, last = int(match[1]), int(match[2])
            if last - first >= MOST_MODELS:
                said = f"the range {first}-{last} has {last - first + 1:,} seeds"
                raise self.error(key, f"{said}, and a study has at most {MOST_MODELS:,} models")
            value = list(range(first, last + 1))
        if not isinstance(value, list) or not value or not all(_is_whole(v) and v >= 0 for v in value):
            raise self.error(key, f'{_said(self.raw[key])} is no list of seeds, such as [0, 1, 2] or "0-2"')
        return tuple(dict.fromkeys(value))

    def table(self, key: str) -> _Table:
        value = self.raw.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, f"{_said(value)} is no table")
        return _Table(value, self.where, self.key(key))

    def tables(self, key: str) -> Iterator[_Table]:
        value = self.raw.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.error(key, f"write it as [[{self.key(key)}]], once for each")
        for i, one in enumerate(value, 1):
            named = one.get("name")
            plain = isinstance(named, str) and named.isprintable()
            yield _Table(one, self.where, f"{self.key(key)}.{named if plain else i}")

    def options(self, key: str) -> dict[str, str]:
        """Options of architectures, as texts."""
        found = {}
        for name, value in self.table(key).raw.items():
            if not isinstance(value, str | int | float):
                raise self.error(f"{key}.{name}", f"{_said(value)} is no value of an option")
            found[name] = str(value).lower() if isinstance(value, bool) else str(value)
        return found


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _said(value: Any) -> str:
    """A value as an error repeats it: not more of it than a person reads."""
    text = repr(value)
    return text if len(text) <= _MOST_SAID else f"{text[:_MOST_SAID]}..."


def _check_values(raw: Mapping[str, Any], where: str) -> None:
    """Refuse, anywhere in the file, what is no text of a person and no number of TOML.

    Texts of a study go to terminals, Markdown and SVG, where control characters are commands or no characters at all.
    """
    left: list[tuple[tuple[str, ...], Any]] = [((), raw)]
    while left:
        path, value = left.pop()
        key = ".".join(path)
        if len(path) > _DEEPEST:
            raise ExplorerError(f"{where}: {'.'.join(path[:3])}...: its lists or tables are nested too deeply.")
        if isinstance(value, dict):
            for name in value:
                if (found := _control(name, "")) is not None:
                    raise ExplorerError(f"{where}: the key {_said(name)} has the control character {found} in it.")
            left += [((*path, name), one) for name, one in value.items()]
        elif isinstance(value, list):
            left += [((*path, str(i)), one) for i, one in enumerate(value, 1)]
        elif isinstance(value, str) and (found := _control(value, "\n\t")) is not None:
            raise ExplorerError(f"{where}: {key}: {_said(value)} has the control character {found} in it.")
        elif isinstance(value, int) and not -_MOST_WHOLE <= value <= _MOST_WHOLE:
            raise ExplorerError(f"{where}: {key}: a whole number must be below 2**63, and this one is not.")


def _control(text: str, allowed: str) -> str | None:
    """The first character that is no part of a text, as `U+001B`: control characters, line and paragraph separators,
    those that turn the direction of writing, and what XML cannot hold.
    """
    for c in text:
        turns = "\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069"
        if c not in allowed and (turns or c in "\ufffe\uffff" or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")):
            return f"U+{ord(c):04X}"
    return None


def _check_count(table: _Table, groups: Sequence[Group], seeds: Sequence[int], n_datasets: int) -> None:
    """Refuse a study of too many models before any of them is made."""
    counts = {}
    for group in groups:
        n_seeds = len(group.seeds or seeds)
        varied = sum(_is_per_seed(entry, group) for entry in group.entries)
        counts[group.name] = n_datasets * (varied * n_seeds + len(group.entries) - varied)
    if (n := sum(counts.values())) > MOST_MODELS:
        most = max(counts, key=lambda name: counts[name])
        said = f"architectures, seeds and datasets make {n:,} models, {counts[most]:,} of them in {_said(most)}"
        raise table.error("groups", f"{said}, and a study has at most {MOST_MODELS:,}")


def _is_per_seed(entry: Entry, group: Group) -> bool:
    """Whether an entry is a model a training seed."""
    trained = (entry.weights or group.weights) == TRAINED and entry.weights_needed is None
    return trained or SEED_MARK in entry.architecture


def _training(table: _Table) -> Training | None:
    """`recipe = "fast"`, or a table with `name` and whatever is different from it; None where there is neither."""
    value = table.get("recipe", None)
    if value is None:
        return None
    if isinstance(value, str):
        return Training(table.text("recipe"))
    own = table.table("recipe")
    return Training(own.text("name", "") or None, {k: v for k, v in own.raw.items() if k != "name"})


def _engine(table: _Table) -> Engine:
    own = table.table("engine")
    own.check(_ENGINE_KEYS)
    usual = Engine()
    for key in ("compile", "channels_last", "fold"):
        # TOML's own booleans are meant by whoever writes them.
        own.choice(key, own.get(key, "off"), ("on", "off", "auto", True, False))
    words = {True: "on", False: "off"}
    return Engine(
        precision=str(own.choice("precision", own.get("precision", usual.precision), ("float32", "bf16", "fp16"))),
        slots=own.whole("slots", usual.slots, least=1),
        **{
            key: words.get(own.get(key, "off"), str(own.get(key, "off")))
            for key in ("compile", "channels_last", "fold")
        },
    )


def _claim(table: _Table, groups: Sequence[str]) -> Claim:
    table.check(_CLAIM_KEYS)
    for key in ("more", "less"):
        name = table.text(key)
        if name not in groups:
            near = nearest(name, groups, limit=1)
            meant = f"did you mean {near[0]!r}" if near else f"groups are {', '.join(groups)}"
            raise table.error(key, f"there is no group {_said(name)}; {meant}")
    if table.text("more") == table.text("less"):
        raise table.error("less", f"a claim compares two groups, and {_said(table.text('less'))} is that of 'more' too")
    return Claim(table.text("says"), table.text("more"), table.text("less"), table.text("attack", "") or None)


def _group(table: _Table) -> Group:
    table.check(_GROUP_KEYS)
    listed = table.get("architectures", None)
    if not isinstance(listed, list) or not listed:
        raise table.error("architectures", "give a list of architectures")
    return Group(
        name=table.text("name"),
        description=table.prose("description"),
        entries=_all_entries(listed, table),
        options=table.options("options"),
        training=_training(table),
        seeds=table.seeds("seeds"),
        weights=table.text("weights", TRAINED),
        printed=table.text("printed", "") or None,
    )


def _all_entries(listed: Sequence[Any], table: _Table) -> tuple[Entry, ...]:
    found: list[Entry] = []
    for i, one in enumerate(listed, 1):
        found += _entries(one, i, table)
        if len(found) > MOST_MODELS:
            raise table.error("architectures", f"these are more than {MOST_MODELS:,}, the most that a study may have")
    return tuple(found)


def _entries(one: Any, number: int, group: _Table) -> Iterator[Entry]:
    """The architectures that one element of the list stands for."""
    if isinstance(one, str):
        for text in expand(group.one_line("architectures", one), lambda said: group.error("architectures", said)):
            yield Entry(text)
        return
    if not isinstance(one, dict):
        raise group.error("architectures", f"{_said(one)} is neither an architecture nor a table with one")
    table = _Table(one, group.where, group.key(f"architectures.{number}"))
    table.check(_ENTRY_KEYS)
    given = {key: table.text(key, "") or None for key in _ENTRY_KEYS[1:]}
    for text in expand(table.text("architecture"), lambda said: table.error("architecture", said)):
        yield Entry(text, **given)


def expand(text: str, error: Any) -> list[str]:
    """The names that a text with ranges stands for: `darts-random-{0..2}` is three of them.

    `error` makes the exception for a range that makes no sense. The mark `{seed}` is left as it is.
    """
    if match := _RANDOM.fullmatch(" ".join(text.split())):
        first, last = int(match["first"]), int(match["last"])
        if last - first + 1 != int(match["count"]):
            raise error(f"{_said(text)}: seeds {first}-{last} are {max(0, last - first + 1)}, not {match['count']}")
        text = f"{match['space'] or 'darts'}-random-{{{first}..{last}}}"
    ranges = [(int(first), int(last)) for first, last in _RANGE.findall(text)]
    for first, last in ranges:
        if last < first:
            raise error(f"{_said(text)}: the range {first}..{last} must go upward")
    count = math.prod(last - first + 1 for first, last in ranges)
    if count > MOST_MODELS:
        named = " times ".join(f"{first}..{last}" for first, last in ranges)
        raise error(
            f"{_said(text)}: {named} are {count:,} architectures, and a study has at most {MOST_MODELS:,} models"
        )
    pieces = _RANGE.sub("\0", text).split("\0")
    if re.search(r"[{}]", "".join(pieces).replace(SEED_MARK, "")):
        raise error(f"{_said(text)}: braces hold a range, such as {{0..19}}, or the word seed")
    found = []
    for numbers in itertools.product(*(range(first, last + 1) for first, last in ranges)):
        found.append("".join(a + b for a, b in zip(pieces, [*map(str, numbers), ""], strict=True)))
    return found
