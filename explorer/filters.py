"""The filter language of the trade-off table: simple terms, all of which must hold.

    resnet                   the name contains it
    family:nas,ensemble      a text column is one of these
    dataset:cifar*           a text column begins so
    attack:pgd-20            an attack, with its number of steps where that matters
    clean>90 params<5M       a number compared
    eps=8/255                a perturbation size as it is written
    -source:published        not that
    "wide resnet"            quotes keep spaces

A filter compiles to SQL with parameters on the view `tradeoff`; what a person typed is never part of the SQL text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction


class FilterError(ValueError):
    """A term that makes no sense yet; `str(error)` is one short sentence that says what would."""


@dataclass(frozen=True)
class Filter:
    """A condition on rows of `tradeoff`: SQL text and its parameters. An empty filter holds for every row."""

    where: str = "true"
    parameters: list[str | float] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return self.where == "true"


Condition = tuple[str, list[str | float]]

_CHOICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "source": ("source", ("measured", "published")),
    "family": ("family", ("handcrafted", "nas", "ensemble")),
    "threat": ("threat_space", ("pixel", "normalized-clamped")),
    "verdict": ("verdict", ("worst", "last")),
    "status": ("status", ("running", "complete", "partial", "failed", "published")),
}

_TEXTS: dict[str, str] = {
    "arch": "architecture",
    "options": "architecture_id",
    "lineage": "lineage",
    "dataset": "dataset",
    "split": "split",
    "norm": "norm",
    "publication": "publication",
    "job": "job_id",
}

#: Identities: their beginning is enough.
_PREFIXES: dict[str, str] = {"id": "evaluation_id", "model": "model_sha256", "device": "device"}

_NUMBERS: dict[str, str] = {
    "clean": "clean_accuracy",
    "robust": "robust_accuracy",
    "low": "robust_accuracy_low",
    "high": "robust_accuracy_high",
    "hrs": "hrs",
    "pphrs": "pp_hrs",
    "asr": "attack_success_rate",
    "params": "params",
    "macs": "macs",
    "eps": "eps_value",
    "steps": "steps",
    "restarts": "restarts",
    "seed": "seed",
    "trainseed": "train_seed",
    "n": "n_examples",
    "warnings": "n_warnings",
    "seconds": "seconds",
    "topk": "top_k",
}

#: Other spellings of the same.
_ALIASES = {
    "name": "arch",
    "architecture": "arch",
    "space": "threat",
    "threatspace": "threat",
    "examples": "n",
    "data": "dataset",
    "sha256": "model",
    "pp-hrs": "pphrs",
    "top-k": "topk",
}

#: Every word that may stand before a colon or a comparison, for the help screen.
TEXT_KEYS: tuple[str, ...] = ("attack", *_CHOICES, *_TEXTS, *_PREFIXES)
NUMBER_KEYS: tuple[str, ...] = tuple(_NUMBERS)

_TERM = re.compile(r'-?(?:[A-Za-z][A-Za-z_-]*:)?"[^"]*"?|\S+')
_TEXT_TERM = re.compile(r"([A-Za-z][A-Za-z_-]*):(.*)", re.DOTALL)
_NUMBER_TERM = re.compile(r"([A-Za-z][A-Za-z_-]*)(<=|>=|!=|<|>|=)(.*)", re.DOTALL)
_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}

#: Numbers that were computed (8/255) are equal when they agree to this relative precision.
_SAME = 1e-9


def parse(text: str) -> Filter:
    """Compile a filter; raises `FilterError` for the first term that makes no sense."""
    parts: list[str] = []
    parameters: list[str | float] = []
    for match in _TERM.finditer(text):
        term = match.group()
        negated = term.startswith("-") and len(term) > 1
        condition, values = _condition(term[1:] if negated else term)
        # A row without the value is not what was asked for, and so is what was asked not to be.
        parts.append(f"NOT coalesce(({condition}), false)" if negated else f"({condition})")
        parameters += values
    return Filter(" AND ".join(parts), parameters) if parts else Filter()


def _condition(term: str) -> Condition:
    if term.startswith('"'):
        return _name(term.strip('"'))
    if match := _NUMBER_TERM.fullmatch(term):
        key = _key(match[1])
        if key is not None:
            if key not in _NUMBERS:
                return _text(key, match[3].strip('"')) if match[2] == "=" else _not_a_number(match[1], key)
            return _number(key, match[2], match[3])
    if match := _TEXT_TERM.fullmatch(term):
        key = _key(match[1])
        if key is None:
            raise FilterError(_unknown(match[1]))
        return _text(key, match[2].strip('"')) if key not in _NUMBERS else _number(key, "=", match[2])
    return _name(term)


def _key(word: str) -> str | None:
    """The key a word stands for; None when it is none (an architecture's name may hold any sign)."""
    folded = word.lower().replace("_", "")
    folded = _ALIASES.get(folded, folded)
    return folded if folded in _NUMBERS or folded in TEXT_KEYS else None


def _unknown(word: str) -> str:
    from models.errors import nearest

    close = nearest(word, [*TEXT_KEYS, *NUMBER_KEYS], limit=1)
    hint = f"did you mean {close[0]}:?" if close else "keys are " + ", ".join(TEXT_KEYS[:6]) + " …"
    return f"there is no {word}: – {hint}"


def _not_a_number(word: str, key: str) -> Condition:
    raise FilterError(f"{word} is text: write {key}:value")


def _name(text: str) -> Condition:
    """Free text is looked for in the names."""
    pattern = f"%{_like(text)}%"
    columns = ("architecture", "architecture_id", "model_label")
    return " OR ".join(f"{column} ILIKE ? ESCAPE '\\'" for column in columns), [pattern] * len(columns)


def _text(key: str, value: str) -> Condition:
    values = [v for v in value.split(",") if v]
    if not values:
        raise FilterError(f"{key}: needs a value" + (f": {', '.join(_CHOICES[key][1])}" if key in _CHOICES else ""))
    one: Callable[[str, str], Condition]
    if key == "attack":
        one = _attack
    elif key in _CHOICES:
        one = _choice
    elif key in _PREFIXES:
        one = _prefix
    else:
        one = _equals
    found = [one(key, v) for v in values]
    return " OR ".join(f"({sql})" for sql, _ in found), [p for _, ps in found for p in ps]


def _choice(key: str, value: str) -> Condition:
    column, choices = _CHOICES[key]
    fitting = [c for c in choices if c.startswith(value.lower())]
    if len(fitting) != 1:
        raise FilterError(f"{key} is {', '.join(choices[:-1])} or {choices[-1]}")
    return f"{column} = ?", [fitting[0]]


def _equals(key: str, value: str) -> Condition:
    return f"{_TEXTS[key]} ILIKE ? ESCAPE '\\'", [_glob(value)]


def _prefix(key: str, value: str) -> Condition:
    return f"{_PREFIXES[key]} ILIKE ? ESCAPE '\\'", [_like(value) + "%"]


def _attack(_: str, value: str) -> Condition:
    pattern = _glob(value)
    return "attack ILIKE ? ESCAPE '\\' OR concat(attack, '-', steps) ILIKE ? ESCAPE '\\'", [pattern, pattern]


def _number(key: str, operator: str, text: str) -> Condition:
    column = _NUMBERS[key]
    value = _value(key, operator, text.strip())
    if operator in ("=", "!="):
        near = f"abs({column} - ?) <= ?"
        return near if operator == "=" else f"NOT ({near})", [value, _SAME * max(1.0, abs(value))]
    return f"{column} {operator} ?", [value]


def _value(key: str, operator: str, text: str) -> float:
    """The number as written: `90`, `90%`, `5M`, `8/255`, `1e6`."""
    example = {"eps": "8/255", "params": "5M", "macs": "100M"}.get(key, "90")
    match = re.fullmatch(r"(-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?)(?:/(\d+\.?\d*))?([kmg]?)%?", text.lower())
    if match is None:
        raise FilterError(f"{key}{operator} needs a number, such as {key}{operator}{example}")
    if match[2] and float(match[2]) == 0:
        raise FilterError(f"{key}{operator}{text} divides by zero")
    return float(Fraction(match[1]) / Fraction(match[2] or 1) * _SUFFIXES[match[3]])


def _like(text: str) -> str:
    """Text for a LIKE pattern in which no sign is special."""
    return re.sub(r"([\\%_])", r"\\\1", text)


def _glob(text: str) -> str:
    """A LIKE pattern in which only `*` is special."""
    return _like(text).replace("*", "%")
