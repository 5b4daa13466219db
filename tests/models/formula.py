"""Weights and images by formula: no random numbers, so that other software can fill the same networks the same way.

The logits that tests expect of networks filled so were computed by the reference implementations that they name.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def numbers(n: int, start: int) -> Tensor:
    """`n` numbers in [-1, 1), float64: the middle bits of a linear congruence over `start`, `start` + 1, …"""
    i = torch.arange(start, start + n, dtype=torch.int64)
    return (((i * 1103515245 + 12345) % 2**31) >> 8).double() / 2**22 - 1


@torch.no_grad()
def fill(network: nn.Module) -> nn.Module:
    """Set every floating-point tensor of the state by formula, in order; the network becomes float64, in evaluation.

    Matrices and kernels are scaled by the square root of 6 over their inputs, as initialisation does; BatchNorm gets
    scales from 0.5 to 1.5 and variances from 1 to 2.
    """
    network.double().eval()
    start = 0
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        values = numbers(tensor.numel(), start).reshape(tensor.shape)
        start += tensor.numel()
        if name.endswith("running_var"):
            values = 1 + values.abs()
        elif tensor.dim() > 1:
            values = values * (6 / tensor[0].numel()) ** 0.5
        elif name.endswith("weight"):
            values = 1 + values / 2
        else:
            values = values / 4
        tensor.copy_(values)
    return network


def image(*shape: int) -> Tensor:
    """An image batch of numbers in [-1, 1), float64."""
    return numbers(torch.Size(shape).numel(), 7).reshape(shape)
