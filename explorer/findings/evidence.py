"""What the store holds on the claims: printed rows and complete evaluations, each with the group it belongs to.

Not used are transfers (an attack crafted on another model), norms other than L-inf, evaluations that are not complete
or wait to replace another; and, counted, models trained on adversarial examples and evaluations of a model behind
another normalisation than its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from explorer.findings.designs import Training, scale_of, training_of
from explorer.findings.model import Source

if TYPE_CHECKING:
    from explorer.findings.rules import Rules
    from store.connection import Store

#: Seconds that the paired comparisons of the best may take.
PATIENCE = 600.0


@dataclass(frozen=True)
class Result:
    """A robust accuracy in percent: a printed row, or an evaluation of one model."""

    source: Source
    table: str | None
    row: int | None
    dataset: str
    dataset_id: str | None
    subset: str | None
    n_examples: int | None
    image_side: int | None
    attack_name: str
    attack: str
    attack_id: str | None
    eps: str
    eps_value: float
    threat_space: str
    top_k: int
    architecture: str
    architecture_id: str
    #: The architecture without the options that say its size.
    topology: str
    #: Those options; empty where there are none, and of printed rows.
    scale: str
    #: The recipe; of an ensemble that of its members. None where it is not known, and of printed rows.
    training: Training | None
    #: Line of designs: the lineage, or the cell alone where it was drawn from a space.
    line: str
    lineage: str
    #: handcrafted, searched, random, ensemble, or empty: in none of the claims' groups.
    group: str
    #: Whether it is an ensemble of any kind, picked ones too.
    ensemble: bool
    params: int | None
    clean: float | None
    robust: float
    #: Top-5 accuracies of an evaluation, where its outcomes say them.
    clean_top5: float | None
    robust_top5: float | None
    robust_std: float | None
    runs: int | None
    model: str
    evaluation_id: str | None
    engine_revision: int | None
    n_warnings: int
    citation: str


@dataclass(frozen=True)
class Evidence:
    """Everything that can speak for or against a claim."""

    published: tuple[Result, ...]
    measured: tuple[Result, ...]
    #: Evaluations of models trained on adversarial examples.
    left_out: tuple[Result, ...]
    #: Evaluations of single members of sampled ensembles.
    members: tuple[Result, ...]
    attacks: Mapping[str, Mapping[str, Any]]
    #: Top-k of the published tables, by dataset.
    top_k: Mapping[str, int]
    #: Evaluations of models behind a normalisation with which they are less accurate than with another.
    misnormalised: tuple[Result, ...] = ()


_PUBLISHED = """
    SELECT r.table_label, r.row_number, r.dataset, r.architecture, r.family, r.lineage, r.params_m, r.top_k, r.attack,
        r.steps, r.eps_text, r.eps, r.clean_accuracy, r.robust_accuracy, r.robust_std, r.runs, p.threat_space,
        p.citation
    FROM published_results AS r JOIN publications AS p USING (publication_id)
    WHERE publication_id = ? AND list_contains(?, r.attack) AND r.robust_accuracy IS NOT NULL
    ORDER BY r.table_label, r.row_number, r.attack
"""

#: Of several normalisations of a model the one with which it is most accurate on the same examples without attack is
#: the one that it was trained with, under every attack. Of several evaluations that then differ only in precision or in
#: the revision of the engine the latest rules count.
_MEASURED = """
    WITH usable AS (
        SELECT m.*, e.subset_digest, d.image_shape, json_extract(k.config, 'surrogate') IS NULL AS direct,
            concat(e.preprocessing -> 'mean', ' ', e.preprocessing -> 'std') AS normalisation
        FROM measured AS m
        JOIN evaluations AS e USING (evaluation_id)
        JOIN attacks AS k ON k.attack_id = m.attack_id
        LEFT JOIN datasets AS d ON d.dataset_id = m.dataset_id
        WHERE m.status = 'complete' AND NOT m.staging AND m.architecture IS NOT NULL
            AND ($dataset::TEXT IS NULL OR m.dataset = $dataset OR m.dataset_id = $dataset)
    ),
    own AS (
        SELECT model_sha256, architecture_id, dataset_id, subset_digest, normalisation
        FROM usable
        GROUP BY model_sha256, architecture_id, dataset_id, subset_digest, normalisation
        QUALIFY row_number() OVER (
            PARTITION BY model_sha256, architecture_id, dataset_id, subset_digest
            ORDER BY max(clean_accuracy) DESC NULLS LAST, count(*) DESC, normalisation
        ) = 1
    )
    SELECT u.*, o.normalisation IS NOT NULL AS own_normalisation
    FROM usable AS u
    LEFT JOIN own AS o USING (model_sha256, architecture_id, dataset_id, subset_digest, normalisation)
    WHERE u.direct AND u.norm = 'Linf' AND u.robust_accuracy IS NOT NULL AND list_contains($attacks, u.attack)
    QUALIFY row_number() OVER (
        PARTITION BY u.model_sha256, u.architecture_id, u.dataset_id, u.subset_digest, u.attack_id, u.normalisation
        ORDER BY u.engine_revision DESC, u."precision" = 'float32' DESC, u.updated_at DESC, u.evaluation_id
    ) = 1
    ORDER BY u.dataset, u.attack, u.eps_value, u.architecture_id, u.evaluation_id
"""


def gather(store: Store, rules: Rules, attacks: list[str], dataset: str | None = None) -> Evidence:
    """Read it all in one short visit; `dataset`, a name or an identity, leaves out the others."""
    publication, groups = rules.publication, rules.groups
    with store.read() as con:
        printed = con.sql(_PUBLISHED, params=[publication, attacks]).to_arrow_table().to_pylist()
        found = con.sql(_MEASURED, params={"attacks": attacks, "dataset": dataset}).to_arrow_table().to_pylist()
        configs = dict(con.execute("SELECT attack_id, config FROM attacks").fetchall())
        recipes = con.execute("SELECT model_sha256, architecture_id, recipe FROM models").fetchall()
        members = con.execute(_MEMBERS).fetchall()
    by_model = {(sha, architecture): json.loads(recipe) if recipe else None for sha, architecture, recipe in recipes}
    adversarial = {model for model, recipe in by_model.items() if _adversarial(recipe)}
    shas = {sha for sha, _ in adversarial}
    adversarial |= {(sha, architecture) for sha, architecture, member, _ in members if member in shas}
    # The small members of a sampled ensemble are no random networks of their own: they stand in it already.
    sampled = {
        (member, member_architecture)
        for _, architecture, member, member_architecture in members
        if _like(architecture.partition("@")[0], groups["random_ensembles"])
    }
    kept: list[Result] = []
    left_out: list[Result] = []
    parts: list[Result] = []
    misnormalised: list[Result] = []
    for row in found:
        model = (row["model_sha256"], row["architecture_id"])
        result = _measured(row, rules, training_of(by_model.get(model)))
        place = left_out if model in adversarial else parts if model in sampled else kept
        (place if row["own_normalisation"] else misnormalised).append(result)
    published = tuple(
        _published(row, groups)
        for row in printed
        if dataset is None or row["dataset"] == dataset or dataset.startswith(f"{row['dataset']}/")
    )
    top_k = {row["dataset"]: int(row["top_k"]) for row in printed}
    attacks_read = {name: json.loads(config) for name, config in configs.items()}
    return Evidence(published, tuple(kept), tuple(left_out), tuple(parts), attacks_read, top_k, tuple(misnormalised))


_MEMBERS = "SELECT model_sha256, architecture_id, member_sha256, member_architecture_id FROM ensemble_members"


def _adversarial(recipe: Any) -> bool:
    """Whether a recipe, or one inside it, such as that of a member, has an adversary."""
    if isinstance(recipe, Mapping):
        return recipe.get("adversary", "none") not in (None, "", "none") or any(map(_adversarial, recipe.values()))
    return isinstance(recipe, list) and any(map(_adversarial, recipe))


def group_of(name: str, family: str, lineage: str, groups: Mapping[str, list[str]]) -> str:
    """The group of the claims that an architecture belongs to; empty for none."""
    if _is_ensemble(family, lineage):
        return "ensemble" if _like(name, groups["random_ensembles"]) else ""
    if lineage in groups["random_lineages"]:
        return "random"
    if family == "nas":
        return "" if _like(name, groups["not_searched"]) else "searched"
    return "handcrafted" if family == "handcrafted" else ""


def _is_ensemble(family: str, lineage: str) -> bool:
    return family == "ensemble" or lineage.endswith("-ensemble")


def _like(name: str, patterns: list[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _published(row: Mapping[str, Any], groups: Mapping[str, list[str]]) -> Result:
    return Result(
        source="published",
        table=row["table_label"],
        row=row["row_number"],
        dataset=row["dataset"],
        dataset_id=None,
        subset=None,
        n_examples=None,
        image_side=None,
        attack_name=row["attack"],
        attack=_label(row["attack"], row["steps"], 1),
        attack_id=None,
        eps=row["eps_text"],
        eps_value=row["eps"],
        threat_space=row["threat_space"],
        top_k=row["top_k"],
        architecture=row["architecture"],
        architecture_id=row["architecture"],
        topology=row["architecture"],
        scale="",
        training=None,
        line=row["lineage"] or row["architecture"],
        lineage=row["lineage"] or row["architecture"],
        group=group_of(row["architecture"], row["family"], row["lineage"] or "", groups),
        ensemble=_is_ensemble(row["family"], row["lineage"] or ""),
        params=round(row["params_m"] * 1e6) if row["params_m"] is not None else None,
        clean=row["clean_accuracy"],
        robust=row["robust_accuracy"],
        clean_top5=None,
        robust_top5=None,
        robust_std=row["robust_std"],
        runs=row["runs"],
        model=row["architecture"],
        evaluation_id=None,
        engine_revision=None,
        n_warnings=0,
        citation=row["citation"],
    )


def _measured(row: Mapping[str, Any], rules: Rules, training: Training | None) -> Result:
    topology, scale = scale_of(row["architecture_id"], rules.options)
    sides = [int(side) for side in (row["image_shape"] or "").split("x")[1:] if side.isdigit()]
    return Result(
        source="measured",
        table=None,
        row=None,
        dataset=row["dataset"] or row["dataset_id"],
        dataset_id=row["dataset_id"],
        subset=row["subset_digest"],
        n_examples=row["n_examples"],
        image_side=max(sides, default=None),
        attack_name=row["attack"],
        attack=_label(row["attack"], row["steps"], row["restarts"]),
        attack_id=row["attack_id"],
        eps=row["eps"],
        eps_value=row["eps_value"],
        threat_space=row["threat_space"],
        top_k=1,
        architecture=row["architecture"],
        architecture_id=row["architecture_id"],
        topology=topology,
        scale=scale,
        training=training,
        line=topology if _like(row["lineage"], rules.groups["own_lines"]) else row["lineage"],
        lineage=row["lineage"],
        group=group_of(row["architecture"], row["family"], row["lineage"], rules.groups),
        ensemble=_is_ensemble(row["family"], row["lineage"]),
        params=row["params"],
        clean=row["clean_accuracy"],
        robust=row["robust_accuracy"],
        clean_top5=row["clean_top5_accuracy"],
        robust_top5=row["robust_top5_accuracy"],
        robust_std=None,
        runs=None,
        model=row["model_sha256"],
        evaluation_id=row["evaluation_id"],
        engine_revision=row["engine_revision"],
        n_warnings=row["n_warnings"],
        citation="",
    )


def _label(name: str, steps: int | None, restarts: int | None) -> str:
    return name + (f"-{steps}" if (steps or 1) > 1 else "") + (f"x{restarts}" if (restarts or 1) > 1 else "")


def paired_counts(store: Store, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The macro `paired` on every pair of evaluations, in their order; figures are None where there are none."""
    if not pairs:
        return []
    from store import run_query

    def quoted(identity: str) -> str:
        return "'" + identity.replace("'", "''") + "'"

    asked = " UNION ALL ".join(
        f"SELECT {i} AS place, * FROM paired({quoted(a)}, {quoted(b)})" for i, (a, b) in enumerate(pairs)
    )
    table = run_query(store, f"SELECT * FROM ({asked}) ORDER BY place", max_rows=None, timeout=PATIENCE).table
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
