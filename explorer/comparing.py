"""Evaluations beside each other, from the outcomes of the same examples: what the store's macros say, and when they may
not be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explorer.errors import ExplorerError

if TYPE_CHECKING:
    from store.connection import Store

#: Seconds that a bootstrap may take.
PATIENCE = 600.0


@dataclass(frozen=True)
class Filters:
    """What tells the evaluations of an architecture apart: attack (`pgd` or `pgd-10 8/255`) and dataset."""

    attack: str | None = None
    dataset: str | None = None


def find(store: Store, texts: Sequence[str], filters: Filters = Filters()) -> list[dict[str, Any]]:
    """The evaluations that are meant, as rows of `measured` with the attack's `label`.

    A text is an identity, an unambiguous beginning of one, or an architecture of which one complete evaluation passes
    the filters. Raises `ExplorerError` or `EvaluationNotFound`.
    """
    from models.specs import AttackSpec
    from store import results

    rows = results.evaluation_rows(store, [_identity(store, text, filters) for text in texts])
    return [{**row, "label": AttackSpec.from_dict(row["attack"]).label} for row in rows]


def _identity(store: Store, text: str, filters: Filters) -> str:
    from models.specs import AttackSpec
    from store import results

    with store.read() as connection:
        known = connection.execute(
            "SELECT evaluation_id FROM measured WHERE NOT staging AND (architecture = $1 OR architecture_id = $1)",
            [text],
        ).fetchall()
    if not known:
        if not text:
            raise ExplorerError("an evaluation has an identity: `nasrob-tui tradeoff --format json` lists them.")
        return results.find_evaluation(store, text)
    fitting = []
    for row in results.evaluation_rows(store, [identity for (identity,) in known]):
        label = AttackSpec.from_dict(row["attack"]).label
        of_attack = filters.attack in (None, row["attack_name"], label)
        if row["status"] == "complete" and of_attack and filters.dataset in (None, row["dataset"], row["dataset_id"]):
            fitting.append(f"{row['evaluation_id']} ({row['architecture_id']}, {label}, {row['dataset_id']})")
    if len(fitting) == 1:
        return fitting[0].partition(" ")[0]
    if not fitting:
        raise ExplorerError(f"no complete evaluation of {text} is of that attack and dataset.")
    some = "; ".join(fitting[:6]) + ("; ..." if len(fitting) > 6 else "")
    raise ExplorerError(
        f"there are {len(fitting)} complete evaluations of {text}: {some}. Choose with --attack and --dataset, or name "
        "one by the beginning of its identity."
    )


def paired(store: Store, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The macros `paired` and `paired_bootstrap` on two evaluations of `find`, and the robust accuracies over the
    examples that both have. Raises `ExplorerError` where the two cannot be compared.
    """
    _require_comparable([a, b])
    identities = f"{_quoted(a)}, {_quoted(b)}"
    found = _one(store, f"FROM paired({identities})")
    n = found["n_examples"]
    if not n:
        raise ExplorerError(f"{_named(a)} and {_named(b)} have no example in common: nothing can be compared.")
    interval = _one(store, f"SELECT difference_low, difference_high FROM paired_bootstrap({identities})")
    return {
        **found,
        **interval,
        "robust_accuracy_a": 100 * (found["both_robust"] + found["only_a_robust"]) / n,
        "robust_accuracy_b": 100 * (found["both_robust"] + found["only_b_robust"]) / n,
    }


def worst_case(store: Store, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The macro `worst_case` on evaluations of `find`. Raises `ExplorerError` where they are not of one model."""
    _require_comparable(rows)
    first = rows[0]
    for row in rows[1:]:
        if (row["model_sha256"], row["architecture_id"]) != (first["model_sha256"], first["architecture_id"]):
            raise ExplorerError(
                f"the worst case is that of one model, and {_named(first)} is of {_model(first)}, {_named(row)} of "
                f"{_model(row)}: compare two at a time."
            )
    found = _one(store, f"FROM worst_case([{', '.join(map(_quoted, rows))}])")
    if not found["n_examples"]:
        raise ExplorerError("these evaluations have no example in common: there is no worst case.")
    return found


def doubts(a: dict[str, Any], b: dict[str, Any], n: int) -> list[str]:
    """What a reader of a comparison of two evaluations over `n` common examples should know, as sentences."""
    found = []
    same_model = (a["model_sha256"], a["architecture_id"]) == (b["model_sha256"], b["architecture_id"])
    if not same_model and a["attack_id"] != b["attack_id"]:
        found.append("the attacks differ as well as the models: the difference is of both")
    if n < max(a["n_examples"], b["n_examples"]):
        found.append(
            f"of {a['n_examples']} and {b['n_examples']} examples the {n} that both have without an error are compared"
        )
    return found


def _require_comparable(rows: Sequence[dict[str, Any]]) -> None:
    """Refuse, with the reason, what the macros would answer with empty figures."""
    seen = set()
    for row in rows:
        if row["evaluation_id"] in seen:
            raise ExplorerError(f"{_named(row)} is named twice: compare it with another evaluation.")
        seen.add(row["evaluation_id"])
    for row in rows:
        if row["status"] != "complete":
            raise ExplorerError(
                f"{_named(row)} is not complete ({row['n_done']} of {row['n_requested']} examples), and what is done "
                "first is what breaks first: the command that began it goes on."
            )
    first = rows[0]
    for row in rows[1:]:
        if row["dataset_id"] != first["dataset_id"]:
            raise ExplorerError(
                f"{_named(first)} is on {first['dataset_id']} and {_named(row)} on {row['dataset_id']}: only "
                "evaluations on the same examples can be compared."
            )


def _one(store: Store, sql: str) -> dict[str, Any]:
    from store import run_query

    row: dict[str, Any] = run_query(store, sql, timeout=PATIENCE).table.to_pylist()[0]
    return row


def _quoted(row: dict[str, Any]) -> str:
    return "'" + str(row["evaluation_id"]).replace("'", "''") + "'"


def _named(row: dict[str, Any]) -> str:
    return str(row["evaluation_id"])


def _model(row: dict[str, Any]) -> str:
    return f"{row['architecture_id']} ({row['model_sha256'][:12]})"
