"""Ensembles as one network: several networks on the same images, and a rule that makes one set of logits of theirs.

The tensors are called `members.0.…` and `combiner.…`, so that a member's own can be read out of an ensemble's file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.architectures import registry
from models.architectures.cells import CellNetwork
from models.classifier import Normalize, pick_logits
from models.ensembles.composition import Composition, compose
from models.errors import EvaluationError, InvalidSpec
from models.specs import Preprocessing

#: By how much the class that wins a vote stands above all others where the mean of the probabilities says otherwise:
#: well above what rounding or the count of borderline verdicts could mistake.
LIFT = 1e-2

_VOTED = (
    "majority vote: it has no gradient of its own, and attacks follow scores made of the mean of the members' "
    "probabilities, so this robust accuracy may be too high; square, which needs no gradient, is a check"
)


class Ensemble(nn.Module):
    """Members that each take the whole input to logits (N, num_classes), and a rule that combines them.

    Input (N, C, H, W), normalised by what stands before the ensemble. A member whose normalisation is its own has it
    in `normalizers`; what stands before is then the identity.

    With a learned combiner the members stay in evaluation mode whatever `train` says: they stand still while it is
    tuned.
    """

    def __init__(
        self, members: list[nn.Module], normals: list[Preprocessing | None], combine: str, num_classes: int, width: int
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.normalizers = nn.ModuleList(nn.Identity() if p is None else Normalize(p) for p in normals)
        self.combine = combine
        self.num_classes = num_classes
        self.combiner: nn.Module | None = None
        if combine == "learned":
            self.combiner = learned_combiner(len(members), num_classes, width)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What a reader of its robust accuracy should know."""
        return (_VOTED,) if self.combine == "majority" else ()

    def train(self, mode: bool = True) -> Ensemble:
        super().train(mode)
        if self.combiner is not None:
            self.members.eval()
        return self

    def logits_of_members(self, x: Tensor) -> Tensor:
        """The members' logits (M, N, num_classes), each from its own network."""
        outputs = [
            pick_logits(member(normalize(x)), x.shape[0], self.num_classes)
            for member, normalize in zip(self.members, self.normalizers, strict=True)
        ]
        return torch.stack(outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.logits_of_members(x)
        if self.combiner is not None:
            combined: Tensor = self.combiner(logits.transpose(0, 1).flatten(1))
            return combined
        return COMBINATIONS[self.combine](logits)


def mean_logits(logits: Tensor) -> Tensor:
    """(M, N, K) to (N, K)."""
    return logits.mean(0)


def mean_probabilities(logits: Tensor) -> Tensor:
    """The logarithm of the mean of the probabilities, (M, N, K) to (N, K): the cross-entropy of it is the negative
    log-likelihood of the mixture, and nothing underflows.
    """
    return F.log_softmax(logits, 2).logsumexp(0) - math.log(len(logits))


def log_mean(logits: Tensor) -> Tensor:
    """The mean of the log-probabilities, (M, N, K) to (N, K).

    Another normalisation of each member's logits than `mean_logits`; softmax, predictions and gradients of the
    cross-entropy are those of `mean_logits`.
    """
    return F.log_softmax(logits, 2).mean(0)


def majority(logits: Tensor) -> Tensor:
    """Scores (N, K) whose largest is the class with the most votes of (M, N, K). The gradient of each score is that of
    `mean_probabilities`.

    Between equal counts the mean of the probabilities decides. Where the vote and the mean agree the scores are those
    of the mean, and so is the gradient of any loss. Where they do not, the winner of the vote is lifted just above all
    others: no score's own gradient changes, but a loss, such as the cross-entropy, weighs them at the lifted scores.
    """
    scores = mean_probabilities(logits)
    votes = F.one_hot(logits.argmax(2), logits.shape[2]).sum(0)
    most = votes == votes.amax(1, keepdim=True)
    winner = scores.masked_fill(~most, -math.inf).argmax(1, keepdim=True)
    plain = scores.detach()
    rest = plain.scatter(1, winner, -math.inf).amax(1, keepdim=True)
    short = (rest + LIFT - plain.gather(1, winner)).clamp_min(0)
    agrees = plain.argmax(1, keepdim=True) == winner
    return scores + torch.zeros_like(plain).scatter(1, winner, short.masked_fill(agrees, 0))


COMBINATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean-logits": mean_logits,
    "mean-probs": mean_probabilities,
    "log-mean": log_mean,
    "majority": majority,
}


def learned_combiner(members: int, num_classes: int, width: int) -> nn.Module:
    """Two linear layers with BatchNorm and a classifier, over the members' logits side by side (N, M x K)."""
    return nn.Sequential(
        nn.Linear(members * num_classes, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, num_classes),
    )


class JointEnsemble(nn.Module):
    """Cell networks whose last feature maps are joined before one linear classifier; all parts are trained together.

    `features-mean` takes the mean of the maps, `features-concat` a 1x1 convolution of the maps side by side. The
    members start from different initialisations in turn: Kaiming normal, Xavier normal, Kaiming uniform
    (the public code of arXiv:2007.08428). Their own classifiers are left out.
    """

    def __init__(self, members: list[CellNetwork], combine: str, num_classes: int) -> None:
        super().__init__()
        widths = {member.classifier.in_features for member in members}
        if len(widths) > 1:
            raise InvalidSpec(
                f"{combine} joins the last feature maps, so all members need maps of one shape; they have "
                f"{', '.join(map(str, sorted(widths)))} channels."
            )
        (channels,) = widths
        for position, member in enumerate(members):
            _initialise(member, position)
            member.classifier = cast(Any, nn.Identity())
        self.members = nn.ModuleList(members)
        self.combine = combine
        self.mixer = (
            nn.Conv2d(len(members) * channels, channels, 1, bias=False) if combine == "features-concat" else None
        )
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        maps = [cast(CellNetwork, member).last_map(x)[0] for member in self.members]
        if any(each.shape != maps[0].shape for each in maps):
            shapes = ", ".join(f"{tuple(each.shape[1:])}" for each in maps)
            raise EvaluationError(f"{self.combine} needs members whose last feature maps have one shape, not {shapes}.")
        joined = torch.stack(maps).mean(0) if self.mixer is None else self.mixer(torch.cat(maps, 1))
        logits: Tensor = self.classifier(self.global_pooling(joined).flatten(1))
        return logits


_INITIALISERS: tuple[Callable[[Tensor], object], ...] = (
    lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    nn.init.xavier_normal_,
    lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
)


def _initialise(member: nn.Module, position: int) -> None:
    """Draw the weights of a member's convolutions anew; the position says how."""
    for module in member.modules():
        if isinstance(module, nn.Conv2d):
            _INITIALISERS[position % len(_INITIALISERS)](module.weight)


def ensemble_network(
    *,
    definition: dict[str, Any],
    num_classes: int,
    in_channels: int,
    **options: Any,
) -> nn.Module:
    """The registry's builder: a freshly initialised ensemble of a definition's data under its options."""
    return build(compose(definition, options), num_classes=num_classes, in_channels=in_channels)


def build(composition: Composition, *, num_classes: int, in_channels: int) -> nn.Module:
    """A freshly initialised ensemble, taking normalised images (N, in_channels, H, W) to logits (N, num_classes)."""
    networks = [
        registry.build(member.spec, num_classes=num_classes, in_channels=in_channels) for member in composition.members
    ]
    if composition.joint:
        _check_joint(composition, networks)
        return JointEnsemble(cast(list[CellNetwork], networks), composition.combine, num_classes)
    normals = [member.preprocessing for member in composition.members]
    for member in composition.members:
        if member.preprocessing is not None and len(member.preprocessing.mean) != in_channels:
            raise InvalidSpec(
                f"the member {member.architecture} normalises {len(member.preprocessing.mean)} channels and the images "
                f"have {in_channels}."
            )
    return Ensemble(networks, normals, composition.combine, num_classes, composition.width)


def _check_joint(composition: Composition, networks: list[nn.Module]) -> None:
    for member, network in zip(composition.members, networks, strict=True):
        if not isinstance(network, CellNetwork):
            raise InvalidSpec(
                f"{composition.combine} joins the last feature maps of cell networks (DARTS space), and "
                f"{member.architecture} is none: use learned, mean-logits or another rule."
            )
        if member.preprocessing is not None:
            raise InvalidSpec(f"{composition.combine} trains all members together, on images normalised alike.")
