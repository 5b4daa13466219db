"""Studies from the outside: run, run again, killed at random moments, interrupted, reported."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

Cli = Callable[..., tuple[int, str, str]]

TEXT = """
name = "tiny"
title = "A tiny study"
datasets = ["digits"]
attacks = ["fgsm", "pgd-3"]
eps = ["16/255"]
threat_spaces = ["pixel", "normalized-clamped"]
examples = 24
recipe = { name = "fast", epochs = 2, batch_size = 128 }
engine = { slots = 8 }
printed = "Table 1"
plots = ["tradeoff", "parameters"]

[[groups]]
name = "hand-crafted"
architectures = [{ architecture = "resnet18@width=2", label = "ResNet" }]
seeds = [0, 1]

[[groups]]
name = "random"
architectures = ["darts-random-{seed}@init_channels=2,layers=2"]
seeds = [3, 4]
printed = "RANDOM"

[[groups]]
name = "theirs"
architectures = [{ architecture = "densenas-large", weights_needed = "its weights are the authors'" }]

[[claims]]
says = "Random cells keep more"
more = "random"
less = "hand-crafted"
"""
HERE = ("--device", "cpu", "--threads", "1")

#: What a session leaves behind beside its results: when, where, how fast, and in which job.
OF_THE_SESSION = {
    "evaluations": {"seconds", "hostname", "job_id", "started_at", "updated_at", "finished_at"},
    "outcomes": set[str](),
    "models": {"weights_path", "created_at", "recorded_at"},
    "architectures": {"recorded_at"},
    "attacks": {"recorded_at"},
    "datasets": {"recorded_at"},
    "subsets": set[str](),
    "survivals": set[str](),
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The tiny study run once without interruption: its home, its file, and what it said."""
    folder = tmp_path_factory.mktemp("straight")
    file = folder / "tiny.toml"
    file.write_text(TEXT, encoding="utf-8")
    done = subprocess.run(
        command("run", str(file), *HERE, "--format", "json"),
        env=environment(folder / "home"),
        capture_output=True,
        text=True,
        check=True,
    )
    return folder / "home", file, done.stdout


def command(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "nasrob_tui", "study", *words]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "NASROB_HOME": str(home), "OMP_NUM_THREADS": "1", "NASROB_SHIPPED": "off"}


def contents(home: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything a study leaves in the store but what is of the session."""
    from store import Store

    with Store(home / "results.duckdb").read() as con:
        return {
            table: con.execute(
                f"SELECT * {'EXCLUDE (' + ', '.join(sorted(left)) + ')' if left else ''} FROM {table} ORDER BY ALL"
            ).fetchall()
            for table, left in OF_THE_SESSION.items()
        }


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Work in a home from now on."""

    def there(home: Path) -> None:
        monkeypatch.setenv("NASROB_HOME", str(home))
        monkeypatch.setenv("NASROB_SHIPPED", "off")

    return there


def test_run_prints_a_line_an_architecture_and_attack(straight: tuple[Path, Path, str]) -> None:
    home, _, out = straight
    rows = json.loads(out)
    assert len(rows) == 3 * 2 * 2, "three architectures, two attacks, two threat spaces"
    for row in rows:
        if row["group"] == "theirs":
            assert (row["runs"], row["robust_accuracy"]) == (0, None)
            continue
        assert row["runs"] == 2
        assert 0 <= row["robust_accuracy"] <= row["clean_accuracy"] <= 100
        assert row["robust_std"] is not None
        assert row["robust_accuracy_low"] is None, "an interval is that of a single run"
    found = contents(home)
    assert len(found["evaluations"]) == 4 * 4
    assert len(found["outcomes"]) == 4 * 4 * 24


def test_figures_are_the_stores(straight: tuple[Path, Path, str]) -> None:
    """Means and deviations again, by SQL."""
    from store import Store

    home, _, out = straight
    with Store(home / "results.duckdb").read() as con:
        theirs = con.execute(
            "SELECT lineage, attack, threat_space, avg(robust_accuracy), stddev_samp(robust_accuracy), avg(hrs) "
            "FROM measured GROUP BY ALL"
        ).fetchall()
    expected = {(row[0], row[1], row[2]): row[3:] for row in theirs}
    for row in json.loads(out):
        if row["runs"]:
            lineage = "resnet" if row["group"] == "hand-crafted" else "darts-random"
            key = (lineage, row["attack"].removesuffix("-3"), row["threat_space"])
            assert (row["robust_accuracy"], row["robust_std"], row["hrs"]) == pytest.approx(expected[key])


def test_second_run_does_nothing(
    straight: tuple[Path, Path, str], cli: Cli, at: Callable[[Path], None], tmp_path: Path
) -> None:
    home, file, out = straight
    copy = tmp_path / "copy"
    shutil.copytree(home, copy)
    at(copy)
    before = sorted(p.stat().st_mtime_ns for p in (copy / "weights").rglob("*.safetensors"))
    jobs = sorted(p.name for p in (copy / "jobs").iterdir())
    code, again, err = cli("study", "run", str(file), *HERE, "--format", "json")
    assert code == 0
    assert json.loads(again) == json.loads(out)
    assert "training" not in err
    assert "its weights are the authors'" in err, "what is left out is said every time"
    assert sorted(p.stat().st_mtime_ns for p in (copy / "weights").rglob("*.safetensors")) == before
    assert sorted(p.name for p in (copy / "jobs").iterdir()) == jobs


def test_interrupted_and_killed_at_random_moments_the_store_ends_the_same(
    straight: tuple[Path, Path, str], tmp_path: Path
) -> None:
    """Ctrl-C in a training, killed somewhere twice, then run to the end."""
    straight_home, file, _ = straight
    home = tmp_path / "home"

    def started() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command("run", str(file), *HERE), env=environment(home), stdout=pipe, stderr=pipe, text=True
        )

    process = started()
    assert process.stderr is not None
    for line in process.stderr:
        if "[2/5]" in line and "training" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert out == "", "results are printed when there are some"
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert len(contents(home)["evaluations"]) == 4, "the first model is done, and stays so"
    chance = random.Random(5)
    for _ in range(2):
        process = started()
        assert process.stderr is not None
        # Lines are its steps: so it is killed somewhere in the work, however fast the machine is.
        for _ in range(chance.randrange(2, 7)):
            process.stderr.readline()
        time.sleep(chance.random() * 0.4)
        process.kill()
        process.communicate()
    done = subprocess.run(command("run", str(file), *HERE), env=environment(home), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ended, expected = contents(home), contents(straight_home)
    for table in expected:
        assert ended[table] == expected[table], table


def test_status_counts(straight: tuple[Path, Path, str], cli: Cli, at: Callable[[Path], None], home: Path) -> None:
    done, file, _ = straight
    keys = ("models", "weights_here", "evaluations", "complete", "missing")
    code, out, _ = cli("study", "status", str(file), "--format", "json")
    assert code == 0
    assert [[row[k] for k in keys] for row in json.loads(out)] == [[2, 0, 8, 0, 8], [2, 0, 8, 0, 8], [1, 0, 4, 0, 4]]
    at(done)
    code, out, err = cli("study", "status", str(file), "--format", "json")
    assert [[row[k] for k in keys] for row in json.loads(out)] == [[2, 2, 8, 8, 0], [2, 2, 8, 8, 0], [1, 0, 4, 0, 4]]
    assert "being run" not in err


def test_show_and_dry_run_do_nothing(straight: tuple[Path, Path, str], cli: Cli, home: Path) -> None:
    _, file, _ = straight
    code, out, err = cli("study", "show", str(file), *HERE, "--format", "json")
    assert code == 0
    rows = json.loads(out)
    assert [row["weights"] for row in rows] == ["to train"] * 4 + ["needed"]
    assert all(row["seconds_training"] > 0 and row["seconds_evaluating"] > 0 for row in rows[:4])
    assert rows[4]["problem"] == "its weights are the authors'"
    assert "4 of 5 models to train, 20 of 20 evaluations missing; about" in err
    code, out, err = cli("study", "run", str(file), *HERE, "--dry-run")
    assert (code, out) == (0, "")
    assert "train, then evaluate 4 of 4" in err
    assert not (home / "weights").exists()
    assert not (home / "results.duckdb").exists()


def test_models_whose_data_are_missing_are_still_to_be_trained(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.toml"
    file.write_text(
        'name = "elsewhere"\ntitle = "Elsewhere"\nseeds = [0, 1]\ndatasets = ["mnist"]\nattacks = ["fgsm"]\n'
        'eps = ["8/255"]\n[[groups]]\nname = "one"\narchitectures = ["resnet18@width=2"]\n'
    )
    code, out, err = cli("study", "show", str(file), "--data-root", str(tmp_path), *HERE, "--format", "json")
    assert code == 0
    assert [row["weights"] for row in json.loads(out)] == ["no data"] * 2
    assert "2 of 2 models to train, 2 of 2 evaluations missing; about" in err
    assert "mnist/train is not on this machine" in err


def test_only_one_run_at_a_time(straight: tuple[Path, Path, str], cli: Cli, home: Path) -> None:
    from explorer import settings
    from explorer.studies import expansion, running

    _, file, _ = straight
    with running.lock(expansion.Place(settings.load()), "tiny"):
        code, _, err = cli("study", "run", str(file), *HERE)
        assert code == 3
        assert f"being run already: wait for it, or follow it with `nasrob-tui study status {file}`." in err
        aside, store = home.parent / "a b.toml", str(home.parent / "a store.duckdb")
        shutil.copy(file, aside)
        code, _, err = cli("study", "run", str(aside), *HERE, "--store", store)
        assert code == 3
        assert f"`nasrob-tui study status '{aside}' --store '{store}'`" in err
        _, _, err = cli("study", "status", str(file))
        assert "the study is being run now" in err
    _, _, err = cli("study", "status", str(file))
    assert "being run now" not in err


def tiny_order(group: str) -> Any:
    """The order of the first model of a group of the tiny study."""
    from explorer.studies import definition, expansion

    found = expansion.expand(definition.parse(TEXT, source="x", where="x"))
    return next(m.order for m in found.models if m.group == group)


def test_a_checkpoint_that_a_kill_left_behind_its_weights_goes(
    straight: tuple[Path, Path, str], cli: Cli, at: Callable[[Path], None], tmp_path: Path
) -> None:
    """Killed between writing weights and removing the checkpoint: the next run removes it, and still notes times."""
    from models.datasets import registry as datasets

    done, file, _ = straight
    copy = tmp_path / "copy"
    shutil.copytree(done, copy)
    at(copy)
    fingerprint = datasets.load("digits", "train").fingerprint
    first, other = tiny_order("hand-crafted"), tiny_order("random")
    stale = copy / "checkpoints" / f"{first.plan(fingerprint).identity}.pt"
    elsewhere = stale.with_name("0123456789abcdef.pt")
    stale.parent.mkdir(exist_ok=True)
    for path in (stale, elsewhere):
        path.write_bytes(b"")
        os.utime(path, (0, 0))
    next((copy / "weights").rglob("darts-random-3@*")).unlink()
    times = copy / "studies" / "times.json"
    times.unlink()
    code, _, _ = cli("study", "run", str(file), *HERE)
    assert code == 0
    assert not stale.exists()
    assert elsewhere.exists(), "the checkpoint of some other training is none of the study's business"
    noted = json.loads(times.read_text(encoding="utf-8"))
    assert list(noted) == [f"{other.architecture.canonical} digits cpu x1"]


def test_time_of_a_training_that_goes_on_is_not_noted(home: Path) -> None:
    """What is fresh: no checkpoint of its own, nor a member that is trained already."""
    from explorer import settings
    from explorer.studies import definition, expansion, running
    from models.datasets import registry as datasets

    text = TEXT.replace("darts-random-{seed}@init_channels=2,layers=2", "darts-ensemble-{seed}@cells=1-1")
    found = expansion.expand(definition.parse(text, source="x", where="x"))
    order = next(m.order for m in found.models if m.group == "random")
    assert order is not None
    place = expansion.Place(settings.load(), "cpu", 1)
    run = running._Run(found, [], place, running.Interruption(), print, running.unwatched, lambda: None)  # type: ignore
    assert run._is_fresh(order)
    fingerprint = datasets.load("digits", "train").fingerprint
    own = place.settings.checkpoints / f"{order.parts[1].plan(fingerprint).identity}.pt"
    own.parent.mkdir(parents=True)
    own.with_name("0123456789abcdef.pt").write_bytes(b"")
    assert run._is_fresh(order), "a checkpoint of something else"
    own.write_bytes(b"")
    assert not run._is_fresh(order)


@pytest.mark.parametrize("verb", ["run", "report"])
def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    straight: tuple[Path, Path, str], cli: Cli, home: Path, tmp_path: Path, verb: str
) -> None:
    _, file, _ = straight
    flag = {"run": "--report", "report": "--out"}[verb]
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    (tmp_path / "held" / "report.md").mkdir(parents=True)
    for folder, said in (("taken", "is not a folder"), ("taken/below", "is not a folder"), ("held", "report.md in it")):
        code, out, err = cli("study", verb, str(file), flag, str(tmp_path / folder))
        assert (code, out) == (2, "")
        assert said in err
        assert len(err.splitlines()) == 1
    assert not home.exists(), "nothing was done"
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "mine"


def test_a_report_is_refused_where_nobody_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    from explorer.errors import ExplorerError
    from explorer.studies import reporting

    def refused(**_: object) -> Any:
        raise PermissionError(13, "Permission denied")

    reporting.check(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == [], "to ask leaves nothing behind"
    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(ExplorerError, match="Permission denied") as caught:
        reporting.check(tmp_path / "new" / "folder")
    assert caught.value.exit_code == 2


def test_more_examples_than_a_folder_of_images_has(
    straight: tuple[Path, Path, str], cli: Cli, home: Path, tmp_path: Path
) -> None:
    """Its size is known only once its files are looked at: still before anything is trained."""
    from PIL import Image

    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "images" / split / name / "1.png")
    file = tmp_path / "folder.toml"
    text = TEXT.replace('["digits"]', f'["folder:{tmp_path / "images"}"]')
    file.write_text(text, encoding="utf-8")
    code, _, err = cli("study", "show", str(file), *HERE, "--no-measure")
    assert code == 2
    assert "has 2 test examples, not 24" in err


def test_a_model_that_fails_is_reported_and_the_others_go_on(
    straight: tuple[Path, Path, str], cli: Cli, at: Callable[[Path], None], tmp_path: Path
) -> None:
    """The aggregate of a study with a network that cannot take the images: exit code 1, the other one is there."""
    done, _, _ = straight
    copy = tmp_path / "copy"
    shutil.copytree(done, copy)
    at(copy)
    file = tmp_path / "failing.toml"
    text = TEXT.replace("seeds = [3, 4]", "seeds = [3]").replace(
        "darts-random-{seed}@init_channels=2,layers=2", "BROKEN"
    )
    text = text.replace("BROKEN", "tests.explorer.test_studies_running:refusing")
    file.write_text(text.replace('name = "tiny"', 'name = "failing"'), encoding="utf-8")
    code, out, err = cli("study", "run", str(file), *HERE, "--format", "json")
    assert code == 1
    assert "failed: tests.explorer.test_studies_running:refusing" in err
    assert "it takes no images" in err
    rows = json.loads(out)
    assert [r["runs"] for r in rows if r["group"] == "hand-crafted"] == [2] * 4


def refusing(**_: object) -> Any:
    """A factory of networks that does not work."""
    raise ValueError("it takes no images")


def test_time_that_is_over_ends_in_good_order(straight: tuple[Path, Path, str], cli: Cli, home: Path) -> None:
    _, file, _ = straight
    before = signal.getsignal(signal.SIGINT)
    code, _, err = cli("study", "run", str(file), *HERE, "--max-time", "0.2s")
    assert code == 0, err
    assert "the time is over" in err
    assert "[5/5]" not in err
    assert signal.getsignal(signal.SIGINT) is before, "signals are as they were"


def test_report_is_the_same_twice_and_whole(
    straight: tuple[Path, Path, str], cli: Cli, at: Callable[[Path], None], tmp_path: Path
) -> None:
    home, file, _ = straight
    at(home)
    for folder in ("one", "two"):
        code, _, err = cli("study", "report", str(file), "--out", str(tmp_path / folder))
        assert code == 0
        assert str(tmp_path / folder / "report.md") in err
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert names == [
        "evaluations.csv",
        "parameters-digits-16-255-normalized-clamped.svg",
        "parameters-digits-16-255-pixel.svg",
        "report.md",
        "study.toml",
        "tradeoff-digits-16-255-normalized-clamped.svg",
        "tradeoff-digits-16-255-pixel.svg",
    ]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    for plot in (tmp_path / "one").glob("*.svg"):
        ElementTree.fromstring(plot.read_text(encoding="utf-8"))
    text = (tmp_path / "one" / "report.md").read_text(encoding="utf-8")
    assert "**The study is not complete**" in text
    assert "densenas-large on digits: its weights are the authors'." in text
    assert f"nasrob-tui study run {file}\n" in text
    assert "**Random cells keep more.**" in text
    assert "*RANDOM, printed: normalized-clamped*" in text
    assert "PyTorch: " in text
    for name in names:
        assert not name.endswith(".svg") or f"]({name})" in text
    assert (tmp_path / "one" / "study.toml").read_text(encoding="utf-8") == TEXT
    with (tmp_path / "one" / "evaluations.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert len({row["evaluation_id"] for row in rows}) == 16
    # A cell of the table is the mean of its rows.
    pgd = [float(r["robust_accuracy"]) for r in rows if r["label"] == "ResNet" and r["attack"] == "pgd-3"
           and r["threat_space"] == "pixel"]  # fmt: skip
    line = next(line for line in text.splitlines() if line.startswith("| hand-crafted | `ResNet`"))
    assert line.split("|")[7].strip().startswith(f"{sum(pgd) / 2:.1f} ±")


def test_report_names_what_was_given_for_the_next_run(
    straight: tuple[Path, Path, str], cli: Cli, at: Callable[[Path], None], tmp_path: Path
) -> None:
    """Store, data and weights, and the device and threads of a run: other ones give other weights."""
    done, file, _ = straight
    copy, store, data = tmp_path / "copy", tmp_path / "a store.duckdb", tmp_path / "data"
    shutil.copytree(done, copy)
    shutil.copy(done / "results.duckdb", store)
    at(copy)
    given = ("--store", str(store), "--data-root", str(data))
    own = f"--store '{store}' --data-root {data}"
    code, _, _ = cli("study", "report", str(file), *given, "--out", str(tmp_path / "one"))
    assert code == 0
    text = (tmp_path / "one" / "report.md").read_text(encoding="utf-8")
    assert f"```sh\nnasrob-tui study run {file} {own}\n```" in text
    code, _, _ = cli("study", "run", str(file), *HERE, *given, "--report", str(tmp_path / "two"))
    assert code == 0
    text = (tmp_path / "two" / "report.md").read_text(encoding="utf-8")
    assert f"nasrob-tui study run {file} {own} --device cpu --threads 1\n" in text


def test_report_shows_warnings_and_printed_rows_of_the_same_data(
    straight: tuple[Path, Path, str], at: Callable[[Path], None]
) -> None:
    from dataclasses import replace

    from explorer import settings
    from explorer.studies import definition, document, expansion, measurements, standing

    home, file, _ = straight
    at(home)
    place = expansion.Place(settings.load(), "cpu", 1)
    expanded = expansion.expand(definition.find(str(file)))
    findings = measurements.gather(expanded, standing.look(expanded, place), place, "again")
    first = findings.measurements[0]
    warned = replace(first, row={**first.row, "warnings": ["something is odd"]})
    printed = [replace(row, dataset="digits") for row in findings.printed]
    text = document.markdown(replace(findings, measurements=[warned, *findings.measurements[1:]], printed=printed), [])
    assert "- something is odd: ResNet18 seed 0".lower() in text.lower()
    assert first.row["evaluation_id"] in text
    assert "What was printed" not in text, "rows of the same data stand in the tables"
    assert "*RANDOM, printed: normalized-clamped*" in text
    assert "*97.0*" not in text, "DARTS is not in this study"


def test_weights_that_ship_need_no_training(
    straight: tuple[Path, Path, str],
    cli: Cli,
    at: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from explorer.settings import Settings

    done, file, out = straight
    copy, elsewhere = tmp_path / "copy", tmp_path / "shipped"
    shutil.copytree(done, copy)
    shutil.move(copy / "weights", elsewhere)
    at(copy)
    code, without, _ = cli("study", "report", str(file), "--out", str(tmp_path / "r"), "--format", "json")
    assert code == 0
    assert all(row["runs"] == 0 for row in json.loads(without))
    monkeypatch.setattr(Settings, "weights_folders", property(lambda self: [self.weights, elsewhere]))
    code, again, err = cli("study", "run", str(file), *HERE, "--format", "json")
    assert code == 0
    assert json.loads(again) == json.loads(out)
    assert "training" not in err


def test_study_of_top_five(
    straight: tuple[Path, Path, str], cli: Cli, at: Callable[[Path], None], tmp_path: Path
) -> None:
    """The same weights judged by the five best classes, which only attacks that run to their end can be."""
    done, _, out = straight
    copy = tmp_path / "copy"
    shutil.copytree(done, copy)
    at(copy)
    file = tmp_path / "five.toml"
    text = TEXT.replace('threat_spaces = ["pixel", "normalized-clamped"]', 'verdict = "last"\ntop_k = 5')
    file.write_text(text, encoding="utf-8")
    code, five, err = cli("study", "run", str(file), *HERE, "--format", "json", "--report", str(tmp_path / "report"))
    assert code == 0
    assert "training" not in err
    first = {(r["label"], r["attack"]): r for r in json.loads(out) if r["threat_space"] == "pixel" and r["runs"]}
    rows = [row for row in json.loads(five) if row["runs"]]
    assert len(rows) == len(first)
    for row in rows:
        assert row["clean_accuracy"] > first[row["label"], row["attack"]]["clean_accuracy"]
        assert row["robust_accuracy"] > first[row["label"], row["attack"]]["robust_accuracy"]
    assert "top-5" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


def test_list_and_unknown_names(cli: Cli) -> None:
    code, out, _ = cli("study", "list", "--format", "json")
    assert code == 0
    assert {"paper-cifar10", "digits-ensemble"} <= {row["study"] for row in json.loads(out)}
    code, _, err = cli("study", "run", "digits-cell")
    assert code == 2
    assert "digits-cells" in err
