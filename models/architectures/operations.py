"""The operations on a cell's edges, and the blocks around them, with the parameter names of the original code.

Source: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019. All convolutions are bias-free; all
BatchNorm layers keep torch's defaults (eps 1e-5, momentum 0.1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.errors import InvalidSpec


class Convolution(nn.Module):
    """A sequence under the name `op`, as published checkpoints have it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class Halve(nn.MaxPool2d):
    """2x2 max-pool that passes a map of side 1 through, so that 8x8 images survive many of them."""

    def __init__(self) -> None:
        super().__init__(kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return x if min(x.shape[2:]) < 2 else super().forward(x)


def relu_conv_bn(channels_in: int, channels_out: int, *, affine: bool = True) -> nn.Module:
    """ReLU, 1x1 convolution, BatchNorm: brings a cell's input to the cell's width."""
    return Convolution(
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        nn.BatchNorm2d(channels_out, affine=affine),
    )


def _separable(channels: int, kernel: int, stride: int, *, dilation: int = 1, affine: bool = True) -> list[nn.Module]:
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation=dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


def sep_conv(channels: int, kernel: int, stride: int, *, affine: bool = True) -> nn.Module:
    """Two separable convolutions, the first with the stride."""
    first, second = (_separable(channels, kernel, step, affine=affine) for step in (stride, 1))
    return Convolution(*first, *second)


def _dil_conv(channels: int, kernel: int, stride: int) -> nn.Module:
    return Convolution(*_separable(channels, kernel, stride, dilation=2))


class FactorizedReduce(nn.Module):
    """Halves height and width: two stride-2 1x1 convolutions, the second shifted by one pixel, concatenated.

    On a map of odd side (8x8 scans reach 1x1) the shifted half has one row and column fewer; it is padded with zeros at
    the far edge, which leaves even sides, and so every published network, exactly as they are.
    """

    def __init__(self, channels_in: int, channels_out: int, *, affine: bool = True) -> None:
        super().__init__()
        if channels_out % 2:
            raise InvalidSpec(
                f"a cell behind one that halves the map needs an even number of channels, not {channels_out}: choose "
                "init_channels and increment accordingly."
            )
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(channels_in, channels_out // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(channels_in, channels_out // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        shifted = nn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))[:, :, 1:, 1:]
        out: Tensor = self.bn(torch.cat([self.conv_1(x), self.conv_2(shifted)], dim=1))
        return out


class Zero(nn.Module):
    """The `none` operation: no signal, at the right size."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


class Noise(nn.Module):
    """The `noise` operation of the S4 search space: fresh standard normal noise of the input's size, whatever it holds.

    A cell that keeps such an edge is a randomised network, in evaluation too. Source: Zela et al., "Understanding and
    Robustifying Differentiable Architecture Search", ICLR 2020.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


class SqueezeExcitation(nn.Module):
    """Scales each channel by a number in (0, 1) made from all channels' means; bias-free, hidden width channels // 16.

    Source: Hu, Shen and Sun, CVPR 2018, as NSGA-Net puts it behind its cells.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.fc(x.mean((2, 3)))[:, :, None, None]
        return out


def _factorised(channels: int, kernel: int, stride: int) -> list[nn.Module]:
    """A kernel x kernel convolution as a row and a column."""
    pad = kernel // 2
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, kernel), stride=(1, stride), padding=(0, pad), bias=False),
        nn.Conv2d(channels, channels, (kernel, 1), stride=(stride, 1), padding=(pad, 0), bias=False),
        nn.BatchNorm2d(channels),
    ]


#: What an edge's name builds, given channels and stride.
OPERATIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": lambda c, s: Zero(s),
    "noise": lambda c, s: Noise(s),
    "max_pool_3x3": lambda c, s: nn.MaxPool2d(3, stride=s, padding=1),
    "avg_pool_3x3": lambda c, s: nn.AvgPool2d(3, stride=s, padding=1, count_include_pad=False),
    "skip_connect": lambda c, s: nn.Identity() if s == 1 else FactorizedReduce(c, c),
    "sep_conv_3x3": lambda c, s: sep_conv(c, 3, s),
    "sep_conv_5x5": lambda c, s: sep_conv(c, 5, s),
    "sep_conv_7x7": lambda c, s: sep_conv(c, 7, s),
    "dil_conv_3x3": lambda c, s: _dil_conv(c, 3, s),
    "dil_conv_5x5": lambda c, s: _dil_conv(c, 5, s),
    # Under `op` in the code it was published with (AutoDL-Projects), while DARTS's 7x1 has no such level.
    "conv_3x1_1x3": lambda c, s: Convolution(*_factorised(c, 3, s)),
    "conv_7x1_1x7": lambda c, s: nn.Sequential(*_factorised(c, 7, s)),
}
