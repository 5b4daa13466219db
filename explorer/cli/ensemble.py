"""`nasrob-tui ensemble`: models whose parts are models."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from explorer.cli import ensemble_results
from explorer.cli.options import (
    DataRootOption,
    DeviceOption,
    DownloadOption,
    FormatOption,
    SetOption,
    StoreOption,
    ThreadsOption,
)
from explorer.render import Column, Format, print_rows

app = typer.Typer(
    help="Ensembles: sampled from a search space or picked from models, trained, attacked, understood.",
    no_args_is_help=True,
)

CombineOption = Annotated[
    str | None,
    typer.Option(
        "--combine",
        help="mean-logits, mean-probs, log-mean, majority, learned, features-mean or features-concat "
        "[default: learned for sampled ones, mean-logits for picked ones].",
    ),
]


@app.command()
def sample(
    space: Annotated[str, typer.Option("--space", help="Members are random cells of: darts or nasbench201.")] = "darts",
    members: Annotated[int | None, typer.Option("--members", min=2, max=100, help="How many members.")] = None,
    cells: Annotated[
        str | None,
        typer.Option("--cells", help="Cells of each member, such as 12,6,2 [default: 20 in all, split as evenly]."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="First seed to try; the next ones follow.")] = 0,
    count: Annotated[int, typer.Option("--count", min=1, max=10_000, help="How many ensembles.")] = 1,
    combine: CombineOption = None,
    min_params: Annotated[str | None, typer.Option("--min-params", help="At least so many, such as 2.5M.")] = None,
    max_params: Annotated[str | None, typer.Option("--max-params", help="At most so many, such as 3.5M.")] = None,
    set_: SetOption = None,
    num_classes: Annotated[int, typer.Option("--num-classes", min=2, help="Classes to count for.")] = 10,
    input_size: Annotated[int, typer.Option("--input-size", min=1, help="Side of the images to count for.")] = 32,
    in_channels: Annotated[int, typer.Option("--in-channels", min=1, help="Channels of the images.")] = 3,
    format: FormatOption = Format.table,
) -> None:
    """Draw ensembles of random members: their cells, parameters and multiply-adds, before anything is trained.

    The construction of arXiv:2007.08428: members of 12, 6 and 2 random cells, 20 in all. The name says the seed, so the
    same name is the same ensemble everywhere. With bounds, seeds are tried one after the other.
    """
    from explorer import archpage, sampling
    from explorer.errors import ExplorerError
    from explorer.jobs.planning import parse_options
    from models import counting
    from models.architectures import registry
    from models.ensembles import composition

    options = parse_options(set_ or ())
    for key, value in (("cells", _split(cells, members)), ("combine", combine)):
        if value is not None and options.setdefault(key, value) != value:
            raise ExplorerError(f"--{key} and --set {key} say different things: leave one of them out.")
    shape = (in_channels, input_size, input_size)
    drawn = sampling.draw(
        space,
        count=count,
        seed=seed,
        options=options,
        bounds=(sampling.parse_count(min_params), sampling.parse_count(max_params)),
        num_classes=num_classes,
        image_shape=shape,
        ensembles=True,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    rows: list[dict[str, Any]] = []
    for found in drawn.found:
        spec = registry.parse_architecture(found.architecture)
        made_of = composition.of(spec)
        sizes = [counting.count(m.spec, num_classes=num_classes, image_shape=shape) for m in made_of.members]
        rows.append(
            {
                **{key: value for key, value in asdict(found).items() if key != "definition"},
                "combine": made_of.combine,
                "members": [
                    {"architecture": member.architecture, "params": params, "macs": macs}
                    for member, (params, macs) in zip(made_of.members, sizes, strict=True)
                ],
            }
        )
    if format is not Format.table:
        print_rows(rows, form=format)
        return
    shown = [
        {"name": row["architecture"], "params": row["params"], "macs": row["macs"]}
        | {"what": f"{len(row['members'])} members, {row['combine']}"}
        for row in rows
    ]
    if len(rows) == 1:
        (row,) = rows
        shown += [
            {"name": f"  {i}  {m['architecture']}", "params": m["params"], "macs": m["macs"], "what": "member"}
            for i, m in enumerate(row["members"])
        ]
        archpage.print_cells(row["architecture"], sys.stdout)
    columns = [
        Column("name", "architecture"),
        Column("params", "params"),
        Column("macs", "multiply-adds"),
        Column("what", "what"),
    ]
    print_rows(shown, form=format, columns=columns)
    print(f"train it: nasrob-tui ensemble train {rows[0]['architecture']} --dataset digits", file=sys.stderr)


def _split(cells: str | None, members: int | None) -> str | None:
    """`12-6-2` from `12,6,2` and the number of members, or 20 cells split as evenly as can be."""
    from explorer.errors import ExplorerError

    if cells is None:
        if members is None:
            return None
        each, more = divmod(20, members)
        return "-".join(str(max(1, each + (i < more))) for i in range(members))
    parts = [part.strip() for part in cells.replace("-", ",").split(",")]
    if members is not None and members != len(parts):
        raise ExplorerError(f"--members {members}, but --cells {cells} is for {len(parts)}: give one number a member.")
    return "-".join(parts)


@app.command()
def train(
    names: Annotated[list[str], typer.Argument(metavar="ENSEMBLE...", help="Such as darts-ensemble-7@cells=12-6-2.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset to train on.")] = "digits",
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="How to train every member [default: each member's own].")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs of the members.")] = None,
    combiner_epochs: Annotated[
        int | None, typer.Option("--combiner-epochs", help="Epochs of a learned combiner [default: 2].")
    ] = None,
    set_recipe: Annotated[
        list[str] | None,
        typer.Option("--set-recipe", metavar="KEY=VALUE", help="Any key of the members' recipe. Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Training seed S; member i has the seed S x 100 + i.")] = 0,
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, help="Members trained at the same time, each in a process of its own."),
    ] = 1,
    device: Annotated[
        str,
        typer.Option("--device", help="auto, cpu, cuda, cuda:<n> or mps; several with commas are taken in turn."),
    ] = "auto",
    threads: ThreadsOption = None,
    set_: SetOption = None,
    data_root: DataRootOption = None,
    download: DownloadOption = False,
    force: Annotated[bool, typer.Option("--force", help="Train again what is trained already.")] = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Train the members of ensembles, each on its own, then the combiner, and keep the whole as one model.

    An interrupted training goes on with the member and epoch that it had come to. `nasrob-tui train --arch` does the
    same.
    """
    from explorer import settings as settings_of
    from explorer import training
    from explorer import workers as processes
    from explorer.cli.streams import foreign_code
    from explorer.cli.train import overrides_of, print_trained, row_of, watch_on_stderr
    from explorer.errors import ExplorerError
    from explorer.jobs.planning import parse_options
    from models.architectures import registry
    from models.architectures.options import scale_of
    from models.datasets import registry as datasets
    from models.devices import check_name
    from models.ensembles import composition

    devices = device.split(",")
    for one in devices:
        check_name(one)
    settings = settings_of.load(store)
    entry = datasets.find(dataset)
    orders = []
    for name in names:
        spec = registry.parse_architecture(name, parse_options(set_ or ()), scale=scale_of(entry.image_shape))
        if not composition.is_ensemble(spec.name):
            raise ExplorerError(f"{spec.canonical} is no ensemble: train it with `nasrob-tui train --arch {name}`.")
        orders.append(
            training.Order(
                spec,
                entry.name,
                seed=seed,
                recipe=recipe,
                overrides=overrides_of(set_recipe, epochs=epochs),
                combiner={"epochs": combiner_epochs},
            )
        )
    for order in orders:
        order.check()
    for split in ("train", "test"):
        datasets.load(entry.name, split, root=data_root, download=download)
    trainer = training.Trainer(
        settings, device=devices[0], threads=threads, data_root=data_root, force=force, watch=watch_on_stderr
    )
    if workers > 1:
        missing = [order for order in orders if force or trainer.existing(order) is None]
        todo = [part for order in missing for part in trainer.missing_members(order)]
        processes.train(todo, trainer, workers=workers, devices=devices)
    with foreign_code():
        rows = [row_of(trainer.train(order)) for order in orders]
    print_trained(rows, format)


@app.command()
def pick(
    arch: Annotated[list[str] | None, typer.Option("--arch", help="Architecture of a member. Repeatable.")] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", help="Weights for each --arch: a file or the beginning of a SHA-256. Repeatable."),
    ] = None,
    combine: CombineOption = None,
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset that the members are for.")] = "digits",
    combiner_epochs: Annotated[
        int | None, typer.Option("--combiner-epochs", help="Epochs of a learned combiner [default: 2].")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of a learned combiner.")] = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    set_: SetOption = None,
    data_root: DataRootOption = None,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Make an ensemble of models that are trained already, of whatever families.

    Nothing of a member changes: it keeps its tensors, its normalisation and its SHA-256. Only a learned combiner is
    tuned, on training images.
    """
    from explorer import ensembles, training
    from explorer import settings as settings_of
    from explorer.cli.streams import foreign_code
    from explorer.cli.train import print_trained, row_of, watch_on_stderr
    from explorer.errors import ExplorerError
    from explorer.jobs import planning
    from models.datasets import registry as datasets
    from models.devices import check_name
    from models.ensembles import composition

    check_name(device)
    training.check_seed(seed)
    settings = settings_of.load(store)
    entry = datasets.find(dataset)
    # Options belong to the members that are named by architecture; without such, to the ensemble.
    own = {} if arch else planning.parse_options(set_ or ())
    if wrong := sorted(set(own) - {"combine", "width"}):
        raise ExplorerError(
            f"--set {wrong[0]}: the options of members are given with --arch; of the ensemble there are combine and "
            "width."
        )
    rule = own.get("combine", combine)
    if combine not in (None, rule):
        raise ExplorerError("--combine and --set combine say different things: leave one of them out.")
    rule = rule or "mean-logits"
    width = own.get("width")
    if width is not None and (rule not in composition.LEARNED or not width.isdecimal()):
        raise ExplorerError(f"--set width={width}: width is a whole number, of the combiner of --combine learned.")
    asked = planning.Asked(architectures=arch or (), weights=weights or (), options=(set_ or ()) if arch else ())
    models = [chosen.model for chosen in planning.resolve_models(asked, entry, settings)]
    if len(models) < 2:
        raise ExplorerError("an ensemble needs two members or more: name each with --arch, or with --weights SHA256.")
    trainer = training.Trainer(settings, device=device, threads=threads, data_root=data_root, watch=watch_on_stderr)
    with foreign_code():
        made = ensembles.pick(
            trainer,
            models,
            entry.name,
            rule,
            seed=seed,
            tuning={"epochs": combiner_epochs},
            width=int(width) if width else None,
        )
    print_trained([row_of(made)], format)


@app.command("list")
def list_(store: StoreOption = None, format: FormatOption = Format.table) -> None:
    """List the ensembles in the results store: members, rule, size and how they were trained."""
    from explorer import settings as settings_of
    from explorer.shipped import open_store

    with open_store(settings_of.load(store)).read() as con:
        rows = con.sql("FROM ensembles ORDER BY trained_on, architecture_id, label").to_arrow_table().to_pylist()
    columns = [
        Column("architecture_id", "architecture"),
        Column("trained_on", "dataset"),
        Column("n_members", "members"),
        Column("combine", "combined by"),
        Column("params", "params"),
        Column("macs", "multiply-adds"),
        Column("train_seed", "seed"),
        Column("short", "SHA-256"),
    ]
    shown = [{**row, "short": row["model_sha256"][:12]} for row in rows] if format is Format.table else rows
    print_rows(shown, form=format, columns=columns)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="An ensemble, such as darts-ensemble-7@cells=12-6-2.")],
    set_: SetOption = None,
    num_classes: Annotated[int | None, typer.Option("--num-classes", min=2, help="Classes to count for.")] = None,
    input_size: Annotated[int | None, typer.Option("--input-size", min=1, help="Side of the images.")] = None,
    in_channels: Annotated[int | None, typer.Option("--in-channels", min=1, help="Channels of the images.")] = None,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Show an ensemble: its members, their cells, its parameters and multiply-adds, weights and results."""
    from explorer.cli import archs
    from explorer.errors import ExplorerError
    from models.ensembles import composition

    if not composition.is_ensemble(name):
        raise ExplorerError(f"{name} is no ensemble: `nasrob-tui archs show {name}` shows it.")
    archs.show(name, set_, num_classes, input_size, in_channels, store, format)


app.command()(ensemble_results.attack)
app.command()(ensemble_results.gradients)
app.command()(ensemble_results.report)
