"""The commands. They import what they need when they run, so that `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from explorer.cli import (
    archs,
    attacks,
    compare,
    datasets,
    doctor,
    ensemble,
    evaluate,
    examples,
    findings,
    jobs,
    query,
    recipes,
    study,
    train,
    weights,
)
from explorer.cli.opening import open_app

app = typer.Typer(
    name="nasrob-tui",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Does the topology of a network give adversarial robustness? Attack hand-crafted and searched architectures, "
        "keep every outcome, explore the trade-offs.\n\nWithout a command the app opens."
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"nasrob-tui {metadata.version('nasrob-tui')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    store: Annotated[Path | None, typer.Option(help="Results file of the app (default: below NASROB_HOME).")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        from explorer import settings

        raise typer.Exit(open_app(settings.load(store)))


app.command("eval")(evaluate.command)
app.command("train")(train.command)
app.command("recipes")(recipes.command)
app.add_typer(ensemble.app, name="ensemble")
app.command("tradeoff")(query.tradeoff)
app.command("compare")(compare.command)
app.command("findings")(findings.command)
app.command("examples")(examples.command)
app.command("sql")(query.sql)
app.command("schema")(query.schema)
app.add_typer(archs.app, name="archs")
app.command("datasets")(datasets.command)
app.command("attacks")(attacks.command)
app.add_typer(weights.app, name="weights")
app.add_typer(jobs.app, name="jobs")
app.add_typer(study.app, name="study")
app.command("doctor")(doctor.command)
