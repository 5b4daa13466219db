"""Attacks here and in other libraries, side by side in one run: same weights, images, eps and steps, one process.

    python tests/benchmarks/attacks.py [--threads 1] [--repeats 3] [--examples 500] [--autoattack 64]

Two networks, both ResNet-18 of width 16 on digits enlarged to 32x32 pixels: (a) trained as usual, at an eps where next
to nothing survives, as with standard networks on CIFAR-10 at 8/255; (b) trained on adversarial examples, at an eps
where at least half survive. Peers: torchattacks and foolbox for PGD-10; pyautoattack, the authors' code, for
AutoAttack.

The times include clean and final predictions and confirming verdicts, and exclude training. How the network is computed
is what `auto` takes for a job of ten thousand images; finding out is done once a job and not in the times, the last
column says how long it took. Runs alternate, and the least time of each counts. `in passes` is the share of a run that
is spent in forward and backward passes; the rest is the engine's own. `of the limit` is the time of the run over the
least that its rows could take: those of a forward pass, or of one with its backward pass, at the speed of a full batch
of the network computed as in the run.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from models import estimating
from models.architectures import registry as architectures
from models.attacks import registry as attacks
from models.attacks.engine import SlotEngine
from models.attacks.fab import Fab
from models.attacks.forwarding import Forwarding, Plan, Speed, precision_for
from models.attacks.slots import SlotAttack
from models.classifier import Classifier, frozen
from models.datasets import registry as datasets
from models.evaluation import EXACT, CleanPass, Evaluator
from models.specs import AttackSpec

DATASET = "digits@size=32"
#: Perturbation by which network (b) is trained.
TRAINED_EPS = 16 / 255
#: Share of the most passes that `eval` reckons with before anything is measured.
USUAL_SHARE = 0.25
#: Images in the job that `auto` chooses for.
JOB = 10_000


@dataclass
class Run:
    seconds: float
    forwards: float
    gradients: float
    robust: float
    #: Seconds in forward and backward passes, and what as many rows would take in full batches; 0 where not measured.
    passes: float = 0.0
    bare: float = 0.0
    how: str = ""


def train(epochs: int, *, adversarial: bool) -> Classifier:
    """ResNet-18 of width 16 on the enlarged digits; (b) with one step of FGSM from a random start in every update."""
    digits = datasets.find(DATASET)
    data = datasets.load(DATASET, "train")
    torch.manual_seed(0)
    resnet = architectures.build(architectures.parse_architecture("resnet18@width=16"), num_classes=10, in_channels=1)
    classifier = Classifier(resnet, digits.preprocessing, 10).train()
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (len(data) // 64))
    images, labels = torch.from_numpy(data.pixels(range(len(data)))), torch.from_numpy(data.labels)
    for _ in range(epochs):
        for chosen in torch.randperm(len(data)).split(64)[:-1]:
            x, y = images[chosen], labels[chosen]
            if adversarial:
                start = (x + (2 * torch.rand_like(x) - 1) * TRAINED_EPS).clamp(0, 1).requires_grad_()
                (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(classifier(start), y), start)
                moved = start.detach() + 1.25 * TRAINED_EPS * gradient.sign()
                x = (x + (moved - x).clamp(-TRAINED_EPS, TRAINED_EPS)).clamp(0, 1)
            optimizer.zero_grad()
            nn.functional.cross_entropy(classifier(x), y).backward()
            optimizer.step()
            schedule.step()
    return classifier.eval()


class Counting(nn.Module):
    """Counts the rows that pass through a peer's model: all, and those whose gradient is taken."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows = self.with_gradient = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        self.with_gradient += len(x) if x.requires_grad else 0
        out: Tensor = self.model(x)
        return out


def data(n: int) -> tuple[Tensor, Tensor]:
    test = datasets.load(DATASET, "test")
    return torch.from_numpy(test.pixels(range(n))), torch.from_numpy(test.labels[:n])


class Ours:
    """Our attack on one network, computed as `speed` says; prepared once, run several times."""

    def __init__(self, classifier: Classifier, spec: AttackSpec, n: int, slots: int, speed: Speed) -> None:
        self.spec, self.n, self.slots = spec, n, slots
        self.evaluator = Evaluator(classifier, datasets.load(DATASET, "test"), slots=slots, speed=speed)
        self.evaluator.work_ahead = USUAL_SHARE * JOB * sum(estimating.cost(spec, 10))
        began = time.perf_counter()
        self.plan = self.evaluator._how(spec, list(range(slots))).plan
        self.choosing = time.perf_counter() - began

    def __call__(self) -> Run:
        evaluator, n = self.evaluator, self.n
        evaluator.clean = CleanPass()
        evaluator.rows_forward = evaluator.rows_backward = 0
        began = time.perf_counter()
        with stopwatch() as spent:
            found = [outcome for batch in evaluator.run(self.spec, range(n)) for outcome in batch]
        seconds = time.perf_counter() - began
        forward, both = bare(evaluator.classifier, self.plan, self.slots)
        rows, gradients = evaluator.rows_forward + n, evaluator.rows_backward
        limit = gradients * both + (rows - gradients) * forward
        robust = 100 * sum(bool(o.robust) for o in found) / n
        how = f"{self.plan}; {self.choosing:.1f} s"
        return Run(seconds, rows / n, gradients / n, robust, spent[0], limit, how)


@contextlib.contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Adds up the seconds in forward and backward passes of our engine: one number in a list."""
    spent = [0.0]

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                spent[0] += time.perf_counter() - began

        return run

    owners: tuple[tuple[Any, str], ...] = (
        (SlotAttack, "evaluate"),
        (Fab, "evaluate"),
        (SlotEngine, "_padded"),
        (Evaluator, "_predict"),
    )
    originals = [getattr(owner, name) for owner, name in owners]
    for (owner, name), original in zip(owners, originals, strict=True):
        setattr(owner, name, clocked(original))
    try:
        yield spent
    finally:
        for (owner, name), original in zip(owners, originals, strict=True):
            setattr(owner, name, original)


def bare(classifier: Classifier, plan: Plan, slots: int) -> tuple[float, float]:
    """Seconds a row of a forward pass, and of one with its backward pass, in a full batch."""
    x, _ = data(slots)
    forwarding = Forwarding(classifier, plan, slots)

    def forward() -> None:
        with torch.no_grad():
            forwarding.forward(x)

    def both() -> None:
        y = x.clone().requires_grad_()
        torch.autograd.grad(forwarding.forward(y).logsumexp(1).sum(), y)

    with frozen(classifier):
        return tuple(min(timed(work) for _ in range(5)) / slots for work in (forward, both))  # type: ignore[return-value]


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peer(
    classifier: Classifier, n: int, batch: int, craft: Callable[[nn.Module], Callable[[Tensor, Tensor], Tensor]]
) -> Run:
    """A library's attack in batches, judged like ours: robust is what is correct before and after."""
    counted = Counting(classifier).eval()
    attack = craft(counted)
    images, labels = data(n)
    began = time.perf_counter()
    robust = 0
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        with torch.no_grad():
            correct = classifier(x).argmax(1) == y
        adversarial = attack(x, y)
        with torch.no_grad():
            robust += int((correct & (classifier(adversarial).argmax(1) == y)).sum())
    seconds = time.perf_counter() - began
    return Run(seconds, counted.rows / n + 2, counted.with_gradient / n, 100 * robust / n)


def torchattacks_pgd(spec: AttackSpec) -> Callable[[nn.Module], Callable[[Tensor, Tensor], Tensor]]:
    def craft(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        import torchattacks

        assert spec.step_size
        made: Callable[[Tensor, Tensor], Tensor] = torchattacks.PGD(
            model, eps=spec.eps.value, alpha=spec.step_size.value, steps=spec.steps, random_start=True
        )
        return made

    return craft


def foolbox_pgd(spec: AttackSpec) -> Callable[[nn.Module], Callable[[Tensor, Tensor], Tensor]]:
    def craft(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        import foolbox

        assert spec.step_size
        bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack = foolbox.attacks.LinfPGD(abs_stepsize=spec.step_size.value, steps=spec.steps, random_start=True)
        return lambda x, y: attack(bounded, x, y, epsilons=spec.eps.value)[1]

    return craft


def reference_autoattack(spec: AttackSpec) -> Callable[[nn.Module], Callable[[Tensor, Tensor], Tensor]]:
    def craft(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        import pyautoattack

        made = pyautoattack.AutoAttack(model, norm="Linf", eps=spec.eps.value, version="standard", device="cpu")
        return lambda x, y: made.run_standard_evaluation(x, y, batch_size=len(x))[0]

    return craft


def compare(table: Table, name: str, contenders: dict[str, Callable[[], Run]], peers: set[str], repeats: int) -> None:
    runs: dict[str, list[Run]] = {key: [] for key in contenders}
    for _ in range(repeats):
        for key, contender in contenders.items():
            runs[key].append(contender())
    best = {key: min(found, key=lambda run: run.seconds) for key, found in runs.items()}
    base = min(best[key].seconds for key in peers)
    for key, run in best.items():
        share = f"{100 * run.passes / run.seconds:.1f} %" if run.passes else ""
        limit = f"{run.seconds / run.bare:.2f}x" if run.bare else ""
        table.add_row(
            name,
            key,
            f"{run.seconds:.2f}",
            f"{run.forwards:.1f}",
            f"{run.gradients:.1f}",
            f"{run.robust:.1f}",
            share,
            limit,
            f"{base / run.seconds:.2f}x",
            run.how,
        )
    table.add_section()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--examples", type=int, default=500, help="for PGD")
    parser.add_argument("--autoattack", type=int, default=64, help="examples for AutoAttack; 0 leaves it out")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--eps", nargs=2, default=["64/255", "24/255"], help="for network (a) and (b)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(title=f"{options.threads} thread(s), batches and slots of {options.slots}")
    for header in ("network", "who", "seconds", "forwards/ex", "gradients/ex", "robust %", "in passes", "of the limit"):
        table.add_column(header, justify="left" if header in ("network", "who") else "right")
    table.add_column("speed-up", justify="right")
    table.add_column("how; time to find out")
    n, slots = options.examples, options.slots
    bf16 = precision_for("auto", torch.device("cpu")) == "bf16"
    for letter, eps in zip("ab", options.eps, strict=True):
        classifier = train(options.epochs, adversarial=letter == "b")
        pgd = attacks.resolve("pgd", eps=eps)
        contenders: dict[str, Callable[[], Run]] = {
            "torchattacks PGD-10": lambda c=classifier, s=pgd: peer(c, n, slots, torchattacks_pgd(s)),
            "foolbox PGD-10": lambda c=classifier, s=pgd: peer(c, n, slots, foolbox_pgd(s)),
            "nasrob-tui PGD-10": Ours(classifier, pgd, n, slots, Speed()),
            "nasrob-tui PGD-10, as loaded": Ours(classifier, pgd, n, slots, EXACT),
        }
        if bf16:
            contenders["nasrob-tui PGD-10, bf16"] = Ours(classifier, pgd, n, slots, Speed("bf16"))
        compare(table, f"({letter}) {eps}", contenders, {"torchattacks PGD-10", "foolbox PGD-10"}, options.repeats)
        if options.autoattack:
            m = options.autoattack
            auto = attacks.resolve("autoattack", eps=eps)
            full: dict[str, Callable[[], Run]] = {
                "pyautoattack": lambda c=classifier, s=auto, m=m: peer(c, m, slots, reference_autoattack(s)),
                "nasrob-tui AutoAttack": Ours(classifier, auto, m, slots, Speed()),
            }
            compare(table, f"({letter}) {eps}", full, {"pyautoattack"}, 1)
    Console(width=150).print(table)
    if not bf16:
        print("bf16 is left out: this CPU does not compute it in hardware (AMX).")


if __name__ == "__main__":
    main()
