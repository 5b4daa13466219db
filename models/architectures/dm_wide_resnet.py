"""Wide ResNet as DeepMind's robustness models have it: Swish, and maps that are halved without padding at the front.

Gowal et al., "Uncovering the Limits of Adversarial Training against Norm-Bounded Adversarial Examples", 2020
(arXiv:2010.03593). Parameter names are those of their PyTorch code, in which Rebuffi et al. (2021), Wang et al. (2023)
and Bartoldson et al. (2024) publish weights too. That code normalises inside the network; here, as everywhere, it is
the layer before it, and the `mean` and `std` that some files have are that layer's.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from models.errors import InvalidSpec

_ACTIVATIONS: dict[str, type[nn.Module]] = {"swish": nn.SiLU, "relu": nn.ReLU}


class Block(nn.Module):
    """BatchNorm, activation and 3x3 convolution, twice, and a shortcut.

    Where the channels change, the shortcut is a 1x1 convolution of the activated input. Padding is TensorFlow's `SAME`:
    with stride 2 a map of even side has it at the far edges alone, one of odd side all around.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(channels_in)
        self.relu_0 = activation()
        self.conv_0 = nn.Conv2d(channels_in, channels, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(channels)
        self.relu_1 = activation()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False) if channels_in != channels else None
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu_0(self.batchnorm_0(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        top, left = (1 if self.stride == 1 else side % 2 for side in x.shape[2:])
        inner = self.conv_0(functional.pad(activated, (left, 1, top, 1)))
        out: Tensor = shortcut + self.conv_1(self.relu_1(self.batchnorm_1(inner)))
        return out


class Stage(nn.Module):
    """Blocks in a row, the first with the stride; they are named `block.0`, `block.1`, ..."""

    def __init__(self, blocks: int, channels_in: int, channels: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        first = Block(channels_in, channels, stride, activation)
        self.block = nn.Sequential(first, *(Block(channels, channels, 1, activation) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class DMWideResNet(nn.Module):
    """Input (N, in_channels, H, W), already normalised; output logits (N, num_classes).

    `depth` is 6n + 4, `activation` is swish or relu. Raises `InvalidSpec` for any other depth.
    """

    def __init__(
        self, *, depth: int, widen_factor: int, activation: str, num_classes: int, in_channels: int = 3
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            nearest = 6 * max(blocks, 1) + 4
            raise InvalidSpec(
                f"a Wide ResNet is 6n + 4 layers deep, not {depth}: for example depth={nearest} or depth={nearest + 6}."
            )
        kind = _ACTIVATIONS[activation]
        first, second, third = (16 * widen_factor * 2**stage for stage in range(3))
        self.init_conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer = nn.Sequential(
            Stage(blocks, 16, first, 1, kind),
            Stage(blocks, first, second, 2, kind),
            Stage(blocks, second, third, 2, kind),
        )
        self.batchnorm = nn.BatchNorm2d(third)
        self.relu = kind()
        self.logits = nn.Linear(third, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.batchnorm(self.layer(self.init_conv(x))))
        # Published with 8x8 pooling: the whole map of a 32x32 image.
        out: Tensor = self.logits(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


def dm_wide_resnet(*, depth: int, widen_factor: int, activation: str, num_classes: int, in_channels: int) -> nn.Module:
    """The registry's builder."""
    return DMWideResNet(
        depth=depth, widen_factor=widen_factor, activation=activation, num_classes=num_classes, in_channels=in_channels
    )
