"""Which model a request means when architectures share all their tensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from explorer import launching
from explorer.jobs import planning
from explorer.settings import Settings, load
from models.datasets import registry as datasets
from models.errors import WeightsError
from models.weights import catalogue
from models.weights.catalogue import WeightsRecord

SHA = "ab12" * 16
TWINS = ("resnet18@width=8", "vgg11-bn@width=8")


def write_file(settings: Settings, architecture: str, folder: str = "digits", sha256: str = SHA) -> Path:
    """A file of ours without tensors, whose record claims a SHA-256: planning reads no more."""
    normal = datasets.find("digits").preprocessing
    record = WeightsRecord(
        architecture=architecture,
        dataset="digits",
        dataset_fingerprint="f",
        num_classes=10,
        in_channels=1,
        mean=normal.mean,
        std=normal.std,
        tensors_sha256=sha256,
        origin="trained",
        seed=0,
    )
    header = json.dumps({"__metadata__": record.to_header()}).encode()
    path = settings.weights / folder / f"{architecture}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


@pytest.fixture
def paths(settings: Settings) -> dict[str, Path]:
    """Two architectures with the same tensors."""
    return {name: write_file(settings, name) for name in TWINS}


@pytest.mark.parametrize("architecture", TWINS)
@pytest.mark.parametrize("how", ["by sha", "alone", "at another size"])
def test_each_architecture_gets_its_own_file(
    settings: Settings, paths: dict[str, Path], architecture: str, how: str
) -> None:
    asked = planning.Asked(
        architectures=(architecture,),
        weights=(SHA[:10],) if how == "by sha" else (),
        input_size=16 if how == "at another size" else None,
        attacks=("fgsm",),
    )
    (request,) = planning.plan(asked, settings)
    (model,) = request.models
    assert (model.architecture, model.sha256, model.weights) == (architecture, SHA, str(paths[architecture]))


def test_tensors_alone_do_not_tell(settings: Settings, paths: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match="several architectures share") as error:
        planning.plan(planning.Asked(weights=(SHA[:10],), attacks=("fgsm",)), settings)
    assert all(str(path) in str(error.value) for path in paths.values())
    # `weights show` looks the same way.
    with pytest.raises(WeightsError, match="several architectures share"):
        catalogue.locate(SHA[:10], catalogue.scan(settings.weights_folders))


def test_copies_of_one_model_are_one(settings: Settings) -> None:
    there = {write_file(settings, TWINS[0], folder) for folder in ("digits", "copy")}
    (request,) = planning.plan(planning.Asked(weights=(SHA[:10],), attacks=("fgsm",)), settings)
    assert Path(request.models[0].weights) in there


def test_the_launch_screen_offers_both(settings: Settings, paths: dict[str, Path]) -> None:
    offered = [m for m in launching.offer(settings, "digits").models if m.weights]
    assert [(m.architecture, m.sha256) for m in offered] == [(name, SHA) for name in TWINS]
    assert len({m.key for m in offered}) == 2
