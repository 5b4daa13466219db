"""Networks stacked from the two cells of a DARTS-format genotype: one implementation for every such paper.

Structure and parameter names follow the evaluation network of Liu et al. (ICLR 2019), which P-DARTS and PC-DARTS
share, so that released CIFAR checkpoints load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.architectures.genotypes import Cell, Genotype
from models.architectures.operations import OPERATIONS, FactorizedReduce, relu_conv_bn


class StackedCell(nn.Module):
    """One cell of the stack: two preprocessed inputs, summed edges, concatenated nodes."""

    def __init__(
        self, cell: Cell, channels: int, inputs: tuple[int, int], *, reduction: bool, after_reduction: bool
    ) -> None:
        super().__init__()
        before_last, last = inputs
        self.preprocess0: nn.Module = (
            FactorizedReduce(before_last, channels) if after_reduction else relu_conv_bn(before_last, channels)
        )
        self.preprocess1 = relu_conv_bn(last, channels)
        self._ops = nn.ModuleList(
            OPERATIONS[operation](channels, 2 if reduction and source < 2 else 1) for operation, source in cell.edges
        )
        self.cell = cell
        self.channels_out = channels * len(cell.concat)

    def forward(self, before_last: Tensor, last: Tensor, drop: DropPath | None = None) -> Tensor:
        nodes = [self.preprocess0(before_last), self.preprocess1(last)]
        for first in range(0, len(self.cell.edges), 2):
            total: Tensor | None = None
            for edge in (first, first + 1):
                operation = self._ops[edge]
                signal = operation(nodes[self.cell.edges[edge][1]])
                # An identity edge is never dropped: without it nothing may be left of the node.
                if drop is not None and not isinstance(operation, nn.Identity):
                    signal = drop(signal)
                total = signal if total is None else total + signal
            assert total is not None
            nodes.append(total)
        return torch.cat([nodes[n] for n in self.cell.concat], dim=1)


class DropPath:
    """Drops an edge's signal for whole examples with probability `p`, scaling what is kept by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        self.keep = 1.0 - p

    def __call__(self, x: Tensor) -> Tensor:
        mask = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(self.keep)
        return x * (mask / self.keep)


class AuxiliaryHead(nn.Module):
    """The auxiliary classifier for CIFAR, on the 8x8 map after two thirds of the cells; only used in training."""

    #: Side of the map that the head's fixed pooling and 2x2 convolution were made for.
    MAP_SIDE = 8

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=3, padding=0, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x).flatten(1))
        return out


class CellNetwork(nn.Module):
    """The CIFAR form: a 3x3 stem, `layers` cells with reductions at one and two thirds, average pooling, one linear
    layer.

    Input (N, in_channels, H, W), already normalised; output logits (N, num_classes). In training mode, with an
    auxiliary head, the output is (logits, auxiliary logits). Set `drop_path` (0 to 1) before a training epoch.
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
    ) -> None:
        super().__init__()
        self.drop_path = 0.0
        width = 3 * init_channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        reductions = {layers // 3, 2 * layers // 3}
        self.auxiliary_after = 2 * layers // 3
        channels = init_channels
        before_last, last = width, width
        after_reduction = False
        self.cells = nn.ModuleList()
        auxiliary_width = 0
        for position in range(layers):
            reduction = position in reductions
            if reduction:
                channels *= 2
            cell = StackedCell(
                genotype.reduce if reduction else genotype.normal,
                channels,
                (before_last, last),
                reduction=reduction,
                after_reduction=after_reduction,
            )
            self.cells.append(cell)
            after_reduction = reduction
            before_last, last = last, cell.channels_out
            if position == self.auxiliary_after:
                auxiliary_width = last
        self.auxiliary_head = AuxiliaryHead(auxiliary_width, num_classes) if auxiliary else None
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        drop = DropPath(self.drop_path) if self.training and self.drop_path > 0 else None
        before_last = last = self.stem(x)
        auxiliary_logits: Tensor | None = None
        for position, cell in enumerate(self.cells):
            before_last, last = last, cell(before_last, last, drop)
            if position == self.auxiliary_after and self.auxiliary_head is not None and self.training:
                auxiliary_logits = self.auxiliary_head(last)
        logits: Tensor = self.classifier(self.global_pooling(last).flatten(1))
        return logits if auxiliary_logits is None else (logits, auxiliary_logits)
