"""The networks of NAS-Bench-201 and NATS-Bench: three stages of one cell with two residual blocks between them.

Dong and Yang, ICLR 2020; Dong et al., TPAMI 2021. Parameter names and their order are those of the benchmark's own code
(D-X-Y/AutoDL-Projects), whose released weights load as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from models.architectures import nasbench201_space
from models.architectures.nasbench201_space import Cell201
from models.errors import InvalidSpec


class ReluConvBn(nn.Module):
    """ReLU, convolution, BatchNorm."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class Pool(nn.Module):
    """3x3 average pooling, after a 1x1 convolution where the width changes."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.preprocess = nn.Identity() if channels_in == channels_out else ReluConvBn(channels_in, channels_out, 1)
        self.op = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(self.preprocess(x))
        return out


class Widen(nn.Module):
    """The skip connection where the width changes: a 1x1 convolution and BatchNorm, without ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x))
        return out


class Nothing(nn.Module):
    """The `none` operation: zeros."""

    def __init__(self, channels_out: int) -> None:
        super().__init__()
        self.channels_out = channels_out

    def forward(self, x: Tensor) -> Tensor:
        # Multiplied, not made anew, so that the gradient to the input exists: zero, as the function says.
        zeros = x.mul(0.0)
        if x.shape[1] == self.channels_out:
            return zeros
        return zeros[:, :1].expand(-1, self.channels_out, -1, -1)


def operation(name: str, channels_in: int, channels_out: int) -> nn.Module:
    """One edge's operation."""
    match name:
        case "none":
            return Nothing(channels_out)
        case "skip_connect":
            return nn.Identity() if channels_in == channels_out else Widen(channels_in, channels_out)
        case "nor_conv_1x1":
            return ReluConvBn(channels_in, channels_out, 1)
        case "nor_conv_3x3":
            return ReluConvBn(channels_in, channels_out, 3)
        case "avg_pool_3x3":
            return Pool(channels_in, channels_out)
    raise InvalidSpec(f"NAS-Bench-201 has no operation {name!r}.")


class SearchedCell(nn.Module):
    """The searched cell: node 3, with every node the sum of its edges."""

    def __init__(self, cell: Cell201, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.cell = cell
        self.layers = nn.ModuleList(
            operation(name, channels_in if source == 0 else channels_out, channels_out)
            for node in cell.nodes
            for name, source in node
        )

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        layers = iter(self.layers)
        for edges in self.cell.nodes:
            total: Tensor | None = None
            for _, source in edges:
                signal = next(layers)(nodes[source])
                total = signal if total is None else total + signal
            assert total is not None
            nodes.append(total)
        return nodes[-1]


class Reduction(nn.Module):
    """A residual block that halves the map, between two stages."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv_a = ReluConvBn(channels_in, channels_out, 3, stride=2)
        self.conv_b = ReluConvBn(channels_out, channels_out, 3)
        self.downsample = nn.Sequential(
            # On a map of odd side the last window has what is left of it, as the strided convolution has; even sides,
            # and so every published network, are untouched.
            nn.AvgPool2d(2, stride=2, ceil_mode=True),
            nn.Conv2d(channels_in, channels_out, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.downsample(x) + self.conv_b(self.conv_a(x))
        return out


class TinyNetwork(nn.Module):
    """A 3x3 stem, then layers of which those at one and two thirds are reductions, pooling, one linear layer.

    Input (N, in_channels, H, W), already normalised; output logits (N, num_classes). `widths` has one number a layer,
    3 n + 2 of them: n cells, a reduction, n cells, a reduction, n cells.
    """

    def __init__(self, cell: Cell201, *, widths: Sequence[int], num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if len(widths) % 3 != 2:
            raise ValueError(f"three stages and two reductions have 3 n + 2 layers, not {len(widths)}")
        stage = len(widths) // 3
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0])
        )
        self.cells = nn.ModuleList()
        channels = widths[0]
        for position, width in enumerate(widths):
            reduction = position in (stage, 2 * stage + 1)
            self.cells.append(Reduction(channels, width) if reduction else SearchedCell(cell, channels, width))
            channels = width
        self.lastact = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x)
        out: Tensor = self.classifier(self.global_pooling(self.lastact(x)).flatten(1))
        return out


def topology_network(
    *, init_channels: int, cells_per_stage: int, definition: Mapping[str, Any], num_classes: int, in_channels: int
) -> nn.Module:
    """Builder of the topology space: the width doubles at each reduction. `definition` has the `cell`, a string."""
    text = definition.get("cell")
    if not isinstance(text, str):
        raise InvalidSpec("a NAS-Bench-201 definition needs a 'cell', the benchmark's string for it.")
    cell = nasbench201_space.parse(text)
    widths = [init_channels * 2**stage for stage in range(3) for _ in range(cells_per_stage + (1 if stage else 0))]
    return TinyNetwork(cell, widths=widths, num_classes=num_classes, in_channels=in_channels)


def size_network(*, definition: Mapping[str, Any], num_classes: int, in_channels: int) -> nn.Module:
    """Builder of the size space: one cell a stage. `definition` has the five `widths`, such as `8:16:24:32:64`."""
    text = definition.get("widths")
    if not isinstance(text, str):
        raise InvalidSpec("a NATS-Bench size definition needs 'widths', such as 8:16:24:32:64.")
    cell = nasbench201_space.parse(nasbench201_space.SIZE_CELL)
    widths = nasbench201_space.parse_widths(text)
    return TinyNetwork(cell, widths=widths, num_classes=num_classes, in_channels=in_channels)
