"""How alike the input gradients of two models are, image by image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from store.batches import in_shape
from store.fetch import one

if TYPE_CHECKING:
    import pyarrow as pa

    from store.connection import Store

#: Rounding carries the cosine of two like gradients a speck past 1.
_LARGEST_COSINE = 1.001


def gradient_cosine_schema() -> pa.Schema:
    """Columns and types of a batch for `save_gradient_cosines`: those of the table `gradient_cosines`."""
    import pyarrow as pa

    text = ("dataset_id", "model_sha256_a", "architecture_id_a", "model_sha256_b", "architecture_id_b")
    return pa.schema(
        [
            *(pa.field(name, pa.string(), nullable=False) for name in text[:1]),
            pa.field("example", pa.int32(), nullable=False),
            *(pa.field(name, pa.string(), nullable=False) for name in text[1:]),
            pa.field("cosine", pa.float32()),
        ]
    )


def save_gradient_cosines(store: Store, table: pa.Table) -> int:
    """Keep the cosines between input gradients of pairs of models, and return how many were not there yet.

    `table` has the columns of `gradient_cosine_schema`; which model of a pair is `a` does not matter. A cosine is -1 to
    1 up to rounding, null (or NaN) where a gradient is zero. What is there already stays. Raises `ValueError` for a
    batch of another shape.
    """
    batch = in_shape(table, gradient_cosine_schema(), "gradient cosines")
    if not len(batch):
        return 0
    with store.write() as con:
        con.register("batch", batch)
        beyond = one(con, f"SELECT count(*) FROM batch WHERE NOT isnan(cosine) AND abs(cosine) > {_LARGEST_COSINE}")
        if beyond is None or beyond[0]:
            raise ValueError(f"{beyond and beyond[0]} of {len(batch)} gradient cosines are not between -1 and 1")
        inserted = one(
            con,
            """
            WITH pairs AS (
                SELECT
                    dataset_id,
                    example,
                    (model_sha256_a, architecture_id_a) <= (model_sha256_b, architecture_id_b) AS in_order,
                    if(in_order, model_sha256_a, model_sha256_b) AS model_sha256_a,
                    if(in_order, architecture_id_a, architecture_id_b) AS architecture_id_a,
                    if(in_order, model_sha256_b, model_sha256_a) AS model_sha256_b,
                    if(in_order, architecture_id_b, architecture_id_a) AS architecture_id_b,
                    CASE WHEN cosine IS NOT NULL AND NOT isnan(cosine) THEN greatest(-1, least(1, cosine)) END AS cosine
                FROM batch
            )
            INSERT INTO gradient_cosines BY NAME
            SELECT DISTINCT ON ({key}) pairs.* EXCLUDE (in_order)
            FROM pairs ANTI JOIN gradient_cosines USING ({key})
            """.replace("{key}", ", ".join(gradient_cosine_schema().names[:-1])),
        )
        con.unregister("batch")
    assert inserted is not None
    return int(inserted[0])
