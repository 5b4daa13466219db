"""Do members of an ensemble look the same way? The angle between their gradients with respect to the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from models.classifier import Classifier, frozen
from models.datasets.registry import Examples


@dataclass(frozen=True)
class Cosine:
    """Of one example and two members, by position: the cosine of the angle between their gradients, None where one of
    them is zero or not finite.
    """

    example: int
    a: int
    b: int
    cosine: float | None


def cosines(
    members: Sequence[Classifier], examples: Examples, indices: Sequence[int], *, device: str, batch_size: int = 128
) -> Iterator[list[Cosine]]:
    """For every pair of members and every example, batch by batch.

    The gradient is that of the cross-entropy of the true class at the clean image, in pixels, so that members which
    normalise differently compare. Members: at least two, of the same classes.
    """
    where = torch.device(device)
    movable = [member.to(where) for member in members]
    for begin in range(0, len(indices), batch_size):
        chosen = [int(i) for i in indices[begin : begin + batch_size]]
        images = torch.from_numpy(examples.pixels(chosen)).to(where)
        labels = torch.from_numpy(examples.labels[chosen]).to(where)
        gradients = [_gradient(member, images, labels) for member in movable]
        found: list[Cosine] = []
        for a, b in combinations(range(len(movable)), 2):
            values = _cosine(gradients[a], gradients[b]).tolist()
            found += [
                Cosine(example, a, b, value if value == value else None)
                for example, value in zip(chosen, values, strict=True)
            ]
        yield found


def _gradient(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient (n, pixels) of each example's cross-entropy, each scaled to a largest entry of one.

    With d = log of the sum of exp over the other logits - the true class's logit, the cross-entropy is log(1 + exp d):
    it rises with d, so the gradients of both have one direction. That of d does not vanish where the network is sure.
    """
    with frozen(classifier), torch.enable_grad():
        x = images.clone().requires_grad_()
        logits = classifier(x)
        true = F.one_hot(labels, logits.shape[1]).bool()
        difference = logits.masked_fill(true, -torch.inf).logsumexp(1) - logits[true]
        (gradient,) = torch.autograd.grad(difference.sum(), x)
    flat = gradient.flatten(1).double()
    return flat / flat.abs().amax(1, keepdim=True)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosines (n,) of rows; not a number where a row is (it was zero, or not finite)."""
    cosine: Tensor = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return cosine.clamp(-1, 1)
