"""The shipped digits, and the random numbers, against outside truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.attacks import registry as attacks
from models.attacks.random import key_of, philox4x32, uniform
from models.datasets import registry as datasets
from models.datasets.registry import Examples
from models.errors import DataError, InvalidSpec
from models.specs import AttackSpec, Radius


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    reference = load_digits()
    stored = {split: datasets.load("digits", split) for split in ("train", "test")}
    images = np.concatenate([e.images for e in stored.values()])[:, 0] * 16
    labels = np.concatenate([e.labels for e in stored.values()])
    ours = sorted((image.tobytes(), int(label)) for image, label in zip(images.astype(np.uint8), labels, strict=True))
    theirs = sorted(
        (image.tobytes(), int(label))
        for image, label in zip(reference.images.astype(np.uint8), reference.target, strict=True)
    )
    assert ours == theirs
    assert len(ours) == 1797


def test_every_tenth_prefix_of_the_test_split_is_class_balanced() -> None:
    labels = datasets.load("digits", "test").labels
    for n in (10, 100, 500):
        assert np.array_equal(np.bincount(labels[:n]), np.full(10, n // 10))


def test_normalisation_is_that_of_the_training_images() -> None:
    images = datasets.load("digits", "train").images
    preprocessing = datasets.find("digits").preprocessing
    assert images.mean() == pytest.approx(preprocessing.mean[0], abs=1e-4)
    assert images.std() == pytest.approx(preprocessing.std[0], abs=1e-4)


def test_fingerprint_is_stable_and_sees_every_bit() -> None:
    assert datasets.load("digits", "test").identifier == "digits/test#4292cfef"
    images = np.zeros((2, 2), np.uint8)
    labels = np.zeros(2, np.uint8)
    base = datasets.fingerprint(images, labels)
    changed = images.copy()
    changed[0, 0] = 1
    assert datasets.fingerprint(changed, labels) != base
    assert datasets.fingerprint(images.reshape(4, 1), labels) != base


def test_images_outside_the_unit_range_are_refused() -> None:
    images = np.full((1, 1, 2, 2), 1.5, np.float32)
    for bad in (images, images - 2, images * np.float32(np.nan)):
        with pytest.raises(DataError, match=r"\[0, 1\] pixels"):
            Examples("x", "test", bad, np.zeros(1, np.int64), 2, "0")


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    """The test vectors of Random123 (philox4x32, 10 rounds)."""
    words = philox4x32([torch.tensor([c]) for c in counter], key)
    assert tuple(int(w) for w in words) == expected


def test_uniform_numbers_belong_to_seed_attack_restart_and_index() -> None:
    def draw(seed: int = 0, name: str = "pgd", restart: int = 0, n: int = 5, number: int = 0) -> torch.Tensor:
        return uniform(key_of(seed, name), torch.arange(n), torch.full((n,), restart), (1, 3, 3), draw=number)

    base = draw()
    assert torch.equal(draw(n=9)[:5], base), "not to the size of the batch"
    for other in (draw(seed=1), draw(name="f-fgsm"), draw(restart=1), draw(number=1)):
        assert not (other == base).any()
    many = draw(n=4000).flatten()
    assert many.min() >= 0
    assert many.max() < 1
    assert many.mean() == pytest.approx(0.5, abs=0.01)
    assert many.var() == pytest.approx(1 / 12, abs=0.003)


def test_radius_keeps_the_text_and_the_exact_value() -> None:
    assert Radius.parse("8/255").value == 8 / 255
    assert str(Radius.parse(" 8 / 255 ")) == "8/255"
    assert Radius.parse("0.031").value != Radius.parse("8/255").value
    assert Radius.parse("1e-3").value == 0.001
    for bad in ("", "8/255/2", "inf", "nan", "-0.1", "1.01", "8/-255", "0x10", "1_0", "8 255"):
        with pytest.raises(InvalidSpec):
            Radius.parse(bad)


def test_attack_settings_are_the_published_ones() -> None:
    fgsm, ffgsm, pgd = (attacks.resolve(name) for name in ("fgsm", "f-fgsm", "pgd"))
    assert (fgsm.steps, fgsm.random_start, fgsm.step_size.value) == (1, False, 8 / 255)
    assert (ffgsm.steps, ffgsm.random_start) == (1, True)
    assert ffgsm.step_size.value == pytest.approx(1.25 * 8 / 255)
    assert (pgd.steps, pgd.restarts, pgd.random_start, pgd.step_size.text) == (10, 1, True, "2/255")
    assert {a.threat_space for a in (fgsm, ffgsm, pgd)} == {"pixel"}
    assert {a.verdict for a in (fgsm, ffgsm, pgd)} == {"worst"}


@pytest.mark.parametrize("text", ["pgd", "fgsm", "f-fgsm@eps=3/255", "pgd-7", "pgd@eps=0.1,restarts=2,step_size=1/255"])
def test_attack_survives_the_way_to_json_and_back(text: str) -> None:
    spec = attacks.resolve(text, seed=3)
    again = AttackSpec.from_dict(spec.to_dict())
    assert again == spec
    assert again.identity == spec.identity


def test_identity_goes_by_value_not_by_spelling() -> None:
    assert attacks.resolve("pgd", eps="16/510").identity == attacks.resolve("PGD", eps="8/255").identity
    assert attacks.resolve("pgd", eps="0.031").identity != attacks.resolve("pgd").identity
