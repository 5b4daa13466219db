"""The decision boundary near a point: the nearest one of a linearised classifier, and the exact projection onto a
hyperplane inside the box of valid inputs, in L-inf, L2 and L1.

Rows are independent of each other, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.attacks.norms import TINY, length
from models.attacks.norms import rows as per_row
from models.attacks.slots import Forward

#: The norm in which a gradient is measured for a distance in the norm that is the key.
DUAL = {"Linf": "L1", "L2": "L2", "L1": "Linf"}


@dataclass(frozen=True)
class Boundary:
    """Where a linearised classifier changes its mind between the label and a rival: value + <normal, offset> = 0.

    `logits` (n, classes) are those at the point; `value` (n,) is z_rival - z_label there, negative where the label is
    ahead, `normal` (n, C, H, W) its gradient, and `distance` (n,) how far the hyperplane is, box or no box.
    """

    logits: Tensor
    value: Tensor
    normal: Tensor
    distance: Tensor


def nearest_boundary(
    forward: Forward, x: Tensor, labels: Tensor, rivals: Callable[[Tensor], Tensor], norm: str
) -> Boundary:
    """The nearest hyperplane at every point of x (n, C, H, W) among those to its rivals: one forward pass, and one
    backward pass a rival, of which only the best gradient so far is kept.

    `rivals` gives the classes (n, k) to look at, from the logits.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = forward(x)
        classes = rivals(logits.detach())
        ahead = logits.gather(1, classes) - logits.gather(1, labels[:, None])
    count = classes.shape[1]
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for k in range(count):
        (normal,) = torch.autograd.grad(ahead[:, k].sum(), x, retain_graph=k + 1 < count)
        value = ahead[:, k].detach()
        distance = value.abs() / (length(normal, DUAL[norm]) + TINY)
        if best is None:
            best = value, normal, distance
            continue
        nearer = distance < best[2]
        best = (
            torch.where(nearer, value, best[0]),
            torch.where(per_row(nearer, normal), normal, best[1]),
            torch.where(nearer, distance, best[2]),
        )
    assert best is not None
    return Boundary(logits.detach(), *best)


def to_hyperplane(
    points: Tensor, normal: Tensor, value: Tensor, norm: str, *, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """The smallest offsets (n, C, H, W) that take `points` to the hyperplane value + <normal, offset> = 0 inside the
    box [low, high]; where the box does not reach it, the offsets to the corner of the box that comes closest.

    `normal` is like `points`, `value` (n,). Coordinates in which the normal is zero are left alone, and so are those
    outside the box that would have to go further out. Croce and Hein, ICML 2020, section 3.1 and appendix A.
    """
    flat = normal.flatten(1)
    # A hyperplane is the same at any scale; at this one squares of small gradients do not vanish.
    scale = flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    steep = flat.abs() / scale
    need = (value.abs()[:, None] / scale).clamp_max(torch.finfo(flat.dtype).max)
    towards = -flat.sign() * torch.where(value < 0, -1.0, 1.0)[:, None]
    at = points.flatten(1)
    room = torch.where(towards > 0, high - at, at - low).clamp_min(0) * (steep > 0)
    if norm == "Linf":
        size = torch.minimum(_level(steep, room, need), room)
    elif norm == "L2":
        squared = steep.square()
        limits = torch.where(squared > 0, room / steep, 0.0)
        size = torch.minimum(_level(squared, limits, need) * steep, room)
    else:
        size = _steepest_first(steep, room, need)
    return (towards * size).view_as(points)


def _level(weights: Tensor, limits: Tensor, need: Tensor) -> Tensor:
    """The level (n, 1) at which sum weights * min(level, limits) is `need` (n, 1); the highest limit if it never is.

    The sum is concave and linear between the limits, so that after sorting them the segment can be read off.
    """
    order = limits.argsort(1)
    limits, weights = limits.gather(1, order), weights.gather(1, order)
    full = (weights * limits).cumsum(1)
    below = torch.nn.functional.pad(full[:, :-1], (1, 0))
    growing = weights.flip(1).cumsum(1).flip(1)
    segment = (below + limits * growing < need).sum(1, keepdim=True).clamp_max(limits.shape[1] - 1)
    left = (need - below.gather(1, segment)).clamp_min(0)
    level = left / growing.gather(1, segment).clamp_min(torch.finfo(limits.dtype).tiny)
    return torch.minimum(level, limits[:, -1:])


def _steepest_first(steep: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Sizes (n, d) that reach sum steep * size = `need` (n, 1) with the smallest sum: the steepest are filled first."""
    order = steep.argsort(1, descending=True)
    steep, room = steep.gather(1, order), room.gather(1, order)
    before = torch.nn.functional.pad((steep * room).cumsum(1)[:, :-1], (1, 0))
    left = (need - before).clamp_min(0) / steep.clamp_min(torch.finfo(steep.dtype).tiny)
    return torch.zeros_like(room).scatter(1, order, torch.minimum(left, room))
