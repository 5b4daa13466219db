"""Networks that other packages build: torchvision, timm, registered architectures, and any importable factory."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from torch import nn

from models import counting
from models.architectures import external, registry
from models.classifier import pick_logits
from models.datasets import registry as datasets
from models.errors import EvaluationError, InvalidSpec, UnknownName, WeightsError
from models.weights import sources

CODE = """
import torch
from torch import nn

class Net(nn.Sequential):
    @classmethod
    def named(cls, name, width=4, num_classes=10, in_channels=3):
        if name != "tiny":
            raise KeyError(name)
        return cls(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, num_classes))

def seeded(in_channels, num_classes):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))

def random(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

def nothing():
    return "a string"

def confused(num_classes):
    return "1" + num_classes if False else num_classes - "1"

instance = nn.Linear(2, 2)
number = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a person's own, in the current folder."""
    (tmp_path / "their_networks.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "broken_networks.py").write_text("import no_such_module_anywhere", encoding="utf-8")
    (tmp_path / "failing_networks.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("their_networks", "broken_networks", "failing_networks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "their_networks"


def test_a_factory_is_called_with_its_options(package: str) -> None:
    spec = registry.parse_architecture(f"{package}:Net.named@name=tiny", {"width": "6"})
    assert spec.canonical == f"{package}:Net.named@width=6,name=tiny"
    assert registry.parse_architecture(spec.canonical) == spec
    network = registry.build(spec, num_classes=7, in_channels=1)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 7)


def test_naming_a_factory_does_not_import_it(package: str) -> None:
    registry.parse_architecture(f"{package}:seeded")
    assert package not in sys.modules


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no_such_module_anywhere:f", "cannot import no_such_module_anywhere"),
        ("broken_networks:f", "cannot import broken_networks"),
        ("failing_networks:f", "ZeroDivisionError"),
        ("their_networks:sedeed", "Did you mean 'seeded'"),
        ("their_networks:nothing", "returned str"),
        ("their_networks:instance", "not a factory"),
        ("their_networks:number", "is a int"),
        ("their_networks:Net.named", "'name'.* Give its arguments with --set"),
        ("their_networks:Net.named@name=tiny,depth=3", "'depth'.* Give its arguments with --set"),
        ("their_networks:Net.named@name=huge", "KeyError: 'huge'.$"),
        ("their_networks:confused", "TypeError: unsupported operand .*'str'.$"),
    ],
)
def test_what_is_no_factory_is_refused_in_one_sentence(package: str, target: str, said: str) -> None:
    with pytest.raises(InvalidSpec, match=said):
        registry.build(registry.parse_architecture(target), num_classes=10, in_channels=3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("./my_net.py:factory", "write my_net:factory, .* looked for in the current folder, so run there.$"),
        ("my_net.py", "write my_net:factory"),
        ("/home/me/nets/my_net.py:Nets.small", "write my_net:Nets.small"),
        ("..\\nets\\my-net.py:net", r"write my_net:net, .* \(call the file my_net.py\)"),
    ],
)
def test_a_file_of_python_is_named_by_its_module(text: str, says: str) -> None:
    with pytest.raises(InvalidSpec, match=says):
        registry.find(text)


def test_models_of_packages_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert external.packaged("MNASNet1_0") == ["torchvision:mnasnet1_0"]
    assert external.packaged("no_such_model") == []
    timm = pytest.importorskip("timm")
    assert external._timm_models() == set(timm.list_models())
    assert external.packaged("resnet101") == ["torchvision:resnet101", "timm:resnet101"]
    assert external.packaged("resnet101.a1_in1k") == ["timm:resnet101.a1_in1k"]
    with pytest.raises(InvalidSpec, match="of torchvision and of timm: write torchvision:resnet101 or timm:resnet101"):
        registry.find("resnet101")
    external._timm_models.cache_clear()
    monkeypatch.setattr(external.importlib.util, "find_spec", lambda name: None)
    assert external.packaged("resnet101") == ["torchvision:resnet101"]
    external._timm_models.cache_clear()


def test_an_unknown_name_needs_no_torch() -> None:
    code = (
        "import sys\nfrom models.architectures import registry\n"
        "for name in ('resnet101', 'no_such_network', 'net.py:f'):\n"
        "    try: registry.find(name)\n"
        "    except registry.InvalidSpec: pass\n"
        "    else: sys.exit(2)\n"
        "sys.exit(bool({'torch', 'timm', 'torchvision'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["models.resnet:ResNet18", "store:x", "explorer.app:run"])
def test_our_own_packages_are_not_theirs(name: str) -> None:
    with pytest.raises(InvalidSpec, match="another name"):
        registry.find(name)


def test_the_weights_of_a_factory_must_be_the_same_at_every_call(package: str) -> None:
    digits = datasets.find("digits")
    spec = registry.parse_architecture(f"{package}:seeded")
    loaded = sources.load("factory", spec, digits, preprocessing=digits.preprocessing)
    again = sources.load("factory", spec, digits, preprocessing=digits.preprocessing)
    assert loaded.sha256 == again.sha256
    assert loaded.classifier(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    with pytest.raises(WeightsError, match="random"):
        sources.load(
            "factory", registry.parse_architecture(f"{package}:random"), digits, preprocessing=digits.preprocessing
        )


def test_packages_register_architectures(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("their-net", f"{package}:seeded", external.ENTRY_POINTS)
    monkeypatch.setattr(external, "_entry_points", lambda: {"their-net": point})
    spec = registry.parse_architecture("their-net")
    assert spec.canonical == "their-net"
    assert registry.build(spec, num_classes=5, in_channels=1)(torch.rand(1, 1, 8, 8)).shape == (1, 5)
    assert [a.name for a in external.registered()] == ["their-net"]


def test_torchvision_names(package: str) -> None:
    assert registry.find("torchvision:ResNet50").name == "torchvision:resnet50"
    assert registry.find("torchvision_regnet_x_400mf").name == "torchvision:regnet_x_400mf"
    assert registry.find("torchvision:efficientnet_b0").family == "nas"
    assert registry.find("torchvision:resnet50").family == "handcrafted"
    with pytest.raises(UnknownName, match="'resnet50'"):
        registry.find("torchvision:resnet5O")
    with pytest.raises(InvalidSpec, match="3 channels"):
        registry.build(registry.parse_architecture("torchvision:resnet18"), num_classes=10, in_channels=1)


def test_published_weights_say_how_they_want_images() -> None:
    found = external.preprocessing("torchvision:resnet50", "DEFAULT")
    assert found is not None
    assert (found.weights, found.resize, found.crop) == ("torchvision:IMAGENET1K_V2", 232, 224)
    inception = external.preprocessing("torchvision:inception_v3", "imagenet1k_v1")
    assert inception is not None
    assert inception.crop == 299
    assert external.preprocessing("torchvision:resnet50", "weights.pt") is None
    assert external.preprocessing("darts", "DEFAULT") is None
    with pytest.raises(UnknownName, match="IMAGENET1K_V2"):
        external.preprocessing("torchvision:resnet50", "IMAGENET1K_V3")


def test_googlenet_keeps_the_inputs_that_its_weights_were_trained_with() -> None:
    network = registry.build(registry.parse_architecture("torchvision:googlenet"), num_classes=10, in_channels=3)
    assert network.transform_input is True


def test_timm_models() -> None:
    pytest.importorskip("timm")
    spec = registry.parse_architecture("timm:efficientnet_lite0")
    # Of timm 1.0.31, counted by itself: parameters and keys, and the layout of the keys.
    found = counting.layout(counting.skeleton(spec, num_classes=1000, in_channels=3))
    assert (found.params, found.n_keys) == (4_652_008, 296)
    assert found.sha256_sorted == "24673f72f3c67500371e79e858ba20750db64ad32ebc8bc0736a42d2593c7584"
    with pytest.raises(UnknownName, match="efficientnet_lite0"):
        registry.build(registry.parse_architecture("timm:efficientnet_lite00"), num_classes=10, in_channels=3)
    with pytest.raises(InvalidSpec, match="no name of a timm model"):
        registry.find("timm:../../etc")


def test_counts_of_a_network_that_is_there() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert counting.of_network(network, (1, 8, 8)) == (650, 640)
    assert next(network.parameters()).device.type == "cpu"

    class Odd(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * float(x.sum())

    assert counting.of_network(nn.Sequential(nn.Flatten(), Odd(64, 10)), (1, 8, 8)) == (650, None)


class TestOutputs:
    logits = torch.rand(2, 5)

    @pytest.mark.parametrize(
        "make",
        [
            lambda x: x,
            lambda x: (x, torch.rand(2, 5)),
            lambda x: [torch.rand(2, 64), x],
            lambda x: {"logits": x, "features": torch.rand(2, 5)},
            lambda x: {"out": x},
            lambda x: type("Output", (), {"logits": x})(),
        ],
    )
    def test_logits_are_found(self, make: object) -> None:
        assert pick_logits(make(self.logits), 2, 5) is self.logits  # type: ignore[operator]

    @pytest.mark.parametrize(
        "output",
        [
            "text",
            (),
            {"features": logits},
            (torch.rand(2, 64), torch.rand(2, 5), torch.rand(2, 5)),
            torch.rand(2, 7),
            torch.rand(10),
        ],
    )
    def test_anything_else_is_refused(self, output: object) -> None:
        with pytest.raises(EvaluationError):
            pick_logits(output, 2, 5)
