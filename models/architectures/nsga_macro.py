"""NSGA-Net's macro networks: phases of arbitrarily connected nodes, halving the map between phases.

Lu et al., "NSGA-Net: Neural Architecture Search using Multi-Objective Genetic Algorithm", GECCO 2019. Parameter names
and their order are those of the released checkpoints (ianwhale/nsga-net), and so are things that look odd: the first
convolution of the network has no padding, later phases own a first convolution that is only used where the width
changes, and a dense phase has its last convolution under two names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.architectures import nsga_macro_space
from models.architectures.nsga_macro_space import Graph
from models.architectures.operations import Halve

#: In a dense node the inner width is this many times the growth, as in DenseNet.
BOTTLENECK = 4


class Node(nn.Module):
    """A sequence under the name `model`, as published checkpoints have it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


def residual_node(width: int) -> Node:
    """Convolution, BatchNorm, ReLU."""
    return Node(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def swapped_residual_node(width: int) -> Node:
    """BatchNorm, ReLU, convolution."""
    return Node(nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, padding=1, bias=False))


def dense_node(channels_in: int, growth: int) -> Node:
    """A DenseNet layer: to four times the growth by 1x1, then to the growth by 3x3."""
    inner = BOTTLENECK * growth
    return Node(
        nn.BatchNorm2d(channels_in),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_in, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, growth, 3, padding=1, bias=False),
    )


class Phase(nn.Module):
    """What both kinds of phase share: nodes run in order, each on the concatenation of its inputs."""

    nodes: nn.ModuleList
    out: nn.Sequential

    def __init__(self, graph: Graph, channels_in: int, channels: int, *, first: bool) -> None:
        super().__init__()
        self.graph = graph
        self.output = max(graph)
        self.widens = channels_in != channels
        self.first_conv = nn.Conv2d(channels_in, channels, 3 if first else 1, bias=False)

    def gathered(self, node: int, signal: Tensor) -> Tensor:
        """What the node works on, given its concatenated inputs."""
        return signal

    def forward(self, x: Tensor) -> Tensor:
        signals = {0: self.first_conv(x) if self.widens else x}
        for node, sources in self.graph.items():
            signal = self.gathered(node, torch.cat([signals[source] for source in sources], dim=1))
            signals[node] = self.out(signal) if node == self.output else self.nodes[node - 1](signal)
        return signals[self.output]


class ResidualPhase(Phase):
    """Nodes of the phase's width; a 1x1 convolution brings several inputs back to that width."""

    def __init__(
        self, graph: Graph, channels_in: int, channels: int, *, first: bool, make_node: Callable[[int], Node]
    ) -> None:
        super().__init__(graph, channels_in, channels, first=first)
        # Nodes that were left out keep their place, so that the others keep their names.
        self.nodes = nn.ModuleList(
            make_node(channels) if node in graph else nn.Identity() for node in range(1, self.output)
        )
        self.processors = nn.ModuleList(
            nn.Conv2d(len(graph[node]) * channels, channels, 1, bias=False)
            if len(graph.get(node, ())) > 1
            else nn.Identity()
            for node in range(self.output + 1)
        )
        self.out = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))

    def gathered(self, node: int, signal: Tensor) -> Tensor:
        out: Tensor = self.processors[node](signal)
        return out


class DensePhase(Phase):
    """Nodes that each add `growth` channels; a 1x1 convolution brings the output to the phase's width."""

    def __init__(self, graph: Graph, channels_in: int, channels: int, *, first: bool, growth: int) -> None:
        output = max(graph)
        # The phase's own input comes last in its output, though first in every other node.
        last = tuple(sorted(graph[output], key=lambda source: source == 0))
        super().__init__({**graph, output: last}, channels_in, channels, first=first)

        def width(node: int) -> int:
            return sum(growth if source else channels for source in self.graph[node])

        self.last_conv = nn.Conv2d(width(output), channels, 1, bias=False)
        self.nodes = nn.ModuleList(
            dense_node(width(node), growth) if node in graph else nn.Identity() for node in range(1, output)
        )
        self.out = nn.Sequential(self.last_conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class MacroNetwork(nn.Module):
    """Phases with poolings between them, global average pooling, one linear layer.

    Input (N, in_channels, H, W), already normalised, H and W at least 3; output logits (N, num_classes). A genome
    without an active phase leaves only the pooling and the linear layer.
    """

    def __init__(
        self,
        genome: nsga_macro_space.Genome,
        *,
        widths: tuple[int, ...],
        decoder: str,
        growth: int,
        num_classes: int,
        in_channels: int = 3,
    ) -> None:
        """`widths[i]` is the width of the i-th *active* phase; more are ignored."""
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for position, (graph, width) in enumerate(zip(nsga_macro_space.repair(genome), widths, strict=False)):
            first = position == 0
            if not first:
                layers.append(Halve())
            if decoder == "dense":
                layers.append(DensePhase(graph, channels, width, first=first, growth=growth))
            else:
                node = residual_node if decoder == "residual" else swapped_residual_node
                layers.append(ResidualPhase(graph, channels, width, first=first, make_node=node))
            channels = width
        self.model = nn.Sequential(*layers)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.gap(self.model(x)).flatten(1))
        return out


def macro_network(
    *,
    init_channels: int,
    decoder: str,
    growth: int,
    doubling: bool,
    definition: Mapping[str, Any],
    num_classes: int,
    in_channels: int,
) -> nn.Module:
    """Builder. `definition` has the `genome`; `doubling` doubles the width from phase to phase, as the search did.

    Raises `InvalidSpec` as `nsga_macro_space.check` does.
    """
    genome = nsga_macro_space.parse(nsga_macro_space.check(definition)["genome"])
    return MacroNetwork(
        genome,
        widths=tuple(init_channels * 2**i if doubling else init_channels for i in range(len(genome.phases))),
        decoder=decoder,
        growth=growth,
        num_classes=num_classes,
        in_channels=in_channels,
    )
