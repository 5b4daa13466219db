"""The one registry of attacks: names, defaults and sources, torch-free; `kernel` imports what does the work."""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from models.errors import InvalidSpec, UnknownName
from models.specs import AttackSpec, Radius, ThreatSpace, Verdict, split_options

if TYPE_CHECKING:
    from models.attacks.engine import SlotAttack


@dataclass(frozen=True)
class Attack:
    """A registry entry: an attack's name, its defaults and where they come from."""

    name: str
    kernel: str
    description: str
    source: str
    norm: str
    eps: str
    step_size: str
    steps: int
    restarts: int
    random_start: bool
    loss: str
    #: Settings that define the attack: asking for another value is an error, not another attack.
    fixed: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@cache
def entries() -> dict[str, Attack]:
    raw = tomllib.loads(resources.files("models.attacks").joinpath("catalogue.toml").read_text(encoding="utf-8"))
    found: dict[str, Attack] = {}
    for name, fields in raw.items():
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        found[name] = Attack(name=name, **values)
    return found


def find(name: str) -> Attack:
    """The attack called `name` or by an alias, in any case; raises `UnknownName` with the nearest known ones."""
    known = entries()
    wanted = name.strip().lower().replace("_", "-")
    for entry in known.values():
        if wanted == entry.name or wanted in entry.aliases:
            return entry
    names = [*known, *(a for e in known.values() for a in e.aliases)]
    raise UnknownName("attack", name, names, listing="nasrob-tui attacks")


def resolve(
    text: str,
    *,
    eps: str | float | None = None,
    step_size: str | float | None = None,
    steps: int | None = None,
    restarts: int | None = None,
    random_start: bool | None = None,
    seed: int = 0,
    threat_space: ThreatSpace = "pixel",
    verdict: Verdict = "worst",
) -> AttackSpec:
    """The full configuration: what was asked for, the attack's defaults elsewhere.

    `text` is a name, with settings of its own where wanted: `pgd`, `pgd-20`, `pgd@steps=20,eps=4/255`; what it says
    goes before the other arguments. A default step size follows eps (2/255 at 8/255). Raises `InvalidSpec` for a
    setting that the attack does not have.
    """
    name, inline = split_options(text)
    if match := re.fullmatch(r"(pgd)-(\d{1,6})", name.strip().lower()):
        name = match.group(1)
        inline.setdefault("steps", match.group(2))
    attack = find(name)
    asked: dict[str, Any] = {
        "eps": eps,
        "step_size": step_size,
        "steps": steps,
        "restarts": restarts,
        "random_start": random_start,
    }
    for key, value in inline.items():
        if key not in asked:
            raise UnknownName(f"setting of {attack.name}", key, asked, listing="nasrob-tui attacks")
        asked[key] = _READERS[key](value, f"{attack.name}: {key}") if key in _READERS else value
    radius = Radius.parse(asked.pop("eps") or attack.eps)
    step = (
        Radius.parse_step(asked["step_size"]) if asked["step_size"] is not None else _relative(attack.step_size, radius)
    )
    if asked["step_size"] is not None and step.value == 0:
        raise InvalidSpec("step size must be positive: with 0 the attack would not move.")
    for key in attack.fixed:
        defined = _relative(attack.step_size, radius).value if key == "step_size" else getattr(attack, key)
        wanted = step.value if key == "step_size" else asked[key]
        if asked[key] is not None and wanted != defined:
            raise InvalidSpec(f"{attack.name} has {key} = {defined} by definition, not {asked[key]}.")
    chosen = {
        key: getattr(attack, key) if asked[key] is None else asked[key] for key in ("steps", "restarts", "random_start")
    }
    return AttackSpec(
        name=attack.name,
        norm=attack.norm,
        eps=radius,
        step_size=step,
        loss=attack.loss,
        seed=seed,
        threat_space=threat_space,
        verdict=verdict,
        **chosen,
    )


def _whole(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidSpec(f"{what} takes a whole number, not {text!r}.") from None


def _truth(text: str, what: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise InvalidSpec(f"{what} takes true or false, not {text!r}.")
    return text.lower() == "true"


_READERS: dict[str, Callable[[str, str], Any]] = {"steps": _whole, "restarts": _whole, "random_start": _truth}


def _relative(text: str, eps: Radius) -> Radius:
    """`0.25 eps` at eps 8/255 is 2/255; the text keeps the form in which eps was written."""
    factor = Fraction(text.removesuffix("eps").strip())
    numerator, slash, denominator = eps.text.partition("/")
    exact = Fraction(numerator) * factor
    if slash and exact.denominator == 1:
        return Radius(f"{exact.numerator}/{denominator}", float(exact / Fraction(denominator)))
    value = float(Fraction(numerator) * factor / Fraction(denominator or "1"))
    return Radius(repr(value), value)


def kernel(spec: AttackSpec) -> SlotAttack:
    """The per-slot state machine for a configuration. Imports torch."""
    module, _, cls = find(spec.name).kernel.partition(":")
    made: SlotAttack = getattr(importlib.import_module(module), cls)(spec)
    return made
