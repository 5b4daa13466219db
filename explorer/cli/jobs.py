"""`nasrob-tui jobs`: what runs, what ran, and how to stop or continue it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer.cli.options import FormatOption
from explorer.render import Column, Format

if TYPE_CHECKING:
    from explorer.jobs.following import TrainingProgress

app = typer.Typer(help="List jobs; cancel, resume or show one.", invoke_without_command=True, rich_markup_mode=None)

#: Keys of a job in `--format json`, in this order. They are part of the interface: add, never change.
KEYS = (
    "job",
    "state",
    "evaluations_finished",
    "evaluations",
    "title",
    "started_at",
    "store",
    "evaluations_partial",
    "trainings_finished",
    "trainings",
    "training",
    "epoch",
    "epochs",
    "loss",
    "train_accuracy",
    "eta_seconds",
)

Number = Annotated[int, typer.Argument(help="Number of the job.")]


@app.callback()
def list_(context: typer.Context, format: FormatOption = Format.table) -> None:
    """List jobs; cancel, resume or show one."""
    if context.invoked_subcommand is not None:
        return
    from explorer import render, settings
    from explorer.errors import ExplorerError
    from explorer.jobs import folder, following

    rows: list[dict[str, Any]] = []
    for job in folder.all_jobs(settings.load().jobs):
        events = job.events()
        view = following.progress_of(job, events)
        try:
            store = job.request().store
        except ExplorerError:
            store = None
        rows.append(
            {
                "job": job.number,
                "state": view.state,
                "evaluations_finished": view.n_complete,
                "evaluations": view.n_evaluations or None,
                "evaluations_partial": view.n_partial,
                "title": view.title,
                "started_at": events[0].time if events else None,
                "store": store,
                "trainings_finished": view.n_trained if view.trainings else None,
                "trainings": len(view.trainings) or None,
                **_under_way(view.training),
            }
        )
    trains = [
        Column("trainings_finished", "trained"),
        Column("trainings", "of"),
        Column("under_way", "epoch", align="right"),
        Column("loss", "loss", 3),
        Column("train_accuracy", "train %", 1),
        Column("left", "left", align="right"),
    ]
    shown = [{**row, "under_way": _epoch(row), "left": _left(row)} for row in rows] if format is Format.table else rows
    columns = [
        Column("job", "job"),
        Column("state", "state"),
        Column("evaluations_finished", "done"),
        Column("evaluations", "of"),
        Column("evaluations_partial", "partial"),
        *(trains if any(row["trainings"] for row in rows) else []),
        Column("title", "what"),
        Column("started_at", "started"),
    ]
    render.print_rows(shown, form=format, columns=columns, names=KEYS)


def _under_way(training: TrainingProgress | None) -> dict[str, Any]:
    """What is told of the training under way."""
    if training is None:
        return dict.fromkeys(("training", "epoch", "epochs", "loss", "train_accuracy", "eta_seconds"))
    return {
        "training": training.architecture,
        "epoch": training.epoch,
        "epochs": training.epochs,
        "loss": training.loss,
        "train_accuracy": training.train_accuracy,
        "eta_seconds": training.eta_seconds,
    }


def _epoch(row: dict[str, Any]) -> str | None:
    return f"{row['epoch']}/{row['epochs']}" if row["epochs"] else None


def _left(row: dict[str, Any]) -> str | None:
    from explorer.cli.progress import clock

    return clock(row["eta_seconds"]) if row["eta_seconds"] is not None else None


@app.command()
def cancel(number: Number) -> None:
    """Stop a running job; what it finished stays in the store."""
    job = _find(number)
    if not job.cancel():
        from explorer.errors import FAILED, ExplorerError

        raise ExplorerError(f"job {number} is not running (it is {job.state()}).", FAILED)
    typer.echo(f"job {number} is stopping", err=True)


@app.command()
def resume(number: Number) -> None:
    """Continue a job that was cancelled, failed or killed, in the background."""
    job = _find(number)
    if job.alive():
        from explorer.errors import FAILED, ExplorerError

        raise ExplorerError(f"job {number} is running already.", FAILED)
    job.request()
    job.start()
    typer.echo(f"job {number} goes on in the background; `nasrob-tui jobs` shows it", err=True)


@app.command()
def show(number: Number) -> None:
    """Print the events of a job as JSON lines."""
    for event in _find(number).events():
        typer.echo(event.to_json())


def _find(number: int) -> Any:
    from explorer import settings
    from explorer.jobs import folder

    return folder.find(settings.load().jobs, number)
