"""An architecture on a sheet: what it is, how large, its cells, its options, its weights and its results.

The same sheet in the app and on the command line, whose `archs show` and `archs compare` are here. Free of textual.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.style import Style
from rich.table import Table
from rich.text import Text

from explorer import architectures
from explorer.architectures import Counts, Page
from explorer.cellcomparison import Versus
from explorer.celldrawing import TERMINAL, Drawing, Palette
from explorer.render import megas
from explorer.results import Results
from explorer.settings import Settings
from explorer.shipped import provide
from explorer.widgets.cells import FAMILIES, MARKS, SPACES, interval, mark, one_decimal, text, thousands
from models.datasets import registry as datasets
from models.datasets.registry import Dataset
from models.ensembles import composition
from models.errors import ModelsError
from models.specs import ArchitectureSpec
from models.weights import catalogue

#: From this width on options and weights stand beside the results.
_BESIDE_FROM = 110
#: Width of options and the like, where results stand beside them.
_LEFT_WIDTH = 80
#: Of many results the first are shown; the trade-off table has them all.
_MOST_RESULTS = 30
#: Width of what is not printed on a terminal.
_WIDTH = 120
#: What stands for a character that an old terminal does not have.
_PLAIN = str.maketrans({"●": "*", "■": "#", "◆": "+", "·": "-", "–": "-", "…": "...", "×": "x", "→": "->"})


@dataclass(frozen=True)
class Known:
    """What has been found out so far; `None` is not looked up yet. `uncounted` says why there are no counts, and
    `rest` what to do to see more results than fit."""

    counts: Counts | None = None
    uncounted: str = ""
    weights: Sequence[Mapping[str, Any]] | None = None
    rows: Sequence[Mapping[str, Any]] | None = None
    rest: str = ""


class ArchitectureSheet:
    """The sheet at any width, for Rich and for textual."""

    def __init__(self, page: Page, known: Known, palette: Palette = TERMINAL) -> None:
        self.page, self.known, self.palette = page, known, palette
        self._drawing = Drawing(page.pictures, palette)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._heading(options.max_width)
        if self.page.pictures:
            yield Text()
            yield self._drawing
        about, found = list(self._about()), [*self._weights(), *self._results()]
        if options.max_width < _BESIDE_FROM or not about:
            yield from (*about, *found)
            return
        columns = Table.grid(padding=(0, 4, 0, 0))
        columns.add_column(max_width=_LEFT_WIDTH)
        columns.add_column()
        columns.add_row(Group(*about), Group(*found))
        yield columns

    def _heading(self, width: int) -> Iterator[RenderableType]:
        entry, palette = self.page.entry, self.palette
        yield Text.assemble(
            (self.page.text, palette.families.get(entry.family, palette.text) + Style(bold=True)),
            (f"   {FAMILIES.get(entry.family, entry.family)} · {entry.lineage}", palette.quiet),
        )
        yield Text(entry.description, palette.text)
        yield Text(entry.source, palette.quiet)
        yield self._size(width)
        yield from self._members()

    def _members(self) -> Iterator[RenderableType]:
        """What an ensemble is made of."""
        if self.page.entry.family != "ensemble":
            return
        made_of = composition.of(self.page.spec)
        yield self._title("members")
        grid = Table.grid(padding=(0, 2, 0, 0))
        for position, member in enumerate(made_of.members):
            grid.add_row(text(position, self.palette.quiet), text(member.architecture, self.palette.text))
        yield grid
        yield Text(f"combined by {made_of.combine}: {composition.RULES[made_of.combine]}", self.palette.quiet)

    def _size(self, width: int) -> Text:
        """What was counted, on one line: what does not fit is left out, the least important first."""
        counts, palette = self.known.counts, self.palette
        if counts is None:
            return Text(self.known.uncounted or "counting its parameters …", palette.quiet)
        parts = [f"{megas(counts.params)} parameters"]
        if counts.macs is not None:
            parts.append(f"{megas(counts.macs)} multiply-adds")
        if counts.n_state_dict_keys is not None:
            parts.append(f"{thousands(counts.n_state_dict_keys)} tensors")
        if counts.input_size is not None:
            shape = f"{counts.in_channels}x{counts.input_size}x{counts.input_size}"
            parts.append(f"for {shape}, {counts.num_classes} classes")
        if counts.params_with_aux is not None and counts.params_with_aux != counts.params:
            parts.append(f"{megas(counts.params_with_aux)} with the auxiliary head")
        while len(parts) > 1 and len(" · ".join(parts)) > width:
            parts.pop()
        return Text(" · ".join(parts), palette.text)

    def _about(self) -> Iterator[RenderableType]:
        page, palette = self.page, self.palette
        if page.operations:
            yield self._title("operations")
            counted = (f"{operation.replace(' ', '')} ×{n}" for operation, n in page.operations.items())
            yield Text("   ".join(counted), palette.text)
        if page.entry.options:
            yield self._title("options")
            yield self._options()
        if page.entry.aliases:
            yield self._title("also called")
            yield Text(", ".join(page.entry.aliases), palette.text)

    def _options(self) -> RenderableType:
        page, palette = self.page, self.palette
        values = dict(page.spec.options)
        grid = Table.grid(padding=(0, 2, 0, 0))
        for option in page.entry.options:
            value = values.get(option.name, option.default)
            others = (("published", option.default), ("tiny images", option.small), ("large images", option.large))
            said = [f"{where} {_said(v)}" for where, v in others if v != value]
            grid.add_row(
                text(option.name, palette.quiet),
                text(_said(value), palette.text),
                Text("; ".join((option.help, *said)), palette.quiet),
            )
        return grid

    def _weights(self) -> Iterator[RenderableType]:
        palette, files = self.palette, self.known.weights
        yield self._title("weights")
        if files is None:
            yield Text("looking …", palette.quiet)
        elif not files:
            name = self.page.text
            get = f"train --arch {name} --dataset digits" if self.page.trainable else f"weights add FILE --arch {name}"
            yield Text.assemble(("none yet: ", palette.quiet), (f"nasrob-tui {get}", palette.text))
        else:
            grid = Table.grid(padding=(0, 2, 0, 0))
            for file in files:
                clean = "" if file["clean_accuracy"] is None else f"{one_decimal(file['clean_accuracy'])} % clean"
                seed = "" if file["seed"] is None else f"seed {file['seed']}"
                options = file["architecture"].partition("@")[2]
                grid.add_row(
                    *(text(cell, palette.text) for cell in (file["dataset"], seed, clean)),
                    *(text(cell, palette.quiet) for cell in (file["sha256"][:8], options)),
                )
            yield grid

    def _results(self) -> Iterator[RenderableType]:
        palette, rows = self.palette, self.known.rows
        yield self._title("results")
        if rows is None:
            yield Text("looking …", palette.quiet)
            return
        if not rows:
            yield Text("none yet", palette.quiet)
            return
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style=palette.quiet)
        for name in ("", "dataset", "attack", "eps", "threat"):
            table.add_column(name, no_wrap=True)
        between = any(row["robust_accuracy_low"] is not None for row in rows)
        for name in ("clean", "robust", "95 %" if between else ""):
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows[:_MOST_RESULTS]:
            table.add_row(*self._result(row))
        yield table
        if len(rows) > _MOST_RESULTS:
            yield Text(f"and {len(rows) - _MOST_RESULTS} more: {self.known.rest}", palette.quiet)
        there = {mark(row) for row in rows}
        said = [f"{sign} {meaning}" for sign, meaning in MARKS.items() if sign in there]
        if {row["architecture_id"] for row in rows if row["source"] == "measured"} - {self.page.spec.canonical}:
            said.append("with any options")
        if said:
            yield Text("   ".join(said), palette.quiet)

    def _result(self, row: Mapping[str, Any]) -> Sequence[Text]:
        palette, sign = self.palette, mark(row)
        ink = palette.quiet if row["source"] == "published" else palette.text
        many = f"-{row['steps']}" if (row["steps"] or 1) > 1 else ""
        many += f"x{row['restarts']}" if (row["restarts"] or 1) > 1 else ""
        many += f" from {row['crafted_on']}" if row.get("crafted_on") else ""
        top = "" if (row["top_k"] or 1) == 1 else f", top-{row['top_k']}"
        low, high = row["robust_accuracy_low"], row["robust_accuracy_high"]
        return (
            text(sign, palette.changed if sign == "!" else palette.quiet),
            text(f"{row['dataset']}{top}", ink),
            text(f"{row['attack']}{many}", ink),
            text(row["eps"], ink),
            text(SPACES.get(str(row["threat_space"]), row["threat_space"]), ink),
            text(one_decimal(row["clean_accuracy"]), ink, right=True),
            text(one_decimal(row["robust_accuracy"]), ink, right=True),
            text("" if low is None else interval(low, high), palette.quiet, right=True),
        )

    def _title(self, said: str) -> Text:
        return Text(f"\n{said}", self.palette.accent)


def _said(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# -- the command line --------------------------------------------------------------------------------------------------


def records(spec: ArchitectureSpec, settings: Settings) -> dict[str, Any]:
    """The weights and the results that there are for an architecture, with any options, as JSON can hold them."""
    page = architectures.look_up(spec.canonical)
    results = Results(settings.store, prepare=partial(provide, settings))
    try:
        results.refresh()
        rows = architectures.evaluations_of(page, results)
    finally:
        results.close()
    return {"weights": architectures.weights_of(page, settings), "evaluations": rows}


def dataset_of_weights(spec: ArchitectureSpec, settings: Settings) -> Dataset | None:
    """The dataset that all the weights there are for an architecture with these options were made for.

    None when there are none, or they are for several datasets, or for one that is not known here.
    """
    files = catalogue.scan(settings.weights_folders)
    names = {file.record.dataset for file in files if file.record.architecture == spec.canonical}
    try:
        return datasets.find(names.pop()) if len(names) == 1 else None
    except ModelsError:
        return None


def print_page(record: Mapping[str, Any], file: TextIO) -> None:
    """Print the sheet of what `archs show` has found: `architecture` in canonical form, counts and `records`."""
    known = Known(
        architectures.counts_of(record),
        weights=record["weights"],
        rows=record["evaluations"],
        rest="nasrob-tui tradeoff lists all",
    )
    _print(ArchitectureSheet(architectures.look_up(record["architecture"]), known), file)


def print_cells(architecture: str, file: TextIO) -> None:
    """Print the cells of an architecture, or of all members of an ensemble, drawn."""
    _print(Drawing(architectures.look_up(architecture).pictures, TERMINAL), file)


def print_comparison(first: str, second: str, file: TextIO, *, as_json: bool) -> None:
    """Print how two architectures differ, edge by edge.

    Raises `ModelsError` for a name that nobody knows, `ExplorerError` for two that have nothing to compare.
    """
    comparison, a, b = architectures.compare_architectures(first, second)
    if as_json:
        json.dump(comparison.to_dict(), file, indent=2, ensure_ascii=False)
        file.write("\n")
    else:
        _print(Versus(comparison, a.pictures, b.pictures), file)


def _print(sheet: RenderableType, file: TextIO) -> None:
    console = Console(file=file, highlight=False, width=None if file.isatty() else _WIDTH)
    if console.options.ascii_only:
        with console.capture() as captured:
            console.print(sheet)
        encoding = file.encoding or "ascii"
        file.write(captured.get().translate(_PLAIN).encode(encoding, "replace").decode(encoding))
    else:
        console.print(sheet)
