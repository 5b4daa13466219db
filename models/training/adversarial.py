"""Adversarial training: the perturbation of a training batch, and the losses on it.

All in [0, 1] pixels and the L-inf norm, through the classifier's own normalisation. What an evaluation reports comes
from `models.attacks`; these few lines only make training images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.classifier import Classifier
from models.training.recipes import Recipe

#: Deviation of the Gaussian start (Zhang et al., ICML 2019, public code).
GAUSSIAN_START = 0.001


@dataclass(frozen=True)
class Adversary:
    """What perturbs the training images. `eps` and `step_size` in [0, 1] pixels.

    `mode` is that of the network meanwhile: train as in the public code of Rice et al. (ICML 2020) and Wong et al.
    (ICLR 2020), where BatchNorm sees the perturbed images of every step; eval as in that of TRADES.
    """

    method: str
    eps: float
    step_size: float
    steps: int
    start: str
    mode: str
    beta: float

    @classmethod
    def of(cls, recipe: Recipe) -> Adversary | None:
        """The adversary of a recipe; None when it has none."""
        if recipe.adversary == "none":
            return None
        return cls(
            method=recipe.adversary,
            eps=recipe.eps,
            step_size=recipe.step_size,
            steps=recipe.adversary_steps,
            start=recipe.adversary_start,
            mode=recipe.adversary_mode,
            beta=recipe.adversary_beta,
        )

    def perturb(self, classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
        """Images (n, C, H, W) within `eps` of `images` and within [0, 1], of a high loss: no gradient attached.

        The loss is the cross-entropy (Madry et al., ICLR 2018), for trades the KL divergence from the clean output
        (Zhang et al., ICML 2019). Gradients of parameters are neither used nor changed. Random numbers come from
        torch's global generator of the device.
        """
        with _mode(classifier, self.mode):
            loss = self._divergence(classifier, images) if self.method == "trades" else _cross_entropy(labels)
            x = self._start(images)
            for _ in range(self.steps):
                x.requires_grad_(True)
                # The sum, not the mean: every image has its own sign, and small gradients stay above float16's least.
                with torch.enable_grad():
                    total = loss(classifier(x).float())
                (gradient,) = torch.autograd.grad(total, [x])
                stepped = x.detach() + self.step_size * gradient.sign()
                offset = torch.clamp(stepped - images, -self.eps, self.eps)
                x = (images + offset).clamp_(0.0, 1.0)
        return x.detach()

    def _start(self, images: Tensor) -> Tensor:
        if self.start == "uniform":
            return (images + torch.empty_like(images).uniform_(-self.eps, self.eps)).clamp_(0.0, 1.0)
        if self.start == "gaussian":
            noise = (GAUSSIAN_START * torch.randn_like(images)).clamp_(-self.eps, self.eps)
            return (images + noise).clamp_(0.0, 1.0)
        return images.clone()

    @staticmethod
    def _divergence(classifier: Classifier, images: Tensor) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            clean = classifier(images).float().softmax(1)
        return lambda logits: functional.kl_div(logits.log_softmax(1), clean, reduction="sum")


def robust_divergence(clean_logits: Tensor, perturbed_logits: Tensor) -> Tensor:
    """The second term of TRADES: the mean over the batch of KL(clean || perturbed), with gradients through both."""
    return functional.kl_div(
        perturbed_logits.float().log_softmax(1), clean_logits.float().softmax(1), reduction="batchmean"
    )


@dataclass(frozen=True)
class OneStepGap:
    """Accuracy in percent on one training batch, in evaluation mode: under the training's single step, and under PGD.

    A network that withstands the one and falls to the other has learnt to mislead a single step.
    """

    one_step: float
    pgd: float

    #: Less than half is left, and at least this many points are lost: far from what chance does to a batch.
    POINTS = 20.0

    @property
    def collapsed(self) -> bool:
        """Catastrophic overfitting (Wong, Rice and Kolter, ICLR 2020, section 5.4)."""
        return self.pgd < 0.5 * self.one_step and self.one_step - self.pgd >= self.POINTS

    def __str__(self) -> str:
        return f"{self.one_step:.0f} % under one step, {self.pgd:.0f} % under PGD-10"


def one_step_gap(classifier: Classifier, images: Tensor, labels: Tensor, adversary: Adversary) -> OneStepGap:
    """Compare a single-step adversary with PGD-10 of the same radius on a batch (n, C, H, W)."""
    pgd = replace(adversary, method="pgd", steps=10, step_size=adversary.eps / 4, start="uniform")
    found = []
    with _mode(classifier, "eval"):
        for attack in (adversary, pgd):
            perturbed = replace(attack, mode="eval").perturb(classifier, images, labels)
            with torch.no_grad():
                found.append(100.0 * (classifier(perturbed).argmax(1) == labels).float().mean().item())
    return OneStepGap(*found)


def _cross_entropy(labels: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits: functional.cross_entropy(logits, labels, reduction="sum")


@contextlib.contextmanager
def _mode(model: nn.Module, mode: str) -> Iterator[None]:
    """The model in `train` or `eval` mode; every module is put back afterwards."""
    before = [(module, module.training) for module in model.modules()]
    try:
        model.train(mode == "train")
        yield
    finally:
        for module, training in before:
            module.training = training
