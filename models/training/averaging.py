"""The exponential moving average of a network's weights, kept beside the training."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def average_of(network: nn.Module, decay: float) -> AveragedModel:
    """An average to be updated after every step: average <- decay x average + (1 - decay) x weights.

    It begins with the weights after the first step. BatchNorm's running statistics are averaged with the weights that
    they belong to.
    """
    rule = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=rule, use_buffers=True)


@torch.no_grad()
def take_over(network: nn.Module, average: AveragedModel) -> None:
    """Put the averaged tensors into the network. Counters stay its own: an average of them means nothing."""
    averaged = average.module.state_dict()
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(averaged[key])
