"""`nasrob-tui train`: weights for an architecture on a dataset."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer.cli.options import (
    DataRootOption,
    DeviceOption,
    DownloadOption,
    FormatOption,
    SetOption,
    StoreOption,
    ThreadsOption,
)
from explorer.render import Column, Format

if TYPE_CHECKING:
    from explorer.training import Trained
    from models.training.loop import EpochReport


def command(
    arch: Annotated[list[str] | None, typer.Option("--arch", help="Architecture to train. Repeatable.")] = None,
    dataset: Annotated[
        str, typer.Option("--dataset", help="Dataset to train on; at another image size: cifar10@size=64.")
    ] = "digits",
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", help="How to train: `nasrob-tui recipes` lists them [default: the architecture's own]."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs, instead of the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate, instead of the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Batch size, instead of the recipe's.")] = None,
    set_recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--set-recipe", metavar="KEY=VALUE", help="Any key of the recipe, such as weight_decay=1e-3. Repeatable."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of initialisation, order and augmentation.")] = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    set_: SetOption = None,
    data_root: DataRootOption = None,
    download: DownloadOption = False,
    out: Annotated[Path | None, typer.Option("--out", help="Weights file to write (one --arch only).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Train again what is trained already.")] = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Train architectures by their recipe and keep the weights.

    An interrupted training goes on at its last whole epoch when the same command is run again.
    """
    from explorer import settings as settings_of
    from explorer.cli.streams import foreign_code
    from explorer.errors import ExplorerError
    from explorer.jobs.planning import parse_options
    from explorer.training import Order, Trainer
    from models.architectures import registry as architectures
    from models.architectures.options import scale_of
    from models.datasets import registry as datasets
    from models.devices import check_name

    if not arch:
        raise ExplorerError("name at least one --arch: `nasrob-tui archs` lists them.")
    if out is not None and len(arch) > 1:
        raise ExplorerError("--out names one file: train one --arch at a time, or leave it out.")
    if out is not None and out.suffix != ".safetensors":
        raise ExplorerError(f"--out {out} must end in .safetensors.")
    check_name(device)
    settings = settings_of.load(store)
    entry = datasets.find(dataset)
    overrides = overrides_of(set_recipe, epochs=epochs, lr=lr, batch_size=batch_size)
    scale = scale_of(entry.image_shape)
    orders = [
        Order(
            architectures.parse_architecture(text, parse_options(set_ or ()), scale=scale),
            entry.name,
            seed=seed,
            recipe=recipe,
            overrides=overrides,
        )
        for text in arch
    ]
    for order in orders:
        order.check()
    for split in ("train", "test"):
        datasets.load(entry.name, split, root=data_root, download=download)
    trainer = Trainer(settings, device=device, threads=threads, data_root=data_root, force=force, watch=watch_on_stderr)
    with foreign_code():
        rows = [row_of(trainer.train(order, out=out)) for order in orders]
    print_trained(rows, format)


def overrides_of(set_recipe: list[str] | None, **flags: Any) -> dict[str, Any]:
    """Keys of a recipe that are to be other ones, from options of their own and from `--set-recipe`."""
    from explorer.errors import ExplorerError
    from explorer.jobs.planning import parse_options

    keys = {key: _value(text) for key, text in parse_options(set_recipe or (), flag="--set-recipe").items()}
    twice = [key for key in keys if flags.get(key) is not None]
    if twice:
        flag = twice[0].replace("_", "-")
        raise ExplorerError(f"--{flag} and --set-recipe {twice[0]} say the same thing: give one of them.")
    return flags | keys


def print_trained(rows: list[dict[str, Any]], form: Format) -> None:
    """Print what `row_of` says of trainings."""
    from explorer import render

    columns = [
        Column("architecture", "architecture"),
        Column("dataset", "dataset"),
        Column("seed", "seed"),
        Column("epochs", "epochs"),
        Column("clean_accuracy", "clean %", 1),
        Column("short", "SHA-256"),
        Column("path", "weights"),
    ]
    names = ("architecture", "dataset", "seed", "recipe", "epochs", "clean_accuracy", "sha256", "path")
    if form is Format.table:
        rows = [{**row, "short": row["sha256"][:12]} for row in rows]
    render.print_rows(rows, form=form, columns=columns, names=names)


def _value(text: str) -> Any:
    """A recipe value as TOML would read it, or the text itself: `cosine` and `8/255` need no quotes here."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def row_of(trained: Trained) -> dict[str, Any]:
    """What `train` prints of a training."""
    record = trained.record
    recipe = record.recipe or {}
    return {
        "architecture": record.architecture,
        "dataset": record.dataset,
        "seed": record.seed,
        "recipe": record.recipe_name,
        "epochs": recipe.get("epochs"),
        "clean_accuracy": record.clean_accuracy,
        "sha256": record.tensors_sha256,
        "path": str(trained.path),
    }


@contextlib.contextmanager
def watch_on_stderr(title: str, epochs: int) -> Iterator[Callable[[EpochReport], None]]:
    """Show a training and the time left on stderr: a bar on a terminal, a line every ten seconds elsewhere."""
    from explorer.cli.progress import clock

    began = time.monotonic()
    fresh = 0
    said = 0.0
    warned = False

    def warn(report: EpochReport) -> None:
        """Say what is wrong when it first happens and when it stays so to the end, not after every epoch."""
        nonlocal warned
        if report.warning and (not warned or report.epoch == report.epochs):
            print(f"{title}: warning: epoch {report.epoch}: {report.warning}", file=sys.stderr, flush=True)
            warned = True

    def left(report: EpochReport) -> str:
        rate = (time.monotonic() - began) / max(fresh, 1)
        return clock(rate * (report.epochs - report.epoch))

    def line(report: EpochReport) -> None:
        nonlocal fresh, said
        warn(report)
        if report.resumed:
            print(f"{title}: resuming after epoch {report.epoch} of {report.epochs}", file=sys.stderr)
            return
        fresh += 1
        if report.epoch == report.epochs or time.monotonic() - said > 10:
            said = time.monotonic()
            print(
                f"{title}: epoch {report.epoch}/{report.epochs}, loss {report.loss:.3f}, "
                f"train {report.accuracy:.1f} %, {left(report)} left",
                file=sys.stderr,
                flush=True,
            )

    try:
        if not sys.stderr.isatty():
            yield line
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("epochs {task.fields[state]}", markup=False),
            console=Console(stderr=True, highlight=False),
            transient=True,
        ) as bar:
            task = bar.add_task(title, total=epochs, state="")

            def show(report: EpochReport) -> None:
                nonlocal fresh
                fresh += not report.resumed
                warn(report)
                state = f"loss {report.loss:.3f}, train {report.accuracy:.1f} %"
                bar.update(
                    task, completed=report.epoch, state=state + (f", {left(report)} left" if fresh else ", resumed")
                )

            yield show
    except KeyboardInterrupt:
        print(f"{title}: stopped; the same command goes on after the last whole epoch.", file=sys.stderr)
        raise
