"""`nasrob-tui attacks`: what attacks there are."""

from __future__ import annotations

from typing import Annotated

import typer

from explorer.cli.options import FormatOption
from explorer.render import Column, Format, print_rows


def command(
    presets: Annotated[
        bool, typer.Option("--presets", help="List the presets instead: sets of attacks for `eval --preset`.")
    ] = False,
    format: FormatOption = Format.table,
) -> None:
    """List the attacks, their defaults and where they come from; or the presets, yours among them."""
    from models.attacks import registry

    if presets:
        _presets(format)
        return
    rows = []
    for entry in registry.entries().values():
        spec = registry.resolve(entry.name)
        rows.append(
            {
                "name": entry.name,
                "norm": entry.norm,
                "norms": list(entry.eps),
                "eps": spec.eps.text,
                "step_size": spec.step_size.text if spec.step_size else None,
                "step_size_rule": entry.step_size,
                "steps": entry.steps or None,
                "restarts": entry.restarts,
                "random_start": entry.random_start,
                "loss": entry.loss,
                "verdict": entry.verdict,
                "fixed": list(entry.fixed),
                "settings": {setting.name: setting.default for setting in entry.settings},
                "stages": list(entry.stages),
                "aliases": list(entry.aliases),
                "description": entry.description,
                "source": entry.source,
            }
        )
    columns = [
        Column("name", "attack"),
        Column("norms", "norms"),
        Column("eps", "eps", align="right"),
        Column("step_size", "step size", align="right"),
        Column("steps", "steps"),
        Column("restarts", "restarts"),
        Column("random_start", "random start"),
        Column("verdict", "verdict"),
        Column("description", "description"),
        Column("source", "source"),
    ]
    print_rows(rows, form=format, columns=columns)


def _presets(format: Format) -> None:
    from dataclasses import asdict

    from models.attacks import presets

    columns = [
        Column("name", "preset"),
        Column("attacks", "attacks"),
        Column("eps", "eps"),
        Column("description", "description"),
        Column("source", "source"),
    ]
    rows = [asdict(preset) for preset in presets.entries().values()]
    for row in rows:
        row["attacks"], row["eps"] = list(row["attacks"]), list(row["eps"])
    print_rows(rows, form=format, columns=columns)
