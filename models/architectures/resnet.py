"""ResNet in the CIFAR form whose released weights the study used: a 3x3 stride-1 stem, the 3x3/2 max-pool kept.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. Parameter names are torchvision's, which the
public CIFAR checkpoints share. `width` scales all stages; 64 is the published size.
"""

from __future__ import annotations

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    #: Channels of the output, as a multiple of `channels`.
    EXPANSION = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = projection(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(residual + shortcut)
        return out


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution to four times the channels, and a shortcut.

    The 3x3 carries the stride, as in torchvision, not the first 1x1 as in the paper.
    """

    EXPANSION = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        channels_out = channels * self.EXPANSION
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        out: Tensor = self.relu(residual + shortcut)
        return out


def projection(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """The 1x1 convolution of a shortcut whose two ends differ in shape; None where they do not."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


class ResNet(nn.Module):
    """Input (N, in_channels, H, W), already normalised; output logits (N, num_classes).

    `blocks` lists the number of blocks a stage. `imagenet_stem` is the 7x7 stride-2 convolution of the paper.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        *,
        width: int,
        num_classes: int,
        in_channels: int = 3,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        imagenet_stem: bool = False,
    ) -> None:
        super().__init__()
        kernel, stride, padding = (7, 2, 3) if imagenet_stem else (3, 1, 1)
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        for stage, depth in enumerate(blocks):
            inner = width * 2**stage
            out = inner * block.EXPANSION
            layers = [block(channels if i == 0 else out, inner, 2 if stage > 0 and i == 0 else 1) for i in range(depth)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            channels = out
        self.stages = len(blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        out: Tensor = self.fc(self.avgpool(x).flatten(1))
        return out


#: Kind of block and number of blocks in each stage, by the number of layers with weights.
STAGES: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


def resnet(*, layers: int, width: int, num_classes: int, in_channels: int, imagenet_stem: bool = False) -> ResNet:
    """A ResNet of 18, 34 or 50 layers."""
    block, blocks = STAGES[layers]
    return ResNet(
        blocks,
        block=block,
        width=width,
        num_classes=num_classes,
        in_channels=in_channels,
        imagenet_stem=imagenet_stem,
    )
