"""The study's five claims beside what was measured here: figures, intervals, tests, and a plain verdict on each.

The same rule and the same code judge the printed rows and the measured ones. In short: a claim holds when everything it
names has a comparison that supports it (an effect in the claimed direction, p below 0.05 after Holm's adjustment) and
none speaks against it; it does not hold when one comparison does (an effect in the other direction with such a p, or an
effect as large as the smallest that counts excluded with such a p); otherwise it is undecided, and so it is where every
network is at the floor or the ceiling of an attack. `Rule.text` in `explorer.findings.rules` is the rule in full, and
`claims.toml` holds its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from explorer.findings.model import Best, Claim, Comparison, Figure, Finding, Group, Member, Part

if TYPE_CHECKING:
    from explorer.findings.evidence import Evidence, Result
    from explorer.findings.rules import Rules
    from store.connection import Store

__all__ = ["Best", "Claim", "Comparison", "Figure", "Finding", "Group", "Member", "Part", "compute"]


def compute(store: Store, *, numbers: Sequence[int] = (), dataset: str | None = None) -> list[Finding]:
    """A finding for every claim, or for those `numbers`; `dataset`, a name or an identity, leaves out other data.

    Reads the store twice, shortly: all evaluations, then the outcomes of the best pairs. Raises the errors of the
    store, `StoreNotFound` where there is none.
    """
    from explorer.findings import evidence, rules

    book = rules.load()
    claims = [claim for claim in book.claims if not numbers or claim.number in numbers]
    attacks = sorted({attack for claim in claims for attack in claim.attacks})
    found = evidence.gather(store, book, attacks, dataset)
    return [_finding(store, claim, found, book) for claim in claims]


def _finding(store: Store, claim: Claim, found: Evidence, book: Rules) -> Finding:
    from explorer.findings import comparing, evidence, judging

    def pair(pairs: list[tuple[str, str]]) -> list[dict[str, int | float | None]]:
        return evidence.paired_counts(store, pairs)

    printed = [r for r in found.published if comparing.concerns(claim, r, book)]
    rows = [r for r in found.measured if comparing.concerns(claim, r, book)]
    published = comparing.compare(claim, printed, found, book, pair)
    measured = comparing.compare(claim, rows, found, book, pair)
    published_verdict, published_why = judging.verdict(claim, published, book)
    verdict, why = judging.verdict(claim, measured, book)
    return Finding(
        claim=claim,
        rule=book.rule.text(claim),
        published=tuple(_figure(r) for r in printed),
        published_comparisons=tuple(published),
        published_verdict=published_verdict,
        published_why=published_why if published else "The study prints nothing on it for these data.",
        measured=tuple(measured),
        verdict=verdict,
        why=why if measured else _nothing(rows),
        would_decide=judging.would_decide(claim, measured, rows, book) if verdict == "undecided" else None,
        notes=_notes(claim, rows, measured, found, book) + _reach(claim, verdict, measured),
    )


def _nothing(rows: Sequence[Result]) -> str:
    if not rows:
        return "Nothing that it is about has been measured here."
    return "What has been measured here has nothing to be compared with: a group is missing."


def _reach(claim: Claim, verdict: str, measured: Sequence[Comparison]) -> tuple[str, ...]:
    """How far a verdict carries, where the claim is about every dataset."""
    data = {c.dataset for c in measured}
    if verdict == "holds" and "dataset" in claim.each and len(data) == 1:
        return (f"Measured on {data.pop()} alone: the claim is about more.",)
    return ()


def _notes(
    claim: Claim, rows: Sequence[Result], measured: Sequence[Comparison], found: Evidence, book: Rules
) -> tuple[str, ...]:
    """What was left out of the measured comparisons, and what is not known of the rest."""
    from explorer.findings import comparing

    def models(results: Sequence[Result]) -> int:
        return len({(r.model, r.architecture_id) for r in results if comparing.concerns(claim, r, book)})

    ungrouped = [r for r in rows if not r.group] if claim.number != 4 else []
    used = {identity for c in measured for identity in c.evaluation_ids}
    unknown = [r for r in rows if r.training is None and r.evaluation_id in used]
    counted = (
        (models(found.left_out), "trained on adversarial examples left out: the claims are about standard training"),
        (models(found.members), "that are members of a sampled ensemble left out"),
        (models(ungrouped), "in none of the claim's groups left out"),
        (models(unknown), "whose training is not known used"),
    )
    notes = [f"{n} model{'s' * (n != 1)} {what}." for n, what in counted if n]
    other = sum(comparing.concerns(claim, r, book) for r in found.misnormalised)
    if other:
        notes.append(
            f"{other} evaluation{'s' * (other != 1)} with another normalisation left out: each model counts with the "
            "one that it is most accurate with without attack."
        )
    if any(r.top_k == 1 and found.top_k.get(r.dataset, 1) > 1 for r in rows):
        notes.append(
            "The printed ImageNet figures are top-5; measured ones are so only where every evaluation says it."
        )
    return tuple(notes)


def _figure(result: Result) -> Figure:
    return Figure(
        table=result.table or "",
        row=result.row or 0,
        dataset=result.dataset,
        architecture=result.architecture,
        group=result.group,
        attack=result.attack,
        eps=result.eps,
        threat_space=result.threat_space,
        top_k=result.top_k,
        clean=result.clean,
        robust=result.robust,
        robust_std=result.robust_std,
        runs=result.runs,
        params=result.params,
        citation=result.citation,
    )
