"""What the claims of a study come to: differences of groups, with tests that say whether chance would give them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from explorer.studies.definition import Claim
from explorer.studies.expansion import Expansion
from explorer.studies.measurements import (
    Line,
    Mean,
    Measurement,
    Setting,
    clean_of,
    is_by_seed,
    labels_of,
    lead,
    over_runs,
    robust_of,
)

#: Two groups that keep less than this many percent both are not compared: the attack leaves nothing to see.
FLOOR = 2.0
#: A difference is called one where chance would give as large a one less often than this.
LEVEL = 0.05
#: A standard error below this many percent points is that of rounding: there is no spread to test by.
_NO_SPREAD = 1e-9
#: With fewer points no order of them is rarer than `LEVEL`: of four, 2 of 24 have a correlation of +-1.
LEAST_SIZES = 5
#: Up to so many points every order of them is looked at.
_MOST_EXACT = 8


@dataclass(frozen=True)
class Comparison:
    """Two groups in one setting under one attack. `low` and `high` bound the difference at 95 %."""

    claim: Claim
    setting: Setting
    label: str
    more: Mean
    less: Mean
    clean_more: Mean
    clean_less: Mean
    paired: bool
    unit: str
    p_value: float | None
    low: float | None
    high: float | None
    best_more: tuple[str, float]
    best_less: tuple[str, float]

    @property
    def difference(self) -> float:
        return self.more.mean - self.less.mean

    @property
    def verdict(self) -> str:
        """holds, opposite, open (chance would do), floor (both near zero), single (too few runs to say) or agreed (no
        spread within the groups to test by).
        """
        if max(self.more.mean, self.less.mean) < FLOOR:
            return "floor"
        if self.p_value is None:
            return "agreed" if min(len(self.more.values), len(self.less.values)) > 1 else "single"
        if self.p_value >= LEVEL:
            return "open"
        return "holds" if self.difference > 0 else "opposite"


def comparisons(
    expansion: Expansion, measurements: Sequence[Measurement], setting: Setting, found: Sequence[Line]
) -> list[Comparison]:
    """What the claims of a study come to in a setting, as far as both groups have figures."""
    results = []
    for claim in expansion.study.claims:
        label = claim.attack or lead(expansion, setting)
        if label not in labels_of(expansion, setting):
            continue
        groups = [[line for line in found if line.group == name] for name in (claim.more, claim.less)]
        more, less = (over_runs(group, robust_of, label) for group in groups)
        clean_more, clean_less = (over_runs(group, clean_of, label) for group in groups)
        if more is None or less is None or clean_more is None or clean_less is None:
            continue
        pairs = [_pairs(group, label) for group in groups]
        paired = bool(pairs[0]) and pairs[0].keys() == pairs[1].keys() and len(pairs[0]) > 1
        if paired:
            p, low, high = _paired([pairs[0][key] - pairs[1][key] for key in pairs[0]])
        else:
            p, low, high = _welch(more.values, less.values)
        best = [
            max(
                ((line.label, mean.mean) for line in group if (mean := line.mean(robust_of, label))),
                key=lambda pair: pair[1],
            )
            for group in groups
        ]
        seeds = [is_by_seed(group) for group in groups]
        unit = "runs" if all(seeds) else "architectures" if not any(seeds) else "runs and architectures"
        results.append(
            Comparison(claim, setting, label, more, less, clean_more, clean_less, paired, unit, p, low, high, *best)
        )
    return results


def _pairs(group: Iterable[Line], label: str) -> dict[tuple[str, int | None], float]:
    """Robust accuracy by architecture and seed."""
    return {(m.model.architecture, m.model.seed): m.robust for line in group for m in line.of(label)}


def _paired(differences: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Paired t-test: p-value and 95 % interval of the mean difference; None where the differences do not vary."""
    from scipy import stats

    mean, n = Mean(tuple(differences)), len(differences)
    if mean.std is None or (error := mean.std / math.sqrt(n)) < _NO_SPREAD:
        return None, None, None
    reach = float(stats.t.ppf(0.975, n - 1)) * error
    return float(2 * stats.t.sf(abs(mean.mean) / error, n - 1)), mean.mean - reach, mean.mean + reach


def _welch(more: Sequence[float], less: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Welch's t-test for unequal variances: p-value and 95 % interval of the difference of the means; None where a
    group has one run, or neither varies.
    """
    from scipy import stats

    if len(more) < 2 or len(less) < 2:
        return None, None, None
    a, b = Mean(tuple(more)), Mean(tuple(less))
    shares = [(m.std or 0.0) ** 2 / len(m.values) for m in (a, b)]
    error = math.sqrt(sum(shares))
    if error < _NO_SPREAD:
        return None, None, None
    freedom = sum(shares) ** 2 / sum(share**2 / (len(m.values) - 1) for share, m in zip(shares, (a, b), strict=True))
    difference = a.mean - b.mean
    reach = float(stats.t.ppf(0.975, freedom)) * error
    return float(2 * stats.t.sf(abs(difference) / error, freedom)), difference - reach, difference + reach


def rank_correlation(points: Sequence[tuple[float, float]]) -> tuple[float, float | None] | None:
    """Spearman's correlation and its two-sided p-value; None where there is one point, or one side does not vary.

    The p-value is the share of all orders of the points that correlate as strongly, ties included; scipy's
    approximation beyond eight points; None for fewer than five, of which no order is rare.
    """
    import numpy as np
    from scipy import stats

    if any(len({p[i] for p in points}) < 2 for i in (0, 1)):
        return None
    found = stats.spearmanr([p[0] for p in points], [p[1] for p in points])
    estimate = float(found.statistic)
    if len(points) < LEAST_SIZES:
        return estimate, None
    if len(points) > _MOST_EXACT:
        return estimate, float(found.pvalue)
    x, y = (stats.rankdata([p[i] for p in points]) for i in (0, 1))
    orders = np.array(list(itertools.permutations(y - y.mean())))
    # Ranks are whole or half numbers and products of theirs exact but for the means'.
    sums = np.abs(orders @ (x - x.mean()))
    return estimate, float(np.mean(sums >= sums[0] - 1e-9))
