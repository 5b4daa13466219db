"""What comes with the package, seen in a person's own results: the store that commands which read are given."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from explorer.settings import Settings
    from store.connection import Store
    from store.errors import StoreError


def open_store(settings: Settings) -> Store:
    """The results store, in the home folder with the shipped results in it: they are taken in the first time.

    A file that a person named with `--store` stays as it is. Whatever goes wrong with the shipped results is said on
    stderr and is no error: the store without them is still a person's own.
    """
    from store import Store
    from store.errors import ShippedDamaged

    found = Store(settings.store)
    error = _provide(settings, found)
    # Where there can be no store at all, whoever reads it says so.
    if error is not None and (isinstance(error, ShippedDamaged) or found.path.exists()):
        print(f"nasrob-tui: {_sentence(error)}", file=sys.stderr)
    return found


def provide(settings: Settings, store: Store) -> str | None:
    """Take the shipped results into the store of the home folder, once; returns a sentence where they cannot be."""
    from store.errors import ShippedDamaged

    error = _provide(settings, store)
    if error is None or isinstance(error, ShippedDamaged) or store.path.exists():
        return None if error is None else _sentence(error)
    return str(error)


def _provide(settings: Settings, store: Store) -> StoreError | None:
    from store.errors import StoreBusy, StoreError
    from store.shipping import provide_shipped

    if not settings.is_default_store:
        return None
    try:
        provide_shipped(store)
    except StoreBusy:
        return None  # next time
    except StoreError as error:
        return error
    return None


def _sentence(error: StoreError) -> str:
    return f"the results that come with the package are not shown: {error}"


def preview(settings: Settings) -> DuckDBPyConnection:
    """What the store will show once it is made: see `store.shipping.preview`."""
    from store import shipping

    return shipping.preview(shipping.FOLDER if settings.is_default_store and shipping.wanted() else None)
