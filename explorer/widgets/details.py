"""Everything about one row: figures, attack, provenance, and how to get it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text
from textual.containers import VerticalScroll
from textual.widgets import Static

from explorer import reproduction
from explorer.render import megas
from explorer.widgets.cells import FAMILIES, clock, interval, one_decimal, thousands
from explorer.widgets.inks import Inks, inks_of

_LABEL_WIDTH = 10


class DetailView(VerticalScroll):
    """The details of one row of the table: several rows of the store when attacks stand side by side."""

    def compose(self) -> Any:
        yield Static("", markup=False)

    def show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show these rows; the view stays where it is scrolled to."""
        self.query_one(Static).update(describe(rows, inks_of(self.app)))


def describe(rows: Sequence[Mapping[str, Any]], inks: Inks) -> RenderableType:
    """The details as something to draw. What the rows share is said once."""
    if not rows:
        return Text("no row", style=inks.quiet)
    sheet = _Sheet(inks)
    _model(sheet, rows)
    for row in rows:
        _attack(sheet, row)
    if rows[0]["source"] == "published":
        _publication(sheet, rows[0])
    else:
        _provenance(sheet, rows)
    return Group(*sheet.parts)


class _Sheet:
    """Lines with a quiet label and a value that wraps beside it."""

    def __init__(self, inks: Inks) -> None:
        self.inks = inks
        self.parts: list[RenderableType] = []
        self._grid: Table | None = None

    def heading(self, text: str) -> None:
        self.parts.append(Text(f"\n{_plain(text)}", self.inks.accent))
        self._grid = None

    def line(self, label: str, value: object, style: Style | None = None) -> None:
        if value is None or value == "":
            return
        if self._grid is None:
            self._grid = Table.grid(padding=(0, 1, 0, 0))
            self._grid.add_column(width=_LABEL_WIDTH)
            self._grid.add_column(overflow="fold")
            self.parts.append(self._grid)
        self._grid.add_row(Text(label, self.inks.quiet), Text(_plain(value), style or self.inks.text))

    def say(self, value: object, style: Style | None = None) -> None:
        self.parts.append(Text(_plain(value), style or self.inks.text, overflow="fold"))
        self._grid = None


def _plain(value: object) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in str(value))


def _model(sheet: _Sheet, rows: Sequence[Mapping[str, Any]]) -> None:
    row = rows[0]
    sheet.say(row["architecture"], sheet.inks.family(row["family"]) + Style(bold=True))
    options = row["architecture_id"]
    if options and options != row["architecture"]:
        sheet.say(options, sheet.inks.quiet)
    if row.get("description"):
        sheet.say(row["description"], sheet.inks.quiet)
    sheet.line("family", f"{FAMILIES.get(row['family'], row['family'])} · {row['lineage']}")
    sheet.line(
        "size", " · ".join(_some([_of(megas(row["params"]), "parameters"), _of(megas(row["macs"]), "multiply-adds")]))
    )
    clean = f"{one_decimal(row['clean_accuracy'])} %" + (f", top-{row['top_k']}" if (row["top_k"] or 1) > 1 else "")
    sheet.line("clean", clean + _spread(row["clean_std"]))
    sheet.line("top-5", _top5(row["clean_top5_accuracy"], "clean"))
    sheet.line("data", row["dataset_id"] or row["dataset"])
    if row["n_examples"] is not None:
        whole = row["n_examples"] == row["n_requested"]
        done = f"{row['n_examples']}" if whole else f"{row['n_examples']} of {row['n_requested']} so far"
        sheet.line("examples", done + ("" if row["status"] == "complete" else f", {row['status']}"))
    sheet.line("threat", " · ".join(_some([row["threat_space"], _of(row["verdict"], "iterate counts")])))


def _attack(sheet: _Sheet, row: Mapping[str, Any]) -> None:
    inks = sheet.inks
    sheet.heading(label(row))
    judged = (row["n_examples"] or 0) - (row["n_errors"] or 0)
    counts = f"   {row['n_robust']}/{judged}" if row["n_robust"] is not None else ""
    between = (
        ""
        if row["robust_accuracy_low"] is None
        else f"   {interval(row['robust_accuracy_low'], row['robust_accuracy_high'])}"
    )
    sheet.line("robust", f"{one_decimal(row['robust_accuracy'])} %{_spread(row['robust_std'])}{between}{counts}")
    sheet.line("top-5", _top5(row["robust_top5_accuracy"], "robust"))
    sheet.line("HRS", one_decimal(row["hrs"]))
    if row["pp_hrs"] is not None:
        sheet.line("PP-HRS", f"{one_decimal(row['pp_hrs'])} against {row['pp_hrs_baseline']}")
    sheet.line("attack", settings(row))
    if row["forwards"] is not None:
        cost = f"{thousands(row['forwards'])} forwards, {thousands(row['backwards'])} backwards"
        sheet.line("cost", f"{cost}, {clock(row['seconds'])}" if row["seconds"] is not None else cost)
    for count, what in (("n_borderline", "decided by less than 1e-4"), ("n_zero_gradient", "met a gradient of zero")):
        if row.get(count):
            sheet.line("note", f"{row[count]} examples {what}")
    if row["evaluation_id"]:
        sheet.line("id", row["evaluation_id"], inks.quiet)
    for warning in row["warnings"] or ():
        sheet.say(f"! {warning}", inks.warning)


def _publication(sheet: _Sheet, row: Mapping[str, Any]) -> None:
    sheet.heading("published, not measured here")
    sheet.say(row["citation"])
    if row.get("url"):
        sheet.say(row["url"], sheet.inks.quiet)
    if row["runs"]:
        sheet.say(f"Means over {row['runs']} runs.")
    if row.get("notes"):
        sheet.say(row["notes"], sheet.inks.quiet)


def _provenance(sheet: _Sheet, rows: Sequence[Mapping[str, Any]]) -> None:
    row = rows[0]
    sheet.heading("where it comes from")
    sheet.line("model", row["model_sha256"], sheet.inks.quiet)
    claim = row.get("clean_accuracy_recorded")
    sheet.line(
        "weights",
        ", ".join(
            _some(
                [
                    row.get("origin"),
                    _of(row["train_seed"], "seed", " ", before=True),
                    f"{one_decimal(claim)} % clean when made" if claim is not None else None,
                ]
            )
        ),
    )
    sheet.line("file", row.get("weights_path"), sheet.inks.quiet)
    sheet.line("device", " · ".join(_some([row["device"], row.get("engine") or row["precision"], row.get("hostname")])))
    versions = [
        _of(row["software_version"], "nasrob-tui", before=True),
        _of(row["torch_version"], "torch", before=True),
    ]
    sheet.line("software", ", ".join(_some([*versions, _of(row["engine_revision"], "engine", before=True)])))
    sheet.line("job", _of(row["job_id"], "#", "", before=True))
    when = max((r["updated_at"] for r in rows if r["updated_at"] is not None), default=None)
    sheet.line("updated", f"{when:%Y-%m-%d %H:%M:%S} UTC" if isinstance(when, datetime) else when)
    commands = _some(reproduction.command(r) for r in rows)
    if commands:
        sheet.heading("the same again")
        for command in commands:
            sheet.say(command)


def label(row: Mapping[str, Any]) -> str:
    """`pgd-10 · 8/255 · digits`."""
    steps = f"-{row['steps']}" if (row["steps"] or 1) > 1 else ""
    again = f"x{row['restarts']}" if (row["restarts"] or 1) > 1 else ""
    return f"{row['attack']}{steps}{again} · {row['eps']} · {row['dataset']}"


def settings(row: Mapping[str, Any]) -> str:
    """Everything about the attack that is known."""
    step = row["step_size"]
    config: dict[str, Any] = json.loads(row.get("attack_config") or "{}")
    if stages := config.get("stages"):
        names = (f"{s['name']} {s['eps']}" if config["name"] == "sweep" else str(s["name"]) for s in stages)
        return f"{row['norm']} {row['eps']}, {', then '.join(names)}, seed {row['seed']}"
    own = [f"{name.replace('_', ' ')} {value}" for name, value in config.get("settings", {}).items()]
    surrogate = config.get("surrogate")
    return ", ".join(
        _some(
            [
                f"{row['norm']} {row['eps']}",
                f"crafted on {surrogate['architecture']}" if surrogate else None,
                _steps(row["steps"], step),
                _of(row["restarts"], "restart" if row["restarts"] == 1 else "restarts"),
                {True: "random start", False: "start at the image"}.get(row["random_start"]),
                _of(row["loss"], "loss", before=True),
                *own,
                _of(row["seed"], "seed", before=True),
            ]
        )
    )


def _steps(steps: int | None, size: float | None) -> str | None:
    if steps is None:
        return None
    of = f" of {size * 255:.3g}/255" if size is not None else ""
    return f"{steps} step{'s' * (steps != 1)}{of}"


def _top5(accuracy: float | None, what: str) -> str | None:
    return None if accuracy is None else f"{one_decimal(accuracy)} % {what}"


def _spread(std: float | None) -> str:
    return f" ± {one_decimal(std)}" if std is not None else ""


def _some(values: Any) -> list[str]:
    return [str(v) for v in values if v is not None and v != ""]


def _of(value: object, what: str, space: str = " ", *, before: bool = False) -> str | None:
    if value is None or value == "":
        return None
    return f"{what}{space}{value}" if before else f"{value}{space}{what}"
