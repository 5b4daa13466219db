"""Ensembles as a person works with them: picked from models, taken apart for attacks, and looked into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.errors import ExplorerError
from explorer.jobs.request import Request, RequestedModel
from models.architectures import registry as architectures
from models.architectures.wording import short
from models.attacks import registry as attacks
from models.datasets import registry as datasets
from models.datasets.registry import Dataset
from models.ensembles import composition, parts
from models.errors import InvalidSpec, ModelsError, WeightsError
from models.specs import AttackSpec, Surrogate, Verdict
from models.weights import catalogue

if TYPE_CHECKING:
    from explorer.training import Trained, Trainer
    from models.weights.files import LoadedModel
    from store.connection import Store

#: What the whole is called among the parts of an ensemble.
WHOLE = "whole"


@dataclass(frozen=True)
class Part:
    """A part of an ensemble as a model: `whole`, or a member by its position."""

    label: str
    model: RequestedModel


def parts_of(model: RequestedModel, files: Sequence[catalogue.WeightsFile] = ()) -> list[Part]:
    """The whole and its members, each as a model of its own: with its own file where that is among `files`, else out of
    the ensemble's.

    Raises `WeightsError` when the file does not say which its members are, or none of them stands alone.
    """
    spec = architectures.parse_architecture(model.architecture)
    made_of = composition.of(spec)
    parts.check(made_of, range(len(made_of.members)), model.architecture)
    record = catalogue.read_record(Path(model.weights))
    if record is None or not record.members or len(record.members) != len(made_of.members):
        raise WeightsError(f"{model.weights} does not say which members it has: make the ensemble again.")
    found = [Part(WHOLE, model)]
    for i, (member, about) in enumerate(zip(made_of.members, record.members, strict=True)):
        normal = member.preprocessing
        mean, std = (normal.mean, normal.std) if normal is not None else (model.mean, model.std)
        own = [
            f.path
            for f in files
            if (f.record.tensors_sha256, f.record.architecture) == (about["sha256"], member.architecture)
        ]
        weights = str(own[0]) if own else parts.name(model.weights, [i])
        found.append(Part(str(i), RequestedModel(member.architecture, weights, str(about["sha256"]), mean, std)))
    return found


def subset_of(model: RequestedModel, positions: Sequence[int], dataset: str) -> Part:
    """Some members of an ensemble as a model. Reads the file, and so imports torch."""
    from models.ensembles import assembling
    from models.weights.files import load_model

    whole = load_model(
        Path(model.weights), architectures.parse_architecture(model.architecture), datasets.find(dataset)
    )
    part = assembling.part_of(whole, positions)
    normal = part.preprocessing
    weights = parts.name(model.weights, positions)
    chosen = RequestedModel(part.architecture.canonical, weights, part.sha256, normal.mean, normal.std)
    return Part("+".join(map(str, positions)), chosen)


def with_members(request: Request, files: Sequence[catalogue.WeightsFile] = ()) -> Request:
    """The same request with the members of every ensemble in it, each attacked alone. An ensemble whose members were
    trained as one has none.
    """
    models: list[RequestedModel] = []
    for model in request.models:
        models += [part.model for part in parts_of(model, files)] if _has_members(model) else [model]
    return replace(request, models=tuple(dict.fromkeys(models)))


def _has_members(model: RequestedModel) -> bool:
    """Whether a model is an ensemble of members that stand alone."""
    if not composition.is_ensemble(model.architecture):
        return False
    return not composition.of(architectures.parse_architecture(model.architecture)).joint


def transfers(
    request: Request, files: Sequence[catalogue.WeightsFile] = (), *, verdict: Verdict = "last"
) -> list[Request]:
    """For every ensemble of a request, its attacks made on each part and judged on each other part.

    A cascade and an attack without gradients of its own cannot be made on another model: they are left out.
    """
    found = []
    for model in request.models:
        if composition.is_ensemble(model.architecture):
            everybody = parts_of(model, files)
            for source in everybody:
                targets = tuple(part.model for part in everybody if part is not source)
                if specs := crafted_on(source.model, request.attacks, verdict=verdict):
                    found.append(replace(request, models=targets, attacks=specs))
    return found


def crafted_on(
    source: RequestedModel, specs: Sequence[AttackSpec], *, verdict: Verdict = "last"
) -> tuple[AttackSpec, ...]:
    """Those of the attacks that can be made on another model, made on `source` and judged by `verdict`."""
    if source.sha256 is None:
        raise WeightsError(f"the weights of {source.architecture} have no record yet: take them in with `weights add`.")
    other = Surrogate(source.architecture, source.sha256, source.mean, source.std, source.weights)
    return tuple(
        replace(spec, surrogate=other, verdict=verdict)
        for spec in specs
        if not spec.stages and attacks.find(spec.name).transfers
    )


# -- picking -----------------------------------------------------------------------------------------------------------


def pick(
    trainer: Trainer,
    models: Sequence[RequestedModel],
    dataset: str,
    combine: str,
    *,
    seed: int,
    tuning: dict[str, Any],
    width: int | None = None,
) -> Trained:
    """An ensemble of trained models, written beside the others; its combiner is tuned where it has one.

    `seed`, `tuning` and `width` are those of the combiner. Raises `InvalidSpec` for a rule that trains all parts
    together, a seed out of range and models of another dataset's labels, `ExplorerError` for models that are one.
    """
    from explorer.training import Order, check_seed
    from models.ensembles import assembling
    from models.specs import Preprocessing, digest
    from models.weights import sources

    if combine not in composition.RULES:
        raise InvalidSpec(f"combine is one of {', '.join(composition.RULES)}, not {combine!r}.")
    if combine in composition.JOINT:
        raise InvalidSpec(
            f"{combine} trains all members together, so nothing that is trained can be picked for it: "
            "use `nasrob-tui ensemble train`."
        )
    check_seed(seed)
    entry = datasets.find(dataset)
    loaded: list[LoadedModel] = [
        sources.load(
            model.weights,
            architectures.parse_architecture(model.architecture),
            entry,
            preprocessing=Preprocessing(model.mean, model.std),
        )
        for model in models
    ]
    if len({(member.sha256, member.architecture, member.preprocessing) for member in loaded}) < len(loaded):
        raise ExplorerError("the same model is picked twice: its votes would count double.")
    for member in loaded:
        _check_labels(member, entry)
    spec = assembling.pick(loaded, combine, width=width)
    # Without a combiner there is nothing that a seed or a recipe decides.
    learned = composition.of(spec).learned
    order = Order(spec, entry.name, seed=seed if learned else 0, combiner=tuning if learned else {})
    which = digest(
        [
            spec.canonical,
            order.seed,
            order.tuning().to_dict(),
            [[member.sha256, member.preprocessing.mean, member.preprocessing.std] for member in loaded],
        ]
    )
    path = trainer.settings.weights / entry.slug / f"{spec.canonical}-{which[:8]}.safetensors"
    return trainer.recalled(order, loaded, path) or trainer.combine(order, loaded, path)


def _check_labels(member: LoadedModel, dataset: Dataset) -> None:
    """Raise `InvalidSpec` for a model that was made for the labels of another dataset, where it says for which."""
    made_for = member.record.dataset if member.record is not None else dataset.name
    try:
        fits = datasets.find(made_for).labels_of == dataset.labels_of
    except ModelsError:
        fits = False
    if not fits:
        raise InvalidSpec(
            f"{member.architecture.canonical} in {member.path} was made for {short(made_for)}, not for {dataset.name}: "
            "pick models of one dataset, and name it with --dataset."
        )


# -- looking into ------------------------------------------------------------------------------------------------------

#: Table macros over one evaluation of an ensemble, by what they tell.
_MACROS = {
    "summary": "ensemble_summary",
    "parts": "ensemble_parts",
    "agreement": "ensemble_agreement",
    "cosines": "member_cosines",
    "transfers": "transfer_matrix",
    "lost_by_all": "lost_by_all",
}


def look_into(store: Store, evaluation_id: str) -> dict[str, list[dict[str, Any]]]:
    """What the store can tell of one evaluation of an ensemble, by `summary`, `parts`, `agreement`, `cosines`,
    `transfers` and `lost_by_all`: rows of the macros of these names.
    """
    with store.read() as con:
        return {
            key: con.sql(f"FROM {macro}($1)", params=[evaluation_id]).to_arrow_table().to_pylist()
            for key, macro in _MACROS.items()
        }


def evaluations_of(store: Store, architecture: str | None = None, dataset: str | None = None) -> list[dict[str, Any]]:
    """Complete evaluations of ensembles under attacks made on themselves, the latest first."""
    with store.read() as con:
        rows: list[dict[str, Any]] = (
            con.sql(
                """
                SELECT r.*, t.steps, t.restarts, t.threat_space, t.updated_at
                FROM ensemble_results AS r
                JOIN tradeoff AS t USING (evaluation_id)
                JOIN attacks AS k ON k.attack_id = r.attack_id
                WHERE ($1 IS NULL OR r.architecture_id = $1 OR r.architecture = $1) AND ($2 IS NULL OR r.dataset = $2)
                    AND json_extract(k.config, 'surrogate') IS NULL
                ORDER BY t.updated_at DESC, evaluation_id
                """,
                params=[architecture, dataset],
            )
            .to_arrow_table()
            .to_pylist()
        )
    return rows


def measure_cosines(store: Store, model: RequestedModel, request: Request, device: str) -> int:
    """Measure the angles between the members' gradients on a request's examples and store them; returns how many
    examples were looked at. Imports torch.
    """
    import pyarrow as pa

    from models import devices
    from models.ensembles import gradients
    from models.specs import Preprocessing
    from models.weights import sources
    from store import results

    entry = datasets.find(request.dataset)
    examples = datasets.load(request.dataset, request.split, root=request.root)
    indices = [int(i) for i in examples.subset(request.examples)]
    found = [part for part in parts_of(model) if part.label != WHOLE]
    members = [
        sources.load(
            part.model.weights,
            architectures.parse_architecture(part.model.architecture),
            entry,
            preprocessing=Preprocessing(part.model.mean, part.model.std),
        )
        for part in found
    ]
    rows = [
        {
            "dataset_id": examples.identifier,
            "example": cosine.example,
            "model_sha256_a": members[cosine.a].sha256,
            "architecture_id_a": members[cosine.a].architecture.canonical,
            "model_sha256_b": members[cosine.b].sha256,
            "architecture_id_b": members[cosine.b].architecture.canonical,
            "cosine": cosine.cosine,
        }
        for batch in gradients.cosines(
            [member.classifier for member in members], examples, indices, device=devices.choose(device)
        )
        for cosine in batch
    ]
    results.save_gradient_cosines(store, pa.Table.from_pylist(rows))
    return len(indices)
