"""Checkpoints as they are met: every wrapping is the same model, and nothing in a file ever runs."""

from __future__ import annotations

import pickle
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from models.datasets import registry as datasets
from models.errors import WeightsError
from models.weights import containers
from models.weights.files import LoadedModel, load_model
from tests.models.weights_support import CONTAINERS, network, save, spec, state, with_metadata

DIGITS = datasets.find("digits")
NAME = "resnet18@width=2"


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return network(NAME)


@pytest.fixture(scope="module")
def sha256(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bare") / "weights.safetensors"
    save_file(net.state_dict(), path)
    return load(path).sha256


def load(path: Path, name: str = NAME) -> LoadedModel:
    return load_model(path, spec(name), DIGITS)


@pytest.mark.parametrize("how", CONTAINERS)
def test_every_wrapping_is_the_same_model(how: str, net: nn.Module, sha256: str, tmp_path: Path) -> None:
    path = save(CONTAINERS[how](net), tmp_path / "checkpoint.pth.tar")
    before = path.read_bytes()
    assert load(path).sha256 == sha256
    assert path.read_bytes() == before


@pytest.mark.parametrize("how", ["bare", "data parallel, wrapped", "numpy accuracy", "with the optimizer"])
def test_layout_from_before_torch_1_6(how: str, net: nn.Module, sha256: str, tmp_path: Path) -> None:
    path = save(CONTAINERS[how](net), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert containers.recognise(path) == "torch before 1.6"
    assert load(path).sha256 == sha256


def test_a_file_is_known_by_its_content_not_by_its_name(net: nn.Module, sha256: str, tmp_path: Path) -> None:
    save_file(net.state_dict(), tmp_path / "weights.bin", metadata={"format": "pt"})
    save(net.state_dict(), tmp_path / "weights.safetensors")
    assert load(tmp_path / "weights.bin").sha256 == load(tmp_path / "weights.safetensors").sha256 == sha256


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32_and_is_said(kind: torch.dtype, net: nn.Module, tmp_path: Path) -> None:
    halved = {k: v.to(kind) if v.is_floating_point() else v for k, v in net.state_dict().items()}
    path = save({"state_dict": halved}, tmp_path / "half.pt")
    loaded = load(path)
    assert {t.dtype for t in loaded.classifier.parameters()} == {torch.float32}
    assert torch.equal(loaded.classifier.network.get_parameter("fc.weight"), halved["fc.weight"].float())
    assert loaded.fit is not None
    report = "\n".join(loaded.fit.report(containers.read(path)))
    floating = sum(v.is_floating_point() for v in halved.values())
    assert f"{floating} {str(kind).removeprefix('torch.')} tensors" in report


def test_counters_that_are_no_floats_keep_their_type_and_values(net: nn.Module, tmp_path: Path) -> None:
    loaded = load(save(net.state_dict(), tmp_path / "x.pt"))
    counters = {k: v for k, v in loaded.classifier.network.state_dict().items() if k.endswith("num_batches_tracked")}
    assert {(v.dtype, int(v)) for v in counters.values()} == {(torch.int64, 7)}


def test_files_without_batch_counters_load_whatever_their_metadata_say(tmp_path: Path) -> None:
    net = network(NAME)
    content = with_metadata(net)
    with pytest.raises(RuntimeError, match="num_batches_tracked"):
        network(NAME).load_state_dict(content)
    loaded = load(save(content, tmp_path / "x.pt"))
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded.classifier.network.eval()(x), net.eval()(x))


def test_report_names_what_was_passed_over(net: nn.Module, tmp_path: Path) -> None:
    content = {
        "epoch": 7,
        "state_dict": {
            "model.0.mean": torch.tensor([0.25]),
            **{f"model.1.{k}": v for k, v in net.state_dict().items()},
        },
        "state_dict_ema": {k: v + 1 for k, v in net.state_dict().items()},
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
    }
    path = save(content, tmp_path / "x.pt")
    loaded = load(path)
    assert loaded.fit is not None
    report = "\n".join(loaded.fit.report(containers.read(path)))
    assert "all 122 tensors" in report
    assert "below `state_dict.model.1`" in report
    assert "optimizer (2 entries)" in report
    assert "epoch" in report
    assert "--entry state_dict_ema" in report
    assert "model.0.mean = 0.25" in report
    assert torch.equal(loaded.classifier.network.get_parameter("fc.bias"), net.get_parameter("fc.bias"))
    averaged = load_model(path, spec(NAME), DIGITS, entry="state_dict_ema")
    assert torch.equal(averaged.classifier.network.get_parameter("fc.bias"), net.get_parameter("fc.bias") + 1)
    with pytest.raises(WeightsError, match=r"no entry 'ema'; it has state_dict, state_dict_ema, optimizer"):
        load_model(path, spec(NAME), DIGITS, entry="ema")


def report(path: Path) -> str:
    loaded = load(path)
    assert loaded.fit is not None
    return "\n".join(loaded.fit.report(containers.read(path)))


def test_batchnorm_of_averaged_weights_is_no_normalisation(net: nn.Module, tmp_path: Path) -> None:
    """Running means of few channels look like the constants of a normalising layer; so do those of another model."""
    both = {"model": net.state_dict(), "model_ema": net.state_dict()}
    assert "normalisation" not in report(save(both, tmp_path / "x.pt"))
    assert net.get_buffer("bn1.running_mean").numel() <= 4
    teacher = {"model": net.state_dict(), "teacher": {"bn1.running_mean": net.get_buffer("bn1.running_mean")}}
    assert "normalisation" not in report(save(teacher, tmp_path / "x.pt"))
    constants = {"mean": torch.tensor([0.3]), "std": torch.tensor([0.4])}
    others = {"mean": torch.tensor([0.9]), "std": torch.tensor([0.8])}
    own = {"model": {**net.state_dict(), **constants}, "model_ema": {**net.state_dict(), **others}}
    said = report(save(own, tmp_path / "y.pt"))
    assert "own normalisation: model.mean = 0.3; model.std = 0.4" in said
    assert "0.9" not in said


@pytest.mark.parametrize("prefix", ["", "normalize.", "normalize.img_", "module.0."])
def test_the_constants_of_a_file_are_its_normalisation(prefix: str, net: nn.Module, tmp_path: Path) -> None:
    """As RobustBench's models have them: beside the network's tensors, of shape (channels, 1, 1)."""
    mean, std = torch.full((1, 1, 1), 0.49), torch.full((1, 1, 1), 0.24)
    inner = "module.0." if prefix == "module.0." else ""
    content = {f"{inner}{k}": v for k, v in net.state_dict().items()}
    path = save({**content, f"{prefix}mean": mean, f"{prefix}std": std}, tmp_path / "x.pt")
    loaded = load(path)
    assert (loaded.preprocessing.mean, loaded.preprocessing.std) == ((0.49,), (0.24,))
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        expected = net.eval()((x - 0.49) / 0.24)
        assert torch.allclose(loaded.classifier.eval()(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    given = load_model(path, spec(NAME), DIGITS, preprocessing=DIGITS.preprocessing)
    assert given.preprocessing == DIGITS.preprocessing


@pytest.mark.parametrize(
    ("constants", "fits"),
    [
        ({"mean": torch.tensor([123.7]), "std": torch.tensor([58.4])}, True),  # of images in [0, 255]
        ({"mean": torch.tensor([0.5, 0.5, 0.5]), "std": torch.tensor([0.2, 0.2, 0.2])}, True),  # of colour images
        ({"mean": torch.tensor([0.5]), "std": torch.tensor([0.0])}, True),
        ({"mean": torch.tensor([0.5])}, False),
        ({"mean": torch.zeros(64), "std": torch.ones(64)}, False),
    ],
)
def test_other_constants_are_not_taken_for_it(
    constants: dict[str, torch.Tensor], fits: bool, net: nn.Module, tmp_path: Path
) -> None:
    path = save({**net.state_dict(), **constants}, tmp_path / "x.pt")
    if fits:
        assert load(path).preprocessing == DIGITS.preprocessing
    else:
        with pytest.raises(WeightsError, match=r"that it does not have .first: mean"):
            load(path)


def test_a_prefix_comes_off_only_where_the_network_has_no_such_names(tmp_path: Path) -> None:
    """fastai's networks have names such as 0.0.weight; `module.` is stripped because of the fit, not of its looks."""
    body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    from models.weights.containers import Contents
    from models.weights.fit import Expected, match

    wrapped = nn.ModuleDict({"module": body})
    tensors = {k: v.detach() for k, v in wrapped.state_dict().items()}
    contents = Contents(tmp_path, "torch", tensors)
    assert match(Expected.of(wrapped), contents).prefix == ""
    assert match(Expected.of(body), contents).prefix == "module."
    assert match(Expected.of(wrapped), contents).fits
    assert match(Expected.of(body), contents).fits


class Evil:
    """What a hostile file holds: unpickled without care, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (Path.touch, (str(self.trace),))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_files_do_not_run(protocol: int, zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    for content in ({"state_dict": Evil(trace)}, [Evil(trace)], {"args": Evil(trace), "state_dict": state(NAME)}):
        path = save(content, tmp_path / "evil.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsError, match=r"would run its code; where you trust the file"):
            load(path)
        with pytest.raises(WeightsError):
            containers.read(path)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(trace), protocol=protocol))
    with pytest.raises(WeightsError):
        load(tmp_path / "evil.pt")
    assert not trace.exists()
    # The files would indeed have run.
    torch.load(save({"state_dict": Evil(trace)}, tmp_path / "evil.pt"), weights_only=False)
    assert trace.exists()


def test_stand_ins_give_no_way_around_the_restricted_unpickler(tmp_path: Path) -> None:
    """A file may call `numpy.dtype` with anything: what is made is inert, and NumPy's own code is not called."""
    trace = tmp_path / "ran"

    class Sly:
        def __reduce__(self) -> tuple[object, tuple[object, ...], dict[str, object]]:
            import numpy as np

            return (np.dtype, ("f8", Evil(trace)), {"__class__": "os"})

    with pytest.raises(WeightsError):
        containers.read(save({"a": torch.zeros(1), "b": Sly()}, tmp_path / "sly.pt"))
    assert not trace.exists()


def test_numpy_arrays_are_tensors_and_said(net: nn.Module, tmp_path: Path) -> None:
    arrays = {k: v.half().numpy() if v.is_floating_point() else v.numpy() for k, v in net.state_dict().items()}
    assert "taken as tensors: 122 NumPy arrays" in report(save(arrays, tmp_path / "x.pt"))
    assert "NumPy" not in report(save(net.state_dict(), tmp_path / "x.pt"))


def test_a_numpy_array_is_believed_only_if_it_is_whole(tmp_path: Path) -> None:
    """The file's own words for an array: a shape, a type and bytes, any of which may lie."""

    class Forged:
        def __init__(self, *state: object) -> None:
            self.state = state

        def __reduce__(self) -> tuple[object, tuple[object, ...], tuple[object, ...]]:
            return (np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), self.state)

    kind, four = np.dtype("f4"), b"\0" * 4
    assert set(containers.read(save({"a": Forged(1, (1,), kind, False, four)}, tmp_path / "x.pt")).tensors) == {"a"}
    for forged in (
        (1, (2,), kind, False, four),
        (1, (2**62, 4), kind, False, four),
        (1, (-1,), kind, False, four),
        (1, (True,), kind, False, four),
        (1, ("1",), kind, False, four),
        (1, 1, kind, False, four),
        (1, (1,), "f4", False, four),
        (1, (1,), np.dtype("U1"), False, four),
        (1, (1,), np.dtype("O"), False, [four]),
    ):
        read = containers.read(save({"b": {"a": Forged(*forged)}, "c": {"d": torch.zeros(1)}}, tmp_path / "x.pt"))
        assert set(read.tensors) == {"c.d"}, forged
        assert read.others == ("b.a",)


@pytest.mark.parametrize("how", ["pickle 2", "pickle 5", "npz", "torch, pickle 4"])
def test_other_files_of_arrays_are_refused_with_a_command_that_converts_them(
    how: str, net: nn.Module, sha256: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {k: v.numpy() for k, v in net.state_dict().items()}
    path = tmp_path / "weights.pkl"
    if how == "npz":
        with path.open("wb") as file:
            np.savez(file, **arrays)
    elif how.startswith("torch"):
        save({"state_dict": arrays, "name": "x"}, path, pickle_protocol=4)
    else:
        path.write_bytes(pickle.dumps({"state_dict": arrays, "name": "x"}, protocol=int(how[-1])))
    with pytest.raises(WeightsError, match="plain pickle" if how.startswith("pickle") else "NumPy|trust") as caught:
        load(path)
    words = shlex.split(str(caught.value).rpartition(": python ")[2])
    monkeypatch.setattr("sys.argv", ["-c", *words[2:]])
    exec(words[1], {})
    assert load(Path(words[3])).sha256 == sha256


class Pickled(nn.Module):
    """A module of a script, as `torch.save(model)` keeps it: by reference to its class."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickled_model_is_refused_with_a_command_that_converts_it(
    wrapped: bool, net: nn.Module, sha256: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Pickled(net)
    folder = tmp_path / "with 'quotes' and spaces"
    folder.mkdir()
    path = save(
        {"net": model, "epoch": 3, "args": Evil(tmp_path / "trusted")} if wrapped else model, folder / "m.pth.tar"
    )
    with pytest.raises(WeightsError, match=r"holds more than tensors .*; where you trust the file, keep") as caught:
        load(path)
    words = shlex.split(str(caught.value).partition(": python ")[2])
    assert words[0] == "-c"
    monkeypatch.setattr("sys.argv", ["-c", *words[2:]])
    exec(words[1], {})  # The printed command, as the shell would run it.
    assert load(Path(words[3])).sha256 == sha256


def test_a_newer_pickle_protocol_is_refused_and_can_be_converted(
    net: nn.Module, sha256: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save({"state_dict": net.state_dict()}, tmp_path / "x.pt", pickle_protocol=4)
    with pytest.raises(WeightsError, match="not read safely; where you trust the file") as caught:
        load(path)
    words = shlex.split(str(caught.value).partition(": python ")[2])
    monkeypatch.setattr("sys.argv", ["-c", *words[2:]])
    exec(words[1], {})
    assert load(Path(words[3])).sha256 == sha256


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_torchscript_is_refused_with_a_command_that_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "script.pt"
    torch.jit.script(nn.Linear(2, 3)).save(str(path))
    with pytest.raises(WeightsError, match="TorchScript") as caught:
        containers.read(path)
    words = shlex.split(str(caught.value).partition(": python ")[2])
    monkeypatch.setattr("sys.argv", ["-c", *words[2:]])
    exec(words[1], {})
    assert set(containers.read(Path(words[3])).tensors) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\x1f\x8b\x08" + bytes(100), "compressed archive"),
        (b"\x93NUMPY\x01\x00" + bytes(100), "NumPy array"),
        (bytes(257) + b"ustar" + bytes(300), "tar archive"),
        (bytes(range(1, 200)) * 9, "no checkpoint"),
        (b"\x80\x02" + bytes(range(3, 200)) * 9, "no checkpoint, or it is damaged"),
        (b"PK\x03\x04" + bytes(600), "cut short or damaged"),
    ],
)
def test_what_is_no_checkpoint_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    for name in ("weights.pt", "weights.tar"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=says):
            load(tmp_path / name)


def test_folders_and_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(WeightsError, match="there is no weights file"):
        load(tmp_path / "absent.pt")


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"epoch": 3}, [1, 2], "text"])
def test_files_without_tensors(content: object, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no state dict"):
        load(save(content, tmp_path / "x.pt"))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_checkpoints_cut_short(share: float, old: bool, net: nn.Module, tmp_path: Path) -> None:
    path = save(net.state_dict(), tmp_path / "cut.pt", _use_new_zipfile_serialization=not old)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=r"cut\.pt"):
        load(path)


def test_archives_that_are_no_checkpoint_or_unpack_without_end(tmp_path: Path) -> None:
    path = tmp_path / "weights.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("models/resnet18.pt", b"x")
    with pytest.raises(WeightsError, match=r"archive of models/resnet18\.pt, not a checkpoint: unpack it"):
        load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1))
        archive.writestr("archive/data/0", bytes(containers.FREE_BYTES + 2**22))
    assert path.stat().st_size < 2**18
    with pytest.raises(WeightsError, match="would unpack"):
        load(path)


def test_dictionaries_that_hold_themselves_or_never_end(tmp_path: Path) -> None:
    endless: dict[str, object] = {"a": torch.zeros(1)}
    for key in range(30):
        endless[str(key)] = endless
    with pytest.raises(WeightsError, match="nests too much"):
        containers.read(save(endless, tmp_path / "x.pt"))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_tensors_without_plain_values_are_refused(net: nn.Module, tmp_path: Path) -> None:
    whole = net.state_dict()
    cases = {
        "no values": torch.empty(10, 16, device="meta"),
        "quantised": torch.quantize_per_tensor(whole["fc.weight"], 0.1, 0, torch.qint8),
        "no plain real": whole["fc.weight"].to(torch.complex64),
    }
    for says, tensor in cases.items():
        with pytest.raises(WeightsError, match=rf"{says}.* in fc\.weight"):
            load(save({**whole, "fc.weight": tensor}, tmp_path / "x.pt"))
    with pytest.raises(WeightsError, match=r"non-finite values in fc\.weight"):
        load(save({**whole, "fc.weight": torch.full((10, 16), 1e300, dtype=torch.float64)}, tmp_path / "x.pt"))


def test_one_tensor_under_two_names_survives_every_container(tmp_path: Path) -> None:
    """NSGA-Net's last convolution has two names: both are kept, one alone is enough, two that differ are refused."""
    name = "nsganet-macro@init_channels=4,growth=2"
    cifar = datasets.find("cifar10")
    net = network(name, in_channels=3)
    tied = [n for n in net.state_dict() if n.endswith("last_conv.weight")]
    assert tied
    path = save(net.state_dict(), tmp_path / "x.pt")
    loaded = load_model(path, spec(name), cifar)
    from models.weights.catalogue import WeightsRecord
    from models.weights.files import save_weights

    record = WeightsRecord(
        architecture=loaded.architecture.canonical,
        dataset="cifar10",
        dataset_fingerprint="",
        num_classes=10,
        in_channels=3,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        tensors_sha256="",
        origin="imported",
    )
    save_weights(tmp_path / "ours.safetensors", loaded.classifier.network, record)
    assert set(load_file(tmp_path / "ours.safetensors")) == set(net.state_dict())
    assert load_model(tmp_path / "ours.safetensors", None, cifar).sha256 == loaded.sha256
    single = {k: v for k, v in net.state_dict().items() if k not in tied}
    save_file(single, tmp_path / "single.safetensors")
    assert load_model(tmp_path / "single.safetensors", spec(name), cifar).sha256 == loaded.sha256
    other = {**net.state_dict(), tied[0]: net.state_dict()[tied[0]] + 1}
    with pytest.raises(WeightsError, match="two different tensors"):
        load_model(save(other, tmp_path / "other.pt"), spec(name), cifar)
