"""Parameters and multiply-adds, counted on the meta device: nothing is allocated or computed."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.architectures import registry
from models.specs import ArchitectureSpec


def count(spec: ArchitectureSpec, *, num_classes: int, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Number of parameters and of multiply-accumulates (convolutions and linear layers, one example).

    The auxiliary head, which only training uses, is not counted.
    """
    with torch.device("meta"):
        network = registry.build(spec, num_classes=num_classes, in_channels=image_shape[0]).eval()
        image = torch.empty(1, *image_shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2
