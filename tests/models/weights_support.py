"""A small network and the ways in which training scripts save it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.architectures import registry
from models.specs import ArchitectureSpec

State = dict[str, Tensor]


def network(text: str, *, num_classes: int = 10, in_channels: int = 1, auxiliary: bool = False) -> nn.Module:
    """An architecture with weights and running statistics that are the same every time, none of them a default."""
    torch.manual_seed(0)
    spec = registry.parse_architecture(text)
    made = registry.build(spec, num_classes=num_classes, in_channels=in_channels, auxiliary=auxiliary)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.num_batches_tracked is not None:
                module.num_batches_tracked.fill_(7)
    return made


def state(text: str, **options: Any) -> State:
    return dict(network(text, **options).state_dict())


def save(content: object, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def named(prefix: str, tensors: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def optimizer_state(net: nn.Module) -> dict[str, Any]:
    """What SGD with momentum keeps after a step: tensors of the parameters' shapes."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def with_metadata(net: nn.Module) -> dict[str, Any]:
    """A state dict of files from before torch 0.4.1 whose metadata say that it is newer."""
    tensors = net.state_dict()
    for name in [n for n in tensors if n.endswith("num_batches_tracked")]:
        del tensors[name]
    return tensors


#: How a state dict is wrapped, by name. All of them are the same model.
CONTAINERS: dict[str, Callable[[nn.Module], object]] = {
    "bare": lambda n: n.state_dict(),
    "state_dict": lambda n: {"epoch": 3, "state_dict": n.state_dict(), "best_acc_top1": 97.0},
    "net": lambda n: {"net": n.state_dict(), "acc": 95.1, "epoch": 3},
    "model": lambda n: {"model": n.state_dict()},
    "model_state_dict": lambda n: {"model_state_dict": n.state_dict(), "loss": torch.tensor(0.25)},
    "network": lambda n: {"network": n.state_dict()},
    "an unheard-of name": lambda n: {"our_best_one": {"weights": n.state_dict()}},
    "fastai": lambda n: {"model": n.state_dict(), "opt": optimizer_state(n)},
    "with the optimizer": lambda n: {"state_dict": n.state_dict(), "optimizer": optimizer_state(n)},
    "a tuple": lambda n: (n.state_dict(), 3),
    "data parallel": lambda n: nn.DataParallel(n).state_dict(),
    "data parallel, wrapped": lambda n: {"state_dict": nn.DataParallel(n).state_dict()},
    "compiled": lambda n: named("_orig_mod.", dict(n.state_dict())),
    "compiled, data parallel": lambda n: {"model": named("_orig_mod.module.", dict(n.state_dict()))},
    "lightning": lambda n: {"state_dict": named("model.", dict(n.state_dict())), "callbacks": {}},
    "in a wrapper module": lambda n: {"state_dict": named("network.classifier.", dict(n.state_dict()))},
    "behind a normalisation": lambda n: {
        "state_dict": {
            "model.0.mean": torch.tensor([0.3]),
            "model.0.std": torch.tensor([0.4]),
            **named("model.1.", dict(n.state_dict())),
        }
    },
    "parts of it parallel": lambda n: {k.replace("layer1.", "layer1.module."): v for k, v in n.state_dict().items()},
    "numpy accuracy": lambda n: {"state_dict": n.state_dict(), "best_acc": np.float64(95.5), "last": np.float32(1)},
    "numpy array": lambda n: {"state_dict": n.state_dict(), "history": np.arange(4.0), "rng": np.random.get_state()},
    "numpy arrays": lambda n: {"model": {k: v.numpy() for k, v in n.state_dict().items()}, "epoch": 3},
    "numpy arrays by columns, the other byte order": lambda n: {
        k: v.numpy().copy("F").astype(v.numpy().dtype.newbyteorder(">")) for k, v in n.state_dict().items()
    },
    "numpy array beside tensors": lambda n: {**n.state_dict(), "losses": np.arange(4.0)},
    "namespace": lambda n: {"state_dict": n.state_dict(), "args": argparse.Namespace(lr=0.1, data=Path("/data"))},
    "float64": lambda n: {k: v.double() if v.is_floating_point() else v for k, v in n.state_dict().items()},
    "parameters": lambda n: {**n.state_dict(), **dict(n.named_parameters())},
    "averaged beside": lambda n: {
        "state_dict_ema": {k: torch.zeros_like(v) for k, v in n.state_dict().items()},
        "state_dict": n.state_dict(),
    },
}


def spec(text: str) -> ArchitectureSpec:
    return registry.parse_architecture(text)
