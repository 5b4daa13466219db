"""Which rows may be compared, and which of them nobody beats: what the plot of clean against robust accuracy shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from explorer.results import Page

if TYPE_CHECKING:
    import pyarrow as pa

#: What two rows must share so that their accuracies may stand in one plot.
_ALIKE = ("dataset", "label", "eps_value", "threat_space", "verdict", "top_k")
#: Points drawn at most; the front is of all.
MOST = 4000


@dataclass(frozen=True)
class Points:
    """The rows that compare with the one under the cursor: places in the table, and accuracies in percent."""

    about: str
    rows: NDArray[np.int64]
    clean: NDArray[np.float64]
    robust: NDArray[np.float64]
    family: tuple[str, ...]
    published: NDArray[np.bool_]
    #: The front, from the highest robust accuracy to the highest clean one.
    front: NDArray[np.int64]
    #: The place in these arrays of the row under the cursor; None when it has no point.
    cursor: int | None
    #: How many rows compare, drawn or not.
    count: int


def comparable(page: Page, row: int) -> Points:
    """The rows of a page that compare with `row`: same data, attack, eps, threat space and verdict."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = page.table
    mask = pa.array(np.ones(table.num_rows, dtype=bool))
    about: list[str] = []
    for name in _ALIKE:
        if name not in table.column_names:
            continue
        value = table[name][row]
        same = pc.is_null(table[name]) if not value.is_valid else pc.fill_null(pc.equal(table[name], value), False)
        mask = pc.and_(mask, same.combine_chunks() if isinstance(same, pa.ChunkedArray) else same)
        if name in ("dataset", "label", "threat_space") and value.is_valid:
            about.append(str(value.as_py()))
    if page.lead and page.question.pivot:
        about.insert(1, page.lead)
    about.insert(2, str(table["eps"][row].as_py()))
    mask = pc.and_(mask, pc.and_(_given(table, "clean_accuracy"), _given(table, "robust_accuracy")))
    rows = np.flatnonzero(mask.to_numpy(zero_copy_only=False))
    found = table.select(["clean_accuracy", "robust_accuracy", "family", "source"]).take(rows)
    clean, robust = found["clean_accuracy"].to_numpy(), found["robust_accuracy"].to_numpy()
    front = pareto_front(clean, robust)
    kept = np.unique(np.concatenate([np.arange(min(MOST, len(rows))), front, np.flatnonzero(rows == row)])).astype(
        np.int64
    )
    place = np.flatnonzero(rows[kept] == row)
    return Points(
        about=" · ".join(about),
        rows=rows[kept],
        clean=clean[kept],
        robust=robust[kept],
        family=tuple(found["family"].take(kept).to_pylist()),
        published=np.asarray(pc.equal(found["source"], "published").to_numpy())[kept],
        front=np.searchsorted(kept, front),
        cursor=int(place[0]) if len(place) else None,
        count=len(rows),
    )


def pareto_front(clean: NDArray[np.float64], robust: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places of the points that none beats in both, from the highest robust accuracy down; of equal ones the first."""
    order = np.lexsort((np.arange(len(clean)), -clean, -robust))
    best = -np.inf
    front = []
    for i in order:
        if clean[i] > best:
            best = clean[i]
            front.append(int(i))
    return np.asarray(front, dtype=np.int64)


def _given(table: pa.Table, name: str) -> Any:
    import pyarrow.compute as pc

    return pc.is_valid(table[name]).combine_chunks()
