"""The interval shown while an evaluation runs. Stored numbers take theirs from the store's own macros."""

from __future__ import annotations

import math

#: Two-sided 95 % quantile of the normal distribution.
Z = 1.959963984540054


def wilson(k: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval for `k` of `n`, in percent. Raises `ValueError` when `n` is 0."""
    if n <= 0:
        raise ValueError("no examples, no interval")
    p = k / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def half_width(k: int, n: int) -> float:
    """Half the width of Wilson's 95 % interval, in percentage points."""
    low, high = wilson(k, n)
    return (high - low) / 2
