"""VGG with BatchNorm in the CIFAR form whose released weights the study used: torchvision's features, 1x1 pooling and
the 4096-4096 classifier.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015. `width` is the
channels of the first stage; 64 is the published size, and the classifier scales with it (64 x width).
"""

from __future__ import annotations

from torch import Tensor, nn

from models.architectures.operations import Halve

#: Convolutions before each of the five poolings, by the number of layers with weights.
STAGES: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def convolutions(stages: tuple[int, ...], *, width: int, in_channels: int) -> nn.Sequential:
    """The convolutional part: (N, in_channels, H, W) to 8 x width channels at 1/32 of the side.

    `stages` lists the number of convolutions before each of the five poolings.
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for stage, depth in enumerate(stages):
        out = width * min(2**stage, 8)
        for _ in range(depth):
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        layers.append(Halve())
    return nn.Sequential(*layers)


def initialise(network: nn.Module) -> None:
    """Draw fresh weights as torchvision does."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)


class VGG(nn.Module):
    """Input (N, in_channels, H, W), already normalised; output logits (N, num_classes)."""

    def __init__(self, stages: tuple[int, ...], *, width: int, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        hidden = 64 * width
        self.features = convolutions(stages, width=width, in_channels=in_channels)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(8 * width, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        )
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return out


def vgg_bn(*, layers: int, width: int, num_classes: int, in_channels: int) -> VGG:
    """A VGG of 11, 13, 16 or 19 layers with BatchNorm."""
    return VGG(STAGES[layers], width=width, num_classes=num_classes, in_channels=in_channels)
