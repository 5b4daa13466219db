"""What mobile networks share: convolution, BatchNorm and ReLU6 in a row, one BatchNorm setting, He fan-out weights."""

from __future__ import annotations

import math

from torch import nn


def convolution(
    channels_in: int, channels: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, activation: bool = True
) -> dict[str, nn.Module]:
    """Convolution (no bias, padded to keep the size at stride 1), BatchNorm and, with `activation`, ReLU6, by name."""
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        "bn": nn.BatchNorm2d(channels),
    }
    return layers | {"relu": nn.ReLU6(inplace=True)} if activation else layers


def set_batch_norm(network: nn.Module, *, eps: float, momentum: float) -> None:
    """Give every BatchNorm of the network the same constants. Eps is part of the function that a checkpoint means."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = eps, momentum


def initialise(network: nn.Module) -> None:
    """Convolutions from a normal distribution with He's variance over the fan-out of one group; linear biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            kernel_height, kernel_width = module.kernel_size
            fan_out = kernel_height * kernel_width * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
