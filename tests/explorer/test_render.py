"""Tables of the command line: whole names, one line a row, no wider than need be."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import pytest
from rich.cells import cell_len

from explorer.render import LEAST_OF_A_DESCRIPTION, MOST_OF_A_DESCRIPTION, Column, Format, line_width, print_rows

Cli = Callable[..., tuple[int, str, str]]

NAME = "a-very-long-name-of-an-architecture@init_channels=36,layers=20"
ROWS = [
    {"name": NAME, "n": 7, "ok": True, "description": "word " * 40, "source": "somebody, somewhere, " * 9},
    {"name": "b", "n": 12345, "ok": False, "description": "short", "source": None},
]
COLUMNS = [Column(key, key) for key in ("name", "n", "ok", "description", "source")]


class Terminal(io.StringIO):
    """A terminal as far as anybody asks."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Print a table into a pipe, with `COLUMNS` as given; its lines."""

    def call(*arguments: object, width: str | None = None, **options: object) -> list[str]:
        monkeypatch.delenv("COLUMNS", raising=False)
        if width is not None:
            monkeypatch.setenv("COLUMNS", width)
        print_rows(*arguments, form=Format.table, **options)  # type: ignore[arg-type]
        return capsys.readouterr().out.splitlines()

    return call


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Print a table on a terminal of a width; its lines, without colours."""

    def call(*arguments: object, width: int, **options: object) -> list[str]:
        out = Terminal()
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setattr(sys, "stdout", out)
        print_rows(*arguments, form=Format.table, **options)  # type: ignore[arg-type]
        monkeypatch.undo()
        return out.getvalue().splitlines()

    return call


def test_a_pipe_gets_one_line_a_row_without_idle_space(pipe: Callable[..., list[str]]) -> None:
    head, first, second = pipe(ROWS, columns=COLUMNS)
    assert head.split() == ["name", "n", "ok", "description", "source"]
    assert first.startswith(f"{NAME}      7  yes  word word ")
    assert second == f"{'b'.ljust(len(NAME))}  12345  no   short{' ' * (MOST_OF_A_DESCRIPTION - 5)}  –"
    assert len(first) < len(NAME) + 2 * MOST_OF_A_DESCRIPTION + 25
    assert first.count("…") == 2
    # Nothing is cut that is asked for by name.
    assert ROWS[0]["description"].strip() in pipe(ROWS)[1]  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [200, 140, 120])
def test_a_given_width_is_kept_where_names_allow(pipe: Callable[..., list[str]], width: int) -> None:
    for line in pipe(ROWS, columns=COLUMNS, width=str(width)):
        assert len(line) <= width
    assert NAME in pipe(ROWS, columns=COLUMNS, width=str(width))[1]


def test_no_name_is_cut_where_there_is_no_room(
    pipe: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    print_rows(ROWS, form=Format.table, columns=COLUMNS)
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1] == f"{NAME}      7  yes"
    assert captured.err == "no room for description, source: a wider terminal or --format csv shows all\n"
    # What is as short as a word is no text to leave out.
    short = [{"name": NAME, "source": "measured"}]
    assert pipe(short, width="30")[1] == f"{NAME}  measured"
    assert pipe(short, columns=[Column("name", "name"), Column("source", "source")], width="30")[1].endswith("measured")


@pytest.mark.parametrize("width", ["nonsense", "0", "-3", ""])
def test_a_width_that_is_none_is_none(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    assert line_width() is None


def test_a_line_is_a_line_whatever_is_in_the_data(pipe: Callable[..., list[str]]) -> None:
    rows = [{"a": "one\ntwo\tthree\r\n", "b": "\x1b[31mred\x07[/bold]"}, {"a": "漢字", "b": "x"}]
    assert pipe(rows) == ["a               b", "one two three   �[31mred�[/bold]", "漢字            x"]
    assert pipe([], columns=COLUMNS) == ["name  n  ok  description  source"]


def test_a_terminal_breaks_sentences_and_no_names(terminal: Callable[..., list[str]]) -> None:
    rows = [{"item": "store", "value": f"it lies in {NAME} " + "and is held by nobody " * 5, "ok": True}]
    head, rule, first, *rest = terminal(rows, width=90)
    assert head.split() == ["item", "value", "ok"]
    assert set(rule) == {"─"}
    assert first.endswith("yes")
    assert all(cell_len(line) <= 90 for line in (head, rule, first, *rest))
    assert len(rest) >= 1
    assert NAME in f"{first}\n" + "\n".join(rest)
    # An identifier has no place to be broken at: it goes over the edge whole.
    assert terminal([{"sha": "f" * 100, "n": 1}], width=50)[2] == f"{'f' * 100}  1"


def test_texts_share_what_the_names_leave(terminal: Callable[..., list[str]]) -> None:
    width = len(NAME) + 2 + 5 + 2 + 3 + 2 + 2 * LEAST_OF_A_DESCRIPTION + 2
    head, _, first, _ = terminal(ROWS, columns=COLUMNS, width=width)
    assert "source" in head
    assert cell_len(first) <= width
    head, _, first, _ = terminal(ROWS, columns=COLUMNS, width=width - 1)
    assert "source" not in head
    assert "description" in head


@pytest.mark.parametrize("words", [("archs", "--all"), ("datasets",), ("recipes",)])
def test_long_listings_in_a_pipe(words: tuple[str, ...], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    code, out, _ = cli(*words)
    lines = out.splitlines()
    assert code == 0
    assert max(map(cell_len, lines)) <= 220
    assert all(line == line.rstrip() for line in lines)
    names = [row["name"] for row in json.loads(cli(*words, "--format", "json")[1])]
    assert [line.partition("  ")[0] for line in lines[1:]] == names
