"""The statistics of the findings: intervals, effect sizes and tests for small groups of architectures.

The unit is the architecture, never the example, wherever two groups are compared: examples of one network say nothing
about the next network. Only the best of two groups are compared example by example, and then as pairs. All p-values are
two-sided unless a name says otherwise. What is drawn at random is drawn from a fixed seed, so that the same results
give the same answer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

#: Rearrangements that are gone through one by one; of more of them this many are drawn.
MOST = 20_000
#: Resamples of a bootstrap, and the fewest of one over very many pairs.
RESAMPLES, _LEAST_RESAMPLES = 5_000, 400
#: Members of a group without which its spread is not tested: of two both deviations from the median are the same.
_LEAST_SPREAD = 3
#: Groups both as large as this are as good as normal to Welch's t-test.
_MANY = 20
#: Rearrangements that are drawn at least, and cells of all of them together where that leaves a choice.
_LEAST_DRAWN, _CELLS = 4_000, 2_000_000
#: Members of a line of designs whose orders are all gone through.
_FEW = 7
#: Pairs within lines above which the normal approximation takes the place of the exact distribution.
_MANY_PAIRS = 1_000

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """A group's robust accuracies in percent: each of them, or what was printed of them, `values` being None."""

    n: int
    mean: float
    #: Standard deviation of a sample (n - 1); None of a single value.
    std: float | None
    values: tuple[float, ...] | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        array = np.asarray(values, dtype=float)
        std = float(array.std(ddof=1)) if len(array) > 1 else None
        return cls(len(array), float(array.mean()), std, tuple(map(float, values)))


@dataclass(frozen=True)
class Tested:
    """An estimate with its 95 % interval, the test that was made, and two p-values: that there is no effect, and
    (one-sided) that the effect in the claimed direction is as large as the smallest that counts. None where the groups
    are too small for it."""

    estimate: float
    low: float | None
    high: float | None
    test: str
    p_value: float | None
    p_small: float | None
    #: Hedges' g, for differences of means.
    effect_size: float | None = None


def difference(a: Sample, b: Sample, *, least: float) -> Tested:
    """Mean of `a` minus mean of `b`, in points, with Welch's interval and Hedges' g.

    The test is a permutation test of Welch's t, all rearrangements where they are few (Janssen, Statistics &
    Probability Letters 1997: exact when the two groups are alike, right for large ones when only their spreads differ);
    Welch's t-test where only means and deviations are known, and of large groups.
    """
    estimate = a.mean - b.mean
    if a.std is None or b.std is None or a.n < 2 or b.n < 2:
        return Tested(estimate, None, None, "no test: a group has a single architecture", None, None)
    parts = a.std**2 / a.n, b.std**2 / b.n
    error = math.sqrt(sum(parts))
    pooled = math.sqrt(((a.n - 1) * a.std**2 + (b.n - 1) * b.std**2) / (a.n + b.n - 2))
    effect = estimate / pooled * (1 - 3 / (4 * (a.n + b.n) - 9)) if pooled else None
    freedom = error**4 / (parts[0] ** 2 / (a.n - 1) + parts[1] ** 2 / (b.n - 1)) if error else 1.0
    half = float(stats.t.ppf(0.975, freedom)) * error
    if a.values is not None and b.values is not None and min(a.n, b.n) < _MANY:
        p_value, p_small, drawn = _permuted(np.asarray(a.values), np.asarray(b.values), least)
        test = f"unpaired, permutation of Welch's t{f' ({drawn} drawn)' if drawn else ''}"
    else:
        t = estimate / error if error else math.copysign(math.inf, estimate) if estimate else 0.0
        p_value = float(2 * stats.t.sf(abs(t), freedom))
        p_small = float(stats.t.cdf((estimate - least) / error, freedom)) if error else float(estimate >= least)
        printed = " from printed means and deviations" if a.values is None or b.values is None else ""
        test = f"unpaired, Welch's t-test{printed}"
    return Tested(estimate, estimate - half, estimate + half, test, p_value, p_small, effect)


def _permuted(a: Numbers, b: Numbers, least: float) -> tuple[float, float, int]:
    """Two-sided p-value that there is no difference, p-value that it is `least` or more, and how many rearrangements of
    the values were drawn for it (0: all of them were gone through)."""
    n, total = len(a), len(a) + len(b)
    if math.comb(total, n) <= MOST:
        chosen = np.zeros((math.comb(total, n), total), dtype=bool)
        for row, places in enumerate(itertools.combinations(range(total), n)):
            chosen[row, list(places)] = True
        drawn = 0
    else:
        drawn = max(_LEAST_DRAWN, min(MOST, _CELLS // total))
        order = np.random.default_rng(0).random((drawn - 1, total)).argsort(axis=1)
        chosen = np.vstack([np.arange(total) < n, order < n])
    above, below = _tails(np.concatenate([a, b]), chosen, n)
    small = _tails(np.concatenate([a - least, b]), chosen, n)[1]
    return min(1.0, 2 * min(above, below)), small, drawn


def _tails(pool: Numbers, chosen: NDArray[np.bool_], n: int) -> tuple[float, float]:
    """How often Welch's t is at least, and at most, as large as in the first row, which is the one seen."""
    t = _welch(pool, chosen, n)
    slack = 1e-9 * max(1.0, abs(t[0]))
    return float((t >= t[0] - slack).mean()), float((t <= t[0] + slack).mean())


def _welch(pool: Numbers, chosen: NDArray[np.bool_], n: int) -> Numbers:
    """Welch's t of every rearrangement; groups without any spread count as having next to none."""
    m = len(pool) - n
    centred = pool - pool.mean()
    sums, squares = chosen @ centred, chosen @ centred**2
    rest, rest_squares = centred.sum() - sums, (centred**2).sum() - squares
    variance = np.maximum(0, squares - sums**2 / n) / (n - 1) / n
    variance = variance + np.maximum(0, rest_squares - rest**2 / m) / (m - 1) / m
    found: Numbers = (sums / n - rest / m) / np.sqrt(np.maximum(variance, 1e-12))
    return found


def spread(a: Sample, b: Sample, *, least: float) -> Tested:
    """Standard deviation of `a` over that of `b`, with the interval of the F distribution, for normal values.

    The tests are Brown and Forsythe's (Levene's about the median), which bear values that are not normal: two-sided
    that the spreads are equal, and one-sided, with the deviations of `a` divided by `least`, that the ratio is as large
    as that. The F-test stands in where only deviations are known. Groups of two have no test.
    """
    if not a.std or not b.std:
        ratio = math.nan if a.std is None or b.std is None else math.inf if a.std else 0.0
        return Tested(ratio, None, None, "no test: a group has no spread to compare", None, None)
    ratio = a.std / b.std
    f, freedom = ratio**2, (a.n - 1, b.n - 1)
    low = math.sqrt(f / stats.f.ppf(0.975, *freedom))
    high = math.sqrt(f / stats.f.ppf(0.025, *freedom))
    if a.values is None or b.values is None:
        p_value = min(1.0, 2 * min(float(stats.f.sf(f, *freedom)), float(stats.f.cdf(f, *freedom))))
        test = "unpaired, F-test of spread from printed deviations, for normal values"
        return Tested(ratio, low, high, test, p_value, float(stats.f.cdf(f / least**2, *freedom)))
    first, second = (np.abs(np.asarray(values) - np.median(values)) for values in (a.values, b.values))
    if min(a.n, b.n) < _LEAST_SPREAD or not (np.ptp(first) or np.ptp(second)):
        return Tested(ratio, low, high, "no test: too few architectures to compare spreads", None, None)
    p_value = float(stats.ttest_ind(first, second).pvalue)
    p_small = float(stats.ttest_ind(first / least, second, alternative="less").pvalue)
    test = "unpaired, Brown-Forsythe test of spread; interval of the F distribution, for normal values"
    return Tested(ratio, low, high, test, p_value, p_small)


def rank_correlation(lines: Sequence[tuple[Sequence[float], Sequence[float]]], *, least: float) -> Tested | None:
    """Kendall's tau of size and robust accuracy, over all pairs within a line of designs and none across lines.

    `lines` are sizes and accuracies of each line. The test is that of no order within any line: exact, but for long
    lines with ties, of whose orders many are drawn, and for very long ones, which are as good as normal. The interval,
    and the p-value that tau is as large as `least`, are of a bootstrap within lines; that p-value is never below the
    smallest that the test of no order could have given, so that a few points exclude nothing. None without any pair
    of different sizes.
    """
    pairs = [_concordance(np.asarray(x, dtype=float), np.asarray(y, dtype=float)[None, :]) for x, y in lines]
    possible = sum(count for _, count in pairs)
    if not possible:
        return None
    seen = sum(int(s[0]) for s, _ in pairs)
    if possible > _MANY_PAIRS:
        p_value = _normal_p(seen, lines)
        # Of so many pairs the lowest score is next to impossible, unless all accuracies are the same.
        lowest = 0.0 if any(len(set(y)) > 1 for _, y in lines) else 1.0
    else:
        null = np.ones(1)
        for x, y in lines:
            null = np.convolve(null, _order_distribution(np.asarray(x, dtype=float), np.asarray(y, dtype=float)))
        middle = len(null) // 2
        lowest = float(null[np.flatnonzero(null)[0]])
        p_value = 2 * min(float(null[middle + seen :].sum()), float(null[: middle + seen + 1].sum()))
    resampled = _resampled_tau(lines)
    low, high = np.quantile(resampled, [0.025, 0.975])
    p_small = max(lowest, (1 + int((resampled >= least).sum())) / (1 + len(resampled)))
    return Tested(
        seen / possible,
        float(low),
        float(high),
        "unpaired, test of Kendall's tau within lineages",
        min(1.0, max(p_value, 1 / MOST)),
        p_small,
    )


def _concordance(x: Numbers, y: Numbers) -> tuple[NDArray[np.int64], int]:
    """Concordant minus discordant pairs for every row of `y`, and how many pairs differ in `x`."""
    i, j = np.triu_indices(len(x), 1)
    signs = np.sign(x[i] - x[j])
    return (signs * np.sign(y[:, i] - y[:, j])).sum(axis=1).astype(np.int64), int((signs != 0).sum())


def _order_distribution(x: Numbers, y: Numbers) -> Numbers:
    """Probabilities of concordant minus discordant pairs, from -K to K, K all pairs, if any order were as likely."""
    n = len(x)
    k = n * (n - 1) // 2
    found = np.zeros(2 * k + 1)
    if n > _FEW and len(set(x)) == len(set(y)) == n:
        # Without ties the number of inversions is a sum of independent uniform numbers.
        inversions = np.ones(1)
        for size in range(2, n + 1):
            inversions = np.convolve(inversions, np.full(size, 1 / size))
        found[::2] = inversions
        return found
    if n > _FEW:
        drawn = max(_LEAST_DRAWN, min(MOST, _CELLS // k))
        orders = np.random.default_rng(0).random((drawn, n)).argsort(axis=1)
    else:
        orders = np.array(list(itertools.permutations(range(n))), dtype=int).reshape(-1, n)
    some = max(1, _CELLS // max(1, k))
    scores = np.concatenate([_concordance(x, y[orders[i : i + some]])[0] for i in range(0, len(orders), some)])
    np.add.at(found, scores + k, 1 / len(orders))
    return found


def _normal_p(seen: int, lines: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """Two-sided p-value of concordant minus discordant pairs by their variance, ties counted (Kendall, Rank Correlation
    Methods, 1970, chapter 4)."""
    variance = 0.0
    for x, y in lines:
        n = len(x)
        if n < 2:
            continue
        t, u = (np.unique(values, return_counts=True)[1].astype(float) for values in (x, y))
        plain = n * (n - 1) * (2 * n + 5) - sum(float((c * (c - 1) * (2 * c + 5)).sum()) for c in (t, u))
        twos = float((t * (t - 1)).sum()) * float((u * (u - 1)).sum())
        threes = float((t * (t - 1) * (t - 2)).sum()) * float((u * (u - 1) * (u - 2)).sum())
        variance += plain / 18 + twos / (2 * n * (n - 1)) + (threes / (9 * n * (n - 1) * (n - 2)) if n > 2 else 0.0)
    return float(2 * stats.norm.sf(max(0, abs(seen) - 1) / math.sqrt(variance))) if variance else 1.0


def _resampled_tau(lines: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Numbers:
    """Tau of every bootstrap resample; one that drew no two different sizes says 0. Fewer resamples of long lines."""
    rng = np.random.default_rng(0)
    pairs = sum(len(x) * (len(x) - 1) // 2 for x, _ in lines)
    resamples = max(_LEAST_RESAMPLES, min(RESAMPLES, _CELLS // max(1, pairs)))
    score, possible = np.zeros(resamples), np.zeros(resamples)
    for x, y in ((np.asarray(x, dtype=float), np.asarray(y, dtype=float)) for x, y in lines):
        i, j = np.triu_indices(len(x), 1)
        some = max(1, _CELLS // max(1, len(i)))
        for first in range(0, resamples, some):
            rows = slice(first, min(resamples, first + some))
            drawn = rng.integers(0, len(x), (rows.stop - rows.start, len(x)))
            sizes = np.sign(x[drawn[:, i]] - x[drawn[:, j]])
            score[rows] += (sizes * np.sign(y[drawn[:, i]] - y[drawn[:, j]])).sum(axis=1)
            possible[rows] += (sizes != 0).sum(axis=1)
    found: Numbers = np.where(possible > 0, score / np.maximum(possible, 1), 0.0)
    return found


def paired_interval(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """95 % interval of a difference in points between two models on the same examples, by the paired bootstrap.

    To draw the examples anew with replacement is to draw the four counts from a multinomial distribution.
    """
    n = both + only_a + only_b + neither
    drawn = np.random.default_rng(0).multinomial(n, np.array([both, only_a, only_b, neither]) / n, RESAMPLES)
    low, high = np.quantile(100 * (drawn[:, 1] - drawn[:, 2]) / n, [0.025, 0.975])
    return float(low), float(high)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjustment for several tests (Scandinavian Journal of Statistics 1979); None stays None and counts not."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = largest
    return adjusted


def needed(a: Sample, b: Sample, *, level: float) -> int | None:
    """Architectures in each group for a difference as seen to show at `level` in four of five cases (normal
    approximation), and for a permutation test to be able to reach the level at all. None when that is more than 200, or
    nothing is known of the spread."""
    if a.std is None or b.std is None:
        return next(n for n in range(2, 200) if 2 / math.comb(2 * n, n) < level)
    d, variance = a.mean - b.mean, a.std**2 + b.std**2
    z = float(stats.norm.isf(level / 2) + stats.norm.ppf(0.8))
    for n in range(2, 201):
        if 2 / math.comb(2 * n, n) < level and d and n >= z**2 * variance / d**2:
            return n
    return None
