"""Settings of attacks: how they are written behind a name, what may be set, to what, and what it is when nobody sets
it. Torch-free.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from models.errors import InvalidSpec
from models.specs import OptionValue, Radius, split_options

#: Settings that every attack may have; the others are its own.
COMMON = ("eps", "norm", "step_size", "steps", "restarts", "random_start", "verdict")


@dataclass(frozen=True)
class Setting:
    """A whole number or a real one in a range (by the type of its default), true or false, a text, or one of several
    words.

    A `quiet` one is no part of an attack's configuration as long as it has its default.
    """

    name: str
    default: OptionValue
    help: str
    minimum: float = 0
    maximum: float = math.inf
    choices: tuple[str, ...] = ()
    quiet: bool = False

    @classmethod
    def from_dict(cls, name: str, data: dict[str, Any]) -> Setting:
        """A setting as the catalogue holds it."""
        return cls(
            name=name,
            default=data["default"],
            help=data["help"],
            minimum=data.get("min", 0),
            maximum=data.get("max", math.inf),
            choices=tuple(data.get("choices", ())),
            quiet=data.get("quiet", False),
        )

    def check(self, value: object, attack: str) -> OptionValue:
        """The value in its type; raises `InvalidSpec` when it is none that the setting takes."""
        text = str(value).strip()
        if self.choices:
            if text.lower() not in self.choices:
                raise InvalidSpec(f"{attack}: {self.name} is one of {', '.join(self.choices)}, not {text!r}.")
            return text.lower()
        if isinstance(self.default, str):
            return text
        if isinstance(self.default, bool):
            return truth(text, f"{attack}: {self.name}")
        if isinstance(self.default, int):
            number: int | float = whole(text, f"{attack}: {self.name}")
        else:
            try:
                number = float(text)
            except ValueError:
                raise InvalidSpec(f"{attack}: {self.name} takes a number, not {text!r}.") from None
        if not self.minimum <= number <= self.maximum:
            span = f"at least {self.minimum:g}" if self.maximum == math.inf else f"{self.minimum:g} to {self.maximum:g}"
            raise InvalidSpec(f"{attack}: {self.name} must be {span}, not {text}.")
        return number


def whole(text: str, what: str) -> int:
    """A whole number; raises `InvalidSpec`."""
    try:
        return int(text)
    except ValueError:
        raise InvalidSpec(f"{what} takes a whole number, not {text!r}.") from None


def truth(text: str, what: str) -> bool:
    """`true` or `false`; raises `InvalidSpec`."""
    if text.lower() not in ("true", "false"):
        raise InvalidSpec(f"{what} takes true or false, not {text!r}.")
    return text.lower() == "true"


_READERS: dict[str, Callable[[str, str], Any]] = {"steps": whole, "restarts": whole, "random_start": truth}


def split_name(text: str) -> tuple[str, dict[str, str]]:
    """The name in `pgd-20@eps=4/255`, and what is written behind it: `eps` and, unless it is said there, `steps`."""
    name, inline = split_options(text)
    if match := re.fullmatch(r"(.+?)-(\d{1,6})", name.strip()):
        name = match.group(1)
        inline.setdefault("steps", match.group(2))
    return name, inline


def distribute(
    attack: str,
    inline: Mapping[str, str],
    asked: Mapping[str, Any],
    own: Collection[str],
    *,
    unknown: Callable[[str], Exception],
    called: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, Any], dict[str, str]]:
    """What is `asked` of the common settings after what is written `inline`, which goes before; and what is written of
    those that only this attack has (`own`), as texts.

    `called` gives our names of common settings that may be written otherwise. Raises what `unknown` makes of a name
    that is neither, and `InvalidSpec` for a common setting whose value is none.
    """
    common, mine = dict(asked), {}
    for key, value in inline.items():
        setting = called.get(key, key)
        if key in own:
            mine[key] = value
        elif setting in common:
            common[setting] = _READERS[setting](value, f"{attack}: {key}") if setting in _READERS else value
        else:
            raise unknown(key)
    return common, mine


def times_eps(text: str, eps: Radius) -> Radius:
    """`0.25 eps` at eps 8/255 is 2/255; the text keeps the form in which eps was written."""
    factor = Fraction(text.removesuffix("eps").strip())
    numerator, slash, denominator = eps.text.partition("/")
    exact = Fraction(numerator) * factor
    decimal = f"{float(exact):.6g}"
    if slash and Fraction(decimal) == exact:
        return Radius(f"{decimal}/{denominator}", float(exact / Fraction(denominator)))
    value = float(Fraction(numerator) * factor / Fraction(denominator or "1"))
    return Radius(repr(value), value)
