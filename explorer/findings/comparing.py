"""From results to comparisons of groups: only what was measured by one attack configuration, on the same examples, in
one threat space, is ever compared, and of that the networks that are most alike in size and training. Adjusted for
several comparisons within a claim; what each says about the claim.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from explorer.findings import inference
from explorer.findings.designs import Alike, alike, recipe_said
from explorer.findings.evidence import Evidence, Result
from explorer.findings.inference import Sample, Tested
from explorer.findings.model import Best, Claim, Comparison, Group, Member, Outcome, Part
from explorer.findings.rules import Rule, Rules

#: Two groups whose sizes or clean accuracies differ by more than this are not alike.
_SIZE_FACTOR, _CLEAN_POINTS = 2.0, 5.0
#: Architectures in lines of several sizes without which a bootstrap of tau excludes nothing.
_LEAST_LINE = 5

#: Asks the store for pairs of evaluations: rows of the macro `paired`.
Pairing = Callable[[list[tuple[str, str]]], list[dict[str, int | float | None]]]


def concerns(claim: Claim, result: Result, rules: Rules) -> bool:
    """Whether a claim is about this attack, these data and, of printed rows, this table."""
    if result.attack_name not in claim.attacks or (result.source == "published" and result.table not in claim.tables):
        return False
    small = rules.is_small(result.dataset, result.image_side)
    return claim.data == "all" or (claim.data == "small") == small


def compare(
    claim: Claim, results: Sequence[Result], evidence: Evidence, rules: Rules, pair: Pairing
) -> list[Comparison]:
    """Every comparison that the results allow, in the order of data, attack, eps and part."""
    settings: dict[tuple[object, ...], list[Result]] = defaultdict(list)
    for result in results:
        # An attack's identity holds all of it: eps, steps, step size, restarts, start, loss, seed, verdict.
        attack = result.attack_id or (result.attack, result.eps_value)
        examples = (result.table, result.dataset, result.dataset_id, result.subset)
        settings[(*examples, attack, result.threat_space, result.top_k)].append(result)
    found = []
    for rows in settings.values():
        usable = _top_k(rows, evidence)
        for part in claim.parts:
            comparison = _tau(part, usable, rules) if part.measure == "tau" else _groups(part, usable, rules.rule)
            if comparison is not None:
                config = evidence.attacks.get(rows[0].attack_id or "")
                found.append(replace(comparison, attack_config=config))
    order = {part.name: i for i, part in enumerate(claim.parts)}
    found.sort(key=lambda c: (c.table or "", c.dataset, c.dataset_id or "", c.attack, c.eps_value, order[c.part]))
    return _judged(_paired(found, pair), rules.rule)


def _top_k(rows: list[Result], evidence: Evidence) -> list[Result]:
    """Top-5 accuracies where the printed ones of the dataset are so and every evaluation has them; else top-1."""
    wanted = evidence.top_k.get(rows[0].dataset, 1)
    if rows[0].source == "published" or wanted != 5 or any(r.robust_top5 is None for r in rows):
        return rows
    return [replace(r, top_k=5, clean=r.clean_top5, robust=r.robust_top5 or 0.0) for r in rows]


# -- groups ------------------------------------------------------------------------------------------------------------


def _group(name: str, rows: Sequence[Result]) -> Group:
    """The topologies in some results, each with the mean over its training seeds, and over its sizes where those could
    not be held alike: widths and depths of one network are no further topologies.
    """
    by_topology: dict[str, list[Result]] = defaultdict(list)
    for row in rows:
        by_topology[row.topology].append(row)
    return _group_of(name, [_member(runs) for _, runs in sorted(by_topology.items())], rows)


def _group_of(name: str, members: Sequence[Member], rows: Sequence[Result]) -> Group:
    best = max(members, key=lambda m: m.best_robust)
    sample = sample_of(members, rows)
    return Group(
        name=name,
        n_architectures=sample.n,
        n_models=max(sample.n, sum(m.n_models for m in members)),
        mean=sample.mean,
        std=sample.std,
        best=best.best_robust,
        best_architecture=best.architecture_id,
        mean_clean=_mean([m.clean for m in members]),
        # Printed sizes are missing here and there: a mean of some would pass for that of all.
        mean_params=_mean([m.params for m in members]) if all(m.params for m in members) else None,
        members=tuple(members),
        recipe=recipe_said(rows),
    )


def _member(runs: Sequence[Result]) -> Member:
    first, values = runs[0], [run.robust for run in runs]
    best = max(runs, key=lambda run: run.robust)
    std = first.robust_std if first.source == "published" else Sample.of(values).std
    return Member(
        architecture=first.architecture,
        architecture_id=best.architecture_id,
        lineage=first.lineage,
        n_models=len({run.model for run in runs}) if first.runs is None else first.runs,
        robust=fmean(values),
        clean=_mean([run.clean for run in runs]),
        params=_mean([run.params for run in runs]),
        robust_std=std,
        evaluation_ids=tuple(run.evaluation_id for run in runs if run.evaluation_id),
        best_evaluation=best.evaluation_id,
        best_robust=best.robust,
    )


def sample_of(members: Sequence[Member], rows: Sequence[Result] = ()) -> Sample:
    """A value a topology: its mean over training seeds and sizes. A printed mean over runs stands for those runs."""
    (only,) = members if len(members) == 1 else (None,)
    runs = next((row.runs for row in rows if row.runs), None)
    if only is not None and runs and only.robust_std is not None:
        return Sample(runs, only.robust, only.robust_std)
    return Sample.of([member.robust for member in members])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _groups(part: Part, rows: Sequence[Result], rule: Rule) -> Comparison | None:
    """One group against the other; None where one of them is missing."""
    favoured = [row for row in rows if row.group == part.favoured]
    other = [row for row in rows if row.group == part.other]
    if not favoured or not other:
        return None
    kept = alike(favoured, other)
    a, b = _group(part.favoured, kept.a), _group(part.other, kept.b)
    first, second = sample_of(a.members, kept.a), sample_of(b.members, kept.b)
    room = _room(a, b, rule)
    if part.measure == "spread":
        if not (a.n_architectures > 1 and b.n_architectures > 1):
            return None
        tested = inference.spread(first, second, least=rule.least_ratio)
        if not room:
            # Near the ends of the scale there is no place for a spread, in whichever group that is.
            low, high = rule.room
            why = f"no test: a mean outside {low:g} to {high:g} %, where spreads are squeezed"
            tested = replace(tested, test=why, p_value=None, p_small=None)
    else:
        tested = inference.difference(first, second, least=rule.least_points)
        if not room:
            tested = replace(tested, p_small=None)
    return _comparison(part, kept, a, b, tested, rule)


def _room(a: Group, b: Group, rule: Rule) -> bool:
    """Whether both means are far enough from the ends of the scale for a small effect to be evidence."""
    low, high = rule.room
    return low <= a.mean <= high and low <= b.mean <= high


def _tau(part: Part, rows: Sequence[Result], rules: Rules) -> Comparison | None:
    """Robust accuracy against parameters within lines of designs that were trained by one recipe, on one side of the
    turn; None without a pair of sizes."""
    turn, below = rules.rule.turn * 1e6, part.favoured == "below"
    inside = [r for r in rows if not r.ensemble and r.params is not None and (r.params <= turn) == below]
    lines: dict[tuple[str, str], dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for row in inside:
        recipe = row.training.identity if row.training is not None else ""
        lines[row.line, recipe][row.architecture_id].append(row)
    found: list[tuple[list[Member], list[Result]]] = []
    for sizes in lines.values():
        members = [_member(runs) for _, runs in sorted(sizes.items())]
        if len({member.params for member in members}) > 1:
            found.append((members, [run for runs in sizes.values() for run in runs]))
    used = [row for _, runs in found for row in runs]
    if not used:
        return None
    tested = inference.rank_correlation(
        [([m.params or 0 for m in line], [m.robust for m in line]) for line, _ in found], least=rules.rule.least_tau
    )
    if tested is None:
        return None
    group = _group_of(part.favoured, [member for line, _ in found for member in line], used)
    if group.n_architectures < _LEAST_LINE:
        tested = replace(tested, p_small=None)
    lost = len({(r.model, r.architecture_id) for r in inside} - {(r.model, r.architecture_id) for r in used})
    alone = (f"{lost} model{'s' * (lost != 1)} left out: no other size of their line by their recipe",) if lost else ()
    return _comparison(part, Alike(used, [], None, alone), group, None, tested, rules.rule)


def _comparison(part: Part, kept: Alike, a: Group, b: Group | None, tested: Tested, rule: Rule) -> Comparison:
    rows = [*kept.a, *kept.b]
    first = rows[0]
    return Comparison(
        source=first.source,
        part=part.name,
        measure=part.measure,
        dataset=first.dataset,
        dataset_id=first.dataset_id,
        table=first.table,
        n_examples=first.n_examples,
        attack=first.attack,
        attack_name=first.attack_name,
        eps=first.eps,
        eps_value=first.eps_value,
        threat_space=first.threat_space,
        top_k=first.top_k,
        a=a,
        b=b,
        estimate=tested.estimate,
        low=tested.low,
        high=tested.high,
        effect_size=tested.effect_size,
        test=tested.test,
        p_value=tested.p_value,
        p_adjusted=None,
        p_small=tested.p_small,
        # A printed mean over runs hides the best of them.
        best=_best(a, b) if b is not None and part.measure == "difference" and not any(r.runs for r in rows) else None,
        outcome=_end_of_scale(rows, rule),
        cautions=(*kept.cautions, *_cautions(part, rows, a, b)),
        design=kept.design,
    )


def _end_of_scale(rows: Sequence[Result], rule: Rule) -> Outcome:
    if all(row.robust < rule.floor for row in rows):
        return "floor"
    if all(row.robust > rule.ceiling / 100 * (100 if row.clean is None else row.clean) for row in rows):
        return "ceiling"
    return "open"


def _cautions(part: Part, rows: Sequence[Result], a: Group, b: Group | None) -> tuple[str, ...]:
    """What a reader should know before trusting the comparison."""
    found = []
    if b is not None and a.mean_params and b.mean_params:
        factor = max(a.mean_params / b.mean_params, b.mean_params / a.mean_params)
        if factor > _SIZE_FACTOR:
            found.append(f"the groups' mean sizes differ {factor:.1f}-fold")
    if b is not None and a.mean_clean is not None and b.mean_clean is not None:
        gap = abs(a.mean_clean - b.mean_clean)
        if gap > _CLEAN_POINTS:
            found.append(f"the groups' mean clean accuracies differ by {gap:.1f} points")
    if b is not None and max(a.n_architectures, b.n_architectures) > _SIZE_FACTOR * min(
        a.n_architectures, b.n_architectures
    ):
        found.append("one group has many more architectures: its best is better by chance alone")
    for group in (a, b) if b is not None and part.measure == "difference" else ():
        names = [m.architecture for m in group.members] if group is not None else []
        if len(names) > len(set(names)):
            found.append(f"some of {len(names)} architectures are one design with other options")
    spaces = {row.architecture.partition("-")[0] for row in rows if row.group in ("random", "ensemble")}
    if rows[0].source == "measured" and len(spaces) > 1:
        found.append(f"random cells of several search spaces ({', '.join(sorted(spaces))})")
    warned = sum(row.n_warnings > 0 for row in rows)
    if warned:
        found.append(f"{warned} of {len(rows)} evaluations carry warnings")
    if len({row.engine_revision for row in rows}) > 1:
        found.append("evaluations by several revisions of the engine")
    return tuple(dict.fromkeys(found))


# -- the best of each group --------------------------------------------------------------------------------------------


def _best(a: Group, b: Group) -> Best:
    first, second = (max(group.members, key=lambda m: m.best_robust) for group in (a, b))
    identities = tuple(i for i in (first.best_evaluation, second.best_evaluation) if i)
    return Best(
        architecture_a=first.architecture_id,
        architecture_b=second.architecture_id,
        robust_a=first.best_robust,
        robust_b=second.best_robust,
        difference=first.best_robust - second.best_robust,
        low=None,
        high=None,
        test="no test: the outcomes of the examples are not known",
        p_value=None,
        p_adjusted=None,
        n_examples=None,
        evaluation_ids=identities,
    )


def _paired(comparisons: list[Comparison], pair: Pairing) -> list[Comparison]:
    """Fill in McNemar's test and the interval of the paired bootstrap, where there are outcomes of the examples."""
    asked = {
        i: (c.best.evaluation_ids[0], c.best.evaluation_ids[1])
        for i, c in enumerate(comparisons)
        if c.best is not None and len(c.best.evaluation_ids) == 2 and c.top_k == 1
    }
    found = list(comparisons)
    for i, row in zip(asked, pair(list(asked.values())), strict=True):
        best, n = found[i].best, row["n_examples"]
        if best is None or not n or row["difference"] is None or row["p_value"] is None:
            continue
        counts = [int(row[name] or 0) for name in ("both_robust", "only_a_robust", "only_b_robust", "neither_robust")]
        low, high = inference.paired_interval(*counts)
        filled = replace(
            best,
            difference=float(row["difference"]),
            low=low,
            high=high,
            test="paired, McNemar's exact test; interval by the paired bootstrap",
            p_value=float(row["p_value"]),
            n_examples=int(n),
        )
        found[i] = replace(found[i], best=filled)
    return found


# -- what each says ----------------------------------------------------------------------------------------------------


def _judged(comparisons: list[Comparison], rule: Rule) -> list[Comparison]:
    """Adjust the p-values of all comparisons that can decide anything, and say what each of them amounts to."""
    deciding = [i for i, c in enumerate(comparisons) if c.outcome == "open"]
    groups = inference.holm([comparisons[i].p_value for i in deciding])
    small = inference.holm([comparisons[i].p_small for i in deciding])
    best = inference.holm([b.p_value if (b := comparisons[i].best) is not None else None for i in deciding])
    found = [replace(c, p_small=None) for c in comparisons]
    for place, i in enumerate(deciding):
        c = replace(comparisons[i], p_adjusted=groups[place], p_small=small[place])
        if c.best is not None:
            c = replace(c, best=replace(c.best, p_adjusted=best[place]))
        found[i] = replace(c, outcome=_outcome(c, rule))
    return found


def _outcome(c: Comparison, rule: Rule) -> Outcome:
    clear = c.p_adjusted is not None and c.p_adjusted < rule.alpha
    excluded = c.p_small is not None and c.p_small < rule.alpha
    above = c.estimate > (1.0 if c.measure == "spread" else 0.0)
    found: Outcome
    if c.measure == "tau" and c.a.name == "above":
        # Beyond the turn the claim is that there is no more to gain.
        found = "against" if clear and above else "supports" if clear or excluded else "open"
    else:
        found = "supports" if clear and above else "against" if clear or excluded else "open"
    best = c.best
    if best is not None and best.p_adjusted is not None and best.p_adjusted < rule.alpha:
        contrary = best.difference < 0 if found == "supports" else best.difference > 0
        if found != "open" and contrary:
            return "open"
    return found


def leans_against(c: Comparison, rule: Rule) -> bool:
    """Whether an open comparison points away from the claim by more than the smallest effect that counts."""
    if c.measure == "spread":
        return c.b is not None and _room(c.a, c.b, rule) and c.estimate < 1 / rule.least_ratio
    if c.measure == "tau":
        return c.estimate > rule.least_tau if c.a.name == "above" else c.estimate < -rule.least_tau
    return c.estimate < -rule.least_points


def spread_over_runs(group: Group) -> str:
    """`14.5 ± 4.7`."""
    return f"{group.mean:.1f}" + (f" ± {group.std:.1f}" if group.std is not None and np.isfinite(group.std) else "")
