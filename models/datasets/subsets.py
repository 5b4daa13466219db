"""Which examples come first: the same for every model, every machine and every version of Python."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from models.specs import digest


def balanced_order(labels: NDArray[np.int64], seed: str) -> NDArray[np.int64]:
    """A permutation of the positions 0 to n - 1 of which every beginning is class-balanced.

    Each position draws a number, the SHA-256 of `seed:position`. Within a class examples are sorted by it; then the
    classes are dealt out in rounds, each giving one example a round as long as it has any, and within a round examples
    are sorted by the same number. So the first n examples hold every class equally often, to within one, and the
    first few are not those of the first classes.
    """
    n = len(labels)
    draws = np.fromiter(
        (int.from_bytes(hashlib.sha256(f"{seed}:{i}".encode()).digest()[:8], "big") for i in range(n)), np.uint64, n
    )
    by_class = np.lexsort((draws, labels))
    counts = np.bincount(labels, minlength=1)
    begins = np.cumsum(counts) - counts
    rounds = np.empty(n, np.int64)
    rounds[by_class] = np.arange(n) - begins[labels[by_class]]
    return np.lexsort((draws, rounds)).astype(np.int64)


def subset_digest(indices: NDArray[np.int64]) -> str:
    """Identity of a list of examples, in order."""
    return digest([int(i) for i in indices])
