"""The Markdown of a study's report."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import Any

from explorer.render import megas
from explorer.studies import comparisons
from explorer.studies import measurements as figures
from explorer.studies.comparisons import Comparison
from explorer.studies.definition import Study
from explorer.studies.measurements import Findings, Line, Mean, Printed, Setting
from models.specs import digest

#: Files beside the report.
TABLE, DEFINITION = "evaluations.csv", "study.toml"

_VERDICTS = ("holds", "opposite", "open", "floor", "single", "agreed")

_LEGEND = (
    "In the tables ± is the sample standard deviation over runs and [ ] Wilson's 95 % interval of a single run; HRS "
    "and PP-HRS are of the attack named; ! marks an evaluation with warnings (see below); *in italics* is what was "
    "printed elsewhere, with its threat space: figures of two threat spaces do not compare."
)


#: What begins a list, a heading's underline or a rule.
_BEGINS = re.compile(r"^([-+=]|\d{1,9}(?=[.)]))")


def inline(text: str) -> str:
    """A text of the study as Markdown that shows it as it was written: nothing in it is markup, HTML or a formula.

    In a table `|` is escaped too, by what makes the table.
    """
    marked = re.sub(r"([\\`*_\[\]#~$])", r"\\\1", text)
    numbered = _BEGINS.sub(lambda m: f"\\{m[1]}" if m[1] in "-+=" else f"{m[1]}\\", marked)
    return html.escape(numbered, quote=False)


def code(text: str) -> str:
    """A name in the font of code; one that could end it, or be taken for markup in it, as a text."""
    return inline(text) if re.search(r"[`|\\<>&$]", text) else f"`{text}`"


def plot_name(kind: str, setting: Setting) -> str:
    """The file of a plot."""
    plain = "".join(c if c.isalnum() else "-" for c in f"{kind}-{setting.dataset}-{setting.eps}-{setting.threat_space}")
    return f"{plain}.svg"


def markdown(findings: Findings, drawn: Sequence[str]) -> str:
    """The report. `drawn` are the names of the plots that lie beside it."""
    study = findings.study
    parts = [f"# {inline(study.title)}", inline(study.description), *_state(findings)]
    if study.claims:
        parts += ["## What it says", *_claims(findings)]
    parts.append(_LEGEND)
    for setting in figures.settings_of(findings.expansion):
        parts += _section(findings, setting, drawn)
    if findings.printed:
        parts += _printed_elsewhere(findings)
    parts += _warnings(findings)
    parts += _missing(findings)
    parts += _how(findings)
    return "\n\n".join(part for part in parts if part) + "\n"


def _state(findings: Findings) -> list[str]:
    total, done = findings.expansion.n_evaluations, len(findings.measurements)
    models = len({m.model for m in findings.measurements})
    said = f"{done} of {total} evaluations, of {models} of {len(findings.expansion.models)} models."
    if done < total:
        said += " **The study is not complete**: what is missing is listed below."
    where = f"Every evaluation with its identity in the store: [{TABLE}]({TABLE}). To run it again:"
    # A file's name may have backticks in it.
    longest = max(map(len, re.findall("`+", findings.command)), default=0)
    fence = "`" * max(3, longest + 1)
    return [said, where, f"{fence}sh\n{findings.command}\n{fence}"]


def _section(findings: Findings, setting: Setting, drawn: Sequence[str]) -> list[str]:
    """Tables and plots of one dataset, threat space and eps."""
    expansion, study = findings.expansion, findings.study
    lines = figures.lines(expansion, findings.measurements, setting)
    labels = figures.labels_of(expansion, setting)
    lead = figures.lead(expansion, setting)
    top = ", top-5" if study.top_k == 5 else ""
    parts = [f"## {inline(setting.dataset)}, eps {setting.eps}, threat space {setting.threat_space}{top}"]
    head = [
        "group",
        "architecture",
        "params",
        "runs",
        "clean %",
        *(f"{label} %" for label in labels),
        f"HRS ({lead})",
        "PP-HRS",
    ]
    rows = []
    for line in lines:
        rows.append(_row(line, labels, lead))
        rows += [_printed_row(p, labels, lead) for p in _beside(findings, line, setting)]
    parts.append(_grid(head, rows, right=2))
    if len(study.groups) > 1:
        rows = []
        for group in study.groups:
            own = [line for line in lines if line.group == group.name]
            rows.append(_group_row(group.name, own, labels, lead))
            rows += [_printed_row(p, labels, lead)[1:] for p in _beside_group(findings, group.printed, setting)]
        head = ["group", "params", "runs", "clean %", *(f"{label} %" for label in labels), f"best under {lead}"]
        parts += ["### By group", _grid(head, rows, right=1)]
    names = [plot_name(kind, setting) for kind in study.plots]
    parts += [f"![{name.removesuffix('.svg')}]({name})" for name in names if name in drawn]
    if "parameters" in study.plots:
        parts += _parameters(lines, lead)
    return parts


def _row(line: Line, labels: Sequence[str], lead: str) -> list[str]:
    runs = f"{line.n_complete}" if line.n_complete == len(line.models) else f"{line.n_complete} of {len(line.models)}"
    params = line.params
    size = "–" if params is None else _size(params)
    return [
        inline(line.group),
        code(line.label),
        size,
        runs,
        _cell(line.mean(figures.clean_of)),
        *(_robust_cell(line, label) for label in labels),
        _cell(line.mean(figures.hrs_of, lead)),
        _cell(line.mean(figures.pp_hrs_of, lead)),
    ]


def _size(params: Mean) -> str:
    spread = f" ± {megas(params.std)}" if params.std else ""
    return f"{megas(round(params.mean))}{spread}"


def _robust_cell(line: Line, label: str) -> str:
    own = line.of(label)
    mark = "".join("!" for _ in range(any(m.row["warnings"] for m in own)))
    if len(own) != 1:
        return _cell(line.mean(figures.robust_of, label)) + mark
    bounds = figures.interval(own[0])
    return f"{own[0].robust:.1f}" + (f" [{bounds[0]:.1f}–{bounds[1]:.1f}]" if bounds else "") + mark


def _cell(mean: Mean | None) -> str:
    if mean is None:
        return "–"
    return f"{mean.mean:.1f}" + (f" ± {mean.std:.1f}" if mean.std is not None else "")


def _group_row(name: str, own: Sequence[Line], labels: Sequence[str], lead: str) -> list[str]:
    means = [figures.over_runs(own, figures.robust_of, label) for label in labels]
    best = max(
        ((line.label, mean.mean) for line in own if (mean := line.mean(figures.robust_of, lead))),
        key=lambda pair: pair[1],
        default=None,
    )
    params = figures.over_runs(own, figures.params_of, None)
    n = max((len(mean.values) for mean in means if mean), default=0)
    unit = "seeds" if figures.is_by_seed(own) else "architectures"
    return [
        inline(name),
        "–" if params is None else _size(params),
        f"{n} {unit}" if n != 1 else f"{n} {unit[:-1]}",
        _cell(figures.over_runs(own, figures.clean_of, None)),
        *map(_cell, means),
        "–" if best is None else f"{code(best[0])} {best[1]:.1f}",
    ]


def _beside(findings: Findings, line: Line, setting: Setting) -> list[Printed]:
    """The printed row of an architecture, where it is of the same data."""
    names = {figures.plain(name) for m in line.models for name in (m.printed or m.label, m.text)}
    return [p for p in findings.printed if p.dataset == setting.dataset.partition("@")[0] and p.key in names]


def _beside_group(findings: Findings, name: str | None, setting: Setting) -> list[Printed]:
    same = setting.dataset.partition("@")[0]
    return [p for p in findings.printed if name and p.dataset == same and p.key == figures.plain(name)]


def _printed_row(p: Printed, labels: Sequence[str], lead: str) -> list[str]:
    """A printed row under the columns of a table: `labels` are attacks, of which it has figures by kind."""
    top = f", top-{p.top_k}" if p.top_k != 1 else ""
    cells = []
    for label in labels:
        value, std = p.robust.get(_kind(label)), p.robust_std.get(_kind(label))
        cells.append("–" if value is None else f"*{value:.1f}*" + (f" *± {std:.1f}*" if std is not None else ""))
    pgd = p.robust.get(_kind(lead))
    hrs = "–" if pgd is None or not p.clean + pgd else f"*{2 * p.clean * pgd / (p.clean + pgd):.1f}*"
    return [
        "",
        f"*{inline(p.architecture)}, printed: {p.threat_space}{top}*",
        "–" if p.params_m is None else f"*{p.params_m:g}M*",
        "–" if p.runs is None else f"*{p.runs}*",
        f"*{p.clean:.1f}*" + (f" *± {p.clean_std:.1f}*" if p.clean_std is not None else ""),
        *cells,
        hrs,
        "–",
    ]


def _kind(label: str) -> str:
    """The attack's name as printed tables have it: pgd of pgd-10."""
    return next((name for name in ("f-fgsm", "fgsm", "pgd") if label == name or label.startswith(f"{name}-")), label)


def _parameters(lines: Sequence[Line], lead: str) -> list[str]:
    """Whether accuracy goes with parameters, by group and over all."""
    said = []
    groups = list(dict.fromkeys(line.group for line in lines))
    for name, chosen in [*((g, [g]) for g in groups), *([("all groups", groups)] if len(groups) > 1 else [])]:
        points = [
            (line.params.mean, robust.mean)
            for line in lines
            if line.group in chosen and line.params and (robust := line.mean(figures.robust_of, lead))
        ]
        found = comparisons.rank_correlation(points)
        if found is None:
            continue
        rho, p = found
        shown, own = f"Spearman's rank correlation {rho:+.2f}", inline(name)
        if p is None:
            said.append(f"- {own}: {len(points)} sizes are too few to tell an order from chance ({shown})")
            continue
        order = f"goes {'up' if rho > 0 else 'down'} with parameters"
        sure = order if p < comparisons.LEVEL else "shows no order that chance would not"
        said.append(f"- {own}: robust accuracy {sure} ({shown}, p {_p(p)}, {len(points)} sizes)")
    return ["Parameters against accuracy under " + lead + ":\n\n" + "\n".join(said)] if said else []


def _claims(findings: Findings) -> Iterator[str]:
    """What each claim comes to in every setting, and in one sentence."""
    all_ = [
        comparison
        for setting in figures.settings_of(findings.expansion)
        for comparison in comparisons.comparisons(
            findings.expansion,
            findings.measurements,
            setting,
            figures.lines(findings.expansion, findings.measurements, setting),
        )
    ]
    for claim in findings.study.claims:
        own = [c for c in all_ if c.claim is claim]
        lines = [f"**{inline(claim.says)}.** {verdict(own)}"]
        lines += [f"- {_compared(c)}" for c in own]
        yield lines[0] + ("\n\n" + "\n".join(lines[1:]) if own else "")
    if all_:
        yield (
            "Differences are of group means, with 95 % intervals and p-values of a t-test (Welch's where nothing pairs "
            f"the runs), not corrected for there being {len(all_)} of them. Below {comparisons.FLOOR:g} % on both "
            "sides the attack leaves nothing to compare."
        )


def verdict(found: Sequence[Comparison]) -> str:
    """What a claim comes to over all settings, in a sentence."""
    if not found:
        return "Not measured yet."
    n = len(found)
    counts = {name: sum(c.verdict == name for c in found) for name in _VERDICTS}
    if counts["holds"] == n:
        return f"Holds here, in {'every' if n > 1 else 'the'} setting measured."
    if counts["opposite"] == n:
        return f"The opposite holds here, in {'every' if n > 1 else 'the'} setting measured."
    words = {
        "holds": "it holds",
        "opposite": "the opposite holds",
        "open": "the difference cannot be told from chance",
        "floor": "the attack leaves nothing to compare",
        "single": "there are too few runs to say",
        "agreed": "all runs agree, and without spread there is nothing to test by",
    }
    said = [f"in {counts[name]} {words[name]}" for name in words if counts[name]]
    if len(said) == 1 and n == 1:
        return said[0].removeprefix("in 1 ").capitalize() + "."
    if not (counts["holds"] or counts["opposite"]):
        return f"Not shown here: of {n} settings {', '.join(said)}."
    if counts["holds"] and counts["opposite"]:
        return f"Undecided here: of {n} settings {', '.join(said)}."
    return f"{'Holds' if counts['holds'] else 'The opposite holds'} in part: of {n} settings {', '.join(said)}."


def _compared(c: Comparison) -> str:
    words = {
        "holds": "holds",
        "opposite": "the opposite",
        "open": "cannot be told from chance",
        "floor": "nothing to compare",
        "single": "too few runs to say",
        "agreed": "all runs agree",
    }
    test = "paired t-test" if c.paired else "Welch's t-test"
    sizes = f"{len(c.more.values)} against {len(c.less.values)} {c.unit}"
    sure = sizes
    if c.p_value is not None and c.low is not None and c.high is not None:
        sure = f"95 % interval {c.low:+.1f} to {c.high:+.1f}, {test}, p {_p(c.p_value)}, {sizes}"
    elif c.verdict == "agreed":
        sure = f"{'the same in every pair' if c.paired else 'no spread within the groups'}, no p-value, {sizes}"
    s, more, less = c.setting, inline(c.claim.more), inline(c.claim.less)
    return (
        f"{inline(s.dataset)}, {c.label} at {s.eps}, {s.threat_space}: {more} {_cell(c.more)} %, {less} "
        f"{_cell(c.less)} %, difference {c.difference:+.1f} points ({sure}): **{words[c.verdict]}**. Best of each: "
        f"{code(c.best_more[0])} {c.best_more[1]:.1f} %, {code(c.best_less[0])} {c.best_less[1]:.1f} %. Clean: "
        f"{_cell(c.clean_more)} and {_cell(c.clean_less)} %."
    )


def _p(value: float) -> str:
    return f"= {value:.2g}" if value >= 0.001 else "below 0.001"


def _printed_elsewhere(findings: Findings) -> list[str]:
    """The printed table whole, where it is of other data than the study's, or has rows that the study lacks."""
    datasets = {model.dataset.partition("@")[0] for model in findings.expansion.models}
    first = findings.printed[0]
    others = [p for p in findings.printed if p.dataset not in datasets]
    if not others:
        return []
    labels = list(dict.fromkeys(name for p in others for name in p.robust))
    head = ["architecture", "params", "runs", "clean %", *(f"{label} %" for label in labels), "HRS"]
    rows = [_printed_row(p, labels, "pgd")[1:-1] for p in others]
    top = f", top-{first.top_k}" if first.top_k != 1 else ""
    return [
        f"## What was printed: {inline(first.table)} of arXiv:2007.08428, {inline(first.dataset)}",
        _grid(head, rows, right=1),
        f"Other data, eps 8/255, threat space {first.threat_space}{top}: what can be compared is the order, not the "
        "numbers.",
    ]


def _warnings(findings: Findings) -> list[str]:
    said: dict[str, list[str]] = {}
    guessing = dict.fromkeys(m.model.title for m in findings.measurements if figures.learned_nothing(m))
    if guessing:
        said["clean accuracy near that of guessing: the training failed, and what is said of its group with it"] = [
            *guessing
        ]
    for m in findings.measurements:
        for warning in m.row["warnings"]:
            seed = f" seed {m.model.seed}" if m.model.seed is not None else ""
            about = f"{m.model.text.partition('@')[0]}{seed}, {m.attack.label}, {m.attack.threat_space}"
            said.setdefault(warning, []).append(f"{about} ({m.row['evaluation_id']})")
    if not said:
        return []
    return [
        "## Warnings",
        "\n".join(f"- {inline(warning)}: {inline('; '.join(who))}." for warning, who in said.items()),
    ]


def _missing(findings: Findings) -> list[str]:
    total = len(findings.expansion.all_attacks)
    said: dict[str, list[str]] = {}
    for state in findings.states:
        lacking = total - state.n_complete
        if not lacking:
            continue
        reason = state.problem or {
            "to train": "not trained yet",
            "to fetch": "not evaluated yet",
            "here": f"{lacking} of {total} evaluations are not complete",
        }.get(state.weights, state.weights)
        said.setdefault(reason, []).append(state.model.title)
    if not said:
        return []
    lines = [f"- {inline(', '.join(who))}: {inline(reason.rstrip('.'))}." for reason, who in said.items()]
    return ["## Missing", "\n".join(lines)]


def _how(findings: Findings) -> list[str]:
    """Protocol and provenance."""
    study, found = findings.study, findings.measurements
    n = "all examples" if study.examples is None else f"the first {study.examples} examples of the stored order"
    lines = [
        f"Study `{study.name}`, definition {digest(study.text)} ([{DEFINITION}]({DEFINITION})); {n} of the test split.",
        "Attacks: " + "; ".join(f"{a.label}, {a.threat_space}, {_settings(a)}" for a in findings.expansion.all_attacks),
        "Engine: " + ", ".join(f"{key} {value}" for key, value in vars(study.engine).items()),
    ]
    orders = [state.model.order for state in findings.states if state.model.order is not None]
    recipes = sorted({part.resolved().name for order in orders for part in order.parts or (order,)})
    if recipes:
        lines.append(inline("Recipes: " + ", ".join(recipes) + _changes(study)))
    for key, said in (
        ("software_version", "nasrob-tui"),
        ("torch_version", "PyTorch"),
        ("engine_revision", "engine revision"),
        ("device", "device"),
    ):
        values = sorted({str(m.row[key]) for m in found if m.row[key] is not None})
        if values:
            lines.append(inline(f"{said}: {', '.join(values)}"))
    groups = [inline(f"{g.name}: {g.description}") for g in study.groups if g.description]
    return ["## How it was measured", "\n".join(f"- {line.rstrip('.')}." for line in [*lines, *groups])]


def _changes(study: Study) -> str:
    changes = [f"{key} = {value}" for key, value in study.training.overrides.items()]
    changes += [
        f"{key} = {value} in {group.name}"
        for group in study.groups
        if group.training
        for key, value in group.training.overrides.items()
    ]
    return f", with {', '.join(changes)}" if changes else ""


def _settings(attack: Any) -> str:
    step = f"step {attack.step_size}" if attack.step_size else "its own steps"
    start = "random start" if attack.random_start else "no random start"
    return f"{attack.norm}, {step}, {attack.restarts} restart{'s' * (attack.restarts != 1)}, {start}, {attack.verdict}"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: int) -> str:
    """A Markdown table; columns from `right` on are right-aligned."""

    def clean(text: str) -> str:
        return text.replace("|", "\\|")

    lines = [
        "| " + " | ".join(map(clean, head)) + " |",
        "|" + "|".join("---" if i < right else "---:" for i in range(len(head))) + "|",
    ]
    for row in rows:
        padded = [*row[: len(head)], *[""] * (len(head) - len(row))]
        lines.append("| " + " | ".join(map(clean, padded)) + " |")
    return "\n".join(lines)
