"""`nasrob-tui weights`: the weights there are, and released checkpoints made ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer.cli.options import DataRootOption, DeviceOption, FormatOption, SetOption, ThreadsOption
from explorer.render import Column, Format

if TYPE_CHECKING:
    from models.weights.adding import Matched
    from models.weights.catalogue import WeightsFile, WeightsRecord

app = typer.Typer(
    help="List weights; add a checkpoint, show one, export and import sets of them.",
    invoke_without_command=True,
    rich_markup_mode=None,
)

#: Keys of weights in `--format json`, in this order. They are part of the interface: add, never change.
LIST_KEYS = ("architecture", "dataset", "seed", "recipe", "clean_accuracy", "sha256", "origin", "created_at", "path")
IMPORT_KEYS = ("architecture", "dataset", "seed", "clean_accuracy", "sha256", "path", "added")
EXPORT_KEYS = ("architecture", "dataset", "seed", "clean_accuracy", "sha256", "path")
ADD_KEYS = (
    "architecture",
    "dataset",
    "clean_accuracy",
    "clean_examples",
    "sha256",
    "source_sha256",
    "source",
    "path",
    "added",
    "warnings",
)

#: A model in a line.
_SHORT = [
    Column("architecture", "architecture"),
    Column("dataset", "dataset"),
    Column("seed", "seed"),
    Column("clean_accuracy", "clean %", 1),
    Column("short", "SHA-256"),
]


@app.callback()
def list_(context: typer.Context, format: FormatOption = Format.table) -> None:
    """List the weights there are: architecture, dataset, seed, clean accuracy, SHA-256.

    `add` takes a released checkpoint, `show` tells what is in a file, `export` and `import` move sets of weights.
    """
    if context.invoked_subcommand is not None:
        return
    from explorer import render, settings
    from models.weights import catalogue

    files = catalogue.scan(settings.load().weights_folders)
    if not files and format is Format.table:
        typer.echo(
            "There are no weights yet. Train some: nasrob-tui train --arch resnet18 --dataset digits, or add a "
            "checkpoint: nasrob-tui weights add FILE --arch ... --dataset ...",
            err=True,
        )
        return
    columns = [*_SHORT[:3], Column("recipe", "recipe"), *_SHORT[3:], Column("file", "file")]
    rows = [_listed(file) for file in files]
    render.print_rows(rows, form=format, columns=columns, names=LIST_KEYS)


def _listed(file: WeightsFile) -> dict[str, Any]:
    record = file.record
    return {
        "architecture": record.architecture,
        "dataset": record.dataset,
        "seed": record.seed,
        "recipe": record.recipe_name,
        "clean_accuracy": record.clean_accuracy,
        "sha256": record.tensors_sha256,
        "origin": record.origin,
        "created_at": record.created_at,
        "path": str(file.path),
        # for people
        "short": record.tensors_sha256[:12],
        "file": file.path.name,
    }


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="Checkpoint: what torch.save wrote, or safetensors. It is only read.")],
    arch: Annotated[
        str | None,
        typer.Option("--arch", help="Architecture, such as darts; its size is read off the tensors unless given."),
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Dataset that it was trained on.")] = None,
    set_: SetOption = None,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            help="Means that images were normalised with, such as 0.49,0.48,0.45 [default: the file's own, else the "
            "dataset's].",
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", help="Standard deviations, such as 0.25,0.24,0.26 [default: likewise].")
    ] = None,
    entry: Annotated[
        str | None,
        typer.Option("--entry", help="Which entry of the file, where it has several sets: state_dict_ema, say."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the file to write, without its ending.")] = None,
    origin: Annotated[str | None, typer.Option("--origin", help="Where it came from: a URL, or any text.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure clean accuracy where the dataset is at hand.")
    ] = True,
    data_root: DataRootOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write also what is there already, in the place of that.")
    ] = False,
    format: FormatOption = Format.table,
) -> None:
    """Make a released checkpoint ours: match it to an architecture, measure it, keep it with a record.

    Wrapped dictionaries, prefixes such as module., auxiliary heads and half precision are understood. Nothing in the
    file is ever executed.
    """
    from explorer import render, settings
    from explorer.cli.streams import foreign_code
    from explorer.jobs import rows
    from explorer.jobs.planning import parse_options
    from models import devices
    from models.specs import Preprocessing
    from models.weights import adding, catalogue

    devices.check_name(device)
    wanted = adding.Wanted(
        path=file,
        architecture=arch,
        dataset=dataset,
        options=parse_options(set_ or ()),
        preprocessing=Preprocessing.parse(mean, std),
        name=name,
        source=origin,
        entry=entry,
    )
    home = settings.load()
    with foreign_code():
        matched = adding.matched(wanted, say=_say, software_version=rows.software_version(), created_at=rows.utc_now())
    path = home.weights / matched.dataset.slug / adding.file_name(matched)
    there = adding.already_there(matched, catalogue.scan(home.weights_folders))
    warnings: list[str] = []
    record = there.record if there is not None and not force else None
    if there is not None and not force:
        path = there.path
        _say(f"these tensors are here already: {path} (--force writes them again)")
    else:
        # What comes with the package is never written to.
        own = there if there is not None and there.path.is_relative_to(home.weights) else None
        path = own.path if own is not None and name is None else path
        _refuse_other(path, matched, force)
        measured = None
        if measure:
            devices.set_threads(threads)
            with foreign_code():
                measured = adding.measure(matched, device=devices.choose(device), say=_say, root=data_root)
        if measured is not None and measured.warning is not None:
            warnings.append(measured.warning)
            _say(f"warning: {measured.warning}")
        record = adding.keep(matched, measured, path, earlier=there.record if there is not None else None)
        if own is not None and own.path != path:
            own.path.unlink(missing_ok=True)
    assert record is not None
    row = {**_added(record, path), "added": there is None or force, "warnings": warnings}
    columns = [
        Column("architecture", "architecture"),
        Column("dataset", "dataset"),
        Column("clean_accuracy", "clean %", 1),
        Column("short", "SHA-256"),
        Column("path", "weights"),
    ]
    shown = {**row, "short": record.tensors_sha256[:12]} if format is Format.table else row
    render.print_rows([shown], form=format, columns=columns, names=ADD_KEYS)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _refuse_other(path: Path, matched: Matched, force: bool) -> None:
    """Raise when the file to be written is there and holds another model."""
    from explorer.errors import ExplorerError
    from models.errors import WeightsError
    from models.weights import catalogue

    if not path.exists() or force:
        return
    try:
        record = catalogue.read_record(path)
    except WeightsError:
        record = None
    if record is None or record.tensors_sha256 != matched.loaded.sha256:
        raise ExplorerError(f"{path} is there already and holds another model: choose another --name, or use --force.")


def _added(record: WeightsRecord, path: Path) -> dict[str, Any]:
    return {
        "architecture": record.architecture,
        "dataset": record.dataset,
        "clean_accuracy": record.clean_accuracy,
        "clean_examples": record.clean_examples,
        "sha256": record.tensors_sha256,
        "source_sha256": record.source_sha256,
        "source": record.source,
        "path": str(path),
    }


@app.command()
def show(
    file: Annotated[str, typer.Argument(metavar="FILE|SHA", help="A file, or the beginning of a SHA-256.")],
    format: FormatOption = Format.table,
) -> None:
    """Tell what is in a file: its record and its tensors; for a checkpoint from elsewhere, which architectures fit."""
    from dataclasses import asdict

    from explorer import render, settings
    from models.weights import catalogue, describing

    path = catalogue.locate(file, catalogue.scan(settings.load().weights_folders))
    described = describing.describe(path, say=_say)
    row: dict[str, Any] = {"path": str(path), **asdict(described)}
    record = row.pop("record") or {}
    row |= {key: value for key, value in record.items() if key not in row}
    if format is not Format.table:
        render.print_rows([row], form=format)
        return
    lines = [
        {"what": key.replace("_", " "), "value": value} for key, value in row.items() if value not in (None, [], ())
    ]
    render.print_rows(lines, form=format, columns=[Column("what", "what"), Column("value", "value", align="left")])


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="A zip archive to write, or a folder.")],
    arch: Annotated[
        list[str] | None, typer.Option("--arch", help="Only those of this architecture, with any options. Repeatable.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only those trained on this dataset.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Copy trained weights with their records into an archive or a folder, for `import` on another machine."""
    from explorer import render, settings
    from explorer.errors import ExplorerError
    from models.architectures import registry
    from models.datasets import registry as datasets
    from models.weights import bundles, catalogue

    named = {registry.find(name).name for name in arch or ()}
    wanted = datasets.find(dataset).name if dataset is not None else None
    files = {
        (file.record.tensors_sha256, file.record.architecture, file.record.dataset): file
        for file in reversed(catalogue.scan(settings.load().weights_folders))
        if (wanted is None or wanted in (file.record.dataset, file.record.dataset.partition("@")[0]))
        and (not named or file.record.architecture.partition("@")[0] in named)
    }
    if not files:
        raise ExplorerError("no weights are like that: `nasrob-tui weights` lists what there is.")
    chosen = sorted(files.values(), key=lambda file: (file.record.dataset, file.path.name))
    bundles.pack(chosen, target.expanduser())
    _say(f"{len(chosen)} sets of weights in {target}")
    render.print_rows([_listed(file) for file in chosen], form=format, columns=_SHORT, names=EXPORT_KEYS)


@app.command("import")
def import_(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Archives, folders or files of `export`, or addresses.")
    ],
    format: FormatOption = Format.table,
) -> None:
    """Take in weights that have records: what `export` wrote, or another machine's weights folder.

    Every file is checked: it must be the model that it says, tensor by tensor. What is here already stays as it is.
    """
    from explorer import errors, render, settings
    from explorer.cli.streams import foreign_code
    from models.weights import bundles, catalogue

    home = settings.load()
    rows: list[dict[str, Any]] = []
    refused = 0
    for source in sources:
        with foreign_code():
            for brought in bundles.bring(source, home.weights, catalogue.scan(home.weights_folders)):
                if brought.file is None:
                    refused += 1
                    _say(f"not taken: {brought.problem}")
                    continue
                rows.append({**_listed(brought.file), "added": brought.new})
    render.print_rows(rows, form=format, columns=[*_SHORT, Column("added", "added")], names=IMPORT_KEYS)
    if refused:
        raise typer.Exit(errors.FAILED)
