"""Weights files: self-describing, checked, and never executed."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.architectures import registry
from models.datasets import registry as datasets
from models.errors import WeightsError
from models.weights import catalogue
from models.weights.files import load_model

DIGITS = datasets.find("digits")
RESNET = registry.parse_architecture("resnet18@width=8")


def test_record_comes_back_and_the_identity_is_of_the_tensors(trained: Path, tmp_path: Path) -> None:
    loaded = load_model(trained, None, DIGITS)
    record = catalogue.read_record(trained)
    assert record is not None
    assert loaded.record == record
    assert loaded.sha256 == record.tensors_sha256
    assert loaded.architecture == RESNET
    # The same tensors in another container are the same model.
    torch.save({"state_dict": {f"module.{k}": v for k, v in load_file(trained).items()}}, tmp_path / "other.pth")
    assert load_model(tmp_path / "other.pth", RESNET, DIGITS).sha256 == loaded.sha256


def test_checkpoint_of_old_torch_without_batch_counters_loads(trained: Path, tmp_path: Path) -> None:
    state = {k: v for k, v in load_file(trained).items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pt")
    loaded = load_model(tmp_path / "old.pt", RESNET, DIGITS)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded.classifier.eval()(x), load_model(trained, None, DIGITS).classifier.eval()(x))


def test_misfits_are_named_key_by_key(trained: Path, tmp_path: Path) -> None:
    state = load_file(trained)
    cases = {
        "missing": ({k: v for k, v in state.items() if k != "fc.weight"}, r"1 missing \(first: fc.weight\)"),
        "surplus": (state | {"head.weight": torch.zeros(1)}, "does not have .first: head.weight"),
        "shape": (state | {"fc.weight": torch.zeros(3, 3)}, r"first: fc.weight, \(3, 3\) instead of \(10, 64\)"),
        "nan": (state | {"fc.bias": torch.full((10,), torch.nan)}, "non-finite values in fc.bias"),
    }
    for name, (tensors, says) in cases.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(WeightsError, match=says):
            load_model(tmp_path / f"{name}.safetensors", RESNET, DIGITS)


def test_files_that_are_no_weights_never_run_code(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return (Path.touch, (str(ran),))

    for name in ("evil.pt", "evil.pth", "evil.bin"):
        (tmp_path / name).write_bytes(pickle.dumps({"state_dict": Evil()}))
        with pytest.raises(WeightsError):
            load_model(tmp_path / name, RESNET, DIGITS)
        torch.save({"state_dict": Evil()}, tmp_path / name)
        with pytest.raises(WeightsError, match="would run its code"):
            load_model(tmp_path / name, RESNET, DIGITS)
    assert not ran.exists()


@pytest.mark.parametrize("length", [0, 4, 8, 100, 20_000])
def test_cut_short(length: int, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(trained.read_bytes()[:length])
    with pytest.raises(WeightsError, match=r"cut\.safetensors"):
        load_model(path, RESNET, DIGITS)
    assert catalogue.scan([tmp_path]) == []


def test_a_changed_byte_is_found(trained: Path, tmp_path: Path) -> None:
    content = bytearray(trained.read_bytes())
    content[-50] ^= 1
    path = tmp_path / "changed.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="is damaged"):
        load_model(path, None, DIGITS)


def test_scan_finds_the_same_tensors_once(trained: Path, tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(trained.read_bytes())
    files = catalogue.scan([tmp_path, tmp_path / "absent"])
    assert len(files) == 2
    assert len(catalogue.matching(files, RESNET, "digits")) == 1
    assert catalogue.matching(files, RESNET, "cifar10") == []
