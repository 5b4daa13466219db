"""What the value of a recipe key may be. A rule turns what a file or a person wrote into the value, or says what is
wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from models.errors import InvalidSpec, nearest
from models.specs import Radius


class Rule(Protocol):
    """How a key is read. Raises `InvalidSpec` with the key's name."""

    def read(self, key: str, value: Any) -> Any: ...


def _number(key: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidSpec(f"recipe key {key}: {value!r} is no number.")
    return number


@dataclass(frozen=True)
class Number:
    """A number: positive, not negative, or from 0 to below 1."""

    positive: bool = False
    fraction: bool = False

    def read(self, key: str, value: Any) -> float:
        number = _number(key, value)
        if self.positive and number <= 0:
            raise InvalidSpec(f"{key} must be positive, not {value}.")
        if self.fraction and not 0 <= number < 1:
            raise InvalidSpec(f"{key} must be from 0 to below 1, not {value}.")
        if number < 0:
            raise InvalidSpec(f"{key} must not be negative, not {value}.")
        return number


@dataclass(frozen=True)
class Whole:
    """A whole number of at least `least`."""

    least: int = 1

    def read(self, key: str, value: Any) -> int:
        number = _number(key, value)
        if number != int(number):
            raise InvalidSpec(f"{key} must be a whole number, not {value}.")
        if number < self.least:
            least = "positive" if self.least == 1 else f"at least {self.least}"
            raise InvalidSpec(f"{key} must be {least}, not {value}.")
        return int(number)


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def read(self, key: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise InvalidSpec(f"{key} must be true or false, not {value!r}.")
        return value


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    choices: tuple[str, ...]

    def read(self, key: str, value: Any) -> str:
        if value not in self.choices:
            near = nearest(str(value), self.choices, limit=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InvalidSpec(f"{key} must be one of {', '.join(self.choices)}, not {value!r}.{hint}")
        return str(value)


@dataclass(frozen=True)
class Numbers:
    """A list of numbers that are not negative; of a given length, or of any."""

    length: int | None = None

    def read(self, key: str, value: Any) -> tuple[float, ...]:
        example = f"{key}=[{', '.join(['0.4'] * (self.length or 2))}]"
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise InvalidSpec(f"{key} must be a list of numbers, such as {example}, not {value!r}.")
        numbers = tuple(Number().read(key, v) for v in value)
        if self.length is not None and len(numbers) not in (0, self.length):
            raise InvalidSpec(f"{key} takes {self.length} numbers, such as {example}, not {len(numbers)}.")
        return numbers


@dataclass(frozen=True)
class Distance:
    """A distance in [0, 1] pixels, kept as it was written: `8/255` or `0.1`; with `relative` also `0.25 eps`."""

    relative: bool = False

    def read(self, key: str, value: Any) -> str:
        factor, unit, rest = str(value).partition("eps")
        if self.relative and unit and not rest:
            return f"{Number(positive=True).read(key, factor.strip() or '1'):g} eps"
        return Radius.parse(value, what=key, limit=2 if self.relative else 1).text
