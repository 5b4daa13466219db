"""Records in weights files: old ones are read, foreign ones are data, and none makes anything be imported."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.architectures import definitions, registry
from models.datasets import registry as datasets
from models.errors import WeightsError
from models.specs import canonical_json
from models.weights import catalogue
from models.weights.catalogue import WeightsRecord, architecture_of, read_record
from models.weights.files import load_model, network_tensors, save_weights
from tests.models.weights_support import network, spec

DIGITS = datasets.find("digits")
CELL = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('dil_conv_5x5', 1)], normal_concat=[2], "
    "reduce=[('max_pool_3x3', 0), ('skip_connect', 1)], reduce_concat=[2])"
)

RECORD = WeightsRecord(
    architecture="resnet18@width=2",
    dataset="digits",
    dataset_fingerprint="",
    num_classes=10,
    in_channels=1,
    mean=(0.5,),
    std=(0.25,),
    tensors_sha256="",
    origin="imported",
)


def written(path: Path, architecture: str = "resnet18@width=2", **changes: Any) -> Path:
    record = replace(RECORD, architecture=spec(architecture).canonical, **changes)
    save_weights(path, network(architecture), record)
    return path


def rewritten(path: Path, **changes: Any) -> Path:
    """The same tensors under a record that somebody has changed."""
    record = json.loads(catalogue.read_header(path)["nasrob"]) | changes
    header = {"format": catalogue.FORMAT, "nasrob": canonical_json({k: v for k, v in record.items() if v != "absent"})}
    save_file(load_file(path), path, metadata=header)
    return path


def test_all_fields_come_back(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.safetensors",
        name="mine",
        geometry="resize=256,crop=224,interpolation=bilinear",
        source="https://example.org/x.pth",
        source_sha256="0" * 64,
    )
    record = read_record(path)
    assert record is not None
    assert (record.name, record.source, record.source_sha256) == ("mine", "https://example.org/x.pth", "0" * 64)
    assert record.geometry == "resize=256,crop=224,interpolation=bilinear"
    assert record.definition is None
    assert load_model(path, None, DIGITS).record == record


def test_records_of_the_first_version_are_read(tmp_path: Path) -> None:
    new = dict.fromkeys(("name", "definition", "geometry", "source", "source_sha256"), "absent")
    path = rewritten(written(tmp_path / "x.safetensors"), **new)
    assert not set(json.loads(catalogue.read_header(path)["nasrob"])) & set(new)
    loaded = load_model(path, None, DIGITS)
    assert loaded.record is not None
    assert (loaded.record.geometry, loaded.record.source) == (None, None)


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    assert load_model(rewritten(written(tmp_path / "x.safetensors"), unheard_of=[1]), None, DIGITS).record is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": 5},
        {"dataset": None},
        {"num_classes": "10"},
        {"mean": "half"},
        {"std": [0.0]},
        {"recipe": []},
        {"definition": "Genotype()"},
        {"seed": "x"},
        {"clean_accuracy": "high"},
        {"tensors_sha256": "absent"},
    ],
)
def test_values_of_another_kind_are_damage(changes: dict[str, Any], tmp_path: Path) -> None:
    path = rewritten(written(tmp_path / "x.safetensors"), **changes)
    with pytest.raises(WeightsError, match="damaged record"):
        read_record(path)
    assert catalogue.scan([tmp_path]) == []


def test_a_header_that_nests_without_end_is_passed_over(tmp_path: Path) -> None:
    header = b'{"__metadata__":' + b"[" * 100_000
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert catalogue.scan([tmp_path]) == []
    (tmp_path / "x.safetensors").write_bytes((10**15).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match="is not a safetensors file"):
        load_model(tmp_path / "x.safetensors", spec("resnet18@width=2"), DIGITS)


FACTORY = "nasrob_test_evil:make"


@pytest.mark.parametrize(
    "name", [FACTORY, "robustbench:Standard", "../cell.json", "cell.json", "Genotype(normal=[])", "a b", ""]
)
def test_a_record_cannot_choose_code_or_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nasrob_test_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef make(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cell.json").write_text(CELL)
    path = rewritten(written(tmp_path / "x.safetensors"), architecture=name)
    for given in (None, spec("resnet18@width=2")):
        with pytest.raises(WeightsError, match="code from outside: name it with --arch if you trust it"):
            load_model(path, given, DIGITS)
    assert not (tmp_path / "ran").exists()
    assert "nasrob_test_evil" not in sys.modules


def test_a_factory_that_a_person_names_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nasrob_test_mine.py").write_text(
        "from torch import nn\ndef make(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    given = spec("nasrob_test_mine:make")
    record = replace(RECORD, architecture=given.canonical)
    save_weights(tmp_path / "x.safetensors", registry.build(given, num_classes=10, in_channels=1), record)
    assert load_model(tmp_path / "x.safetensors", given, DIGITS).architecture == given
    with pytest.raises(WeightsError, match="code from outside"):
        load_model(tmp_path / "x.safetensors", None, DIGITS)
    sys.modules.pop("nasrob_test_mine")


def test_every_name_of_the_registry_may_stand_in_a_record(tmp_path: Path) -> None:
    for name in registry.entries():
        if "<" not in name:
            chosen = registry.parse_architecture(name)
            assert architecture_of(replace(RECORD, architecture=chosen.canonical), tmp_path) == chosen


def test_a_cell_travels_with_its_weights(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A genotype that a person gave is known by the hash of its content; on another machine the file is enough."""
    text = f"{CELL}@init_channels=2,layers=3"
    given = registry.find(CELL).resolve({"init_channels": 2, "layers": 3})
    torch.manual_seed(0)
    net = registry.build(given, num_classes=10, in_channels=1)
    save_weights(tmp_path / "x.safetensors", net, replace(RECORD, architecture=given.canonical))
    assert definitions.kept() == [given.name]

    monkeypatch.setenv("NASROB_HOME", str(tmp_path / "elsewhere"))
    assert definitions.kept() == []
    loaded = load_model(tmp_path / "x.safetensors", None, DIGITS)
    assert loaded.architecture == given
    assert definitions.kept() == [given.name]
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded.classifier.network.eval()(x), net.eval()(x))
    assert text.partition("@")[0] == CELL


def test_a_known_name_with_other_cells_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", "darts@init_channels=2,layers=3")
    record = read_record(path)
    assert record is not None
    assert record.definition is not None
    other = registry.find("darts-v1").definition
    assert other is not None
    with pytest.raises(WeightsError, match="made for another darts than the one known here"):
        load_model(rewritten(path, definition=other.to_dict()), None, DIGITS)
    with pytest.raises(WeightsError, match="not known here"):
        load_model(rewritten(path, definition={"space": "os", "data": {}}), None, DIGITS)
    with pytest.raises(WeightsError, match="not known here"):
        load_model(rewritten(path, architecture="darts-cell-0123456789ab@layers=3"), None, DIGITS)


def test_tensors_of_one_memory_are_written_under_every_name() -> None:
    linear = torch.nn.Linear(3, 3)
    net = torch.nn.ModuleDict({"a": linear, "b": linear, "auxiliary_head": torch.nn.Linear(1, 1)})
    tensors = network_tensors(net)
    assert set(tensors) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert len({t.untyped_storage().data_ptr() for t in tensors.values()}) == 4
    assert torch.equal(tensors["a.weight"], tensors["b.weight"])


def test_locate(tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors")
    files = catalogue.scan([tmp_path])
    sha = files[0].record.tensors_sha256
    assert catalogue.locate(str(path), []) == path
    assert catalogue.locate(sha[:6], files) == catalogue.locate(sha.upper(), files) == path
    for text, says in (("ffffff", "no weights begin"), ("absent.pt", "no weights file"), (str(tmp_path), "not a file")):
        with pytest.raises(WeightsError, match=says):
            catalogue.locate(text, files)
    record = files[0].record
    twin = catalogue.WeightsFile(tmp_path / "y", replace(record, tensors_sha256=sha[:10] + "0" * 54))
    with pytest.raises(WeightsError, match="give more digits"):
        catalogue.locate(sha[:8], [*files, twin])
    assert asdict(record)["origin"] == "imported"
