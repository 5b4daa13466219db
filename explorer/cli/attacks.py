"""`nasrob-tui attacks`: what attacks there are."""

from __future__ import annotations

from explorer.cli.options import FormatOption
from explorer.render import Column, Format, print_rows


def command(format: FormatOption = Format.table) -> None:
    """List the attacks, their defaults and where they come from."""
    from models.attacks import registry

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
                "steps": entry.steps,
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
        Column("norm", "norm"),
        Column("eps", "eps", align="right"),
        Column("step_size", "step size", align="right"),
        Column("steps", "steps"),
        Column("restarts", "restarts"),
        Column("random_start", "random start"),
        Column("description", "description"),
        Column("source", "source"),
    ]
    print_rows(rows, form=format, columns=columns)
