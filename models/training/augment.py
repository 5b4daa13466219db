"""Random crop, mirror and cutout for a batch of small images, driven by a generator of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from models.datasets.registry import Augmentation
from models.training.recipes import Recipe


def augment(images: Tensor, recipe: Recipe, limits: Augmentation, generator: torch.Generator) -> Tensor:
    """Vary a batch (n, C, H, W) as far as both the recipe and the dataset allow; a new tensor of the same shape.

    Crops come from the image padded with zeros; cutout blanks a square centred anywhere, cut off at the border
    (DeVries and Taylor,
    arXiv:1708.04552). Random numbers are drawn on the CPU, so that every device sees the same images.
    """
    n, _, height, width = images.shape
    device = images.device

    def integers(high: int) -> Tensor:
        return torch.randint(high, (n,), generator=generator).to(device)

    if recipe.crop and limits.crop_padding:
        pad = limits.crop_padding
        top, left = integers(2 * pad + 1), integers(2 * pad + 1)
        rows = (top[:, None] + torch.arange(height, device=device))[:, None, :, None]
        columns = (left[:, None] + torch.arange(width, device=device))[:, None, None, :]
        padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
        example = torch.arange(n, device=device)[:, None, None, None]
        channel = torch.arange(images.shape[1], device=device)[None, :, None, None]
        images = padded[example, channel, rows, columns]
    if recipe.mirror and limits.mirror:
        flip = (torch.rand(n, generator=generator) < 0.5).to(device)
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
    if recipe.cutout and limits.cutout:
        half = limits.cutout // 2
        y, x = integers(height)[:, None, None], integers(width)[:, None, None]
        rows = torch.arange(height, device=device)[None, :, None]
        columns = torch.arange(width, device=device)[None, None, :]
        hole = (rows >= y - half) & (rows < y + half) & (columns >= x - half) & (columns < x + half)
        images = images.masked_fill(hole[:, None], 0.0)
    return images
