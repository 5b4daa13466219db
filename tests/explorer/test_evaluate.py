"""`nasrob-tui eval --headless` from the outside: results, identities, resume after kill -9, ctrl-C, bad input."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., tuple[int, str, str]]

EVAL = ("eval", "--headless", "--arch", "resnet18@width=8", "--dataset", "digits", "--threads", "1")

#: The network as it was loaded: what `auto` takes depends on how fast the machine is at the moment, and rounds anew.
AS_LOADED = ("--fold", "off", "--channels-last", "off", "--compile", "off")


def process(home: Path, *words: str, **more: Any) -> subprocess.Popen[str]:
    """The command in a process of its own, as a shell would start it."""
    env = {**os.environ, "NASROB_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "nasrob_tui", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        **more,
    )


def outcomes(store: Path) -> list[tuple[Any, ...]]:
    from store import Store

    with Store(store).read() as con:
        return con.execute("SELECT * FROM outcomes ORDER BY ALL").fetchall()


def result(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text)
    return found


def test_result_has_the_keys_of_the_interface_and_is_answered_from_the_store(cli: Cli, home_with_weights: Path) -> None:
    words = (*EVAL, "--attack", "fgsm", "--attack", "pgd", "--examples", "100", "--eps", "16/255", "--format", "json")
    code, out, _ = cli(*words)
    assert code == 0
    first = result(out)
    assert [r["attack"]["name"] for r in first] == ["fgsm", "pgd"]
    for row in first:
        assert {
            "evaluation_id", "architecture", "model_sha256", "dataset", "n_examples", "attack", "threat_space",
            "verdict", "clean_accuracy", "robust_accuracy", "robust_accuracy_low", "robust_accuracy_high", "hrs",
            "forwards", "backwards", "seconds", "status", "warnings", "clean_top5_accuracy", "robust_top5_accuracy",
        } <= set(row)  # fmt: skip
        assert row["architecture"] == "resnet18"
        assert row["dataset"] == "digits"
        assert row["n_examples"] == 100
        assert row["status"] == "complete"
        assert row["attack"]["eps"] == "16/255"
        c, p = row["clean_accuracy"], row["robust_accuracy"]
        assert 0 < p < c <= 100
        assert row["hrs"] == pytest.approx(2 * c * p / (c + p))
        assert row["robust_accuracy_low"] < p < row["robust_accuracy_high"]
        assert c <= row["clean_top5_accuracy"] <= 100
        assert row["robust_top5_accuracy"] is None, "the verdict worst stops where the first class changes"
    # The same request again: the same rows, not measured anew.
    code, out, _ = cli(*words)
    assert code == 0
    assert result(out) == first
    # Forced: measured anew, with the same outcome.
    code, out, err = cli(*words, "--force")
    assert code == 0
    assert "0 of 100 verdicts differ" in err
    again = result(out)
    assert [r["updated_at"] for r in again] != [r["updated_at"] for r in first]
    assert [r["robust_accuracy"] for r in again] == [r["robust_accuracy"] for r in first]


def test_what_can_change_a_result_changes_the_identity(cli: Cli, home_with_weights: Path) -> None:
    base = (*EVAL, "--attack", "pgd", "--steps", "2", "--examples", "20", "--format", "json")
    seen = {}
    for extra in ([], ["--seed", "1"], ["--verdict", "last"], ["--threat-space", "normalized-clamped"],
                  ["--eps", "4/255"], ["--restarts", "2"], ["--step-size", "1/255"], ["--examples", "10"]):  # fmt: skip
        code, out, err = cli(*base, *extra)
        assert code == 0, err
        seen[result(out)[0]["evaluation_id"]] = extra
    assert len(seen) == 8
    # Another number of slots, another spelling of the same eps: the same evaluation.
    for extra in (["--batch-size", "7"], ["--eps", "16/510"], ["--device", "cpu"]):
        assert next(iter(result(cli(*base, *extra)[1])))["evaluation_id"] == next(iter(seen))


def test_csv_and_table(cli: Cli, home_with_weights: Path) -> None:
    words = (*EVAL, "--attack", "fgsm", "--examples", "20")
    table = cli(*words)[1]
    assert "robust %" in table
    assert "top-5" not in table, "five of ten classes are no achievement"
    out = cli(*words, "--format", "csv")[1]
    header, row = out.strip().splitlines()
    assert header.startswith("evaluation_id,architecture")
    assert "resnet18" in row


def test_top_5_follows_from_the_stored_ranks(cli: Cli, home_with_weights: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.duckdb"
    words = ("--attack", "pgd", "--eps", "24/255", "--verdict", "last", "--examples", "50", "--store", str(store))
    row = result(cli(*EVAL, *words, "--format", "json")[1])[0]
    ranks = [o[-3:-1] for o in outcomes(store)]
    assert len(ranks) == 50
    assert row["clean_accuracy"] == 2 * sum(clean == 1 for clean, _ in ranks)
    assert row["robust_accuracy"] == 2 * sum(clean == attacked == 1 for clean, attacked in ranks)
    assert row["clean_top5_accuracy"] == 2 * sum(clean <= 5 for clean, _ in ranks)
    assert row["robust_top5_accuracy"] == 2 * sum(clean <= 5 and attacked <= 5 for clean, attacked in ranks)
    assert row["robust_accuracy"] < row["robust_top5_accuracy"] <= row["clean_top5_accuracy"]


@pytest.mark.parametrize(("classes", "shown"), [(99, False), (100, True)])
def test_table_shows_top_5_where_there_are_many_classes(
    classes: int, shown: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from explorer.cli.evaluate import print_results
    from explorer.jobs.rows import attack_row
    from explorer.render import Format
    from store import Store
    from store.results import append_outcomes, open_evaluation
    from tests.store.rows import batch, dataset, request
    from tests.support import attack

    spec = attack("pgd", verdict="last")
    store = Store(tmp_path / "store.duckdb")
    rows = request(attack_id=spec.identity, n_requested=3)
    open_evaluation(store, **rows | {"attack": attack_row(spec), "dataset": dataset(n_classes=classes)})
    append_outcomes(store, "e1", batch([0], clean_rank=5, rank=5), seconds=1)
    append_outcomes(store, "e1", batch([1, 2], clean_rank=5, rank=6), seconds=1)
    print_results(store.path, ["e1"], Format.table)
    table = capsys.readouterr().out
    for part in ("clean top-5 %", "robust top-5 %", "33.3"):
        assert (part in table) == shown


def test_json_progress_is_a_stream_of_events_on_stderr(cli: Cli, home_with_weights: Path) -> None:
    code, out, err = cli(*EVAL, "--attack", "pgd", "--examples", "50", "--json-progress", "--format", "json")
    assert code == 0
    assert len(result(out)) == 1
    events = [json.loads(line) for line in err.splitlines()]
    kinds = [e["event"] for e in events]
    assert kinds[0] == "job_started"
    assert kinds[-1] == "job_finished"
    assert "evaluation_finished" in kinds
    done = [e["n_done"] for e in events if e["event"] == "progress"]
    assert done == sorted(done)


def test_killed_again_and_again_it_ends_with_the_same_outcomes(home_with_weights: Path, tmp_path: Path) -> None:
    """kill -9 at random moments, then the same command: outcomes equal to those of an uninterrupted run."""
    words = (*EVAL, *AS_LOADED, "--attack", "pgd", "--steps", "20", "--restarts", "3", "--eps", "8/255")
    words += ("--batch-size", "16")
    straight, broken = tmp_path / "straight.duckdb", tmp_path / "broken.duckdb"
    with process(home_with_weights, *words, "--store", str(straight)) as run:
        assert run.wait(120) == 0
    rng = random.Random(0)
    kills_with_work = 0
    for _ in range(3):
        with process(home_with_weights, *words, "--store", str(broken), "--json-progress") as run:
            assert run.stderr is not None
            for line in run.stderr:
                if '"evaluation_started"' in line:
                    break
            time.sleep(rng.uniform(0.5, 2.0))
            run.send_signal(signal.SIGKILL)
            run.wait(10)
        kills_with_work += 0 < len(outcomes(broken)) < 500
    assert kills_with_work >= 1, "no kill came in the middle: the test has shown nothing"
    with process(home_with_weights, *words, "--store", str(broken)) as run:
        assert run.wait(120) == 0
    assert outcomes(broken) == outcomes(straight)
    assert len(outcomes(broken)) == 500


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(number: int, home_with_weights: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.duckdb"
    words = (*EVAL, "--attack", "pgd", "--steps", "300", "--eps", "4/255", "--batch-size", "16", "--store", str(store))
    with process(home_with_weights, *words, "--format", "json", "--json-progress") as run:
        assert run.stderr is not None
        for line in run.stderr:
            if '"progress"' in line and json.loads(line)["n_done"] > 0:
                break
        run.send_signal(number)
        out, err = run.communicate(timeout=30)
        assert run.returncode == 130
    assert "Traceback" not in err
    row = result(out)[0]
    assert row["status"] == "partial"
    assert 0 < row["n_done"] < 500
    assert len(outcomes(store)) == row["n_done"]
    # Accuracies are over the examples before the first that is missing: those that break soon are done first.
    done = {o[1] for o in outcomes(store)}
    assert row["n_examples"] == next(i for i in range(500) if i not in done)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--arch", "resnt18"], "Did you mean 'resnet18'"),
        (["--arch", "dart"], "Did you mean 'darts'"),
        (["--arch", "darts-random-x"], "needs a seed"),
        (["--arch", "resnet18", "--set", "wdth=3"], "Did you mean 'width'"),
        (["--arch", "resnet18@width=none"], "takes a whole number"),
        (["--arch", "resnet18@width=8", "--attack", "pdg"], "Did you mean 'pgd'"),
        (["--arch", "resnet18@width=8", "--dataset", "digts"], "Did you mean 'digits'"),
        (["--arch", "resnet18@width=8", "--eps", "8/0"], "divides by zero"),
        (["--arch", "resnet18@width=8", "--eps", "8"], "Did you mean 8/255"),
        (["--arch", "resnet18@width=8", "--eps", "eight"], "not a non-negative number"),
        (["--arch", "resnet18@width=8", "--eps", "-1/255"], "not a non-negative number"),
        (["--arch", "resnet18@width=8", "--eps", "nan"], "not a non-negative number"),
        (["--arch", "resnet18@width=8", "--steps", "0"], "at least 1"),
        (["--arch", "resnet18@width=8", "--attack", "fgsm", "--steps", "3"], "by definition"),
        (["--arch", "resnet18@width=8", "--examples", "501"], "has 500 examples"),
        (["--arch", "resnet18@width=8", "--split", "dev"], "has no split"),
        (["--arch", "resnet18@width=8", "--device", "gpu"], "device 'gpu' is unknown"),
        (["--arch", "resnet18@width=8", "--device", "cuda:9"], "not there"),
        (["--arch", "resnet18@width=8", "--verdict", "best"], "worst, last, closest"),
        (["--arch", "resnet18@width=8", "--threat-space", "pixels"], "pixel or normalized-clamped"),
        (["--arch", "vgg16-bn"], "nasrob-tui train --arch vgg16-bn"),
        (["--arch", "resnet18"], "There are weights for resnet18@width=8"),
        (["--arch", "resnet18@width=8", "--weights", "nowhere.pt"], "no weights file"),
        (["--arch", "vgg16-bn@width=8", "--weights", "{weights}"], "not of vgg16-bn@width=8"),
        (["--arch", "resnet18@width=8", "--weights", "{corrupt}"], "damaged"),
        (["--arch", "resnet18@width=8", "--weights", "{text}"], "is not a safetensors file"),
        (["--arch", "resnet18@width=8", "--weights", "{pickle}"], "would run its code"),
        (["--arch", "resnet18@width=8", "--store", "{foreign}"], "{foreign}"),
        (["--arch", "resnet18@width=8", "--store", "{folder}"], "{folder}"),
        ([], "name at least one --arch"),
        (["--arch", "resnet18@width=8", "--format", "xml"], "xml"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(
    words: list[str], says: str, cli: Cli, home_with_weights: Path, tmp_path: Path
) -> None:
    import torch

    weights = next(home_with_weights.rglob("*.safetensors"))
    places = {name: tmp_path / f"{name}.{end}" for name, end in (
        ("corrupt", "safetensors"), ("text", "safetensors"), ("pickle", "pt"), ("foreign", "duckdb"))}  # fmt: skip
    content = bytearray(weights.read_bytes())
    content[-100] ^= 0xFF
    places["corrupt"].write_bytes(content)
    places["text"].write_text("these are no weights")
    torch.save(torch.nn.Linear(2, 2), places["pickle"])
    places["foreign"].write_text("this is no database, but a long enough text to look like a file")
    (tmp_path / "folder").mkdir()
    names = {k: str(v) for k, v in places.items()} | {"weights": str(weights), "folder": str(tmp_path / "folder")}
    code, out, err = cli("eval", "--headless", "--threads", "1", *(w.format(**names) for w in words))
    assert code == 2
    assert out == ""
    assert says.format(**names) in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 4


def test_reader_of_the_progress_who_leaves_does_not_end_the_work(home_with_weights: Path, tmp_path: Path) -> None:
    """As in `nasrob-tui eval --headless ... 2>&1 | head -2`: the talk has nobody to listen, the result is stored."""
    store = tmp_path / "store.duckdb"
    words = (*EVAL, "--attack", "pgd", "--steps", "30", "--json-progress", "--format", "json", "--store", str(store))
    with process(home_with_weights, *words) as run:
        assert run.stderr is not None
        assert run.stdout is not None
        run.stderr.readline()
        run.stderr.close()
        assert len(result(run.stdout.read())) == 1
        assert run.wait(60) == 0
    assert len(outcomes(store)) == 500


def test_saturated_model_is_warned_about(cli: Cli, home_with_weights: Path) -> None:
    """Logits a thousand times as large: the cross-entropy saturates, its gradient is zero, and PGD stands still."""
    from safetensors.torch import load_file, save_file

    path = next(home_with_weights.rglob("*.safetensors"))
    tensors = load_file(path)
    for name in ("fc.weight", "fc.bias"):
        tensors[name] = tensors[name] * 1000
    save_file(tensors, home_with_weights / "saturated.safetensors")
    words = ("--weights", str(home_with_weights / "saturated.safetensors"), "--attack", "pgd", "--examples", "50")
    code, out, err = cli(*EVAL, *words, "--format", "json")
    assert code == 0
    row = result(out)[0]
    assert any("gradient of zero" in w for w in row["warnings"])
    assert "gradient of zero" in err
    honest = result(cli(*EVAL, "--attack", "pgd", "--examples", "50", "--format", "json")[1])[0]
    assert honest["warnings"] == []
    assert row["clean_accuracy"] == honest["clean_accuracy"]
