"""How a batch of training images is varied, driven by a generator of its own: crop, mirror, colour, cutout."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from models.datasets.registry import Augmentation
from models.training.recipes import Recipe

#: Of a random resized crop: its least area, its aspect ratios, and how often one is drawn (torchvision's).
USUAL_AREA, ASPECT, ATTEMPTS = 0.08, (3 / 4, 4 / 3), 10

#: Random numbers that a crop takes: an area and a shape for each attempt, and a place.
DRAWS = 2 * ATTEMPTS + 2

#: Weights of red, green and blue in the grey level (ITU-R BT.601, as torchvision has them).
LUMA = (0.2989, 0.587, 0.114)


def augment(images: Tensor, recipe: Recipe, limits: Augmentation, generator: torch.Generator) -> Tensor:
    """Vary a batch (n, C, H, W) as far as both the recipe and the dataset allow; a new tensor of the same shape.

    Crops come from the image padded with zeros, or, where the recipe says `resized_crop`, are a part of the image that
    is enlarged again; photographs come cropped already (see `feeding`). Cutout blanks a square centred anywhere, cut
    off at the border (DeVries and Taylor, arXiv:1708.04552). Random numbers are drawn on the CPU, so that every device
    sees the same images.
    """
    n, _, height, width = images.shape
    device = images.device

    def integers(high: int) -> Tensor:
        return torch.randint(high, (n,), generator=generator).to(device)

    area = crop_area(recipe, limits)
    if area and limits.kind == "pad-crop":
        draws = torch.rand(n, DRAWS, generator=generator)
        images = resized(images, boxes(draws, torch.tensor([[height, width]]).expand(n, 2), area).to(device))
    elif not area and recipe.crop and limits.crop_padding:
        pad = limits.crop_padding
        top, left = integers(2 * pad + 1), integers(2 * pad + 1)
        rows = (top[:, None] + torch.arange(height, device=device))[:, None, :, None]
        columns = (left[:, None] + torch.arange(width, device=device))[:, None, None, :]
        padded = functional.pad(images, (pad, pad, pad, pad))
        example = torch.arange(n, device=device)[:, None, None, None]
        channel = torch.arange(images.shape[1], device=device)[None, :, None, None]
        images = padded[example, channel, rows, columns]
    if recipe.mirror and limits.mirror:
        flip = (torch.rand(n, generator=generator) < 0.5).to(device)
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
    if recipe.color_jitter:
        images = jittered(images, recipe.color_jitter, generator)
    side = recipe.cutout_size or limits.cutout
    if recipe.cutout and side:
        half = side // 2
        y, x = integers(height)[:, None, None], integers(width)[:, None, None]
        rows = torch.arange(height, device=device)[None, :, None]
        columns = torch.arange(width, device=device)[None, None, :]
        hole = (rows >= y - half) & (rows < y + half) & (columns >= x - half) & (columns < x + half)
        images = images.masked_fill(hole[:, None], 0.0)
    return images


def crop_area(recipe: Recipe, limits: Augmentation) -> float:
    """The least part of the area that random resized crops keep; 0 where crops are of another kind or none."""
    if recipe.resized_crop or not recipe.crop:
        return recipe.resized_crop
    return USUAL_AREA if limits.kind == "random-resized-crop" else 0.0


def boxes(draws: Tensor, sizes: Tensor, least: float) -> Tensor:
    """Boxes (n, 4) of whole numbers: top, left, height, width within images of `sizes` (n, 2: height, width).

    `draws` (n, `DRAWS`) are uniform in [0, 1). The area is uniform between `least` and the whole, the logarithm of the
    aspect ratio uniform in `ASPECT` (Szegedy et al., CVPR 2015, as torchvision's `RandomResizedCrop` draws them).
    """
    height, width = sizes.to(draws.dtype).T[:, :, None]
    area, aspect, place = draws.split_with_sizes([ATTEMPTS, ATTEMPTS, 2], 1)
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    area = height * width * (least + (1 - least) * area)
    aspect = torch.exp(low + (high - low) * aspect)
    widths, heights = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    # The first draw that fits: argmax gives the first of several greatest values.
    first = fits.int().argmax(1, keepdim=True)
    any_fits = fits.any(1, keepdim=True)
    # The rest of torchvision's rule: as much as there is of an acceptable shape, from the middle.
    h = torch.where(any_fits, heights.gather(1, first), torch.minimum(height, (width / ASPECT[0]).round()))
    w = torch.where(any_fits, widths.gather(1, first), torch.minimum(width, (height * ASPECT[1]).round()))
    room = torch.cat([height - h, width - w], 1)
    corner = torch.where(any_fits, (place * (room + 1)).floor(), (room / 2).floor())
    return torch.cat([corner, h, w], 1).long()


def resized(images: Tensor, parts: Tensor) -> Tensor:
    """What is in the boxes `parts` (n, 4: top, left, height, width), bilinearly enlarged to the size of `images`."""
    _, _, height, width = images.shape
    top, left, h, w = parts.to(images.dtype).T[:, :, None]

    def sources(first: Tensor, extent: Tensor, size: int) -> Tensor:
        """Where each of `size` outputs looks, in pixels; never outside the box. Shape (n, size)."""
        centres = (torch.arange(size, device=images.device, dtype=images.dtype) + 0.5) * (extent / size) - 0.5
        return first + torch.minimum(centres.clamp_min(0.0), extent - 1)

    # grid_sample without aligned corners wants the centre of pixel p of s at (2 p + 1) / s - 1.
    y = (2 * sources(top, h, height) + 1) / height - 1
    x = (2 * sources(left, w, width) + 1) / width - 1
    shape = (len(images), height, width)
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], 3)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def jittered(images: Tensor, amounts: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue varied by up to `amounts`: a factor for every image, in an order drawn
    for the batch.

    The definitions are those of torchvision's `ColorJitter`. Grey images have no saturation or hue to vary.
    """
    n = len(images)
    steps = (brightness, contrast, saturation, hue)
    draws = torch.rand(len(steps), n, generator=generator)
    for which in torch.randperm(len(steps), generator=generator).tolist():
        amount = amounts[which]
        if not amount or (images.shape[1] != 3 and which >= 2):
            continue
        centre = 0.0 if steps[which] is hue else 1.0
        least = centre - amount if steps[which] is hue else max(0.0, 1.0 - amount)
        factor = least + (centre + amount - least) * draws[which]
        images = steps[which](images, factor.to(images.device)[:, None, None, None])
    return images


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp(0.0, 1.0)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from the image's mean grey."""
    return _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from the grey image."""
    return _blend(images, _grey(images), factor)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Colours turned by `shift` of a whole circle, -0.5 to 0.5; value and saturation stay."""
    value, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - low
    red, green, blue = (images / chroma.clamp_min(1e-12)).split_with_sizes([1, 1, 1], 1)
    sixths = torch.where(
        images[:, :1] == value, green - blue, torch.where(images[:, 1:2] == value, 2 + blue - red, 4 + red - green)
    )
    turned = (torch.where(chroma > 0, sixths, 0.0) + 6 * shift) % 6
    # Each channel falls from the value by the chroma where the hue is far from it (5, 3, 1: red, green, blue).
    away = (torch.tensor([5.0, 3.0, 1.0], device=images.device)[None, :, None, None] + turned) % 6
    return value - chroma * torch.minimum(away, 4 - away).clamp(0.0, 1.0)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] != len(LUMA):
        return images.mean(1, keepdim=True)
    return (images * torch.tensor(LUMA, device=images.device)[None, :, None, None]).sum(1, keepdim=True)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * other).clamp(0.0, 1.0)
