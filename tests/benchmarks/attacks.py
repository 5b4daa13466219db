"""PGD-10 here and in torchattacks, side by side in one run: time, gradients per example, robust accuracy.

    python tests/benchmarks/attacks.py [--threads 1] [--repeats 5] [--examples 500]

Both attack the same standard-trained network (ResNet-18 of width 16 on digits, as they are and enlarged to 32x32) on
the same test images, one process, the same number of threads. The times include the final predictions and exclude
training. Runs alternate; the least time of each counts.

`worst` is our default verdict: any visited iterate counts, and an example that is broken leaves. `last` is
torchattacks' verdict: every example takes all ten steps, so nothing can be saved, and the ratio shows what the engine
itself costs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from models.architectures import registry as architectures
from models.attacks import registry as attacks
from models.classifier import Classifier
from models.datasets import registry as datasets
from models.evaluation import Evaluator
from models.specs import AttackSpec


@dataclass
class Run:
    seconds: float
    forwards: float
    gradients: float
    robust: float


def train(side: int, epochs: int) -> Classifier:
    """ResNet-18 of width 16 on digits, enlarged to `side` pixels inside the network."""
    digits = datasets.find("digits")
    data = datasets.load("digits", "train")
    torch.manual_seed(0)
    resnet = architectures.build(architectures.parse_architecture("resnet18@width=16"), num_classes=10, in_channels=1)
    network = resnet if side == 8 else nn.Sequential(nn.Upsample(size=side, mode="bilinear"), resnet)
    classifier = Classifier(network, digits.preprocessing, 10).train()
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    steps = epochs * (len(data) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    for _ in range(epochs):
        for chosen in torch.randperm(len(data)).split(64)[:-1]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(classifier(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return classifier.eval()


def ours(classifier: Classifier, spec: AttackSpec, n: int, slots: int) -> Run:
    counted = Counting(classifier.network)
    counted_classifier = Classifier(counted, datasets.find("digits").preprocessing, 10)
    evaluator = Evaluator(counted_classifier, datasets.load("digits", "test"), slots=slots)
    began = time.perf_counter()
    found = [outcome for batch in evaluator.run(spec, range(n)) for outcome in batch]
    seconds = time.perf_counter() - began
    return Run(
        seconds,
        counted.examples / n,
        counted.with_gradient / n,
        100 * sum(bool(o.robust) for o in found) / n,
    )


def theirs(classifier: Classifier, spec: AttackSpec, n: int, batch: int) -> Run:
    import torchattacks

    data = datasets.load("digits", "test")
    reference = torchattacks.PGD(
        classifier.eval(),
        eps=spec.eps.value,
        alpha=spec.step_size.value,
        steps=spec.steps,
        random_start=spec.random_start,
    )
    # The library restores the mode that it finds: a wrapper in training mode would switch the network to it.
    counted = Counting(classifier).eval()
    reference.model = counted
    began = time.perf_counter()
    robust = 0
    for begin in range(0, n, batch):
        images = torch.from_numpy(data.images[begin : min(begin + batch, n)])
        labels = torch.from_numpy(data.labels[begin : min(begin + batch, n)])
        with torch.no_grad():
            clean = classifier(images).argmax(1) == labels
        adversarial = reference(images, labels)
        with torch.no_grad():
            robust += int((clean & (classifier(adversarial).argmax(1) == labels)).sum())
    seconds = time.perf_counter() - began
    # The clean and the final prediction come on top.
    return Run(seconds, counted.examples / n + 2, counted.with_gradient / n, 100 * robust / n)


class Counting(nn.Module):
    """Counts the rows that pass through: what the machine computes, idle slots included."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.examples = 0
        self.with_gradient = 0

    def forward(self, x: Tensor) -> Tensor:
        self.examples += len(x)
        self.with_gradient += len(x) if x.requires_grad else 0
        out: Tensor = self.model(x)
        return out


def best(runs: list[Run]) -> Run:
    return min(runs, key=lambda run: run.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--sides", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--eps", nargs="+", default=["8/255", "32/255", "96/255"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(
        title=f"PGD-10, {options.examples} examples, {options.threads} thread(s), batch and slots {options.slots}"
    )
    for header in ("input", "eps", "who", "verdict", "seconds", "forwards/ex", "gradients/ex", "robust %", "speed-up"):
        table.add_column(header, justify="left" if header in ("who", "verdict", "input") else "right")
    for side in options.sides:
        classifier = train(side, options.epochs)
        for eps in options.eps:
            worst, last = (attacks.resolve("pgd", eps=eps, verdict=v) for v in ("worst", "last"))
            contenders: dict[tuple[str, str], Callable[[], Run]] = {
                ("torchattacks", "last"): lambda c=classifier, s=last: theirs(c, s, options.examples, options.slots),
                ("nasrob-tui", "last"): lambda c=classifier, s=last: ours(c, s, options.examples, options.slots),
                ("nasrob-tui", "worst"): lambda c=classifier, s=worst: ours(c, s, options.examples, options.slots),
            }
            runs: dict[tuple[str, str], list[Run]] = {key: [] for key in contenders}
            for _ in range(options.repeats):
                for key, contender in contenders.items():
                    runs[key].append(contender())
            base = best(runs["torchattacks", "last"]).seconds
            for (who, verdict), found in runs.items():
                run = best(found)
                table.add_row(
                    f"{side}x{side}",
                    eps,
                    who,
                    verdict,
                    f"{run.seconds:.3f}",
                    f"{run.forwards:.2f}",
                    f"{run.gradients:.2f}",
                    f"{run.robust:.1f}",
                    f"{base / run.seconds:.2f}x",
                )
            table.add_section()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
