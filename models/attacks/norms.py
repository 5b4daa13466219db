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
        scale = torch.where(far > eps, eps * (1 - 1e-6) / far.clamp_min(TINY), torch.ones_like(far))
        return offset * rows(scale, offset)
    return _project_l1(offset, eps * (1 - 1e-6))


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
        return towards * rows(radius * (eps * (1 - 1e-6)), towards)
    exponential = -torch.log1p(-uniform(key, indices, runs, (d + 1,)))
    share = exponential[:, :d] / exponential.sum(1, keepdim=True).clamp_min(TINY)
    signs = torch.where(uniform(key, indices, runs, (d,), draw=1) < 0.5, -1.0, 1.0)
    return (share * signs * eps).view(len(indices), *shape)
