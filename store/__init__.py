"""What is remembered: the DuckDB results store. No torch, no terminal interface, and no idea who shows it.

The names below are the room's public face. They load on first use, so that importing `store` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from store.errors import (
    EvaluationNotFound,
    ForeignStore,
    QueryError,
    ShippedDamaged,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNotFound,
    StoreReadOnly,
    StoreTooNew,
)

if TYPE_CHECKING:
    from store.connection import LockOwner, Store
    from store.mirror import Mirror
    from store.schema import SchemaObject, describe
    from store.sql import QueryResult, run_query

#: Where each lazily loaded name lives.
_HOMES = {
    "LockOwner": "store.connection",
    "Mirror": "store.mirror",
    "QueryResult": "store.sql",
    "SchemaObject": "store.schema",
    "Store": "store.connection",
    "describe": "store.schema",
    "run_query": "store.sql",
}

__all__ = [
    "EvaluationNotFound",
    "ForeignStore",
    "LockOwner",
    "Mirror",
    "QueryError",
    "QueryResult",
    "SchemaObject",
    "ShippedDamaged",
    "Store",
    "StoreBusy",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreNotFound",
    "StoreReadOnly",
    "StoreTooNew",
    "describe",
    "run_query",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
