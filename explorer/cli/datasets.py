"""`datasets`: which there are, which of them are on this machine, and what is in one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer.cli.options import DataRootOption, FormatOption
from explorer.render import Column, Format, print_rows

if TYPE_CHECKING:
    from models.datasets.registry import Dataset, Examples

#: Classes that a table lists one by one; of more it says how many examples they have.
CLASSES_TO_LIST = 20


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Read only this dataset, and count what is in it. `folder:/path/to/images` is one too, and options "
            "such as imagenet@size=288 change the image size."
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the named dataset first, if it is not here or is damaged.")
    ] = False,
    data_root: DataRootOption = None,
    format: FormatOption = Format.table,
) -> None:
    """List the datasets and where they lie; of a named one also its fingerprint and the examples of each class."""
    from models.datasets import registry

    if name is None:
        if download:
            raise typer.BadParameter("name the dataset to fetch.", param_hint="--download")
        _list(list(registry.entries().values()), data_root, format)
        return
    dataset = registry.find(name)
    rows: list[dict[str, Any]] = []
    for split in dataset.splits:
        if download:
            registry.load(dataset.name, split, root=data_root, download=True)
        rows.append(_details(dataset, split, data_root))
    if format is Format.table:
        _print_details(dataset, rows)
    else:
        print_rows(rows, form=format)
    absent = [row["split"] for row in rows if not row["here"]]
    if absent:
        typer.echo(f"nasrob-tui: {registry.missing(dataset, absent[0], root=data_root)}", err=True)


def _list(datasets: list[Dataset], root: Path | None, format: Format) -> None:
    """One row a split. Nothing is read, so that the list is there at once."""
    from models.datasets import registry

    rows: list[dict[str, Any]] = []
    for dataset in datasets:
        for split in dataset.splits:
            place = registry.locate(dataset, split, root=root)
            rows.append(
                {
                    "name": dataset.name,
                    "split": split,
                    "n_examples": dataset.sizes[split],
                    "n_classes": dataset.n_classes,
                    "image_shape": _shape(dataset.image_shape),
                    "here": place is not None,
                    "path": str(place) if place else None,
                    "downloadable": dataset.downloadable,
                    "description": dataset.description,
                    "source": dataset.source,
                    "license": dataset.license,
                }
            )
    columns = [
        Column("name", "dataset"),
        Column("split", "split"),
        Column("n_examples", "examples"),
        Column("n_classes", "classes"),
        Column("image_shape", "image"),
        Column("here", "here"),
        Column("description", "description"),
        Column("source", "source"),
        Column("license", "license"),
    ]
    print_rows(rows, form=format, columns=columns)


def _details(dataset: Dataset, split: str, root: Path | None) -> dict[str, Any]:
    """What is known of a split: of one that is here its content, of any other what it should be."""
    from models.datasets import registry

    place = registry.locate(dataset, split, root=root)
    examples: Examples | None = None
    if place is not None:
        examples = registry.load(dataset.name, split, root=root)
        examples.take_fingerprint(_progress(dataset, split))
    classes = (examples.classes if examples else ()) or [str(i) for i in range(dataset.n_classes)]
    return {
        "name": dataset.name,
        "split": split,
        "here": examples is not None,
        "path": str(place) if place else None,
        "n_examples": len(examples) if examples else dataset.sizes.get(split),
        "n_classes": dataset.n_classes,
        "image_shape": _shape(dataset.image_shape),
        "geometry": dataset.geometry.text if dataset.geometry else "as stored",
        "fingerprint": examples.fingerprint if examples else None,
        "dataset_id": examples.identifier if examples else None,
        "mean": list(dataset.preprocessing.mean),
        "std": list(dataset.preprocessing.std),
        "counts": [
            {"label": label, "class": name, "n_examples": int(count)}
            for label, (name, count) in enumerate(zip(classes, examples.counts, strict=True))
        ]
        if examples
        else None,
        "notes": list(examples.notes) if examples else [],
        "description": dataset.description,
        "source": dataset.source,
        "license": dataset.license,
    }


def _progress(dataset: Dataset, split: str) -> Any:
    """Says on a terminal's stderr how many files have been read for the fingerprint."""
    import sys

    def tell(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            sys.stderr.write(f"\rreading {dataset.name}/{split}: {done} of {total} files{end}")
            sys.stderr.flush()

    return tell


def _print_details(dataset: Dataset, rows: list[dict[str, Any]]) -> None:
    """What the dataset is, what each split holds, and how many examples each class has."""
    first = rows[0]
    facts = [
        {"property": key.replace("_", " "), "value": ", ".join(map(str, v)) if isinstance(v := first[key], list) else v}
        for key in ("description", "source", "license", "n_classes", "image_shape", "geometry", "mean", "std")
    ]
    print_rows(facts, form=Format.table, columns=[Column("property", dataset.name), Column("value", "", align="left")])
    typer.echo()
    splits = [{**row, "classes": _spread(row["counts"]), "note": "; ".join(row["notes"]) or None} for row in rows]
    columns = [
        Column("split", "split"),
        Column("here", "here"),
        Column("n_examples", "examples"),
        Column("classes", "examples a class"),
        Column("fingerprint", "fingerprint"),
        Column("path", "path"),
    ]
    noted = any(row["notes"] for row in rows)
    print_rows(splits, form=Format.table, columns=[*columns, Column("note", "note")] if noted else columns)
    read = [row for row in rows if row["counts"]]
    if read and dataset.n_classes <= CLASSES_TO_LIST:
        typer.echo()
        classes = [
            {"label": count["label"], "class": count["class"]}
            | {row["split"]: row["counts"][count["label"]]["n_examples"] for row in read}
            for count in read[0]["counts"]
        ]
        print_rows(classes, form=Format.table)


def _spread(counts: list[dict[str, Any]] | None) -> str | None:
    """`1000`, or `0 to 2`, for the examples of the classes."""
    if counts is None:
        return None
    numbers = [count["n_examples"] for count in counts]
    return str(min(numbers)) if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
