"""The registry of datasets, the stored order, fingerprints, downloads, and reading during an evaluation."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from numpy.typing import NDArray
from torchvision import datasets as torchvision_datasets
from typer.testing import CliRunner

from models.datasets import fingerprints, official, registry
from models.datasets.examples import MEMORY_BYTES, Examples
from models.datasets.images import ArrayImages, FileImages, Images, Positions
from models.datasets.subsets import balanced_order
from models.errors import DataError, InvalidSpec, UnknownName
from models.evaluation import Evaluator
from tests.models.datasets_support import WNIDS, sample_paths, write_cifar10
from tests.support import Linear, attack, classifier_of, outcomes

FASHION = Path(os.environ.get("NASROB_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
needs_fashion = pytest.mark.skipif(
    not FASHION.exists(), reason="Debian's package dataset-fashion-mnist is not here (NASROB_FASHION_MNIST)"
)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("NASROB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NASROB_DATA", str(tmp_path / "data"))
    registry.forget()
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


class TestRegistry:
    def test_every_entry_is_whole(self) -> None:
        for name, dataset in registry.entries().items():
            assert registry.find(name) is dataset
            assert dataset.name == dataset.slug == name
            assert dataset.test_split in dataset.splits
            assert tuple(dataset.sizes) == dataset.splits
            assert len(dataset.preprocessing.mean) == dataset.image_shape[0]
            assert len(dataset.classes) in (0, dataset.n_classes)
            assert registry.entries()[dataset.labels_of].classes == dataset.classes
            assert registry.entries()[dataset.labels_of].preprocessing == dataset.preprocessing
            assert dataset.source
            assert dataset.license
            assert dataset.description
            assert dataset.image_shape[1] == dataset.image_shape[2]
            if dataset.geometry is not None:
                assert dataset.geometry.crop == dataset.image_shape[1]

    def test_names_are_read_leniently(self) -> None:
        for text, name in (
            ("CIFAR-10", "cifar10"),
            ("Fashion_MNIST", "fashion-mnist"),
            (" TinyImageNet ", "tiny-imagenet"),
        ):
            assert registry.find(text).name == name
        with pytest.raises(UnknownName, match="Did you mean 'cifar10'"):
            registry.find("cifar11")

    def test_splits(self) -> None:
        imagenet = registry.find("imagenet")
        assert imagenet.split_named("test") == imagenet.split_named("val") == "val"
        assert registry.find("flowers102").split_named("test") == "test"
        with pytest.raises(InvalidSpec, match="cifar10 has no split 'val', only train and test\\."):
            registry.find("cifar10").split_named("val")

    def test_classes_of_imagenet_are_in_the_order_of_torchvisions_weights(self) -> None:
        from torchvision.models import ResNet18_Weights

        theirs = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
        ours = registry.class_names()
        assert list(registry.class_wnids()) == sorted(WNIDS)
        assert len(set(WNIDS)) == len(theirs) == 1000
        same = [
            their.lower() in [word.strip().lower() for word in our.split(",")]
            for their, our in zip(theirs, ours, strict=True)
        ]
        # They tell the crane that is a bird and the two kinds of maillot apart.
        assert [theirs[i] for i, ok in enumerate(same) if not ok] == ["crane bird", "maillot tank suit"]

    def test_normalisation_is_the_published_one(self) -> None:
        cifar = registry.find("cifar10").preprocessing
        assert cifar.mean == (0.49139968, 0.48215827, 0.44653124)
        assert cifar.std == (0.24703233, 0.24348505, 0.26158768)
        from torchvision.models import ResNet18_Weights

        preset = ResNet18_Weights.IMAGENET1K_V1.transforms()
        imagenet = registry.find("imagenet")
        assert imagenet.preprocessing.mean == tuple(preset.mean)
        assert imagenet.preprocessing.std == tuple(preset.std)
        assert imagenet.geometry is not None
        assert ([imagenet.geometry.resize], [imagenet.geometry.crop]) == (preset.resize_size, preset.crop_size)
        assert imagenet.geometry.interpolation == preset.interpolation.value

    def test_place_of_the_data(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert registry.data_root() == root
        assert registry.data_root(tmp_path) == tmp_path
        monkeypatch.delenv("NASROB_DATA")
        assert registry.data_root() == tmp_path / "home" / "data"
        monkeypatch.delenv("NASROB_HOME")
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
        if sys.platform == "linux":
            assert registry.data_root() == tmp_path / "xdg" / "nasrob-tui" / "data"

    def test_another_root_is_another_dataset(self, root: Path, tmp_path: Path) -> None:
        write_cifar10(tmp_path / "other")
        assert len(registry.load("cifar10", "test", root=tmp_path / "other")) == 10
        with pytest.raises(DataError, match="not on this machine"):
            registry.load("cifar10", "test")
        assert registry.load("cifar10", "test", root=tmp_path / "other") is registry.load(
            "CIFAR-10", "test", root=tmp_path / "other"
        )

    def test_planning_needs_no_torch(self, root: Path) -> None:
        write_cifar10(root)
        code = (
            "import sys\nfrom models.datasets import registry as r\n"
            "for name in ('cifar10', 'digits', 'foolbox-imagenet', 'foolbox-mnist', 'imagenet@size=288'):\n"
            "    dataset = r.find(name)\n"
            "    if r.locate(dataset, dataset.test_split):\n"
            "        examples = r.load(name, 'test')\n"
            "        examples.subset(5), examples.fingerprint, examples.pixels([0])\n"
            "print(sorted({m.partition('.')[0] for m in sys.modules} & "
            "{'torch', 'torchvision', 'foolbox', 'scipy', 'explorer', 'store', 'textual'}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestOrder:
    @pytest.mark.parametrize("counts", [[10] * 10, [3, 50, 7], [1, 0, 5, 9], [100]])
    def test_every_beginning_is_balanced(self, counts: list[int]) -> None:
        labels = np.repeat(np.arange(len(counts)), counts)
        np.random.default_rng(0).shuffle(labels)
        order = balanced_order(labels, "x/test")
        assert sorted(order.tolist()) == list(range(len(labels)))
        seen = np.zeros(len(counts), int)
        for position in order:
            seen[labels[position]] += 1
            left = seen < counts
            # No class is more than one ahead of a class that still has examples.
            assert not left.any() or seen.max() - seen[left].min() <= 1

    def test_it_is_what_the_documentation_says(self) -> None:
        """Written a second time, slowly, from the docstring."""
        labels = [2, 0, 1, 0, 2, 2, 0, 1, 1, 1, 0, 2, 2]
        draw = {i: hashlib.sha256(f"some/test:{i}".encode()).digest()[:8] for i in range(len(labels))}
        waiting = {c: sorted((i for i in draw if labels[i] == c), key=draw.__getitem__) for c in set(labels)}
        expected: list[int] = []
        while any(waiting.values()):
            expected += sorted((members.pop(0) for members in waiting.values() if members), key=draw.__getitem__)
        assert balanced_order(np.array(labels), "some/test").tolist() == expected

    def test_another_seed_is_another_order(self) -> None:
        labels = np.zeros(50, np.int64)
        assert balanced_order(labels, "a").tolist() != balanced_order(labels, "b").tolist()

    def test_digits_keep_theirs(self) -> None:
        for split, n in (("train", 1297), ("test", 500)):
            examples = registry.load("digits", split)
            assert examples.order.tolist() == list(range(n))
            assert examples.subset(None).tolist() == list(range(n))

    def test_subset_is_the_beginning(self) -> None:
        examples = registry.load("foolbox-cifar10", "test")
        assert examples.subset(7).tolist() == examples.order[:7].tolist()
        assert len(set(examples.labels[examples.subset(8)])) == 8, "all eight classes that are there"
        assert examples.subset(None).tolist() == examples.subset(20).tolist() == examples.order.tolist()
        assert registry.subset_digest(examples.subset(None)) == registry.subset_digest(examples.subset(20))
        for n in (0, -1, 21):
            with pytest.raises(InvalidSpec, match="has 20 examples: ask for 1 to 20"):
                examples.subset(n)
        examples.subset(3)[0] = 99
        assert examples.order[0] != 99


class TestExamples:
    def test_what_does_not_fit_is_refused(self) -> None:
        images = np.zeros((3, 1, 2, 2), np.float32)
        labels = np.array([0, 1, 2])
        for bad_images, bad_labels, n, message in (
            (images[:2], labels, 3, "do not match"),
            (images[:, 0], labels, 3, "do not match"),
            (images, labels, 2, "labels must be 0 to 1"),
            (images, labels - 1, 3, "labels must be 0 to 2"),
            (images[:0], labels[:0], 3, "no examples"),
        ):
            with pytest.raises(DataError, match=message):
                Examples("x", "test", bad_images, bad_labels, n, "0")
        with pytest.raises(DataError, match="3 images and 2 labels"):
            Examples("x", "test", ArrayImages(images), labels[:2], 3)

    def test_counts(self) -> None:
        examples = registry.load("foolbox-mnist", "test")
        assert examples.counts.tolist() == [np.sum(examples.labels == i) for i in range(10)]

    def test_too_many_images_are_read_in_batches(self, root: Path) -> None:
        path, _ = sample_paths("imagenet")[0]
        n = MEMORY_BYTES // (4 * 3 * 224 * 224) + 1
        geometry = registry.find("imagenet").geometry
        many = FileImages([f"{i}" for i in range(n)], [str(path)] * n, (3, 224, 224), geometry)
        examples = Examples("many", "test", many, np.zeros(n, np.int64), 2)
        assert not examples.in_memory
        with pytest.raises(DataError, match=rf"{n} images of 3x224x224, too many to hold at once"):
            examples.images.sum()
        assert examples.pixels([n - 1]).shape == (1, 3, 224, 224)
        assert registry.load("digits", "test").in_memory

    def test_bytes_stay_bytes(self, root: Path) -> None:
        write_cifar10(root)
        examples = registry.load("cifar10", "train")
        assert isinstance(examples._images, ArrayImages)
        assert examples._images.array.dtype == np.uint8
        assert examples.pixels([0, 0]).dtype == examples.images.dtype == np.float32
        first = examples.pixels([0])
        first[:] = 7
        assert examples.pixels([0]).max() <= 1


class TestFingerprint:
    def folder(self, place: Path) -> Path:
        """Six images in three class folders, all of them older than a file system's clock is coarse."""
        for i, (path, _) in enumerate(sample_paths("cifar10")[:6]):
            (place / "abc"[i % 3]).mkdir(parents=True, exist_ok=True)
            copy = place / "abc"[i % 3] / path.name
            shutil.copyfile(path, copy)
            os.utime(copy, (1_600_000_000, 1_600_000_000))
        return place

    def load(self, place: Path) -> Examples:
        registry.forget()
        return registry.load(f"folder:{place}", "test")

    def test_it_is_the_content_not_the_place(self, tmp_path: Path) -> None:
        first, second = self.folder(tmp_path / "one"), self.folder(tmp_path / "deep" / "two")
        fingerprint = self.load(first).fingerprint
        assert self.load(second).fingerprint == fingerprint
        assert self.load(first).order.tolist() == self.load(second).order.tolist()
        small = registry.load(f"folder:{first}@size=64", "test")
        assert small.fingerprint not in (fingerprint, registry.load(f"folder:{first}@size=65", "test").fingerprint)
        rows = [
            f"{p.parent.name}/{p.name}\t{'abc'.index(p.parent.name)}\t{hashlib.sha256(p.read_bytes()).hexdigest()}\n"
            for p in sorted(first.glob("*/*"))
        ]
        content = hashlib.sha256("".join(rows).encode()).hexdigest()
        geometry = "resize=256,crop=224,interpolation=bilinear"
        assert fingerprint == hashlib.sha256(f"{content} {geometry}".encode()).hexdigest()

    def test_every_change_changes_it(self, tmp_path: Path) -> None:
        place = self.folder(tmp_path / "one")
        seen = {self.load(place).fingerprint}
        path = next((place / "a").iterdir())
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))
        seen.add(self.load(place).fingerprint)
        path.write_bytes(content)
        path.rename(place / "b" / path.name)
        seen.add(self.load(place).fingerprint)
        (place / "b" / path.name).rename(place / "a" / "other.png")
        seen.add(self.load(place).fingerprint)
        (place / "a" / "other.png").unlink()
        seen.add(self.load(place).fingerprint)
        assert len(seen) == 5

    def test_each_file_is_read_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        place = self.folder(tmp_path / "one")
        read: list[str] = []
        real = fingerprints.hash_file

        def counted(path: str) -> fingerprints.FileState:
            read.append(path)
            return real(path)

        monkeypatch.setattr(fingerprints, "hash_file", counted)
        told: list[tuple[int, int]] = []
        first = self.load(place).take_fingerprint(lambda done, total: told.append((done, total)))
        assert len(read) == 6
        assert told == [(0, 6), (6, 6)]
        assert self.load(place).fingerprint == first
        assert len(read) == 6
        path = next((place / "a").iterdir())
        path.write_bytes(path.read_bytes() + b"\0")
        assert self.load(place).fingerprint != first
        assert len(read) == 7
        # It was changed just now, and may be again without the time telling: it is not trusted yet.
        self.load(place).fingerprint  # noqa: B018
        assert len(read) == 8
        shutil.rmtree(tmp_path / "home")
        (tmp_path / "home").write_text("no folder: the cache cannot be written")
        self.load(place).fingerprint  # noqa: B018
        assert len(read) == 14

    def test_damaged_cache_is_no_trouble(self, tmp_path: Path) -> None:
        place = self.folder(tmp_path / "one")
        fingerprint = self.load(place).fingerprint
        cache = tmp_path / "home" / "cache" / "files.sqlite"
        cache.write_bytes(b"no database" * 100)
        assert self.load(place).fingerprint == fingerprint

    def test_arrays(self, root: Path) -> None:
        write_cifar10(root)
        before = registry.load("cifar10", "test").fingerprint
        large = registry.load("cifar10@size=64", "test").fingerprint
        assert before != large != registry.load("cifar10", "train").fingerprint
        (root / "cifar-10-batches-py").rename(root / "cifar10")
        (root / "cifar10").rename(root / "moved")
        (root / "cifar10").mkdir()
        (root / "moved").rename(root / "cifar10" / "cifar-10-batches-py")
        registry.forget()
        assert registry.load("cifar10", "test").fingerprint == before


@needs_fashion
class TestFashionMnist:
    @pytest.fixture(autouse=True)
    def packaged(self, root: Path) -> None:
        """The package's files where they are looked for when it is installed."""
        if Path("/usr/share/datasets/fashion-mnist") != FASHION:
            (root / "fashion-mnist").symlink_to(FASHION)

    def test_all_seventy_thousand(self) -> None:
        for split, n, first in (
            ("train", 60000, [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]),
            ("test", 10000, [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]),
        ):
            examples = registry.load("fashion-mnist", split)
            assert len(examples) == n == registry.find("fashion-mnist").sizes[split]
            assert examples.counts.tolist() == [n // 10] * 10
            assert examples.labels[:10].tolist() == first
            assert examples.notes == (), "every file has the official MD5"
            for k in (10, 230, 5000):
                assert np.bincount(examples.labels[examples.subset(k)]).tolist() == [k // 10] * 10
        preprocessing = registry.find("fashion-mnist").preprocessing
        stored = registry.load("fashion-mnist", "train")._images.array  # type: ignore[attr-defined]
        assert stored.mean() / 255 == pytest.approx(preprocessing.mean[0], abs=1e-4)
        assert stored.std() / 255 == pytest.approx(preprocessing.std[0], abs=1e-4)

    def test_the_first_twenty_are_foolboxs(self) -> None:
        test = registry.load("fashion-mnist", "test")
        theirs = registry.load("foolbox-fashion-mnist", "test")
        assert np.array_equal(test.pixels(range(20)), theirs.pixels(range(20)))
        assert test.labels[:20].tolist() == theirs.labels.tolist()

    def test_the_files_are_checked(self, root: Path, tmp_path: Path) -> None:
        """One bit of one image."""
        import gzip

        folder = root / "FashionMNIST" / "raw"
        folder.mkdir(parents=True)
        shutil.copy(FASHION / "t10k-labels-idx1-ubyte.gz", folder)
        content = bytearray(gzip.decompress((FASHION / "t10k-images-idx3-ubyte.gz").read_bytes()))
        content[5000] ^= 1
        (folder / "t10k-images-idx3-ubyte").write_bytes(content)
        with pytest.raises(DataError, match="its MD5 is not the official 8181f547"):
            registry.load("fashion-mnist", "test")


class Counted(Images):
    """Images in memory that note which were read, and how often."""

    def __init__(self, array: NDArray[np.float32]) -> None:
        self.inner = ArrayImages(array)
        self.shape = self.inner.shape
        self.reads: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.inner)

    def pixels(self, positions: Positions) -> NDArray[np.float32]:
        self.reads.update(int(i) for i in positions)
        return self.inner.pixels(positions)

    def original(self, position: int) -> NDArray[np.float32]:
        return self.inner.original(position)

    def fingerprint(self, labels: NDArray[np.int64], progress: fingerprints.Progress) -> str:
        return self.inner.fingerprint(labels, progress)


class TestEvaluation:
    def network(self, classes: int, shape: tuple[int, int, int]) -> Linear:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(classes, int(np.prod(shape)), generator=generator) / 8
        return Linear(weight, torch.zeros(classes))

    def test_each_image_is_read_once_an_attack_and_only_if_it_is_attacked(self) -> None:
        digits = registry.load("digits", "test")
        images = Counted(digits.images)
        examples = Examples("counted", "test", images, digits.labels, 10, "0")
        evaluator = Evaluator(classifier_of(self.network(10, (1, 8, 8)), classes=10), examples, slots=32)
        indices = list(range(150))
        first = outcomes(evaluator, attack("pgd", steps=3), indices)
        assert images.reads == Counter(indices)
        images.reads.clear()
        again = outcomes(evaluator, attack("fgsm"), indices)
        assert images.reads == Counter(i for i in indices if first[i].clean_correct)
        assert {i for i in indices if not again[i].clean_correct} == {i for i in indices if not first[i].clean_correct}
        images.reads.clear()
        outcomes(evaluator, attack("fgsm", verdict="last"), indices)
        assert images.reads == Counter(indices)

    def test_files_give_the_outcomes_of_the_array(self) -> None:
        examples = registry.load("foolbox-imagenet@size=32", "test")
        held = Examples("held", "test", examples.images, examples.labels, 1000, "0")
        network = self.network(1000, (3, 32, 32))
        # Some of the images are to be right, so that they are attacked.
        with torch.no_grad():
            network.bias[torch.from_numpy(examples.labels[:10])] += 0.5
        found = [
            outcomes(Evaluator(classifier_of(network, classes=1000, channels=3), e, slots=4), attack("pgd"), range(20))
            for e in (examples, held)
        ]
        assert found[0] == found[1]
        assert len(found[0]) == 20

    def test_damaged_image_is_named(self, tmp_path: Path) -> None:
        for i, (path, _) in enumerate(sample_paths("cifar10")[:6]):
            (tmp_path / "images" / str(i % 2)).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, tmp_path / "images" / str(i % 2) / path.name)
        bad = tmp_path / "images" / "1" / "zzz.png"
        bad.write_bytes(sample_paths("cifar10")[0][0].read_bytes()[:200])
        examples = registry.load(f"folder:{tmp_path / 'images'}@resize=32,crop=32", "test")
        evaluator = Evaluator(classifier_of(self.network(2, (3, 32, 32)), classes=2, channels=3), examples, slots=4)
        with pytest.raises(DataError, match=r"zzz\.png cannot be read as an image"):
            outcomes(evaluator, attack("fgsm"), range(len(examples)))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A web server of this machine, and the folder that it serves."""
    folder = tmp_path / "web"
    folder.mkdir()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


class TestDownload:
    def archive(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> bytes:
        """An archive of small CIFAR-10 files, which torchvision is told to be the official one."""
        import pickle

        write_cifar10(tmp_path / "made")
        folder = tmp_path / "made" / "cifar-10-batches-py"
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            tar.add(folder, arcname=folder.name)
        kind = torchvision_datasets.CIFAR10

        def pair(name: str) -> list[str]:
            return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

        monkeypatch.setattr(kind, "train_list", [pair(name) for name, _ in kind.train_list])
        monkeypatch.setattr(kind, "test_list", [pair(name) for name, _ in kind.test_list])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": pair("batches.meta")[1]})
        monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(packed.getvalue()).hexdigest())
        monkeypatch.setattr(kind, "url", f"{url}/{kind.filename}")
        return packed.getvalue()

    def test_a_whole_one_is_unpacked_and_read(
        self, root: Path, tmp_path: Path, served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url, web = served
        (web / "cifar-10-python.tar.gz").write_bytes(self.archive(tmp_path, monkeypatch, url))
        assert len(registry.load("cifar10", "test", download=True)) == 10
        assert [path.name for path in root.iterdir()] == ["cifar-10-batches-py"]
        # It is there now: nothing is fetched again.
        (web / "cifar-10-python.tar.gz").unlink()
        registry.forget()
        assert len(registry.load("cifar10", "train", download=True)) == 10

    def test_a_damaged_copy_is_replaced(
        self, root: Path, tmp_path: Path, served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url, web = served
        (web / "cifar-10-python.tar.gz").write_bytes(self.archive(tmp_path, monkeypatch, url))
        write_cifar10(root)
        (root / "cifar-10-batches-py" / "test_batch").write_bytes(b"half")
        (root / "cifar-10-batches-py" / "mine.txt").write_text("stays")
        assert len(registry.load("cifar10", "test", download=True)) == 10
        assert (root / "cifar-10-batches-py" / "mine.txt").exists()

    def test_an_archive_that_lies_there_needs_no_network(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (root / "cifar-10-python.tar.gz").write_bytes(self.archive(tmp_path, monkeypatch, "http://127.0.0.1:1"))
        assert len(registry.load("cifar10", "test", download=True)) == 10
        assert (root / "cifar-10-python.tar.gz").exists()

    def test_half_a_download_leaves_nothing(
        self, root: Path, tmp_path: Path, served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url, web = served
        whole = self.archive(tmp_path, monkeypatch, url)
        for content in (whole[: len(whole) // 2], b"<html>a login page</html>"):
            (web / "cifar-10-python.tar.gz").write_bytes(content)
            with pytest.raises(DataError, match=r"cifar10 could not be downloaded .*check the network"):
                registry.load("cifar10", "test", download=True)
            assert list(root.iterdir()) == []

    def test_nobody_answers(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from models.datasets import downloads

        monkeypatch.setattr(downloads, "PATIENCE_SECONDS", 0.3)
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            self.archive(tmp_path, monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
            began = time.monotonic()
            with pytest.raises(DataError, match="cifar10 could not be downloaded"):
                registry.load("cifar10", "test", download=True)
            assert time.monotonic() - began < 10
        assert list(root.iterdir()) == []
        assert socket.getdefaulttimeout() is None

    def test_what_cannot_be_fetched(self, root: Path) -> None:
        with pytest.raises(
            DataError, match=r"imagenet cannot be downloaded by this program: get it from https://image-net"
        ):
            registry.load("imagenet", "test", download=True)
        assert list(root.iterdir()) == []


def test_official_file_is_told_from_a_part(tmp_path: Path) -> None:
    dataset, path = registry.find("cifar10"), tmp_path / "test_batch"
    content = b"abc"
    md5 = hashlib.md5(content).hexdigest()
    assert official.check(dataset, path, content, md5, 10, 10) is None
    assert (
        official.check(dataset, path, b"abd", md5, 3, 10)
        == "test_batch is not the official file: it holds 3 examples, not 10"
    )
    with pytest.raises(DataError, match="test_batch is damaged"):
        official.check(dataset, path, b"abd", md5, 10, 10)


class TestCommand:
    def run(self, *words: str) -> tuple[int, str, str]:
        from explorer.cli import datasets

        app = typer.Typer()
        app.command()(datasets.command)
        result = CliRunner().invoke(app, list(words))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    def test_list_says_what_is_here_and_reads_nothing(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_cifar10(root)
        monkeypatch.setattr(registry, "load", None)
        rows = json.loads(self.run("--format", "json")[1])
        assert [(row["name"], row["split"]) for row in rows] == [
            (name, split) for name, dataset in registry.entries().items() for split in dataset.splits
        ]
        here = {(row["name"], row["split"]): row["here"] for row in rows}
        assert here["cifar10", "test"]
        assert here["digits", "train"]
        assert here["foolbox-imagenet", "test"]
        assert not here["cifar100", "test"]
        assert all(len(line.split()) > 3 for line in self.run()[1].splitlines() if "foolbox" in line)

    def test_details_of_one(self, root: Path) -> None:
        write_cifar10(root)
        rows = json.loads(self.run("cifar10", "--format", "json")[1])
        examples = registry.load("cifar10", "train")
        assert rows[0]["fingerprint"] == examples.fingerprint
        assert [count["n_examples"] for count in rows[0]["counts"]] == examples.counts.tolist()
        assert rows[0]["counts"][3]["class"] == "cat"
        code, out, err = self.run("cifar10")
        assert (code, err) == (0, "")
        for text in (examples.fingerprint, str(root), "not the official file", "automobile"):
            assert text in out

    def test_one_that_is_not_here(self, root: Path) -> None:
        code, out, err = self.run("imagenet@size=288")
        assert code == 0
        assert "3x288x288" in out
        assert err.count("\n") == 1
        assert "imagenet/train is not on this machine" in err

    def test_a_folder(self, root: Path) -> None:
        for name in ("cats", "dogs"):
            (root / "pets" / name).mkdir(parents=True)
            shutil.copy(sample_paths("imagenet")[0][0], root / "pets" / name)
        code, out, _ = self.run(f"folder:{root / 'pets'}")
        assert code == 0
        assert "dogs" in out

    def test_download_needs_a_name(self) -> None:
        code, _, err = self.run("--download")
        assert code == 2
        assert "name the dataset" in err
