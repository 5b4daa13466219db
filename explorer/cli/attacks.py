"""`archs`, `datasets`, `attacks`, `weights`: what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from explorer.cli.options import FormatOption
from explorer.render import Column, Format, print_rows


def archs(
    name: Annotated[str | None, typer.Argument(help="Show only this architecture, with its genotype.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """List the architectures, their options and where they come from."""
    from models.architectures import registry

    found = [registry.find(name)] if name else list(registry.entries().values())
    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "family": entry.family,
            "lineage": entry.lineage,
            "options": {
                o.name: {"default": o.default, "small": o.small, "min": o.minimum, "max": o.maximum, "help": o.help}
                for o in entry.options
            },
            "aliases": list(entry.aliases),
            "description": entry.description,
            "source": entry.source,
            "genotype": entry.genotype.to_dict() if entry.genotype else None,
        }
        for entry in found
    ]
    if format is Format.table:
        for row in rows:
            row["options"] = ", ".join(f"{k}={o['default']} ({o['small']})" for k, o in row["options"].items())
            if name and row["genotype"]:
                row["genotype"] = str(found[0].genotype)
    columns = [
        Column("name", "architecture"),
        Column("family", "family"),
        Column("options", "options (on small images)"),
        Column("description", "description"),
        Column("source", "source"),
    ]
    print_rows(rows, form=format, columns=[*columns, Column("genotype", "genotype")] if name else columns)


def datasets(format: FormatOption = Format.table) -> None:
    """List the datasets, their splits and fingerprints."""
    from models.datasets import registry

    rows = []
    for dataset in registry.entries().values():
        for split in dataset.splits:
            examples = registry.load(dataset.name, split)
            rows.append(
                {
                    "name": dataset.name,
                    "split": split,
                    "n_examples": len(examples),
                    "n_classes": dataset.n_classes,
                    "image_shape": "x".join(map(str, dataset.image_shape)),
                    "fingerprint": examples.fingerprint,
                    "dataset_id": examples.identifier,
                    "description": dataset.description,
                    "source": dataset.source,
                    "license": dataset.license,
                }
            )
    columns = [
        Column("dataset_id", "dataset"),
        Column("n_examples", "examples"),
        Column("n_classes", "classes"),
        Column("image_shape", "image"),
        Column("description", "description"),
        Column("source", "source"),
        Column("license", "license"),
    ]
    print_rows(rows, form=format, columns=columns)


def attacks(format: FormatOption = Format.table) -> None:
    """List the attacks, their defaults and where they come from."""
    from models.attacks import registry

    rows = []
    for entry in registry.entries().values():
        spec = registry.resolve(entry.name)
        rows.append(
            {
                "name": entry.name,
                "norm": entry.norm,
                "eps": spec.eps.text,
                "step_size": spec.step_size.text,
                "step_size_rule": entry.step_size,
                "steps": entry.steps,
                "restarts": entry.restarts,
                "random_start": entry.random_start,
                "loss": entry.loss,
                "fixed": list(entry.fixed),
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


def weights(
    format: FormatOption = Format.table,
) -> None:
    """List the weights there are: architecture, dataset, seed, clean accuracy, SHA-256."""
    from explorer import settings
    from models.weights import catalogue

    rows = [
        {
            "architecture": file.record.architecture,
            "dataset": file.record.dataset,
            "seed": file.record.seed,
            "recipe": file.record.recipe_name,
            "clean_accuracy": file.record.clean_accuracy,
            "sha256": file.record.tensors_sha256,
            "origin": file.record.origin,
            "created_at": file.record.created_at,
            "path": str(file.path),
        }
        for file in catalogue.scan(settings.load().weights_folders)
    ]
    names = ("architecture", "dataset", "seed", "recipe", "clean_accuracy", "sha256", "origin", "created_at", "path")
    if not rows and format is Format.table:
        typer.echo("There are no weights yet. Train some: nasrob-tui train --arch resnet18 --dataset digits", err=True)
        return
    columns = [
        Column("architecture", "architecture"),
        Column("dataset", "dataset"),
        Column("seed", "seed"),
        Column("recipe", "recipe"),
        Column("clean_accuracy", "clean %", 1),
        Column("short", "SHA-256"),
        Column("file", "file"),
    ]
    if format is Format.table:
        rows = [{**row, "short": str(row["sha256"])[:12], "file": Path(str(row["path"])).name} for row in rows]
    print_rows(rows, form=format, columns=columns, names=names)
