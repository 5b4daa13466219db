"""What the store holds on the claims: printed rows and complete evaluations, each with the group it belongs to.

Not used are transfers (an attack crafted on another model), norms other than L-inf, evaluations that are not complete
or wait to replace another, and models trained on adversarial examples, which are counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from explorer.findings.model import Source

if TYPE_CHECKING:
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
    lineage: str
    #: handcrafted, searched, random, ensemble, or empty: in none of the claims' groups.
    group: str
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
    unknown_recipe: bool
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


_PUBLISHED = """
    SELECT r.table_label, r.row_number, r.dataset, r.architecture, r.family, r.lineage, r.params_m, r.top_k, r.attack,
        r.steps, r.eps_text, r.eps, r.clean_accuracy, r.robust_accuracy, r.robust_std, r.runs, p.threat_space,
        p.citation
    FROM published_results AS r JOIN publications AS p USING (publication_id)
    WHERE publication_id = ? AND list_contains(?, r.attack) AND r.robust_accuracy IS NOT NULL
    ORDER BY r.table_label, r.row_number, r.attack
"""

#: Of several evaluations that differ only in precision or in the revision of the engine the latest rules count.
_MEASURED = """
    SELECT m.*, e.subset_digest, d.image_shape
    FROM measured AS m
    JOIN evaluations AS e USING (evaluation_id)
    JOIN attacks AS k ON k.attack_id = m.attack_id
    LEFT JOIN datasets AS d ON d.dataset_id = m.dataset_id
    WHERE m.status = 'complete' AND NOT m.staging AND m.norm = 'Linf' AND m.robust_accuracy IS NOT NULL
        AND m.architecture IS NOT NULL AND list_contains($attacks, m.attack)
        AND json_extract(k.config, 'surrogate') IS NULL
        AND ($dataset::TEXT IS NULL OR m.dataset = $dataset OR m.dataset_id = $dataset)
    QUALIFY row_number() OVER (
        PARTITION BY m.model_sha256, m.architecture_id, m.dataset_id, e.subset_digest, m.attack_id
        ORDER BY m.engine_revision DESC, m."precision" = 'float32' DESC, m.updated_at DESC, m.evaluation_id
    ) = 1
    ORDER BY m.dataset, m.attack, m.eps_value, m.architecture_id, m.evaluation_id
"""


def gather(
    store: Store, publication: str, attacks: list[str], groups: Mapping[str, list[str]], dataset: str | None = None
) -> Evidence:
    """Read it all in one short visit; `dataset`, a name or an identity, leaves out the others."""
    with store.read() as con:
        printed = con.execute(_PUBLISHED, [publication, attacks]).to_arrow_table().to_pylist()
        found = con.execute(_MEASURED, {"attacks": attacks, "dataset": dataset}).to_arrow_table().to_pylist()
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
    for row in found:
        model = (row["model_sha256"], row["architecture_id"])
        result = _measured(row, groups, unknown_recipe=by_model.get(model) is None)
        (left_out if model in adversarial else parts if model in sampled else kept).append(result)
    published = tuple(
        _published(row, groups)
        for row in printed
        if dataset is None or row["dataset"] == dataset or dataset.startswith(f"{row['dataset']}/")
    )
    top_k = {row["dataset"]: int(row["top_k"]) for row in printed}
    attacks_read = {name: json.loads(config) for name, config in configs.items()}
    return Evidence(published, tuple(kept), tuple(left_out), tuple(parts), attacks_read, top_k)


_MEMBERS = "SELECT model_sha256, architecture_id, member_sha256, member_architecture_id FROM ensemble_members"


def _adversarial(recipe: Any) -> bool:
    """Whether a recipe, or one inside it, such as that of a member, has an adversary."""
    if isinstance(recipe, Mapping):
        return recipe.get("adversary", "none") not in (None, "", "none") or any(map(_adversarial, recipe.values()))
    return isinstance(recipe, list) and any(map(_adversarial, recipe))


def group_of(name: str, family: str, lineage: str, groups: Mapping[str, list[str]]) -> str:
    """The group of the claims that an architecture belongs to; empty for none."""
    if family == "ensemble" or lineage.endswith("-ensemble"):
        return "ensemble" if _like(name, groups["random_ensembles"]) else ""
    if lineage in groups["random_lineages"]:
        return "random"
    if family == "nas":
        return "" if _like(name, groups["not_searched"]) else "searched"
    return "handcrafted" if family == "handcrafted" else ""


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
        lineage=row["lineage"] or row["architecture"],
        group=group_of(row["architecture"], row["family"], row["lineage"] or "", groups),
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
        unknown_recipe=False,
        citation=row["citation"],
    )


def _measured(row: Mapping[str, Any], groups: Mapping[str, list[str]], *, unknown_recipe: bool) -> Result:
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
        lineage=row["lineage"],
        group=group_of(row["architecture"], row["family"], row["lineage"], groups),
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
        unknown_recipe=unknown_recipe,
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
