"""The official files of CIFAR, SVHN, MNIST and Flowers-102: real images in the same layout, against torchvision."""

from __future__ import annotations

import codecs
import hashlib
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets as torchvision_datasets

from models.datasets import pickles, registry
from models.errors import DataError
from tests.models.datasets_support import (
    as_pixels,
    old_pickle,
    sample_arrays,
    sample_paths,
    write_cifar10,
    write_idx,
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("NASROB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NASROB_DATA", str(tmp_path / "data"))
    registry.forget()
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


class TestCifar:
    def test_batches_as_the_authors_pickled_them(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        written = write_cifar10(root)
        folder = root / "cifar-10-batches-py"
        for split, (images, labels) in written.items():
            examples = registry.load("cifar10", split)
            assert examples.labels.tolist() == labels
            assert np.array_equal(examples.images, as_pixels(images))
            assert examples.image_shape == (3, 32, 32)
            assert "not the official file: it holds" in examples.notes[0]
            assert sorted(examples.order.tolist()) == list(range(10))
        # torchvision reads the same files, once it is told that their MD5 is right.
        meta = {"label_names": list(registry.find("cifar10").classes)}
        (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
        kind = torchvision_datasets.CIFAR10
        monkeypatch.setattr(kind, "train_list", [[name, md5(folder / name)] for name, _ in kind.train_list])
        monkeypatch.setattr(kind, "test_list", [["test_batch", md5(folder / "test_batch")]])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / "batches.meta")})
        reference = kind(str(root), train=True)
        ours = registry.load("cifar10", "train")
        assert reference.targets == ours.labels.tolist()
        assert np.array_equal(as_pixels(reference.data), ours.images)
        assert tuple(reference.classes) == ours.classes

    @pytest.mark.parametrize("protocol", range(6))
    def test_cifar100_from_every_protocol(self, root: Path, protocol: int) -> None:
        images, labels = sample_arrays("cifar100")
        rows = images.transpose(0, 3, 1, 2).reshape(20, -1)
        folder = root / "cifar100" / "cifar-100-python"
        folder.mkdir(parents=True)
        batch = {"data": rows, "fine_labels": labels, "coarse_labels": [0] * 20, "filenames": ["x"] * 20}
        (folder / "test").write_bytes(pickle.dumps(batch, protocol=protocol))
        examples = registry.load("cifar100", "test")
        assert examples.labels.tolist() == labels
        assert np.array_equal(examples.images, as_pixels(images))
        assert examples.classes[labels[0]] == "mountain"

    def test_our_reading_of_an_old_pickle_is_pythons(self) -> None:
        images, labels = sample_arrays("cifar10")
        content = old_pickle("labels", images, labels)
        reference = pickle.loads(content, encoding="latin1")
        ours = pickles.loads(content)
        assert ours["labels"] == reference["labels"] == labels
        assert np.array_equal(ours["data"], reference["data"])

    def test_wrong_md5_of_a_whole_file_is_damage(self, root: Path) -> None:
        write_cifar10(root)
        images = np.zeros((10000, 32, 32, 3), np.uint8)
        path = root / "cifar-10-batches-py" / "test_batch"
        rows = images.reshape(10000, -1)
        path.write_bytes(pickle.dumps({"data": rows, "labels": [0] * 10000}, protocol=5))
        with pytest.raises(
            DataError, match=r"test_batch is damaged \(its MD5 is not the official 40351d58.*--download"
        ):
            registry.load("cifar10", "test")

    def test_truncated_pickle_is_damage(self, root: Path) -> None:
        write_cifar10(root)
        path = root / "cifar-10-batches-py" / "test_batch"
        whole = path.read_bytes()
        for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            registry.forget()
            with pytest.raises(DataError, match=r"test_batch is damaged .*get it again"):
                registry.load("cifar10", "test")

    def test_missing_batch_is_named(self, root: Path) -> None:
        write_cifar10(root)
        (root / "cifar-10-batches-py" / "data_batch_3").unlink()
        with pytest.raises(DataError, match="data_batch_3 is missing"):
            registry.load("cifar10", "train")

    @pytest.mark.parametrize(
        "batch",
        [
            {"labels": [0]},
            {"data": np.zeros((1, 3072), np.uint8)},
            {"data": np.zeros((2, 3072), np.uint8), "labels": [0]},
            {"data": np.zeros((1, 3072), np.float32), "labels": [0]},
            {"data": np.zeros((1, 3072), np.uint8), "labels": [10]},
            {"data": np.zeros((1, 3072), np.uint8), "labels": ["0"]},
            {"data": [0] * 3072, "labels": [0]},
            {"data": np.zeros((1, 3072), np.uint8), "labels": 0},
            ["data", "labels"],
        ],
    )
    def test_other_content_is_damage(self, root: Path, batch: object) -> None:
        write_cifar10(root)
        (root / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(batch))
        with pytest.raises(DataError, match="test_batch is damaged"):
            registry.load("cifar10", "test")


class Evil:
    """Pickles to a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


class Foreign:
    """A class that plain data do not need."""


class TestMaliciousPickle:
    @pytest.mark.parametrize("protocol", [0, 2, 4, 5])
    def test_nothing_in_it_is_run(self, root: Path, tmp_path: Path, protocol: int) -> None:
        write_cifar10(root)
        path = root / "cifar-10-batches-py" / "test_batch"
        witness = tmp_path / "witness"
        plain = {"data": np.zeros((1, 3072), np.uint8), "labels": [0]}
        for evil in (
            Evil(os.system, f"touch {witness}"),
            Evil(os.mkdir, str(witness)),
            Evil(eval, f"open({str(witness)!r}, 'w')"),
            Evil(codecs.encode, "x", "rot13"),
            Evil(np.load, str(witness)),
            Foreign(),
            np.array([{}], dtype=object),
        ):
            path.write_bytes(pickle.dumps({**plain, "more": evil}, protocol=protocol))
            registry.forget()
            with pytest.raises(DataError, match=r"test_batch is damaged \(it (asks for|encodes|holds)"):
                registry.load("cifar10", "test")
            assert not witness.exists()

    def test_the_witness_would_be_there(self, tmp_path: Path) -> None:
        """Python's own unpickler runs the same bytes."""
        pickle.loads(pickle.dumps(Evil(os.mkdir, str(tmp_path / "witness"))))
        assert (tmp_path / "witness").exists()

    def test_state_of_numpys_classes_is_not_taken_from_the_file(self) -> None:
        """NumPy trusts flags, types and shapes in a pickle; ours takes only types of numbers and shapes that fit."""
        good = pickle.dumps({"data": np.arange(6, dtype="<u2").reshape(2, 3)}, protocol=2)
        assert pickles.loads(good)["data"].tolist() == [[0, 1, 2], [3, 4, 5]]
        for old, new in ((b"u2", b"O8"), (b"u2", b"V2"), (b"K\x02K\x03\x86", b"K\x02K\x04\x86"), (b"<", b"!")):
            assert old in good
            with pytest.raises(ValueError, match="it holds"):
                pickles.loads(good.replace(old, new, 1))

    def test_references_to_outside_are_refused(self) -> None:
        with pytest.raises(ValueError, match="outside itself"):
            pickles.loads(b"\x80\x02}(U\x01aU\x01bQu.")


class TestSvhn:
    def write(self, root: Path, split: str = "test") -> Path:
        from scipy.io import savemat

        images, _ = sample_arrays("cifar10")
        path = root / f"{split}_32x32.mat"
        digits = np.array([[(i % 10) + 1] for i in range(20)], np.uint8)
        savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": digits}, do_compression=True)
        return path

    def test_is_read_as_torchvision_reads_it(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = self.write(root)
        examples = registry.load("svhn", "test")
        assert examples.labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
        kind = torchvision_datasets.SVHN
        monkeypatch.setattr(kind, "split_list", {"test": ["", path.name, md5(path)]})
        reference = kind(str(root), split="test")
        assert np.array_equal(reference.labels, examples.labels)
        assert np.array_equal(reference.data.astype(np.float32) / np.float32(255), examples.images)
        assert "20 examples, not 26032" in examples.notes[0]

    def test_damaged_files(self, root: Path) -> None:
        from scipy.io import savemat

        path = self.write(root)
        whole = path.read_bytes()
        for content in (whole[: len(whole) // 2], b"", b"not a MATLAB file" * 20):
            path.write_bytes(content)
            registry.forget()
            with pytest.raises(DataError, match=r"test_32x32.mat is damaged .*--download"):
                registry.load("svhn", "test")
        for variables in ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, {"X": np.zeros((8, 8)), "y": np.zeros(3)}):
            savemat(path, variables)
            registry.forget()
            with pytest.raises(DataError, match=r"test_32x32.mat is damaged"):
                registry.load("svhn", "test")

    def test_without_scipy(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write(root)
        monkeypatch.setitem(sys.modules, "scipy.io", None)
        with pytest.raises(DataError, match="pip install scipy"):
            registry.load("svhn", "test")


class TestMnist:
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize(
        ("name", "prefix", "folder"),
        [("mnist", "mnist", "MNIST/raw"), ("fashion-mnist", "fashionMNIST", "fashion-mnist")],
    )
    def test_is_read_packed_and_unpacked(self, root: Path, packed: bool, name: str, prefix: str, folder: str) -> None:
        images, labels = sample_arrays(prefix)
        write_idx(root / folder, "t10k", images, labels, packed=packed)
        examples = registry.load(name, "test")
        assert examples.labels.tolist() == labels
        assert np.array_equal(examples.images, as_pixels(images))
        assert "20 examples, not 10000" in examples.notes[0]

    def test_is_read_as_torchvision_reads_it(self, root: Path) -> None:
        images, labels = sample_arrays("mnist")
        for stem in ("train", "t10k"):
            write_idx(root / "MNIST/raw", stem, images, labels, packed=False)
        reference = torchvision_datasets.MNIST(str(root), train=False)
        examples = registry.load("mnist", "test")
        assert np.array_equal(reference.data.numpy(), (examples.images[:, 0] * 255).round().astype(np.uint8))
        assert reference.targets.tolist() == examples.labels.tolist()

    def test_damaged_files(self, root: Path) -> None:
        images, labels = sample_arrays("mnist")
        write_idx(root / "mnist", "t10k", images, labels, packed=True)
        packed = root / "mnist" / "t10k-images-idx3-ubyte.gz"
        whole = packed.read_bytes()
        for content in (
            whole[:-20],
            whole[: len(whole) // 2],
            b"",
            b"no archive",
            whole[:40] + b"\0" * 40 + whole[80:],
        ):
            packed.write_bytes(content)
            registry.forget()
            with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.gz is damaged"):
                registry.load("mnist", "test")
        packed.unlink()
        write_idx(root / "mnist", "t10k", images, labels, packed=False)
        (root / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
        plain = root / "mnist" / "t10k-images-idx3-ubyte"
        whole = plain.read_bytes()
        for content in (whole[:-1], whole + b"\0", whole[:10], b"\0\0\x0d\x03" + whole[4:]):
            plain.write_bytes(content)
            registry.forget()
            with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte is damaged"):
                registry.load("mnist", "test")
        plain.write_bytes(whole)
        write_idx(root / "mnist", "t10k", images[:5], labels, packed=False)
        registry.forget()
        with pytest.raises(DataError, match=r"5 images and 20 labels"):
            registry.load("mnist", "test")
        (root / "mnist" / "t10k-labels-idx1-ubyte").unlink()
        registry.forget()
        with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte is missing"):
            registry.load("mnist", "test")


class TestFlowers:
    def write(self, root: Path) -> Path:
        from scipy.io import savemat

        folder = root / "flowers-102"
        (folder / "jpg").mkdir(parents=True)
        for i, (path, _) in enumerate(sample_paths("imagenet")[:9], 1):
            shutil.copyfile(path, folder / "jpg" / f"image_{i:05d}.jpg")
        savemat(folder / "imagelabels.mat", {"labels": np.array([[77, 102, 1, 1, 2, 2, 3, 4, 5]], np.uint8)})
        sets = {"trnid": [[3, 1]], "valid": [[4, 5]], "tstid": [[9, 2, 5, 6, 7, 8]]}
        savemat(folder / "setid.mat", {key: np.array(value, np.uint16) for key, value in sets.items()})
        return folder

    def test_is_read_as_torchvision_reads_it(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from torchvision import transforms

        folder = self.write(root)
        files = {"label": "imagelabels.mat", "setid": "setid.mat"}
        monkeypatch.setattr(
            torchvision_datasets.Flowers102, "_file_dict", {k: (v, md5(folder / v)) for k, v in files.items()}
        )
        steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
        for split, n in (("train", 2), ("val", 2), ("test", 6)):
            examples = registry.load("flowers102", split)
            reference = torchvision_datasets.Flowers102(str(root), split, transform=transforms.Compose(steps))
            # torchvision keeps the order of the list, we that of the file names.
            order = np.argsort([Path(p).name for p in reference._image_files])
            assert len(examples) == n
            assert examples.labels.tolist() == [reference[i][1] for i in order]
            assert np.array_equal(examples.images, np.stack([reference[i][0].numpy() for i in order]))
            assert f"{n} of the" in examples.notes[0]
        assert registry.load("flowers102", "train").classes[76] == "passion flower"

    def test_damaged_copies(self, root: Path) -> None:
        folder = self.write(root)
        (folder / "jpg" / "image_00003.jpg").unlink()
        with pytest.raises(DataError, match=r"image_00003\.jpg"):
            registry.load("flowers102", "train").images.sum()
        (folder / "imagelabels.mat").write_bytes((folder / "setid.mat").read_bytes())
        registry.forget()
        with pytest.raises(DataError, match=r"imagelabels.mat is damaged \(it has no 'labels'"):
            registry.load("flowers102", "train")
        (folder / "imagelabels.mat").unlink()
        registry.forget()
        with pytest.raises(DataError, match=r"imagelabels\.mat is missing"):
            registry.load("flowers102", "train")


@pytest.mark.parametrize(
    ("name", "split", "layout"),
    [
        ("cifar10", "test", "cifar-10-batches-py/"),
        ("cifar100", "train", "cifar-100-python/"),
        ("svhn", "test", "test_32x32.mat"),
        ("mnist", "train", "MNIST/raw/"),
        ("flowers102", "val", "flowers-102/"),
        ("tiny-imagenet", "test", "tiny-imagenet-200/"),
        ("imagenet", "test", "imagenet/val/<wnid>"),
    ],
)
def test_missing_dataset_is_one_sentence(root: Path, name: str, split: str, layout: str) -> None:
    with pytest.raises(DataError) as caught:
        registry.load(name, split)
    message = str(caught.value)
    assert f"looked in {root} for" in message
    assert layout in message
    assert "NASROB_DATA" in message
    fetched = f"`nasrob-tui datasets {name} --download` fetches it"
    assert (fetched in message) == (name != "imagenet")
    assert "\n" not in message


def test_md5s_are_those_of_torchvision() -> None:
    def files(name: str, split: str) -> dict[str, str]:
        found: dict[str, str] = registry.find(name).options["files"][split]
        return found

    for name, kind in (("cifar10", torchvision_datasets.CIFAR10), ("cifar100", torchvision_datasets.CIFAR100)):
        assert [list(pair) for pair in files(name, "train").items()] == kind.train_list
        assert [list(pair) for pair in files(name, "test").items()] == kind.test_list
    for split in ("train", "test"):
        _, *pair = torchvision_datasets.SVHN.split_list[split]
        assert list(next(iter(files("svhn", split).items()))) == pair
    theirs: dict[str, Any] = torchvision_datasets.Flowers102._file_dict
    assert list(files("flowers102", "labels").items()) == [theirs["label"], theirs["setid"]]
    assert registry.find("flowers102").classes == tuple(torchvision_datasets.Flowers102.classes)
    assert registry.find("fashion-mnist").classes == tuple(torchvision_datasets.FashionMNIST.classes)
