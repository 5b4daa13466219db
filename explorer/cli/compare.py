"""`nasrob-tui compare`: evaluations on the same examples, beside each other."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from explorer.cli.options import FormatOption, StoreOption
from explorer.render import Column, Format

#: Keys of a comparison of two in `--format json`, in this order. They are part of the interface: add, never change.
PAIR_KEYS = (
    "evaluation_a",
    "evaluation_b",
    "architecture_a",
    "architecture_b",
    "attack_a",
    "attack_b",
    "dataset_id",
    "n_examples",
    "robust_accuracy_a",
    "robust_accuracy_b",
    "both_robust",
    "only_a_robust",
    "only_b_robust",
    "neither_robust",
    "agreement",
    "difference",
    "difference_low",
    "difference_high",
    "p_value",
)

#: The same of the worst case over several.
WORST_KEYS = (
    "evaluation_ids",
    "architecture_id",
    "model_sha256",
    "dataset_id",
    "attacks",
    "n_evaluations",
    "n_examples",
    "n_clean_correct",
    "n_robust",
    "clean_accuracy",
    "robust_accuracy",
    "robust_accuracy_low",
    "robust_accuracy_high",
)


def command(
    evaluations: Annotated[
        list[str],
        typer.Argument(
            metavar="A B...",
            help="Evaluations: their identities or beginnings of them, or architectures of which only one is complete.",
        ),
    ],
    attack: Annotated[
        str | None,
        typer.Option("--attack", help="Of an architecture, the evaluation with this attack: pgd, or 'pgd-10 8/255'."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Of an architecture, the evaluation on this dataset.")
    ] = None,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Compare two evaluations example by example, or give the worst case of several of one model.

    The difference of two robust accuracies comes with the 95 % interval of a paired bootstrap and McNemar's exact test.
    """
    from explorer import comparing
    from explorer import settings as settings_of
    from explorer.errors import ExplorerError
    from explorer.shipped import open_store

    if len(evaluations) < 2:
        raise ExplorerError("compare needs at least two evaluations: `nasrob-tui tradeoff --format json` lists them.")
    found = open_store(settings_of.load(store))
    rows = comparing.find(found, evaluations, comparing.Filters(attack, dataset))
    if len(rows) > 2:
        _print_worst(rows, comparing.worst_case(found, rows), format)
        return
    a, b = rows
    answer = comparing.paired(found, a, b)
    for doubt in comparing.doubts(a, b, answer["n_examples"]):
        print(f"nasrob-tui: {doubt}", file=sys.stderr)
    _print_pair(a, b, answer, format)


def _print_what(rows: list[dict[str, Any]], names: list[str]) -> None:
    """What is compared, a line each, above the answer."""
    from explorer import render

    columns = [
        Column("is", ""),
        Column("evaluation_id", "evaluation"),
        Column("architecture_id", "architecture"),
        Column("dataset_id", "dataset"),
        Column("label", "attack"),
        Column("n_examples", "n"),
        Column("clean_accuracy", "clean %", 1),
        Column("robust_accuracy", "robust %", 1),
    ]
    shown = [{**row, "is": name} for row, name in zip(rows, names, strict=True)]
    render.print_rows(shown, form=Format.table, columns=columns)
    typer.echo()


def _print_pair(a: dict[str, Any], b: dict[str, Any], answer: dict[str, Any], form: Format) -> None:
    from explorer import render

    row = {
        **answer,
        "evaluation_a": a["evaluation_id"],
        "evaluation_b": b["evaluation_id"],
        "architecture_a": a["architecture_id"],
        "architecture_b": b["architecture_id"],
        "attack_a": a["label"],
        "attack_b": b["label"],
        "dataset_id": a["dataset_id"],
    }
    if form is Format.table:
        _print_what([a, b], ["A", "B"])
        row["interval"] = f"{row['difference_low']:+.1f} to {row['difference_high']:+.1f}"
        row["difference"] = f"{row['difference']:+.1f}"
        row["p_value"] = f"{row['p_value']:.2g}"
    columns = [
        Column("n_examples", "common n"),
        Column("both_robust", "both robust"),
        Column("only_a_robust", "only A"),
        Column("only_b_robust", "only B"),
        Column("neither_robust", "neither"),
        Column("agreement", "agreement %", 1),
        Column("difference", "A - B, points", align="right"),
        Column("interval", "95 %", align="right"),
        Column("p_value", "McNemar p", align="right"),
    ]
    render.print_rows([row], form=form, columns=columns, names=PAIR_KEYS)


def _print_worst(rows: list[dict[str, Any]], answer: dict[str, Any], form: Format) -> None:
    from explorer import render
    from explorer.cli.evaluate import interval

    row = {
        **answer,
        "evaluation_ids": [one["evaluation_id"] for one in rows],
        "attacks": [one["label"] for one in rows],
        **{key: rows[0][key] for key in ("architecture_id", "model_sha256", "dataset_id")},
    }
    if form is Format.table:
        _print_what(rows, [str(number) for number in range(1, len(rows) + 1)])
        row["worst"] = f"of {len(rows)} attacks"
        row["interval"] = interval(row)
    columns = [
        Column("worst", "worst case"),
        Column("n_examples", "common n"),
        Column("clean_accuracy", "clean %", 1),
        Column("robust_accuracy", "robust %", 1),
        Column("interval", "95 %", align="right"),
    ]
    render.print_rows([row], form=form, columns=columns, names=WORST_KEYS)
