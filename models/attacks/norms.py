"""The norms that bound a perturbation: distance, projection, steepest direction, random points, for L-inf, L2 and L1.

Everything works on a batch of offsets (n, C, H, W) and treats its rows independently.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.attacks.random import normal, uniform

#: Below this a length counts as zero, where it would be divided by.
TINY = 1e-12

#: The share of eps at which L2 and L1 iterates are put, so that rounding does not push them out of the ball.
JUST_INSIDE = 1 - 1e-6

#: Rounds of the search for the level that makes an offset as long as eps: leaves less than float32 rounds.
LEVEL_ROUNDS = 16


def rows(values: Tensor, like: Tensor) -> Tensor:
    """One value a row (n,), shaped to be multiplied with a batch such as `like` (n, C, H, W)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def length(offset: Tensor, norm: str) -> Tensor:
    """The norm of every row (n,)."""
    flat = offset.flatten(1)
    if norm == "Linf":
        return flat.abs().amax(1)
    if norm == "L2":
        return flat.square().sum(1).sqrt()
    return flat.abs().sum(1)


def project(offset: Tensor, eps: float, norm: str) -> Tensor:
    """The point of the eps ball that is nearest in L2 to every offset; in L2 and L1 a millionth of eps inside, so that
    rounding does not leave it. In L-inf and L2 an offset inside stays as it is, bit by bit.
    """
    if norm == "Linf":
        return offset.clamp(-eps, eps)
    if norm == "L2":
        # Rounding must not leave the ball: a length that comes out a speck too large is scaled to just below eps.
        far = length(offset, norm)
        scale = torch.where(far > eps, eps * JUST_INSIDE / far.clamp_min(TINY), torch.ones_like(far))
        return offset * rows(scale, offset)
    return _project_l1(offset, eps * JUST_INSIDE)


def _project_l1(offset: Tensor, eps: float) -> Tensor:
    """Soft thresholding by the level that leaves exactly eps (Duchi et al., ICML 2008), by sorting."""
    flat = offset.flatten(1)
    magnitude = flat.abs()
    falling = magnitude.sort(dim=1, descending=True).values
    excess = falling.cumsum(1) - eps
    count = torch.arange(1, flat.shape[1] + 1, device=flat.device, dtype=flat.dtype)
    last = ((falling - excess / count) > 0).sum(1, keepdim=True).clamp_min(1)
    level = excess.gather(1, last - 1) / last
    shrunk = flat.sign() * (magnitude - level).clamp_min(0)
    inside = magnitude.sum(1, keepdim=True) <= eps
    return torch.where(inside, flat, shrunk).view_as(offset)


def project_l1_in_box(offset: Tensor, clean: Tensor, eps: float | Tensor, low: float, high: float) -> Tensor:
    """The offsets (n, C, H, W) nearest to `offset` whose L1 length is at most eps (one for all, or (n,)) and that keep
    `clean` in the box from `low` to `high`.

    All magnitudes are lowered by one level and then cut at the room that there is (Croce and Hein, "Mind the box",
    ICML 2021). The level is searched for: sorting all coordinates to find it, as `l1_correction` does, takes five
    times as long on images of 3x32x32 and adds up rounding over all of them.
    """
    flat, x = offset.flatten(1), clean.flatten(1)
    magnitude = flat.abs()
    room = torch.where(flat > 0, high - x, x - low).clamp_min_(0)
    limit = eps[:, None] if isinstance(eps, Tensor) else torch.full_like(flat[:, :1], eps)

    def lowered(level: Tensor) -> Tensor:
        return torch.minimum((magnitude - level).clamp_min_(0), room)

    def between(share: float | Tensor) -> Tensor:
        return below + (above - below) * share

    def crossing() -> Tensor:
        """Where a straight line from the length at one end to that at the other meets eps."""
        return ((too_long - limit) / (too_short - too_long).abs().clamp_min(TINY)).clamp(0, 1)

    below, above = torch.zeros_like(limit), magnitude.amax(1, keepdim=True)
    too_long, too_short = lowered(below).sum(1, keepdim=True), torch.zeros_like(limit)
    for round_ in range(LEVEL_ROUNDS):
        # The length falls with the level along straight pieces: once the ends are near, the line between them is exact.
        halve = round_ % 3 != 2 and round_ < LEVEL_ROUNDS - 2
        level = between(0.5 if halve else crossing())
        length = lowered(level).sum(1, keepdim=True)
        over = length > limit
        below, too_long = torch.where(over, level, below), torch.where(over, length, too_long)
        above, too_short = torch.where(over, above, level), torch.where(over, too_short, length)
    kept = lowered(torch.where(too_long > limit, between(crossing()), 0))
    # What is a speck too long is scaled down, which stays in the box.
    scale = (limit / kept.sum(1, keepdim=True).clamp_min(TINY)).clamp_max(1)
    return (flat.sign() * kept * scale).view_as(offset)


def l1_correction(offset: Tensor, clean: Tensor, eps: Tensor, low: float, high: float) -> Tensor:
    """What to add to every offset (n, C, H, W) so that it lies in the L1 ball of its own eps (n,), and clean + offset
    in [`low`, `high`], at the nearest such point in L2: that of `project_l1_in_box`, by the operations of AutoAttack's
    code, whose rounding decides which coordinates count as perturbed.

    Every coordinate is moved towards `clean` by the same amount, but at least back into the range and at most to
    `clean`. The amount is found by sorting the points where a coordinate begins or ceases to move ("Mind the box",
    section 2.2).
    """
    flat, centre = offset.flatten(1), clean.flatten(1)
    magnitude = flat.abs()
    outside = torch.minimum(high - centre - flat, centre + flat - low).clamp_max(0).neg()
    excess = magnitude.sum(1, keepdim=True) - eps[:, None]
    points, order = torch.cat([outside, magnitude], 1).sort(1)
    moving = torch.where(order < flat.shape[1], 1.0, -1.0).to(flat.dtype).cumsum(1)
    # What all coordinates have moved together, when the amount has come to each of the points.
    paths = (points[:, 1:] - points[:, :-1]) * moving[:, :-1]
    moved = outside.sum(1, keepdim=True) + torch.cat([torch.zeros_like(eps)[:, None], paths.cumsum(1)], 1)
    last = ((moved < excess).sum(1, keepdim=True) - 1).clamp_min(0)
    amount = points.gather(1, last) + (excess - moved.gather(1, last)) / moving.gather(1, last).clamp_min(1)
    back = torch.where(moved[:, :1] < excess, torch.minimum(torch.maximum(outside, amount), magnitude), outside)
    return (flat.sign() * -back).view_as(offset)


def direction(gradient: Tensor, norm: str) -> Tensor:
    """The gradient scaled to length one in its norm, or its sign for L-inf; zero where the gradient is zero."""
    if norm == "Linf":
        return gradient.sign()
    return gradient / rows(length(gradient, norm).clamp_min(TINY), gradient)


def random_offset(
    key: tuple[int, int], indices: Tensor, runs: Tensor, shape: tuple[int, ...], eps: float, norm: str
) -> Tensor:
    """A point drawn uniformly from the eps ball for every (index, run): (n, *shape).

    L2: a Gaussian direction at radius eps u^(1/d). L1: the first d of d + 1 exponential variables over their sum, with
    random signs, which is uniform in the cross-polytope.
    """
    if norm == "Linf":
        return (2 * uniform(key, indices, runs, shape) - 1) * eps
    d = math.prod(shape)
    if norm == "L2":
        towards = direction(normal(key, indices, runs, shape), "L2")
        radius = uniform(key, indices, runs, (1,), draw=2)[:, 0].pow(1 / d)
        return towards * rows(radius * (eps * JUST_INSIDE), towards)
    exponential = -torch.log1p(-uniform(key, indices, runs, (d + 1,)))
    share = exponential[:, :d] / exponential.sum(1, keepdim=True).clamp_min(TINY)
    signs = torch.where(uniform(key, indices, runs, (d,), draw=1) < 0.5, -1.0, 1.0)
    return (share * signs * eps).view(len(indices), *shape)
