"""`weights`: released checkpoints are matched, measured and kept; what does not fit is explained in one sentence."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file

from explorer.cli import program, weights
from models.datasets import registry as datasets
from models.weights import catalogue, inference
from models.weights.files import load_model
from tests.models.weights_support import CONTAINERS, State, named, network, save

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The `weights` commands alone, with the error handling of the whole command line."""
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.add_typer(weights.app, name="weights")
    app.callback()(lambda: None)
    monkeypatch.setattr(program, "app", app)
    return lambda *words: cli("weights", *words)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of a few architectures to look through, so that a test does not build hundreds."""
    from models.architectures import registry

    some = {name: registry.find(name) for name in ("darts", "darts-v1", "resnet18", "resnet50", "vgg16-bn")}
    monkeypatch.setattr(inference.registry, "entries", lambda: some)


@pytest.fixture
def released(trained: Path, tmp_path: Path) -> Path:
    """The small trained network as a stranger would publish it: wrapped, parallel, in half precision, without a
    record.
    """
    state = {k: v.half() if v.is_floating_point() else v for k, v in load_file(trained).items()}
    return save({"epoch": 6, "state_dict": named("module.", state), "best_acc": 95.0}, tmp_path / "model_best.pth.tar")


def rows(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text)
    return found


def files(home: Path) -> list[Path]:
    return sorted(p for p in (home / "weights").rglob("*") if p.is_file())


ADD = ("--arch", "resnet18", "--dataset", "digits", "--threads", "1", "--format", "json")


def test_add_finds_the_size_measures_and_writes_a_record(run: Cli, cli: Cli, released: Path, home: Path) -> None:
    before = released.read_bytes()
    code, out, err = run("add", str(released), *ADD, "--origin", "https://example.org/model_best.pth.tar")
    assert code == 0, err
    (row,) = rows(out)
    assert list(row) == list(weights.ADD_KEYS)
    assert row["architecture"] == "resnet18@width=8"
    assert row["added"] is True
    assert row["warnings"] == []
    assert row["source"] == "https://example.org/model_best.pth.tar"
    assert row["source_sha256"] == hashlib.sha256(before).hexdigest()
    assert row["clean_accuracy"] > 85
    assert row["clean_examples"] == len(datasets.load("digits", "test"))
    for line in ("all 122 tensors", "below `state_dict.module`", "float16 tensors", "epoch, best_acc"):
        assert line in err
    assert released.read_bytes() == before

    path = Path(row["path"])
    assert path.parent == home / "weights" / "digits"
    assert files(home) == [path]
    record = catalogue.read_record(path)
    assert record is not None
    assert (record.origin, record.seed, record.recipe, record.created_at != "") == ("imported", None, None, True)
    assert record.tensors_sha256 == row["sha256"] == load_model(path, None, datasets.find("digits")).sha256
    (listed,) = rows(run("--format", "json")[1])
    assert (listed["sha256"], listed["origin"]) == (row["sha256"], "imported")
    assert "resnet18@width=8" in run()[1]


def test_added_weights_can_be_attacked_by_name(run: Cli, released: Path, home: Path) -> None:
    assert run("add", str(released), *ADD, "--no-measure")[0] == 0
    from explorer.jobs.planning import Asked, plan
    from explorer.settings import load

    (request,) = plan(Asked(architectures=("resnet18@width=8",), attacks=("fgsm",)), load())
    assert [Path(m.weights) for m in request.models] == files(home)


def test_the_same_tensors_are_kept_once(run: Cli, released: Path, trained: Path, tmp_path: Path, home: Path) -> None:
    (first,) = rows(run("add", str(released), *ADD, "--no-measure")[1])
    assert first["clean_accuracy"] is None
    other = {k: v.half().float() if v.is_floating_point() else v for k, v in load_file(trained).items()}
    again = save(other, tmp_path / "other.pt")
    code, out, err = run("add", str(again), *ADD, "--mean", "0.5", "--std", "0.25")
    assert code == 0
    assert f"here already: {first['path']}" in err
    assert rows(out)[0]["added"] is False
    assert (rows(out)[0]["path"], rows(out)[0]["sha256"]) == (first["path"], first["sha256"])
    assert len(files(home)) == 1
    code, out, _ = run("add", str(again), *ADD, "--mean", "1/2", "--std", "0.25", "--force", "--name", "mine")
    assert code == 0
    assert [p.name for p in files(home)] == ["mine.safetensors"]
    record = catalogue.read_record(files(home)[0])
    assert record is not None
    assert (record.mean, record.std, record.name) == ((0.5,), (0.25,), "mine")


def test_a_trained_file_keeps_its_history(run: Cli, trained: Path, home_with_weights: Path, tmp_path: Path) -> None:
    path = files(home_with_weights)[0]
    before = catalogue.read_record(path)
    copy = save(load_file(trained), tmp_path / "copy.pt")
    assert run("add", str(copy), *ADD, "--no-measure", "--force", "--mean", "0.1", "--std", "0.9")[0] == 0
    after = catalogue.read_record(path)
    assert before is not None
    assert after is not None
    assert (after.recipe, after.seed, after.origin) == (before.recipe, before.seed, "trained")
    assert after.mean == (0.1,)
    assert files(home_with_weights) == [path]


def test_a_file_with_a_record_needs_no_words(run: Cli, trained: Path, home: Path) -> None:
    code, out, err = run("add", str(trained), "--no-measure", "--format", "json")
    assert code == 0, err
    record, original = catalogue.read_record(Path(rows(out)[0]["path"])), catalogue.read_record(trained)
    assert record is not None
    assert original is not None
    assert (record.recipe, record.seed, record.origin) == (original.recipe, original.seed, "trained")
    code, _, err = run("add", str(trained), "--dataset", "cifar10")
    assert code == 2
    assert "was made for digits, not for cifar10" in err
    code, _, err = run("add", str(trained), "--arch", "vgg16-bn")
    assert code == 2
    assert "holds weights of resnet18@width=8, not of vgg16-bn" in err


def test_near_chance_is_a_warning(run: Cli, trained: Path, tmp_path: Path) -> None:
    """Classes in another order: everything fits, and hardly an answer is right."""
    state = load_file(trained)
    state["fc.weight"], state["fc.bias"] = state["fc.weight"].roll(1, 0), state["fc.bias"].roll(1, 0)
    code, out, err = run("add", str(save(state, tmp_path / "x.pt")), *ADD)
    assert code == 0
    (row,) = rows(out)
    assert row["clean_accuracy"] < 20
    assert "close to guessing (10.0 %)" in row["warnings"][0]
    assert "warning: " in err


@pytest.mark.usefixtures("few")
def test_misfits_are_reported_and_the_right_architecture_is_named(run: Cli, home: Path, tmp_path: Path) -> None:
    net = network("darts-v1@init_channels=2,layers=3", in_channels=1)
    path = save({"state_dict": net.state_dict()}, tmp_path / "x.pt")
    words = ("--dataset", "digits", "--no-measure")
    code, out, err = run("add", str(path), "--arch", "darts", *words)
    assert (code, out) == (2, "")
    assert "missing: " in err
    assert "unexpected: " in err
    assert "_ops." in err
    assert "It fits darts-v1@init_channels=2,layers=3 with 10 classes exactly: name that with --arch." in err
    assert files(home) == []
    code, out, err = run("add", str(path), *words)
    assert code == 2
    assert "it could be darts-v1@init_channels=2,layers=3 with 10 classes." in err
    code, _, err = run("add", str(path), "--arch", "resnet18", *words)
    assert code == 2
    assert "does not fit resnet18" in err
    code, _, err = run("add", str(path), "--arch", "darts-v1", "--set", "layers=4", *words)
    assert code == 2
    assert "missing" in err
    strange = save({"encoder.weight": torch.zeros(3, 3)}, tmp_path / "strange.pt")
    code, _, err = run("add", str(strange), "--arch", "resnet18", *words)
    assert code == 2
    assert "Nor does it fit any other architecture (all of the registry's were tried)." in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--dataset", "cifar10"), "with 10 classes and 1 input channels; cifar10 has 10 and 3"),
        (("--dataset", "digitz"), "Did you mean 'digits'"),
        ((), "does not say what it was trained on: name it with --dataset"),
        (("--dataset", "digits", "--arch", "resnet81"), "Did you mean 'resnet18'"),
        (("--dataset", "digits", "--set", "depth=3"), "depth"),
        (("--dataset", "digits", "--mean", "0.5"), "--mean and --std belong together"),
        (("--dataset", "digits", "--mean", "half", "--std", "1"), "is no list of numbers"),
        (("--dataset", "digits", "--mean", "0.5,0.5,0.5", "--std", "1,1,1"), "the images have 1 channel:"),
        (("--dataset", "digits", "--mean", "0.5", "--std", "0"), "std positive"),
        (("--dataset", "digits", "--entry", "ema"), "has no entry 'ema'; it has state_dict"),
        (("--dataset", "digits", "--name", "../../x"), "becomes the name of a file"),
        (("--dataset", "digits", "--device", "gpu"), "device 'gpu' is unknown"),
    ],
)
def test_mistakes(options: tuple[str, ...], says: str, run: Cli, released: Path, home: Path) -> None:
    arch = () if "--arch" in options else ("--arch", "resnet18")
    code, out, err = run("add", str(released), *arch, *options)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert files(home) == []


def test_wrong_classes_name_the_number(run: Cli, tmp_path: Path) -> None:
    net = network("resnet18@width=4", num_classes=100, in_channels=3)
    code, _, err = run(
        "add", str(save(net.state_dict(), tmp_path / "x.pt")), "--arch", "resnet18", "--dataset", "cifar10"
    )
    assert code == 2
    assert "fits resnet18@width=4 with 100 classes and 3 input channels; cifar10 has 10 and 3" in err


def test_weights_that_are_no_numbers_are_refused(run: Cli, trained: Path, tmp_path: Path, home: Path) -> None:
    state = load_file(trained)
    state["layer1.0.bn1.running_var"][0] = torch.nan
    code, _, err = run("add", str(save(state, tmp_path / "x.pt")), *ADD)
    assert code == 2
    assert "non-finite values in layer1.0.bn1.running_var" in err
    assert files(home) == []


def test_without_the_data_nothing_is_measured(run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASROB_DATA", str(tmp_path / "empty"))
    net = network("resnet18@width=4", in_channels=3)
    path = save(net.state_dict(), tmp_path / "x.pt")
    code, out, err = run("add", str(path), "--arch", "resnet18", "--dataset", "cifar10", "--format", "json")
    assert code == 0, err
    assert rows(out)[0]["clean_accuracy"] is None
    assert "not measured: cifar10/test is not on this machine" in err


def test_a_full_disk_leaves_nothing_behind(
    run: Cli, released: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, out, err = run("add", str(released), *ADD, "--no-measure")
    assert (code, out) == (1, "")
    assert "No space left on device. Free some space" in err
    assert files(home) == []


def test_another_model_under_the_same_name_is_not_overwritten(run: Cli, released: Path, tmp_path: Path) -> None:
    words = ("--no-measure", "--name", "mine")
    (first,) = rows(run("add", str(released), *ADD, *words)[1])
    other = save(network("resnet18@width=8").state_dict(), tmp_path / "other.pt")
    code, _, err = run("add", str(other), *ADD, *words)
    assert code == 2
    assert "holds another model" in err
    (second,) = rows(run("add", str(other), *ADD, *words, "--force")[1])
    assert second["path"] == first["path"]
    assert second["sha256"] != first["sha256"]


@pytest.mark.usefixtures("few")
def test_show(run: Cli, released: Path, home_with_weights: Path) -> None:
    (mine,) = files(home_with_weights)
    record = catalogue.read_record(mine)
    assert record is not None
    (row,) = rows(run("show", record.tensors_sha256[:8], "--format", "json")[1])
    assert (row["path"], row["intact"], row["architecture"], row["seed"]) == (str(mine), True, record.architecture, 0)
    assert (row["container"], row["tensors"]) == ("safetensors", 122)
    (row,) = rows(run("show", str(released), "--format", "json")[1])
    assert (row["container"], row["intact"]) == ("torch", None)
    assert row["entries"] == {"state_dict": 122}
    assert row["others"] == ["epoch", "best_acc"]
    assert row["types"]["float16"] + row["types"]["int64"] == 122
    assert row["fits"] == ["resnet18@width=8 with 10 classes"]
    code, out, _ = run("show", str(mine))
    assert code == 0
    assert "resnet18@width=8" in out
    for words, says in (
        (("show", "absent.pt"), "there is no weights file"),
        (("show", "abcdef12"), "no weights begin"),
    ):
        code, _, err = run(*words)
        assert code == 2
        assert says in err


def test_no_weights_yet(run: Cli) -> None:
    assert run("--format", "json") == (0, "[]\n", "")
    code, out, err = run()
    assert (code, out) == (0, "")
    assert "nasrob-tui weights add FILE" in err


@pytest.mark.parametrize("how", ["fastai", "behind a normalisation", "numpy accuracy"])
def test_containers_go_through_the_command(how: str, run: Cli, tmp_path: Path) -> None:
    net = network("resnet18@width=4")
    path = save(CONTAINERS[how](net), tmp_path / "x.pth")
    code, out, err = run("add", str(path), *ADD, "--no-measure")
    assert code == 0, err
    kept: State = load_file(rows(out)[0]["path"])
    assert all(torch.equal(kept[k], v) for k, v in net.state_dict().items())


@pytest.mark.usefixtures("few")
def test_options_beside_the_architecture(run: Cli, tmp_path: Path) -> None:
    """By their short names; what the text and --set both say must agree, and unknown ones are refused."""
    net = network("darts@init_channels=2,layers=1", in_channels=1)
    path = save(net.state_dict(), tmp_path / "x.pt")
    words = ("add", str(path), "--dataset", "digits", "--no-measure", "--format", "json")
    for more in (("darts",), ("darts@C=2",), ("darts@layers=1", "--set", "L=1", "--set", "form=cifar")):
        code, out, err = run(*words, "--arch", *more)
        assert code == 0, err
        assert rows(out)[0]["architecture"] == "darts@init_channels=2,layers=1"
    for more, says in (
        (("darts@layers=1", "--set", "layers=2"), "two values of layers"),
        (("darts", "--set", "L=2"), "does not fit darts@init_channels="),
        (("darts", "--set", "depth=2"), "unknown option of darts 'depth'"),
    ):
        code, _, err = run(*words, "--arch", *more)
        assert code == 2
        assert says in err


def test_a_genotype_of_ones_own_may_widen(run: Cli, tmp_path: Path, home: Path) -> None:
    from models.architectures import genotypes, registry

    text = str(genotypes.sample(9)).replace("reduce_concat=[2, 3, 4, 5]", "reduce_concat=[2, 3, 5]")
    name = registry.find(text).name
    spec = registry.parse_architecture(f"{name}@C=6,L=4,increment=4,se=true")
    net = network(spec.canonical, in_channels=1)
    path = save({"state_dict": net.state_dict()}, tmp_path / "x.pt")
    code, out, err = run("add", str(path), "--arch", text, "--dataset", "digits", "--no-measure", "--format", "json")
    assert code == 0, err
    assert rows(out)[0]["architecture"] == spec.canonical


def test_robust_models_bring_their_normalisation(run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the layout of RobustBench, whose networks hold mean and std beside their tensors."""
    monkeypatch.setenv("NASROB_DATA", str(tmp_path / "empty"))
    net = network("dm-wrn-28-10@depth=16,widen_factor=2", in_channels=3)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)))
    state = named("module.0.", {**net.state_dict(), "mean": mean, "std": std})
    path = save({"model_state_dict": state}, tmp_path / "weights-best.pt")
    words = ("add", str(path), "--arch", "dm-wrn-70-16", "--dataset", "cifar10", "--format", "json")
    code, out, err = run(*words, "--name", "own")
    assert code == 0, err
    assert "fits: all 83 tensors" in err
    assert "activation=relu; --set chooses" in err
    assert "normalisation: the file's own (mean 0.5071, 0.4865, 0.4409; std 0.2673, 0.2564, 0.2762)" in err
    record = catalogue.read_record(Path(rows(out)[0]["path"]))
    assert record is not None
    assert record.architecture == "dm-wrn-70-16@depth=16,widen_factor=2,activation=swish"
    assert (record.mean, record.std) == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    code, out, _ = run(*words, "--set", "activation=relu", "--mean", "1/2", "--std", "0.25", "--name", "given")
    assert code == 0
    record = catalogue.read_record(Path(rows(out)[0]["path"]))
    assert record is not None
    assert record.architecture.endswith("activation=relu")
    assert (record.mean, record.std) == ((0.5,) * 3, (0.25,) * 3)


def test_listing_needs_no_torch(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights" / "digits"
    folder.mkdir(parents=True)
    (folder / trained.name).write_bytes(trained.read_bytes())
    code = (
        "import sys, typer\nfrom explorer.cli import weights\n"
        "typer.main.get_command(weights.app)(['--format', 'json'], standalone_mode=False)\n"
        "print(sorted({'torch', 'textual', 'duckdb'} & set(sys.modules)))"
    )
    environment = {**os.environ, "NASROB_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert '"architecture": "resnet18@width=8"' in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_blocks_that_nobody_printed_are_read_off_the_weights(run: Cli, tmp_path: Path, home: Path) -> None:
    """DenseNAS-R1's block list came only beside its weights; here a small network of the same kind stands for it."""
    from models.architectures import definitions, registry
    from models.architectures.definitions import Definition

    blocks = [
        [[32, 48], "basic_block", ["basic_block"], 1, 2],
        [[48, 72], "basic_block", [], 0, 2],
        [[72, 128], "basic_block", [], 0, 2],
        [[128, 240], "basic_block", [], 0, 2],
    ]
    truth = Definition.from_dict({"space": "densenas", "data": {"net_type": "res", "net_config": blocks}})
    torch.manual_seed(0)
    spec = registry.parse_architecture(definitions.remember(truth))
    network = registry.build(spec, num_classes=1000, in_channels=3)
    path = tmp_path / "weights.pt"
    torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, path)
    code, out, err = run(
        "add", str(path), "--arch", "DenseNAS-R1", "--dataset", "imagenet", "--no-measure", "--format", "json"
    )
    assert code == 0, err
    assert "assumed: " in err
    assert json.loads(out)[0]["architecture"] == spec.canonical


@pytest.mark.parametrize("name", [[], ["--name", "mine"]], ids=["same name", "another name"])
def test_what_comes_with_the_package_is_never_written_to(
    run: Cli, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: list[str], trained: Path
) -> None:
    shipped = tmp_path / "shipped" / "digits" / trained.name
    shipped.parent.mkdir(parents=True)
    shipped.write_bytes(trained.read_bytes())
    before = (shipped.read_bytes(), shipped.stat().st_mtime_ns)
    monkeypatch.setattr(catalogue, "shipped_folder", lambda: tmp_path / "shipped")
    monkeypatch.setenv("NASROB_SHIPPED", "on")
    code, out, _ = run("add", str(trained), "--force", *name, *ADD)
    assert code == 0
    assert Path(rows(out)[0]["path"]).is_relative_to(home / "weights")
    assert (shipped.read_bytes(), shipped.stat().st_mtime_ns) == before
