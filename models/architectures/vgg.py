"""VGG with BatchNorm in the CIFAR form whose released weights the study used: torchvision's features, 1x1 pooling and
the 4096-4096 classifier.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015. `width` is the
channels of the first stage; 64 is the published size, and the classifier scales with it (64 x width).
"""

from __future__ import annotations

from torch import Tensor, nn


class Halve(nn.MaxPool2d):
    """2x2 max-pool that passes a map of side 1 through, so that 8x8 images survive five of them."""

    def __init__(self) -> None:
        super().__init__(kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return x if min(x.shape[2:]) < 2 else super().forward(x)


class VGG(nn.Module):
    """Input (N, in_channels, H, W), already normalised; output logits (N, num_classes).

    `stages` lists the number of convolutions between two poolings.
    """

    def __init__(self, stages: tuple[int, ...], *, width: int, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for stage, depth in enumerate(stages):
            out = width * min(2**stage, 8)
            for _ in range(depth):
                layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
                channels = out
            layers.append(Halve())
        hidden = 64 * width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return out
