"""Names of attacks in other libraries, such as `torchattacks:PGD`, and their full configurations.

The libraries are optional and imported only when one of their attacks is asked for. What an attack takes is read off
its constructor, so that nothing is left to a default that a later version may change: the configuration holds every
argument, and the library's version. `adapters` runs them.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from importlib import resources
from typing import Any

from models.attacks import registry
from models.attacks.settings import COMMON, distribute, split_name, times_eps, truth, whole
from models.errors import InvalidSpec, nearest
from models.specs import (
    NORMS,
    AttackSpec,
    OptionValue,
    Radius,
    ThreatSpace,
    Verdict,
    eps_limit,
    format_option,
)

#: Settings of our own in the configuration of such an attack: the library with its version, and how many examples are
#: handed to it at a time, which decides what random numbers each of them gets.
LIBRARY, BATCH = "library", "batch"
USUAL_BATCH = 64

#: How a norm is written as the exponent of an Lp norm.
EXPONENTS = {"Linf": math.inf, "L2": 2, "L1": 1}

#: Names that an error message lists at most.
MOST_LISTED = 40


@dataclass(frozen=True)
class Library:
    """A library of attacks, as `libraries.toml` describes it."""

    name: str
    module: str
    distribution: str
    install: str
    parameters: Mapping[str, Sequence[str]]
    given: Mapping[str, str]
    norms: Mapping[str, str]
    #: The class, as `module:name`, whose subclasses are the attacks; or the names of the attacks.
    base: str = ""
    only: Sequence[str] = ()
    eps_in_call: bool = False
    zero_restarts_start_clean: Sequence[str] = ()

    def load(self) -> Any:
        """The module that has the attacks; raises `InvalidSpec` when it cannot be imported."""
        try:
            if importlib.util.find_spec(self.module.partition(".")[0]) is None:
                raise InvalidSpec(
                    f"{self.distribution} is not installed, which has {self.name}:… attacks: {self.install}."
                )
            return importlib.import_module(self.module)
        except ImportError as error:
            raise InvalidSpec(f"{self.distribution} cannot be imported ({error}): {self.install}.") from error

    @property
    def version(self) -> str:
        """Distribution and version, such as `torchattacks 3.5.1`."""
        return f"{self.distribution} {importlib.metadata.version(self.distribution)}"

    def attacks(self) -> dict[str, type]:
        """The library's attacks by name."""
        found = {key: value for key, value in sorted(vars(self.load()).items()) if inspect.isclass(value)}
        if self.only:
            return {key: found[key] for key in self.only}
        where, _, name = self.base.partition(":")
        base = getattr(importlib.import_module(where), name)
        return {
            key: value
            for key, value in found.items()
            if issubclass(value, base) and value is not base and not inspect.isabstract(value)
        }


@cache
def libraries() -> dict[str, Library]:
    """Every library by the prefix of its attacks."""
    text = resources.files("models.attacks").joinpath("libraries.toml").read_text(encoding="utf-8")
    return {name: Library(name, **fields) for name, fields in tomllib.loads(text).items()}


def is_foreign(text: str) -> bool:
    """Whether a name, with or without settings, is that of an attack in another library."""
    return ":" in text.partition("@")[0]


@dataclass(frozen=True)
class Foreign:
    """An attack of another library."""

    library: Library
    name: str
    cls: type

    def __str__(self) -> str:
        return f"{self.library.name}:{self.name}"

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The constructor's parameters and their defaults (`inspect.Parameter.empty` for those without)."""
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        found = inspect.signature(self.cls).parameters.values()
        return {p.name: p.default for p in found if p.kind not in kinds}

    def theirs(self, setting: str) -> str | None:
        """What the constructor calls one of our settings; None where it has none."""
        return next((name for name in self.library.parameters.get(setting, ()) if name in self.parameters), None)

    def default(self, setting: str) -> Any:
        """The constructor's default of one of our settings; None where it has no such parameter or no default."""
        name = self.theirs(setting)
        value = self.parameters[name] if name else None
        return None if value is inspect.Parameter.empty else value

    @property
    def bounded(self) -> bool:
        """Whether the attack keeps to eps. If not, it looks for a close image, which may lie beyond."""
        return self.library.eps_in_call or self.theirs("eps") is not None

    @cached_property
    def own(self) -> dict[str, Any]:
        """Parameters that only this attack has, with their defaults, as far as they can be written down."""
        mapped = {self.theirs(setting) for setting in self.library.parameters}
        return {
            name: value
            for name, value in self.parameters.items()
            if name not in mapped
            and name not in self.library.given
            and (value is inspect.Parameter.empty or _plain(value) is not None)
        }

    def arguments(self, spec: AttackSpec, given: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's arguments for a configuration; `given` has the values named in the library's `given`.

        What the configuration has at the library's own default is left to it, lists and the like included.
        """
        values: dict[str, Any] = {}
        for name, what in self.library.given.items():
            if name in self.parameters and what != "default":
                values[name] = False if what == "off" else given[what]
        restarts = self.theirs("restarts")
        from_clean = restarts in self.library.zero_restarts_start_clean and not spec.random_start
        ours = {
            "eps": spec.eps.value,
            "step_size": spec.step_size.value if spec.step_size else None,
            "steps": spec.steps,
            "restarts": 0 if from_clean else spec.restarts,
            "random_start": spec.random_start,
            "norm": self._norm(spec.norm),
        }
        for setting, value in ours.items():
            theirs = self.theirs(setting)
            if theirs is not None and value is not None:
                values[theirs] = value
        settings = dict(spec.settings)
        for name, default in self.own.items():
            if settings[name] != _plain(default):
                values[name] = None if settings[name] == "none" else settings[name]
        return values

    def _norm(self, norm: str) -> Any:
        """The norm as the library writes it: its name, its exponent, or an object that measures it."""
        name = self.theirs("norm")
        if name == "distance":
            distances = importlib.import_module("foolbox.distances")
            return distances.LpDistance(EXPONENTS[norm])
        return norm if name is None or isinstance(self.parameters[name], str) else EXPONENTS[norm]


def find(name: str) -> Foreign:
    """The attack called `library:Name`, in any case; raises `InvalidSpec` when there is none or no such library."""
    prefix, _, wanted = name.strip().partition(":")
    library = libraries().get(prefix.strip().lower())
    if library is None:
        raise InvalidSpec(f"unknown library {prefix!r} in {name!r}: attacks come from {', '.join(libraries())}.")
    known = library.attacks()
    folded = wanted.strip().lower().replace("-", "").replace("_", "")
    for key, cls in known.items():
        if key.lower() == folded:
            return Foreign(library, key, cls)
    raise InvalidSpec(f"{library.distribution} has no attack {wanted!r}.{_hint(wanted, list(known))}")


def entry(name: str) -> registry.Attack:
    """What the registry says of its own attacks, for one of another library: it cannot be crafted on another model."""
    attack = find(name)
    said = (inspect.getdoc(attack.cls) or "").strip().partition("\n\n")[0]
    return registry.Attack(
        name=str(attack),
        description=" ".join(said.split()) or f"{attack.name} of {attack.library.distribution}",
        source=attack.library.version,
        eps=registry.USUAL_EPS,
        verdict="last",
    )


def _hint(wanted: str, known: list[str]) -> str:
    """The nearest known names; all of them where none is near."""
    near = nearest(wanted, known)
    if near:
        return f" Did you mean {' or '.join(repr(name) for name in near)}?"
    return f" It has {', '.join(known[:MOST_LISTED])}{', …' if len(known) > MOST_LISTED else ''}."


def resolve(
    text: str,
    *,
    eps: str | float | None = None,
    norm: str | None = None,
    step_size: str | float | None = None,
    steps: int | None = None,
    restarts: int | None = None,
    random_start: bool | None = None,
    seed: int = 0,
    threat_space: ThreatSpace = "pixel",
    verdict: Verdict | None = None,
) -> AttackSpec:
    """The full configuration of an attack such as `torchattacks:PGD@steps=20,eps=4/255`: what was asked for, the
    library's defaults elsewhere.

    Settings have our names or the constructor's (`alpha` for `step_size`). Eps is ours when nobody asks for one, and a
    default step size keeps the ratio that the library's has to its eps. Raises `InvalidSpec`.
    """
    name, written = split_name(text)
    attack = find(name)

    def unknown(key: str) -> InvalidSpec:
        takes = [*(s for s in COMMON if s != "verdict"), BATCH, *attack.own]
        near = nearest(key, takes)
        hint = f" Did you mean {' or '.join(repr(s) for s in near)}?" if near else ""
        return InvalidSpec(f"{attack} has no parameter {key!r}.{hint} It takes {', '.join(takes)}.")

    asked, own = distribute(
        str(attack),
        written,
        {
            "eps": eps,
            "norm": norm,
            "step_size": step_size,
            "steps": steps,
            "restarts": restarts,
            "random_start": random_start,
            "verdict": verdict,
        },
        {BATCH, *attack.own},
        unknown=unknown,
        called={theirs: ours for ours in attack.library.parameters if (theirs := attack.theirs(ours)) is not None},
    )
    if asked["verdict"] not in (None, "last"):
        raise InvalidSpec(f"{attack} gives one image an example, so its verdict is last, not {asked['verdict']}.")
    if threat_space != "pixel":
        raise InvalidSpec(f"{attack} attacks pixels: the threat space {threat_space} is for attacks of this program.")
    settings = _settings(attack, own)
    chosen = _norm(attack, asked["norm"], dict(settings))
    radius = Radius.parse(asked["eps"] or registry.USUAL_EPS[chosen], limit=eps_limit(chosen))
    starts, runs = _runs(attack, asked)
    return AttackSpec(
        name=str(attack),
        norm=chosen,
        eps=radius,
        step_size=_step_size(attack, asked["step_size"], radius, chosen),
        steps=_whole(attack, "steps", asked["steps"]),
        restarts=runs,
        random_start=starts,
        loss="",
        seed=seed,
        verdict="last",
        settings=settings,
    )


def inline(spec: AttackSpec) -> str:
    """The attack as one word that `resolve` reads back. Needs no library."""
    said: dict[str, object] = {"eps": spec.eps.text, "norm": spec.norm, "steps": spec.steps}
    said |= {"step_size": spec.step_size.text} if spec.step_size else {}
    said |= {"restarts": spec.restarts, "random_start": format_option(spec.random_start)}
    # What takes a comma is no number or word, and always the library's own.
    said |= {key: format_option(v) for key, v in spec.settings if key != LIBRARY and not {*str(v)} & set(",=")}
    return f"{spec.name}@{','.join(f'{key}={value}' for key, value in said.items())}"


def _plain(value: Any) -> OptionValue | None:
    """A default as it is written down: numbers and words as they are, `none`, literals by their text.

    None for anything else, which says no more than its place in memory.
    """
    if value is None:
        return "none"
    if isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    try:
        ast.literal_eval(repr(value))
    except (ValueError, SyntaxError):
        return None
    return repr(value)


def _settings(attack: Foreign, asked: Mapping[str, str]) -> tuple[tuple[str, OptionValue], ...]:
    """What the configuration holds beside the common settings: library, batch, every argument of the attack's own."""
    batch = whole(asked.get(BATCH, str(USUAL_BATCH)), f"{attack}: {BATCH}")
    if batch < 1:
        raise InvalidSpec(f"{attack}: {BATCH} must be at least 1, not {batch}.")
    found: dict[str, OptionValue] = {LIBRARY: attack.library.version, BATCH: batch}
    for name, default in attack.own.items():
        value = _read(asked[name], default, f"{attack}: {name}") if name in asked else _plain(default)
        if default is inspect.Parameter.empty and name not in asked:
            raise InvalidSpec(f"{attack} needs a value for {name}: write {attack}@{name}=….")
        assert value is not None
        found[name] = value
    return tuple(found.items())


def _read(text: str, default: Any, what: str) -> OptionValue:
    """A setting in the type of its default; a number, true or false where that says nothing, else the word."""
    if text.lower() == "none":
        return "none"
    if isinstance(default, bool):
        return truth(text, what)
    if isinstance(default, (list, tuple, dict)):
        raise InvalidSpec(f"{what} is {default!r} and cannot be set here, where values are single numbers and words.")
    if isinstance(default, str):
        return text
    if text.lower() in ("true", "false") and not isinstance(default, (int, float)):
        return text.lower() == "true"
    try:
        number = Fraction(text)
    except (ValueError, ZeroDivisionError):
        if isinstance(default, (int, float)):
            raise InvalidSpec(f"{what} takes a number, not {text!r}.") from None
        return text
    return int(text) if re.fullmatch(r"[+-]?\d+", text) and not isinstance(default, float) else float(number)


def _norm(attack: Foreign, asked: str | None, settings: Mapping[str, OptionValue]) -> str:
    """The norm to measure in. An attack that names one, or is built for one, has no other."""
    called = {alias: norm for norm in NORMS for alias in (norm.lower(), norm.lower()[1:])}
    wanted = None if asked is None else called.get(asked.strip().lower())
    if asked is not None and wanted is None:
        raise InvalidSpec(f"norm {asked!r} is unknown: {', '.join(NORMS)}.")
    name = attack.theirs("norm")
    if name is not None and name != "distance":
        usual = attack.parameters[name]
        known = {value: norm for norm, value in EXPONENTS.items()} | {norm: norm for norm in NORMS}
        return wanted or known.get(usual, "Linf")
    defined = attack.library.norms.get(attack.name)
    if attack.library.eps_in_call:
        defined = _norm_of_instance(attack, settings, free=name is not None)
    elif defined is None and attack.bounded:
        defined = "Linf"
    if defined is None and wanted is None:
        raise InvalidSpec(f"{attack} does not say in which norm it keeps close: ask for one, such as {attack}@norm=L2.")
    if defined is not None and wanted not in (None, defined):
        raise InvalidSpec(f"{attack} is an attack in {defined}, not in {wanted}.")
    chosen = wanted or defined
    assert chosen is not None
    return chosen


def _norm_of_instance(attack: Foreign, settings: Mapping[str, OptionValue], *, free: bool) -> str | None:
    """The norm that an attack made with these settings measures by; None where it may be chosen."""
    if free:
        return None
    kept = {
        key: settings[key]
        for key, default in attack.own.items()
        if key in settings and settings[key] != _plain(default)
    }
    if "steps" in attack.parameters and attack.parameters["steps"] is inspect.Parameter.empty:
        kept["steps"] = 1
    try:
        made = attack.cls(**kept)
    except Exception as error:
        raise InvalidSpec(f"{attack} cannot be made with these settings: {type(error).__name__}: {error}.") from error
    exponent = getattr(getattr(made, "distance", None), "p", None)
    for norm, value in EXPONENTS.items():
        if value == exponent:
            return norm
    measure = "no norm" if exponent is None else f"L{exponent}"
    raise InvalidSpec(f"{attack} is bounded in {measure}, and evaluations here in {', '.join(NORMS)}.")


def _whole(attack: Foreign, setting: str, asked: int | None) -> int:
    """Steps: what was asked for or the library's default, 1 for an attack without."""
    name = attack.theirs(setting)
    if name is None:
        if asked not in (None, 1):
            raise InvalidSpec(f"{attack} has no parameter for {setting}: it takes {', '.join(attack.parameters)}.")
        return 1
    if asked is not None:
        return asked
    usual = attack.default(setting)
    if usual is None:
        raise InvalidSpec(f"{attack} needs {setting}: write {attack}@{setting}=….")
    return int(usual)


def _runs(attack: Foreign, asked: Mapping[str, Any]) -> tuple[bool, int]:
    """Whether runs start at random, and how many there are."""
    name, random = attack.theirs("restarts"), attack.theirs("random_start")
    usual = int(attack.default("restarts") or 0) if name else 1
    repeated = name is not None or attack.library.eps_in_call
    if asked["restarts"] not in (None, 1) and not repeated:
        raise InvalidSpec(f"{attack} has no parameter for restarts: it takes {', '.join(attack.parameters)}.")
    runs = int(asked["restarts"] or max(1, usual))
    if random is not None:
        starts = bool(attack.default("random_start"))
    else:
        starts = runs > 1 or (usual > 0 and name is not None)
    if asked["random_start"] is None:
        return starts, runs
    settable = random is not None or name in attack.library.zero_restarts_start_clean
    if asked["random_start"] != starts and not settable:
        raise InvalidSpec(f"{attack} has no parameter for random_start: it takes {', '.join(attack.parameters)}.")
    return bool(asked["random_start"]), runs


def _step_size(attack: Foreign, asked: str | float | None, eps: Radius, norm: str) -> Radius | None:
    """What was asked for; else the library's default, in the ratio that it has to the library's eps."""
    if attack.theirs("step_size") is None:
        if asked is not None:
            raise InvalidSpec(f"{attack} has no parameter for step_size: it takes {', '.join(attack.parameters)}.")
        return None
    if asked is not None:
        return Radius.parse_step(asked, norm=norm)
    usual, usual_eps = attack.default("step_size"), attack.default("eps")
    if not usual or not usual_eps:
        return None
    return times_eps(f"{Fraction(usual / usual_eps).limit_denominator(1000)} eps", eps)
