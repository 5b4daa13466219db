"""Adversarial examples kept by `eval --save-examples`, and `nasrob-tui examples`, which lists and exports them."""

from __future__ import annotations

import csv
import errno
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models import kept
from models.errors import DataError
from models.kept import Keeper, Kept

Cli = Callable[..., tuple[int, str, str]]

EVAL = (
    "eval", "--headless", "--arch", "resnet18@width=8", "--dataset", "digits", "--threads", "1", "--format", "json",
    "--attack", "pgd", "--steps", "5", "--eps", "16/255", "--examples", "60",
)  # fmt: skip


def some(n: int = 3, channels: int = 1) -> Kept:
    """n examples of label 1, seen as 7, of which the last is seen as it should be once it is rounded."""
    rng = np.random.default_rng(0)
    clean = (rng.integers(0, 32, (n, channels, 4, 5)) / 64).astype(np.float32)
    numbers = {name: np.full(n, value) for name, value in (("labels", 1), ("clean_predictions", 1), ("predictions", 7))}
    rounded = np.where(np.arange(n) == n - 1, 1, 7)
    adversarial = clean + np.float32(1 / 16)
    return Kept(
        examples=np.arange(n) + 10, rounded_predictions=rounded, clean=clean, adversarial=adversarial, **numbers
    )


def files(store: Path) -> list[Path]:
    return sorted((store.parent / f"{store.stem}-examples").iterdir())


def same(one: Kept, other: Kept) -> bool:
    return all(np.array_equal(value, getattr(other, name)) for name, value in vars(one).items())


def broken_first(store: Path, n: int) -> list[int]:
    """The first n broken examples in the order in which digits are asked for."""
    from models.datasets import registry
    from store import Store

    with Store(store).read() as con:
        found = con.execute("SELECT example FROM outcomes WHERE clean_correct AND NOT robust").fetchall()
    broken = {example for (example,) in found}
    return [i for i in registry.load("digits", "test").subset(60).tolist() if i in broken][:n]


class Model:
    """As much of an evaluator as a keeper needs."""

    slots = 4
    device = "cpu"
    clean = SimpleNamespace(predictions=dict.fromkeys(range(20), 1))

    def __init__(self) -> None:
        import torch

        pixels = lambda indices: np.zeros((len(indices), 1, 2, 2), np.float32)  # noqa: E731
        self.examples = SimpleNamespace(image_shape=(1, 2, 2), labels=np.ones(20, np.int64), pixels=pixels)
        # Two classes: 1 where the image's mean is above a half.
        self.linear = torch.nn.Linear(4, 2)
        self.classifier = torch.nn.Sequential(torch.nn.Flatten(), self.linear)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[0.0] * 4, [1.0] * 4]))
            self.linear.bias.copy_(torch.tensor([2.0, 0.0]))


def offered(order: Sequence[int], indices: Sequence[int], limit: int) -> Kept:
    import torch

    keeper = Keeper(Model(), indices, limit)  # type: ignore[arg-type]
    for example in order:
        keeper(example, torch.full((1, 2, 2), example / 20), 0)
    return keeper.collected()


@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_does_not_depend_on_the_order_of_arrival(seed: int) -> None:
    rng = np.random.default_rng(seed)
    indices = rng.permutation(20).tolist()
    arriving = rng.permutation(indices)[:12].tolist()
    found = offered([*arriving, *arriving[:3]], indices, 5)
    assert found.examples.tolist() == [i for i in indices if i in arriving][:5]
    assert found.adversarial[:, 0, 0, 0] == pytest.approx(found.examples / 20)
    assert found.rounded_predictions.tolist() == [int(i >= 10) for i in found.examples]


def test_rounding_is_judged_by_the_model() -> None:
    """0.5 exactly is class 0; 8 bits know only 127/255 and 128/255, and the nearest even one is above a half."""
    import torch

    keeper = Keeper(Model(), [3, 4], 2)  # type: ignore[arg-type]
    keeper(3, torch.full((1, 2, 2), 0.5), 0)
    keeper(4, torch.full((1, 2, 2), 0.4), 0)
    found = keeper.collected()
    assert found.rounded_predictions.tolist() == [1, 0]
    assert found.survive.tolist() == [False, True]


def test_examples_without_finite_logits_do_not_survive() -> None:
    import torch

    model = Model()
    with torch.no_grad():
        model.linear.bias.fill_(float("nan"))
    assert kept.predict(model, np.zeros((2, 1, 2, 2), np.float32)).tolist() == [-1, -1]  # type: ignore[arg-type]


def test_first_broken_examples_are_kept_whatever_the_batch_size(
    cli: Cli, home_with_weights: Path, tmp_path: Path
) -> None:
    import torch

    from models.architectures import registry as architectures
    from models.datasets import registry as datasets
    from models.weights import sources

    found = []
    for slots in ("7", "60"):
        store = tmp_path / f"s{slots}" / "store.duckdb"
        code, out, _ = cli(*EVAL, "--save-examples", "8", "--batch-size", slots, "--store", str(store))
        assert code == 0
        (file,) = files(store)
        assert file.name == f"{json.loads(out)[0]['evaluation_id']}.npz"
        found.append(kept.read(file))
        assert found[-1].examples.tolist() == broken_first(store, 8)
    one, other = found
    assert len(one) == 8
    assert one.examples.tolist() == other.examples.tolist()
    assert np.abs(one.adversarial - other.adversarial).max() < 16 / 255
    digits = datasets.load("digits", "test")
    assert np.array_equal(one.clean, digits.pixels(one.examples.tolist()))
    assert np.array_equal(one.labels, digits.labels[one.examples])
    assert one.linf.max() <= 16 / 255 + 1e-6
    assert one.adversarial.dtype == np.float32
    assert one.adversarial.min() >= 0
    assert one.adversarial.max() <= 1
    dataset = datasets.find("digits")
    weights = next(home_with_weights.rglob("*.safetensors"))
    spec = architectures.parse_architecture("resnet18@width=8")
    classifier = sources.load(str(weights), spec, dataset, preprocessing=dataset.preprocessing).classifier.eval()

    def says(images: Any) -> list[int]:
        with torch.no_grad():
            answer: list[int] = classifier(torch.from_numpy(images)).argmax(1).tolist()
        return answer

    assert says(one.clean) == one.labels.tolist() == one.clean_predictions.tolist()
    assert says(one.adversarial) == one.predictions.tolist()
    assert says(np.rint(one.adversarial * 255).astype(np.float32) / 255) == one.rounded_predictions.tolist()
    assert not np.any(one.predictions == one.labels)


def test_interrupted_evaluation_adds_to_what_it_kept(cli: Cli, home_with_weights: Path, tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight.duckdb", tmp_path / "broken.duckdb"
    words = (*EVAL, "--save-examples", "20", "--batch-size", "10")
    assert cli(*words, "--store", str(straight))[0] == 0
    code, out, _ = cli(*words, "--store", str(broken), "--max-forwards", "60")
    assert json.loads(out)[0]["status"] == "partial"
    before = kept.read(files(broken)[0])
    code, out, err = cli(*words, "--store", str(broken))
    assert (code, json.loads(out)[0]["status"]) == (0, "complete")
    assert "--force" not in err
    one, other = (kept.read(files(store)[0]) for store in (straight, broken))
    assert 0 < len(before) < len(other) == 20
    assert other.examples.tolist() == broken_first(broken, 20) == one.examples.tolist()
    assert np.allclose(one.adversarial, other.adversarial, atol=1e-5)
    assert np.array_equal(one.predictions, other.predictions)


def test_what_is_found_before_an_error_is_kept(
    cli: Cli, home_with_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from explorer.jobs.recording import Recorder

    add = Recorder.add

    def interrupted(recorder: Recorder, outcomes: Sequence[Any]) -> None:
        add(recorder, outcomes)
        if any(o.clean_correct and not o.robust for o in outcomes):
            raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "add", interrupted)
    store = tmp_path / "store.duckdb"
    code, _, _ = cli(*EVAL, "--save-examples", "60", "--batch-size", "10", "--store", str(store))
    assert code == 130
    found = kept.read(files(store)[0]).examples.tolist()
    assert found == broken_first(store, 60)
    assert 0 < len(found) < 20


def test_checks_after_a_cascade_keep_nothing(cli: Cli, home_with_weights: Path, tmp_path: Path) -> None:
    """They attack the same examples at other eps."""
    store = tmp_path / "store.duckdb"
    words = ("--attack", "autoattack", "--eps", "96/255", "--examples", "8", "--save-examples", "8")
    code, _, _ = cli(*EVAL[:10], *words, "--store", str(store))
    assert code == 0
    found = kept.read(files(store)[0])
    assert len(found) > 5
    assert found.linf.max() <= 96 / 255 + 1e-6


def test_what_the_store_answers_is_kept_by_force(cli: Cli, home_with_weights: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.duckdb"
    words = (*EVAL, "--store", str(store))
    first = json.loads(cli(*words)[1])
    code, out, err = cli(*words, "--save-examples", "4")
    assert (code, json.loads(out)) == (0, first)
    assert "4 of the 4 adversarial examples to keep" in err
    assert "`--force` measures again" in err
    assert not (tmp_path / "store-examples").exists()
    assert cli(*words, "--save-examples", "4", "--force")[0] == 0
    (file,) = files(store)
    assert file.stem == first[0]["evaluation_id"]
    assert kept.read(file).examples.tolist() == broken_first(store, 4)
    # All that is asked for is there: answered without a job.
    code, _, err = cli(*words, "--save-examples", "4")
    assert (code, err) == (0, "")
    assert "2 of the 6" in cli(*words, "--save-examples", "6")[2]


def test_unfinished_re_run_leaves_the_earlier_examples_alone(cli: Cli, home_with_weights: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.duckdb"
    words = (*EVAL, "--store", str(store), "--save-examples", "20", "--batch-size", "10")
    cli(*words)
    (file,) = files(store)
    content = file.read_bytes()
    cli(*words, "--force", "--max-forwards", "60")
    assert file.read_bytes() == content
    assert len(files(store)) == 2
    assert len(json.loads(cli("examples", "--store", str(store), "--format", "json")[1])) == 1
    cli(*words, "--force")
    assert files(store) == [file]
    assert kept.read(file).examples.tolist() == broken_first(store, 20)


def test_inputs_that_are_no_images_are_refused(cli: Cli, home_with_weights: Path) -> None:
    code, out, err = cli(*EVAL, "--save-examples", "4", "--threat-space", "normalized-clamped")
    assert (code, out) == (2, "")
    assert "--threat-space pixel" in err


def test_full_disk_loses_no_outcome(
    cli: Cli, home_with_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Any, **arrays: Any) -> None:
        file.write(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    store = tmp_path / "store.duckdb"
    code, out, err = cli(*EVAL, "--save-examples", "4", "--store", str(store))
    assert code == 0
    assert json.loads(out)[0]["status"] == "complete"
    assert err.count("No space left on device") == 1
    assert "Traceback" not in err
    assert files(store) == []


def test_damaged_files_are_told_and_replaced(cli: Cli, home_with_weights: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.duckdb"
    words = (*EVAL, "--store", str(store), "--save-examples", "60", "--batch-size", "10")
    cli(*words, "--max-forwards", "60")
    (file,) = files(store)
    file.write_bytes(file.read_bytes()[:-100])
    code, out, err = cli("examples", "--store", str(store), "--format", "json")
    assert code == 0
    assert json.loads(out)[0]["n_kept"] is None
    assert "remove it" in err
    code, _, err = cli("examples", file.stem, "--store", str(store))
    assert (code, len(err.splitlines())) == (2, 1)
    code, _, err = cli(*words)
    assert code == 0
    assert "It is replaced" in err
    assert len(kept.read(file)) > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": np.array([object()] * 3)}, "no whole file"),
        ({"labels": np.ones(2, np.int64)}, "labels is int64"),
        ({"labels": np.ones(3)}, "labels is float64"),
        ({"adversarial": np.ones((3, 1, 4, 4), np.float32)}, "adversarial is float32"),
        ({"version": np.array(9)}, "version 9"),
        (None, "no whole file"),
    ],
)
def test_files_that_are_no_kept_examples_are_refused(change: dict[str, Any] | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    if change is None:
        np.save(tmp_path / "a.npy", np.ones(3))
        (tmp_path / "a.npy").rename(path)
    else:
        np.savez_compressed(path, **{"version": np.array(1), **vars(some()), **change})
    with pytest.raises(DataError, match=says):
        kept.read(path)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store that is not there yet, with two files of kept examples beside it."""
    store = tmp_path / "store.duckdb"
    for name, n in (("abc1", 3), ("abd2", 2)):
        kept.write(tmp_path / "store-examples" / f"{name}.npz", some(n))
    return store


def test_list_and_table(cli: Cli, store: Path) -> None:
    code, out, _ = cli("examples", "--store", str(store), "--format", "json")
    rows = json.loads(out)
    assert code == 0
    assert [(r["evaluation_id"], r["n_kept"], r["n_survive_rounding"]) for r in rows] == [
        ("abc1", 3, 2),
        ("abd2", 2, 1),
    ]
    (read, _) = csv.DictReader(io.StringIO(cli("examples", "--store", str(store), "--format", "csv")[1]))
    assert list(read) == list(rows[0])
    assert "survive 8 bits" in cli("examples", "--store", str(store))[1]
    rows = json.loads(cli("examples", "abd", "--store", str(store), "--format", "json")[1])
    assert [r["example"] for r in rows] == [10, 11]
    assert [r["survives_rounding"] for r in rows] == [True, False]
    assert rows[0]["linf"] == 1 / 16
    assert rows[0]["l2"] == pytest.approx(20**0.5 / 16)
    assert "adversarial" in cli("examples", "abd", "--store", str(store))[1]


def test_list_says_what_the_examples_are_of(cli: Cli, home_with_weights: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.duckdb"
    cli(*EVAL, "--save-examples", "2", "--store", str(store))
    (row,) = json.loads(cli("examples", "--store", str(store), "--format", "json")[1])
    assert (row["architecture_id"], row["attack"], row["status"]) == ("resnet18@width=8", "pgd-5 16/255", "complete")
    assert row["n_kept"] == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("ab",), "several evaluations (abc1, abd2)"),
        (("x",), "no examples are kept of an evaluation 'x'"),
        (("--export", "somewhere"), "--export needs"),
    ],
)
def test_mistakes(words: tuple[str, ...], says: str, cli: Cli, store: Path) -> None:
    code, out, err = cli("examples", *words, "--store", str(store))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert says in err


def test_pictures(cli: Cli, store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    code, _, err = cli("examples", "abd", "--export", str(folder), "--store", str(store))
    assert code == 0
    assert "6 files" in err
    assert sorted(path.name for path in folder.iterdir()) == [
        "00010-label-1-adversarial-7.png",
        "00010-label-1-clean-1.png",
        "00010-label-1-difference-x8.png",
        "00011-label-1-adversarial-7-in-8-bits-1.png",
        "00011-label-1-clean-1.png",
        "00011-label-1-difference-x8.png",
    ]
    expected = some(2)
    for row, name in ((0, "00010-label-1-adversarial-7.png"), (1, "00011-label-1-adversarial-7-in-8-bits-1.png")):
        pixels = np.asarray(Image.open(folder / name))
        assert np.abs(pixels / 255 - expected.adversarial[row, 0]).max() <= 0.5 / 255 + 1e-6
        assert np.array_equal(pixels, kept.eight_bits(expected.adversarial[row, 0]))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    next(iter(before)).unlink()
    code, out, err = cli("examples", "abd", "--export", str(folder), "--store", str(store))
    assert (code, out) == (2, "")
    assert "is there already" in err
    assert len(list(folder.iterdir())) == 5


def test_pictures_have_colours_and_differences_a_factor(tmp_path: Path) -> None:
    from explorer import exampleexport
    from explorer.errors import ExplorerError

    coloured = some(1, channels=3)
    written = exampleexport.export(coloured, "e", tmp_path, "png", 4)
    clean = np.asarray(Image.open(written[0]))
    assert clean.shape == (4, 5, 3)
    assert np.array_equal(clean.transpose(2, 0, 1), kept.eight_bits(coloured.clean[0]))
    assert written[2].name.endswith("difference-x4.png")
    assert np.asarray(Image.open(written[2])).ravel().tolist() == pytest.approx([(0.5 + 4 / 16) * 255] * 60, abs=1)
    with pytest.raises(ExplorerError, match="2 channels"):
        exampleexport.export(some(1, channels=2), "e", tmp_path, "png")


def test_tensors(cli: Cli, store: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    for form in ("npz", "safetensors"):
        assert cli("examples", "abc", "--export", str(tmp_path), "--as", form, "--store", str(store))[0] == 0
        assert cli("examples", "abc", "--export", str(tmp_path), "--as", form, "--store", str(store))[0] == 2
    assert same(kept.read(tmp_path / "abc1.npz"), some())
    assert same(Kept(**load_file(tmp_path / "abc1.safetensors")), some())


def test_listing_needs_no_torch(store: Path) -> None:
    from tests.explorer.test_walls import imported

    code = "import contextlib, io\nfrom explorer.cli import run\n"
    code += f"with contextlib.redirect_stdout(io.StringIO()): assert run(['examples', '--store', {str(store)!r}]) == 0"
    assert "torch" not in imported(code)
