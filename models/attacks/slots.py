"""What the engine and the attacks share: an example's work, its outcome, the slots, and the shape of an attack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.attacks import norms
from models.specs import AttackSpec

Forward = Callable[[Tensor], Tensor]

#: How many of the most likely classes of the clean image are kept with an example, for targeted attacks.
TOP_CLASSES = 10

#: Columns of `Slots.numbers`.
LABEL, INDEX, RUN, TARGET, STEP, TURNS, FLAT, HIT_STEP, CODE = range(9)
#: What `CODE` says of a slot: its example is under attack, was broken, gave logits that are not finite, or has taken
#: all its steps.
RUNNING, BROKEN, INFINITE, SPENT = range(4)


@dataclass
class Work:
    """An example on its way through the engine, with what it has cost so far. `image` is (C, H, W).

    `run` counts the restarts of an attack and, of a targeted one, its targets. `top` are the most likely classes of the
    clean image, the best first, and `least` its least likely one.
    """

    index: int
    image: Tensor
    label: int
    clean_prediction: int
    clean_margin: float
    clean_rank: int
    top: tuple[int, ...] = ()
    least: int = 0
    run: int = 0
    forwards: int = 1
    backwards: int = 0
    zero_gradient_steps: int = 0
    #: The closest adversarial example of the runs so far, for the verdict `closest`.
    found: Found | None = None


@dataclass(frozen=True)
class Found:
    """An adversarial example: the iterate (C, H, W), its logits (classes,), its distance, and where it was met."""

    x: Tensor
    logits: Tensor
    distance: float
    run: int
    step: int


@dataclass(frozen=True)
class Outcome:
    """One example of one evaluation. Exactly one of `robust` and `error` is set.

    `forwards` and `backwards` are the passes spent on this example, its clean prediction included: the same whatever
    the number of slots. Rows of idle slots are the engine's (`SlotEngine.rows_forward`). `broken_at_step` is 0 when
    the start itself fooled the model, and None when the example is robust or was misclassified without any attack, and
    always for attacks of other libraries, which give nothing but their last image.
    Margins are z_label - max other logit, ranks the place of the label among the classes by logit, 1 for the predicted
    one; those without `clean_` are of the iterate that decided. `distance` is in the attack's norm and threat space;
    under the verdict `closest` it is that of the closest adversarial example, None where none was found.
    `stage` is the attack of a cascade that broke the example.
    """

    example: int
    label: int
    clean_prediction: int
    adversarial_prediction: int | None
    clean_correct: bool
    robust: bool | None
    broken_at_step: int | None
    broken_at_restart: int | None
    distance: float | None
    clean_margin: float | None
    margin: float | None
    forwards: int
    backwards: int
    zero_gradient_steps: int
    error: str | None = None
    clean_rank: int | None = None
    rank: int | None = None
    stage: str | None = None


@dataclass(frozen=True)
class Survival:
    """An example that has survived the first `stages` attacks of a cascade, with what they cost together."""

    example: int
    stages: int
    forwards: int
    backwards: int
    zero_gradient_steps: int
    #: The smallest margin that it was left with.
    margin: float | None


@dataclass
class Slots:
    """The state of all slots; every tensor's first dimension is the slot. `memory` is the attack's own, by name.

    `clean`, `x` and `hit` are (slots, C, H, W); `hit` and `hit_logits` hold what was captured when the model was
    fooled, and `best` (slots,) its distance. `low` and `high` bound the input.
    """

    clean: Tensor
    x: Tensor
    #: int64 (slots, 9), see the columns above: one tensor, so that a refill and a look at all slots are one transfer.
    numbers: Tensor
    hit: Tensor
    best: Tensor
    hit_logits: Tensor | None = None
    low: float = 0.0
    high: float = 1.0
    memory: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def allocate(cls, count: int, image: Tensor) -> Slots:
        """All slots hold `image` (C, H, W), on its device, so that idle ones compute something harmless."""
        clean = image.expand(count, *image.shape).clone()
        numbers = torch.zeros(count, 9, dtype=torch.int64, device=image.device)
        best = torch.full((count,), float("inf"), device=image.device)
        return cls(clean, clean.clone(), numbers, clean.clone(), best)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def labels(self) -> Tensor:
        return self.numbers[:, LABEL]

    @property
    def indices(self) -> Tensor:
        """Dataset indices (slots,)."""
        return self.numbers[:, INDEX]

    @property
    def runs(self) -> Tensor:
        return self.numbers[:, RUN]

    @property
    def targets(self) -> Tensor:
        """The class that a targeted attack goes for (slots,); means nothing for others."""
        return self.numbers[:, TARGET]

    @property
    def steps(self) -> Tensor:
        """Steps taken in the present run (slots,): 0 at the first gradient."""
        return self.numbers[:, STEP]

    def remember(self, name: str, like: Tensor) -> Tensor:
        """The attack's own tensor `name` with a row a slot, zero when it is first asked for; `like` gives the shape of
        a row's rest and the type, by a batch of any length.
        """
        if name not in self.memory:
            self.memory[name] = torch.zeros((len(self), *like.shape[1:]), dtype=like.dtype, device=self.x.device)
        return self.memory[name]

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows, in this order."""
        for name in ("clean", "x", "numbers", "hit", "best"):
            setattr(self, name, getattr(self, name)[rows])
        if self.hit_logits is not None:
            self.hit_logits = self.hit_logits[rows]
        self.memory = {name: tensor[rows] for name, tensor in self.memory.items()}


@dataclass(frozen=True)
class Gradient:
    """What one turn found at the present iterates: logits (n, classes), loss (n,), gradient (n, C, H, W).

    `gradient` has further dimensions after the first for attacks that want several (DeepFool: one a class), and is
    None for attacks without.
    """

    logits: Tensor
    loss: Tensor
    gradient: Tensor | None


class SlotAttack(ABC):
    """An attack: how it starts, what it keeps per slot, and how it uses one turn. Rows must not influence each other.

    An attack takes `steps` steps in each of `runs` runs. In every turn the engine evaluates `slots.x` (forward,
    and backward where `gradient` is set), notes which iterates fool the model, and calls `advance`. The last iterate of
    a run is judged by the engine.
    """

    #: Whether a turn needs the gradient of the loss.
    gradient = True
    #: Whether every iterate lies in the eps ball. If not, one counts as breaking only where it does.
    inside = True
    #: Whether the attack goes for a class (`target_of`).
    targeted = False

    def __init__(self, spec: AttackSpec) -> None:
        self.spec = spec
        #: Gradients averaged in a turn, for models that are random (expectation over transformation).
        self.eot = int(dict(spec.settings).get("eot", 1))

    @property
    def steps(self) -> int:
        """Steps of one run."""
        return self.spec.steps

    @property
    def runs(self) -> int:
        """Runs an example gets before it counts as robust: restarts, times targets where there are some."""
        return self.spec.restarts

    def prepare(self, classes: int) -> int:
        """Take note of how many classes the model has, before anything else is asked; returns the runs that an example
        gets, which may be fewer than `runs` where there are fewer targets than asked for.
        """
        return self.runs

    def target_of(self, work: Work) -> int:
        """The class that the present run goes for; `TOP_CLASSES` classes are known with the example."""
        return work.label

    @abstractmethod
    def start(self, slots: Slots) -> Tensor:
        """The first iterates (n, C, H, W) of a block of examples that begin a run: `slots` holds them, with their
        clean images in `clean`, dataset indices, runs and targets. It is not the engine's own and has no memory.
        """

    def reset(self, slots: Slots, rows: Tensor) -> None:  # noqa: B027 - an attack without memory has nothing to do
        """Prepare the attack's own memory in the slots in `rows` (int64), whose run has just begun."""

    @abstractmethod
    def loss(self, logits: Tensor, slots: Slots) -> Tensor:
        """The loss of each example (n,) that the gradient is taken of; steps go up."""

    def evaluate(self, forward: Forward, slots: Slots) -> Gradient:
        """One forward pass, and one backward pass where the attack has a gradient, at `slots.x`."""
        if not self.gradient:
            with torch.no_grad():
                logits = forward(slots.x)
                return Gradient(logits, self.loss(logits, slots), None)
        x = slots.x.detach().requires_grad_()
        total: Tensor | None = None
        for _ in range(self.eot):
            with torch.enable_grad():
                logits = forward(x)
                loss = self.loss(logits, slots)
                (gradient,) = torch.autograd.grad(loss.sum(), x)
            total = gradient if total is None else total + gradient
        assert total is not None
        return Gradient(logits.detach(), loss.detach(), total / self.eot if self.eot > 1 else total)

    def passes(self) -> tuple[int, int]:
        """Forward and backward passes that `evaluate` takes for one example in one turn."""
        return (self.eot, self.eot) if self.gradient else (1, 0)

    @abstractmethod
    def advance(self, slots: Slots, found: Gradient) -> Tensor | None:
        """Take one step in every slot, given what was found at `slots.x`.

        Returns which rows have taken a step (bool (n,)); None for all of them.
        """

    def distance(self, offset: Tensor) -> Tensor:
        """The length of perturbations in the attack's norm (n,)."""
        return norms.length(offset, self.spec.norm)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """z_label - max over the other classes (n,); negative where misclassified."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
    return own - others


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Place of the label among the classes by falling logit (n,), int64: 1 where it is predicted.

    Of equal logits the lower class comes first, as for argmax. Means nothing where a logit is NaN.
    """
    own = logits.gather(1, labels[:, None])
    lower_class = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return 1 + ((logits > own) | ((logits == own) & lower_class)).sum(1)


def judgements(logits: Tensor, labels: Tensor) -> tuple[list[int], list[int], list[int]]:
    """What the host decides on, in one transfer: predicted class, rank of the label, and 1 where all is finite."""
    finite = torch.isfinite(logits).all(1).long()
    predictions, rank, whole = torch.stack([logits.argmax(1), ranks(logits, labels), finite]).tolist()
    return predictions, rank, whole
