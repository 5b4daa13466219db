"""Resizing and cropping, against torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from models.datasets import registry
from models.datasets.geometry import Geometry
from models.datasets.images import ArrayImages, FileImages
from models.errors import DataError, InvalidSpec
from tests.models.datasets_support import sample_arrays, sample_paths


def theirs(geometry: Geometry) -> transforms.Compose:
    kind = transforms.InterpolationMode(geometry.interpolation)
    steps = [] if geometry.resize is None else [transforms.Resize(geometry.resize, kind)]
    return transforms.Compose([*steps, transforms.CenterCrop(geometry.crop), transforms.ToTensor()])


@pytest.mark.parametrize(
    "text",
    [
        "resize=256,crop=224,interpolation=bilinear",
        "resize=232,crop=224,interpolation=bicubic",
        "resize=73,crop=63,interpolation=bicubic",
        "resize=none,crop=101,interpolation=bilinear",
    ],
)
def test_pixels_are_torchvisions_to_the_bit(text: str, tmp_path: Path) -> None:
    geometry = Geometry.parse(text)
    paths = [path for path, _ in sample_paths("imagenet")]
    # Upright photographs too, and odd differences between image and crop.
    turned = tmp_path / "turned.png"
    Image.open(paths[0]).convert("RGB").transpose(Image.Transpose.ROTATE_90).crop((0, 0, 187, 243)).save(turned)
    paths.append(turned)
    ours = FileImages([p.name for p in paths], [str(p) for p in paths], (3, 1, 1), geometry).pixels(range(len(paths)))
    transform = theirs(geometry)
    for row, path in zip(ours, paths, strict=True):
        assert torch.equal(torch.from_numpy(row), transform(Image.open(path).convert("RGB"))), path.name


@pytest.mark.parametrize(("prefix", "interpolation"), [("cifar10", "bilinear"), ("mnist", "bicubic")])
def test_images_in_memory_are_resized_in_the_same_way(prefix: str, interpolation: str) -> None:
    geometry = Geometry.parse(f"resize=96,crop=90,interpolation={interpolation}")
    images, _ = sample_arrays(prefix)
    planes = images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    ours = ArrayImages(planes, geometry).pixels([3, 0])
    transform = theirs(geometry)
    for row, i in zip(ours, (3, 0), strict=True):
        assert torch.equal(torch.from_numpy(row), transform(Image.fromarray(images[i])))


def test_bytes_become_pixels_as_torchvision_has_it() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(
        torch.from_numpy(ArrayImages(every).pixels([0])[0]), transforms.ToTensor()(Image.fromarray(every[0, 0]))
    )


def test_digits_can_be_enlarged() -> None:
    dataset = registry.find("digits@size=32")
    assert (dataset.image_shape, dataset.small) == ((1, 32, 32), False)
    large, stored = registry.load(dataset.name, "test"), registry.load("digits", "test")
    assert np.array_equal(large.order, stored.order)
    assert large.fingerprint != stored.fingerprint
    image = Image.fromarray(stored.images[7, 0])
    expected = transforms.Resize(32)(image)
    assert np.array_equal(large.pixels([7])[0, 0], np.asarray(expected))
    assert large.images.shape == (500, 1, 32, 32)
    assert float(large.pixels(range(50)).max()) <= 1


def test_names_carry_the_geometry_and_read_back() -> None:
    for asked, text in (
        ("imagenet@size=288", "imagenet@resize=329,crop=288,interpolation=bilinear"),
        ("ImageNet@interpolation=bicubic", "imagenet@resize=256,crop=224,interpolation=bicubic"),
        ("imagenet@resize=232", "imagenet@resize=232,crop=224,interpolation=bilinear"),
        ("imagenet@crop=224", "imagenet"),
        ("cifar10@size=224", "cifar10@resize=224,crop=224,interpolation=bilinear"),
        ("tiny-imagenet@resize=256,crop=224", "tiny-imagenet@resize=256,crop=224,interpolation=bilinear"),
        ("imagenet@resize=none,crop=64", "imagenet@resize=none,crop=64,interpolation=bilinear"),
    ):
        dataset = registry.find(asked)
        assert dataset.name == text
        assert registry.find(text) == dataset
        assert dataset.image_shape[1] == dataset.image_shape[2]
    cifar = registry.find("cifar10@size=224")
    assert cifar.augmentation.crop_padding == 28
    assert cifar.augmentation.cutout == 112
    assert cifar.labels_of == "cifar10"
    assert Geometry.parse("224") == Geometry(256, 224)
    again = cifar.with_geometry(Geometry(40, 32))
    assert again == registry.find("cifar10@resize=40,crop=32")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagenet@size=0", "number of pixels"),
        ("imagenet@size=-3", "number of pixels"),
        ("imagenet@size=2e2", "number of pixels"),
        ("imagenet@size=5000", "1 to 4096"),
        ("imagenet@resize=200", "does not fit"),
        ("imagenet@size=224,crop=224", "the same"),
        ("imagenet@interpolation=nearest", "bilinear or bicubic"),
        ("imagenet@sides=3", "no option"),
        ("cifar10@interpolation=bicubic", "say the side"),
        ("imagenet@", "no options after the @"),
    ],
)
def test_geometry_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        registry.find(text)


def test_image_smaller_than_the_crop_is_named() -> None:
    path = sample_paths("cifar10")[0][0]
    images = FileImages(["a"], [str(path)], (3, 1, 1), Geometry(None, 64))
    with pytest.raises(DataError, match=rf"{path.name} is 32x32 pixels.*resize=73"):
        images.pixels([0])
