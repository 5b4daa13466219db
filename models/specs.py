"""What is asked for: architecture, attack, subset and evaluation, validated once and passed whole.

Everything here is plain data without torch. A specification has one canonical form; two that can give different numbers
have different canonical forms, and an evaluation's identity is the hash of them all.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any, Literal

from models.errors import InvalidSpec

#: Raised whenever the engine, an attack or a verdict rule changes in a way that can change an outcome,
#: so that results of two rules never share an identity.
ENGINE_REVISION = 1


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """Split `darts@init_channels=8,layers=5` into the name and the options as written."""
    text = text.strip()
    # A definition may have the sign in itself: in the architectures of an ensemble's members.
    end = max(map(text.rfind, ")]}|")) + 1 if text.startswith(("{", "[", "|", "(")) else 0
    name, at, rest = text[end:].partition("@")
    name = text[:end] + name
    options: dict[str, str] = {}
    if at and not rest:
        raise InvalidSpec(f"{text!r} has no options after the @: write {name}@key=value.")
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if options and part.strip().isdecimal():
            raise InvalidSpec(
                f"{part.strip()} stands alone among the options of {name}: commas part options, so join numbers with "
                "hyphens, as in cells=12-6-2."
            )
        if not equals or not key.strip() or not value.strip():
            raise InvalidSpec(f"option {part!r} of {name} is not of the form key=value.")
        if options.setdefault(key.strip(), value.strip()) != value.strip():
            raise InvalidSpec(f"{name} has option {key.strip()} twice: leave one of them out.")
    return name, options


ThreatSpace = Literal["pixel", "normalized-clamped"]
Verdict = Literal["worst", "last", "closest"]
THREAT_SPACES: tuple[ThreatSpace, ...] = ("pixel", "normalized-clamped")
VERDICTS: tuple[Verdict, ...] = ("worst", "last", "closest")
NORMS = ("Linf", "L2", "L1")
#: In which an attack may look for perturbations. Verdicts are always in float32.
PRECISIONS = ("float32", "bf16", "fp16")
#: What may be asked of an option of the engine.
Switch = Literal["auto", "on", "off"]
SWITCHES: tuple[Switch, ...] = ("auto", "on", "off")

OptionValue = int | float | bool | str


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any, *, length: int = 16) -> str:
    """The first `length` hex digits of the SHA-256 of `value`'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def eps_limit(norm: str) -> int:
    """The largest eps that is taken for a number in the right unit. Distances in L2 and L1 grow with the image."""
    return 1 if norm == "Linf" else 10**6


@dataclass(frozen=True)
class Radius:
    """A perturbation size or step size: the text a person wrote and the number it stands for.

    The text is kept because 8/255 and 0.031 are different settings that print alike.
    """

    text: str
    value: float

    @classmethod
    def parse(cls, text: str | float | int, *, what: str = "eps", limit: int = 1) -> Radius:
        """Read `8/255`, `0.03` or `0`, in units of the threat space ([0, 1] pixels by default).

        Raises `InvalidSpec` for anything that is not a finite number in [0, `limit`].
        """
        raw = repr(text) if isinstance(text, float) else str(text)
        raw = raw.strip()
        if not re.fullmatch(r"\d+(\.\d*)?([eE][+-]?\d+)?(\s*/\s*\d+(\.\d*)?)?|\.\d+", raw):
            raise InvalidSpec(
                f"{what} {raw!r} is not a non-negative number or fraction: write it as 8/255 or 0.0314, "
                "in units of [0, 1] pixels."
            )
        numerator, _, denominator = raw.replace(" ", "").partition("/")
        if denominator and float(denominator) == 0:
            raise InvalidSpec(f"{what} {raw!r} divides by zero: write it as 8/255 or 0.0314.")
        exact = Fraction(numerator) / Fraction(denominator or "1")
        if exact > limit:
            hint = f" Did you mean {numerator}/255?" if not denominator and exact <= 255 else ""
            raise InvalidSpec(f"{what} {raw!r} is larger than {limit}; a pixel's whole range is [0, 1].{hint}")
        return cls(raw.replace(" ", ""), float(exact))

    @classmethod
    def parse_step(cls, text: str | float | int, *, norm: str = "Linf") -> Radius:
        """Like `parse`, for a step size, which may exceed eps (F-FGSM steps 1.25 eps)."""
        return cls.parse(text, what="step size", limit=2 * eps_limit(norm))

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class ArchitectureSpec:
    """An architecture with every option resolved, such as `darts@init_channels=8,layers=5`."""

    name: str
    options: tuple[tuple[str, OptionValue], ...] = ()

    @property
    def canonical(self) -> str:
        """The one text for this architecture; `parse_architecture` in the registry reads it back."""
        if not self.options:
            return self.name
        return f"{self.name}@{','.join(f'{k}={format_option(v)}' for k, v in self.options)}"

    def option(self, key: str) -> OptionValue:
        return dict(self.options)[key]


def format_option(value: OptionValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class AttackSpec:
    """A full attack configuration: nothing is left to a library's default.

    `eps` and `step_size` are in units of the threat space: pixels in [0, 1] for `pixel`; for `normalized-clamped` the
    normalised tensor, clamped to [0, 1] as the study's public code does. `step_size` is None for attacks that choose
    their steps themselves. `settings` are those that only this attack has, such as `targets` of APGD-T.

    A cascade (AutoAttack, an eps ladder) has `stages`: full attacks, each of which gets the clean images of the
    examples that all before it left standing; an example is robust if it survives them all.
    """

    name: str
    norm: str
    eps: Radius
    step_size: Radius | None
    steps: int
    restarts: int
    random_start: bool
    loss: str
    seed: int
    threat_space: ThreatSpace = "pixel"
    verdict: Verdict = "worst"
    settings: tuple[tuple[str, OptionValue], ...] = ()
    stages: tuple[AttackSpec, ...] = ()
    #: The model whose gradients are followed, where that is another than the one attacked.
    surrogate: Surrogate | None = None

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise InvalidSpec(f"norm {self.norm!r} is unknown: {', '.join(NORMS)}.")
        least = 0 if self.stages else 1
        for what, number, lowest in (
            ("steps", self.steps, least),
            ("restarts", self.restarts, 1),
            ("seed", self.seed, 0),
        ):
            if number < lowest:
                raise InvalidSpec(f"{what} must be at least {lowest}, not {number}.")
        if self.seed >= 2**63:
            raise InvalidSpec(f"seed must be below 2**63, not {self.seed}.")
        if self.restarts > 1 and not self.random_start:
            raise InvalidSpec(
                f"{self.name} starts at the clean image, so {self.restarts} restarts would repeat the same run: "
                "use --restarts 1."
            )
        if self.threat_space not in THREAT_SPACES:
            raise InvalidSpec(f"threat space {self.threat_space!r} is unknown: {' or '.join(THREAT_SPACES)}.")
        if self.verdict not in VERDICTS:
            raise InvalidSpec(f"verdict {self.verdict!r} is unknown: {', '.join(VERDICTS)}.")

    def setting(self, key: str) -> OptionValue:
        """A setting that only this attack has; raises `KeyError` for another."""
        return dict(self.settings)[key]

    def number(self, key: str) -> float:
        """A numeric setting of its own."""
        return float(self.setting(key))

    def to_dict(self) -> dict[str, Any]:
        """The whole configuration as JSON-ready data; `from_dict` reads it back.

        What only some attacks have (settings of their own, stages, a surrogate) is there only where it is not empty.
        """
        data = asdict(self)
        data["eps"] = self.eps.text
        data["eps_value"] = self.eps.value
        data["step_size"] = self.step_size.text if self.step_size else None
        data["step_size_value"] = self.step_size.value if self.step_size else None
        data["settings"] = dict(self.settings)
        data["stages"] = [stage.to_dict() for stage in self.stages]
        for key in ("settings", "stages", "surrogate"):
            if not data[key]:
                del data[key]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AttackSpec:
        fields = {k: v for k, v in data.items() if k not in ("eps_value", "step_size_value")}
        fields["eps"] = Radius.parse(fields["eps"], limit=eps_limit(fields["norm"]))
        if fields["step_size"] is not None:
            fields["step_size"] = Radius.parse_step(fields["step_size"], norm=fields["norm"])
        fields["settings"] = tuple(fields.get("settings", {}).items())
        fields["stages"] = tuple(cls.from_dict(stage) for stage in fields.get("stages", ()))
        if fields.get("surrogate") is not None:
            other = fields["surrogate"]
            fields["surrogate"] = Surrogate(**{**other, "mean": tuple(other["mean"]), "std": tuple(other["std"])})
        return cls(**fields)

    @property
    def _usual_steps(self) -> int | None:
        """The attack's steps when nobody asks for others; None where it is not known here."""
        from models.attacks import registry

        known = registry.entries().get(self.name)
        return known.steps if known else None

    @property
    def identity(self) -> str:
        """Hash of the configuration by value: `8/255` and `16/510` are the same attack."""
        return digest(_by_value(self.to_dict()))

    @property
    def label(self) -> str:
        """Short human name, such as `pgd-10 8/255`, `apgd-ce L2 0.5` or `square-1000 8/255`.

        The steps of an attack that chooses their size itself are said where they are not the usual ones.
        """
        many = f"-{self.steps}" if self.steps > 1 and (self.step_size or self.steps != self._usual_steps) else ""
        again = f"x{self.restarts}" if self.restarts > 1 else ""
        norm = "" if self.norm == "Linf" else f" {self.norm}"
        through = f" from {self.surrogate.architecture.partition('@')[0]}" if self.surrogate else ""
        of = f" {self.stages[-1].label.rpartition(' ')[0]}" if self.name == "sweep" else norm
        return f"{self.name}{many}{again}{of} {self.eps}{through}"


def _by_value(data: dict[str, Any]) -> dict[str, Any]:
    """An attack's configuration without the texts that its numbers were written as."""
    kept = {k: v for k, v in data.items() if k not in ("eps", "step_size")}
    if "stages" in kept:
        kept["stages"] = [_by_value(stage) for stage in kept["stages"]]
    if "surrogate" in kept:
        kept["surrogate"] = {k: v for k, v in kept["surrogate"].items() if k != "weights"}
    return kept


@dataclass(frozen=True)
class Surrogate:
    """Another model that an attack is crafted on: its architecture, the SHA-256 of its tensors, and where they lie."""

    architecture: str
    sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: str = ""


@dataclass(frozen=True)
class Preprocessing:
    """The normalisation that is the model's first layer: (x - mean) / std per channel, x in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise InvalidSpec(
                f"mean has {len(self.mean)} channels and std {len(self.std)}: give one of each a channel."
            )
        if any(not math.isfinite(v) for v in (*self.mean, *self.std)) or any(s <= 0 for s in self.std):
            raise InvalidSpec("mean and std must be finite, and std positive.")

    @classmethod
    def parse(cls, mean: str | None, std: str | None) -> Preprocessing | None:
        """Read `--mean` and `--std`: numbers or fractions with commas between. None when neither is given."""
        if mean is None and std is None:
            return None
        if mean is None or std is None:
            raise InvalidSpec("--mean and --std belong together: give both, or neither for the dataset's.")
        return cls(_numbers(mean, "--mean"), _numbers(std, "--std"))

    def of_channels(self, channels: int) -> Preprocessing:
        """The same with one number a channel: a single one stands for all. Raises `InvalidSpec` for another count."""
        if len(self.mean) == channels:
            return self
        if len(self.mean) == 1:
            return Preprocessing(self.mean * channels, self.std * channels)
        raise InvalidSpec(
            f"the images have {channels} channel{'s' * (channels != 1)}: give --mean and --std one number, or one a "
            "channel."
        )


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        found = []
        for part in text.replace(";", ",").split(","):
            above, _, below = part.partition("/")
            found.append(float(Fraction(above.strip()) / Fraction(below.strip() or "1")))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise InvalidSpec(
            f"{option} {text!r} is no list of numbers: write 0.49,0.48,0.45 or 125/255,123/255."
        ) from None
    return tuple(found)


@dataclass(frozen=True)
class EvaluationSpec:
    """One model x dataset x attack. `identity` hashes all that can change an outcome, and nothing else:

    the device, the number of slots and threads, and the moment are recorded but do not make another evaluation.
    """

    #: The architecture's canonical text: layers without tensors (pooling, activations) change what tensors compute.
    architecture: str
    model_sha256: str
    preprocessing: Preprocessing
    dataset_fingerprint: str
    split: str
    subset_digest: str
    n_examples: int
    attack: AttackSpec
    precision: str = "float32"
    #: Digest of the code of a network that a person's factory builds.
    code: str | None = None
    engine_revision: int = field(default=ENGINE_REVISION)

    @property
    def identity(self) -> str:
        data = asdict(self)
        data["attack"] = self.attack.identity
        return digest(data)
