"""MobileNetV2 in the CIFAR form whose released weights the study's zoo offers: the stem and the second stage keep the
resolution, so that 32x32 images end as 4x4 maps.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018. The network is torchvision's with
other strides.
"""

from __future__ import annotations

from torch import nn
from torchvision.models import MobileNetV2

#: Channels of the stem that the stages below were published with.
PUBLISHED_WIDTH = 32

#: Expansion, channels, blocks and stride of the first block of each stage.
STAGES: tuple[tuple[int, int, int, int], ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(*, width: int, num_classes: int, in_channels: int) -> nn.Module:
    """Takes (N, in_channels, H, W), already normalised, to logits (N, num_classes).

    `width` is the channels of the stem; all stages scale with it, the last convolution never below its 1280.
    """
    network: nn.Module = MobileNetV2(
        num_classes=num_classes,
        width_mult=width / PUBLISHED_WIDTH,
        inverted_residual_setting=[list(stage) for stage in STAGES],
        round_nearest=1,
    )
    stem = nn.Conv2d(in_channels, width, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    network.get_submodule("features.0").register_module("0", stem)
    return network
