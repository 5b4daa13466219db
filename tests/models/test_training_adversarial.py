"""Adversarial training: perturbations against closed forms and a reference, the TRADES loss, and what comes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.architectures import registry as architectures
from models.classifier import Classifier, buffers_digest
from models.datasets import registry as datasets
from models.evaluation import Evaluator
from models.training import loop, recipes
from models.training.adversarial import Adversary, OneStepGap, one_step_gap, robust_divergence
from models.training.feeding import feed
from tests.support import Linear, attack, classifier_of, outcomes, robust

EPS = 0.1
PGD = Adversary("pgd", eps=EPS, step_size=EPS / 4, steps=10, start="uniform", mode="eval", beta=6.0)
FGSM = replace(PGD, method="fgsm", step_size=1.25 * EPS, steps=1)
TRADES = replace(PGD, method="trades", start="gaussian")


def small_network() -> Classifier:
    torch.manual_seed(0)
    spec = architectures.parse_architecture("resnet18@width=2")
    return Classifier(
        architectures.build(spec, num_classes=10, in_channels=1), datasets.find("digits").preprocessing, 10
    )


def some_digits(n: int) -> tuple[Tensor, Tensor]:
    digits = datasets.load("digits", "train")
    return torch.from_numpy(digits.images[:n].copy()), torch.from_numpy(digits.labels[:n])


@pytest.mark.parametrize("adversary", [PGD, FGSM, replace(PGD, start="clean"), replace(PGD, start="gaussian")])
def test_linear_model_is_perturbed_to_the_corner_of_the_ball(adversary: Adversary) -> None:
    """The worst perturbation of a linear model of two classes is eps x sign(w_other - w_label), box permitting."""
    torch.manual_seed(1)
    weight = torch.randn(2, 16)
    classifier = classifier_of(Linear(weight, torch.zeros(2)), classes=2)
    images, labels = torch.rand(40, 1, 4, 4), torch.arange(40) % 2
    away = (weight[1 - labels] - weight[labels]).sign().reshape(images.shape)
    # One step of 1.25 eps from a random start within eps may stop short of the corner, never on the wrong side.
    found = adversary.perturb(classifier, images, labels)
    if adversary.method == "fgsm":
        start = found - images
        assert bool((start * away >= 0.25 * EPS - 1e-6)[(images > EPS) & (images < 1 - EPS)].all())
    else:
        assert torch.allclose(found, (images + EPS * away).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("start", ["uniform", "gaussian", "clean"])
@pytest.mark.parametrize("method", ["pgd", "trades"])
def test_perturbations_stay_in_ball_and_box_and_leave_the_network_alone(method: str, start: str, mode: str) -> None:
    classifier = small_network()
    classifier.train()
    classifier.network.eval()
    images, labels = some_digits(12)
    images = images.contiguous()
    kept, buffers = images.clone(), buffers_digest(classifier)
    parameters = list(classifier.parameters())
    parameters[0].grad = torch.full_like(parameters[0], 7.0)
    adversary = replace(PGD, method=method, start=start, mode=mode, steps=3, step_size=0.08)
    found = adversary.perturb(classifier, images, labels)
    assert float((found - images).abs().max()) <= EPS + 1e-6
    assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0
    assert not torch.equal(found, images)
    assert not found.requires_grad
    assert torch.equal(images, kept)
    assert torch.equal(parameters[0].grad, torch.full_like(parameters[0], 7.0))
    assert all(p.grad is None for p in parameters[1:])
    assert classifier.training
    assert not classifier.network.training
    # In training mode BatchNorm sees every step, as in the public code that trains so.
    assert (buffers_digest(classifier) == buffers) == (mode == "eval")


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("start", ["uniform", "clean"])
def test_pgd_is_that_of_torchattacks(start: str, steps: int) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    classifier = small_network().eval()
    images, labels = some_digits(12)
    peer = torchattacks.PGD(classifier, eps=EPS, alpha=EPS / 4, steps=steps, random_start=start == "uniform")
    torch.manual_seed(3)
    expected = peer(images, labels)
    torch.manual_seed(3)
    assert torch.equal(replace(PGD, start=start, steps=steps).perturb(classifier, images, labels), expected)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_perturbation_of_trades_is_that_of_torchattacks(steps: int) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    classifier = small_network().eval()
    images, labels = some_digits(12)
    peer = torchattacks.TPGD(classifier, eps=EPS, alpha=EPS / 4, steps=steps)
    torch.manual_seed(3)
    expected = peer(images, labels)
    torch.manual_seed(3)
    assert torch.equal(replace(TRADES, steps=steps).perturb(classifier, images, labels), expected)


def test_divergence_of_trades_is_the_formula() -> None:
    torch.manual_seed(0)
    clean = torch.randn(6, 4, dtype=torch.float64).float().requires_grad_()
    perturbed = torch.randn(6, 4).requires_grad_()
    expected = 0.0
    for row in range(6):
        p = [float(v) for v in clean[row].detach().exp() / clean[row].detach().exp().sum()]
        q = [float(v) for v in perturbed[row].detach().exp() / perturbed[row].detach().exp().sum()]
        expected += sum(a * float(torch.tensor(a / b).log()) for a, b in zip(p, q, strict=True)) / 6
    found = robust_divergence(clean, perturbed)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found.backward()
    # d KL / d perturbed logits = (q - p) / n; the clean side takes part in the training, too.
    difference = (perturbed.detach().softmax(1) - clean.detach().softmax(1)) / 6
    assert torch.allclose(perturbed.grad, difference, atol=1e-6)
    assert float(clean.grad.abs().max()) > 1e-3


def test_step_on_trades_is_the_gradient_of_both_terms() -> None:
    """One step of plain SGD on the whole loss, against autograd on the formula written out."""
    keys = {"batch_size": 12, "momentum": 0, "weight_decay": 0, "schedule": "constant", "lr": 0.05, "epochs": 2}
    recipe = recipes.load("trades", "digits", {**keys, "crop": False, "adversary_steps": 2})
    images, labels = some_digits(12)
    trainee = loop.Trainee(small_network().train(), recipe)
    for group in trainee.optimizer.param_groups:
        group["lr"] = 0.05
    torch.manual_seed(5)
    trainee._step(images, labels)
    twin = small_network().train()
    torch.manual_seed(5)
    adversary = Adversary.of(recipe)
    assert adversary is not None
    perturbed = adversary.perturb(twin, images, labels)
    clean_output, perturbed_output = twin(images).log_softmax(1), twin(perturbed).log_softmax(1)
    natural = nn.functional.nll_loss(clean_output, labels)
    divergence = (clean_output.exp() * (clean_output - perturbed_output)).sum(1).mean()
    (natural + 6.0 * divergence).backward()
    for mine, other in zip(trainee.classifier.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(mine, other - 0.05 * other.grad, atol=1e-5)


class Ripples(nn.Module):
    """Two classes by the sign of a wave: right at every image and at one eps from it, wrong in between."""

    def forward(self, x: Tensor) -> Tensor:
        wave = 5 * torch.cos(2 * torch.pi * (x[:, 0, 0, 0] - 0.5) / EPS + 0.3)
        return torch.stack([wave, -wave], 1)


def test_catastrophic_overfitting_is_seen() -> None:
    """A network that a single step cannot fool and PGD can."""
    classifier = classifier_of(Ripples(), classes=2)
    images, labels = torch.full((20, 1, 1, 1), 0.5), torch.zeros(20, dtype=torch.int64)
    masked = one_step_gap(classifier, images, labels, replace(FGSM, start="clean", step_size=EPS))
    assert masked.one_step == 100
    assert masked.pgd < 40
    assert masked.collapsed
    honest = one_step_gap(
        classifier_of(Linear(torch.tensor([[1.0], [-1.0]]), torch.zeros(2)), classes=2), images, labels, FGSM
    )
    assert honest == OneStepGap(100.0, 100.0)
    assert not honest.collapsed
    assert not OneStepGap(30.0, 16.0).collapsed
    assert OneStepGap(30.0, 5.0).collapsed


def test_collapse_is_reported_and_only_looked_for_with_a_single_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def gap(*_: object) -> OneStepGap:
        asked.append(1)
        return OneStepGap(93.0, 2.0)

    monkeypatch.setattr(loop, "one_step_gap", gap)
    digits = datasets.find("digits")
    examples = datasets.Examples("digits", "train", *(t.numpy() for t in some_digits(32)), 10, "0" * 64)
    warnings = {}
    for name, keys in (("fast-at", {}), ("pgd-at", {"adversary_steps": 2})):
        recipe = recipes.load(name, "digits", {"epochs": 2, "batch_size": 16, **keys})
        spec = architectures.parse_architecture("resnet18@width=2")
        plan = loop.TrainingPlan(spec, digits, recipe, 0, examples.fingerprint)
        reports: list[loop.EpochReport] = []
        loop.train(plan, examples, device="cpu", checkpoint=tmp_path / name, on_epoch=reports.append)
        warnings[name] = [report.warning for report in reports]
        again: list[loop.EpochReport] = []
        loop.train(plan, examples, device="cpu", checkpoint=tmp_path / name, on_epoch=again.append)
        assert [(r.resumed, r.warning) for r in again] == [(True, reports[-1].warning)]
    assert len(asked) == 2
    assert all("93 % under one step, 2 % under PGD-10" in (w or "") for w in warnings["fast-at"])
    assert warnings["pgd-at"] == [None, None]


def robust_accuracy(recipe: str) -> float:
    """Percent of 256 test digits that a small perceptron keeps under PGD-10 at 0.1, after 15 epochs of a recipe."""
    torch.set_num_threads(1)
    digits, train = datasets.find("digits"), datasets.load("digits", "train")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    found = recipes.load(recipe, "digits", {"epochs": 15})
    trainee = loop.Trainee(Classifier(network, digits.preprocessing, 10), found)
    images = feed(train, torch.device("cpu"))
    for epoch in range(15):
        trainee.epoch(epoch, images, train.labels, digits, seed=epoch)
    evaluator = Evaluator(trainee.finished(), datasets.load("digits", "test"), slots=128)
    return 100 * len(robust(outcomes(evaluator, attack("pgd", eps="0.1"), range(256)))) / 256


def test_adversarial_training_makes_networks_robust() -> None:
    """Judged by the project's own attack, at a radius that breaks standard training."""
    standard = robust_accuracy("standard")
    for recipe in ("pgd-at", "fast-at", "trades"):
        assert robust_accuracy(recipe) > standard + 30
