"""ProxylessNAS's networks for ImageNet: inverted residual blocks in a row, from a definition of `proxyless_space`.

Cai, Zhu and Han, "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware", ICLR 2019. Parameter
names and their order are those of mit-han-lab/proxylessnas, proxyless_nas/nas_modules.py, so that its checkpoints
load. Any image size runs; they were searched at 224x224.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from models.architectures import proxyless_space
from models.architectures.mobile import convolution, initialise, set_batch_norm
from models.architectures.proxyless_cifar import TreeNetwork
from models.architectures.proxyless_space import MobileBlock


def proxyless(*, definition: Mapping[str, Any], num_classes: int, in_channels: int) -> nn.Module:
    """Build a mobile or a tree network; raises `InvalidSpec` when the definition describes neither."""
    network = proxyless_space.read(definition)
    if isinstance(network, proxyless_space.TreeNetwork):
        return TreeNetwork(network, num_classes=num_classes, in_channels=in_channels)
    return MobileNetwork(network, num_classes=num_classes, in_channels=in_channels)


class ConvolutionUnit(nn.Module):
    """Convolution, BatchNorm, ReLU6. The state dict has BatchNorm first, like the original's."""

    def __init__(self, channels_in: int, channels: int, kernel: int = 1, *, stride: int = 1) -> None:
        super().__init__()
        layers = convolution(channels_in, channels, kernel, stride=stride)
        self.bn, self.conv, self.relu = layers["bn"], layers["conv"], layers["relu"]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


class InvertedBottleneck(nn.Module):
    """Widen, filter each channel, narrow."""

    def __init__(self, block: MobileBlock) -> None:
        super().__init__()
        hidden = block.expansion * block.channels_in
        self.inverted_bottleneck = (
            nn.Sequential(OrderedDict(convolution(block.channels_in, hidden))) if block.expansion > 1 else None
        )
        self.depth_conv = nn.Sequential(
            OrderedDict(convolution(hidden, hidden, block.kernel, stride=block.stride, groups=hidden))
        )
        self.point_linear = nn.Sequential(OrderedDict(convolution(hidden, block.channels, activation=False)))

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.inverted_bottleneck is None else self.inverted_bottleneck(x)
        out: Tensor = self.point_linear(self.depth_conv(hidden))
        return out


class Block(nn.Module):
    """An inverted bottleneck, and its input added where there is a shortcut; a zero block passes its input on."""

    def __init__(self, block: MobileBlock | None) -> None:
        super().__init__()
        self.mobile_inverted_conv = nn.Identity() if block is None else InvertedBottleneck(block)
        self.shortcut = block is not None and block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mobile_inverted_conv(x)
        return out + x if self.shortcut else out


class MobileNetwork(nn.Module):
    """Input (N, in_channels, H, W), already normalised; output logits (N, num_classes)."""

    def __init__(self, network: proxyless_space.MobileNetwork, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.first_conv = ConvolutionUnit(in_channels, network.stem, 3, stride=2)
        self.blocks = nn.Sequential(*(Block(block) for block in network.blocks))
        self.feature_mix_layer = (
            ConvolutionUnit(network.channels, network.feature_mix) if network.feature_mix else nn.Identity()
        )
        self.global_avg_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            OrderedDict(linear=nn.Linear(network.feature_mix or network.channels, num_classes))
        )
        initialise(self)
        set_batch_norm(self, eps=network.eps, momentum=network.momentum)

    def forward(self, x: Tensor) -> Tensor:
        x = self.feature_mix_layer(self.blocks(self.first_conv(x)))
        out: Tensor = self.classifier(self.global_avg_pooling(x).flatten(1))
        return out
