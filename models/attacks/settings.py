"""Settings that only some attacks have: what may be set, to what, and what it is when nobody sets it. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from models.errors import InvalidSpec
from models.specs import OptionValue


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
