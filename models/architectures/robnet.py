"""RobNets: cells in which every node takes everything before it, searched for adversarial robustness.

Guo et al., "When NAS Meets Robustness: In Search of Robust Architectures against Adversarial Attacks", CVPR 2020.
The skeleton is that of DARTS. Inside the cells no BatchNorm has a weight or bias; those of the stem do. Parameter names
and their order are those of the released checkpoints (gmh14/RobNets).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.architectures import robnet_space
from models.architectures.operations import FactorizedReduce, Zero, relu_conv_bn, sep_conv
from models.errors import InvalidSpec


def skip(channels: int, stride: int) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine=False)


class ResidualSepConv(nn.Module):
    """A separable convolution with the input added."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = sep_conv(channels, 3, stride, affine=False)
        self.res = skip(channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x) + self.res(x)
        return out


class Edge(nn.Module):
    """One edge, from its code."""

    def __init__(self, code: str, channels: int, stride: int) -> None:
        super().__init__()
        self.op: nn.Module
        match code:
            case "00":
                self.op = Zero(stride)
            case "01":
                self.op = sep_conv(channels, 3, stride, affine=False)
            case "10":
                self.op = skip(channels, stride)
            case _:
                self.op = ResidualSepConv(channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class DenseCell(nn.Module):
    """Two preprocessed inputs, four nodes that each sum an edge from all before them, the nodes concatenated."""

    def __init__(
        self,
        codes: robnet_space.Cell,
        channels: int,
        inputs: tuple[int, int],
        *,
        reduction: bool,
        after_reduction: bool,
    ) -> None:
        super().__init__()
        before_last, last = inputs
        self.preprocess0: nn.Module = (
            FactorizedReduce(before_last, channels, affine=False)
            if after_reduction
            else relu_conv_bn(before_last, channels, affine=False)
        )
        self.preprocess1 = relu_conv_bn(last, channels, affine=False)
        sources = [source for node in range(robnet_space.NODES) for source in range(2 + node)]
        self._ops = nn.ModuleList(
            Edge(code, channels, 2 if reduction and source < 2 else 1)
            for code, source in zip(codes, sources, strict=True)
        )

    def forward(self, before_last: Tensor, last: Tensor) -> Tensor:
        nodes = [self.preprocess0(before_last), self.preprocess1(last)]
        edges = iter(self._ops)
        for _ in range(robnet_space.NODES):
            total: Tensor = next(edges)(nodes[0])
            for node in nodes[1:]:
                total = total + next(edges)(node)
            nodes.append(total)
        return torch.cat(nodes[2:], dim=1)


class RobNet(nn.Module):
    """One cell a layer, with reductions at one and two thirds, average pooling, one linear layer.

    Input (N, in_channels, H, W), already normalised; output logits (N, num_classes). The `imagenet` form has a stem
    that reduces the map to an eighth; the original pools 7x7 at its end, at 224 the whole map, as here at any size.
    """

    def __init__(
        self,
        cells: tuple[robnet_space.Cell, ...],
        *,
        init_channels: int,
        imagenet: bool,
        num_classes: int,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.imagenet = imagenet
        if imagenet:
            half, width = init_channels // 2, init_channels
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
            width = 3 * init_channels
            self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        layers = len(cells)
        reductions = {layers // 3, 2 * layers // 3}
        channels = init_channels
        before_last, last = width, width
        # The second stem halves the map that the first cell takes from the first stem.
        after_reduction = imagenet
        self.cells = nn.ModuleList()
        for position, codes in enumerate(cells):
            reduction = position in reductions
            if reduction:
                channels *= 2
            self.cells.append(
                DenseCell(codes, channels, (before_last, last), reduction=reduction, after_reduction=after_reduction)
            )
            after_reduction = reduction
            before_last, last = last, robnet_space.NODES * channels
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.imagenet:
            before_last = self.stem0(x)
            last = self.stem1(before_last)
        else:
            before_last = last = self.stem(x)
        for cell in self.cells:
            before_last, last = last, cell(before_last, last)
        logits: Tensor = self.classifier(self.global_pooling(last).flatten(1))
        return logits


def robnet(
    *,
    init_channels: int,
    layers: int,
    form: str,
    definition: Mapping[str, Any],
    num_classes: int,
    in_channels: int,
) -> nn.Module:
    """Builder. `definition` has the `codes`: one cell for all layers, or one a layer (the first `layers` are used).

    Raises `InvalidSpec` for codes that are none, too few of them, or an odd width in the ImageNet form.
    """
    if "codes" not in definition:
        raise InvalidSpec("a RobNet definition needs 'codes', a list of cells of 14 codes each.")
    if form == "imagenet" and init_channels % 2:
        raise InvalidSpec(f"the ImageNet form of RobNet needs an even number of init_channels, not {init_channels}.")
    return RobNet(
        robnet_space.layer_cells(robnet_space.parse(definition["codes"]), layers),
        init_channels=init_channels,
        imagenet=form == "imagenet",
        num_classes=num_classes,
        in_channels=in_channels,
    )
