"""DenseNet-BC in the CIFAR form whose released weights the study used: a 3x3 stride-1 stem, the 3x3/2 max-pool kept.

Huang et al., "Densely Connected Convolutional Networks", CVPR 2017. The network is torchvision's with another stem.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import DenseNet

#: Layers of the four dense blocks, by the number of layers with weights.
BLOCKS: dict[int, tuple[int, int, int, int]] = {
    121: (6, 12, 24, 16),
    161: (6, 12, 36, 24),
    169: (6, 12, 32, 32),
}


class HalveAverage(nn.AvgPool2d):
    """2x2 average pool that passes a map of side 1 through, so that 8x8 images survive the three transitions."""

    def __init__(self) -> None:
        super().__init__(kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return x if min(x.shape[2:]) < 2 else super().forward(x)


def densenet(
    *,
    layers: int,
    growth_rate: int,
    init_features: int,
    num_classes: int,
    in_channels: int,
    imagenet_stem: bool = False,
) -> nn.Module:
    """Takes (N, in_channels, H, W), already normalised, to logits (N, num_classes).

    `layers` is 121, 161 or 169. `imagenet_stem` is the 7x7 stride-2 convolution of the paper.
    """
    network: nn.Module = DenseNet(growth_rate, BLOCKS[layers], init_features, num_classes=num_classes)
    kernel, stride, padding = (7, 2, 3) if imagenet_stem else (3, 1, 1)
    stem = nn.Conv2d(in_channels, init_features, kernel, stride, padding, bias=False)
    nn.init.kaiming_normal_(stem.weight)
    features = network.get_submodule("features")
    features.conv0 = stem
    for transition in (1, 2, 3):
        features.get_submodule(f"transition{transition}").pool = HalveAverage()
    return network
