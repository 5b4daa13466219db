"""What there is to say about an architecture, gathered for the command line and for the app.

Everything but the counts is read from the registry, from weight files and from the store, without torch. Counting
builds the network, which a child process does. Every function may read files: call them from a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from explorer import tradeoff
from explorer.cellcomparison import Comparison, compare
from explorer.cellgraph import CellGraph, Picture, pictures
from explorer.errors import ExplorerError
from explorer.results import Results
from explorer.settings import Settings
from explorer.tradeoff import Statement
from explorer.widgets.cells import FAMILIES
from models.architectures import registry
from models.architectures.options import scale_of
from models.architectures.registry import Architecture
from models.ensembles import composition
from models.specs import ArchitectureSpec, canonical_json, split_options
from models.weights import catalogue

#: How long counting may take, in seconds. The largest networks take a tenth of it.
COUNTING_LIMIT = 120.0


@dataclass(frozen=True)
class Page:
    """An architecture with its options, and pictures of what its search found (none for a hand-crafted one)."""

    entry: Architecture
    spec: ArchitectureSpec
    pictures: tuple[Picture, ...]
    #: What a person writes to get it: the bare name where no option was given.
    text: str

    @property
    def operations(self) -> dict[str, int]:
        """How often each operation occurs in the cells, the frequent ones first."""
        graphs = [picture for picture in self.pictures if isinstance(picture, CellGraph)]
        return dict(Counter(edge.operation for graph in graphs for edge in graph.edges if edge.operation).most_common())

    @property
    def definition(self) -> str | None:
        """What the search found, as text that the registry reads back."""
        definition = self.entry.definition
        if definition is None:
            return None
        return str(definition.genotype) if definition.genotype else canonical_json(definition.to_dict())

    @property
    def trainable(self) -> bool:
        """Whether it takes the small images that come with the package."""
        return self.entry.input_size is None

    @property
    def command(self) -> str:
        """The command line that shows the same."""
        return shlex.join(["nasrob-tui", "archs", "show", self.text])


@dataclass(frozen=True)
class Counts:
    """Sizes of a network; `None` where nobody has counted. See `models.counting`."""

    params: int | None = None
    params_with_aux: int | None = None
    macs: int | None = None
    n_state_dict_keys: int | None = None
    state_dict_sha256_sorted: str | None = None
    #: What it was counted for.
    in_channels: int | None = None
    input_size: int | None = None
    num_classes: int | None = None


def look_up(text: str) -> Page:
    """The page of an architecture as a person writes it, options included.

    Raises `ModelsError` with the nearest names when there is none.
    """
    name, options = split_options(text)
    entry = registry.find(name)
    side = entry.input_size or 32
    scale = scale_of((3, side, side))
    spec = entry.resolve(options, scale=scale)
    found = pictures_of(spec)
    return Page(entry, spec, found, entry.name if spec == entry.resolve({}, scale=scale) else spec.canonical)


def pictures_of(spec: ArchitectureSpec) -> tuple[Picture, ...]:
    """What a search found of an architecture; of an ensemble that of each member, with the member's number before."""
    entry = registry.find(spec.name)
    if entry.definition is None:
        return ()
    if entry.family != "ensemble":
        return pictures(entry.definition)
    return tuple(
        replace(picture, title=f"{position}: {picture.title}")
        for position, member in enumerate(composition.of(spec).members)
        for picture in pictures_of(member.spec)
    )


def choices() -> list[tuple[str, str, str]]:
    """The architectures to choose from, as (name, name, what it is): the well-known first."""
    return [_choice(entry) for entry in _listed()]


def comparable(page: Page) -> list[tuple[str, str, str]]:
    """The same for those whose cells or blocks compare with these. Raises `ExplorerError` when it has none."""
    space = _space(page.entry)
    if not page.pictures:
        raise ExplorerError(f"{page.text} is not made of cells or blocks that a search found: nothing to compare.")
    return [_choice(entry) for entry in _listed() if _space(entry) == space and entry.name != page.entry.name]


def _listed() -> list[Architecture]:
    """What the registry lists, without the names that stand for families."""
    return sorted((e for e in registry.entries().values() if "<" not in e.name), key=lambda e: not e.curated)


def _choice(entry: Architecture) -> tuple[str, str, str]:
    return entry.name, entry.name, f"{FAMILIES.get(entry.family, entry.family)} · {entry.description}"


def compare_architectures(a: str, b: str) -> tuple[Comparison, Page, Page]:
    """Compare two architectures edge by edge, or block by block.

    Raises `ModelsError` for a name that nobody knows, `ExplorerError` for two that have nothing in common.
    """
    first, second = look_up(a), look_up(b)
    for page in (first, second):
        if not page.pictures:
            raise ExplorerError(f"{page.text} is not made of cells or blocks that a search found: nothing to compare.")
    if _space(first.entry) != _space(second.entry):
        raise ExplorerError(
            f"{first.text} comes from the space {_space(first.entry)}, {second.text} from {_space(second.entry)}: "
            "compare two of one space."
        )
    return compare(first.text, first.pictures, second.text, second.pictures), first, second


def compare_command(a: Page, b: Page) -> str:
    """The command line that shows the same comparison."""
    return shlex.join(["nasrob-tui", "archs", "compare", a.text, b.text])


def _space(entry: Architecture) -> str | None:
    return entry.definition.space if entry.definition is not None else None


# -- what was made and measured ---------------------------------------------------------------------------------------


def weights_of(page: Page, settings: Settings) -> list[dict[str, Any]]:
    """What the weights that there are for an architecture, with any options, say about themselves."""
    return [
        {
            "architecture": file.record.architecture,
            "dataset": file.record.dataset,
            "seed": file.record.seed,
            "clean_accuracy": file.record.clean_accuracy,
            "sha256": file.record.tensors_sha256,
            "origin": file.record.origin,
            "path": str(file.path),
        }
        for file in catalogue.scan(settings.weights_folders)
        if file.record.architecture.partition("@")[0] == page.entry.name
    ]


def evaluations_of(page: Page, results: Results) -> list[dict[str, Any]]:
    """The rows of `tradeoff` of an architecture, with any options and under any spelling of its names: measured ones
    first, then by data and attack, weak attacks first. Nothing until the store has been read."""
    if not results.ready:
        return []
    statement = Statement(
        """
        SELECT source, row_key, architecture, architecture_id, dataset, attack, steps, restarts, eps, eps_value,
            threat_space, crafted_on, clean_accuracy, robust_accuracy, robust_accuracy_low,
            robust_accuracy_high, status, n_warnings, top_k
        FROM tradeoff
        WHERE architecture_key(architecture) IN (SELECT unnest(?))
        """,
        [sorted({_key(name) for name in (page.entry.name, *page.entry.aliases)})],  # type: ignore[list-item]
    )
    rows: list[dict[str, Any]] = results.query(statement).to_pylist()
    return sorted(rows, key=_order)


def _key(name: str) -> str:
    """The same as the store's macro `architecture_key`: no letter case, no punctuation."""
    return re.sub("[^A-Za-z0-9]", "", name).lower()


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        row["source"] != "measured",
        row["dataset"] or "",
        row["architecture_id"] or "",
        tradeoff.strength(row),
        row["eps_value"] or 0.0,
        row["row_key"],
    )


def rows_filter(rows: Iterable[Mapping[str, Any]]) -> str:
    """The filter of the trade-off table that shows these rows' architectures."""
    names = ",".join(dict.fromkeys(str(row["architecture"]) for row in rows))
    return f'arch:"{names}"' if re.search(r"\s", names) else f"arch:{names}"


# -- counting ----------------------------------------------------------------------------------------------------------


def counting_command(page: Page) -> list[str]:
    """The command that counts an architecture with its options, whatever is around it."""
    words = ["archs", "show", page.spec.canonical, "--format", "json"]
    return [sys.executable, "-P", "-m", "nasrob_tui", *words]


async def count(page: Page, settings: Settings, *, of: Sequence[str] = ()) -> Counts:
    """Count in a child process, which ends with the task that waits for it. `of` are options of `archs show` that say
    for which images and classes.

    Raises `ExplorerError` when it cannot be counted.
    """
    process = await asyncio.create_subprocess_exec(
        *counting_command(page),
        *of,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "NASROB_HOME": str(settings.home), "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
    )
    try:
        printed, said = await asyncio.wait_for(process.communicate(), COUNTING_LIMIT)
    except TimeoutError:
        raise ExplorerError(f"counting {page.text} took longer than {COUNTING_LIMIT:.0f} s.") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        lines = said.decode("utf-8", "replace").strip().splitlines()
        raise ExplorerError(lines[-1] if lines else f"counting {page.text} failed.")
    return read_counts(printed.decode("utf-8", "replace"))


def read_counts(text: str) -> Counts:
    """The counts in what `archs show --format json` prints. Raises `ExplorerError` when there are none."""
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("params"), int):
        raise ExplorerError("the network was not counted.")
    return counts_of(record)


def counts_of(record: Mapping[str, Any]) -> Counts:
    """The counts among other things."""
    return Counts(**{field.name: record.get(field.name) for field in fields(Counts)})
