"""The command line as a whole: documented, consistent, and polite about mistakes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command

from explorer import errors
from explorer.cli import program
from tests import generate_docs

Cli = Callable[..., tuple[int, str, str]]

COMMANDS = [words for words, _ in generate_docs.commands(get_command(program.app)) if words]


def test_every_command_and_option_has_help() -> None:
    from explorer.cli.program import app

    for words, command in generate_docs.commands(get_command(app)):
        assert command.help, words  # type: ignore[attr-defined]
        for parameter in command.params:  # type: ignore[attr-defined]
            if not getattr(parameter, "hidden", False) and parameter.name != "help":
                assert getattr(parameter, "help", None), (words, parameter.name)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_of_every_command(words: tuple[str, ...], cli: Cli) -> None:
    code, out, err = cli(*words, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: nasrob-tui {' '.join(words)}")


@pytest.mark.parametrize("page", generate_docs.PAGES)
def test_generated_pages_are_up_to_date(page: str) -> None:
    made = generate_docs.PAGES[page]()
    assert (generate_docs.DOCS / page).read_text(encoding="utf-8") == made, "run `make docs`"


@pytest.mark.parametrize(
    "words", [("archs",), ("archs", "darts"),
              ("datasets",), ("datasets", "digits"), ("attacks",), ("recipes",), ("recipes", "darts"), ("weights",),
              ("jobs",), ("schema",), ("schema", "tradeoff"), ("tradeoff",), ("examples",),
              ("sql", "SELECT 1 AS one, '[/b]' AS two"), ("doctor",)], ids=" ".join
)  # fmt: skip
def test_every_reading_command_prints_three_formats(words: tuple[str, ...], cli: Cli) -> None:
    code, table, _ = cli(*words)
    assert code == 0
    code, text, _ = cli(*words, "--format", "json")
    assert code == 0
    rows = json.loads(text)
    assert isinstance(rows, list)
    code, text, _ = cli(*words, "--format", "csv")
    assert code == 0
    read = list(csv.reader(io.StringIO(text)))
    assert len(read) == len(rows) + 1
    assert all(len(row) == len(read[0]) for row in read)
    if rows:
        assert list(rows[0]) == read[0]
        assert table.strip()


def test_new_store_holds_the_published_rows_marked_as_such(cli: Cli) -> None:
    rows = json.loads(cli("tradeoff", "--format", "json")[1])
    assert {row["source"] for row in rows} == {"published"}
    assert {row["threat_space"] for row in rows} == {"normalized-clamped"}
    assert all(row["citation"] for row in rows)
    assert json.loads(cli("sql", "SELECT count(*) AS n FROM published", "--format", "json")[1]) == [{"n": 63}]


def test_data_are_never_parsed_as_markup(cli: Cli) -> None:
    code, out, _ = cli("sql", "SELECT '[bold]x[/nothing]' AS a")
    assert code == 0
    assert "[bold]x[/nothing]" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("sql", "DELETE FROM outcomes"), "reading"),
        (("sql", "SELECT * FROM read_csv('/etc/passwd')"), "outside"),
        (("sql", "ATTACH '/tmp/x.db'"), "reading"),
        (("sql", "SELEC 1"), "yntax"),
        (("sql", "SELECT 1; SELECT 2"), "one"),
        (("schema", "tradeof"), "Did you mean 'tradeoff'"),
        (("archs", "dartz"), "Did you mean 'darts'"),
        (("jobs", "cancel", "7"), "no job 7"),
        (("jobs", "resume", "7"), "no job 7"),
        (("train", "--dataset", "digits"), "--arch"),
        (("train", "--arch", "resnet18", "--set-recipe", "lr=fast"), "no number"),
        (("train", "--arch", "resnet18", "--set-recipe", "speed=1"), "recipe key"),
        (("train", "--arch", "resnet18", "--epochs", "2", "--set-recipe", "epochs=3"), "--epochs and --set-recipe"),
        (("train", "--arch", "resnet18", "--set-recipe", "batch_size=3", "--batch-size", "2"), "give one of them"),
        (("train", "--arch", "resnet18", "--recipe", "dartz"), "Did you mean 'darts'"),
        (("train", "--arch", "resnet18", "--out", "x.pt"), ".safetensors"),
        (
            ("train", "--arch", "resnet18@width=2", "--recipe", "darts", "--set-recipe", "auxiliary_weight=0.4"),
            "auxiliary",
        ),
        (("tradeoff", "--source", "rumour"), "measured or published"),
        (("nonsense",), "nonsense"),
        (("eval", "--nonsense"), "nonsense"),
        ((), "needs a terminal"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_2(words: tuple[str, ...], says: str, cli: Cli) -> None:
    code, out, err = cli(*words)
    assert code == 2
    assert out == ""
    assert says in err
    assert "Traceback" not in err


def test_train_writes_weights_that_say_what_they_are(cli: Cli, home: Path) -> None:
    words = ("train", "--arch", "resnet18@width=2", "--epochs", "1", "--seed", "3", "--threads", "1", "-f", "json")
    code, out, err = cli(*words)
    assert code == 0, err
    row = json.loads(out)[0]
    assert (row["architecture"], row["seed"], row["epochs"]) == ("resnet18@width=2", 3, 1)
    assert Path(row["path"]).is_relative_to(home)
    listed = json.loads(cli("weights", "--format", "json")[1])
    assert [w["sha256"] for w in listed] == [row["sha256"]]
    # Again: nothing to do. Forced: the same weights.
    code, out, err = cli(*words)
    assert json.loads(out) == [row]
    assert "trained already" in err
    assert json.loads(cli(*words, "--force")[1]) == [row]
    query = "SELECT model_sha256, clean_accuracy_recorded AS c FROM models"
    stored = json.loads(cli("sql", query, "--format", "json")[1])
    assert stored == [{"model_sha256": row["sha256"], "c": row["clean_accuracy"]}]
    # The accuracy in the file is that which an evaluation measures.
    code, out, _ = cli("eval", "--headless", "--arch", "resnet18@width=2", "--attack", "fgsm", "--format", "json")
    assert json.loads(out)[0]["clean_accuracy"] == pytest.approx(row["clean_accuracy"])


def test_two_sets_of_weights_must_be_told_apart(cli: Cli, home: Path) -> None:
    for seed in ("0", "1"):
        assert cli("train", "--arch", "resnet18@width=2", "--epochs", "1", "--seed", seed, "--threads", "1")[0] == 0
    words = ("eval", "--headless", "--arch", "resnet18@width=2", "--attack", "fgsm", "--examples", "10", "-f", "json")
    code, _, err = cli(*words)
    assert code == 2
    assert "choose with --weights" in err
    sha = json.loads(cli("weights", "--format", "json")[1])[1]["sha256"]
    code, out, _ = cli(*words, "--weights", sha[:10])
    assert code == 0
    assert json.loads(out)[0]["model_sha256"] == sha


def test_read_only_home_is_named(
    cli: Cli, home_with_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the place of the folder stands for any place that cannot be written, also for root."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NASROB_HOME", str(tmp_path / "file" / "home"))
    code, _, err = cli("train", "--arch", "resnet18@width=2", "--epochs", "1", "--threads", "1")
    assert code == 2
    assert str(tmp_path / "file") in err
    assert "Traceback" not in err


def test_exit_code_of_every_kind_of_error() -> None:
    """Exit codes are an interface: 0 ok, 1 a run failed, 2 usage or input, 3 busy, 130 interrupted; a bug has none."""
    from explorer.errors import ExplorerError, exit_code_of
    from models import errors as models
    from store import errors as store

    expected = {
        3: [store.StoreBusy("x")],
        2: [
            models.InvalidSpec("x"),
            models.WeightsError("x"),
            models.DataError("x"),
            models.DeviceError("x"),
            store.ForeignStore("x"),
            store.StoreTooNew("x"),
            store.StoreReadOnly("x"),
            store.QueryError("x"),
            ExplorerError("x"),
        ],
        1: [models.EvaluationError("x"), models.OutputError("x"), store.StoreFull("x"), ExplorerError("x", 1)],
        130: [KeyboardInterrupt()],
        None: [ValueError("x"), KeyError("x")],
    }
    for code, found in expected.items():
        for error in found:
            assert exit_code_of(error) == code, type(error)


@pytest.mark.parametrize("how", ["signal", "interrupt()"])
def test_ctrl_c_in_the_middle_of_a_statement_is_an_interruption(how: str, interruptible: None) -> None:
    """DuckDB reports it in two ways of its own, neither of them a KeyboardInterrupt."""
    import _thread
    import threading

    import duckdb

    # With more threads DuckDB 2.0.1 does not always look for signals before the statement is over.
    con = duckdb.connect(config={"threads": 1})
    timer = threading.Timer(0.3, _thread.interrupt_main if how == "signal" else con.interrupt)
    timer.start()
    try:
        with pytest.raises(Exception, match=r"(?i)interrupted") as caught:
            con.execute("SELECT count(*) FROM range(100000000000) AS t(i) WHERE i % 3 = 1").fetchall()
    finally:
        timer.join()
    assert errors.exit_code_of(caught.value) == errors.INTERRUPTED
    assert errors.exit_code_of(RuntimeError("anything else")) is None
