"""Folders of image files: ImageNet, Tiny-ImageNet, anybody's own; decoding; what is wrong with them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets as torchvision_datasets
from torchvision import transforms

from models.datasets import registry
from models.datasets.examples import Examples
from models.datasets.images import FileImages
from models.errors import DataError, InvalidSpec, UnknownName
from tests.models.datasets_support import WNIDS, sample_arrays, sample_paths, write_imagenet

CLASSIC = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("NASROB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NASROB_DATA", str(tmp_path / "data"))
    registry.forget()
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def content(examples: Examples) -> tuple[str, list[int], list[int]]:
    return examples.fingerprint, examples.labels.tolist(), examples.order.tolist()


class TestImageNet:
    def test_a_few_class_folders_have_their_official_labels(self, root: Path) -> None:
        named = write_imagenet(root)
        examples = registry.load("imagenet", "test")
        assert (examples.split, examples.n_classes, examples.image_shape) == ("val", 1000, (3, 224, 224))
        assert examples.labels.tolist() == [label for _, label in named]
        assert "20 of the 50000 examples" in examples.notes[0]
        assert examples.classes[243] == "bull mastiff"
        # torchvision's loader gives the same pixels; its labels count the folders that are there.
        reference = torchvision_datasets.ImageFolder(str(root / "imagenet" / "val"), CLASSIC)
        row_of = {Path(path).name: i for i, (path, _) in enumerate(reference.samples)}
        for position in (0, 7, 19):
            image, label = reference[row_of[named[position][0]]]
            assert np.array_equal(examples.pixels([position])[0], image.numpy())
            assert WNIDS[examples.labels[position]] == reference.classes[label]
        assert len(registry.load("foolbox-imagenet", "test")) == 20
        assert registry.load("foolbox-imagenet", "test").labels.tolist() == examples.labels.tolist()

    def test_all_layouts_are_the_same_dataset(self, root: Path) -> None:
        named = write_imagenet(root)
        expected = content(registry.load("imagenet", "val"))
        flat = root.parent / "flat"
        for path in (root / "imagenet" / "val").glob("*/*"):
            for folder in ("imagenet/val", "ILSVRC/Data/CLS-LOC/val"):
                (flat / folder).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, flat / folder / path.name)
        with pytest.raises(DataError, match=r"no list of their labels: put val\.txt"):
            registry.load("imagenet", "val", root=flat)
        lists = {
            "imagenet/val.txt": "\n".join(f"{name} {label}" for name, label in named),
            "imagenet/val/labels.csv": "file,label\n" + "\n".join(f"{name},{WNIDS[label]}" for name, label in named),
            "imagenet/imagenet_2012_validation_synset_labels.txt": "\n".join(WNIDS[label] for _, label in named),
            "LOC_val_solution.csv": "ImageId,PredictionString\n"
            + "\n".join(f"{name.removesuffix('.JPEG')},{WNIDS[label]} 85 1 499 272 " for name, label in named),
        }
        for place, text in lists.items():
            if place.startswith("LOC"):
                # Where Kaggle's archive puts the images.
                shutil.rmtree(flat / "imagenet")
            (flat / place).write_text(text)
            registry.forget()
            assert content(registry.load("imagenet", "val", root=flat)) == expected, place
            (flat / place).unlink()

    def test_development_kit(self, root: Path) -> None:
        from scipy.io import savemat

        named = write_imagenet(root)
        expected = content(registry.load("imagenet", "val"))
        folder = root / "imagenet" / "val"
        for path in list(folder.glob("*/*")):
            path.rename(folder / path.name)
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
        kit = root / "imagenet" / "ILSVRC2012_devkit_t12" / "data"
        kit.mkdir(parents=True)
        # Its numbers follow another order than the sorted identities: backwards here.
        synsets = np.zeros(1000, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
        for i, wnid in enumerate(reversed(WNIDS)):
            synsets[i] = (i + 1, wnid, "some words")
        savemat(kit / "meta.mat", {"synsets": synsets[:, None]})
        truth = "\n".join(str(1000 - label) for _, label in named)
        (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
        registry.forget()
        assert content(registry.load("imagenet", "val")) == expected
        (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("1001\n" * 20)
        registry.forget()
        with pytest.raises(DataError, match=r"ground_truth\.txt is damaged"):
            registry.load("imagenet", "val")

    def test_training_images_and_what_is_no_class(self, root: Path) -> None:
        path, label = sample_paths("imagenet")[0]
        folder = root / "ILSVRC2012" / "train" / WNIDS[label]
        folder.mkdir(parents=True)
        shutil.copyfile(path, folder / f"{WNIDS[label]}_10026.JPEG")
        (folder / "notes.txt").write_text("no image")
        (folder / ".hidden.jpg").write_text("no image")
        assert registry.load("imagenet", "train").labels.tolist() == [label]
        with pytest.raises(DataError, match="imagenet/val is not on this machine"):
            registry.load("imagenet", "val")
        (root / "ILSVRC2012" / "train" / "cats").mkdir()
        registry.forget()
        with pytest.raises(DataError, match="'cats', which is none of ImageNet's 1000 classes"):
            registry.load("imagenet", "train")
        (root / "ILSVRC2012" / "train" / "cats").rmdir()
        (folder / f"{WNIDS[label]}_10026.JPEG").unlink()
        with pytest.raises(DataError, match="holds no images"):
            registry.load("imagenet", "train")

    def test_list_that_does_not_fit(self, root: Path) -> None:
        folder = root / "imagenet" / "val"
        folder.mkdir(parents=True)
        shutil.copyfile(sample_paths("imagenet")[0][0], folder / "ILSVRC2012_val_00000001.JPEG")
        for text, message in (
            ("ILSVRC2012_val_00000002.JPEG 3", "has none for ILSVRC2012_val_00000001.JPEG"),
            ("ILSVRC2012_val_00000001.JPEG 1000", "line 1 names no class"),
            ("ILSVRC2012_val_00000001.JPEG n00000000", "line 1 names no class"),
        ):
            (folder / "val.txt").write_text(text)
            registry.forget()
            with pytest.raises(DataError, match=message):
                registry.load("imagenet", "val")


class TestTinyImageNet:
    def write(self, root: Path) -> tuple[Path, list[int]]:
        """Twenty images a split, of the first 20 classes in turn, as 64x64 JPEG files."""
        base = root / "tiny-imagenet-200"
        wnids = WNIDS[300:500]
        (base / "val" / "images").mkdir(parents=True)
        # The list that comes with the images is not sorted.
        (base / "wnids.txt").write_text("\n".join(reversed(wnids)) + "\n")
        lines, labels = [], []
        for i, (path, _) in enumerate(sample_paths("imagenet")):
            image = Image.open(path).convert("RGB").resize((64, 64))
            label = 7 * i
            labels.append(label)
            image.save(base / "val" / "images" / f"val_{i:04d}.JPEG")
            lines.append(f"val_{i:04d}.JPEG\t{wnids[label]}\t0\t0\t63\t63")
            folder = base / "train" / wnids[label] / "images"
            folder.mkdir(parents=True)
            image.save(folder / f"{wnids[label]}_0.JPEG")
            (folder.parent / f"{wnids[label]}_boxes.txt").write_text("")
        (base / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
        return base, labels

    def test_both_layouts_of_the_validation_images(self, root: Path) -> None:
        base, labels = self.write(root)
        examples = registry.load("tiny-imagenet", "test")
        assert (examples.split, examples.n_classes, examples.image_shape) == ("val", 200, (3, 64, 64))
        assert examples.labels.tolist() == labels
        wnids = sorted((base / "wnids.txt").read_text().split())
        assert len(examples.classes) == 200
        expected = content(examples)
        for i, label in enumerate(labels):
            folder = base / "val" / wnids[label]
            folder.mkdir()
            (base / "val" / "images" / f"val_{i:04d}.JPEG").rename(folder / f"val_{i:04d}.JPEG")
        registry.forget()
        assert content(registry.load("tiny-imagenet", "val")) == expected
        (base / "val" / "images").rmdir()
        (base / "val" / "val_annotations.txt").unlink()
        registry.forget()
        assert content(registry.load("tiny-imagenet", "val")) == expected

    def test_training_images_are_torchvisions(self, root: Path) -> None:
        base, labels = self.write(root)
        examples = registry.load("tiny-imagenet", "train")
        assert examples.labels.tolist() == labels
        reference = torchvision_datasets.ImageFolder(str(base / "train"), transforms.ToTensor())
        assert np.array_equal(examples.images, np.stack([image.numpy() for image, _ in reference]))
        large = registry.load("tiny-imagenet@resize=256,crop=224", "train")
        reference.transform = CLASSIC
        assert np.array_equal(large.pixels([4])[0], reference[4][0].numpy())
        assert large.order.tolist() == examples.order.tolist()
        assert large.fingerprint != examples.fingerprint

    def test_classes_that_cannot_be_told(self, root: Path) -> None:
        base, _ = self.write(root)
        listed = (base / "wnids.txt").read_text()
        (base / "wnids.txt").unlink()
        with pytest.raises(DataError, match=r"without wnids.txt names 20 classes, not 200"):
            registry.load("tiny-imagenet", "train")
        (base / "wnids.txt").write_text(listed)
        (base / "train" / "n99999999").mkdir()
        with pytest.raises(DataError, match="'n99999999' that is none of the 200"):
            registry.load("tiny-imagenet", "train")
        annotations = base / "val" / "val_annotations.txt"
        annotations.write_text(annotations.read_text().partition("\n")[2])
        with pytest.raises(DataError, match=r"names no class for val_0000.JPEG"):
            registry.load("tiny-imagenet", "val")
        annotations.write_text("val_0000.JPEG n01440764\n")
        with pytest.raises(DataError, match=r"val_annotations\.txt is damaged"):
            registry.load("tiny-imagenet", "val")

    def test_an_image_of_another_size(self, root: Path) -> None:
        base, _ = self.write(root)
        Image.new("RGB", (64, 65)).save(base / "val" / "images" / "val_0003.JPEG")
        examples = registry.load("tiny-imagenet", "val")
        assert examples.pixels([2]).shape == (1, 3, 64, 64)
        with pytest.raises(DataError, match=r"val_0003.JPEG is 64x65 pixels, not 64x64"):
            examples.pixels([3])


def write_folder(base: Path, classes: dict[str, int], prefix: str = "imagenet") -> None:
    """Class folders with as many of foolbox's images."""
    paths = iter(sample_paths(prefix))
    for name, count in classes.items():
        (base / name).mkdir(parents=True)
        for _ in range(count):
            path, _ = next(paths)
            shutil.copyfile(path, base / name / path.name)


class TestFolder:
    def test_subfolders_are_classes_in_the_order_of_their_names(self, root: Path) -> None:
        base = root / "my pets@home"
        write_folder(base, {"dogs": 3, "Cats": 2, "10": 1, "9": 2})
        dataset = registry.find(f"folder:{base}")
        assert dataset.classes == ("10", "9", "Cats", "dogs")
        assert (dataset.splits, dataset.test_split, dataset.n_classes) == (("test",), "test", 4)
        assert dataset.slug.startswith("folder-my-pets-home-")
        examples = registry.load(dataset.name, "test")
        reference = torchvision_datasets.ImageFolder(str(base), CLASSIC)
        assert examples.labels.tolist() == reference.targets
        assert np.array_equal(examples.images, np.stack([image.numpy() for image, _ in reference]))
        small = registry.find(f"folder:{base}@size=112,interpolation=bicubic")
        assert small.image_shape == (3, 112, 112)
        assert registry.find(small.name) == small
        assert registry.load(small.name, "test").pixels([0]).shape == (1, 3, 112, 112)
        assert small.labels_of == dataset.labels_of == dataset.name

    def test_splits(self, root: Path) -> None:
        base = root / "pets"
        write_folder(base / "train", {"cats": 2, "dogs": 2})
        write_folder(base / "val", {"dogs": 1, "owls": 2})
        dataset = registry.find(f"folder:{base}")
        assert (dataset.splits, dataset.test_split) == (("train", "val"), "val")
        # A class keeps its label in a split where another is missing.
        assert dataset.classes == ("cats", "dogs", "owls")
        assert registry.load(dataset.name, "train").labels.tolist() == [0, 0, 1, 1]
        assert registry.load(dataset.name, "test").labels.tolist() == [1, 2, 2]
        expected = r"has no split 'valid', only train and val\. Expected are subfolders train, val and test, each with"
        with pytest.raises(InvalidSpec, match=expected):
            registry.load(dataset.name, "valid")
        flat = f"folder:{base / 'train'}"
        with pytest.raises(
            InvalidSpec, match=r"has no split 'train', only test\. Expected .* all of the folder is the"
        ):
            registry.load(flat, "train")

    def test_list_of_labels(self, root: Path) -> None:
        base = root / "listed"
        write_folder(base, {"a": 3})
        names = sorted(path.name for path in (base / "a").iterdir())
        for labels, classes, n in (
            (["2", "0", "2"], (), 3),
            (["owl", "cat", "owl"], ("cat", "owl"), 2),
            ([WNIDS[5], WNIDS[999], WNIDS[5]], registry.class_names(), 1000),
        ):
            rows = "".join(f"a/{name},{label}\n" for name, label in zip(names, labels, strict=True))
            (base / "labels.csv").write_text("﻿file,label\n\n" + rows, encoding="utf-8")
            registry.forget()
            dataset = registry.find(f"folder:{base}")
            assert (dataset.classes, dataset.n_classes) == (classes, n)
            expected = [int(x) if x.isdigit() else classes.index(x) if n == 2 else WNIDS.index(x) for x in labels]
            assert registry.load(dataset.name, "test").labels.tolist() == expected

    def test_identities_of_imagenet_have_its_labels(self, root: Path) -> None:
        base = root / "some"
        write_folder(base, {WNIDS[3]: 2, WNIDS[700]: 1})
        dataset = registry.find(f"folder:{base}")
        assert (dataset.n_classes, dataset.labels_of) == (1000, "imagenet")
        assert registry.load(dataset.name, "test").labels.tolist() == [3, 3, 700]

    def test_like_a_known_dataset(self, root: Path) -> None:
        base = root / "v2"
        write_folder(base, {"0": 1, "10": 1, "999": 1})
        dataset = registry.find(f"folder:{base}@like=imagenet,size=96")
        assert (dataset.n_classes, dataset.labels_of, dataset.image_shape) == (1000, "imagenet", (3, 96, 96))
        assert registry.load(dataset.name, "test").labels.tolist() == [0, 10, 999]
        assert registry.find(dataset.name) == dataset
        ships = root / "cifar"
        write_folder(ships, {"ship": 2, "cat": 1}, "cifar10")
        dataset = registry.find(f"folder:{ships}@like=cifar10")
        assert dataset.preprocessing == registry.find("cifar10").preprocessing
        examples = registry.load(dataset.name, "test")
        assert examples.image_shape == (3, 32, 32)
        assert examples.labels.tolist() == [3, 8, 8]
        with pytest.raises(DataError, match="'cat', which is none of the 1000 classes of imagenet: rename it"):
            registry.load(f"folder:{ships}@like=imagenet", "test")
        with pytest.raises(InvalidSpec, match=r"like: unknown dataset 'cifar11'.*'cifar10'"):
            registry.find(f"folder:{ships}@like=cifar11")

    def test_what_is_wrong_with_a_folder(self, root: Path) -> None:
        with pytest.raises(DataError, match="there is no folder /nowhere"):
            registry.find("folder:/nowhere")
        with pytest.raises(InvalidSpec, match="names no folder"):
            registry.find("folder:")
        with pytest.raises(DataError, match=r"cannot read the folder .*too long"):
            registry.find("folder:/" + "x" * 5000)
        with pytest.raises(DataError, match="cannot read the folder ~nobody-of-that-name"):
            registry.find("folder:~nobody-of-that-name/images")
        base = root / "bad"
        write_folder(base, {"cats": 2})
        with pytest.raises(DataError, match="holds 1 class: expected a subfolder"):
            registry.find(f"folder:{base}")
        (base / "dogs").mkdir()
        (base / "dogs" / "readme.txt").write_text("no image")
        dataset = registry.find(f"folder:{base}")
        with pytest.raises(DataError, match=r"class folder .*dogs holds no images"):
            registry.load(dataset.name, "test")
        with pytest.raises(InvalidSpec, match="'width' is no option"):
            registry.find(f"folder:{base}@width=3")
        for text, message in (
            ("cats/a.jpg", "line 1: expected a file and a label"),
            ("file,label\n/etc/a.jpg,1", "line 2: '/etc/a.jpg' does not lie in the folder"),
            ("../a.jpg,1", "line 1: '../a.jpg' does not lie in the folder"),
            ("a.jpg,1\na.jpg,0", "line 2: 'a.jpg' is listed twice"),
        ):
            (base / "labels.csv").write_text(text)
            with pytest.raises(DataError, match=message):
                registry.find(f"folder:{base}")
        (base / "labels.csv").write_bytes(b"\xff\xfe,1")
        with pytest.raises(DataError, match=r"labels\.csv is not a comma-separated list"):
            registry.find(f"folder:{base}")
        (base / "labels.csv").write_text("cats/gone.jpg,0\ncats/also.jpg,1\n")
        examples = registry.load(f"folder:{base}", "test")
        with pytest.raises(DataError, match=r"gone\.jpg is missing|also\.jpg is missing"):
            examples.images.sum()
        with pytest.raises(DataError, match=r"(gone|also)\.jpg: No such file"):
            examples.fingerprint  # noqa: B018

    def test_links_that_lead_back_are_no_endless_walk(self, root: Path) -> None:
        base = root / "loop"
        write_folder(base, {"a": 1, "b": 1})
        (base / "a" / "back").symlink_to(base / "a")
        with pytest.raises(DataError, match="lies too deep"):
            registry.load(f"folder:{base}", "test")


class TestDecoding:
    def images(self, tmp_path: Path) -> dict[str, Path]:
        photo = Image.open(sample_paths("imagenet")[0][0]).convert("RGB").resize((80, 60))
        made = {
            "grey.jpg": photo.convert("L"),
            "cmyk.jpg": photo.convert("CMYK"),
            "alpha.png": photo.convert("RGBA"),
            "grey-alpha.png": photo.convert("LA"),
            "palette.png": photo.quantize(16),
            "one-bit.png": photo.convert("1"),
            "colour.bmp": photo,
            "colour.webp": photo,
        }
        made["alpha.png"].putalpha(photo.convert("L"))
        paths = {}
        for name, image in made.items():
            paths[name] = tmp_path / name
            image.save(paths[name], **({"transparency": 3} if name.startswith("palette") else {}))
        return paths

    def test_every_kind_of_file_as_torchvision_reads_it(self, tmp_path: Path) -> None:
        paths = self.images(tmp_path)
        read = FileImages(list(paths), [str(path) for path in paths.values()], (3, 60, 80), None)
        for i, (name, path) in enumerate(paths.items()):
            reference = transforms.ToTensor()(torchvision_datasets.folder.default_loader(str(path)))
            assert np.array_equal(read.pixels([i])[0], reference.numpy()), name
            assert np.array_equal(read.original(i) / np.float32(255), reference.numpy()), name

    def test_sixteen_bits_keep_the_high_byte(self, tmp_path: Path) -> None:
        levels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
        Image.fromarray(levels).save(tmp_path / "deep.png")
        read = FileImages(["deep.png"], [str(tmp_path / "deep.png")], (3, 16, 16), None)
        assert np.array_equal(read.original(0)[1], np.arange(256, dtype=np.uint8).reshape(16, 16))
        Image.fromarray(levels.astype(np.float32)).save(tmp_path / "float.tif")
        with pytest.raises(DataError, match=r"float\.tif has 32-bit grey levels"):
            FileImages(["f"], [str(tmp_path / "float.tif")], (3, 16, 16), None).pixels([0])

    def test_damaged_files_are_named(self, tmp_path: Path) -> None:
        whole = sample_paths("imagenet")[0][0].read_bytes()
        contents = {
            "cut.jpg": whole[: len(whole) // 2],
            "empty.jpg": b"",
            "text.png": b"this is no image",
            "head.png": sample_paths("cifar10")[0][0].read_bytes()[:60],
        }
        said = {}
        for name, data in contents.items():
            (tmp_path / name).write_bytes(data)
            read = FileImages([name], [str(tmp_path / name)], (3, 32, 32), None)
            with pytest.raises(DataError, match=rf"{name} cannot be read as an image .*: get the file again") as raised:
                read.pixels([0])
            said[name] = str(raised.value)
            # Not what Python calls an open file, nor the path a second time.
            assert "<" not in said[name]
            assert said[name].count(str(tmp_path)) == 1
        assert "(it is empty)" in said["empty.jpg"]
        assert "(it is in no image format that Pillow knows)" in said["text.png"]

    def test_a_file_that_changes_after_the_fingerprint_is_not_used(self, root: Path) -> None:
        base = root / "pets"
        write_folder(base, {"cats": 2, "dogs": 2})
        examples = registry.load(f"folder:{base}", "test")
        before = examples.fingerprint
        assert examples.pixels([0]).shape == (1, 3, 224, 224)
        path = sorted((base / "dogs").iterdir())[0]
        shutil.copyfile(sample_paths("imagenet")[10][0], path)
        with pytest.raises(DataError, match="has changed since"):
            examples.pixels([2])
        registry.forget()
        after = registry.load(f"folder:{base}", "test")
        assert after.fingerprint != before
        assert after.pixels([2]).shape == (1, 3, 224, 224)

    def test_more_images_than_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from models.datasets import images

        arrays, _ = sample_arrays("cifar10")
        paths = [str(path) for path, _ in sample_paths("cifar10")]
        monkeypatch.setattr(images, "KEPT_BYTES", 5 * 32 * 32 * 3)
        read = FileImages(paths, paths, (3, 32, 32), None)
        order = [*range(20), 3, 3, 19, 0]
        expected = arrays[order].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        read.prefetch(range(4))
        assert np.array_equal(read.pixels(order), expected)
        assert np.array_equal(read.pixels(np.array(order)), expected)
        assert len(read._kept) <= 5


def test_name_of_nothing(root: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'imagenet'"):
        registry.find("imagnet")


def test_file_system_names(root: Path) -> None:
    assert registry.find("imagenet@size=288").slug == "imagenet@resize=329,crop=288,interpolation=bilinear"
    write_folder(root / "a", {"x": 1, "y": 1})
    slug = registry.find(f"folder:{root / 'a'}").slug
    assert os.sep not in slug
    assert slug != registry.find(f"folder:{root / 'a'}@size=64").slug
