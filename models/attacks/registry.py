"""The one registry of attacks: names, defaults and sources, torch-free; `kernel` imports what does the work."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from models.attacks.settings import COMMON, Setting, distribute, split_name, times_eps
from models.errors import InvalidSpec, UnknownName
from models.specs import (
    NORMS,
    VERDICTS,
    AttackSpec,
    OptionValue,
    Radius,
    ThreatSpace,
    Verdict,
    eps_limit,
    format_option,
)

if TYPE_CHECKING:
    from models.attacks.slots import SlotAttack

#: The bound that the literature uses in each norm, on images of 32x32; L1 as in RobustBench's AutoAttack runs.
USUAL_EPS = {"Linf": "8/255", "L2": "0.5", "L1": "12"}

#: Order in which listings show the families, which are files of the catalogue.
FAMILIES = ("gradient", "apgd", "minimal", "fab", "square", "cascade")


@dataclass(frozen=True)
class Attack:
    """A registry entry: an attack's name, its defaults and where they come from.

    `eps` gives the usual bound of every norm that the attack takes, the usual norm first. A cascade has `stages`, in
    the form that `resolve` reads, instead of a kernel.
    """

    name: str
    description: str
    source: str
    eps: Mapping[str, str]
    kernel: str = ""
    #: A multiple of eps such as `0.25 eps`, or a number; empty for attacks that choose their steps themselves.
    step_size: str = ""
    steps: int = 0
    restarts: int = 1
    random_start: bool = False
    loss: str = ""
    verdict: Verdict = "worst"
    #: Settings that define the attack: asking for another value is an error, not another attack.
    fixed: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    stages: tuple[str, ...] = ()
    #: Stages of norms for which they are others.
    stages_by_norm: Mapping[str, tuple[str, ...]] | None = None
    #: A cascade of one attack (setting `attack`) at the eps of a grid (setting `grid`).
    ladder: bool = False
    #: Whether it can be crafted on another model than the one attacked.
    transfers: bool = False

    @property
    def norm(self) -> str:
        """The norm when none is asked for."""
        return next(iter(self.eps))


@cache
def entries() -> dict[str, Attack]:
    """Every attack by name."""
    found: dict[str, Attack] = {}
    folder = resources.files("models.attacks").joinpath("catalogue")
    for file in sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: _place(f.name)):
        for name, fields in tomllib.loads(file.read_text(encoding="utf-8")).items():
            found[name] = _entry(name, fields)
    return found


def _place(file: str) -> tuple[int, str]:
    known = [f"{family}.toml" for family in FAMILIES]
    return (known.index(file) if file in known else len(known), file)


def _entry(name: str, fields: dict[str, Any]) -> Attack:
    own = fields.pop("eps", {})
    eps = {norm: own.get(norm, USUAL_EPS[norm]) for norm in fields.pop("norms")}
    settings = tuple(Setting.from_dict(key, values) for key, values in fields.pop("settings", {}).items())
    by_norm = {norm: tuple(stages) for norm, stages in fields.pop("stages_by_norm", {}).items()}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Attack(name=name, eps=eps, settings=settings, stages_by_norm=by_norm or None, **values)


def find(name: str) -> Attack:
    """The attack called `name` or by an alias, in any case; raises `UnknownName` with the nearest known ones."""
    from models.attacks import libraries

    if libraries.is_foreign(name):
        return libraries.entry(name)
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
    norm: str | None = None,
    step_size: str | float | None = None,
    steps: int | None = None,
    restarts: int | None = None,
    random_start: bool | None = None,
    seed: int = 0,
    threat_space: ThreatSpace = "pixel",
    verdict: Verdict | None = None,
) -> AttackSpec:
    """The full configuration: what was asked for, the attack's defaults elsewhere.

    `text` is a name, with settings of its own where wanted: `pgd`, `pgd-20`, `pgd@steps=20,eps=4/255`,
    `apgd-t@targets=5,norm=L2`; what it says goes before the other arguments. A default step size follows eps (2/255 at
    8/255). Raises `InvalidSpec` for a setting that the attack does not have.
    """
    from models.attacks import libraries

    if libraries.is_foreign(text):
        return libraries.resolve(
            text,
            eps=eps,
            norm=norm,
            step_size=step_size,
            steps=steps,
            restarts=restarts,
            random_start=random_start,
            seed=seed,
            threat_space=threat_space,
            verdict=verdict,
        )
    name, inline = split_name(text)
    attack = find(name)
    known = {setting.name: setting for setting in attack.settings}
    asked, own = distribute(
        attack.name,
        inline,
        {
            "eps": eps,
            "norm": norm,
            "step_size": step_size,
            "steps": steps,
            "restarts": restarts,
            "random_start": random_start,
            "verdict": verdict,
        },
        known,
        unknown=lambda key: UnknownName(
            f"setting of {attack.name}", key, [*COMMON, *known], listing="nasrob-tui attacks"
        ),
    )
    chosen_norm = _norm(asked["norm"], attack)
    radius = Radius.parse(asked["eps"] or attack.eps[chosen_norm], limit=eps_limit(chosen_norm))
    checked = ((s, s.check(own.get(s.name, s.default), attack.name)) for s in attack.settings)
    settings = tuple((s.name, value) for s, value in checked if not (s.quiet and value == s.default))
    chosen = {
        key: getattr(attack, key) if asked[key] is None else asked[key]
        for key in ("steps", "restarts", "random_start", "verdict")
    }
    if chosen["verdict"] not in VERDICTS:
        raise InvalidSpec(f"verdict {chosen['verdict']!r} is unknown: {', '.join(VERDICTS)}.")
    if attack.stages or attack.ladder:
        _refuse(attack, asked, ("steps", "step_size", "restarts", "random_start", "verdict"))
        names = (attack.stages_by_norm or {}).get(chosen_norm, attack.stages)
        rungs = [(name, radius) for name in names] or _rungs(dict(settings), radius, chosen_norm)
        stages = tuple(
            resolve(stage, eps=rung.text, norm=chosen_norm, seed=seed, threat_space=threat_space, verdict="worst")
            for stage, rung in rungs
        )
        if any(stage.stages for stage in stages):
            raise InvalidSpec(f"{attack.name} takes a single attack, not {stages[0].name}, which is a cascade itself.")
        return AttackSpec(
            attack.name,
            chosen_norm,
            radius,
            None,
            0,
            1,
            True,
            attack.loss,
            seed,
            threat_space,
            settings=settings,
            stages=stages,
        )
    return AttackSpec(
        name=attack.name,
        norm=chosen_norm,
        eps=radius,
        step_size=_step(attack, asked, radius, chosen_norm),
        loss=attack.loss,
        seed=seed,
        threat_space=threat_space,
        settings=settings,
        **chosen,
    )


def _rungs(settings: Mapping[str, OptionValue], eps: Radius, norm: str) -> list[tuple[str, Radius]]:
    """The attack of a ladder at every eps of the grid below `eps`, and at `eps`."""
    grid = [Radius.parse(text, limit=eps_limit(norm)) for text in str(settings["grid"]).split(":")]
    if [r.value for r in grid] != sorted({r.value for r in grid}):
        raise InvalidSpec(f"the grid of eps goes upward, each once: {settings['grid']!r} does not.")
    return [(str(settings["attack"]), rung) for rung in [*(r for r in grid if r.value < eps.value), eps]]


def _norm(asked: str | None, attack: Attack) -> str:
    if asked is None:
        return attack.norm
    wanted = {"linf": "Linf", "inf": "Linf", "l2": "L2", "2": "L2", "l1": "L1", "1": "L1"}.get(asked.strip().lower())
    if wanted is None:
        raise InvalidSpec(f"norm {asked!r} is unknown: {', '.join(NORMS)}.")
    if wanted not in attack.eps:
        raise InvalidSpec(f"{attack.name} is an attack in {' and '.join(attack.eps)}, not in {wanted}.")
    return wanted


def _step(attack: Attack, asked: Mapping[str, Any], eps: Radius, norm: str) -> Radius | None:
    """The step size, after checking that what was asked for is what the attack may have."""
    if not attack.step_size:
        _refuse(attack, asked, ("step_size",))
    usual = times_eps(attack.step_size, eps) if attack.step_size else None
    step = usual if asked["step_size"] is None else Radius.parse_step(asked["step_size"], norm=norm)
    if step is not None and asked["step_size"] is not None and step.value == 0:
        raise InvalidSpec("step size must be positive: with 0 the attack would not move.")
    for key in attack.fixed:
        defined = (usual.value if usual else None) if key == "step_size" else getattr(attack, key)
        wanted = (step.value if step else None) if key == "step_size" else asked[key]
        if asked[key] is not None and wanted != defined:
            raise InvalidSpec(f"{attack.name} has {key} = {defined} by definition, not {asked[key]}.")
    return step


def _refuse(attack: Attack, asked: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    given = [key for key in keys if asked[key] is not None]
    if given:
        what = "is a cascade of other attacks" if attack.stages or attack.ladder else "chooses its steps itself"
        raise InvalidSpec(f"{attack.name} {what} and takes no {' or '.join(given)}.")


def inline(spec: AttackSpec) -> str:
    """The attack as one word that `resolve` reads back, `pgd@eps=8/255,steps=10`; without seed and threat space."""
    from models.attacks import libraries

    if libraries.is_foreign(spec.name):
        return libraries.inline(spec)
    attack = find(spec.name)
    said: dict[str, object] = {"eps": spec.eps.text}
    said |= {} if spec.norm == attack.norm else {"norm": spec.norm}
    if not spec.stages:
        said["steps"] = spec.steps
        said |= {"step_size": spec.step_size.text} if spec.step_size else {}
        said |= {"restarts": spec.restarts, "random_start": str(spec.random_start).lower()}
        said |= {} if spec.verdict == attack.verdict else {"verdict": spec.verdict}
    usual = {setting.name: setting.default for setting in attack.settings}
    said |= {key: format_option(value) for key, value in spec.settings if value != usual[key]}
    kept = [f"{key}={value}" for key, value in said.items() if key not in attack.fixed]
    return f"{attack.name}@{','.join(kept)}"


def kernel(spec: AttackSpec) -> SlotAttack:
    """The per-slot state machine for a configuration. Imports torch."""
    module, _, cls = find(spec.name).kernel.partition(":")
    made: SlotAttack = getattr(importlib.import_module(module), cls)(spec)
    return made
