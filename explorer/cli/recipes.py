"""`nasrob-tui recipes`: how networks are trained."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from explorer.cli.options import FormatOption
from explorer.render import Column, Format, print_rows


def command(
    name: Annotated[str | None, typer.Argument(help="Show every key of this recipe.")] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="As the recipe applies to this dataset [default: as published].")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """List the training recipes and where they come from, or every key of one of them.

    `nasrob-tui train --set-recipe KEY=VALUE` changes a key.
    """
    from models.datasets import registry

    chosen = registry.find(dataset).name if dataset else None
    if name is not None:
        _keys(name, chosen, format)
    else:
        _recipes(chosen, format)


def _recipes(dataset: str | None, format: Format) -> None:
    from models.training import recipes

    rows: list[dict[str, Any]] = []
    for entry in recipes.entries().values():
        recipe = recipes.load(entry.name, dataset)
        rows.append(
            {
                "name": entry.name,
                "epochs": recipe.epochs,
                "batch_size": recipe.batch_size,
                "lr": recipe.lr,
                "schedule": recipe.schedule,
                "adversary": recipe.adversary,
                "description": entry.description,
                "source": entry.source,
                "values": _values(recipe),
                "datasets": {key: dict(values) for key, values in entry.datasets.items()},
            }
        )
    columns = [
        Column("name", "recipe"),
        Column("epochs", "epochs"),
        Column("batch_size", "batch"),
        Column("lr", "lr"),
        Column("schedule", "schedule"),
        Column("adversary", "adversary"),
        Column("description", "description"),
        Column("source", "source"),
    ]
    print_rows(rows, form=format, columns=columns)


def _keys(name: str, dataset: str | None, format: Format) -> None:
    from models.training import recipes

    entry = recipes.find(name)
    values = _values(recipes.load(entry.name, dataset))
    published = _values(recipes.load(entry.name, None))
    rows: list[dict[str, Any]] = [
        {
            "key": field.name,
            "value": values[field.name],
            "published": published[field.name],
            "meaning": field.metadata["help"],
        }
        for field in recipes.settings()
    ]
    if format is Format.table:
        # A key of a recipe is written as TOML has it, so that it can be given back to --set-recipe.
        rows = [{**row, "value": _written(row["value"]), "published": _written(row["published"])} for row in rows]
    columns = [Column("key", "key"), Column("value", f"on {dataset}" if dataset else "value", align="right")]
    if dataset:
        columns.append(Column("published", "as published", align="right"))
    columns.append(Column("meaning", "meaning"))
    title = f"{entry.name}: {entry.description}. Source: {entry.source}."
    print_rows(rows, form=format, columns=columns, title=title)


def _values(recipe: Any) -> dict[str, Any]:
    found = {key: value for key, value in asdict(recipe).items() if key != "name"}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(f'{v:g}' for v in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
