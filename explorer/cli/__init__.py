"""The command line: one file a command. Commands import what they need when they run, so that `--help` is instant."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from explorer import errors
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
from explorer.cli.options import open_app
from explorer.cli.streams import reserve_stdout

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


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code. A user's mistake is one sentence on stderr, `--debug` shows where.

    Without `arguments` it is that of the process, whose standard streams are then put in order.
    """
    if arguments is None:
        reserve_stdout()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    # The flag may stand anywhere; it is the program's, not a command's.
    words = ["--debug", *(w for w in words if w != "--debug")] if debug else words
    try:
        app(words, prog_name="nasrob-tui")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else errors.FAILED if leaving.code else errors.OK
    except BrokenPipeError:
        # The reader of a pipe (head, less) left; there is nobody to tell.
        sys.stderr.close()
        return errors.OK
    except (Exception, KeyboardInterrupt) as error:
        code = errors.exit_code_of(error)
        if debug or code is None:
            if code is None and not debug:
                print(
                    f"nasrob-tui: this is a bug ({type(error).__name__}: {error}). Please report it with:",
                    file=sys.stderr,
                )
            import traceback

            traceback.print_exception(error)
            return errors.FAILED if code is None else code
        message = "interrupted" if errors.is_interruption(error) else str(error)
        print(f"nasrob-tui: {message}", file=sys.stderr)
        return code
    return errors.OK
