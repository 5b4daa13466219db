"""Findings as rows of tables, and what they say as text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from explorer.findings import judging
from explorer.findings.model import GROUPS, Comparison, Finding, Verdict
from explorer.render import megas
from explorer.tradeoff import Column
from explorer.widgets import cells
from explorer.widgets.inks import Inks

#: A sign for each verdict: colour is never the only one.
SIGNS: dict[str, str] = {
    "holds": "✓",
    "does not hold": "✗",
    "undecided": "?",
    "supports": "✓",
    "against": "✗",
    "open": "?",
    "floor": "▁",
    "ceiling": "▔",
}

#: Groups in the header of a column.
HEADERS = {"handcrafted": "hand", "searched": "nas", "random": "random", "ensemble": "ens"}

CLAIM_COLUMNS: tuple[Column, ...] = (
    Column("number", "#", "count", 1, 0, "Number of the claim"),
    Column("title", "claim", "name", 24, 0, "What the study claims"),
    Column("published", "published", "text", 15, 0, "What follows from the printed figures by our rule"),
    Column("measured", "measured", "text", 15, 0, "What follows from what was measured here"),
)

COMPARISON_COLUMNS: tuple[Column, ...] = (
    Column("source", "", "marks", 1, 0, "p published elsewhere"),
    Column("outcome", "says", "text", 10, 0, "supports the claim, speaks against it, or open"),
    Column("part", "what", "name", 15, 1, "What is compared"),
    Column("dataset", "data", "text", 10, 1, "Name of the dataset"),
    Column("attack", "attack", "text", 7, 2, "Attack and its number of steps"),
    Column("eps", "eps", "text", 6, 2, "Size of the perturbation as written"),
    Column("a", "claimed", "cell", 7, 3, "Mean robust accuracy of the group the claim favours, percent"),
    Column("b", "other", "cell", 6, 3, "Mean robust accuracy of the other group, percent"),
    Column("estimate", "effect", "cell", 7, 0, "Difference in points, tau, or ratio of spreads"),
    Column("interval", "95 %", "interval", 14, 2, "Interval of the effect"),
    Column("p", "p adj.", "cell", 7, 4, "p-value after Holm's adjustment"),
    Column("best", "best", "cell", 6, 5, "Best against best, points"),
    Column("best_p", "p adj.", "cell", 7, 6, "p-value of the best against the best, after Holm's adjustment"),
    Column("n", "n", "cell", 7, 6, "Architectures in each group"),
    Column("space", "threat", "space", 6, 7, "Where eps is measured"),
    Column("size", "params", "cell", 13, 8, "Mean parameters of each group"),
    Column("effect", "g", "cell", 5, 8, "Effect size, Hedges' g"),
    Column("examples", "examples", "count", 8, 9, "Examples of each evaluation"),
)


def verdict_ink(said: str, inks: Inks) -> Style:
    """The ink of a verdict or of what a comparison says."""
    inked = {"holds": inks.good, "supports": inks.good, "does not hold": inks.error, "against": inks.error}
    return inked.get(said, inks.warning if said == "undecided" else inks.quiet)


class FindingRows:
    """The claims, one a row."""

    def __init__(self, findings: Sequence[Finding], inks: Inks) -> None:
        self.findings = findings
        self.inks = inks

    @property
    def row_count(self) -> int:
        return len(self.findings)

    def key(self, row: int) -> str:
        return str(self.findings[row].claim.number)

    def index(self, key: str) -> int | None:
        return next((i for i, one in enumerate(self.findings) if str(one.claim.number) == key), None)

    def cell(self, row: int, column: str) -> Text:
        one = self.findings[row]
        if column == "number":
            return cells.text(one.claim.number, self.inks.quiet, right=True)
        if column == "title":
            return cells.text(one.claim.title, self.inks.text)
        verdict = one.published_verdict if column == "published" else one.verdict
        return self._verdict(verdict)

    def _verdict(self, verdict: Verdict) -> Text:
        return cells.text(f"{SIGNS[verdict]} {verdict}", verdict_ink(verdict, self.inks))


class ComparisonRows:
    """The comparisons of a claim, one a row, published ones first and in grey."""

    def __init__(self, finding: Finding | None, inks: Inks) -> None:
        self.comparisons = (*finding.published_comparisons, *finding.measured) if finding is not None else ()
        self.inks = inks
        self._keys = [
            f"{c.source}/{c.table}/{c.dataset_id or c.dataset}/{c.attack}/{c.eps}/{c.threat_space}/{c.part}/{i}"
            for i, c in enumerate(self.comparisons)
        ]

    @property
    def row_count(self) -> int:
        return len(self.comparisons)

    def key(self, row: int) -> str:
        return self._keys[row]

    def index(self, key: str) -> int | None:
        return self._keys.index(key) if key in self._keys else None

    @property
    def dull(self) -> frozenset[str]:
        """Columns that say the same in every row, or nothing."""
        names = [c.id for c in COMPARISON_COLUMNS if c.id not in ("source", "outcome", "estimate")]
        return frozenset(
            name for name in names if len({self.cell(row, name).plain for row in range(self.row_count)}) <= 1
        )

    def cell(self, row: int, column: str) -> Text:
        c = self.comparisons[row]
        base = self.inks.quiet if c.source == "published" else self.inks.text
        if column == "source":
            return cells.text("p" if c.source == "published" else "", self.inks.quiet)
        if column == "outcome":
            return cells.text(f"{SIGNS[c.outcome]} {c.outcome}", verdict_ink(c.outcome, self.inks))
        said = _said(c, column)
        right = column in ("a", "b", "estimate", "interval", "p", "best", "best_p", "n", "size", "effect", "examples")
        return cells.text(said, self.inks.quiet if column in ("interval", "n", "examples") else base, right=right)


def _said(c: Comparison, column: str) -> str:
    """A value of a comparison as its column writes it."""
    best, other = c.best, c.b
    match column:
        case "part":
            return c.part
        case "dataset":
            return c.dataset + ("⁵" if c.top_k > 1 else "")
        case "attack" | "eps":
            return str(getattr(c, column))
        case "space":
            return cells.SPACES.get(c.threat_space, c.threat_space)
        case "a":
            return cells.one_decimal(c.a.mean)
        case "b":
            return cells.one_decimal(other.mean) if other is not None else "–"
        case "estimate":
            return (
                f"{c.estimate:+.1f}"
                if c.measure == "difference"
                else f"{'τ ' if c.measure == 'tau' else '×'}{c.estimate:.2f}"
            )
        case "interval":
            digits = 1 if c.measure == "difference" else 2
            known = c.low is not None and c.high is not None
            return f"{c.low:+.{digits}f} … {c.high:+.{digits}f}" if known else "–"
        case "p":
            return judging.p_said(c.p_adjusted) if c.p_adjusted is not None else "–"
        case "best":
            return f"{best.difference:+.1f}" if best is not None else "–"
        case "best_p":
            return judging.p_said(best.p_adjusted) if best is not None and best.p_adjusted is not None else "–"
        case "n":
            return f"{c.a.n_architectures}" + (f" : {other.n_architectures}" if other is not None else "")
        case "size":
            sizes = [megas(group.mean_params) or "–" for group in (c.a, other) if group is not None]
            return " : ".join(sizes)
        case "effect":
            return f"{c.effect_size:.1f}" if c.effect_size is not None else "–"
        case "examples":
            return str(c.n_examples) if c.n_examples else "–"
        case _:
            return ""


def finding_text(one: Finding, inks: Inks) -> RenderableType:
    """A claim, what follows from the printed and the measured figures, and what would decide it."""
    grid = _grid(9)
    for name, verdict, why in (
        ("published", one.published_verdict, one.published_why),
        ("measured", one.verdict, one.why),
    ):
        said = Text.assemble((f"{SIGNS[verdict]} {verdict}. ", verdict_ink(verdict, inks)), (why, inks.text))
        grid.add_row(Text(name, inks.quiet), said)
    for note in one.notes:
        grid.add_row(Text("note", inks.quiet), Text(note, inks.text))
    if one.would_decide:
        grid.add_row(Text("next", inks.quiet), Text(one.would_decide, inks.quiet, overflow="fold"))
    grid.add_row(Text("rule", inks.quiet), Text(one.rule, inks.quiet))
    return Lines(Text(one.claim.sentence, inks.accent), grid)


def comparison_text(c: Comparison, inks: Inks) -> RenderableType:
    """A comparison in full: groups, effect and test, the best of each, and what to be careful about."""
    where = " · ".join(part for part in (c.table, c.place, c.threat_space, f"top-{c.top_k}" * (c.top_k > 1)) if part)
    size = f" · {c.n_examples} examples" if c.n_examples else ""
    said = Text.assemble(
        (f"{SIGNS[c.outcome]} {c.outcome}  ", verdict_ink(c.outcome, inks)), (f"{where}{size}: {c.part}", inks.text)
    )
    grid = _grid(16)
    for group in (c.a, c.b) if c.b is not None else (c.a,):
        grid.add_row(Text(GROUPS[group.name], inks.quiet), Text(judging.group_said(group), inks.text))
    grid.add_row(Text("effect", inks.quiet), Text(judging.effect_said(c), inks.text))
    if c.best is not None:
        grid.add_row(Text("best of each", inks.quiet), Text(judging.best_said(c.best), inks.text))
    if c.design is not None:
        grid.add_row(Text("design", inks.quiet), Text(c.design.said, inks.text))
    for caution in c.cautions:
        grid.add_row(Text("!", inks.warning), Text(caution, inks.warning))
    return Lines(said, grid)


def _grid(width: int) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=width, no_wrap=True)
    grid.add_column(overflow="fold")
    return grid
