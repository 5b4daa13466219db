"""The learned combiner: tuned on the training images while the members stand still."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from models.classifier import Classifier
from models.datasets.registry import Examples
from models.ensembles.network import Ensemble
from models.training.loop import EpochReport, TrainingPlan, train


def tune(
    plan: TrainingPlan,
    begin: Callable[[], Classifier],
    examples: Examples,
    *,
    device: str,
    checkpoint: Path,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> Classifier:
    """The ensemble with its combiner tuned by the plan's recipe; `begin` assembles it, its combiner freshly drawn.

    Members keep every tensor, the statistics of BatchNorm included. It resumes like any training; raises what that
    does.
    """

    def standing() -> Classifier:
        classifier = begin()
        network = classifier.network
        assert isinstance(network, Ensemble)
        for parameter in network.members.parameters():
            parameter.requires_grad_(False)
        return classifier

    classifier = train(plan, examples, device=device, checkpoint=checkpoint, on_epoch=on_epoch, build=standing)
    for parameter in classifier.parameters():
        parameter.requires_grad_(True)
    return classifier
