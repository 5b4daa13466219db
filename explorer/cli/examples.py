"""`nasrob-tui examples`: adversarial examples that were kept, as a table, as images, as tensors."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer.cli.options import FormatOption, StoreOption
from explorer.render import Column, Format

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Keys of the list in `--format json`, in this order. They are part of the interface: add, never change.
KEYS = (
    "evaluation_id",
    "architecture_id",
    "dataset_id",
    "attack",
    "status",
    "n_kept",
    "n_survive_rounding",
    "file",
)

#: The same of one evaluation's examples.
EXAMPLE_KEYS = (
    "example",
    "label",
    "clean_prediction",
    "adversarial_prediction",
    "rounded_prediction",
    "survives_rounding",
    "linf",
    "l2",
)


class Form(StrEnum):
    """What examples are exported as."""

    png = "png"
    npz = "npz"
    safetensors = "safetensors"


def command(
    evaluation: Annotated[
        str | None, typer.Argument(metavar="ID", help="An evaluation, or the beginning of its identity: show its own.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FOLDER", help="Write the examples of ID into this folder.")
    ] = None,
    as_: Annotated[
        Form,
        typer.Option(
            "--as", help="png: each example clean, adversarial and their difference; npz or safetensors: one file."
        ),
    ] = Form.png,
    scale: Annotated[
        float | None,
        typer.Option("--scale", min=1, help="Factor of the differences in PNG files [default: as large as fits]."),
    ] = None,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """List evaluations of which `eval --save-examples` kept adversarial examples, or show and export those of one.

    A kept image has float32 pixels; `rounded` is what the model says of it as an image file of 8 bits has it.
    """
    from explorer import settings as settings_of
    from explorer.errors import ExplorerError

    path = settings_of.load(store).store
    if evaluation is None:
        if export is not None:
            raise ExplorerError(
                "--export needs the evaluation whose examples to write: `nasrob-tui examples` lists them."
            )
        _print_list(path, format)
        return
    from models import kept

    file = _find(path, evaluation)
    found = kept.read(file)
    if export is not None:
        from explorer import exampleexport

        written = exampleexport.export(found, file.stem, export.expanduser(), as_.value, scale)
        typer.echo(f"nasrob-tui: {len(written)} file{'s' * (len(written) != 1)} in {export}", err=True)
    _print_examples(found, format)


def _files(store: Path) -> list[Path]:
    """The files of kept examples, but those of re-runs that are not finished."""
    from explorer.jobs import keeping

    return sorted(path for path in keeping.folder_of(store).glob("*.npz") if "+" not in path.stem)


def _find(store: Path, text: str) -> Path:
    """The file of the one evaluation whose identity begins so."""
    from explorer.errors import ExplorerError

    found = [path for path in _files(store) if path.stem.startswith(text)]
    if len(found) == 1 or (text and text in (path.stem for path in found)):
        return next(path for path in found if len(found) == 1 or path.stem == text)
    if found:
        some = ", ".join(path.stem for path in found[:3]) + (", ..." if len(found) > 3 else "")
        raise ExplorerError(f"{text!r} is the beginning of several evaluations ({some}): give more of it.")
    raise ExplorerError(
        f"no examples are kept of an evaluation {text!r}: `nasrob-tui examples` lists those there are, and "
        "`nasrob-tui eval --save-examples N` keeps some."
    )


def _print_list(store: Path, form: Format) -> None:
    import sys

    from explorer import render
    from models import kept
    from models.errors import DataError

    files = _files(store)
    about = _about(store, [path.stem for path in files])
    rows: list[dict[str, Any]] = []
    for path in files:
        row: dict[str, Any] = {"evaluation_id": path.stem, **about.get(path.stem, {}), "file": str(path)}
        try:
            found = kept.read_predictions(path)
            row |= {"n_kept": len(found), "n_survive_rounding": int(found.survive.sum())}
        except DataError as error:
            print(f"nasrob-tui: {error}", file=sys.stderr)
        rows.append(row)
    columns = [
        Column("evaluation_id", "evaluation"),
        Column("architecture_id", "architecture"),
        Column("dataset_id", "dataset"),
        Column("attack", "attack"),
        Column("status", "status"),
        Column("n_kept", "kept"),
        Column("n_survive_rounding", "survive 8 bits"),
    ]
    render.print_rows(rows, form=form, columns=columns, names=KEYS)


def _about(store: Path, identities: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the store knows of evaluations, by identity; nothing of those that it does not hold."""
    from explorer.cli.evaluate import attack_label
    from store import Store, results
    from store.errors import StoreNotFound

    if not identities:
        return {}
    try:
        with Store(store).read() as connection:
            known = connection.execute(
                "SELECT evaluation_id FROM evaluations WHERE evaluation_id IN (SELECT unnest(?))", [list(identities)]
            ).fetchall()
    except StoreNotFound:
        return {}
    return {
        row["evaluation_id"]: {
            "architecture_id": row["architecture_id"],
            "dataset_id": row["dataset_id"],
            "attack": attack_label(row["attack"]),
            "status": row["status"],
        }
        for row in results.evaluation_rows(Store(store), [identity for (identity,) in known])
    }


def _print_examples(found: Any, form: Format) -> None:
    from explorer import render

    columns = (
        found.examples,
        found.labels,
        found.clean_predictions,
        found.predictions,
        found.rounded_predictions,
        found.survive,
        found.linf,
        found.l2,
    )
    rows = [dict(zip(EXAMPLE_KEYS, values, strict=True)) for values in zip(*(c.tolist() for c in columns), strict=True)]
    shown = [
        Column("example", "example"),
        Column("label", "label"),
        Column("clean_prediction", "clean"),
        Column("adversarial_prediction", "adversarial"),
        Column("rounded_prediction", "8 bits"),
        Column("survives_rounding", "survives 8 bits"),
        Column("linf", "L-inf", 4),
        Column("l2", "L2", 4),
    ]
    render.print_rows(rows, form=form, columns=shown, names=EXAMPLE_KEYS)
