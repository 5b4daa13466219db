"""Which size of an architecture tensors belong to, and which other architecture they fit.

Options are read off the tensors without knowing any family: a network is built twice without memory (on torch's meta
device), with an option at two values; where a dimension, or the number of blocks in a row, differs between the two, it
grows with the option, and the file's number says what the option was. Every answer is then checked in full.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from models.architectures import registry
from models.architectures.registry import Architecture
from models.errors import InvalidSpec
from models.specs import ArchitectureSpec, OptionValue
from models.weights.containers import Contents
from models.weights.edges import disagreements, may_be
from models.weights.fit import Expected, Fit, Shape, is_auxiliary, match

#: Seconds for the options of one architecture, and for a look through the whole registry.
PATIENCE, LONG_PATIENCE = 20.0, 20.0
#: Combinations of words and switches that are tried in full, the likeliest first.
_MOST_COMBINATIONS, _FULL_COMBINATIONS = 32, 4
_CLASSES, _CHANNELS = "number of classes", "number of input channels"

Point = dict[str, OptionValue]
#: A name with an axis, or a row of blocks with a negative one; and the size, or the number.
Features = dict[tuple[str, int], int]


@dataclass(frozen=True)
class Guess:
    """An architecture with options, classes and channels, and how a file's tensors lie on it.

    `alike` are values of options that the tensors do not show: they fit as well.
    """

    spec: ArchitectureSpec
    num_classes: int
    in_channels: int
    fit: Fit
    alike: tuple[str, ...] = ()


@lru_cache(maxsize=64)
def expected(
    spec: ArchitectureSpec, num_classes: int, in_channels: int, *, devices: tuple[str, ...] = ("meta", "cpu")
) -> Expected | None:
    """Names and shapes of a network's tensors, without allocating it where that can be done; None when it cannot be
    built with these options.
    """
    for device in devices:
        try:
            with torch.device(device), torch.random.fork_rng(devices=[]):
                return Expected.of(registry.build(spec, num_classes=num_classes, in_channels=in_channels))
        except InvalidSpec:
            return None
        except (NotImplementedError, RuntimeError):
            continue  # Some constructors compute, which needs a real device.
        except (ValueError, AssertionError, ArithmeticError, TypeError):
            return None
    return None


def infer(
    contents: Contents,
    architecture: Architecture,
    given: Mapping[str, OptionValue],
    *,
    num_classes: int,
    in_channels: int,
    entry: str | None = None,
    patience: float = PATIENCE,
) -> Guess | None:
    """The options, classes and channels with which an architecture fits best: look at `fit.fits`.

    `given` options stay as they are. The published, small and large values are tried first, then what the tensors say;
    after `patience` seconds the best so far is returned. None when nothing could be built.
    """
    return _Search(contents, architecture, given, num_classes, in_channels, entry, patience).run()


class _Search:
    def __init__(
        self,
        contents: Contents,
        architecture: Architecture,
        given: Mapping[str, OptionValue],
        num_classes: int,
        in_channels: int,
        entry: str | None,
        patience: float,
        devices: tuple[str, ...] = ("meta", "cpu"),
    ) -> None:
        self.contents = contents
        self.architecture = architecture
        known = {o.name: o for o in architecture.options}
        self.given: Point = {
            k: known[k].check(v, architecture.name) if k in known else v
            for k, v in given.items()
            if k in known or architecture.free_options
        }
        self.start: Point = {_CLASSES: num_classes, _CHANNELS: in_channels}
        self.entry = entry
        self.devices = devices
        self.deadline = time.monotonic() + patience
        self.best: Guess | None = None
        free = [o for o in architecture.options if o.name not in self.given and not o.training_only]
        self.words: dict[str, tuple[OptionValue, ...]] = {
            o.name: (False, True) if o.kind == "bool" else o.choices for o in free if o.kind != "int"
        }
        self.bounds: dict[str, tuple[int, int]] = {o.name: (o.minimum, o.maximum) for o in free if o.kind == "int"}
        self.bounds |= {_CLASSES: (1, 100_000), _CHANNELS: (1, 1024)}

    def run(self) -> Guess | None:
        for point in self._usual_points():
            if self._try(point):
                return self._with_alike()
        for point in self._combinations():
            if self._numbers(point):
                return self._with_alike()
        return self.best

    def _usual_points(self) -> Iterator[Point]:
        usual: list[Point] = []
        for scale in ("published", "small", "large"):
            point = {o.name: o.value_at(scale) for o in self.architecture.options} | self.given | self.start
            if point not in usual:
                usual.append(point)
        yield from usual

    def _combinations(self) -> list[Point]:
        """The small point with every combination of words and switches, those with the most names in common first.

        Small, because networks are built again and again from here on. A number that may be 0 is a switch too: from 1
        on the network has another form (cells that widen instead of doubling), which 0 tells nothing about.
        """
        small = {o.name: o.small for o in self.architecture.options} | self.given | self.start
        off: dict[str, tuple[OptionValue, ...]] = {k: (0, 2) for k, (least, _) in self.bounds.items() if least == 0}
        choices = self.words | off
        combinations = itertools.islice(itertools.product(*choices.values()), _MOST_COMBINATIONS)
        points = [small | dict(zip(choices, values, strict=True)) for values in combinations]
        if len(points) > 1:
            points.sort(key=lambda point: fit.score if (fit := self._fit(point)) else (-1,), reverse=True)
        return points[:_FULL_COMBINATIONS]

    def _numbers(self, point: Point) -> bool:
        """Set one number after the other to what the tensors say, twice: depths first, as they move everything
        else.
        """
        for _ in range(2):
            before = dict(point)
            for key in self._depths_first(point):
                for value in self._votes(point, key):
                    candidate = {**point, key: value}
                    if self._try(candidate):
                        return True
                    if self._score(candidate) > self._score(point):
                        point = candidate
                if time.monotonic() > self.deadline:
                    return False
            if point == before:
                break
        return self._pairs(point)

    def _pairs(self, point: Point) -> bool:
        """Set two numbers at once: of two that both make layers wider, each looks wrong until the other is right."""
        widths = [k for k in self.bounds if k not in (_CLASSES, _CHANNELS) and not self._changes_names(point, k)]
        for first, second in itertools.permutations(widths, 2):
            for value in self._votes(point, first):
                candidate = {**point, first: value}
                for other in self._votes(candidate, second):
                    if self._try({**candidate, second: other}):
                        return True
                if time.monotonic() > self.deadline:
                    return False
        return False

    def _depths_first(self, point: Point) -> list[str]:
        return sorted(self.bounds, key=lambda key: not self._changes_names(point, key))

    def _changes_names(self, point: Point, key: str) -> bool:
        probes = self._probes(point, key)
        return probes is not None and set(probes[1][1].shapes) != set(probes[0][1].shapes)

    def _votes(self, point: Point, key: str) -> list[int]:
        """Values of a number that the file's tensors speak for, the most frequent first."""
        probes = self._probes(point, key)
        fit = self._fit(point)
        if probes is None or fit is None:
            return []
        (low, at_low), (high, at_high) = probes
        below, above = _features(at_low.shapes), _features(at_high.shapes)
        there = _features(given_shapes(self.contents, fit))
        grows = [f for f in there if f in below and f in above and below[f] != above[f]]
        rows = [f for f in grows if f[1] < 0]
        # A row within a block changes with the kind of the block; one of whole blocks with their number.
        rows = [f for f in rows if not any(_is_number(part) for part in f[0].split("."))] or rows
        minimum, maximum = self.bounds[key]
        votes: Counter[int] = Counter()
        for feature in rows or grows:
            slope = (above[feature] - below[feature]) / (high - low)
            value = round(low + (there[feature] - below[feature]) / slope)
            if minimum <= value <= maximum:
                votes[value] += 1
        return [value for value, _ in votes.most_common(3)]

    def _probes(self, point: Point, key: str) -> tuple[tuple[int, Expected], tuple[int, Expected]] | None:
        """Two values of a number at which the network can be built, with what it then has."""
        here = int(point[key])
        minimum, maximum = self.bounds[key]
        option = next((o for o in self.architecture.options if o.name == key), None)
        usual = [int(v) for v in (option.small, option.large, option.default)] if option else []
        values = dict.fromkeys([here, *usual, here + 1, here + 2, here + 4, here + 6, here * 2, here - 1])
        if minimum == 0:
            # 0 is another form of network, between which and the others nothing grows in proportion.
            values = dict.fromkeys(value for value in values if (value == 0) == (here == 0))
        found: list[tuple[int, Expected]] = []
        for value in values:
            if minimum <= value <= maximum and (made := self._made({**point, key: value})) is not None:
                found.append((value, made))
                if len(found) == 2:
                    return found[0], found[1]
        return None

    def _spec(self, point: Point) -> ArchitectureSpec | None:
        try:
            return self.architecture.resolve({k: v for k, v in point.items() if k not in (_CLASSES, _CHANNELS)})
        except InvalidSpec:
            return None

    def _made(self, point: Point) -> Expected | None:
        spec = self._spec(point)
        if spec is None:
            return None
        return expected(spec, int(point[_CLASSES]), int(point[_CHANNELS]), devices=self.devices)

    def _fit(self, point: Point) -> Fit | None:
        made = self._made(point)
        return match(made, self.contents, entry=self.entry) if made is not None else None

    def _score(self, point: Point) -> tuple[int, ...]:
        fit = self._fit(point)
        return fit.score if fit is not None else (-1,)

    def _try(self, point: Point) -> bool:
        """Whether a point fits; the best of all is kept."""
        fit, spec = self._fit(point), self._spec(point)
        if fit is None or spec is None:
            return False
        if self.best is None or fit.score > self.best.fit.score:
            self.best = Guess(spec, int(point[_CLASSES]), int(point[_CHANNELS]), fit)
        return fit.fits

    def _with_alike(self) -> Guess:
        """The best guess, with the words and switches that the tensors do not show."""
        guess = self.best
        assert guess is not None
        published = {o.name: o.default for o in self.architecture.options}
        point = published | dict(guess.spec.options) | {_CLASSES: guess.num_classes, _CHANNELS: guess.in_channels}
        alike = []
        for name, values in self.words.items():
            for value in values:
                if value == point[name] or time.monotonic() > self.deadline:
                    continue
                fit = self._fit({**point, name: value})
                if fit is not None and fit.fits:
                    alike.append(f"{name}={str(value).lower()}")
        return replace(guess, alike=tuple(alike))


def given_shapes(contents: Contents, fit: Fit) -> dict[str, Shape]:
    """Shapes of the file's tensors by the network's names, without auxiliary heads and what lies outside."""
    named = {name: contents.tensors[source] for name, source in fit.given.items() if not is_auxiliary(name)}
    return {name: tuple(tensor.shape) for name, tensor in named.items()}


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 10


def _features(shapes: Mapping[str, Shape]) -> Features:
    """What grows with an option: every dimension by name and axis; of every row of numbered blocks how many have
    tensors (axis -1), and the last number (axis -2).
    """
    found: Features = {}
    rows: dict[str, set[int]] = {}
    for name, shape in shapes.items():
        found |= {(name, axis): size for axis, size in enumerate(shape)}
        parts = name.split(".")
        for depth, part in enumerate(parts):
            if _is_number(part):
                rows.setdefault(".".join(parts[:depth]), set()).add(int(part))
    for row, numbers in rows.items():
        found |= {(row, -1): len(numbers), (row, -2): max(numbers)}
    return found


@dataclass(frozen=True)
class Search:
    """Architectures that a file fits, and how many of the registry's were looked at in the time there was."""

    guesses: tuple[Guess, ...]
    looked_at: int
    total: int


def identify(
    contents: Contents,
    *,
    num_classes: int,
    in_channels: int,
    besides: str | None = None,
    entry: str | None = None,
    patience: float = LONG_PATIENCE,
) -> Search:
    """Every architecture of the registry that the file fits exactly at some options, apart from `besides`.

    Sampled cells are not looked at: there are too many.
    """
    known = [e for e in registry.entries().values() if e.name != besides and "<" not in e.name]
    deadline = time.monotonic() + patience
    shapes = {name: tuple(tensor.shape) for name, tensor in contents.tensors.items()}
    found: list[Guess] = []
    looked_at = 0
    for architecture in known:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        looked_at += 1
        if architecture.genotype is not None and not may_be(shapes, architecture.genotype):
            continue
        # What cannot be built without memory is too large to be built for a guess.
        search = _Search(contents, architecture, {}, num_classes, in_channels, entry, left, devices=("meta",))
        if _begins_alike(search):
            guess = search.run()
            if guess is not None and guess.fit.fits:
                found.append(guess)
    return Search(tuple(found), looked_at, len(known))


def _begins_alike(search: _Search) -> bool:
    """Whether a small network of the architecture has the file's names in the first of every row of blocks.

    Options change how many blocks there are and how wide, hardly ever what the first ones are made of.
    """
    architecture = search.architecture
    small = {o.name: o.small for o in architecture.options} | search.start
    combinations = itertools.islice(itertools.product(*search.words.values()), _MOST_COMBINATIONS // 4)
    for values in combinations:
        point = small | dict(zip(search.words, values, strict=True))
        made, fit = search._made(point), search._fit(point)
        if made is None or fit is None or not (fit.chosen or fit.misshapen):
            continue
        ours, theirs = _first_names(made.shapes), _first_names(given_shapes(search.contents, fit))
        if (ours <= theirs or theirs <= ours) and all(_is_further(name) for name in ours ^ theirs):
            return True
    return False


def _is_further(name: str) -> bool:
    """Whether a name is in the first block of a row, and there in a further one of an inner row."""
    return any(number != "0" for number in list(filter(_is_number, name.split(".")))[1:])


def _first_names(shapes: Mapping[str, Shape]) -> set[str]:
    def is_first(name: str) -> bool:
        number = next((part for part in name.split(".") if _is_number(part)), "0")
        return number == "0" and not name.endswith("num_batches_tracked") and not is_auxiliary(name)

    return {name for name in shapes if is_first(name)}


def edge_disagreements(contents: Contents, guess: Guess) -> list[str]:
    """Where the operations of a cell network differ between a file and an architecture, a sentence an edge."""
    made = expected(guess.spec, guess.num_classes, guess.in_channels)
    return disagreements(given_shapes(contents, guess.fit), made.shapes) if made is not None else []
