"""How a network is computed: precision, folded BatchNorm, memory format, compilation. Options of the engine, never of
an attack.

Whatever is chosen here only finds perturbations. A verdict is that of a float32 pass: what is found in lower precision
counts once the network as it was loaded confirms it, and so does what is found in float32 but close to the border.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.classifier import Classifier
from models.ensembles.network import Ensemble
from models.errors import EvaluationError
from models.specs import PRECISIONS, Switch

#: With `auto` a variant is tried only where the work is expected to take this long, in seconds; compiling only where it
#: takes very long, since a compilation takes a minute.
WORTH_MEASURING, WORTH_COMPILING = 2.0, 1800.0
#: A variant has to be faster by this factor, because what it finds has to be confirmed.
WORTH_IT = 1.05
#: Logits of a folded network may differ from the original's by this much of their range.
FOLDING_TOLERANCE = 1e-4
#: So far from the border, as a share of the largest logit, another way to compute the network in float32 cannot be
#: wrong by rounding.
ROUNDING = 1e-3

#: What people read of a plan.
_WORDS = {"fold": "folded BatchNorm", "channels_last": "channels last", "compile": "compiled"}

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Speed:
    """What was asked for. `auto` takes what pays for the size of the job; the precision `auto` is decided by the device
    alone (`precision_for`), since it is part of an evaluation's identity.
    """

    precision: str = "float32"
    compile: Switch = "auto"
    channels_last: Switch = "auto"
    fold: Switch = "auto"


@dataclass(frozen=True)
class Plan:
    """What is done: nothing left open."""

    precision: str = "float32"
    compile: bool = False
    channels_last: bool = False
    fold: bool = False

    @property
    def exact(self) -> bool:
        """Whether the network is computed as it was loaded, so that its verdicts need no confirmation."""
        return not (self.compile or self.channels_last or self.fold) and self.precision == "float32"

    def __str__(self) -> str:
        return ", ".join([self.precision, *(word for name, word in _WORDS.items() if getattr(self, name))])

    @classmethod
    def parse(cls, text: str) -> Plan:
        """The plan that `str` wrote, with what `choose` says of it or without."""
        precision, *words = text.partition(" (")[0].split(", ")
        return cls(precision, **{name: word in words for name, word in _WORDS.items()})


def precision_for(asked: str, device: torch.device) -> str:
    """The precision of the attack's passes: `auto` is bf16 where the device computes it in hardware, else float32.

    Raises `EvaluationError` for one that the device does not have.
    """
    if asked == "auto":
        return "bf16" if _has_bf16(device) else "float32"
    if asked not in PRECISIONS:
        raise EvaluationError(f"precision {asked!r} is unknown: auto, {', '.join(PRECISIONS)}.")
    if asked == "fp16" and device.type == "cpu":
        raise EvaluationError("fp16 on a CPU is slower than float32 and overflows: use bf16 or float32.")
    return asked


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capable = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(capable and capable())


class Forwarding:
    """The passes of one classifier under a plan. `forward` and `of_normalized` take what the classifier's do.

    A copy of the network is made where the plan changes its parameters, so that the classifier stays as it was loaded.
    """

    def __init__(self, classifier: Classifier, plan: Plan, slots: int) -> None:
        self.plan = plan
        network = classifier.network
        if plan.fold or plan.channels_last:
            network = copy.deepcopy(network)
        if plan.fold:
            network = folded(network)
        if plan.channels_last:
            network = network.to(memory_format=torch.channels_last)
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        self._classifier = classifier.with_network(network).eval()
        self._slots = slots
        self._compiled = self._compile(classifier) if plan.compile else None

    def _compile(self, classifier: Classifier) -> Any:
        # The compiler tells everybody without a GPU that there is none.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        mode = "reduce-overhead" if next(classifier.buffers()).device.type == "cuda" else "default"
        return torch.compile(self._classifier, mode=mode, dynamic=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes), float32, of pixels (n, C, H, W)."""
        if self._compiled is not None and len(x) == self._slots:
            # Another number of rows would be compiled anew, for a minute.
            return self._run(self._compiled, x)
        return self._run(self._classifier, x)

    def of_normalized(self, z: Tensor) -> Tensor:
        """Logits of inputs that are normalised already."""
        return self._run(self._classifier.logits_of_normalized, z)

    def _run(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self.plan.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        kind = _TYPES.get(self.plan.precision)
        if kind is None:
            return function(x)
        with torch.autocast(x.device.type, dtype=kind):
            logits = function(x)
        return logits.float()


def folded(network: nn.Module) -> nn.Module:
    """A network with its BatchNorm layers folded into the convolutions before them; raises `EvaluationError` when it
    cannot be traced.
    """
    from torch.fx.experimental.optimization import fuse

    if isinstance(network, Ensemble):
        # How an ensemble joins its members is no graph, but each of them is.
        network.members = nn.ModuleList(folded(member) for member in network.members)
        return network.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fused: nn.Module = fuse(network.eval(), inplace=True, no_trace=False)
    except Exception as error:
        raise EvaluationError(
            f"BatchNorm cannot be folded into this network ({str(error).partition(chr(10))[0]}): use --fold off."
        ) from error
    return fused


def choose(classifier: Classifier, batch: Tensor, speed: Speed, turns: float) -> tuple[Plan, str]:
    """The plan for a job of about `turns` forward and backward passes over batches like `batch` (n, C, H, W), and one
    sentence about it.

    What is `on` is done, or refused; of what is `auto` the fastest combination is taken, measured on `batch`, where the
    job is long enough.
    """
    precision = precision_for(speed.precision, batch.device)
    base = Plan(
        precision,
        compile=speed.compile == "on",
        channels_last=speed.channels_last == "on",
        fold=speed.fold == "on",
    )
    if base.fold:
        _check_folding(classifier, batch)
    open_ = [name for name in ("fold", "channels_last") if getattr(speed, name) == "auto"]
    seconds = _seconds(classifier, base, batch) if open_ or speed.compile == "auto" else 0.0
    expected = seconds * turns
    if expected < WORTH_MEASURING or (not open_ and speed.compile != "auto"):
        return base, f"{base}"
    best, least, tried = base, seconds / WORTH_IT, {str(base): seconds}
    for name in open_:
        # Greedy, in this order: what pays on top of what was taken.
        candidate = Plan(**{**vars(best), name: True})
        with contextlib.suppress(EvaluationError, RuntimeError):
            if name == "fold":
                _check_folding(classifier, batch)
            took = _seconds(classifier, candidate, batch)
            tried[str(candidate)] = took
            if took < least:
                best, least = candidate, took
    if speed.compile == "auto" and expected > WORTH_COMPILING:
        candidate = Plan(**{**vars(best), "compile": True})
        with contextlib.suppress(Exception):
            took = _seconds(classifier, candidate, batch)
            tried[str(candidate)] = took
            if took < least:
                best = candidate
    shown = "; ".join(f"{name} {1000 * took / len(batch):.2f} ms" for name, took in tried.items())
    return best, f"{best} (a gradient takes, in {shown})"


def _check_folding(classifier: Classifier, batch: Tensor) -> None:
    with torch.no_grad():
        own = classifier(batch)
        other = Forwarding(classifier, Plan(fold=True), len(batch)).forward(batch)
    scale = float(own.abs().max()) or 1.0
    if not float((own - other).abs().max()) <= FOLDING_TOLERANCE * scale:
        raise EvaluationError("folding BatchNorm changes this network's logits: use --fold off.")


def _seconds(classifier: Classifier, plan: Plan, batch: Tensor) -> float:
    """Seconds of one forward and backward pass, the better of two after one to warm up."""
    forwarding = Forwarding(classifier, plan, len(batch))
    return min(list(_timed(forwarding, batch, 3))[1:])


def _timed(forwarding: Forwarding, batch: Tensor, times: int) -> Iterator[float]:
    for _ in range(times):
        began = time.perf_counter()
        x = batch.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(forwarding.forward(x).logsumexp(1).sum(), x)
        float(gradient.flatten()[0])
        yield time.perf_counter() - began
