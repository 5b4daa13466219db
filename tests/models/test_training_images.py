"""How training images are fed and varied: nothing lost on the way, the same draws everywhere, as in torchvision."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import functional as torchvision

from models.datasets.examples import Examples
from models.datasets.images import ArrayImages
from models.datasets.registry import Augmentation
from models.errors import DataError
from models.training import augment, feeding, recipes

CPU = torch.device("cpu")
PHOTOGRAPHS = Augmentation(0, True, 0, "random-resized-crop")


class Photographs(ArrayImages):
    """Stored images of different sizes, of which the centre 8x8 is seen."""

    def __init__(self, n: int) -> None:
        random = np.random.default_rng(0)
        self.stored = [random.integers(0, 256, (3, 9 + i % 5, 8 + i % 3), np.uint8) for i in range(n)]
        super().__init__(np.stack([image[:, :8, :8] for image in self.stored]))

    def original(self, position: int) -> NDArray[Any]:
        return self.stored[position]


def examples_of(images: Any) -> Examples:
    return Examples("made-up", "train", images, np.zeros(len(images), np.int64), 2, "0" * 64)


def random_images(n: int, *, side: int = 6) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (n, 3, side, side), np.uint8)


def all_batches(feed: feeding.Feed, n: int, size: int = 7, seed: int = 0) -> torch.Tensor:
    order = np.random.default_rng(2).permutation(n)
    return torch.cat(list(feed.batches([order[i : i + size] for i in range(0, n, size)], seed)))


@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("piece", [0, 4])
def test_streamed_images_are_those_in_memory(readers: int, piece: int) -> None:
    examples = examples_of(random_images(50))
    resident = feeding.feed(examples, CPU)
    assert isinstance(resident, feeding.Resident)
    streamed = feeding.Streamed(lambda positions, seed: examples.pixels(positions), CPU, readers, piece)
    assert torch.equal(all_batches(streamed, 50), all_batches(resident, 50))


def test_large_sets_are_packed_without_loss_or_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(40)
    examples = examples_of(images)
    exact = all_batches(feeding.feed(examples, CPU), 40)
    monkeypatch.setattr(Examples, "in_memory", False)
    packed = feeding.feed(examples, CPU)
    assert isinstance(packed, feeding.Resident)
    assert packed.images.dtype == torch.uint8
    assert torch.equal(all_batches(packed, 40), exact)
    assert isinstance(feeding.feed(examples, CPU, once=True), feeding.Streamed)
    # Not whole 255ths, and not room enough: read as they are needed.
    assert isinstance(feeding.feed(examples_of(images.astype(np.float32) / 256), CPU), feeding.Streamed)
    monkeypatch.setattr(feeding, "_free", lambda device: 4 * images.nbytes - 1)
    streamed = feeding.feed(examples, CPU)
    assert isinstance(streamed, feeding.Streamed)
    assert torch.equal(all_batches(streamed, 40), exact)


def test_pixels_that_are_no_bytes_are_not_rounded() -> None:
    exact = examples_of(random_images(5).astype(np.float32) / np.float32(255))
    assert feeding.packed(exact).dtype == torch.uint8
    sixteenths = examples_of(np.full((5, 1, 2, 2), 3 / 16, np.float32))
    assert torch.equal(feeding.packed(sixteenths), torch.full((5, 1, 2, 2), 3 / 16))


def test_reading_ahead_stops_with_the_training_and_passes_errors_on() -> None:
    read = []

    def broken(positions: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
        read.append(int(positions[0]))
        if positions[0] == 3:
            raise DataError("a damaged file")
        return np.zeros((len(positions), 1, 2, 2), np.float32)

    batches = [np.array([i]) for i in range(20)]
    stream = feeding.Streamed(broken, CPU).batches(batches)
    for _ in range(3):
        next(stream)
    with pytest.raises(DataError, match="damaged"):
        next(stream)
    early = feeding.Streamed(broken, CPU).batches(batches[5:])
    next(early)
    early.close()
    assert len(read) < 14
    assert not any(thread.name.startswith("read-images") for thread in threading.enumerate())


def test_photographs_are_cropped_out_of_the_whole_image_the_same_in_any_thread() -> None:
    examples = examples_of(Photographs(30))
    one = feeding.Streamed(lambda p, seed: feeding.cropped(examples, p, seed, 0.3), CPU, 1, 0)
    many = feeding.feed(examples, CPU, crop=0.3)
    first = all_batches(many, 30, seed=5)
    assert first.shape == (30, 3, 8, 8)
    assert torch.equal(first, all_batches(one, 30, size=11, seed=5))
    assert not torch.equal(first, all_batches(one, 30, seed=6))
    alike = Photographs(6)
    alike.stored = alike.stored[:1] * 6
    parts = feeding.cropped(examples_of(alike), np.arange(6), 0, 0.1)
    assert len({part.tobytes() for part in parts}) > 3


def test_crops_of_photographs_are_those_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    photographs = Photographs(4)
    parts = torch.tensor([[1, 0, 5, 7], [0, 2, 9, 3], [2, 1, 8, 8], [0, 0, 3, 3]])
    monkeypatch.setattr(feeding, "boxes", lambda *_: parts)
    found = feeding.cropped(examples_of(photographs), np.arange(4), 0, 0.08)
    for image, part, pixels in zip(photographs.stored, parts.tolist(), found, strict=True):
        whole = Image.fromarray(image.transpose(1, 2, 0))
        expected = torchvision.to_tensor(torchvision.resized_crop(whole, *part, size=[8, 8]))
        assert torch.equal(torch.from_numpy(pixels), expected)


def test_boxes_are_drawn_as_torchvision_says() -> None:
    """Uniform area, log-uniform shape, inside the image; for a shape that never fits, all there is from the middle."""
    sizes = torch.tensor([[224, 224]]).expand(4000, 2)
    found = augment.boxes(torch.rand(4000, augment.DRAWS, generator=torch.Generator().manual_seed(0)), sizes, 0.08)
    top, left, height, width = found.double().T
    assert bool((top >= 0).all() and (left >= 0).all() and (top + height <= 224).all() and (left + width <= 224).all())
    area, aspect = height * width / 224**2, width / height
    assert float(area.min()) == pytest.approx(0.08, abs=0.01)
    assert float(aspect.min()) == pytest.approx(3 / 4, abs=0.02)
    assert float(aspect.max()) == pytest.approx(4 / 3, abs=0.03)
    assert float(aspect.log().mean()) == pytest.approx(0, abs=0.01)
    # Large boxes of an extreme shape do not fit and are drawn again, so the mean is a little below that of U(0.08, 1).
    torch.manual_seed(0)
    peer = torch.tensor([_torchvision_box() for _ in range(2000)]).double()
    assert float(area.mean()) == pytest.approx(float((peer[:, 2] * peer[:, 3]).mean()) / 224**2, abs=0.02)
    assert float(top.mean()) == pytest.approx(float(peer[:, 0].mean()), abs=4)
    narrow = augment.boxes(torch.full((1, augment.DRAWS), 0.99), torch.tensor([[10, 100]]), 0.9)
    assert narrow.tolist() == [[0, 43, 10, 13]]


def _torchvision_box() -> tuple[int, ...]:
    from torchvision.transforms import RandomResizedCrop

    return RandomResizedCrop.get_params(torch.empty(3, 224, 224), [0.08, 1.0], [3 / 4, 4 / 3])


def test_enlarged_parts_are_those_of_torchvision() -> None:
    images = torch.rand(4, 3, 12, 10)
    parts = torch.tensor([[0, 0, 12, 10], [3, 2, 5, 6], [0, 4, 1, 6], [8, 0, 4, 4]])
    for image, part, found in zip(images, parts.tolist(), augment.resized(images, parts), strict=True):
        expected = torchvision.resized_crop(image, *part, size=[12, 10], antialias=True)
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("brightness", "adjust_brightness"),
        ("contrast", "adjust_contrast"),
        ("saturation", "adjust_saturation"),
        ("hue", "adjust_hue"),
    ],
)
def test_colours_vary_as_in_torchvision(name: str, peer: str) -> None:
    images = torch.rand(6, 3, 5, 5)
    images[0] = 0.4
    images[1, :, :2] = images[1, :1, :2]
    factors = torch.linspace(-0.5, 0.5, 6) if name == "hue" else torch.linspace(0.2, 1.8, 6)
    found = getattr(augment, name)(images, factors[:, None, None, None])
    for image, factor, varied in zip(images, factors.tolist(), found, strict=True):
        assert torch.allclose(
            varied, getattr(torchvision, peer)(image, factor), atol=2e-3 if name == "contrast" else 1e-5
        )


def test_jitter_varies_each_image_and_can_be_repeated() -> None:
    recipe = recipes.load("darts-imagenet", None, {"resized_crop": 0, "mirror": False})
    images = torch.rand(5, 3, 6, 6)
    images[1:] = images[0]
    one = augment.augment(images, recipe, PHOTOGRAPHS, torch.Generator().manual_seed(0))
    assert torch.equal(one, augment.augment(images, recipe, PHOTOGRAPHS, torch.Generator().manual_seed(0)))
    assert not any(torch.equal(one[0], other) for other in one[1:])
    assert 0 <= float(one.min()) <= float(one.max()) <= 1
    grey = augment.augment(images[:, :1], recipe, PHOTOGRAPHS, torch.Generator().manual_seed(0))
    assert grey.shape == (5, 1, 6, 6)
    assert not torch.equal(grey, images[:, :1])


def test_crops_are_of_the_kind_that_recipe_and_dataset_agree_on() -> None:
    standard, darts = recipes.load("standard", None), recipes.load("darts-imagenet", None)
    stored = Augmentation(4, False, 0)
    assert augment.crop_area(standard, stored) == 0
    assert augment.crop_area(standard, PHOTOGRAPHS) == 0.08
    assert augment.crop_area(darts, stored) == augment.crop_area(darts, PHOTOGRAPHS) == 0.08
    assert augment.crop_area(recipes.load("standard", None, {"crop": False}), PHOTOGRAPHS) == 0
    images = torch.rand(8, 3, 8, 8)
    plain = recipes.load("standard", None, {"mirror": False})
    # Photographs come cropped: here nothing is left to do.
    assert torch.equal(augment.augment(images, plain, PHOTOGRAPHS, torch.Generator()), images)
    enlarged = recipes.load("standard", None, {"mirror": False, "resized_crop": 0.2})
    found = augment.augment(images, enlarged, stored, torch.Generator().manual_seed(0))
    assert found.shape == images.shape
    assert not torch.equal(found, images)


def test_cutout_has_the_side_that_the_recipe_says() -> None:
    recipe = recipes.load("standard", None, {"crop": False, "mirror": False, "cutout": True, "cutout_size": 6})
    found = augment.augment(
        torch.ones(200, 1, 20, 20), recipe, Augmentation(0, False, 4), torch.Generator().manual_seed(0)
    )
    assert int((found == 0).flatten(1).sum(1).max()) == 36
