"""The keys of a training recipe, what they mean and what they may be. Torch-free."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from models.errors import InvalidSpec
from models.specs import Radius
from models.training.recipes.rules import Choice, Distance, Flag, Number, Numbers, Rule, Whole

SCHEDULES = ("cosine", "constant", "exponential", "linear", "linear-tail", "onecycle", "step")
OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("float32", "bfloat16", "float16")
ADVERSARIES = ("none", "pgd", "fgsm", "trades")
STARTS = ("uniform", "gaussian", "clean")
MODES = ("train", "eval")

#: Epochs of the gentle end of the `linear-tail` schedule.
TAIL_EPOCHS = 5


def _key(rule: Rule, help: str, default: Any = MISSING) -> Any:
    """A key of a recipe: how it is read, what it means, and its value where a recipe does not say."""
    metadata = {"rule": rule, "help": help}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Every key is validated here, whether it comes from a file or from a person.

    Keys with a default came after the first ones; their defaults mean "nothing of the kind" and must stay as they are,
    because `to_dict` leaves them out and so keeps the identity of what was trained before.
    """

    name: str
    epochs: int = _key(Whole(), "Passes over the training images")
    batch_size: int = _key(Whole(), "Images a step")
    lr: float = _key(Number(positive=True), "Largest learning rate")
    momentum: float = _key(Number(fraction=True), "Momentum of sgd, first beta of adamw")
    nesterov: bool = _key(Flag(), "Nesterov's form of the momentum (sgd)")
    weight_decay: float = _key(Number(), "Weight decay")
    crop: bool = _key(Flag(), "Random crop as the dataset has it: of the padded image, or of a photograph")
    mirror: bool = _key(Flag(), "Random mirror image, where the dataset allows it")
    cutout: bool = _key(Flag(), "Blank a random square, where the dataset allows it")
    label_smoothing: float = _key(Number(fraction=True), "Part of the target spread over all classes")
    gradient_clip: float = _key(Number(), "Largest L2 norm of the gradient; 0 for none")
    auxiliary_weight: float = _key(Number(), "Weight of the auxiliary head's loss; 0 builds no such head")
    drop_path: float = _key(Number(fraction=True), "Probability of dropping an edge, rising linearly to this value")
    optimizer: str = _key(Choice(OPTIMIZERS), "sgd or adamw", "sgd")
    no_weight_decay: bool = _key(Flag(), "No weight decay on biases and normalisation layers", False)
    schedule: str = _key(Choice(SCHEDULES), "How the learning rate goes: " + ", ".join(SCHEDULES), "cosine")
    per_step: bool = _key(Flag(), "Set the learning rate before every step instead of every epoch", False)
    gamma: float = _key(Number(positive=True), "Factor of the exponential and step schedules", 0.1)
    milestones: tuple[float, ...] = _key(
        Numbers(), "Where the step schedule falls: epochs, or below 1 parts of the training", ()
    )
    lr_min: float = _key(Number(), "Learning rate at the end of the cosine, linear and onecycle schedules", 0.0)
    warmup_epochs: float = _key(Number(), "Epochs in which the learning rate rises", 0.0)
    warmup_fraction: float = _key(Number(fraction=True), "The same as a part of the training", 0.0)
    warmup_start: float = _key(Number(), "Learning rate at the beginning of the rise", 0.0)
    precision: str = _key(Choice(PRECISIONS), "Arithmetic of the forward pass: " + ", ".join(PRECISIONS), "float32")
    ema_decay: float = _key(Number(fraction=True), "Keep an exponential moving average of the weights; 0 for none", 0.0)
    cutout_size: int = _key(Whole(least=0), "Side of the cutout square in pixels; 0 for the dataset's", 0)
    resized_crop: float = _key(
        Number(fraction=True), "Random crop of at least this part of the area, resized; 0 for none", 0.0
    )
    color_jitter: tuple[float, ...] = _key(Numbers(length=4), "Jitter of brightness, contrast, saturation and hue", ())
    adversary: str = _key(Choice(ADVERSARIES), "Adversarial training: " + ", ".join(ADVERSARIES), "none")
    adversary_eps: str = _key(Distance(), "Radius of the L-inf ball in [0, 1] pixels", "8/255")
    adversary_step_size: str = _key(Distance(relative=True), "Step of the adversary, in pixels or in eps", "0.25 eps")
    adversary_steps: int = _key(Whole(), "Steps of the adversary", 10)
    adversary_start: str = _key(
        Choice(STARTS), "Where it starts: uniform in the ball, clean, or clean plus 0.001 N(0, 1)", "uniform"
    )
    adversary_mode: str = _key(Choice(MODES), "Mode of the network while the adversary works: train or eval", "train")
    adversary_beta: float = _key(Number(), "Weight of the robust term of trades", 6.0)

    def __post_init__(self) -> None:
        for f in settings():
            object.__setattr__(self, f.name, f.metadata["rule"].read(f.name, getattr(self, f.name)))
        self._check_optimizer()
        self._check_schedule()
        if self.color_jitter and self.color_jitter[3] > 0.5:
            raise InvalidSpec(f"color_jitter: hue must be 0 to 0.5, not {self.color_jitter[3]:g}.")
        if self.adversary == "fgsm" and self.adversary_steps != 1:
            raise InvalidSpec("adversary fgsm takes one step: set adversary_steps=1, or adversary=pgd.")
        if self.adversary != "none" and 0 in (self.eps, self.step_size):
            raise InvalidSpec(
                "adversary_eps and adversary_step_size must be positive: without an adversary set adversary=none."
            )

    def _check_optimizer(self) -> None:
        if self.nesterov and self.optimizer != "sgd":
            raise InvalidSpec(f"nesterov belongs to sgd: set nesterov=false for {self.optimizer}.")
        if self.nesterov and not self.momentum:
            raise InvalidSpec("nesterov needs a momentum: set momentum=0.9, or nesterov=false.")

    def _check_schedule(self) -> None:
        if self.warmup_epochs and self.warmup_fraction:
            raise InvalidSpec("warmup_epochs and warmup_fraction say the same thing: set one of them to 0.")
        if self.warmup >= self.epochs:
            raise InvalidSpec(
                f"a warm-up of {self.warmup:g} epochs leaves nothing of {self.epochs}: set warmup_epochs lower."
            )
        for key in ("warmup_start", "lr_min"):
            if getattr(self, key) > self.lr:
                raise InvalidSpec(f"{key} ({getattr(self, key):g}) must not be above lr ({self.lr:g}).")
        if self.schedule == "step" and not self.milestones:
            raise InvalidSpec("schedule step needs milestones, such as milestones=[0.5, 0.75].")
        ends = self.milestone_epochs
        if list(ends) != sorted(set(ends)) or (ends and not 0 < ends[0] <= ends[-1] < self.epochs):
            said = ", ".join(f"{m:g}" for m in self.milestones)
            raise InvalidSpec(f"milestones ({said}) must rise and lie within the {self.epochs} epochs.")
        if self.schedule == "linear-tail" and self.epochs <= TAIL_EPOCHS:
            raise InvalidSpec(
                f"schedule linear-tail needs more than {TAIL_EPOCHS} epochs, not {self.epochs}: "
                "set schedule=linear for a short training."
            )

    @property
    def warmup(self) -> float:
        """The warm-up in epochs."""
        return self.warmup_epochs or self.warmup_fraction * self.epochs

    @property
    def milestone_epochs(self) -> tuple[float, ...]:
        return tuple(m if m >= 1 else m * self.epochs for m in self.milestones)

    @property
    def eps(self) -> float:
        """The adversary's radius as a number, in [0, 1] pixels."""
        return Radius.parse(self.adversary_eps).value

    @property
    def step_size(self) -> float:
        """The adversary's step as a number, in [0, 1] pixels."""
        factor, relative, _ = self.adversary_step_size.partition("eps")
        return float(factor) * self.eps if relative else Radius.parse_step(self.adversary_step_size).value

    def to_dict(self) -> dict[str, Any]:
        """What makes this recipe another than others: JSON data, without keys that say "nothing of the kind"."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


def settings() -> list[Field[Any]]:
    """The fields of `Recipe` that a person may set, with `rule` and `help` in their metadata."""
    return [f for f in fields(Recipe) if f.metadata]
