"""Wide ResNet as the robustness literature trains and publishes it: pre-activation blocks, three stages.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016. Parameter names are those of TRADES (Zhang et al., ICML
2019), in which most weights of RobustBench are published.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from models.errors import InvalidSpec


class PreActivationBlock(nn.Module):
    """BatchNorm, ReLU and 3x3 convolution, twice, and a shortcut.

    Where the channels change, the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False) if channels_in != channels else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        out: Tensor = shortcut + self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        return out


class Stage(nn.Module):
    """`depth` blocks in a row, the first with the stride; named so that its blocks are `layer.0`, `layer.1`, ..."""

    def __init__(self, depth: int, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(
                PreActivationBlock(channels_in if i == 0 else channels, channels, stride if i == 0 else 1)
                for i in range(depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """Input (N, in_channels, H, W), already normalised; output logits (N, num_classes).

    `depth` is 6n + 4. `sub_block1` registers a fourth stage that is never run: TRADES's own class has it, and with it
    many published files. Raises `InvalidSpec` for any other depth.
    """

    def __init__(
        self, *, depth: int, widen_factor: int, num_classes: int, in_channels: int = 3, sub_block1: bool = False
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            nearest = 6 * max(blocks, 1) + 4
            raise InvalidSpec(
                f"a Wide ResNet is 6n + 4 layers deep, not {depth}: for example depth={nearest} or depth={nearest + 6}."
            )
        first, second, third = (16 * widen_factor * 2**stage for stage in range(3))
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.block1 = Stage(blocks, 16, first, 1)
        if sub_block1:
            self.sub_block1 = Stage(blocks, 16, first, 1)
        self.block2 = Stage(blocks, first, second, 2)
        self.block3 = Stage(blocks, second, third, 2)
        self.bn1 = nn.BatchNorm2d(third)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(third, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        x = self.relu(self.bn1(x))
        # Published with 8x8 pooling: the whole map of a 32x32 image.
        out: Tensor = self.fc(functional.avg_pool2d(x, (x.shape[2], x.shape[3])).flatten(1))
        return out


def wide_resnet(
    *, depth: int, widen_factor: int, num_classes: int, in_channels: int, sub_block1: bool = False
) -> nn.Module:
    return WideResNet(
        depth=depth, widen_factor=widen_factor, num_classes=num_classes, in_channels=in_channels, sub_block1=sub_block1
    )
