"""Chooses the recipe of the shipped studies: `python -m explorer.recipechoice DATASET RESULTS.csv [PART/PARTS]`.

Every candidate trains the same networks on four fifths of the training images and is judged by clean accuracy on the
last fifth; no test image is looked at, and no attack is run. The candidate whose worst network is best is taken, for
all groups of all studies on that dataset. The networks that are hardest to train come first; the others are trained by
the candidate that leads, until one leads that has trained them all: the rest cannot win any more.

Trainings found in RESULTS.csv are not repeated; PART/PARTS runs every PARTS-th one, for several processes side by side:
when all are done, run it once more.
"""

from __future__ import annotations

import csv
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explorer.training import Order
from models.architectures import registry as architectures
from models.architectures.options import scale_of
from models.datasets import registry as datasets
from models.datasets.examples import Examples
from models.errors import ModelsError
from models.specs import ArchitectureSpec

#: The part of the training images that judges: one in this many, the last ones in stored order.
HELD_OUT = 5
#: What holds for every candidate: no augmentation but cropping, nothing that only one kind of network has.
_ALIKE = {"cutout": False, "drop_path": 0.0, "auxiliary_weight": 0.0, "precision": "float32"}


@dataclass(frozen=True)
class Choice:
    """What is compared on a dataset: `recipes` by a name for people, each a recipe and the keys that differ."""

    recipes: Mapping[str, tuple[str, Mapping[str, Any]]]
    #: Networks that every candidate trains, and those that only the leading one does.
    hard: Sequence[str]
    others: Sequence[str]


def _candidates(
    names: Sequence[str], batch_sizes_and_rates: Sequence[tuple[int, float]], epochs: int
) -> dict[str, tuple[str, Mapping[str, Any]]]:
    return {
        f"{name} batch_size={size} lr={lr} crop={str(crop).lower()}": (
            name,
            {**_ALIKE, "epochs": epochs, "batch_size": size, "lr": lr, "crop": crop},
        )
        for name in names
        for size, lr in batch_sizes_and_rates
        for crop in (True, False)
    }


CHOICES = {
    "digits": Choice(
        _candidates(("standard", "fast"), ((32, 0.1), (32, 0.2)), epochs=60),
        ("resnet18@width=4", "resnet34@width=3", "resnet50@width=3", "vgg11-bn@width=3", "vgg16-bn@width=3"),
        ("densenet121@growth_rate=2,init_features=4", "darts", "nasnet-a", "darts-random-0", "darts-random-1"),
    ),
    "fashion-mnist@size=14": Choice(
        _candidates(("fast",), ((32, 0.05), (32, 0.1), (128, 0.1), (128, 0.2)), epochs=1),
        ("resnet18@width=4", "resnet34@width=3", "vgg11-bn@width=4", "vgg16-bn@width=4"),
        ("densenet121@growth_rate=2,init_features=4", "darts", "darts-random-0"),
    ),
}


def main(dataset: str, results: Path, part: int = 1, parts: int = 1) -> None:
    """Run what is missing of this part, then print all that is known."""
    from models import devices

    devices.set_threads(1)
    choice = CHOICES[dataset]
    learn, judge = held_out(datasets.load(dataset, "train"))
    for recipe, architecture in to_train(choice, read(results))[part - 1 :: parts]:
        name, keys = choice.recipes[recipe]
        accuracy = _accuracy(Order(_spec(architecture, dataset), dataset, recipe=name, overrides=keys), learn, judge)
        with results.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow([recipe, architecture, f"{accuracy:.2f}"])
        print(f"{recipe:32} {architecture:50} {accuracy:6.2f}", file=sys.stderr, flush=True)
    print("recipe", f"worst network (% of {len(judge)} held-out images)", "mean", "networks", sep=",")
    for line in ranked(read(results)):
        print(*line, sep=",")


def to_train(choice: Choice, known: Mapping[tuple[str, str], float]) -> list[tuple[str, str]]:
    """The recipes and architectures that come next: of the hard ones, then of the others; none when one has won."""
    hard = {(recipe, architecture) for architecture in choice.hard for recipe in choice.recipes}
    if missing := sorted(hard - known.keys()):
        return missing
    leader = ranked(known)[0][0]
    return [(leader, architecture) for architecture in choice.others if (leader, architecture) not in known]


def held_out(examples: Examples) -> tuple[Examples, Examples]:
    """What is learnt from and what judges, both of the training images."""
    begin = len(examples) - len(examples) // HELD_OUT
    return _part(examples, 0, begin), _part(examples, begin, len(examples))


def ranked(known: Mapping[tuple[str, str], float]) -> list[tuple[str, float, float, int]]:
    """Each recipe with the accuracy of its worst network, the mean and the number of networks; the best is first."""
    by_recipe: dict[str, list[float]] = {}
    for (recipe, _), accuracy in known.items():
        by_recipe.setdefault(recipe, []).append(accuracy)
    rows = [(name, min(seen), round(statistics.mean(seen), 2), len(seen)) for name, seen in by_recipe.items()]
    return sorted(rows, key=lambda row: row[1:3], reverse=True)


def _part(examples: Examples, begin: int, end: int) -> Examples:
    chosen = examples.order[begin:end]
    return Examples(
        dataset=examples.dataset,
        split=f"{examples.split}[{begin}:{end}]",
        images=examples.pixels(chosen),
        labels=examples.labels[chosen],
        n_classes=examples.n_classes,
        fingerprint=f"{examples.fingerprint}[{begin}:{end}]",
        classes=examples.classes,
    )


def _spec(text: str, dataset: str) -> ArchitectureSpec:
    return architectures.parse_architecture(text, scale=scale_of(datasets.find(dataset).image_shape))


def _accuracy(order: Order, learn: Examples, judge: Examples) -> float:
    from models.training import loop

    with tempfile.TemporaryDirectory() as folder:
        plan = order.plan(learn.fingerprint)
        classifier = loop.train(plan, learn, device="cpu", checkpoint=Path(folder) / "checkpoint")
    return loop.accuracy(classifier, judge, device="cpu")


def read(results: Path) -> dict[tuple[str, str], float]:
    """Held-out accuracies in percent by recipe and architecture; none where there is no such file."""
    if not results.exists():
        return {}
    with results.open(encoding="utf-8", newline="") as file:
        return {(recipe, architecture): float(accuracy) for recipe, architecture, accuracy in csv.reader(file)}


if __name__ == "__main__":
    which, where, share = ([*sys.argv[1:], "1/1"] + [""] * 3)[:3]
    part, _, parts = share.partition("/")
    if which not in CHOICES or not (part.isdecimal() and parts.isdecimal()) or not 1 <= int(part) <= int(parts):
        sys.exit(f"usage: python -m explorer.recipechoice {{{','.join(CHOICES)}}} RESULTS.csv [PART/PARTS]")
    try:
        main(which, Path(where), int(part), int(parts))
    except (ModelsError, OSError) as error:
        sys.exit(str(error))
