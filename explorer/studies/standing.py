"""Where a study stands: which of its weights and evaluations are here. Nothing is trained, attacked or written."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from explorer.jobs import planning
from explorer.jobs.planning import Asked
from explorer.jobs.request import Request
from explorer.studies.definition import PUBLISHED, TRAINED
from explorer.studies.expansion import Expansion, Place, StudyModel, check_size
from explorer.training import Order
from models.datasets import registry as datasets
from models.errors import DataError, ModelsError, WeightsError
from models.specs import AttackSpec
from models.weights import catalogue
from models.weights.catalogue import WeightsFile

#: Where a model stands: its weights are here, are still to be trained, are fetched when they are first used, or only
#: a person can bring them.
WeightsState = Literal["here", "to train", "to fetch", "needed", "no data"]


@dataclass(frozen=True)
class Found:
    """An evaluation of the study: what the store knows of it. `status` None: nothing."""

    evaluation_id: str
    attack: AttackSpec
    status: str | None
    n_done: int = 0
    n_requested: int = 0


@dataclass(frozen=True)
class ModelState:
    """A model of the study with its weights and evaluations as they are. `problem` says why nothing can be done."""

    model: StudyModel
    weights: WeightsState
    file: Path | None
    #: Ready to be run, one a threat space; empty while there are no weights.
    requests: tuple[Request, ...]
    #: Empty where the identity of the model is not known yet.
    evaluations: tuple[Found, ...]
    problem: str | None = None

    @property
    def is_to_train(self) -> bool:
        """Whether the study has to train it, now or once the data are here."""
        return self.weights == "to train" or (self.weights == "no data" and self.model.order is not None)

    @property
    def n_complete(self) -> int:
        return sum(one.status == "complete" for one in self.evaluations)


def look(expansion: Expansion, place: Place) -> list[ModelState]:
    """Where every model and evaluation of a study stands.

    Raises `ExplorerError` for more examples than a dataset has, which only the files of some tell.
    """
    _check_sizes(expansion, place)
    files = catalogue.scan(place.settings.weights_folders)
    states = [_look(model, expansion, place, files) for model in expansion.models]
    wanted = [one.evaluation_id for state in states for one in state.evaluations]
    known = _known(place, wanted)
    return [
        replace(
            state,
            evaluations=tuple(
                replace(one, **known[one.evaluation_id]) if one.evaluation_id in known else one
                for one in state.evaluations
            ),
        )
        for state in states
    ]


def _check_sizes(expansion: Expansion, place: Place) -> None:
    if expansion.study.examples is None:
        return
    for name in dict.fromkeys(model.dataset for model in expansion.models):
        dataset = datasets.find(name)
        if dataset.split_named("test") in dataset.sizes:
            continue  # the study was refused already
        with contextlib.suppress(DataError):
            test = datasets.load(name, "test", root=place.data_root, download=place.download)
            check_size(expansion.study, name, len(test))


def look_again(model: StudyModel, expansion: Expansion, place: Place) -> ModelState:
    """Where one model stands now, say after its training."""
    return look(replace(expansion, models=(model,)), place)[0]


def _look(model: StudyModel, expansion: Expansion, place: Place, files: list[WeightsFile]) -> ModelState:
    try:
        if model.order is not None:
            trained = _trained(model.order, place, files)
            if trained is None:
                datasets.load(model.dataset, "test", root=place.data_root, download=place.download)
                return ModelState(model, "to train", None, (), ())
            weights, here = str(trained), "here"
        else:
            named = _weights_of(model, files)
            if named is None:
                return ModelState(model, "needed", None, (), (), model.weights_needed)
            weights, here = named, "here" if Path(named).expanduser().exists() else "to fetch"
        requests = tuple(requests_for(model, weights, expansion, place))
    except DataError as error:
        return ModelState(model, "no data", None, (), (), str(error))
    except ModelsError as error:
        return ModelState(model, "needed", None, (), (), str(error))
    sha256 = requests[0].models[0].sha256 or _sha256_of(place, requests[0])
    found: tuple[Found, ...] = ()
    if sha256 is not None:
        found = tuple(
            Found(request.evaluation(request.models[0], attack, sha256).identity, attack, None)
            for request in requests
            for attack in request.attacks
        )
    state: WeightsState = "here" if here == "here" or sha256 is not None else "to fetch"
    return ModelState(model, state, Path(weights) if here == "here" else None, requests, found)


def _trained(order: Order, place: Place, files: list[WeightsFile]) -> Path | None:
    """The weights of a training that was done here, or that ships: its file has the name of the order's identity."""
    trained = place.trainer().existing(order)
    if trained is not None:
        return trained.path
    fingerprint = datasets.load(order.dataset, "train", root=place.data_root).fingerprint
    name = order.path(place.settings, fingerprint).name
    same = (order.architecture.canonical, order.seed, fingerprint)
    for file in files:
        record = file.record
        if file.path.name == name and (record.architecture, record.seed, record.dataset_fingerprint) == same:
            return file.path
    return None


def _weights_of(model: StudyModel, files: list[WeightsFile]) -> str | None:
    """What `--weights` takes for a model that the study does not train; None where only a person can bring it."""
    if model.weights not in (TRAINED, PUBLISHED) and (model.weights_needed is None):
        return model.weights
    key = re.sub(r"[^a-z0-9]", "", model.label.lower())
    fitting = [
        file
        for file in files
        if file.record.dataset.partition("@")[0] == model.dataset.partition("@")[0]
        and file.record.origin != "trained"
        and (
            file.record.architecture == model.architecture
            or re.sub(r"[^a-z0-9]", "", (file.record.name or "").lower()) == key
        )
    ]
    if len({file.record.tensors_sha256 for file in fitting}) > 1:
        choices = ", ".join(file.record.tensors_sha256[:12] for file in fitting)
        raise WeightsError(
            f"several weights fit {model.label} ({choices}): choose with --weights {model.label}=SHA256."
        )
    return str(fitting[0].path) if fitting else None


def requests_for(model: StudyModel, weights: str, expansion: Expansion, place: Place) -> Iterator[Request]:
    """The requests for one model with its weights, one a threat space; the same path as `nasrob-tui eval`."""
    study, engine = expansion.study, expansion.study.engine
    for space, attacks in expansion.attacks.items():
        asked = Asked(
            architectures=(model.architecture,) if model.spec is not None else (),
            weights=(weights,),
            datasets=(model.dataset,),
            attacks=("pgd",),
            threat_space=space,
            examples=study.examples,
            device=place.device,
            threads=place.threads,
            slots=engine.slots,
            precision=engine.precision,
            compile=engine.compile,
            channels_last=engine.channels_last,
            fold=engine.fold,
            data_root=str(place.data_root) if place.data_root else None,
            download=place.download,
        )
        (request,) = planning.plan(asked, place.settings)
        # The attacks are resolved once for the whole study, each with its own eps.
        yield replace(request, attacks=attacks)


def _sha256_of(place: Place, request: Request) -> str | None:
    """The identity of a package's weights, where the store has met them before."""
    from store import Store
    from store.errors import StoreNotFound

    model = request.models[0]
    try:
        with Store(place.settings.store).read() as connection:
            rows = connection.execute(
                "SELECT model_sha256 FROM models WHERE architecture_id = ? AND weights_path = ?",
                [model.architecture, model.weights],
            ).fetchall()
    except StoreNotFound:
        return None
    return str(rows[0][0]) if len(rows) == 1 else None


def _known(place: Place, identities: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the store knows of evaluations, by identity."""
    from store import Store
    from store.errors import StoreNotFound

    try:
        with Store(place.settings.store).read() as connection:
            rows = connection.execute(
                "SELECT evaluation_id, status, n_done, n_requested FROM evaluations "
                "WHERE NOT staging AND evaluation_id IN (SELECT unnest(?))",
                [list(dict.fromkeys(identities))],
            ).fetchall()
    except StoreNotFound:
        return {}
    return {row[0]: {"status": row[1], "n_done": row[2], "n_requested": row[3]} for row in rows}
