"""GoogLeNet in the CIFAR form whose released weights the study's zoo offers: one 3x3 convolution to 192 channels for a
stem, two poolings in all, no auxiliary heads.

Szegedy et al., "Going Deeper with Convolutions", CVPR 2015. The network is torchvision's with another stem and other
poolings.
"""

from __future__ import annotations

from torch import nn
from torchvision.models import GoogLeNet
from torchvision.models.googlenet import BasicConv2d


def googlenet(*, num_classes: int, in_channels: int) -> nn.Module:
    """Takes (N, in_channels, H, W), already normalised, to logits (N, num_classes)."""
    network: nn.Module = GoogLeNet(num_classes=num_classes, aux_logits=False, init_weights=False)
    network.conv1 = BasicConv2d(in_channels, 192, kernel_size=3, padding=1)
    for gone in ("maxpool1", "conv2", "conv3", "maxpool2"):
        setattr(network, gone, nn.Identity())
    network.maxpool3 = nn.MaxPool2d(3, stride=2, padding=1)
    network.maxpool4 = nn.MaxPool2d(3, stride=2, padding=1)
    return network
