"""What the store knows of one ensemble under attack, for the page of its results.

Outcomes are only in the file, not in the copy in memory, so every function here waits for the disk: call it from a
thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from explorer import ensembles
from explorer.errors import ExplorerError
from models.attacks import registry as attacks
from models.specs import AttackSpec

if TYPE_CHECKING:
    from store.connection import Store

#: The difference of the whole and the mean member, example by example, drawn anew as the macro `paired_bootstrap` does.
_OVER_MEAN = """
WITH parts AS (SELECT position, evaluation_id FROM ensemble_parts($1)),
drawn AS (
    SELECT list(difference ORDER BY example) AS differences, count(*) AS n
    FROM (
        SELECT
            o.example,
            any_value(o.robust::INTEGER) FILTER (p.position IS NULL)
                - avg(o.robust::INTEGER) FILTER (p.position IS NOT NULL) AS difference
        FROM parts AS p JOIN outcomes AS o ON o.evaluation_id = p.evaluation_id
        GROUP BY o.example
        HAVING count(*) = (SELECT count(*) FROM parts) AND count(o.error) = 0
    )
),
resampled AS (
    SELECT 100.0::DOUBLE * sum(differences[1 + (hash(r.i, e.i) % n::UBIGINT)::BIGINT]) / n AS difference
    FROM drawn, range(2000) AS r(i), range(n) AS e(i)
    WHERE n > 0
    GROUP BY r.i, n
)
SELECT quantile_cont(difference, 0.025) AS low, quantile_cont(difference, 0.975) AS high FROM resampled
"""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Insight:
    """One evaluation of an ensemble: its row of `ensembles.evaluations_of`, the full configuration of the attack, and
    the rows of the macros of `ensembles.look_into`. Accuracies in percent, gains in points."""

    evaluation: Mapping[str, Any]
    attack: AttackSpec
    #: Examples of the dataset, of which the evaluation may be over the first.
    n_all: int
    summary: Mapping[str, Any]
    parts: Sequence[Mapping[str, Any]]
    agreement: Sequence[Mapping[str, Any]]
    cosines: Sequence[Mapping[str, Any]]
    transfers: Sequence[Mapping[str, Any]]
    lost_by_all: Sequence[Mapping[str, Any]]
    #: 95 % Wilson interval of the oracle, where it is known.
    oracle: Interval | None = None
    #: 95 % intervals of the gains; None until they have been computed.
    over_best: Interval | None = None
    over_mean: Interval | None = None

    def after(self, earlier: Insight) -> Insight:
        """The same with the intervals that were computed of it before, if nothing has changed: those take time."""
        same = (earlier.identity, earlier.summary, earlier.parts) == (self.identity, self.summary, self.parts)
        return replace(self, over_best=earlier.over_best, over_mean=earlier.over_mean) if same else self

    @property
    def identity(self) -> str:
        return str(self.evaluation["evaluation_id"])

    @property
    def members(self) -> list[Mapping[str, Any]]:
        """The parts without the whole, by position."""
        return [part for part in self.parts if part["position"] is not None]

    @property
    def unmeasured(self) -> list[Mapping[str, Any]]:
        """The members without an evaluation of their own on these examples."""
        return [part for part in self.members if part["evaluation_id"] is None]

    @property
    def crafted(self) -> bool:
        """Whether the attack can be made on another model."""
        return not self.attack.stages and attacks.find(self.attack.name).transfers

    @property
    def transfers_missing(self) -> int:
        """Pairs of parts of which nobody knows what the attack on one does to the other."""
        return sum(cell["evaluation_id"] is None for cell in self.transfers if cell["source"] != cell["target"])

    @property
    def cosines_missing(self) -> int:
        return sum(not pair["n"] and not pair["n_zero"] for pair in self.cosines)

    def _words(self, verb: str) -> list[str]:
        row = self.evaluation
        words = ["ensemble", verb, str(row["architecture_id"]), "--weights", str(row["model_sha256"])[:16]]
        words += ["--dataset", str(row["dataset"])]
        return words + (["--examples", str(row["n_examples"])] if row["n_examples"] < self.n_all else [])

    def attack_words(self, *more: str) -> list[str]:
        """The words of the command that makes this attack on the ensemble and its members. Raises `ExplorerError` where
        it has none."""
        self._require_plain()
        if self.attack.threat_space != "pixel":
            raise ExplorerError(
                f"eps is measured in the threat space {self.attack.threat_space} here: attack the members with "
                "`nasrob-tui eval --threat-space`."
            )
        words = [*self._words("attack"), "--attack", attacks.inline(self.attack)]
        words += ["--seed", str(self.attack.seed)] if self.attack.seed else []
        return [*words, *more]

    def transfer_words(self) -> list[str]:
        """The words of the command that measures the transfers. Raises `ExplorerError` where it has none."""
        if not self.crafted:
            raise ExplorerError(f"{self.attack.name} cannot be made on another model: transfers are measured with pgd.")
        return self.attack_words("--transfer")

    def gradient_words(self) -> list[str]:
        """The words of the command that compares the members' gradients on these examples."""
        self._require_plain()
        return self._words("gradients")

    def report_words(self) -> list[str]:
        """The words of the command that says the same."""
        return ["ensemble", "report", "--evaluation", self.identity]

    def _require_plain(self) -> None:
        if not self.members:
            raise ExplorerError("its members were trained together and do not stand alone: only the whole is attacked.")
        if "/test#" not in str(self.evaluation["dataset_id"]):
            raise ExplorerError(f"{self.evaluation['dataset_id']} is not the part that is usually judged on.")


def evaluations(store: Store, architecture: str, sha256: str | None) -> list[dict[str, Any]]:
    """The complete evaluations of a model under attacks on itself, the latest first."""
    found = ensembles.evaluations_of(store, architecture)
    return [row for row in found if sha256 is None or row["model_sha256"] == sha256]


def look(store: Store, evaluation: Mapping[str, Any]) -> Insight:
    """What is known of an evaluation of `evaluations`, but for the intervals of the gains."""
    found = ensembles.look_into(store, evaluation["evaluation_id"])
    if not found["summary"]:
        raise ExplorerError("these results are no longer in the store.")
    (summary,) = found["summary"]
    judged, lost = summary["n_examples"], summary["lost_by_all"]
    known = judged and lost is not None
    with store.read() as con:
        asked = con.execute(
            "SELECT (SELECT config FROM attacks WHERE attack_id = $1), "
            "(SELECT n_examples FROM datasets WHERE dataset_id = $2), wilson_low($3, $4), wilson_high($3, $4)",
            [
                evaluation["attack_id"],
                evaluation["dataset_id"],
                judged - lost if known else 0,
                judged if known else 0,
            ],
        ).fetchall()
    config, n_all, low, high = asked[0]
    return Insight(
        evaluation,
        AttackSpec.from_dict(_read(config)),
        n_all or evaluation["n_examples"],
        summary,
        parts=found["parts"],
        agreement=found["agreement"],
        cosines=found["cosines"],
        transfers=found["transfers"],
        lost_by_all=found["lost_by_all"],
        oracle=(low, high) if known else None,
    )


def with_intervals(store: Store, insight: Insight) -> Insight:
    """The same with the intervals of the gains, which take a second on many examples."""
    summary = insight.summary
    if summary["gain_over_best"] is None or not summary["n_examples"]:
        return insight
    best = next(m["evaluation_id"] for m in insight.members if m["position"] == summary["best_position"])
    with store.read() as con:
        over_best = con.execute(
            "SELECT difference_low, difference_high FROM paired_bootstrap($1, $2)", [insight.identity, best]
        ).fetchone()
        over_mean = con.execute(_OVER_MEAN, [insight.identity]).fetchone()
    return replace(insight, over_best=_interval(over_best), over_mean=_interval(over_mean))


def _interval(row: Any) -> Interval | None:
    return (row[0], row[1]) if row is not None and row[0] is not None else None


def _read(config: str) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(config)
    return found
