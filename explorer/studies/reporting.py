"""The report of a study: a folder with Markdown, plots, and every figure with its evaluation in a CSV file.

Every number comes from the store. The same store gives the same bytes: nothing here asks for the time.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from explorer.errors import FAILED, USAGE, ExplorerError
from explorer.studies import document
from explorer.studies import measurements as figures
from explorer.studies.document import DEFINITION, TABLE
from explorer.studies.measurements import Findings, Line
from explorer.studies.scatter import Axis, Point, svg

REPORT = "report.md"
#: Of a group with more architectures than this, points in plots have no names beside them.
_MOST_NAMES = 8

#: Columns of the table of evaluations.
KEYS = (
    "group", "label", "architecture", "train_seed", "dataset", "n_examples", "attack", "eps", "threat_space", "verdict",
    "params", "clean_accuracy", "robust_accuracy", "robust_accuracy_low", "robust_accuracy_high", "clean_top5_accuracy",
    "robust_top5_accuracy", "hrs", "pp_hrs", "pp_hrs_baseline", "forwards", "backwards", "evaluation_id",
    "model_sha256", "warnings",
)  # fmt: skip

#: Columns of what `study run` and `study report` print: a line an architecture, setting and attack.
SUMMARY_KEYS = (
    "group", "label", "dataset", "threat_space", "eps", "attack", "runs", "params", "clean_accuracy", "clean_std",
    "robust_accuracy", "robust_std", "robust_accuracy_low", "robust_accuracy_high", "hrs", "pp_hrs", "warnings",
)  # fmt: skip


def check(folder: Path) -> None:
    """Raise `ExplorerError` (exit code 2) where a report could not be written into a folder; leaves nothing behind.

    For the time before the work: an hour later is too late to hear of a slip of the pen.
    """
    folder = folder.expanduser().absolute()
    # The folder may have to be made: then the nearest one that exists counts.
    place = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
    try:
        if not place.is_dir():
            raise ExplorerError(f"cannot write the report to {folder}: {place} is not a folder.", USAGE)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ExplorerError(f"cannot write the report to {folder}: {error.strerror or error}.", USAGE) from None
    for name in (REPORT, TABLE, DEFINITION):
        if (folder / name).is_dir():
            raise ExplorerError(f"cannot write the report to {folder}: {name} in it is a folder.", USAGE)


def write(findings: Findings, folder: Path) -> list[Path]:
    """Write the report into a folder, which is made if need be; returns the files, the report first.

    Raises `ExplorerError` when that cannot be done.
    """
    drawn = plots(findings)
    text = document.markdown(findings, list(drawn))
    files = {REPORT: text, TABLE: table(findings), DEFINITION: findings.study.text, **drawn}
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            partial = folder / f".{name}.{os.getpid()}.part"
            partial.write_text(text, encoding="utf-8", newline="")
            os.replace(partial, folder / name)
            written.append(folder / name)
    except OSError as error:
        raise ExplorerError(f"cannot write the report to {folder}: {error.strerror or error}.", FAILED) from None
    return written


def summary(findings: Findings) -> list[dict[str, Any]]:
    """A row an architecture, setting and attack, with means over runs."""
    rows = []
    for setting in figures.settings_of(findings.expansion):
        for line in figures.lines(findings.expansion, findings.measurements, setting):
            for label in figures.labels_of(findings.expansion, setting):
                own = line.of(label)
                clean, robust = line.mean(figures.clean_of, label), line.mean(figures.robust_of, label)
                bounds = figures.interval(own[0]) if len(own) == 1 else None
                hrs, pp = line.mean(figures.hrs_of, label), line.mean(figures.pp_hrs_of, label)
                rows.append(
                    {
                        "group": line.group,
                        "label": line.label,
                        "dataset": setting.dataset,
                        "threat_space": setting.threat_space,
                        "eps": setting.eps,
                        "attack": label,
                        "runs": len(own),
                        "params": None if line.params is None else round(line.params.mean),
                        "clean_accuracy": clean.mean if clean else None,
                        "clean_std": clean.std if clean else None,
                        "robust_accuracy": robust.mean if robust else None,
                        "robust_std": robust.std if robust else None,
                        "robust_accuracy_low": bounds[0] if bounds else None,
                        "robust_accuracy_high": bounds[1] if bounds else None,
                        "hrs": hrs.mean if hrs else None,
                        "pp_hrs": pp.mean if pp else None,
                        "warnings": sum(len(m.row["warnings"]) for m in own),
                    }
                )
    return rows


def table(findings: Findings) -> str:
    """Every evaluation of the study as CSV, with its identity in the store."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(KEYS)
    for m in findings.measurements:
        more = {
            "group": m.model.group,
            "label": m.model.label,
            "architecture": m.row["architecture_id"],
            "attack": m.label,
            "warnings": " ".join(m.row["warnings"]),
        }
        values = [more.get(key, m.row.get(key)) for key in KEYS]
        writer.writerow(["" if v is None else v for v in values])
    return out.getvalue()


def plots(findings: Findings) -> dict[str, str]:
    """The plots by the name of their file: one a setting and kind, where there is anything to show."""
    found = {}
    for setting in figures.settings_of(findings.expansion):
        lines = figures.lines(findings.expansion, findings.measurements, setting)
        for kind in findings.study.plots:
            label = figures.lead(findings.expansion, setting)
            points = list(_points(findings, lines, label, kind))
            if points:
                top = " top-5" if findings.study.top_k == 5 else ""
                robust = Axis(f"robust accuracy{top}, percent", floor=0, ceiling=100)
                clean = Axis(f"clean accuracy{top}, percent", floor=0, ceiling=100)
                across = clean if kind == "tradeoff" else Axis("parameters", log=True)
                title = f"{setting.dataset}: {label} at {setting.eps}, {setting.threat_space}"
                found[document.plot_name(kind, setting)] = svg(points, across, robust, title)
    return found


def _points(findings: Findings, lines: Sequence[Line], label: str, kind: str) -> Iterator[Point]:
    for line in lines:
        own = line.of(label)
        # Random cells, one a run, are as many architectures.
        pooled = len({m.model.architecture for m in own}) > 1
        parts = [Line(line.group, m.model.text.partition("@")[0], (m.model,), (m,), 1) for m in own]
        many = sum(other.group == line.group for other in lines) > _MOST_NAMES
        for part in parts if pooled else [line]:
            robust, clean, params = part.mean(figures.robust_of, label), part.mean(figures.clean_of, label), part.params
            if robust is None or clean is None or params is None:
                continue
            x = clean if kind == "tradeoff" else params
            name = "" if many else part.label
            yield Point(x.mean, robust.mean, line.group, name, x.std if kind == "tradeoff" else None, robust.std)
