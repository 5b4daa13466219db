"""`nasrob-tui study`: many models, attacks and seeds in one file, run to the end and reported."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer.cli.options import (
    DataRootOption,
    DeviceOption,
    DownloadOption,
    FormatOption,
    StoreOption,
    ThreadsOption,
)
from explorer.render import Column, Format

if TYPE_CHECKING:
    from explorer.studies.costs import Cost
    from explorer.studies.expansion import Expansion, Place
    from explorer.studies.measurements import Findings
    from explorer.studies.running import Report
    from explorer.studies.standing import ModelState
    from models.training.loop import EpochReport

app = typer.Typer(
    help="Studies: architectures, training, attacks and seeds in one TOML file. Show what one takes, run it, report.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

#: Keys of what the commands print in `--format json`, in this order. They are part of the interface: add, never change.
LIST_KEYS = ("study", "title", "datasets", "models", "evaluations", "seeds", "printed")
SHOW_KEYS = (
    "group", "architecture", "label", "dataset", "seed", "recipe", "epochs", "weights", "evaluations_complete",
    "evaluations", "seconds_training", "seconds_evaluating", "problem",
)  # fmt: skip
STATUS_KEYS = (
    "group", "dataset", "models", "weights_here", "evaluations", "complete", "unfinished", "missing", "problem",
)  # fmt: skip

#: An epoch is told at most this often, in seconds.
_EVERY = 10.0

What = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="A study that ships (see `study list`), or a TOML file.")
]
WeightsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        metavar="NAME=WEIGHTS",
        help="Weights for an architecture of the study by its label: a file, or the beginning of a SHA-256. "
        "Repeatable.",
    ),
]


@app.command("list")
def list_(format: FormatOption = Format.table) -> None:
    """List the studies that ship."""
    from explorer import render
    from explorer.studies import definition, expansion

    rows: list[dict[str, Any]] = []
    for name in definition.shipped():
        study = definition.find(name)
        expanded = expansion.expand(study)
        rows.append(
            {
                "study": name,
                "title": study.title,
                "datasets": list(study.datasets),
                "models": len(expanded.models),
                "evaluations": expanded.n_evaluations,
                "seeds": list(study.seeds),
                "printed": study.printed,
            }
        )
    columns = [
        Column("study", "study"),
        Column("models", "models"),
        Column("evaluations", "evaluations"),
        Column("datasets", "data"),
        Column("printed", "printed as"),
        Column("title", "title"),
    ]
    render.print_rows(rows, form=format, columns=columns, names=LIST_KEYS)


@app.command()
def show(
    what: What,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    data_root: DataRootOption = None,
    store: StoreOption = None,
    weights: WeightsOption = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure a few images where no time is known.")
    ] = True,
    format: FormatOption = Format.table,
) -> None:
    """Show every model of a study, what of it exists, and what the rest will cost."""
    from explorer import render
    from explorer.studies import costs

    expansion, place, states = _looked(what, device, threads, data_root, store, weights)
    found = costs.estimate(states, expansion, place, measure=measure)
    rows = [_shown(state, cost, len(expansion.all_attacks)) for state, cost in zip(states, found, strict=True)]
    columns = [
        Column("group", "group"),
        Column("architecture", "architecture"),
        Column("dataset", "data"),
        Column("seed", "seed"),
        Column("recipe", "recipe"),
        Column("epochs", "epochs"),
        Column("weights", "weights"),
        Column("done", "evaluations", align="right"),
        Column("about", "about", align="right"),
    ]
    if format is Format.table:
        done = [{"done": f"{r['evaluations_complete']} of {r['evaluations']}"} for r in rows]
        rows = [
            {**row, **more, "about": costs.about(cost.seconds) if cost.seconds else "–" if cost.seconds == 0 else "?"}
            for row, more, cost in zip(rows, done, found, strict=True)
        ]
    render.print_rows(rows, form=format, columns=columns, names=SHOW_KEYS)
    _say(_ahead(expansion, states, found))
    for problem in dict.fromkeys(state.problem for state in states if state.problem):
        _say(f"missing: {problem}")


@app.command()
def run(
    what: What,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    data_root: DataRootOption = None,
    download: DownloadOption = False,
    store: StoreOption = None,
    weights: WeightsOption = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write the report into this folder at the end.")
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option("--max-time", help="Stop after this time, such as 90s, 30m or 2h; what is finished is kept."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and leave.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Train and evaluate what is missing of a study; whatever interrupts it, the same command goes on.

    The results are printed at the end, and with --report written as Markdown with plots.
    """
    from explorer import errors
    from explorer.cli.streams import foreign_code
    from explorer.jobs.planning import parse_duration
    from explorer.studies import costs, reporting, running

    budget = parse_duration(max_time) if max_time else None
    if report is not None:
        reporting.check(report)
    expansion, place, states = _looked(what, device, threads, data_root, store, weights, download)
    _say(_ahead(expansion, states, costs.estimate(states, expansion, place)))
    if dry_run:
        for state in states:
            if state.n_complete < len(expansion.all_attacks):
                _say(f"{state.model.title}: {_to_do(state, len(expansion.all_attacks))}")
        return
    given = _Given(what, store, data_root, weights, device, threads)
    with running.Interruption(budget) as interruption, foreign_code():
        done = running.run(
            expansion, states, place, interruption, say=_say, watch=_watched, listen=_listened, follow=given.to_follow
        )
    _conclude(done)
    code = done.code
    if code != errors.INTERRUPTED:
        findings = _gathered(given, expansion, place)
        _print_summary(findings, format)
        if report is not None:
            _write(findings, report)
    raise typer.Exit(code)


@app.command()
def status(
    what: What,
    data_root: DataRootOption = None,
    store: StoreOption = None,
    weights: WeightsOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Say how far a study is: a line a group and dataset."""
    from explorer import render
    from explorer.studies import running

    expansion, place, states = _looked(what, "auto", None, data_root, store, weights)
    total = len(expansion.all_attacks)
    rows: list[dict[str, Any]] = []
    for group, dataset in dict.fromkeys((s.model.group, s.model.dataset) for s in states):
        own = [s for s in states if (s.model.group, s.model.dataset) == (group, dataset)]
        complete = sum(s.n_complete for s in own)
        unfinished = sum(one.status not in (None, "complete") for s in own for one in s.evaluations)
        problems = list(dict.fromkeys(s.problem for s in own if s.problem))
        rows.append(
            {
                "group": group,
                "dataset": dataset,
                "models": len(own),
                "weights_here": sum(s.weights == "here" for s in own),
                "evaluations": total * len(own),
                "complete": complete,
                "unfinished": unfinished,
                "missing": total * len(own) - complete - unfinished,
                "problem": problems[0] if problems else None,
            }
        )
    columns = [
        Column("group", "group"),
        Column("dataset", "data"),
        Column("models", "models"),
        Column("weights_here", "with weights"),
        Column("evaluations", "evaluations"),
        Column("complete", "complete"),
        Column("unfinished", "unfinished"),
        Column("missing", "missing"),
    ]
    render.print_rows(rows, form=format, columns=columns, names=STATUS_KEYS)
    if running.is_running(place, expansion.study.name):
        _say("the study is being run now")
    for problem in dict.fromkeys(state.problem for state in states if state.problem):
        _say(f"missing: {problem}")


@app.command()
def report(
    what: What,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to [default: NAME-report in the current folder].")
    ] = None,
    data_root: DataRootOption = None,
    store: StoreOption = None,
    weights: WeightsOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Write a study's report: Markdown with tables and plots, and every evaluation as CSV. Prints its figures."""
    from explorer.studies import reporting

    if out is not None:
        reporting.check(out)
    expansion, place, _ = _looked(what, "auto", None, data_root, store, weights)
    folder = out or Path(f"{expansion.study.name}-report")
    reporting.check(folder)
    findings = _gathered(_Given(what, store, data_root, weights), expansion, place)
    _print_summary(findings, format)
    _write(findings, folder)


def _looked(
    what: str,
    device: str,
    threads: int | None,
    data_root: Path | None,
    store: Path | None,
    weights: list[str] | None,
    download: bool = False,
) -> tuple[Expansion, Place, list[ModelState]]:
    """A study with where it stands."""
    from explorer import settings
    from explorer.jobs.planning import parse_options
    from explorer.shipped import open_store
    from explorer.studies import definition, expansion, standing
    from models.devices import check_name

    check_name(device)
    where = settings.load(store)
    if store is None:
        open_store(where)
    brought = parse_options(weights or (), flag="--weights")
    expanded = expansion.expand(definition.find(what), brought)
    place = expansion.Place(where, device, threads, data_root.expanduser().absolute() if data_root else None, download)
    return expanded, place, standing.look(expanded, place)


def _shown(state: ModelState, cost: Cost, total: int) -> dict[str, Any]:
    model = state.model
    recipe = None
    if model.order is not None:
        recipe = (model.order.parts or (model.order,))[0].resolved()
    return {
        "group": model.group,
        "architecture": model.architecture,
        "label": model.label,
        "dataset": model.dataset,
        "seed": model.seed,
        "recipe": recipe.name if recipe is not None else None,
        "epochs": recipe.epochs if recipe is not None else None,
        "weights": state.weights,
        "evaluations_complete": state.n_complete,
        "evaluations": total,
        "seconds_training": cost.training,
        "seconds_evaluating": cost.evaluating,
        "problem": state.problem,
    }


def _to_do(state: ModelState, total: int) -> str:
    if state.problem:
        return f"left out, {state.problem}"
    train = "train, then " if state.weights == "to train" else ""
    return f"{train}evaluate {total - state.n_complete} of {total}"


def _ahead(expansion: Expansion, states: list[ModelState], found: list[Cost]) -> str:
    """What there is to do, in a sentence."""
    from explorer.studies.costs import about

    training = sum(state.is_to_train for state in states)
    complete = sum(state.n_complete for state in states)
    total = expansion.n_evaluations
    if complete == total:
        return f"{expansion.study.name}: all {total} evaluations of {len(states)} models are in the store"
    seconds = [cost.seconds for cost in found if cost.seconds is not None]
    unknown = sum(cost.seconds is None for cost in found)
    cost = f"about {about(sum(seconds))} on this machine" if any(seconds) else "how long it takes is not known"
    more = f", not counting {unknown} model{'s' * (unknown != 1)} of unknown cost" if unknown and any(seconds) else ""
    return (
        f"{expansion.study.name}: {training} of {len(states)} models to train, {total - complete} of {total} "
        f"evaluations missing; {cost}{more}"
    )


def _conclude(done: Report) -> None:
    from explorer import errors

    for kind, sentences in (("failed", done.failures), ("left out", done.missing)):
        for sentence in sentences:
            _say(f"{kind}: {sentence}")
    if done.code == errors.INTERRUPTED:
        _say("interrupted; what is finished is kept, and the same command goes on")


@dataclass(frozen=True)
class _Given:
    """What a person wrote on the command line: sentences and reports repeat it, quoted for a shell."""

    what: str
    store: Path | None
    data_root: Path | None
    weights: list[str] | None
    device: str = "auto"
    threads: int | None = None

    @property
    def to_run(self) -> str:
        """The command that runs the study again."""
        more = [("--device", self.device)] * (self.device != "auto")
        more += [("--threads", str(self.threads))] * (self.threads is not None)
        return self._command("run", more)

    @property
    def to_follow(self) -> str:
        """The command that says how far the study is."""
        return self._command("status", [])

    def _command(self, verb: str, more: list[tuple[str, str]]) -> str:
        folders = [("--store", self.store), ("--data-root", self.data_root)]
        pairs = [(flag, str(path)) for flag, path in folders if path is not None]
        pairs += [*(("--weights", one) for one in self.weights or ()), *more]
        options = [word for pair in pairs for word in pair]
        # What begins with a hyphen would be taken for an option.
        words = [*options, "--", self.what] if self.what.startswith("-") else [self.what, *options]
        return shlex.join(["nasrob-tui", "study", verb, *words])


def _gathered(given: _Given, expansion: Expansion, place: Place) -> Findings:
    from explorer.studies import measurements
    from explorer.studies.standing import look

    return measurements.gather(expansion, look(expansion, place), place, given.to_run)


def _print_summary(findings: Findings, format: Format) -> None:
    from explorer import render
    from explorer.studies import reporting

    rows = reporting.summary(findings)
    if format is Format.table:
        rows = [
            {
                **row,
                "size": render.megas(row["params"]),
                "clean": _spread(row, "clean"),
                "robust": _spread(row, "robust"),
            }
            for row in rows
            if row["runs"]
        ]
    columns = [
        Column("group", "group"),
        Column("label", "architecture"),
        Column("dataset", "data"),
        Column("threat_space", "threat space"),
        Column("eps", "eps"),
        Column("attack", "attack"),
        Column("runs", "runs"),
        Column("size", "params", align="right"),
        Column("clean", "clean %", align="right"),
        Column("robust", "robust %", align="right"),
        Column("hrs", "HRS", 1),
        Column("warnings", "warnings"),
    ]
    render.print_rows(rows, form=format, columns=columns, names=reporting.SUMMARY_KEYS)


def _spread(row: dict[str, Any], what: str) -> str:
    mean, std = row[f"{what}_accuracy"], row[f"{what}_std"]
    return f"{mean:.1f}" + (f" ± {std:.1f}" if std is not None else "")


def _write(findings: Findings, folder: Path) -> None:
    from explorer.studies import reporting

    written = reporting.write(findings, folder.expanduser())
    _say(f"report: {written[0]}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _listened() -> AbstractContextManager[Callable[[Any], None]]:
    """What shows the events of an evaluation."""
    from explorer.cli.progress import progress_for

    return progress_for(sys.stderr)


@contextmanager
def _watched(title: str, epochs: int) -> Iterator[Callable[[EpochReport], None]]:
    """Tells of epochs as they end, every ten seconds at most."""
    from explorer.cli.progress import clock

    began = said = time.monotonic()
    fresh = 0
    warned = False

    def tell(report: EpochReport) -> None:
        nonlocal said, fresh, warned
        if report.warning and not warned:
            warned = True
            _say(f"{title}: warning: epoch {report.epoch}: {report.warning}")
        if report.resumed:
            _say(f"{title}: resuming after epoch {report.epoch} of {report.epochs}")
            return
        fresh += 1
        if time.monotonic() - said < _EVERY:
            return
        said = time.monotonic()
        left = (said - began) / fresh * (report.epochs - report.epoch)
        _say(
            f"{title}: epoch {report.epoch}/{report.epochs}, loss {report.loss:.3f}, train {report.accuracy:.1f} %, "
            f"{clock(left)} left"
        )

    yield tell
