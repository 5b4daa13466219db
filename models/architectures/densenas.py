"""DenseNAS networks, from a definition that `densenas_space` checks.

Fang et al., "Densely Connected Search Space for More Flexible Neural Architecture Search", CVPR 2020. Parameter names
are those of JaminFong/DenseNAS, models/model_derived.py, so that its checkpoints load. Networks of type mbv2 have
BatchNorm with eps 1e-3, those of type res torch's default. Any image size runs; they were searched at 224x224.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from models.architectures import densenas_space
from models.architectures.densenas_space import Layer
from models.architectures.mobile import convolution, initialise, set_batch_norm


def densenas(*, definition: Mapping[str, Any], num_classes: int, in_channels: int) -> nn.Module:
    """Build from `{"net_type": ..., "net_config": [...]}`; raises `InvalidSpec` when that describes no network."""
    return DenseNAS(densenas_space.read(definition), num_classes=num_classes, in_channels=in_channels)


def _unit(
    channels_in: int, channels: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    layers = convolution(channels_in, channels, kernel, stride=stride, groups=groups, activation=activation)
    return nn.Sequential(*layers.values())


class MBConv(nn.Module):
    """Inverted residual block; the input is added wherever the output has its shape."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        hidden = layer.expansion * layer.channels_in
        self._expand_conv = _unit(layer.channels_in, hidden) if layer.expansion > 1 else None
        self._depthwise_conv = _unit(hidden, hidden, layer.kernel, stride=layer.stride, groups=hidden)
        self._project_conv = _unit(hidden, layer.channels, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self._expand_conv is None else self._expand_conv(x)
        out: Tensor = self._project_conv(self._depthwise_conv(hidden))
        return out + x if out.shape == x.shape else out


def _shortcut(layer: Layer) -> nn.Module | None:
    if layer.stride == 1 and layer.width_in == layer.width:
        return None
    return nn.Sequential(
        nn.Conv2d(layer.width_in, layer.width, 1, layer.stride, bias=False), nn.BatchNorm2d(layer.width)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(layer.width_in, layer.channels, 3, layer.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(layer.channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(layer.channels, layer.channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(layer.channels)
        self.downsample = _shortcut(layer)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        result: Tensor = self.relu(out + (x if self.downsample is None else self.downsample(x)))
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the channels, and a shortcut."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(layer.width_in, layer.channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(layer.channels)
        self.conv2 = nn.Conv2d(layer.channels, layer.channels, 3, layer.stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(layer.channels)
        self.conv3 = nn.Conv2d(layer.channels, layer.width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(layer.width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(layer)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        out = self.bn3(self.conv3(out))
        result: Tensor = self.relu(out + (x if self.downsample is None else self.downsample(x)))
        return result


class Skip(nn.Module):
    """The input as it is, or through a 1x1 convolution where the width changes; never strided, like the original."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.op: nn.Module = nn.Identity()
        if not layer.is_identity:
            self.op = nn.Sequential(_unit(layer.channels_in, layer.channels, activation=False))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


_LAYERS: dict[str, type[nn.Module]] = {"basic_block": BasicBlock, "bottle_neck": Bottleneck, "skip_connect": Skip}


class Block(nn.Module):
    """A head layer and the stack layers behind it."""

    def __init__(self, block: densenas_space.Block) -> None:
        super().__init__()
        self.head_layer = _LAYERS.get(block.head.operation, MBConv)(block.head)
        self.stack_layers = nn.Sequential(*(_LAYERS.get(layer.operation, MBConv)(layer) for layer in block.stack))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.stack_layers(self.head_layer(x))
        return out


class DenseNAS(nn.Module):
    """Input (N, in_channels, H, W), already normalised; output logits (N, num_classes)."""

    def __init__(self, network: densenas_space.Network, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.input_block = _unit(in_channels, network.stem, 3, stride=2)
        self.blocks = nn.ModuleList(Block(block) for block in network.blocks)
        last = {"conv1_1": _unit(*network.last)} if network.last else {}
        self.conv1_1_block = nn.Sequential(OrderedDict(last))
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(network.width, num_classes)
        initialise(self)
        if network.net_type == "mbv2":
            set_batch_norm(self, eps=1e-3, momentum=0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input_block(x)
        for block in self.blocks:
            x = block(x)
        x = self.conv1_1_block(x)
        out: Tensor = self.classifier(self.global_pooling(x).flatten(1))
        return out
