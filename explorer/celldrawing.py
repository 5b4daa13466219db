"""Cells drawn with lines, for any terminal.

Every vertex has a lane that starts at its dot and goes down; every edge has a row, on which a line leads from the lane
of its source to the right into the lane of its target, with the operation beside it or, where there is room, on it.
Crossing lines do not touch. The look of a line says the kind of its operation, and so does its colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from operator import itemgetter
from textwrap import wrap
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from explorer.cellgraph import CellGraph, Chain, Kind, Picture, kind_of

#: Cells from lane to lane: the widest with which all pictures stand side by side is taken.
_SPACINGS = (5, 4, 3)
#: Cells between two pictures, and before a picture's operations.
GAP, _INDENT = 4, 2
#: What a line needs beside the operation that is written on it.
_ON_LINE = 7

#: Whether an edge is the same in another cell (=), another one (~), or only here (- or +).
Mark = Literal["=", "~", "+", "-"]


@dataclass(frozen=True)
class Palette:
    """The styles of a drawing: of what is around the operations, of their kinds, and of the marks of a comparison."""

    text: Style
    quiet: Style
    accent: Style
    conv: Style
    dilated: Style
    pool: Style
    skip: Style
    changed: Style
    added: Style
    removed: Style
    #: Styles of the families of architectures.
    families: Mapping[str, Style] = field(default_factory=dict)

    def kind(self, kind: Kind) -> Style:
        """The style of an operation of this kind."""
        styles = {"conv": self.conv, "dilated": self.dilated, "pool": self.pool, "skip": self.skip, "link": self.text}
        return styles.get(kind, self.quiet)

    def mark(self, mark: Mark) -> Style:
        return {"=": self.quiet, "~": self.changed, "+": self.added, "-": self.removed}[mark]


#: The terminal's own colours, which suit light and dark.
TERMINAL = Palette(
    text=Style(),
    quiet=Style(dim=True),
    accent=Style(bold=True),
    conv=Style(color="blue"),
    dilated=Style(color="magenta"),
    pool=Style(color="red"),
    skip=Style(color="green"),
    changed=Style(color="yellow"),
    added=Style(color="green"),
    removed=Style(color="red"),
    families={"handcrafted": Style(color="magenta"), "nas": Style(color="cyan")},
)


@dataclass(frozen=True)
class _Line:
    """The characters of one kind of line: along, across a lane, from a lane, from its end, into a new lane, into one
    that is there."""

    along: str
    across: str
    start: str
    start_end: str
    first: str
    into: str


@dataclass(frozen=True)
class _Pen:
    """The characters of a drawing."""

    lines: Mapping[Kind, _Line]
    lane: str
    dot: str
    hollow: str
    arrow: str
    #: The row of the output: from its first lane, from a further one.
    corner: str
    join: str

    def line(self, kind: Kind) -> _Line:
        return self.lines.get(kind, self.lines["skip"])


_BOX = _Pen(
    {
        "conv": _Line(*"━┿┝┕┑┥"),
        "dilated": _Line(*"┅┿┝┕┑┥"),
        "pool": _Line(*"═╪╞╘╕╡"),
        "skip": _Line(*"─┼├└┐┤"),
        "none": _Line(*"┈┼├└┐┤"),
    },
    *"│●○▸└┴",
)
_ASCII = _Pen(
    {
        "conv": _Line(*"-|++++"),
        "dilated": _Line(*"~|++++"),
        "pool": _Line(*"=|++++"),
        "skip": _Line(*"-|++++"),
        "none": _Line(*".|++++"),
    },
    *"|*o>++",
)
_KIND_NAMES: dict[Kind, str] = {
    "conv": "convolution",
    "dilated": "dilated",
    "pool": "pooling",
    "skip": "skip",
    "none": "none",
    "other": "other",
}


class Drawing:
    """Pictures side by side as far as the width allows, else below one another; for Rich and for textual.

    `marks` holds, for every picture, a sign for each of its edges (or blocks).
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        palette: Palette = TERMINAL,
        *,
        marks: Sequence[Sequence[Mark]] | None = None,
        legend: bool = True,
    ) -> None:
        self.pictures = pictures
        self.palette = palette
        self.marks: Sequence[Sequence[Mark] | None] = marks if marks is not None else [None] * len(pictures)
        self.legend = legend
        self._drawn: dict[tuple[int, bool], list[Text]] = {}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines(options.max_width, ascii_only=options.ascii_only)

    def lines(self, width: int, *, ascii_only: bool = False) -> Sequence[Text]:
        """The lines for a width in cells. What is wider than that is cut off."""
        if (width, ascii_only) not in self._drawn:
            self._drawn[width, ascii_only] = list(self._draw(width, ascii_only))
        return self._drawn[width, ascii_only]

    def fits(self, width: int) -> bool:
        """Whether all pictures stand side by side in a width."""
        return self._total(_SPACINGS[-1], width) <= width

    def _draw(self, width: int, ascii_only: bool) -> Iterator[Text]:
        """Operations are on the lines where all pictures stand side by side so, else beside the lines."""
        spacing = next((s for s in (None, *_SPACINGS) if self._total(s, width) <= width), _SPACINGS[-1])
        drawn = [
            draw(picture, self.palette, marks=marks, spacing=spacing, ascii_only=ascii_only)
            if isinstance(picture, CellGraph)
            else list(_table(picture, self.palette, marks, width))
            for picture, marks in zip(self.pictures, self.marks, strict=True)
        ]
        for number, row in enumerate(_rows(drawn, width)):
            if number:
                yield Text()
            yield from beside(row, width)
        if self.legend and (key := legend(self.pictures, self.palette, ascii_only=ascii_only)):
            key.truncate(width, overflow="ellipsis")
            yield Text()
            yield key

    def _total(self, spacing: int | None, width: int) -> int:
        """The width of all pictures side by side."""
        each = (
            _Sheet(picture, self.palette, marks, spacing, _BOX).width
            if isinstance(picture, CellGraph)
            else _width(list(_table(picture, self.palette, marks, width)))
            for picture, marks in zip(self.pictures, self.marks, strict=True)
        )
        return sum(each) + GAP * (len(self.pictures) - 1)


def draw(
    graph: CellGraph,
    palette: Palette = TERMINAL,
    *,
    marks: Sequence[Mark] | None = None,
    spacing: int | None = 3,
    ascii_only: bool = False,
) -> list[Text]:
    """The lines of one cell, its title first. Without a `spacing` from lane to lane, operations are on the lines."""
    return _Sheet(graph, palette, marks, spacing, _ASCII if ascii_only else _BOX).lines()


def legend(pictures: Iterable[Picture], palette: Palette, *, ascii_only: bool = False) -> Text:
    """What the looks of the lines mean, as far as they occur."""
    graphs = [p for p in pictures if isinstance(p, CellGraph)]
    kinds = {kind_of(edge.operation) for graph in graphs for edge in graph.edges}
    pen = _ASCII if ascii_only else _BOX
    parts: list[str | tuple[str, Style]] = []
    for kind, name in _KIND_NAMES.items():
        if kind in kinds:
            parts += [(pen.line(kind).along * 2, palette.kind(kind)), (f" {name}   ", palette.quiet)]
    return Text.assemble(*parts, no_wrap=True)


class _Sheet:
    """The squares of one drawing, filled row by row."""

    def __init__(
        self, graph: CellGraph, palette: Palette, marks: Sequence[Mark] | None, spacing: int | None, pen: _Pen
    ) -> None:
        self.graph, self.palette, self.marks, self.pen = graph, palette, marks, pen
        self.on_line = spacing is None and any(edge.operation for edge in graph.edges)
        signs = [""] * len(graph.edges) if marks is None else [f"{mark} " for mark in marks]
        self.labels = [sign + edge.operation for sign, edge in zip(signs, graph.edges, strict=True)]
        step = max(map(len, self.labels)) + _ON_LINE if self.on_line else spacing or _SPACINGS[0]
        # Between two inputs there is nothing to write.
        steps = [0, *[min(step, 3)] * (len(graph.inputs) - 1), *[step] * len(graph.nodes)]
        self.column = list(accumulate(steps))
        self.row_of: dict[int, int] = {}
        self.edge_row: dict[int, int] = {}
        row = 0
        for vertex in range(len(graph.names)):
            for position in graph.into.get(vertex, ()):
                self.edge_row[position] = row
                row += 1
            self.row_of[vertex] = row
            row += 1
        self.last_row = dict(self.row_of)
        for position, edge in enumerate(graph.edges):
            self.last_row[edge.source] = max(self.last_row[edge.source], self.edge_row[position])
        self.last_row |= dict.fromkeys(graph.outputs, row)
        self.squares: list[dict[int, tuple[str, Style]]] = [{} for _ in range(row + 1)]

    @property
    def width(self) -> int:
        """Cells of the widest line, known before anything is drawn."""
        graph = self.graph
        beside = 0 if self.on_line else 1 + _INDENT
        edges = (
            self.column[edge.target] + (beside + len(label) if label and beside else 1)
            for edge, label in zip(graph.edges, self.labels, strict=True)
        )
        dots = (self.column[v] + 2 + len(name) + len(self._note(v)) for v, name in enumerate(graph.names))
        output = self.column[-1] + 4 + len(graph.output) + len(self._order())
        return max(len(graph.title), *edges, *dots, output)

    def lines(self) -> list[Text]:
        """The drawing, its title first."""
        self._lanes()
        for vertex in range(len(self.graph.names)):
            for number, position in enumerate(self.graph.into.get(vertex, ())):
                self._edge(position, first=number == 0)
            self._dot(vertex)
        self._output()
        return [Text(self.graph.title, self.palette.accent, no_wrap=True), *map(_line, self.squares)]

    def _lanes(self) -> None:
        for vertex, column in enumerate(self.column):
            for row in range(self.row_of[vertex] + 1, self.last_row[vertex]):
                self.squares[row][column] = (self.pen.lane, self.palette.quiet)

    def _edge(self, position: int, *, first: bool) -> None:
        edge, row = self.graph.edges[position], self.edge_row[position]
        squares, line = self.squares[row], self.pen.line(kind_of(edge.operation))
        style = self._style(position)
        start, end = self.column[edge.source], self.column[edge.target]
        for column in range(start + 1, end - 1):
            squares[column] = (line.across if column in squares else line.along, style)
        ends = self.last_row[edge.source] == row
        squares[start] = (line.start_end if ends else line.start, style)
        squares[end - 1] = (self.pen.arrow, style)
        squares[end] = (line.first if first else line.into, style)
        if self.on_line:
            self._write(row, self.column[edge.target - 1] + 3, f" {self.labels[position]} ", style)
        else:
            self._write(row, end + 1 + _INDENT, self.labels[position], style)

    def _dot(self, vertex: int) -> None:
        graph, row = self.graph, self.row_of[vertex]
        column = self.column[vertex]
        self.squares[row][column] = (self.pen.hollow if self._note(vertex) else self.pen.dot, self.palette.text)
        self._write(row, column + 2, graph.names[vertex], self.palette.text + Style(bold=True))
        self._write(row, column + 2 + len(graph.names[vertex]), self._note(vertex), self.palette.quiet)

    def _note(self, vertex: int) -> str:
        """What is unusual about a vertex."""
        if vertex not in self.graph.reached:
            return "  no input"
        return "" if self.last_row[vertex] > self.row_of[vertex] else "  unused"

    def _output(self) -> None:
        graph, quiet = self.graph, self.palette.quiet
        row = len(self.squares) - 1
        taken = sorted(set(graph.outputs))
        end = max(self.column) + 2
        if taken:
            for column in range(self.column[taken[0]], end):
                self.squares[row][column] = (self.pen.line("skip").along, quiet)
            for vertex in taken:
                self.squares[row][self.column[vertex]] = (
                    self.pen.corner if vertex == taken[0] else self.pen.join,
                    quiet,
                )
        self.squares[row][end] = (self.pen.arrow, quiet)
        self._write(row, end + 2, graph.output, self.palette.text + Style(bold=True))
        self._write(row, end + 2 + len(graph.output), self._order(), quiet)

    def _order(self) -> str:
        """The order of what the output is made of, where the lines do not show it."""
        graph = self.graph
        if list(graph.outputs) == sorted(set(graph.outputs)):
            return ""
        return f"  {graph.joint} {' '.join(graph.names[v] for v in graph.outputs)}"

    def _style(self, position: int) -> Style:
        if self.marks is not None:
            return self.palette.mark(self.marks[position])
        edge = self.graph.edges[position]
        return self.palette.kind(kind_of(edge.operation) if edge.source in self.graph.reached else "none")

    def _write(self, row: int, column: int, text: str, style: Style) -> None:
        for offset, character in enumerate(text):
            self.squares[row][column + offset] = (character, style)


def _line(squares: Mapping[int, tuple[str, Style]]) -> Text:
    filled = [squares.get(column, (" ", Style())) for column in range(max(squares, default=-1) + 1)]
    line = Text(no_wrap=True, overflow="crop")
    for style, run in groupby(filled, key=itemgetter(1)):
        line.append("".join(character for character, _ in run), style)
    return line


def _table(chain: Chain, palette: Palette, marks: Sequence[Mark] | None, width: int) -> Iterator[Text]:
    """A chain of blocks as lines: number, what it takes and gives, its operations, folded where they are long."""
    widths = [max(map(len, column)) for column in zip(chain.columns, *chain.rows, strict=True)][:-1]
    number_width = len(str(len(chain.rows)))
    indent = number_width + 2 + (2 if marks is not None else 0)
    rest = max(20, width - indent - sum(widths) - 2 * len(widths))
    yield Text(chain.title, palette.accent, no_wrap=True)
    heading = _columns(chain.columns, widths)
    yield Text(" " * indent + heading, palette.quiet, no_wrap=True)
    for number, row in enumerate(chain.rows):
        style = palette.text if marks is None else palette.mark(marks[number])
        line = Text(no_wrap=True, overflow="crop")
        line.append(f"{number + 1:>{number_width}}  ", palette.quiet)
        line.append("" if marks is None else f"{marks[number]} ", style)
        # Branches that do not fit on one line have a line each.
        branches = [row[-1]] if len(row[-1]) <= rest else row[-1].split(" | ")
        first, *others = [line for branch in branches for line in wrap(branch, rest, subsequent_indent="  ")] or [""]
        yield line.append(_columns((*row[:-1], first), widths), style)
        for other in others:
            yield Text(" " * (indent + sum(widths) + 2 * len(widths)) + other, style, no_wrap=True)


def _columns(values: Sequence[str], widths: Sequence[int]) -> str:
    """Values in columns, numbers right-aligned, and what comes after the last column."""
    *columns, rest = values
    cells = (v.rjust(w) if v.isdigit() else v.ljust(w) for v, w in zip(columns, widths, strict=True))
    return "  ".join((*cells, rest))


def _rows(drawn: Sequence[list[Text]], width: int) -> Iterator[Sequence[list[Text]]]:
    """The pictures in rows, as many in a row as fit; in columns, where there are several rows."""
    widths = [_width(picture) for picture in drawn]
    if sum(widths) + GAP * (len(widths) - 1) <= width:
        yield drawn
        return
    column = max(widths)
    for picture in drawn:
        # The title is as wide as the column, and so is the picture.
        picture[0].pad_right(column - picture[0].cell_len)
    n_columns = max(1, (width + GAP) // (column + GAP))
    for start in range(0, len(drawn), n_columns):
        yield drawn[start : start + n_columns]


def beside(pictures: Sequence[list[Text]], width: int) -> Iterator[Text]:
    """Blocks of lines side by side."""
    starts = list(accumulate((_width(picture) + GAP for picture in pictures), initial=0))
    for number in range(max(map(len, pictures))):
        line = Text(no_wrap=True, overflow="crop")
        for start, picture in zip(starts, pictures, strict=False):
            if number < len(picture):
                line.append(" " * (start - line.cell_len))
                line.append_text(picture[number])
        line.truncate(width, overflow="crop")
        yield line


def _width(picture: Sequence[Text]) -> int:
    return max((line.cell_len for line in picture), default=0)
