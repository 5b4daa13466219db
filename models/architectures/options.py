"""Options of an architecture: what may be set, to what, and what it is when nobody sets it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from models.architectures.wording import short
from models.errors import InvalidSpec
from models.specs import OptionValue

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

#: For which images an architecture is wanted: tiny ones (8x8 scans), those it was published for, or large ones, for
#: which cell networks have another form.
Scale = Literal["published", "small", "large"]

TINY_SIDE, LARGE_SIDE = 16, 96


def scale_of(image_shape: tuple[int, ...]) -> Scale:
    """The scale of images (C, H, W)."""
    side = min(image_shape[1:])
    return "small" if side <= TINY_SIDE else "large" if side >= LARGE_SIDE else "published"


@dataclass(frozen=True)
class Option:
    """An option: a whole number in a range, true or false, one of several words, or numbers with hyphens between.

    `default` is the published value, `small` and `large` those for tiny and for large images. A `quiet` option is left
    out of an architecture's canonical name when it has the published value. One that is `training_only` makes no
    difference to a trained network.
    """

    name: str
    kind: Literal["int", "bool", "choice", "counts"]
    default: OptionValue
    small: OptionValue
    large: OptionValue
    help: str
    minimum: int = 0
    maximum: int = 0
    choices: tuple[str, ...] = ()
    quiet: bool = False
    training_only: bool = False
    #: Other names that a person may use.
    aliases: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, name: str, data: dict[str, Any]) -> Option:
        """An option as the catalogue holds it."""
        default = data["default"]
        return cls(
            name=name,
            kind=data.get("kind", "int"),
            default=default,
            small=data.get("small", default),
            large=data.get("large", default),
            help=data["help"],
            minimum=data.get("min", 0),
            maximum=data.get("max", 0),
            choices=tuple(data.get("choices", ())),
            quiet=data.get("quiet", False),
            training_only=data.get("training_only", False),
            aliases=tuple(data.get("aliases", ())),
        )

    def to_dict(self) -> dict[str, Any]:
        """The option as listings print it."""
        shown: dict[str, Any] = {"kind": self.kind, "default": self.default, "small": self.small, "large": self.large}
        if self.kind in ("int", "counts"):
            shown |= {"min": self.minimum, "max": self.maximum}
        if self.kind == "choice":
            shown["choices"] = list(self.choices)
        if self.aliases:
            shown["aliases"] = list(self.aliases)
        return {**shown, "help": self.help}

    def value_at(self, scale: Scale) -> OptionValue:
        return {"published": self.default, "small": self.small, "large": self.large}[scale]

    def check(self, value: object, architecture: str) -> OptionValue:
        """The value in its type; raises `InvalidSpec` when it is none that the option takes."""
        text = str(value).strip().lower()
        if self.kind == "bool":
            if text not in (*_TRUE, *_FALSE):
                raise InvalidSpec(f"{architecture}: option {self.name} is true or false, not {short(str(value))}.")
            return text in _TRUE
        if self.kind == "choice":
            if text not in self.choices:
                raise InvalidSpec(
                    f"{architecture}: option {self.name} is one of {', '.join(self.choices)}, not {short(str(value))}."
                )
            return text
        if self.kind == "counts":
            return self._counts(text, architecture)
        try:
            number = int(text)
        except ValueError:
            raise InvalidSpec(f"{architecture}: option {self.name} takes a whole number, not {short(value)}.") from None
        if not self.minimum <= number <= self.maximum:
            raise InvalidSpec(
                f"{architecture}: option {self.name} must be {self.minimum} to {self.maximum}, not {short(number)}."
            )
        return number

    def _counts(self, text: str, architecture: str) -> str:
        """`12-6-2`, or `12,6,2`, in its one form: at least two numbers in the range."""
        parts = [part.strip() for part in text.replace(",", "-").split("-")]
        if not 2 <= len(parts) <= 100 or not all(part.isdecimal() and part.isascii() for part in parts):
            raise InvalidSpec(
                f"{architecture}: option {self.name} takes whole numbers with hyphens between, such as {self.default}, "
                f"not {short(text)}."
            )
        for part in parts:
            if len(part) > 9 or not self.minimum <= int(part) <= self.maximum:
                raise InvalidSpec(
                    f"{architecture}: each number of option {self.name} must be {self.minimum} to {self.maximum}, not "
                    f"{short(part)}."
                )
        return "-".join(str(int(part)) for part in parts)
