"""Makes what comes with the package: `python -m explorer.precomputing HOME` runs the studies on digits and on
Fashion-MNIST in HOME, a folder like NASROB_HOME, attacks their ensembles member by member, and writes results and
weights into this source tree.

Two steps run side by side, with one thread each. It resumes: what HOME holds already is not computed again.
Fashion-MNIST is looked for as always (NASROB_DATA).
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from explorer import errors
from explorer.errors import ExplorerError

if TYPE_CHECKING:
    from explorer.settings import Settings
    from models.weights.catalogue import WeightsFile
    from store.connection import Store

#: What is computed, each step with those that it waits for: two that train the same network do not run at once. Weights
#: of digits come with the package; those of Fashion-MNIST are an archive beside it, for `nasrob-tui weights import`.
STEPS = {
    "digits-cells": (),
    "fashion-mnist-ensemble": (),
    "fashion-mnist-cells": ("fashion-mnist-ensemble",),
    "fashion-mnist-parameters": ("fashion-mnist-cells",),
    "digits-ensemble": ("digits-cells",),
    "digits-parameters": ("digits-cells",),
    "parts of fashion-mnist": ("fashion-mnist-ensemble",),
    "parts of digits": ("digits-ensemble",),
    "picked": ("digits-cells", "digits-parameters"),
}
#: How many steps run at once.
SIDE_BY_SIDE = 2
OPTIONAL = Path(__file__).parents[1] / "models" / "weights" / "optional" / "fashion-mnist.zip"
#: Ensembles of the studies' models: rule, and members by architecture. Small ones: each is another copy of its members.
PICKED = (
    ("mean-logits", ("darts-random-0", "darts-random-4", "darts-random-15")),
    ("majority", ("darts", "darts-random-4", "resnet18@width=3")),
)
#: How ensembles are attacked in parts, by dataset: as their studies attack the whole.
_ENSEMBLE_ATTACKS = {
    "digits": ("--attack", "pgd-10", "--eps", "8/255", "--eps", "16/255", "--eps", "32/255", "--transfer"),
    # Attacks through one member on the other are left to the person: each has as many outcomes again.
    "fashion-mnist": (
        *("--attack", "pgd-10", "--eps", "2/255", "--eps", "4/255", "--eps", "8/255"),
        *("--dataset", "fashion-mnist@size=14", "--examples", "500"),
    ),
}
#: The options with which every model of ours is attacked here, so that a rebuilt result equals the shipped one.
_EXACT = ("--threads", "1", "--device", "cpu")


def main(home: Path) -> None:
    """Compute what is missing in `home`, then write what comes with the package. Raises `ExplorerError`."""
    os.environ |= {"NASROB_HOME": str(home), "NASROB_SHIPPED": "off", "OMP_NUM_THREADS": "1"}
    steps = TopologicalSorter(STEPS)
    steps.prepare()
    running: dict[Future[None], str] = {}
    with ProcessPoolExecutor(SIDE_BY_SIDE, multiprocessing.get_context("spawn")) as pool:
        while steps.is_active():
            running |= {pool.submit(compute, step): step for step in steps.get_ready()}
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                try:
                    ended.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
                steps.done(running.pop(ended))
    write()


def compute(step: str) -> None:
    """What is missing of a step, in the home folder in force. Raises `ExplorerError`."""
    if step == "picked":
        for combine, members in PICKED:
            _attack_parts("digits", *_pick(combine, members))
    elif step.startswith("parts of "):
        dataset = step.removeprefix("parts of ")
        for architecture, sha256 in _sampled(dataset):
            _attack_parts(dataset, architecture, sha256)
    else:
        _run("study", "run", step, *_EXACT, "--format", "csv")


def _attack_parts(dataset: str, architecture: str, sha256: str) -> None:
    _run(
        *("ensemble", "attack", architecture, "--weights", sha256, "--gradients"),
        *(*_ENSEMBLE_ATTACKS[dataset], *_EXACT, "--fold", "off", "--channels-last", "off", "--compile", "off"),
        *("--format", "csv"),
    )


def write() -> None:
    """Write what the home folder in force holds into this source tree."""
    from explorer import settings
    from models.weights import bundles, catalogue
    from store import Store, shipping

    where = settings.load()
    store = Store(where.store)
    n = shipping.export_results(store, shipping.FOLDER)
    print(f"{n} evaluations in {shipping.FOLDER}", file=sys.stderr)
    attacked = _not_inside_others(_attacked(store, catalogue.scan([where.weights])))
    _copy_weights([f for f in attacked if f.record.dataset == "digits"], catalogue.shipped_folder() / "digits", where)
    bundles.pack([f for f in attacked if f.record.dataset.startswith("fashion-mnist")], OPTIONAL)
    print(f"{OPTIONAL.stat().st_size / 1e6:.1f} MB in {OPTIONAL}", file=sys.stderr)


def _run(*words: str) -> None:
    from explorer import cli

    print("nasrob-tui", *words, file=sys.stderr, flush=True)
    code = cli.run(words)
    if code != errors.OK:
        raise ExplorerError(f"nasrob-tui {' '.join(words)} ended with {code}.", code)


def _pick(combine: str, members: Iterable[str]) -> tuple[str, str]:
    """Make an ensemble of models that the studies trained; its architecture and SHA-256."""
    from explorer import ensembles, settings
    from explorer.jobs import planning
    from explorer.training import Trainer
    from models.datasets import registry as datasets

    where = settings.load()
    weights = [_trained_with_seed_0(text) for text in members]
    asked = planning.Asked(architectures=tuple(members), weights=weights)
    models = [chosen.model for chosen in planning.resolve_models(asked, datasets.find("digits"), where)]
    made = ensembles.pick(Trainer(where, device="cpu", threads=1), models, "digits", combine, seed=0, tuning={})
    return made.record.architecture, made.record.tensors_sha256


def _trained_with_seed_0(text: str) -> str:
    """The SHA-256 of the weights that the studies on digits made of an architecture, all by one recipe."""
    from explorer import settings
    from models.architectures import registry
    from models.weights import catalogue

    spec = registry.parse_architecture(text, scale="small")
    files = [
        file.record.tensors_sha256
        for file in catalogue.matching(catalogue.scan([settings.load().weights]), spec, "digits")
        if file.record.seed == 0
    ]
    if len(files) != 1:
        raise ExplorerError(f"{len(files)} sets of weights of {spec.canonical} are there, not one.")
    return files[0]


def _sampled(dataset: str) -> list[tuple[str, str]]:
    """The ensembles that the studies trained on a dataset of this name, at any size: architecture and SHA-256."""
    from explorer import settings
    from models.ensembles import composition
    from models.weights import catalogue

    return [
        (file.record.architecture, file.record.tensors_sha256)
        for file in catalogue.scan([settings.load().weights])
        if file.record.dataset.partition("@")[0] == dataset
        and composition.is_ensemble(file.record.architecture)
        and not file.record.architecture.startswith("ensemble-")
    ]


def _attacked(store: Store, files: Iterable[WeightsFile]) -> list[WeightsFile]:
    """The files of models with results."""
    with store.read() as con:
        wanted = {row[0] for row in con.execute("SELECT DISTINCT model_sha256 FROM evaluations").fetchall()}
    return [file for file in files if file.record.tensors_sha256 in wanted]


def _not_inside_others(files: Sequence[WeightsFile]) -> list[WeightsFile]:
    """The files but for those of members that the file of their sampled ensemble holds."""
    inside = {
        str(member["sha256"])
        for file in files
        if not file.record.architecture.startswith("ensemble-")
        for member in file.record.members or ()
    }
    return [file for file in files if file.record.tensors_sha256 not in inside]


def _copy_weights(files: Sequence[WeightsFile], goal: Path, where: Settings) -> None:
    """Copy them, and the definitions of picked ensembles."""
    shutil.rmtree(goal, ignore_errors=True)
    goal.mkdir(parents=True)
    size = 0
    for file in files:
        shutil.copyfile(file.path, goal / file.path.name)
        size += file.path.stat().st_size
    definitions = goal.parent / "definitions"
    shutil.rmtree(definitions, ignore_errors=True)
    definitions.mkdir()
    for file in files:
        name = file.record.architecture.partition("@")[0]
        if name.startswith("ensemble-"):
            shutil.copyfile(where.home / "definitions" / f"{name}.json", definitions / f"{name}.json")
    print(f"{len(list(goal.iterdir()))} files of weights, {size / 1e6:.1f} MB, in {goal}", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m explorer.precomputing HOME")
    try:
        main(Path(sys.argv[1]).expanduser().absolute())
    except (ExplorerError, KeyboardInterrupt) as error:
        print(str(error) or "interrupted: run this again to go on", file=sys.stderr)
        sys.exit(errors.exit_code_of(error))
