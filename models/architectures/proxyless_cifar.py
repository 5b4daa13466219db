"""ProxylessNAS's networks for CIFAR: residual blocks around trees of operations, from a definition of
`proxyless_space`.

Cai, Zhu and Han, "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware", ICLR 2019. Parameter
names and their order are those of mit-han-lab/proxylessnas, proxyless_nas/cifar_modules.py, so that its checkpoint
loads. Every layer runs BatchNorm, activation, weights in this order.

The original ends in an 8x8 pool and so takes 32x32 images only. Here it is a global pool, and a shortcut that halves an
odd side rounds up as the convolution beside it does, so that any size runs; at 32x32 nothing changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional

from models.architectures import proxyless_space
from models.architectures.proxyless_space import TREE_EXPANSION, Operation, TreeBlock


def _layer(
    channels_in: int,
    channels: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    separable: bool = False,
    activation: bool = True,
) -> nn.Sequential:
    """BatchNorm, ReLU, convolution; a grouped one ends by mixing its groups' channels."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(bn=nn.BatchNorm2d(channels_in))
    if activation:
        layers["activation"] = nn.ReLU(inplace=True)
    padding = kernel // 2 * dilation
    if separable:
        layers["depth_conv"] = nn.Conv2d(
            channels_in, channels_in, kernel, stride, padding, dilation, groups=channels_in, bias=False
        )
        layers["point_conv"] = nn.Conv2d(channels_in, channels, 1, bias=False)
    else:
        layers["conv"] = nn.Conv2d(channels_in, channels, kernel, stride, padding, dilation, groups, bias=False)
    if groups > 1:
        layers["shuffle"] = nn.ChannelShuffle(groups)
    return nn.Sequential(layers)


def _edge(operation: Operation, channels: int) -> nn.Module:
    match operation.kind:
        case "identity":
            return nn.Identity()
        case "avg":
            return nn.AvgPool2d(operation.kernel, 1, operation.kernel // 2, count_include_pad=False)
        case "max":
            return nn.MaxPool2d(operation.kernel, 1, operation.kernel // 2)
    return _layer(
        channels, channels, operation.kernel, dilation=operation.dilation, separable=operation.kind == "dwsep"
    )


class Node(nn.Module):
    """Sends its input along every edge, each edge's output through the child node behind it, and adds what comes."""

    def __init__(self, edges: Iterable[nn.Module], children: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.edges = nn.ModuleList(edges)
        self.child_nodes = nn.ModuleList(children)

    def forward(self, x: Tensor) -> Tensor:
        found = [edge(x) for edge in self.edges]
        for position, child in enumerate(self.child_nodes):
            found[position] = child(found[position])
        out: Tensor = found[0]
        for other in found[1:]:
            out = out + other
        return out


class Split(nn.Module):
    """Gives each branch its share of the channels; a branch adds to its input and has a BatchNorm of its own."""

    def __init__(self, branches: Iterable[nn.Module], channels: int) -> None:
        super().__init__()
        self.child_nodes = nn.ModuleList(branches)
        self.branch_bns = nn.ModuleList(nn.BatchNorm2d(channels) for _ in self.child_nodes)

    def forward(self, x: Tensor) -> Tensor:
        shares = x.chunk(len(self.child_nodes), dim=1)
        first, second = (
            norm(child(share)) + share
            for share, child, norm in zip(shares, self.child_nodes, self.branch_bns, strict=True)
        )
        out: Tensor = first + second
        return out


class Block(nn.Module):
    """A tree of operations between two 1x1 convolutions, and a shortcut padded with channels of zeros."""

    def __init__(self, block: TreeBlock, channels_in: int) -> None:
        super().__init__()
        channels = block.channels
        self.in_bottle = _layer(channels_in, channels, activation=False)
        self.out_bottle = _layer(channels, TREE_EXPANSION * channels)
        self.shortcut = nn.AvgPool2d(2, ceil_mode=True) if block.halves else nn.Identity()
        branches = [
            Node(
                [_edge(edge, channels) for edge in branch.edges],
                [Node(_edge(leaf, channels) for leaf in leaves) for leaves in branch.leaves],
            )
            for branch in block.branches
        ]
        root = _layer(channels, 2 * channels, 3, stride=2 if block.halves else 1, groups=2)
        self.cell = Node([root], [Split(branches, channels)])
        self.final_bn = nn.BatchNorm2d(TREE_EXPANSION * channels)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.final_bn(self.out_bottle(self.cell(self.in_bottle(x))))
        shortcut: Tensor = self.shortcut(x)
        if missing := residual.shape[1] - shortcut.shape[1]:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, missing))
        return residual + shortcut


class TreeNetwork(nn.Module):
    """Input (N, in_channels, H, W), already normalised; output logits (N, num_classes)."""

    def __init__(self, network: proxyless_space.TreeNetwork, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        channels = network.stem
        stem = nn.Sequential(OrderedDict(conv=nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)))
        blocks: list[nn.Module] = [
            _transition(stem, nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(channels)))),
        ]
        for block in network.blocks:
            blocks.append(Block(block, channels))
            channels = TREE_EXPANSION * block.channels
        tail = OrderedDict[str, nn.Module](
            bn=nn.BatchNorm2d(channels), activation=nn.ReLU(inplace=True), pool=nn.AdaptiveAvgPool2d(1)
        )
        blocks.append(_transition(nn.Sequential(tail)))
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(OrderedDict(linear=nn.Linear(channels, num_classes)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.blocks(x).flatten(1))
        return out


def _transition(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers=nn.Sequential(*layers)))
