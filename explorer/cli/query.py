"""`tradeoff`, `sql`, `schema`: what the store knows."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from explorer.cli.options import FormatOption, StoreOption
from explorer.render import Column, Format


def tradeoff(
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this dataset.")] = None,
    attack: Annotated[str | None, typer.Option("--attack", help="Only this attack.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="Only measured, or only published results.")] = None,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Print the trade-off table: clean and robust accuracy, HRS, PP-HRS; measured and published rows, marked."""
    from explorer import render
    from explorer import settings as settings_of
    from explorer.errors import ExplorerError
    from explorer.shipped import open_store
    from store import Mirror

    if source not in (None, "measured", "published"):
        raise ExplorerError(f"--source {source!r} is unknown: measured or published.")
    filters = {"dataset": dataset, "attack": attack, "source": source}
    given = {key: value for key, value in filters.items() if value is not None}
    where = " AND ".join(f"{key} = ?" for key in given) or "true"
    mirror = Mirror(open_store(settings_of.load(store)))
    mirror.refresh()
    table = mirror.query(
        f"SELECT * FROM tradeoff WHERE {where} "
        "ORDER BY source, dataset, threat_space, crafted_on IS NOT NULL, eps_value, attack, "
        "robust_accuracy DESC NULLS LAST, architecture",
        list(given.values()),
    )
    rows: list[dict[str, Any]] = table.to_pylist()
    if format is Format.table:
        for row in rows:
            row["params"] = render.megas(row["params"])
            low, high = row["robust_accuracy_low"], row["robust_accuracy_high"]
            row["interval"] = None if low is None else f"{low:.1f}–{high:.1f}"
            row["steps"] = row["steps"] if row["source"] == "measured" else None
    columns = [
        Column("architecture", "architecture"),
        Column("family", "family"),
        Column("params", "params", align="right"),
        Column("dataset", "dataset"),
        Column("attack", "attack"),
        Column("steps", "steps"),
        Column("crafted_on", "made on"),
        Column("eps", "eps", align="right"),
        Column("threat_space", "threat space"),
        Column("n_examples", "n"),
        Column("clean_accuracy", "clean %", 1),
        Column("robust_accuracy", "robust %", 1),
        Column("interval", "95 %", align="right"),
        Column("hrs", "HRS", 1),
        Column("pp_hrs", "PP-HRS", 1),
        Column("status", "status"),
        Column("source", "source"),
    ]
    render.print_rows(rows, form=format, columns=columns, names=table.column_names)


def sql(
    statement: Annotated[str, typer.Argument(help='One statement that only reads, such as "SELECT * FROM tradeoff".')],
    limit: Annotated[int, typer.Option("--limit", min=1, help="Print at most this many rows.")] = 1000,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Give up after this many seconds.")] = 30.0,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Ask the store in SQL: read-only, sandboxed. `nasrob-tui schema` documents tables, views and macros."""
    from explorer import render
    from explorer import settings as settings_of
    from explorer.shipped import open_store
    from store import run_query

    found = open_store(settings_of.load(store))
    if store is None:
        found.ensure()
    result = run_query(found, statement, max_rows=limit, timeout=timeout)
    names = result.table.column_names
    unique = [name if names.index(name) == i else f"{name}_{i}" for i, name in enumerate(names)]
    render.print_rows(result.table.rename_columns(unique).to_pylist(), form=format, names=unique)
    if result.truncated:
        typer.echo(f"nasrob-tui: there are more than {limit} rows; --limit shows more.", err=True)


def schema(
    name: Annotated[str | None, typer.Argument(help="Only this table, view or macro.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Document the tables, views and macros of the store."""
    from explorer import render
    from models.errors import UnknownName
    from store import describe

    objects = describe()
    if name is not None:
        chosen = [o for o in objects if o.name == name]
        if not chosen:
            raise UnknownName("table, view or macro", name, [o.name for o in objects], listing="nasrob-tui schema")
        objects = chosen
    rows: list[dict[str, Any]] = []
    for item in objects:
        rows.append({"kind": item.kind, "name": item.name, "column": None, "type": None, "comment": item.comment})
        rows += [
            {"kind": item.kind, "name": item.name, "column": c.name, "type": c.type, "comment": c.comment}
            for c in item.columns
        ]
    if format is Format.table:
        rows = [{**r, "kind": "", "name": ""} if r["column"] else {**r, "column": "", "type": ""} for r in rows]
    columns = [Column(k, k) for k in ("kind", "name", "column", "type", "comment")]
    render.print_rows(rows, form=format, columns=columns, names=("kind", "name", "column", "type", "comment"))
