"""Inception v3 in the CIFAR form whose released weights the study's zoo offers: one 3x3 convolution to 192 channels for
a stem, no auxiliary head.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016. The network is torchvision's
with another stem.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import Inception3
from torchvision.models.inception import BasicConv2d

from models.errors import InvalidSpec

#: Its two reductions are 3x3, stride 2, without padding: a smaller image would leave nothing for the second.
SMALLEST_SIDE = 7


def inception_v3(*, num_classes: int, in_channels: int) -> nn.Module:
    """Takes (N, in_channels, H, W), already normalised, to logits (N, num_classes).

    The network raises `InvalidSpec` for images with a side below 7 pixels.
    """
    network: nn.Module = Inception3(num_classes=num_classes, aux_logits=False, init_weights=False)
    network.Conv2d_1a_3x3 = BasicConv2d(in_channels, 192, kernel_size=3, padding=1)
    for gone in ("Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"):
        setattr(network, gone, nn.Identity())
    network.register_forward_pre_hook(refuse_small_images)
    return network


def refuse_small_images(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    height, width = inputs[0].shape[2:]
    if min(height, width) < SMALLEST_SIDE:
        raise InvalidSpec(
            f"inception-v3 takes images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels, not {height}x{width}: "
            "choose another architecture."
        )
