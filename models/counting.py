"""Parameters, multiply-adds and the layout of a state dict, counted on the meta device: nothing is allocated or run."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.architectures import external, registry
from models.errors import InvalidSpec
from models.specs import ArchitectureSpec

#: Beginnings of the names of training-only heads.
AUXILIARY = ("auxiliary_head.", "aux1.", "aux2.", "AuxLogits.")


@dataclass(frozen=True)
class Counts:
    """What a network of an architecture has.

    `params` and the two digests leave out the training-only auxiliary head, `params_with_aux` (None where there is no
    such head) has it. A shared tensor counts once in `params` and under each of its names in `n_state_dict_keys`. A
    digest is the SHA-256 of the lines `key:AxBxC` of the state dict, joined by newlines, sorted or in order. `macs` are
    the multiply-accumulates of convolutions and linear layers for one example.
    """

    params: int
    params_with_aux: int | None
    n_state_dict_keys: int
    state_dict_sha256_sorted: str
    state_dict_sha256_ordered: str
    macs: int


@dataclass(frozen=True)
class Layout:
    """Parameters and the layout of a state dict, without the auxiliary head; see `Counts`."""

    params: int
    n_keys: int
    sha256_sorted: str
    sha256_ordered: str


def layout(network: nn.Module) -> Layout:
    """The layout of a network's state dict."""
    lines = [
        f"{k}:{'x'.join(map(str, v.shape))}" for k, v in network.state_dict().items() if not k.startswith(AUXILIARY)
    ]
    return Layout(_parameters(network), len(lines), _sha256(sorted(lines)), _sha256(lines))


def count(spec: ArchitectureSpec, *, num_classes: int, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Number of parameters and of multiply-accumulates (convolutions and linear layers, one example).

    The auxiliary head, which only training uses, is not counted. Raises `InvalidSpec` for images that it cannot take.
    """
    network = skeleton(spec, num_classes=num_classes, in_channels=image_shape[0])
    return _parameters(network), _macs(spec, network, image_shape)


def describe(spec: ArchitectureSpec, *, num_classes: int, image_shape: tuple[int, int, int]) -> Counts:
    """All counts of an architecture for images (C, H, W); raises like `count`."""
    has_head = registry.find(spec.name).auxiliary
    # In evaluation mode a head that is there takes no part in the forward pass.
    network = skeleton(spec, num_classes=num_classes, in_channels=image_shape[0], auxiliary=has_head)
    found = layout(network)
    return Counts(
        params=found.params,
        params_with_aux=sum(p.numel() for p in network.parameters()) if has_head else None,
        n_state_dict_keys=found.n_keys,
        state_dict_sha256_sorted=found.sha256_sorted,
        state_dict_sha256_ordered=found.sha256_ordered,
        macs=_macs(spec, network, image_shape),
    )


def of_network(network: nn.Module, image_shape: tuple[int, int, int]) -> tuple[int, int | None]:
    """Parameters and multiply-accumulates of a network that is there; None for what cannot be counted in it.

    The network is not changed; its copy on the meta device takes no memory for tensors.
    """
    params = _parameters(network)
    try:
        memo = {id(t): t.to("meta") for t in (*network.parameters(), *network.buffers())}
        skeleton = copy.deepcopy(network, memo).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            skeleton(torch.empty(1, *image_shape, device="meta"))
        return params, int(counter.get_total_flops()) // 2
    except Exception:
        # A network of somebody else may do anything in its forward pass; its size is worth knowing, not an error.
        return params, None


def _sha256(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def skeleton(spec: ArchitectureSpec, *, num_classes: int, in_channels: int, auxiliary: bool = False) -> nn.Module:
    """The network on the meta device, in evaluation mode: shapes and no numbers."""
    network: nn.Module | None = None
    if not external.is_factory(spec.name):
        # Some constructors compute with their tensors (RegNet's widths); they need a real device, as may a factory.
        with contextlib.suppress(RuntimeError), torch.device("meta"):
            network = registry.build(spec, num_classes=num_classes, in_channels=in_channels, auxiliary=auxiliary)
    if network is None:
        network = registry.build(spec, num_classes=num_classes, in_channels=in_channels, auxiliary=auxiliary).to("meta")
    return network.eval()


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith(AUXILIARY))


def _macs(spec: ArchitectureSpec, network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    image = torch.empty(1, *image_shape, device="meta")
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(image)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        hint = " Say what it takes with --in-channels and --input-size." if external.is_factory(spec.name) else ""
        raise InvalidSpec(f"{spec.canonical} cannot take images of {_sides(image_shape)}: {reason}.{hint}") from error
    return int(counter.get_total_flops()) // 2


def _sides(image_shape: tuple[int, int, int]) -> str:
    return f"{image_shape[0]} x {image_shape[1]} x {image_shape[2]}"
