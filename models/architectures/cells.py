"""Networks stacked from the two cells of a DARTS-format genotype: one implementation for every such paper.

Structure and parameter names follow the evaluation networks of Liu et al. (ICLR 2019), which P-DARTS, PC-DARTS,
NSGA-Net's micro space and most later work share, so that released checkpoints load as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.architectures.genotypes import Cell, Genotype
from models.architectures.operations import OPERATIONS, FactorizedReduce, SqueezeExcitation, relu_conv_bn
from models.errors import InvalidSpec


class StackedCell(nn.Module):
    """One cell of the stack: two preprocessed inputs, summed edges, concatenated nodes."""

    def __init__(
        self,
        cell: Cell,
        channels: int,
        inputs: tuple[int, int],
        *,
        reduction: bool,
        after_reduction: bool,
        squeeze_excitation: bool = False,
    ) -> None:
        super().__init__()
        before_last, last = inputs
        self.preprocess0: nn.Module = (
            FactorizedReduce(before_last, channels) if after_reduction else relu_conv_bn(before_last, channels)
        )
        self.preprocess1 = relu_conv_bn(last, channels)
        operations = [
            OPERATIONS[operation](channels, 2 if reduction and source < 2 else 1) for operation, source in cell.edges
        ]
        self.by_node = cell.targets is not None
        self._ops: Any = _nested(cell, operations) if self.by_node else nn.ModuleList(operations)
        self.cell = cell
        self.channels_out = channels * len(cell.outputs)
        if squeeze_excitation:
            self.se_layer = SqueezeExcitation(self.channels_out)
        self.squeeze_excitation = squeeze_excitation

    def forward(self, before_last: Tensor, last: Tensor, drop: DropPath | None = None) -> Tensor:
        nodes = {0: self.preprocess0(before_last), 1: self.preprocess1(last)}
        for node in self.cell.order:
            total: Tensor | None = None
            for operation, source in self._edges_into(node):
                if source not in nodes:
                    continue  # it comes from a node that does not exist
                signal = operation(nodes[source])
                # An identity edge is never dropped: without it nothing may be left of the node.
                if drop is not None and not self.by_node and not isinstance(operation, nn.Identity):
                    signal = drop(signal)
                total = signal if total is None else total + signal
            if total is not None:
                # FairDARTS drops a node's sum, not its edges.
                nodes[node] = drop(total) if drop is not None and self.by_node else total
        out = torch.cat([nodes[n] for n in self.cell.outputs], dim=1)
        return self.se_layer(out) if self.squeeze_excitation else out

    def _edges_into(self, node: int) -> list[tuple[nn.Module, int]]:
        if not self.by_node:
            first = 2 * (node - 2)
            return [(self._ops[edge], self.cell.edges[edge][1]) for edge in (first, first + 1)]
        return [(operation, int(source)) for source, edge in self._ops[str(node)].items() for operation in edge]


def _nested(cell: Cell, operations: list[nn.Module]) -> nn.ModuleDict:
    """Operations by node, input and position, as checkpoints of FairDARTS name them: `_ops.2.0.0`."""
    nodes: dict[str, dict[str, list[nn.Module]]] = {}
    for operation, (_, source, node) in zip(operations, cell.connections, strict=True):
        nodes.setdefault(str(node), {}).setdefault(str(source), []).append(operation)
    return nn.ModuleDict(
        {
            node: nn.ModuleDict({source: nn.ModuleList(edge) for source, edge in sources.items()})
            for node, sources in nodes.items()
        }
    )


class DropPath:
    """Drops an edge's signal for whole examples with probability `p`, scaling what is kept by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        self.keep = 1.0 - p

    def __call__(self, x: Tensor) -> Tensor:
        mask = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(self.keep)
        return x * (mask / self.keep)


class AuxiliaryHead(nn.Module):
    """The auxiliary classifier after two thirds of the cells; only used in training.

    It is made for maps of one size: 8x8 in the CIFAR form, 7x7 in the ImageNet form, whose pooling has stride 2 and
    whose second BatchNorm most authors omit (P-DARTS does not).
    """

    def __init__(self, channels: int, num_classes: int, *, stride: int = 3, second_batchnorm: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.ReLU(),
            nn.AvgPool2d(5, stride=stride, padding=0, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
        ]
        if second_batchnorm:
            layers.append(nn.BatchNorm2d(768))
        self.features = nn.Sequential(*layers, nn.ReLU())
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x).flatten(1))
        return out


class CellNetwork(nn.Module):
    """A stem, `layers` cells with reductions at one and two thirds, average pooling, one linear layer.

    Input (N, in_channels, H, W), already normalised; output logits (N, num_classes). In training mode, with an
    auxiliary head, the output is (logits, auxiliary logits). `drop_path` is the probability of dropping an edge in
    training.

    `form` is `cifar` (a 3x3 stem of three times `init_channels`, any image size) or `imagenet` (a stem that divides
    the side by 8, and pooling over 7x7: images of side 193 to 447, 224 as published). With `increment` the width grows
    by so many channels after every cell and does not double at reductions (the pyramid of NSGA-Net).
    """

    def __init__(
        self,
        genotype: Genotype,
        *,
        init_channels: int,
        layers: int,
        num_classes: int,
        in_channels: int = 3,
        auxiliary: bool = False,
        form: str = "cifar",
        increment: int = 0,
        squeeze_excitation: bool = False,
        auxiliary_batchnorm: bool = False,
    ) -> None:
        super().__init__()
        self.drop_path = 0.0
        self.form = form
        imagenet = form == "imagenet"
        width = init_channels if imagenet else 3 * init_channels
        if imagenet:
            half = width // 2
            self.stem0 = nn.Sequential(
                nn.Conv2d(in_channels, half, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(),
                nn.Conv2d(half, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
            )
            self.stem1 = nn.Sequential(
                nn.ReLU(), nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width)
            )
        else:
            self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        reductions = {layers // 3, 2 * layers // 3}
        self.auxiliary_after = 2 * layers // 3
        channels = init_channels
        before_last, last = width, width
        after_reduction = imagenet
        self.cells = nn.ModuleList()
        auxiliary_width = 0
        for position in range(layers):
            reduction = position in reductions
            if reduction and not increment:
                channels *= 2
            cell = StackedCell(
                genotype.reduce if reduction else genotype.normal,
                channels,
                (before_last, last),
                reduction=reduction,
                after_reduction=after_reduction,
                squeeze_excitation=squeeze_excitation,
            )
            self.cells.append(cell)
            after_reduction = reduction
            before_last, last = last, cell.channels_out
            if position == self.auxiliary_after:
                auxiliary_width = last
            channels += increment
        self.auxiliary_head: AuxiliaryHead | None = None
        if auxiliary:
            self.auxiliary_head = (
                AuxiliaryHead(auxiliary_width, num_classes, stride=2, second_batchnorm=auxiliary_batchnorm)
                if imagenet
                else AuxiliaryHead(auxiliary_width, num_classes)
            )
        self.global_pooling: nn.Module = nn.AvgPool2d(7) if imagenet else nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, num_classes)

    def check_auxiliary(self, image_shape: tuple[int, ...]) -> None:
        """Raises `InvalidSpec` when images (C, H, W) give the auxiliary head a map that it was not made for."""
        side, made_for = (224, 7) if self.form == "imagenet" else (32, 8)
        if [_halved(n, 5 if self.form == "imagenet" else 2) for n in image_shape[1:]] != [made_for, made_for]:
            raise InvalidSpec(
                f"the auxiliary head needs images of side {side}, these have {image_shape[1]}: "
                "use --set-recipe auxiliary_weight=0."
            )

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        last, auxiliary_logits = self.last_map(x)
        logits: Tensor = self.classifier(self.global_pooling(last).flatten(1))
        return logits if auxiliary_logits is None else (logits, auxiliary_logits)

    def last_map(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The output of the last cell, (N, channels, H', W'), and in training the auxiliary head's logits, if any."""
        drop = DropPath(self.drop_path) if self.training and self.drop_path > 0 else None
        if self.form == "imagenet":
            if not all(7 <= _halved(n, 5) < 14 for n in x.shape[2:]):
                raise ValueError(
                    f"the ImageNet form takes images of side 193 to 447, not {x.shape[2]}x{x.shape[3]}; "
                    "use --input-size 224, or the CIFAR form (--set form=cifar)"
                )
            before_last = self.stem0(x)
            last = self.stem1(before_last)
        else:
            before_last = last = self.stem(x)
        auxiliary_logits: Tensor | None = None
        for position, cell in enumerate(self.cells):
            before_last, last = last, cell(before_last, last, drop)
            if position == self.auxiliary_after and self.auxiliary_head is not None and self.training:
                auxiliary_logits = self.auxiliary_head(last)
        return last, auxiliary_logits


def _halved(side: int, times: int) -> int:
    """The side of a map after so many layers of stride 2."""
    for _ in range(times):
        side = -(-side // 2)
    return side


def cell_network(*, definition: dict[str, Any], auxiliary_head: str, **options: Any) -> nn.Module:
    """The registry's builder: a genotype as a dictionary, whose auxiliary head it is, and `CellNetwork`'s options."""
    return CellNetwork(Genotype.from_dict(definition), auxiliary_batchnorm=auxiliary_head == "pdarts", **options)
