"""`nasrob-tui doctor`: versions, paths, devices, and who holds the store."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from explorer import errors
from explorer.cli.options import FormatOption, StoreOption
from explorer.render import Column, Format

_PACKAGES = (
    "nasrob-tui",
    "torch",
    "torchvision",
    "duckdb",
    "pyarrow",
    "textual",
    "typer",
    "rich",
    "safetensors",
    "numpy",
    "pillow",
    "scipy",
)
#: What some architectures and datasets need; nobody has to have it.
_OPTIONAL = {"timm": "for timm: models", "foolbox": "for the foolbox- datasets"}


def command(store: StoreOption = None, format: FormatOption = Format.table) -> None:
    """Check the installation; exit code 1 when something needs attention."""
    from explorer import render, settings

    found = settings.load(store)
    rows: list[dict[str, Any]] = [_row("python", f"{platform.python_version()} ({platform.platform()})")]
    rows += [_package(name) for name in _PACKAGES]
    rows += [_optional(name, what) for name, what in _OPTIONAL.items()]
    rows += [_folder("home", found.home), _store(found.store), _weights(found.weights_folders), _jobs(found.jobs)]
    rows.append(_data())
    rows += _devices()
    names = ("item", "value", "ok", "advice")
    render.print_rows(rows, form=format, columns=[Column(n, n) for n in names], names=names)
    raise typer.Exit(errors.OK if all(row["ok"] for row in rows) else errors.FAILED)


def _row(item: str, value: str, ok: bool = True, advice: str | None = None) -> dict[str, Any]:
    return {"item": item, "value": value, "ok": ok, "advice": advice}


def _package(name: str) -> dict[str, Any]:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return _row(name, "not installed", False, f"pip install {name}")
    if name == "duckdb" and version == "2.0.0":
        return _row(name, version, False, "2.0.0 returns wrong rows from Python data: pip install 'duckdb!=2.0.0'")
    return _row(name, version)


def _optional(name: str, what: str) -> dict[str, Any]:
    try:
        return _row(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return _row(name, f"not installed, {what}")


def _data() -> dict[str, Any]:
    from models.datasets import registry

    here = [name for name, d in registry.entries().items() if registry.locate(d, d.test_split) is not None]
    return _row("data", f"{registry.data_root()}; here: {', '.join(here)}")


def _folder(item: str, path: Path) -> dict[str, Any]:
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not os.access(existing, os.W_OK):
        return _row(item, str(path), False, f"{existing} is not writable: set NASROB_HOME to a folder that is")
    free = shutil.disk_usage(existing).free / 2**30
    return _row(item, f"{path} ({free:.1f} GiB free)", free > 0.1, None if free > 0.1 else "the disk is nearly full")


def _store(path: Path) -> dict[str, Any]:
    from store import Store
    from store.errors import StoreError, StoreNotFound

    found = Store(path)
    try:
        owner = found.owner()
        if owner is not None:
            return _row("store", f"{path}, held by {owner}")
        with found.read() as connection:
            counts = connection.execute("SELECT count(*), coalesce(sum(n_done), 0) FROM evaluations").fetchone()
        return _row(
            "store", f"{path}: {counts[0]} evaluations, {counts[1]} outcomes; nobody holds it" if counts else str(path)
        )
    except StoreNotFound:
        return _row("store", f"{path}: will be made when it is needed")
    except StoreError as error:
        return _row("store", str(path), False, str(error))


def _weights(folders: list[Path]) -> dict[str, Any]:
    from models.weights import catalogue

    files = catalogue.scan(folders)
    return _row("weights", f"{len(files)} files in {', '.join(map(str, folders))}")


def _jobs(path: Path) -> dict[str, Any]:
    from explorer.jobs import folder

    states = [job.state() for job in folder.all_jobs(path)]
    running = states.count("running")
    return _row("jobs", f"{len(states)} in {path}, {running} running")


def _devices() -> list[dict[str, Any]]:
    try:
        from models import devices

        return [_row(f"device {d['device']}", d["name"]) for d in devices.describe()]
    except Exception as error:
        return [_row("devices", "torch cannot be imported", False, str(error).partition("\n")[0])]
