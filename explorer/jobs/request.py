"""A request: what a job is to do, validated, written to its folder, and read back by its process."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from explorer.errors import ExplorerError
from models.architectures import registry as architectures
from models.attacks import registry as attacks
from models.ensembles import composition
from models.specs import AttackSpec, EvaluationSpec, Preprocessing

if TYPE_CHECKING:
    from models.attacks.forwarding import Speed

VERSION = 1

#: A network of its own, a member of an ensemble, or the ensemble made of its members.
StepKind = Literal["network", "member", "whole"]

#: What the request of a job that trains says of itself.
TRAINING = "training"


def is_training(text: str) -> bool:
    """Whether the content of a request asks for training (`explorer.jobs.training`); what is damaged does not."""
    try:
        return bool(json.loads(text)["kind"] == TRAINING)
    except (ValueError, KeyError, TypeError):
        return False


@dataclass(frozen=True)
class RequestedModel:
    """A model by architecture (canonical text) and weights file. `sha256` is None when only reading the file can
    tell.
    """

    architecture: str
    weights: str
    sha256: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    #: handcrafted or nas, where a person says so of a network of theirs.
    family: str | None = None


@dataclass(frozen=True)
class Request:
    """Models x attacks on the first `examples` of one split of a dataset, at one image size."""

    models: tuple[RequestedModel, ...]
    dataset: str
    split: str
    examples: int | None
    attacks: tuple[AttackSpec, ...]
    store: str
    device: str = "auto"
    threads: int | None = None
    slots: int | None = None
    force: bool = False
    data_root: str | None = None
    #: How the network is computed: see `models.attacks.forwarding.Speed`.
    precision: str = "float32"
    compile: str = "auto"
    channels_last: str = "auto"
    fold: str = "auto"
    #: When either is spent the job stops, and what is finished is stored.
    max_seconds: float | None = None
    max_forwards: int | None = None
    #: Say what every evaluation will cost, also where it is short.
    estimate: bool = False
    #: Adversarial examples kept of every evaluation.
    save_examples: int = 0
    #: Folder in which the request was made, where it needs a module that may lie there.
    import_from: str | None = None
    version: int = field(default=VERSION)

    def to_json(self) -> str:
        data = asdict(self)
        data["attacks"] = [a.to_dict() for a in self.attacks]
        return json.dumps(data, indent=2)

    @classmethod
    def from_json(cls, text: str, path: Path) -> Request:
        """Raises `ExplorerError` for a request that is damaged or from another version."""
        try:
            data: dict[str, Any] = json.loads(text)
            if data["version"] != VERSION:
                raise ExplorerError(f"{path} is a request of version {data['version']}; this software reads {VERSION}.")
            data["models"] = tuple(
                RequestedModel(**{**m, "mean": tuple(m["mean"]), "std": tuple(m["std"])}) for m in data["models"]
            )
            data["attacks"] = tuple(AttackSpec.from_dict(a) for a in data["attacks"])
            return cls(**data)
        except (KeyError, TypeError, ValueError) as error:
            raise ExplorerError(f"{path} is not a valid request ({error}).") from None

    @property
    def root(self) -> Path | None:
        """The folder that datasets are looked for in, None for the usual one."""
        return Path(self.data_root) if self.data_root else None

    def evaluation(
        self,
        model: RequestedModel,
        attack: AttackSpec,
        sha256: str | None = None,
        code: str | None = None,
        precision: str | None = None,
    ) -> EvaluationSpec:
        """The specification, and so the identity, of one evaluation of this request.

        `precision` is what the request's comes to on the device, where that is `auto`.
        """
        from models.datasets import registry

        examples = registry.load(self.dataset, self.split, root=self.root)
        indices = examples.subset(self.examples)
        identity = sha256 or model.sha256
        if identity is None:
            raise ValueError("the model's SHA-256 is not known before its weights are read")
        return EvaluationSpec(
            architecture=model.architecture,
            code=code,
            model_sha256=identity,
            preprocessing=Preprocessing(model.mean, model.std),
            dataset_fingerprint=examples.fingerprint,
            split=self.split,
            subset_digest=registry.subset_digest(indices),
            n_examples=len(indices),
            attack=attack,
            precision=precision or self.precision,
        )

    def speed(self) -> Speed:
        """How the network is to be computed. Imports torch."""
        from models.attacks.forwarding import Speed

        return Speed(self.precision, self.compile, self.channels_last, self.fold)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise `InvalidSpec` for an attack that has no meaning for a model of the request."""
        for model in self.models:
            for attack in self.attacks:
                spec = architectures.parse_architecture(model.architecture)
                composition.check_threat_space(attack, spec, Preprocessing(model.mean, model.std))

    @property
    def title(self) -> str:
        """What the job is, in one line."""
        models = ", ".join(m.architecture for m in self.models[:2]) + (
            f" +{len(self.models) - 2}" if len(self.models) > 2 else ""
        )
        attacks = ", ".join(a.label for a in self.attacks[:2]) + (
            f" +{len(self.attacks) - 2}" if len(self.attacks) > 2 else ""
        )
        return f"{models} · {attacks}"

    def command(self) -> str:
        """The command line that asks for the same."""
        words = ["nasrob-tui", "eval", "--headless"]
        for model in self.models:
            words += ["--arch", model.architecture, "--weights", model.weights]
        families = {model.family for model in self.models}
        words += ["--family", str(families.pop())] if len(families) == 1 and None not in families else []
        normals = {(model.mean, model.std) for model in self.models}
        words += normalisation(self.dataset, *normals.pop()) if len(normals) == 1 else []
        words += ["--dataset", self.dataset] + (["--split", self.split] if self.split != "test" else [])
        for attack in self.attacks:
            words += ["--attack", attacks.inline(attack)]
        words += ["--examples", str(self.examples)] if self.examples is not None else []
        first = self.attacks[0]
        for flag, value, default in (
            ("--seed", first.seed, 0),
            ("--threat-space", first.threat_space, "pixel"),
            ("--device", self.device, "auto"),
            ("--data-root", self.data_root, None),
            ("--threads", self.threads, None),
            ("--batch-size", self.slots, None),
            ("--precision", self.precision, "float32"),
            ("--compile", self.compile, "auto"),
            ("--channels-last", self.channels_last, "auto"),
            ("--fold", self.fold, "auto"),
            ("--max-time", self.max_seconds, None),
            ("--max-forwards", self.max_forwards, None),
            ("--save-examples", self.save_examples, 0),
        ):
            words += [flag, str(value)] if value != default else []
        if first.surrogate is not None:
            words += ["--surrogate", first.surrogate.architecture, "--surrogate-weights", first.surrogate.sha256[:16]]
        words += ["--store", self.store] + (["--force"] if self.force else [])
        return shlex.join(words)


def normalisation(dataset: str, mean: tuple[float, ...], std: tuple[float, ...]) -> list[str]:
    """`--mean` and `--std` as a command line needs them; nothing where they are the dataset's own."""
    from models.datasets import registry

    if Preprocessing(mean, std) == registry.find(dataset).preprocessing:
        return []
    return ["--mean", ",".join(map(repr, mean)), "--std", ",".join(map(repr, std))]
