"""`nasrob-tui ensemble attack|gradients|report`: an ensemble under attack, whole and in parts."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer.cli.options import DataRootOption, DeviceOption, FormatOption, StoreOption, ThreadsOption
from explorer.render import Column, Format, print_rows

if TYPE_CHECKING:
    from explorer.jobs.request import Request, RequestedModel
    from explorer.settings import Settings

NamesArgument = Annotated[
    list[str], typer.Argument(metavar="ENSEMBLE...", help="Such as darts-ensemble-7@cells=12-6-2, or ensemble-3f9a….")
]
WeightsOption = Annotated[
    list[str] | None,
    typer.Option("--weights", help="Weights for each ensemble: a file or the beginning of a SHA-256. Repeatable."),
]
DatasetOption = Annotated[str, typer.Option("--dataset", help="Dataset.")]
#: Sections of a report: its heading, its key in `ensembles.look_into`, its columns.
_SECTIONS: tuple[tuple[str, str, list[Column]], ...] = (
    (
        "how far members agree, each under the attack on itself",
        "agreement",
        [
            Column("member_a", "a"),
            Column("member_b", "b"),
            Column("same_clean_prediction", "same clean prediction %", 1),
            Column("same_verdict", "same verdict %", 1),
            Column("both_robust", "both robust"),
            Column("only_a_robust", "only a"),
            Column("only_b_robust", "only b"),
            Column("neither_robust", "neither"),
        ],
    ),
    (
        "angles between the members' gradients at clean images",
        "cosines",
        [
            Column("member_a", "a"),
            Column("member_b", "b"),
            Column("n", "n"),
            Column("mean", "mean cosine", 2),
            Column("std", "std", 2),
            Column("above_half", "above 0.5 %", 1),
            Column("below_zero", "below 0 %", 1),
        ],
    ),
    (
        "robust % of the target when the attack is made on the source",
        "transfers",
        [
            Column("source", "source"),
            Column("target", "target"),
            Column("robust_accuracy", "robust %", 1),
            Column("attack_success_rate", "success %", 1),
            Column("evaluation_id", "evaluation"),
        ],
    ),
)

ExamplesOption = Annotated[
    int | None, typer.Option("--examples", help="First examples of the stored, class-balanced order [default: all].")
]


def attack(
    names: NamesArgument,
    weights: WeightsOption = None,
    dataset: DatasetOption = "digits",
    attack: Annotated[
        list[str] | None, typer.Option("--attack", help="Attack [default: pgd]. Repeatable; settings as in `eval`.")
    ] = None,
    preset: Annotated[list[str] | None, typer.Option("--preset", help="Attacks that belong together.")] = None,
    eps: Annotated[list[str] | None, typer.Option("--eps", help="Perturbation size, such as 8/255.")] = None,
    examples: ExamplesOption = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the attack's randomness.")] = 0,
    threat_space: Annotated[
        str, typer.Option("--threat-space", help="Where eps is measured: pixel or normalized-clamped.")
    ] = "pixel",
    members: Annotated[
        bool, typer.Option("--members/--no-members", help="Attack every member alone too, on the same examples.")
    ] = True,
    transfer: Annotated[
        bool, typer.Option("--transfer", help="Also make the attacks on each part and judge them on each other part.")
    ] = False,
    craft_on: Annotated[
        list[str] | None,
        typer.Option(
            "--craft-on",
            metavar="0,2",
            help="Make the attacks on these members and judge them on the whole. Repeatable.",
        ),
    ] = None,
    cosines: Annotated[
        bool, typer.Option("--gradients", help="Measure the angles between the members' gradients too.")
    ] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    compile_: Annotated[str, typer.Option("--compile", help="Compile the network: auto, on or off.")] = "auto",
    channels_last: Annotated[str, typer.Option("--channels-last", help="Memory format: auto, on or off.")] = "auto",
    fold: Annotated[str, typer.Option("--fold", help="Fold BatchNorm into convolutions: auto, on or off.")] = "auto",
    data_root: DataRootOption = None,
    force: Annotated[bool, typer.Option("--force", help="Measure again what the store has already.")] = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Attack ensembles as one network, and their members alone; with --transfer one through the other.

    `nasrob-tui eval --arch ENSEMBLE` attacks the whole; what is made on another model: `eval --surrogate`.
    """
    from dataclasses import replace

    from explorer import ensembles
    from explorer import settings as settings_of
    from explorer.cli.evaluate import answer, print_results
    from explorer.cli.streams import foreign_code
    from explorer.errors import ExplorerError
    from explorer.jobs import planning
    from models.weights import catalogue

    settings = settings_of.load(store)
    asked = planning.Asked(
        architectures=names,
        weights=weights or (),
        datasets=(dataset,),
        attacks=attack or (),
        presets=preset or (),
        eps=eps or (),
        examples=examples,
        seed=seed,
        threat_space=threat_space,
        device=device,
        threads=threads,
        compile=compile_,
        channels_last=channels_last,
        fold=fold,
        force=force,
        data_root=str(data_root) if data_root else None,
    )
    files = catalogue.scan(settings.weights_folders)
    todo: list[Request] = []
    for request in planning.plan(asked, settings):
        _check(request)
        if cosines:
            # Attacks may take hours: say now where there are no members to compare.
            for model in request.models:
                ensembles.parts_of(model, files)
        todo.append(ensembles.with_members(request, files) if members else request)
        if transfer:
            todo += ensembles.transfers(request, files)
        for text in craft_on or ():
            positions = _positions(text)
            for model in request.models:
                _check_some(positions, text, model)
                source = ensembles.subset_of(model, positions, request.dataset)
                if not (specs := ensembles.crafted_on(source.model, request.attacks)):
                    raise ExplorerError("none of these attacks can be made on another model: use pgd or the like.")
                todo.append(replace(request, models=(model,), attacks=specs))
    exit_code, identities = answer(todo, settings)
    if cosines and not exit_code:
        with foreign_code():
            for request in planning.plan(asked, settings):
                for model in request.models:
                    _gradients(model, request, settings, device)
    if identities:
        print_results(settings.store, identities, format)
    raise typer.Exit(exit_code)


def gradients(
    names: NamesArgument,
    weights: WeightsOption = None,
    dataset: DatasetOption = "digits",
    examples: ExamplesOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    data_root: DataRootOption = None,
    store: StoreOption = None,
) -> None:
    """Measure the angles between the members' gradients at clean images, for `report` and SQL (gradient_cosines)."""
    from explorer import settings as settings_of
    from explorer.cli.streams import foreign_code
    from explorer.jobs import planning
    from models import devices

    settings = settings_of.load(store)
    asked = planning.Asked(
        architectures=names,
        weights=weights or (),
        datasets=(dataset,),
        examples=examples,
        data_root=str(data_root) if data_root else None,
    )
    devices.set_threads(threads)
    with foreign_code():
        for request in planning.plan(asked, settings):
            _check(request)
            for model in request.models:
                _gradients(model, request, settings, device)


def _gradients(model: RequestedModel, request: Request, settings: Settings, device: str) -> None:
    from explorer import ensembles
    from store import Store

    n = ensembles.measure_cosines(Store(settings.store), model, request, device)
    print(f"{model.architecture}: gradients of its members compared on {n} examples", file=sys.stderr)


def _check(request: Request) -> None:
    from explorer.errors import ExplorerError
    from models.ensembles import composition

    for model in request.models:
        if not composition.is_ensemble(model.architecture):
            raise ExplorerError(f"{model.architecture} is no ensemble: attack it with `nasrob-tui eval`.")


def _positions(text: str) -> list[int]:
    from explorer.errors import ExplorerError

    try:
        positions = [int(part) for part in text.split(",")]
    except ValueError:
        raise ExplorerError(f"--craft-on {text!r}: write the members as numbers from 0, such as 0,2.") from None
    if len(set(positions)) < len(positions):
        raise ExplorerError(f"--craft-on {text}: name each member once.")
    return sorted(positions)


def _check_some(positions: list[int], text: str, model: RequestedModel) -> None:
    """Raise `ExplorerError` where nobody is left out: an attack made on all members is one on the ensemble itself."""
    from explorer.errors import ExplorerError
    from models.architectures import registry
    from models.ensembles import composition

    if len(positions) == len(composition.of(registry.parse_architecture(model.architecture)).members):
        raise ExplorerError(
            f"--craft-on {text}: all members together are the ensemble itself, which is attacked anyway: name some of "
            "them."
        )


def report(
    name: Annotated[
        str | None, typer.Argument(metavar="[ENSEMBLE]", help="An ensemble [default: the latest results of all].")
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option("--evaluation", help="One evaluation, by the beginning of its identity.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only on this dataset.")] = None,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Say what is known of ensembles under attack: whole, members and oracle, the gain with McNemar's test, agreement,
    transfer, gradients, and how many examples every member loses.
    """
    from explorer import ensembles
    from explorer import settings as settings_of
    from explorer.errors import ExplorerError
    from explorer.shipped import open_store
    from models.architectures import registry
    from models.ensembles import composition
    from store import results

    found = open_store(settings_of.load(store))
    if evaluation is not None:
        wanted = results.find_evaluation(found, evaluation)
        rows = [row for row in ensembles.evaluations_of(found) if row["evaluation_id"] == wanted]
        if not rows:
            raise ExplorerError(f"{wanted} is no complete evaluation of an ensemble under an attack made on itself.")
    else:
        text = registry.parse_architecture(name).canonical if name and "@" in name else name
        rows = ensembles.evaluations_of(found, text, dataset)
    if not rows:
        on = f" on {dataset}" if dataset else ""
        if name and not composition.is_ensemble(name):
            raise ExplorerError(f"{name} is no ensemble: `nasrob-tui archs show {name}` shows it.")
        raise ExplorerError(
            f"there is no complete evaluation of {name or 'an ensemble'}{on}: `nasrob-tui ensemble attack` makes one."
        )
    details = [{**row, **ensembles.look_into(found, row["evaluation_id"])} for row in rows]
    if format is Format.json:
        json.dump(details, sys.stdout, indent=2, ensure_ascii=False, default=str)
        sys.stdout.write("\n")
        return
    if format is Format.csv:
        flat = [{**_plain(one), **one["summary"][0]} for one in details if one["summary"]]
        print_rows(flat, form=format)
        return
    for number, one in enumerate(details):
        if number:
            typer.echo()
        _print(one)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not isinstance(value, list)}


def _print(one: dict[str, Any]) -> None:
    """One evaluation of an ensemble, for people."""
    many = f"-{one['steps']}" if (one["steps"] or 1) > 1 else ""
    many += f"x{one['restarts']}" if (one["restarts"] or 1) > 1 else ""
    attack = f"{one['attack']}{many} {one['eps']}"
    typer.echo(
        f"{one['architecture_id']}: {attack}, {one['threat_space']}, on {one['n_examples']} examples of "
        f"{one['dataset_id']}"
    )
    typer.echo()
    parts = [{**row, "between": _between(row["low"], row["high"])} for row in one["parts"]]
    summary = one["summary"][0]
    if summary["oracle"] is not None:
        oracle = {
            "part": "oracle",
            "architecture_id": "robust where any member is",
            "robust_accuracy": summary["oracle"],
        }
        parts.append(oracle)
    columns = [
        Column("part", "part"),
        Column("architecture_id", "architecture"),
        Column("clean_accuracy", "clean %", 1),
        Column("robust_accuracy", "robust %", 1),
        Column("between", "95 %", align="right"),
        Column("evaluation_id", "evaluation"),
    ]
    print_rows(parts, form=Format.table, columns=columns)
    typer.echo()
    if summary["gain_over_best"] is not None:
        typer.echo(
            f"gain over the best member ({summary['best_position']}): {summary['gain_over_best']:+.1f} points, McNemar "
            f"p {summary['p_value']:.2g}; over their mean: {summary['gain_over_mean']:+.1f} points"
        )
        typer.echo(f"every member loses {summary['lost_by_all']} of {summary['n_examples']} examples")
    else:
        typer.echo(_why_no_gain(summary))
    for title, key, section in _SECTIONS:
        rows = [row for row in one[key] if row.get("n") or row.get("evaluation_id") or row.get("evaluation_a")]
        if key == "transfers" and all(row["source"] == row["target"] for row in rows):
            continue
        if rows:
            typer.echo()
            typer.echo(title)
            print_rows(rows, form=Format.table, columns=section)


def _why_no_gain(summary: dict[str, Any]) -> str:
    """Why an ensemble is not compared with its members."""
    measured, members = summary["n_measured"], summary["n_members"]
    if not members:
        return "its members are trained as one, so there is none to compare it with"
    if measured == members:
        return f"no example has a verdict of the whole and of all {members} members, so there is nothing to compare"
    return (
        f"{measured} of {members} members are measured alone on these examples: `nasrob-tui ensemble attack` measures "
        f"{'the others' if measured else 'them'}"
    )


def _between(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{low:.1f}–{high:.1f}"
