"""From tensors to an architecture: sizes are read off, misfits are explained, other architectures are named."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.architectures import registry
from models.datasets import registry as datasets
from models.errors import WeightsError
from models.weights import containers, inference
from models.weights.containers import Contents
from models.weights.edges import disagreements, may_be, operations
from models.weights.files import load_model
from models.weights.inference import Guess
from tests.models.weights_support import CONTAINERS, network, save, spec, state

GOLDEN = Path(os.environ.get("NASROB_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))


def of(text: str, *, classes: int = 10, channels: int = 3, auxiliary: bool = False, prefix: str = "") -> Contents:
    """The contents that a checkpoint of an architecture would have: shapes are enough, no memory is needed."""
    with torch.device("meta"):
        made = registry.build(spec(text), num_classes=classes, in_channels=channels, auxiliary=auxiliary)
    return Contents(Path("x.pt"), "torch", {f"{prefix}{k}": v for k, v in made.state_dict().items()})


def infer(contents: Contents, name: str, given: Mapping[str, Any] | None = None, *, classes: int = 10) -> Guess:
    guess = inference.infer(contents, registry.find(name), given or {}, num_classes=classes, in_channels=3)
    assert guess is not None
    return guess


@pytest.mark.parametrize(
    "text",
    [
        "resnet18",
        "resnet50@width=4",
        "wrn-28-10@depth=16,widen_factor=3",
        "darts",
        "darts@init_channels=6,layers=7",
        "darts@init_channels=4,layers=1",
        "darts-random-17@init_channels=28,layers=5,increment=6,squeeze_excitation=true",
        "darts-random-3@init_channels=4,layers=5,squeeze_excitation=true,form=imagenet",
        "pdarts@init_channels=4,layers=2",
        "dm-wrn-70-16@depth=22,widen_factor=3",
        "darts@init_channels=4,layers=11,form=imagenet",
        "nsganet-micro@init_channels=6,layers=7,increment=4",
        "nsganet-micro@init_channels=4,layers=7,increment=6",
        "nsganet-macro@init_channels=12,growth=6",
        "nasbench201-all-skip@init_channels=10,cells_per_stage=4",
    ],
)
def test_size_is_read_off_the_tensors(text: str) -> None:
    guess = infer(of(text, prefix="module."), text.partition("@")[0])
    assert guess.fit.fits
    assert guess.spec == spec(text)
    # The only one of these options that no tensor shows.
    assert guess.alike == (("activation=relu",) if "dm-wrn" in text else ())
    assert guess.fit.prefix == "module."


def test_an_auxiliary_head_is_passed_over() -> None:
    guess = infer(of("darts@init_channels=4,layers=5", auxiliary=True), "darts")
    assert guess.fit.fits
    assert guess.spec == spec("darts@init_channels=4,layers=5")
    assert len(guess.fit.auxiliary) == 14


def test_options_that_a_person_gives_stay() -> None:
    contents = of("resnet18@width=6")
    assert infer(contents, "resnet18", {"width": "6"}).fit.fits
    guess = infer(contents, "resnet18", {"width": 8})
    assert guess.spec == spec("resnet18@width=8")
    assert not guess.fit.fits


def test_a_factory_keeps_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nasrob_test_factory.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, hidden=3): return nn.Sequential(nn.Linear(4, hidden), nn.Linear(hidden, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    contents = of("nasrob_test_factory:make@hidden=5")
    guess = infer(contents, "nasrob_test_factory:make", {"hidden": "5"})
    assert guess.fit.fits
    assert guess.spec == spec("nasrob_test_factory:make@hidden=5")
    assert not infer(contents, "nasrob_test_factory:make").fit.fits


def test_classes_and_channels_are_read_off_too() -> None:
    guess = infer(of("darts@init_channels=4,layers=5", classes=100, channels=1), "darts")
    assert (guess.spec, guess.num_classes, guess.in_channels) == (spec("darts@init_channels=4,layers=5"), 100, 1)
    assert guess.fit.fits


def test_counters_of_old_files_may_be_absent() -> None:
    contents = of("darts@init_channels=4,layers=5")
    old = {k: v for k, v in contents.tensors.items() if not k.endswith("num_batches_tracked")}
    guess = infer(replace(contents, tensors=old), "darts")
    assert guess.fit.fits
    assert guess.fit.counters == len(contents.tensors) - len(old) > 0


def test_a_cell_that_differs_is_named_edge_by_edge() -> None:
    """First against second order DARTS: the sentences are what the two genotypes say, where operations own tensors."""
    contents = of("darts-v1@init_channels=4,layers=5")
    guess = infer(contents, "darts")
    assert not guess.fit.fits
    assert guess.spec == spec("darts@init_channels=4,layers=5")
    said = inference.edge_disagreements(contents, guess)
    there, here = registry.find("darts-v1").genotype, registry.find("darts").genotype
    assert there is not None
    assert here is not None
    expected = set()
    for edge, ((found, _), (wanted, _)) in enumerate(zip(there.normal.edges, here.normal.edges, strict=True)):
        shown = [op if "conv" in op else "operation without weights" for op in (found, wanted)]
        if shown[0] != shown[1]:
            expected.add((f"cells.0._ops.{edge} ", *shown))
    assert len(expected) >= 3
    for place, found, wanted in expected:
        assert any(
            place in line and f" {found}" in line and line.rpartition("has")[2].find(wanted) > 0 for line in said
        )
    normal = [line for line in said if line.startswith("cells.0.")]
    assert len(normal) == len(expected)


@pytest.mark.parametrize("name", ["darts", "nasnet-a", "amoebanet-a", "darts-random-3"])
def test_operations_are_read_from_weights(name: str) -> None:
    genotype = registry.find(name).genotype
    assert genotype is not None
    shapes = {k: tuple(v.shape) for k, v in of(f"{name}@init_channels=4,layers=5").tensors.items()}
    found = operations(shapes)
    for cell, part in ((0, genotype.normal), (1, genotype.reduce)):
        for edge, (operation, source) in enumerate(part.edges):
            if "conv" in operation:
                assert found[cell, edge] == operation
            elif operation == "skip_connect" and cell == 1 and source < 2:
                assert found[cell, edge] == "skip_connect of stride 2"
            else:
                assert (cell, edge) not in found
    assert disagreements(shapes, shapes) == []
    alike = {n for n in ("darts", "nasnet-a", "amoebanet-a", "darts-random-3") if _may_be(shapes, n)}
    assert alike == {name}


def _may_be(shapes: dict[str, tuple[int, ...]], name: str) -> bool:
    genotype = registry.find(name).genotype
    assert genotype is not None
    return may_be(shapes, genotype)


def test_another_architecture_that_fits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["darts", "darts-v1", "pdarts", "resnet18", "resnet50", "vgg16-bn", "densenet121", "torchvision:resnet18"]
    some = {name: registry.find(name) for name in names}
    strange = of("torchvision:resnet34")
    monkeypatch.setattr(inference.registry, "entries", lambda: some)
    found = inference.identify(of("darts-v1@init_channels=4,layers=5", classes=100), num_classes=10, in_channels=3)
    assert [(g.spec, g.num_classes) for g in found.guesses] == [(spec("darts-v1@init_channels=4,layers=5"), 100)]
    assert found.looked_at == found.total == len(names)
    found = inference.identify(of("torchvision:resnet18"), num_classes=10, in_channels=3, besides="resnet50")
    assert [g.spec.name for g in found.guesses] == ["torchvision:resnet18"]
    assert found.total == len(names) - 1
    assert inference.identify(strange, num_classes=10, in_channels=3).guesses == ()
    none = inference.identify(of("resnet18"), num_classes=10, in_channels=3, patience=0.0)
    assert (none.guesses, none.looked_at) == ((), 0)


def test_old_names_of_densenet_are_understood() -> None:
    contents = of("torchvision:densenet121")
    old: dict[str, Tensor] = {}
    for name, tensor in contents.tensors.items():
        if ".denselayer" in name and not name.endswith("num_batches_tracked"):
            for part in ("norm", "conv"):
                name = name.replace(f".{part}1.", f".{part}.1.").replace(f".{part}2.", f".{part}.2.")
        old[name] = tensor
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    guess = infer(replace(contents, tensors=old), "torchvision:densenet121")
    assert guess.fit.fits
    assert guess.fit.renamed


def test_auxiliary_heads_of_torchvision_are_passed_over() -> None:
    with torch.device("meta"):
        made = registry.build(spec("torchvision:googlenet"), num_classes=10, in_channels=3, auxiliary=True)
    guess = infer(Contents(Path("x.pt"), "torch", dict(made.state_dict())), "torchvision:googlenet")
    assert guess.fit.fits
    assert {name.partition(".")[0] for name in guess.fit.auxiliary} == {"aux1", "aux2"}


def test_misfits_count_and_name_the_first_of_each_kind(tmp_path: Path) -> None:
    digits = datasets.find("digits")
    whole = state("resnet18@width=2")
    broken = {k: v for k, v in whole.items() if not k.startswith("layer4")}
    broken |= {f"extra.{i}": torch.zeros(2) for i in range(5)} | {"fc.bias": torch.zeros(4)}
    with pytest.raises(WeightsError) as caught:
        load_model(save(broken, tmp_path / "x.pt"), spec("resnet18@width=2"), digits)
    said = str(caught.value)
    counted = sum(k.startswith("layer4") and not k.endswith("num_batches_tracked") for k in whole)
    assert f"{counted} missing (first: layer4.0.conv1.weight, layer4.0.bn1.weight, layer4.0.bn1.bias, …)" in said
    assert "5 that it does not have (first: extra.0, extra.1, extra.2, …)" in said
    assert "1 of another shape (first: fc.bias, (4,) instead of (10,))" in said


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the reference weights are not here (NASROB_GOLDEN)")
@pytest.mark.parametrize(
    ("file", "architecture"),
    [
        ("darts_DARTS_V2_cifar_C2_L4_aux", "darts@init_channels=2,layers=4"),
        ("pdarts_PDARTS_imagenet_C2_L4_aux", "pdarts@init_channels=2,layers=4,form=imagenet"),
        (
            "nsga_micro_pyramid_C4_L5_inc2_SE1",
            "nsganet@init_channels=4,layers=5,increment=2,squeeze_excitation=true",
        ),
        ("nsga_macro_NSGANet_dense_16", "nsganet-macro@init_channels=16,growth=8"),
    ],
)
def test_reference_checkpoints_are_recognised_and_give_the_reference_logits(file: str, architecture: str) -> None:
    """Files of the original authors' code, in half precision, with inputs and logits beside the state dict."""
    path = GOLDEN / f"{file}.pt"
    golden = torch.load(path, weights_only=True)
    meta = json.loads(golden["meta_json"])
    guess = infer(containers.read(path), architecture.partition("@")[0], classes=meta.get("num_classes", 10))
    assert guess.fit.fits
    assert guess.spec.canonical == architecture
    if "input" not in golden:
        return
    dataset = replace(datasets.find("cifar10"), n_classes=guess.num_classes)
    loaded = load_model(path, guess.spec, dataset)
    logits = loaded.classifier.network.eval()(golden["input"].float())
    assert torch.allclose(logits, golden["logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("how", ["data parallel, wrapped", "fastai", "behind a normalisation", "namespace"])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_cell_networks_in_every_kind_of_container(how: str, auxiliary: bool, tmp_path: Path) -> None:
    net = network("darts@init_channels=2,layers=4", in_channels=3, auxiliary=auxiliary)
    path = save(CONTAINERS[how](net), tmp_path / "x.pt")
    loaded = load_model(path, spec("darts@init_channels=2,layers=4"), datasets.find("cifar10"))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.classifier.network.eval()(x), net.eval()(x))
    assert loaded.fit is not None
    assert len(loaded.fit.auxiliary) == (14 if auxiliary else 0)
