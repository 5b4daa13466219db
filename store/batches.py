"""Batches of rows as other rooms hand them over, one Arrow table each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def in_shape(batch: pa.Table, schema: pa.Schema, what: str) -> pa.Table:
    """The batch in exactly the columns and types of `schema`; nullable ones may be missing. Raises `ValueError`."""
    import pyarrow as pa

    unknown = set(batch.column_names) - set(schema.names)
    missing = {field.name for field in schema if not field.nullable} - set(batch.column_names)
    if unknown or missing:
        raise ValueError(f"a batch of {what} lacks {sorted(missing)} and has the unknown columns {sorted(unknown)}")
    columns = [
        batch.column(field.name).cast(field.type)
        if field.name in batch.column_names
        else pa.nulls(len(batch), field.type)
        for field in schema
    ]
    return pa.table(columns, names=schema.names)
