"""`nasrob-tui eval`: attack models and store every outcome."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer import errors
from explorer.cli.opening import open_app
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
    from explorer.jobs.folder import Job
    from explorer.jobs.request import Request
    from explorer.jobs.runner import JobProcess
    from explorer.settings import Settings

#: Keys of an evaluation in `--format json`, in this order. They are part of the interface: add, never change.
RESULT_KEYS = (
    "evaluation_id",
    "architecture",
    "architecture_id",
    "family",
    "model_sha256",
    "dataset",
    "dataset_id",
    "n_examples",
    "n_done",
    "n_requested",
    "attack",
    "threat_space",
    "verdict",
    "clean_accuracy",
    "robust_accuracy",
    "robust_accuracy_low",
    "robust_accuracy_high",
    "hrs",
    "pp_hrs",
    "attack_success_rate",
    "params",
    "macs",
    "forwards",
    "backwards",
    "seconds",
    "status",
    "warnings",
    "device",
    "precision",
    "preprocessing",
    "updated_at",
    "clean_top5_accuracy",
    "robust_top5_accuracy",
)

_TABLE = (
    Column("architecture_id", "architecture"),
    Column("dataset_id", "dataset"),
    Column("attack_label", "attack"),
    Column("threat_space", "threat space"),
    Column("n_examples", "n"),
    Column("clean_accuracy", "clean %", 1),
    Column("robust_accuracy", "robust %", 1),
    Column("interval", "95 %", align="right"),
    Column("hrs", "HRS", 1),
    Column("forwards", "forwards"),
    Column("backwards", "backwards"),
    Column("seconds", "s", 1),
    Column("status", "status"),
    Column("warnings", "warnings"),
)

#: Columns after `robust %` where a dataset has so many classes that its results are usually top-5.
_TOP5 = (
    Column("clean_top5_accuracy", "clean top-5 %", 1),
    Column("robust_top5_accuracy", "robust top-5 %", 1),
)
_MANY_CLASSES = 100


def command(
    arch: Annotated[
        list[str] | None,
        typer.Option(
            "--arch",
            help="Architecture, such as darts, darts@init_channels=8,layers=5, torchvision:resnet50, timm:NAME or "
            "package.module:factory. Repeatable.",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            help="Weights for each --arch: a file, the beginning of a SHA-256, IMAGENET1K_V1 or DEFAULT for "
            "torchvision, pretrained for timm, factory for what a factory returns. Repeatable.",
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="Dataset [default: digits]. Repeatable.")
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            help="Attack, such as fgsm, pgd, pgd-20, pgd@eps=4/255,steps=20 or autoattack [default: pgd]. Repeatable.",
        ),
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            "--preset", help="Attacks that belong together: paper, autoattack, sweep or your own. Repeatable."
        ),
    ] = None,
    eps: Annotated[
        list[str] | None,
        typer.Option(
            "--eps", help="Perturbation size in [0, 1] pixels, such as 8/255 [default: the attack's]. Repeatable."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps of the iterated attacks.")] = None,
    step_size: Annotated[
        str | None, typer.Option("--step-size", help="Step size of the iterated attacks, such as 2/255.")
    ] = None,
    restarts: Annotated[int | None, typer.Option("--restarts", help="Random restarts of the iterated attacks.")] = None,
    examples: Annotated[
        int | None,
        typer.Option("--examples", help="First examples of the stored, class-balanced order [default: all]."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split of the dataset.")] = "test",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the attack's randomness.")] = 0,
    threat_space: Annotated[
        str,
        typer.Option(
            "--threat-space",
            help="pixel, or normalized-clamped: eps on normalised inputs clamped to [0, 1], as in the study's code.",
        ),
    ] = "pixel",
    verdict: Annotated[
        str | None,
        typer.Option(
            "--verdict",
            help="worst: any visited iterate that fools counts; last: only the last one; closest: the closest "
            "adversarial example of all, for attacks that look for the smallest distance [default: the attack's].",
        ),
    ] = None,
    norm: Annotated[
        str | None, typer.Option("--norm", help="Linf, L2 or L1, where the attack has it [default: the attack's].")
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            help="Slots of the engine: examples attacked side by side [default: 64 to 256 by image size, 8 times as "
            "many on a GPU; halved where memory does not suffice].",
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option("--family", help="Family of a network of your own: handcrafted (the default) or nas."),
    ] = None,
    surrogate: Annotated[
        str | None,
        typer.Option(
            "--surrogate", help="Architecture that the attack is crafted on, to be judged on the others (transfer)."
        ),
    ] = None,
    surrogate_weights: Annotated[
        str | None, typer.Option("--surrogate-weights", help="Weights of the surrogate, as for --weights.")
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="In which perturbations are looked for: float32, bf16, fp16 or auto. Verdicts are always in float32.",
        ),
    ] = "float32",
    compile_: Annotated[
        str, typer.Option("--compile", help="Compile the network: auto (for long jobs), on or off.")
    ] = "auto",
    channels_last: Annotated[str, typer.Option("--channels-last", help="Memory format: auto, on or off.")] = "auto",
    fold: Annotated[str, typer.Option("--fold", help="Fold BatchNorm into convolutions: auto, on or off.")] = "auto",
    max_time: Annotated[
        str | None,
        typer.Option("--max-time", help="Stop after this time, such as 90s, 30m or 2h; what is finished is stored."),
    ] = None,
    max_forwards: Annotated[
        int | None, typer.Option("--max-forwards", help="Stop after so many forward passes, counted per image.")
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say before each evaluation what it will cost, also where it is short.")
    ] = False,
    save_examples: Annotated[
        int, typer.Option("--save-examples", help="Keep so many adversarial examples of each evaluation.")
    ] = 0,
    set_: SetOption = None,
    input_size: Annotated[
        int | None,
        typer.Option(
            "--input-size", min=1, help="Side of the images in pixels [default: the dataset's, or the weights']."
        ),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option("--resize", min=1, help="Shorter side before the central crop [default: 8/7 of the side]."),
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option("--interpolation", help="bilinear or bicubic, for resizing.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean", help="Normalisation's mean a channel, such as 0.485,0.456,0.406 [default: the weights']."
        ),
    ] = None,
    std: Annotated[str | None, typer.Option("--std", help="Normalisation's standard deviation a channel.")] = None,
    data_root: DataRootOption = None,
    download: DownloadOption = False,
    headless: Annotated[
        bool,
        typer.Option("--headless", help="Work here and print the result; otherwise the app opens on the running job."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Measure again what the store has already.")] = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
    json_progress: Annotated[
        bool,
        typer.Option("--json-progress", help="Print the events as JSON lines on stderr instead of a progress bar."),
    ] = False,
    job: Annotated[
        int | None, typer.Option("--job", hidden=True, help="Work on a job that is written already.")
    ] = None,
) -> None:
    """Attack models and keep every outcome.

    A finished evaluation is answered from the store; an interrupted one goes on at the first missing example.
    """
    from explorer import settings as settings_of
    from explorer.jobs import folder, planning

    settings = settings_of.load(store)
    if job is not None:
        raise typer.Exit(_work(folder.find(settings.jobs, job), json_progress)[0])
    requests = planning.plan(
        planning.Asked(
            architectures=arch or (),
            weights=weights or (),
            datasets=dataset or ("digits",),
            attacks=attack or (),
            presets=preset or (),
            family=family,
            surrogate=surrogate,
            surrogate_weights=surrogate_weights,
            precision=precision,
            compile=compile_,
            channels_last=channels_last,
            fold=fold,
            max_time=max_time,
            max_forwards=max_forwards,
            estimate=estimate,
            save_examples=save_examples,
            eps=eps or (),
            options=set_ or (),
            steps=steps,
            step_size=step_size,
            restarts=restarts,
            seed=seed,
            examples=examples,
            split=split,
            threat_space=threat_space,
            verdict=verdict,
            norm=norm,
            device=device,
            threads=threads,
            slots=batch_size,
            force=force,
            input_size=input_size,
            resize=resize,
            interpolation=interpolation,
            mean=mean,
            std=std,
            data_root=str(data_root) if data_root else None,
            download=download,
        ),
        settings,
    )
    if not headless:
        jobs = [folder.create(settings.jobs, request) for request in requests]
        for started in jobs:
            started.start()
        raise typer.Exit(open_app(settings, jobs[0].number))
    exit_code, identities = answer(requests, settings, json_progress=json_progress)
    if identities:
        print_results(settings.store, identities, format)
    raise typer.Exit(exit_code)


def answer(requests: Sequence[Request], settings: Settings, *, json_progress: bool = False) -> tuple[int, list[str]]:
    """Work off requests here, one job each, but for those that the store can answer; returns the exit code and the
    identities of all evaluations that there are now.

    Raises `InvalidSpec`, before any work, for an attack that has no meaning for one of the models.
    """
    from explorer.jobs import folder

    for request in requests:
        request.check()
    exit_code = errors.OK
    identities: list[str] = []
    for request in requests:
        known = _already_stored(request)
        if known is not None:
            identities += known
            continue
        code, worked = _work(folder.create(settings.jobs, request), json_progress)
        exit_code = exit_code or code
        identities += worked
        if code == errors.INTERRUPTED:
            break
    return exit_code, identities


def _already_stored(request: Any) -> list[str] | None:
    """The identities of a request's evaluations if all of them are complete in the store, else None. Without torch."""
    from store import Store
    from store.errors import StoreNotFound

    if request.force or request.precision == "auto" or any(model.sha256 is None for model in request.models):
        return None
    identities = [request.evaluation(m, a).identity for m in request.models for a in request.attacks]
    try:
        with Store(Path(request.store)).read() as connection:
            complete = connection.execute(
                "SELECT count(*) FROM evaluations WHERE status = 'complete' AND evaluation_id IN (SELECT unnest(?))",
                [identities],
            ).fetchone()
    except StoreNotFound:
        return None
    if not complete or complete[0] != len(set(identities)) or not _all_kept(request, identities):
        return None
    return identities


def _all_kept(request: Any, identities: list[str]) -> bool:
    """Whether the adversarial examples to keep of complete evaluations are kept; a job says what is not."""
    if not request.save_examples:
        return True
    from explorer.jobs import keeping
    from models.datasets import registry
    from store import Store

    store = Store(Path(request.store))
    indices = registry.load(request.dataset, request.split, root=request.root).subset(request.examples)
    found = (keeping.lacking(store, i, indices.tolist(), request.save_examples) for i in identities)
    return not any(one.n_lacking for one in found)


class _Interruption:
    """Turns the first ctrl-C or SIGTERM into a polite end between two steps; a second ctrl-C ends at once.

    Inside `at_once` the first one does: an epoch that is cut short is trained again, and may take too long to wait for.
    """

    def __init__(self) -> None:
        self.asked = False
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.asked

    def install(self) -> None:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._handle)

    def uninstall(self) -> None:
        """Leave signals to whoever had them: afterwards nobody asks here any more."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        self._at_once = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: object) -> None:
        again, self.asked = self.asked, True
        if self._at_once or (again and number == signal.SIGINT):
            raise KeyboardInterrupt


def _work(job: Job, json_progress: bool) -> tuple[int, list[str]]:
    """Work on a job in this process; returns the exit code and the identities of its evaluations."""
    from explorer.cli.progress import JsonProgress, progress_for
    from explorer.cli.streams import foreign_code
    from explorer.jobs.runner import Runner
    from explorer.jobs.training import TrainingRequest
    from explorer.jobs.trainingrunner import TrainingRunner

    stop = _Interruption()
    stop.install()
    try:
        request = job.request()
        with JsonProgress(sys.stderr) if json_progress else progress_for(sys.stderr) as listener:
            runner: JobProcess
            if isinstance(request, TrainingRequest):
                runner = TrainingRunner(job, request, listeners=[listener], stop=stop, at_once=stop.at_once)
            else:
                runner = Runner(job, request, listeners=[listener], stop=stop)
            with foreign_code():
                code = runner.run()
    finally:
        stop.uninstall()
    # Who asked when the work was all but over wants what follows it no more either.
    return errors.INTERRUPTED if stop.asked else code, runner.evaluation_ids


def print_results(store: Path, identities: list[str], form: Format) -> None:
    from explorer import render
    from store import Store, results

    rows = results.evaluation_rows(Store(store), list(dict.fromkeys(identities)))
    shown: list[dict[str, Any]] = [{key: row.get(key) for key in RESULT_KEYS} for row in rows]
    if form is not Format.table:
        render.print_rows(shown, form=form, names=RESULT_KEYS)
        return
    for row in shown:
        row["attack_label"] = attack_label(row["attack"])
        row["interval"] = interval(row)
    columns = list(_TABLE)
    if any((row["n_classes"] or 0) >= _MANY_CLASSES for row in rows):
        after = next(i for i, column in enumerate(columns) if column.key == "hrs")
        columns[after:after] = _TOP5
    render.print_rows(shown, form=form, columns=columns)


def attack_label(config: dict[str, Any]) -> str:
    from models.specs import AttackSpec

    return AttackSpec.from_dict(config).label


def interval(row: dict[str, Any]) -> str | None:
    """The 95 % interval as people read it: 20.4–28.2."""
    low, high = row["robust_accuracy_low"], row["robust_accuracy_high"]
    return None if low is None or high is None else f"{low:.1f}–{high:.1f}"
