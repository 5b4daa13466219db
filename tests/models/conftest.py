"""The trained network behind an evaluator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.datasets import registry as datasets
from models.evaluation import Evaluator
from models.weights.files import load_model


@pytest.fixture
def evaluator(trained: Path) -> Evaluator:
    """The small trained network on the digits' test split, one thread, 32 slots."""
    torch.set_num_threads(1)
    loaded = load_model(trained, None, datasets.find("digits"))
    return Evaluator(loaded.classifier, datasets.load("digits", "test"), slots=32)
