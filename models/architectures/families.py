"""Builders named by the catalogue: options in, network out. Each returns a module that takes normalised images."""

from __future__ import annotations

from torch import nn

from models.architectures.cells import CellNetwork
from models.architectures.genotypes import Genotype
from models.architectures.resnet import ResNet
from models.architectures.vgg import VGG


def cell_network(
    *, genotype: Genotype, init_channels: int, layers: int, num_classes: int, in_channels: int, auxiliary: bool = False
) -> nn.Module:
    return CellNetwork(
        genotype,
        init_channels=init_channels,
        layers=layers,
        num_classes=num_classes,
        in_channels=in_channels,
        auxiliary=auxiliary,
    )


def resnet18(*, width: int, num_classes: int, in_channels: int) -> nn.Module:
    return ResNet((2, 2, 2, 2), width=width, num_classes=num_classes, in_channels=in_channels)


def vgg16_bn(*, width: int, num_classes: int, in_channels: int) -> nn.Module:
    return VGG((2, 2, 3, 3, 3), width=width, num_classes=num_classes, in_channels=in_channels)
