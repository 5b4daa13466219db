"""`nasrob-tui findings`: the study's claims beside what was measured here."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explorer.cli.options import FormatOption, StoreOption
from explorer.render import Format

if TYPE_CHECKING:
    from explorer.findings import Comparison, Finding

#: Columns of `--format csv`, in this order: a row a comparison, published ones first. Add, never change.
CSV_KEYS = (
    "claim",
    "title",
    "source",
    "verdict",
    "outcome",
    "part",
    "table",
    "dataset",
    "dataset_id",
    "attack",
    "eps",
    "threat_space",
    "top_k",
    "n_examples",
    "group_a",
    "n_a",
    "mean_a",
    "std_a",
    "best_a",
    "best_architecture_a",
    "params_a",
    "group_b",
    "n_b",
    "mean_b",
    "std_b",
    "best_b",
    "best_architecture_b",
    "params_b",
    "measure",
    "estimate",
    "low",
    "high",
    "effect_size",
    "test",
    "p_value",
    "p_adjusted",
    "best_difference",
    "best_low",
    "best_high",
    "best_test",
    "best_p_value",
    "best_p_adjusted",
    "cautions",
    "evaluation_ids",
    "design",
)

#: Cells of a line where it has no limit, and at most: longer lines are hard to read.
_WIDTH = 100


def command(
    claim: Annotated[
        list[int] | None, typer.Option("--claim", min=1, max=5, help="Only this claim, 1 to 5. Repeatable.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Only what was measured on this dataset, or printed for it.")
    ] = None,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """The study's five claims: printed and measured figures side by side, and a verdict on each by one rule.

    A verdict is holds, does not hold, or undecided with the command that would bring it nearer.
    """
    from explorer import findings, render
    from explorer import settings as settings_of
    from explorer.shipped import open_store

    place = open_store(settings_of.load(store))
    if store is None:
        # A new home has the printed figures at least.
        place.ensure()
    found = findings.compute(place, numbers=claim or (), dataset=dataset)
    if format is Format.json:
        json.dump([_finite(one.to_dict()) for one in found], sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    elif format is Format.csv:
        render.print_rows([row for one in found for row in _csv_rows(one)], form=format, names=CSV_KEYS)
    else:
        width = min(render.line_width() or _WIDTH, _WIDTH)
        sys.stdout.writelines(f"{line}\n" for line in _lines(found, width))
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    """What JSON can hold: infinite ratios become null."""
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


# -- for people --------------------------------------------------------------------------------------------------------


def _lines(found: Sequence[Finding], width: int) -> Iterator[str]:
    yield from _overview(found)
    for one in found:
        yield ""
        yield from _wrapped(f"{one.claim.number}  ", one.claim.sentence, width)
        yield from _wrapped("   published  ", f"{one.published_verdict}. {one.published_why}", width)
        yield from _wrapped("   measured   ", f"{one.verdict}. {one.why}", width)
        for note in one.notes:
            yield from _wrapped("   note       ", note, width)
        if one.would_decide:
            yield from _wrapped("   next       ", one.would_decide, width, words=False)
        for comparison in (*one.published_comparisons, *one.measured):
            yield ""
            yield from _details(comparison, width)
    if found:
        yield ""
        yield from _wrapped("Rule  ", found[0].rule if len(found) == 1 else _general(found), width)


def _general(found: Sequence[Finding]) -> str:
    return f"{found[0].rule} (That is claim {found[0].claim.number}'s; --claim N says that of another.)"


def _overview(found: Sequence[Finding]) -> Iterator[str]:
    """One line a claim."""
    titles = [f"{one.claim.number}  {one.claim.title}" for one in found]
    wide = max((len(t) for t in titles), default=0)
    yield f"{'claim':{wide}}  {'published':13}  measured"
    for title, one in zip(titles, found, strict=True):
        yield f"{title:{wide}}  {one.published_verdict:13}  {one.verdict}"


def _details(c: Comparison, width: int) -> Iterator[str]:
    """A comparison: where, the two groups, the effect, the best of each, the design, and what to be careful about."""
    from explorer.findings import judging
    from explorer.findings.model import GROUPS

    where = f"{c.table}, {c.place}" if c.table else c.place
    size = f", {c.n_examples} examples" if c.n_examples else ""
    top = f", top-{c.top_k}" if c.top_k > 1 else ""
    yield from _wrapped("   ", f"{c.outcome.upper()}  {where}, {c.threat_space}{top}{size}: {c.part}", width)
    for group in (c.a, c.b) if c.b is not None else (c.a,):
        yield f"     {GROUPS[group.name]:16} {judging.group_said(group)}"
    yield from _wrapped("     effect           ", judging.effect_said(c), width)
    if c.best is not None:
        yield from _wrapped("     best of each     ", judging.best_said(c.best), width)
    if c.design is not None:
        yield from _wrapped("     design           ", c.design.said, width)
    for caution in c.cautions:
        yield from _wrapped("     ! ", caution, width)


def _wrapped(first: str, text: str, width: int, *, words: bool = True) -> Iterator[str]:
    """Text behind a label, going on below itself. A command is never broken: it is there to be copied."""
    if not words:
        yield first + text
        return
    yield from textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=" " * len(first), break_long_words=False
    )


# -- for programs ------------------------------------------------------------------------------------------------------


def _csv_rows(one: Finding) -> Iterator[dict[str, Any]]:
    for c in (*one.published_comparisons, *one.measured):
        row: dict[str, Any] = {name: getattr(c, name) for name in CSV_KEYS if hasattr(c, name)}
        row |= {
            "claim": one.claim.number,
            "title": one.claim.title,
            "verdict": one.published_verdict if c.source == "published" else one.verdict,
            "cautions": "; ".join(c.cautions),
            "design": c.design.said if c.design is not None else None,
            "evaluation_ids": " ".join(c.evaluation_ids),
        }
        for side, group in (("a", c.a), ("b", c.b)):
            if group is not None:
                row |= {
                    f"group_{side}": group.name,
                    f"n_{side}": group.n_architectures,
                    f"mean_{side}": group.mean,
                    f"std_{side}": group.std,
                    f"best_{side}": group.best,
                    f"best_architecture_{side}": group.best_architecture,
                    f"params_{side}": group.mean_params,
                }
        if c.best is not None:
            names = ("difference", "low", "high", "test", "p_value", "p_adjusted")
            row |= {f"best_{name}": getattr(c.best, name) for name in names}
        yield row
