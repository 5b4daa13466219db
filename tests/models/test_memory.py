"""Memory of an evaluation: that of its slots, whatever the number of examples, but for some bytes an example."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.datasets.examples import Examples
from models.datasets.images import Images, Positions
from models.evaluation import Evaluator
from models.specs import AttackSpec
from tests.support import Linear, attack, classifier_of

CLASSES, SLOTS, EPS = 12, 8, "0.0025"
#: Examples of the shorter run. The longer one has eight times as many.
FEW = 64
#: Images of 48 KiB: if all of the longer run were held, it would take 21 MiB more than the shorter one.
SHAPE = (3, 64, 64)
#: MiB by which the longer run's peak may exceed that of the shorter one: what is imported late.
MOST_GROWTH = 8
#: Bytes that an evaluation may keep an example, in whatever form: the clean prediction, and its place in the queue.
MOST_BYTES = 600


class Drawn(Images):
    """Images that exist only while they are asked for: of each its class's template, with noise of its own."""

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        self.count = count
        self.shape = shape

    def __len__(self) -> int:
        return self.count

    def pixels(self, positions: Positions) -> NDArray[np.float32]:
        found = np.empty((len(positions), *self.shape), np.float32)
        for row, position in enumerate(positions):
            found[row] = self.original(int(position))
        return found

    def original(self, position: int) -> NDArray[Any]:
        noise = np.random.default_rng(position).random(self.shape, np.float32)
        image: NDArray[Any] = 0.2 + 0.5 * noise + 0.02 * templates(self.shape)[position % CLASSES]
        return image

    def fingerprint(self, labels: NDArray[np.int64], progress: object) -> str:
        return "0" * 64


@cache
def templates(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((CLASSES, *shape), np.float32)


def evaluate(spec: AttackSpec, count: int, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Attack `count` examples, keeping nothing; how many there were, and how many are robust."""
    weight = torch.from_numpy(templates(shape)).flatten(1) - 0.5
    classifier = classifier_of(Linear(weight, torch.zeros(CLASSES)), classes=CLASSES, channels=shape[0])
    examples = Examples("drawn", "test", Drawn(count, shape), np.arange(count) % CLASSES, CLASSES, "0" * 64)
    total = robust = 0
    for batch in Evaluator(classifier, examples, slots=SLOTS).run(spec, range(count)):
        total += len(batch)
        robust += sum(bool(outcome.robust) for outcome in batch)
    return total, robust


def specs() -> dict[str, AttackSpec]:
    """Attacks of few steps at an eps that some of the examples survive."""
    stages = ("apgd-ce@steps=3", "fab-t@steps=2,targets=1,verdict=worst", "square@steps=4")
    found = {
        "pgd": attack("pgd-3@restarts=2", eps=EPS),
        "cascade": replace(attack("autoattack", eps=EPS), stages=tuple(attack(stage, eps=EPS) for stage in stages)),
    }
    if importlib.util.find_spec("torchattacks"):
        found["another library"] = attack("torchattacks:PGD@steps=2,batch=16", eps=EPS)
    return found


def measure(name: str) -> None:
    """Print the peak of this process's memory after a short and after a long run, in MiB, and what the runs found."""
    import resource

    torch.set_num_threads(1)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    spec = specs()[name]
    evaluate(spec, FEW, SHAPE)
    peaks, robust = [], []
    for count in (FEW, 8 * FEW):
        total, standing = evaluate(spec, count, SHAPE)
        assert total == count
        robust.append(standing / count)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
    print(json.dumps({"peaks": peaks, "robust": robust}))


@pytest.mark.skipif(sys.platform == "win32", reason="the peak is not known there")
@pytest.mark.parametrize("name", ["pgd", "cascade", "another library"])
def test_peak_does_not_grow_with_the_number_of_examples(name: str) -> None:
    if name not in specs():
        pytest.skip("torchattacks is not installed")
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.models.test_memory import measure; measure({name!r})"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(0.1 < share < 0.9 for share in found["robust"])
    few, many = found["peaks"]
    assert many - few < MOST_GROWTH


def test_bytes_an_example() -> None:
    """Peak of what Python and NumPy hold. Images are tiny here, tensors have nothing of their own."""
    spec, shape = attack("fgsm", eps=EPS), (1, 2, 2)

    def peak(count: int) -> int:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        evaluate(spec, count, shape)
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    try:
        peak(10 * FEW)
        few, many = peak(10 * FEW), peak(80 * FEW)
    finally:
        tracemalloc.stop()
    each = (many - few) / (70 * FEW)
    assert each < MOST_BYTES, f"{each:.0f} bytes an example"
