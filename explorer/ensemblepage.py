"""Ensembles on sheets to read: what one is made of and how it did, and all that an attack on it tells.

Free of textual but for the colours it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.style import Style
from rich.table import Table
from rich.text import Text

from explorer.celldrawing import Drawing, Palette
from explorer.ensemblelist import Ensemble, attack_label
from explorer.ensembleresults import Insight, Interval
from explorer.render import megas
from explorer.widgets.cells import interval, one_decimal, text
from models.ensembles import composition

if TYPE_CHECKING:
    from explorer.ensemblebuilding import Building
    from explorer.widgets.inks import Inks

#: From this width on sections stand side by side.
_BESIDE_FROM = 116
#: Examples that every member loses: so many are listed.
_MOST_EXAMPLES = 100
#: Pairs of members of which the counts are listed beside the matrix.
_MOST_PAIRS = 10
#: Cells that a scale from 0 to 100 takes at most, and at least.
_SCALE = (16, 61)
BOLD = Style(bold=True)


def of_rule(combine: str) -> str:
    """`majority: the class that most members vote for ...`."""
    meaning = composition.RULES.get(combine)
    return f"{combine}: {meaning}" if meaning else combine


def points(value: float) -> str:
    """A difference in percentage points, `+2.5`; what rounds to nothing has no sign."""
    return "0.0" if f"{value:.1f}" in ("0.0", "-0.0") else f"{value:+.1f}"


def chance(p_value: float) -> str:
    """A p-value in words."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"


def _title(said: str, inks: Inks) -> Text:
    return Text(f"\n{said}", inks.accent + BOLD)


def _grid(*aligns: str, padding: int = 2) -> Table:
    grid = Table.grid(padding=(0, padding, 0, 0))
    for align in aligns:
        grid.add_column(justify="right" if align == "r" else "left", no_wrap=True, overflow="ellipsis")
    return grid


def _cell(value: object, style: Style | str = "") -> Text:
    """A cell that is aligned as its column is."""
    found = text(value, style)
    found.justify = None
    return found


def _short(architecture: str, others: Sequence[str]) -> str:
    """The name alone where no other one has it, with the options otherwise."""
    name = architecture.partition("@")[0]
    return name if [o.partition("@")[0] for o in others].count(name) <= 1 else architecture


# -- one of the list ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnsembleSheet:
    """An ensemble in the list: members, rule, weights, results."""

    ensemble: Ensemble
    inks: Inks
    #: The cells of the members.
    drawing: Drawing | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        one, inks = self.ensemble, self.inks
        yield Text.assemble((one.name, inks.ens + BOLD), (f"   {self._size()}", inks.text))
        yield Text(one.architecture, inks.quiet, overflow="fold")
        yield Text(of_rule(one.combine), inks.quiet)
        if one.job is not None:
            done = f", {100 * one.fraction:.0f} % done" if one.state == "running" else ""
            again = "; t goes on with it" if one.state in ("cancelled", "interrupted", "failed") else ""
            yield Text(f"job {one.job} {one.state}{done}{again}", inks.accent)
        yield from self._members(options.max_width)
        yield from self._results()
        yield from self._weights()
        if self.drawing is not None and self.drawing.pictures:
            yield _title("cells", inks)
            yield self.drawing

    def _size(self) -> str:
        one = self.ensemble
        parts = [f"{len(one.members)} members", one.dataset]
        parts += [f"{megas(one.params)} parameters"] if one.params else []
        parts += [f"{megas(one.macs)} multiply-adds"] if one.macs else []
        return " · ".join(parts)

    def _members(self, width: int) -> Iterator[RenderableType]:
        one, inks = self.ensemble, self.inks
        latest = one.latest
        under = f", robust under {attack_label(latest)}" if latest and latest["alone"] else ""
        yield _title(f"members{under}", inks)
        grid = _grid("r", "l", "r", "r", "r", "l")
        names = [member.architecture for member in one.members]
        for member in one.members:
            alone = latest["alone"].get(member.position) if latest else None
            name = member.architecture if width >= 100 else _short(member.architecture, names)
            grid.add_row(
                _cell(member.position, inks.quiet),
                _cell(name, inks.text),
                _cell(megas(member.params) or "", inks.quiet),
                _cell(f"{one_decimal(member.clean)} clean" if member.clean is not None else "", inks.text),
                _cell(f"{one_decimal(alone['robust_accuracy'])} robust" if alone else "", inks.text + BOLD),
                _cell(interval(alone["low"], alone["high"]) if alone else "", inks.quiet),
            )
        yield grid

    def _results(self) -> Iterator[RenderableType]:
        one, inks = self.ensemble, self.inks
        yield _title("results: enter opens them" if one.evaluations else "results", inks)
        if not one.evaluations:
            said = "none yet: l attacks it" if one.sha256 else "none yet"
            yield Text(said, inks.quiet)
            return
        grid = _grid("l", "r", "r", "r", "r", "r", "l")
        heads = ("attack", "n", "clean", "robust", "95 %", "gain", "")
        grid.add_row(*(_cell(head, inks.quiet) for head in heads))
        for row in one.evaluations:
            gain = row["gain_over_best"]
            rest = row["n_members"] - row["n_measured"]
            grid.add_row(
                _cell(attack_label(row), inks.text),
                _cell(row["n_examples"], inks.quiet),
                _cell(one_decimal(row["clean_accuracy"]), inks.text),
                _cell(one_decimal(row["whole"]), inks.text + BOLD),
                _cell(interval(row["whole_low"], row["whole_high"]), inks.quiet),
                _cell(points(gain) if gain is not None else "–", inks.text),
                _cell(f"{rest} members not measured alone" if rest else "over the best member", inks.quiet),
            )
        yield grid

    def _weights(self) -> Iterator[RenderableType]:
        one, inks = self.ensemble, self.inks
        if one.sha256 is None:
            return
        yield _title("weights", inks)
        seed = "" if one.seed is None else f" · training seed {one.seed}"
        clean = "" if one.clean is None else f" · {one_decimal(one.clean)} % clean when made"
        yield Text(f"{one.sha256[:16]} · {one.origin}{seed}{clean}", inks.text)
        yield Text(one.weights_path, inks.quiet, overflow="fold")


def gain_ink(between: Interval | None, inks: Inks) -> Style:
    """The colour of a gain: of one whose 95 % interval leaves out zero another than of one that may be chance."""
    if between is None or between[0] <= 0 <= between[1]:
        return inks.text
    return inks.good if between[0] > 0 else inks.warning


# -- its results -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InsightSheet:
    """All that one evaluation of an ensemble tells. `measuring` and `transferring` say what is under way."""

    insight: Insight
    inks: Inks
    measuring: bool = False
    transferring: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        yield from self._parts(width)
        yield from self._gain()
        sections = [list(self._transfers()), list(self._agreement()), list(self._cosines()), list(self._lost())]
        if width < _BESIDE_FROM:
            for section in sections:
                yield from section
            return
        columns = Table.grid(padding=(0, 4, 0, 0))
        columns.add_column(max_width=width // 2)
        columns.add_column()
        transfers, agreement, cosines, lost = sections
        columns.add_row(Group(*transfers, *cosines), Group(*agreement, *lost))
        yield columns

    # -- whole, members, oracle ------------------------------------------------------------------------------------

    def _parts(self, width: int) -> Iterator[RenderableType]:
        found, inks = self.insight, self.inks
        names = [part["architecture_id"] for part in found.members]
        rows: list[tuple[str, str, Any, Any, Interval | None, Style]] = []
        for part in found.parts:
            whole = part["position"] is None
            name = part["architecture"] if whole else _short(part["architecture_id"], names)
            between = (part["low"], part["high"]) if part["low"] is not None else None
            ink = inks.ens if whole else inks.nas
            rows.append((part["part"], name, part["clean_accuracy"], part["robust_accuracy"], between, ink))
        oracle = found.summary["oracle"]
        if oracle is not None:
            rows.append(("oracle", "any member keeps", None, oracle, found.oracle, inks.accent))
        longest = min(max(len(row[1]) for row in rows), max(12, width - 60))
        scale = min(_SCALE[1], width - (6 + 2 + longest + 2 + 5 + 2 + 6 + 2 + 9 + 2))
        grid = _grid("l", "l", "r", "r", "r", "l")
        ruler = _ruler(scale, inks) if scale >= _SCALE[0] else Text()
        heads = [_cell(h, inks.quiet) for h in ("part", "architecture", "clean", "robust", "95 %")]
        grid.add_row(*heads, ruler)
        for label, name, clean, robust, between, ink in rows:
            grid.add_row(
                _cell(label, ink + BOLD),
                _cell(name[: longest - 1] + "…" if len(name) > longest else name, inks.text),
                _cell(one_decimal(clean) if clean is not None else "", inks.text),
                _cell(one_decimal(robust), inks.text + BOLD),
                _cell(interval(*between) if between else "", inks.quiet),
                whisker(robust, between, scale, ink, inks.quiet) if scale >= _SCALE[0] else Text(),
            )
        yield grid

    def _gain(self) -> Iterator[RenderableType]:
        found, inks = self.insight, self.inks
        summary = found.summary
        if summary["gain_over_best"] is None:
            yield self._without_gain()
            return
        best = summary["best_position"]
        grid = _grid("l", "r", "l", "l")
        for label, gain, between, tested in (
            (f"gain over the best member ({best})", summary["gain_over_best"], found.over_best, True),
            ("gain over the mean member", summary["gain_over_mean"], found.over_mean, False),
        ):
            low_high = f"{points(between[0])} to {points(between[1])}" if between else "…"
            said = f"McNemar {chance(summary['p_value'])}" if tested else ""
            grid.add_row(
                _cell(label, inks.text),
                _cell(f"{points(gain)} points", gain_ink(between, inks) + BOLD),
                _cell(low_high, inks.quiet),
                _cell(said, inks.text),
            )
        yield Text()
        yield grid

    def _without_gain(self) -> Text:
        found, inks = self.insight, self.inks
        if not found.members:
            said = "Its members were trained together and do not stand alone: there is nothing to compare it with."
            return Text(f"\n{said}", inks.quiet)
        missing, count = len(found.unmeasured), len(found.members)
        if missing:
            return Text.assemble(
                (f"\n{missing} of {count} members have not been attacked alone on these examples: ", inks.quiet),
                ("m", inks.accent + BOLD),
                (" attacks them.", inks.quiet),
            )
        return Text("\nno example has a verdict of every part: there is nothing to compare", inks.quiet)

    # -- one part through another ----------------------------------------------------------------------------------

    def _transfers(self) -> Iterator[RenderableType]:
        found, inks = self.insight, self.inks
        if not found.members:
            return
        yield _title("transfer: robust %, attack made on the row, judged on the column", inks)
        by_pair = {(cell["source"], cell["target"]): cell for cell in found.transfers}
        labels = [part["part"] for part in found.parts]

        def cell(source: str, target: str) -> Text:
            robust = by_pair[source, target]["robust_accuracy"]
            if source == target:
                return _cell(f"[{one_decimal(robust)}]", inks.accent + BOLD)
            ink = inks.text if robust is not None else inks.quiet
            return _cell(one_decimal(robust) if robust is not None else "·", ink)

        yield _matrix(labels, cell, inks, names="made on")
        missing = found.transfers_missing
        said = Text.assemble(("[ ]", inks.accent), (" white box", inks.quiet))
        if missing:
            never = "" if found.crafted else f"{found.attack.name} cannot be made on another model"
            said += Text(" · ", inks.quiet) + self._remedy(missing, "x", self.transferring, never)
        yield said

    def _remedy(self, missing: int, key: str, under_way: bool, never: str = "") -> Text:
        """What to do about figures that are not there."""
        inks = self.inks
        many = f"{missing} pair{'s' * (missing != 1)} not measured"
        if never:
            return Text(f"{many}: {never}", inks.quiet)
        if under_way:
            return Text(f"{many}: being measured …", inks.accent)
        return Text.assemble((f"{many}: ", inks.quiet), (key, inks.accent + BOLD), (" measures them", inks.quiet))

    # -- how alike the members are ---------------------------------------------------------------------------------

    def _agreement(self) -> Iterator[RenderableType]:
        found, inks = self.insight, self.inks
        if not found.agreement:
            return
        by_pair = {(pair["member_a"], pair["member_b"]): pair for pair in found.agreement}
        yield _title("agreement of members, % of examples", inks)
        yield _halves(
            [member["position"] for member in found.members],
            lambda a, b: one_decimal(by_pair[a, b]["same_clean_prediction"]),
            lambda a, b: one_decimal(by_pair[a, b]["same_verdict"]),
            inks,
        )
        yield Text("above: same class unattacked; below: same verdict under attack", inks.quiet)
        if len(by_pair) > _MOST_PAIRS or all(pair["n_examples"] is None for pair in found.agreement):
            return
        grid = _grid("l", "r", "r", "r", "r")
        grid.add_row(
            *(_cell(h, inks.quiet) for h in ("keep under attack", "both", "first only", "second only", "none"))
        )
        for (a, b), pair in by_pair.items():
            counts = ("both_robust", "only_a_robust", "only_b_robust", "neither_robust")
            grid.add_row(
                _cell(f"{a} and {b}", inks.text),
                *(_cell("–" if pair[name] is None else pair[name], inks.text) for name in counts),
            )
        yield grid

    def _cosines(self) -> Iterator[RenderableType]:
        found, inks = self.insight, self.inks
        if not found.cosines:
            return
        by_pair = {(pair["member_a"], pair["member_b"]): pair for pair in found.cosines}
        yield _title("gradients of members at clean images", inks)
        if found.cosines_missing < len(found.cosines):
            yield _halves(
                [member["position"] for member in found.members],
                lambda a, b: _two(by_pair[a, b]["mean"]),
                lambda a, b: one_decimal(by_pair[a, b]["above_half"]),
                inks,
            )
            n = max(pair["n"] for pair in found.cosines)
            yield Text(f"above: mean cosine; below: % of {n} examples over 0.5", inks.quiet)
        if found.cosines_missing:
            yield self._remedy(found.cosines_missing, "g", self.measuring)

    # -- what nobody keeps -----------------------------------------------------------------------------------------

    def _lost(self) -> Iterator[RenderableType]:
        found, inks = self.insight, self.inks
        summary = found.summary
        count = summary["lost_by_all"]
        if count is None:
            return
        share = 100 * count / summary["n_examples"]
        yield _title("examples that every member loses", inks)
        yield Text(f"{count} of {summary['n_examples']}, {one_decimal(share)} %", inks.text)
        if not found.lost_by_all:
            return
        grid = _grid("r", "r", "l", "l", "r")
        grid.add_row(*(_cell(h, inks.quiet) for h in ("example", "label", "whole", "members say", "right unattacked")))
        for row in found.lost_by_all[:_MOST_EXAMPLES]:
            kept = "kept" if row["whole_robust"] else f"says {row['whole_prediction']}"
            grid.add_row(
                _cell(row["example"], inks.text),
                _cell(row["label"], inks.text),
                _cell(kept, inks.good if row["whole_robust"] else inks.text),
                _cell(" ".join(map(str, row["member_predictions"] or ())), inks.text),
                _cell(f"{row['n_clean_correct']} of {len(found.members)}", inks.quiet),
            )
        yield grid
        rest = len(found.lost_by_all) - _MOST_EXAMPLES
        if rest > 0:
            yield Text(f"and {rest} more: nasrob-tui sql \"FROM lost_by_all('{found.identity}')\"", inks.quiet)


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _matrix(labels: Sequence[str], cell: Callable[[str, str], Text], inks: Inks, *, names: str) -> Table:
    """Rows and columns with the same labels."""
    grid = _grid("l", *("r" for _ in labels))
    grid.add_row(_cell(names, inks.quiet), *(_cell(label, inks.quiet) for label in labels))
    for row in labels:
        grid.add_row(_cell(row, inks.quiet), *(cell(row, column) for column in labels))
    return grid


def _halves(
    positions: Sequence[int], above: Callable[[int, int], str], below: Callable[[int, int], str], inks: Inks
) -> Table:
    """A matrix of members with one figure of a pair above the diagonal and another one below it."""

    def cell(row: str, column: str) -> Text:
        a, b = int(row), int(column)
        if a == b:
            return _cell("·", inks.quiet)
        return _cell(above(a, b), inks.text) if a < b else _cell(below(b, a), inks.nas)

    return _matrix([str(position) for position in positions], cell, inks, names="member")


def _ruler(width: int, inks: Inks) -> Text:
    """The scale from 0 to 100."""
    line = [" "] * width
    for value in (0, 25, 50, 75, 100) if width >= 40 else (0, 50, 100):
        label = str(value)
        at = round(value / 100 * (width - 1))
        begin = min(max(0, at - len(label) // 2), width - len(label))
        line[begin : begin + len(label)] = label
    return Text("".join(line), inks.quiet, no_wrap=True)


def whisker(value: float | None, between: Interval | None, width: int, ink: Style, quiet: Style) -> Text:
    """A value from 0 to 100 as a dot on a line of `width` cells, with its interval around it."""

    def at(percent: float) -> int:
        return round(min(100.0, max(0.0, percent)) / 100 * (width - 1))

    if value is None:
        return Text("not measured", quiet, no_wrap=True)
    line = Text("┈" * width, quiet, no_wrap=True)
    if between is not None:
        low, high = at(between[0]), at(between[1])
        drawn = "├" + "─" * (high - low - 1) + "┤" if high > low else "│"
        line = Text.assemble(line[:low], (drawn, ink), line[low + len(drawn) :], no_wrap=True)
    dot = at(value)
    return Text.assemble(line[:dot], ("●", ink + BOLD), line[dot + 1 :], no_wrap=True)


# -- one that is being built -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreviewSheet:
    """An ensemble before it is made: its members and their cells. `size` is what is known of how large it is."""

    name: str
    members: Sequence[Building]
    size: str
    rule: str
    drawing: Drawing | None
    palette: Palette

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        palette = self.palette
        yield Text(self.name, palette.text + BOLD, overflow="fold")
        if self.size:
            yield Text(self.size, palette.text)
        grid = _grid("r", "l", "l")
        for position, member in enumerate(self.members):
            grid.add_row(
                _cell(position, palette.quiet), _cell(member.name, palette.text), _cell(member.said, palette.quiet)
            )
        yield grid
        yield Text(of_rule(self.rule), palette.quiet)
        if self.drawing is not None and self.drawing.pictures:
            yield Text()
            yield self.drawing
