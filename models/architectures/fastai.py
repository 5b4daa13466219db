"""The layout of fastai v1's `cnn_learner`, in which the study's hand-crafted CIFAR-100 weights are stored.

A torchvision body with its ImageNet stem, cut before the pooling (`0.*`), and a head of two linear layers behind max
and average pooling (`1.*`). Structure as in fastai v1 (Howard and Gugger, "fastai: A Layered API for Deep
Learning", 2020), `fastai.vision.learner`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.architectures import resnet, vgg

#: Features between the head's two linear layers.
HIDDEN = 512


class ConcatPool(nn.Module):
    """Global max and average pooling side by side, the maximum first: (N, C, H, W) to (N, 2C, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.average = nn.AdaptiveAvgPool2d(1)
        self.maximum = nn.AdaptiveMaxPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.maximum(x), self.average(x)], dim=1)


def learner(body: nn.Sequential, channels: int, num_classes: int) -> nn.Module:
    """`body`, which ends in `channels` channels, and the head: logits (N, num_classes)."""
    head = nn.Sequential(
        ConcatPool(),
        nn.Flatten(),
        nn.BatchNorm1d(2 * channels),
        nn.Dropout(0.25),
        nn.Linear(2 * channels, HIDDEN),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(HIDDEN),
        nn.Dropout(0.5),
        nn.Linear(HIDDEN, num_classes),
    )
    for module in head:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
    return nn.Sequential(body, head)


def resnet_learner(*, layers: int, width: int, num_classes: int, in_channels: int) -> nn.Module:
    """The body is everything before the average pool and the linear layer."""
    network = resnet.resnet(
        layers=layers, width=width, num_classes=num_classes, in_channels=in_channels, imagenet_stem=True
    )
    return learner(nn.Sequential(*list(network.children())[:-2]), network.fc.in_features, num_classes)


def densenet_learner(
    *, layers: int, growth_rate: int, init_features: int, num_classes: int, in_channels: int
) -> nn.Module:
    """The body is DenseNet's features: it ends in a BatchNorm, without the ReLU that DenseNet itself puts behind it."""
    # torchvision takes a second to import, which the other two bodies need not wait for.
    from models.architectures.densenet import densenet

    network = densenet(
        layers=layers,
        growth_rate=growth_rate,
        init_features=init_features,
        num_classes=num_classes,
        in_channels=in_channels,
        imagenet_stem=True,
    )
    classifier = network.get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    return learner(nn.Sequential(network.get_submodule("features")), classifier.in_features, num_classes)


def vgg_learner(*, layers: int, width: int, num_classes: int, in_channels: int) -> nn.Module:
    """The body is VGG's features and its pooling to 7x7, which only repeats the 1x1 map that 32x32 images give."""
    features = vgg.convolutions(vgg.STAGES[layers], width=width, in_channels=in_channels)
    vgg.initialise(features)
    return learner(nn.Sequential(features, nn.AdaptiveAvgPool2d(7)), 8 * width, num_classes)
