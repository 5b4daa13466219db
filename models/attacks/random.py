"""Counter-based random numbers: Philox4x32-10 in torch integer arithmetic, on any device.

A random number is a function of (seed, attack, restart, dataset index, draw, element) and of nothing else: not of the
batch it is drawn in, the slot, the device, or what was drawn before. So an attack's start is the same after a resume,
in another batch size, and on another machine. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011;
checked against that paper's test vectors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF


def philox4x32(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds on four 32-bit words held in int64 tensors (broadcast against each other)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The product of two 32-bit words may set the sign bit of an int64; shifting and masking reads it as unsigned.
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def key_of(seed: int, attack: str) -> tuple[int, int]:
    """The 64-bit key of an attack's stream, from its name and the seed."""
    raw = hashlib.sha256(f"{attack}:{seed}".encode()).digest()
    return int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:8], "little")


def uniform(key: tuple[int, int], indices: Tensor, restarts: Tensor, shape: Sequence[int], *, draw: int = 0) -> Tensor:
    """Numbers in [0, 1) of shape (n, *shape), float32, multiples of 2**-24.

    `indices` (n,) are dataset indices and `restarts` (n,) restart numbers, both int64; `draw` tells several draws of
    one restart apart.
    """
    elements = math.prod(shape)
    blocks = torch.arange(-(-elements // 4), dtype=torch.int64, device=indices.device)
    words = philox4x32(
        (
            blocks[None, :],
            torch.full((1, 1), draw, dtype=torch.int64, device=indices.device),
            (indices & _MASK)[:, None],
            restarts[:, None],
        ),
        key,
    )
    mixed = torch.stack([word.expand(len(indices), -1) for word in words], dim=-1)
    mixed = mixed.reshape(len(indices), -1)[:, :elements]
    return (mixed >> 8).to(torch.float32).mul_(2.0**-24).reshape(len(indices), *shape)


def normal(key: tuple[int, int], indices: Tensor, restarts: Tensor, shape: Sequence[int], *, draw: int = 0) -> Tensor:
    """Standard normal numbers of shape (n, *shape), float32, by Box and Muller's transform of two draws of `uniform`:
    `draw` and `draw` + 1.
    """
    radius = uniform(key, indices, restarts, shape, draw=draw)
    angle = uniform(key, indices, restarts, shape, draw=draw + 1)
    # 1 - u is in (0, 1], so that the logarithm is finite.
    return torch.sqrt(-2 * torch.log1p(-radius)) * torch.cos(2 * math.pi * angle)
