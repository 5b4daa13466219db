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
    name, at, rest = text.strip().partition("@")
    options: dict[str, str] = {}
    if at and not rest:
        raise InvalidSpec(f"{text!r} has no options after the @: write {name}@key=value.")
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise InvalidSpec(f"option {part!r} of {name} is not of the form key=value.")
        options[key.strip()] = value.strip()
    return name, options


ThreatSpace = Literal["pixel", "normalized-clamped"]
Verdict = Literal["worst", "last"]
THREAT_SPACES: tuple[ThreatSpace, ...] = ("pixel", "normalized-clamped")
VERDICTS: tuple[Verdict, ...] = ("worst", "last")

OptionValue = int | float | bool | str


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any, *, length: int = 16) -> str:
    """The first `length` hex digits of the SHA-256 of `value`'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


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
    def parse_step(cls, text: str | float | int) -> Radius:
        """Like `parse`, for a step size, which may exceed eps (F-FGSM steps 1.25 eps)."""
        return cls.parse(text, what="step size", limit=2)

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
    normalised tensor, clamped to [0, 1] as the study's public code does.
    """

    name: str
    norm: str
    eps: Radius
    step_size: Radius
    steps: int
    restarts: int
    random_start: bool
    loss: str
    seed: int
    threat_space: ThreatSpace = "pixel"
    verdict: Verdict = "worst"

    def __post_init__(self) -> None:
        if self.norm != "Linf":
            raise InvalidSpec(f"norm {self.norm!r} is not supported by {self.name}: Linf is.")
        for what, number, least in (("steps", self.steps, 1), ("restarts", self.restarts, 1), ("seed", self.seed, 0)):
            if number < least:
                raise InvalidSpec(f"{what} must be at least {least}, not {number}.")
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
            raise InvalidSpec(f"verdict {self.verdict!r} is unknown: {' or '.join(VERDICTS)}.")

    def to_dict(self) -> dict[str, Any]:
        """The whole configuration as JSON-ready data; `from_dict` reads it back."""
        data = asdict(self)
        data["eps"] = self.eps.text
        data["eps_value"] = self.eps.value
        data["step_size"] = self.step_size.text
        data["step_size_value"] = self.step_size.value
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AttackSpec:
        fields = {k: v for k, v in data.items() if k not in ("eps_value", "step_size_value")}
        fields["eps"] = Radius.parse(fields["eps"])
        fields["step_size"] = Radius.parse_step(fields["step_size"])
        return cls(**fields)

    @property
    def identity(self) -> str:
        """Hash of the configuration by value: `8/255` and `16/510` are the same attack."""
        data = self.to_dict()
        del data["eps"], data["step_size"]
        return digest(data)

    @property
    def label(self) -> str:
        """Short human name, such as `pgd-10 8/255`."""
        many = f"-{self.steps}" if self.steps > 1 else ""
        again = f"x{self.restarts}" if self.restarts > 1 else ""
        return f"{self.name}{many}{again} {self.eps}"


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
