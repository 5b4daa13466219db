"""The verdict on a claim, in plain words, and what would decide it where nothing does."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from explorer.findings import inference
from explorer.findings.comparing import leans_against, sample_of, spread_over_runs
from explorer.findings.evidence import Result
from explorer.findings.model import GROUPS, Best, Claim, Comparison, Group, Verdict
from explorer.findings.rules import Rules
from explorer.render import megas

#: Architectures that a suggested command names at most, and how many it asks for of a group that is empty.
_MOST_NAMES, _FIRST_NAMES = 8, 5
#: Cells that can be shared out among three members.
_LEAST_CELLS = 3
#: Examples of a suggested evaluation where none was made yet.
_EXAMPLES = 500

_SAID = {
    "supports": "support it",
    "against": "against it",
    "open": "open",
    "floor": "at the floor",
    "ceiling": "at the ceiling",
}


def verdict(claim: Claim, comparisons: Sequence[Comparison], rules: Rules) -> tuple[Verdict, str]:
    """The verdict by the rule, and why, in plain words."""
    if not comparisons:
        return "undecided", "There is nothing to compare."
    counts = Counter(c.outcome for c in comparisons)
    said = ", ".join(
        f"{counts[o]} {_SAID[o]}" for o in ("supports", "against", "open", "floor", "ceiling") if counts[o]
    )
    data = ", ".join(dict.fromkeys(c.dataset for c in comparisons))
    total = f"On {data}, of {len(comparisons)} comparison{'s' * (len(comparisons) != 1)} {said}."
    if counts["against"]:
        return "does not hold", f"{total} {_clearest('Against', comparisons, 'against')}{_best_said(comparisons)}"
    lacking = lacks(claim, comparisons)
    contrary = [c for c in comparisons if c.outcome == "open" and leans_against(c, rules.rule)]
    if not lacking and not contrary:
        return "holds", f"{total} {_clearest('Clearest', comparisons, 'supports')}{_best_said(comparisons)}"
    if counts["floor"] + counts["ceiling"] == len(comparisons):
        where = "too strong" if counts["floor"] == len(comparisons) else "too weak"
        both = "too strong or too weak" if counts["floor"] and counts["ceiling"] else where
        return "undecided", f"{total} The attack is {both} to tell networks apart."
    reason = f"Not shown yet: {'; '.join(lacking)}." if lacking else f"{contrary[0].place} points the other way."
    return "undecided", f"{total} {reason} {_clearest('Nearest', comparisons, 'open')}{_best_said(comparisons)}"


def lacks(claim: Claim, comparisons: Sequence[Comparison]) -> list[str]:
    """What has no comparison that supports the claim though it needs one."""

    def key(c: Comparison) -> tuple[str, ...]:
        return tuple(str(getattr(c, name)) for name in claim.each)

    wanted = dict.fromkeys(key(c) for c in comparisons)
    if claim.each == ("part",):
        wanted = dict.fromkeys((part.name,) for part in claim.parts)
    shown = {key(c) for c in comparisons if c.outcome == "supports"}
    return [" under ".join(k) for k in wanted if k not in shown]


def _clearest(word: str, comparisons: Sequence[Comparison], outcome: str) -> str:
    """The comparison of this outcome that is surest, as a sentence; empty when there is none."""
    found = [c for c in comparisons if c.outcome == outcome]
    if not found:
        return ""
    return f"{word}: {described(min(found, key=_surety))}."


def _surety(c: Comparison) -> float:
    known = [p for p in (c.p_adjusted, c.p_small if c.outcome != "open" else None) if p is not None]
    return min(known, default=2.0)


def described(c: Comparison) -> str:
    """A comparison in one sentence without its full stop."""
    p = "no test" if c.p_adjusted is None else f"adjusted p {p_said(c.p_adjusted)}"
    if c.measure == "tau":
        what = f"tau {c.estimate:+.2f}{interval(c)} over {c.a.n_architectures} architectures"
    elif c.measure == "spread" and c.b is not None:
        what = f"{GROUPS[c.a.name]} {spread_over_runs(c.a)} against {GROUPS[c.b.name]} {spread_over_runs(c.b)}"
    elif c.b is not None:
        sizes = f"{c.a.n_architectures} and {c.b.n_architectures} architectures"
        what = (
            f"{GROUPS[c.a.name]} {c.a.mean:.1f} % against {GROUPS[c.b.name]} {c.b.mean:.1f} % "
            f"({c.estimate:+.1f} points{interval(c)}; {sizes})"
        )
    excluded = c.outcome in ("against", "supports") and c.p_small is not None and (c.p_adjusted or 1) > c.p_small
    if excluded and c.p_small is not None:
        # The p-value that decided: that of the test for an effect as large as the smallest that counts.
        p = f"a large effect excluded, one-sided adjusted p {p_said(c.p_small)}"
    return f"{c.place}: {what}, {p}"


def interval(c: Comparison) -> str:
    """`, 95 % +0.9 to +13.5`; empty where there is none."""
    if c.low is None or c.high is None:
        return ""
    digits = 1 if c.measure == "difference" else 2
    return f", 95 % {c.low:+.{digits}f} to {c.high:+.{digits}f}"


def p_said(p: float) -> str:
    """A p-value as people read it."""
    return f"{p:.2g}" if p >= 0.001 else "< 0.001"


def group_said(group: Group) -> str:
    """`mean 59.1 ± 5.2 over 5 architectures, 15 models, 3.5M parameters`."""
    models = "" if group.n_models == group.n_architectures else f", {group.n_models} models"
    size = f", {megas(group.mean_params)} parameters" if group.mean_params else ""
    count = f"{group.n_architectures} architecture{'s' * (group.n_architectures != 1)}{models}"
    return f"mean {spread_over_runs(group)} over {count}{size}"


def effect_said(c: Comparison) -> str:
    """The estimate with its interval, size and test."""
    named = {
        "difference": f"{c.estimate:+.1f} points",
        "tau": f"tau {c.estimate:+.2f}",
        "spread": f"{c.estimate:.2f} times the spread",
    }
    size = f"; Hedges' g {c.effect_size:.2f}" if c.effect_size is not None else ""
    p = f"; p {p_said(c.p_value)}" if c.p_value is not None else ""
    adjusted = f", adjusted {p_said(c.p_adjusted)}" if c.p_adjusted is not None else ""
    return f"{named[c.measure]}{interval(c)}{size}{p}{adjusted} ({c.test})"


def best_said(best: Best) -> str:
    """The best of each group against each other."""
    between = "" if best.low is None or best.high is None else f", 95 % {best.low:+.1f} to {best.high:+.1f}"
    p = f"; p {p_said(best.p_value)}" if best.p_value is not None else ""
    adjusted = f", adjusted {p_said(best.p_adjusted)}" if best.p_adjusted is not None else ""
    pair = f"{best.architecture_a} {best.robust_a:.1f} %, {best.architecture_b} {best.robust_b:.1f} %"
    return f"{pair}: {best.difference:+.1f} points{between}{p}{adjusted} ({best.test})"


def _best_said(comparisons: Sequence[Comparison]) -> str:
    pairs = [c for c in comparisons if c.best is not None and c.outcome not in ("floor", "ceiling")]
    if not pairs:
        return ""
    ahead = sum(c.best is not None and c.best.difference > 0 for c in pairs)
    return f" Best against best, the claimed side is ahead in {ahead} of {len(pairs)}."


# -- what would decide it ----------------------------------------------------------------------------------------------


def would_decide(claim: Claim, comparisons: Sequence[Comparison], results: Sequence[Result], rules: Rules) -> str:
    """Commands joined by `&&` whose results would bring a verdict nearer."""
    dull = [c for c in comparisons if c.outcome in ("floor", "ceiling")]
    undecided = [c for c in comparisons if c.outcome == "open"]
    missing = _missing_part(claim, comparisons)
    if missing is not None:
        return _fill(claim, missing, results, rules)
    if dull and not undecided:
        return _other_eps(dull)
    shown = {tuple(getattr(c, name) for name in claim.each) for c in comparisons if c.outcome == "supports"}
    nearest = sorted(
        undecided, key=lambda c: (tuple(getattr(c, name) for name in claim.each) in shown, _surety(c), c.place)
    )
    return _more(claim, nearest[0], results, rules)


def _missing_part(claim: Claim, comparisons: Sequence[Comparison]) -> str | None:
    there = {c.part for c in comparisons}
    return next((part.name for part in claim.parts if part.name not in there), None)


def _fill(claim: Claim, part_name: str, results: Sequence[Result], rules: Rules) -> str:
    """Train and attack what a part of the claim has nothing of, where the other group is."""
    part = next(part for part in claim.parts if part.name == part_name)
    wanted = [group for group in (part.favoured, part.other) if group]
    on = Counter(r.dataset for r in results if r.group in wanted or claim.number == 4)
    dataset = min(on, key=lambda name: (-on[name], name)) if on else claim.try_on[0]
    rows = [r for r in results if r.dataset == dataset]
    lacking = [group for group in wanted if sum(r.group == group for r in rows) == 0]
    # What is new is to be of the size and recipe of the most that is there.
    counted = Counter((r.scale, r.training) for r in rows if r.group in wanted and r.scale)
    (commonest, _) = counted.most_common(1)[0] if counted else (None, 0)
    alike = next((r for r in rows if (r.scale, r.training) == commonest and r.group in wanted), None)
    known = {r.architecture for r in rows} | {r.architecture_id for r in rows}
    batches = [(_new_names(group, known, rules, _FIRST_NAMES, alike), alike) for group in lacking]
    return _commands(dataset, batches, _attack_of(rows, claim), _examples_of(rows))


def _other_eps(dull: Sequence[Comparison]) -> str:
    """The same networks at an eps between too weak and too strong."""
    first = dull[0]
    alike = [c for c in dull if (c.dataset, c.attack) == (first.dataset, first.attack)]
    strong = [c.eps_value for c in alike if c.outcome == "floor"]
    weak = [c.eps_value for c in alike if c.outcome == "ceiling"]
    if strong and weak:
        eps = (min(strong) * max(weak)) ** 0.5
    else:
        eps = min(strong) / 2 if strong else max(weak) * 2
    members = [m for group in (first.a, first.b) if group is not None for m in group.members]
    names = list(dict.fromkeys(m.architecture_id for m in members))[: 2 * _MOST_NAMES]
    words = ["nasrob-tui", "eval", "--headless", "--dataset", first.dataset, "--attack", first.attack_name]
    words += ["--eps", f"{eps * 255:.3g}/255", "--examples", str(first.n_examples or _EXAMPLES), *_space(first)]
    return shlex.join([*words, *(word for name in names for word in ("--arch", name))])


def _more(claim: Claim, c: Comparison, results: Sequence[Result], rules: Rules) -> str:
    """More architectures for the groups of a comparison, the smaller first."""
    rows = [r for r in results if r.dataset == c.dataset]
    groups = sorted((g for g in (c.a, c.b) if g is not None), key=lambda g: g.n_architectures)
    target = _FIRST_NAMES + max(group.n_architectures for group in groups)
    if c.b is not None and c.measure == "difference":
        n = inference.needed(sample_of(c.a.members), sample_of(c.b.members), level=rules.rule.alpha)
        target = n if n is not None else target
    batches: list[tuple[list[str], Result | None]] = []
    for place, group in enumerate(groups):
        lacking = max(1, target - group.n_architectures)
        share = (_MOST_NAMES - sum(len(names) for names, _ in batches)) // (len(groups) - place)
        like = _of(group, rows)
        known = {m.architecture for m in group.members} | {r.architecture_id for r in rows}
        if like is not None and c.design is None:
            like = replace(like, scale="")  # the sizes are not alike anyway: its own suits each name best
        batches.append((_new_names(group.name, known, rules, min(lacking, share), like), like))
    if not any(names for names, _ in batches):
        other = next((name for name in claim.try_on if name != c.dataset), claim.try_on[0])
        batches = [(_new_names(group.name, set(), rules, _FIRST_NAMES, None), None) for group in groups]
        return _commands(other, batches, _attack_word(c), _EXAMPLES)
    return _commands(c.dataset, batches, [*_attack_word(c), *_space(c)], c.n_examples or _EXAMPLES)


def _of(group: Group, rows: Sequence[Result]) -> Result | None:
    """A result behind a group."""
    identities = {i for member in group.members for i in member.evaluation_ids}
    return next((row for row in rows if row.evaluation_id in identities), None)


def _new_names(group: str, known: Set[str], rules: Rules, n: int, like: Result | None) -> list[str]:
    """Architectures of a group that are not `known`, of the size of a result where there is one and they have it."""
    found: list[str] = []
    for candidate in rules.candidates[group]:
        seeds = range(1000) if "{seed}" in candidate else range(1)
        for seed in seeds:
            if len(found) >= n:
                return found
            name = candidate.format(seed=seed)
            sized = _sized(name, like)
            if not {name, sized} & known:
                found.append(sized)
    return found


def _sized(name: str, like: Result | None) -> str:
    """An architecture's name with the options that give it the size of a result; alone where it has no such options."""
    if like is None or not like.scale or "@" in name:
        return name
    from models.architectures import registry
    from models.errors import ModelsError
    from models.specs import split_options

    options = dict(part.split("=", 1) for part in like.scale.split(","))
    try:
        if registry.find(name).family == "ensemble":
            options = _split_cells(options, split_options(like.architecture_id)[1])
        return registry.parse_architecture(name, options).canonical
    except ModelsError:
        return name


def _split_cells(scale: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Options of an ensemble of a size: those of another ensemble, or its cells shared out as the study does."""
    from models.ensembles.composition import CELLS_OPTION

    if "cells" in given:
        return dict(given)
    options = {key: value for key, value in scale.items() if key not in CELLS_OPTION.values()}
    total = next((int(value) for key, value in scale.items() if key in CELLS_OPTION.values()), 0)
    if total >= _LEAST_CELLS:
        last, first = max(1, round(0.1 * total)), round(0.6 * total)
        options["cells"] = f"{first}-{total - first - last}-{last}"
    return options


def _recipe_words(like: Result | None) -> list[str]:
    """The options by which `train` trains as a result was trained; none where that is not known."""
    if like is None or like.training is None:
        return []
    from models.errors import ModelsError
    from models.training import recipes

    wanted = like.training.settings
    for name in like.training.name.split("+"):
        try:
            usual = recipes.load(name, like.dataset)
        except ModelsError:
            continue
        own = usual.to_dict()
        changed = {
            f.name: wanted.get(f.name, f.default) for f in recipes.settings() if wanted.get(f.name) != own.get(f.name)
        }
        words = [f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in sorted(changed.items())]
        return ["--recipe", name, *(word for text in words for word in ("--set-recipe", text))]
    return []


def _attack_of(rows: Sequence[Result], claim: Claim) -> list[str]:
    """The attack at the eps that most networks have met already; the claim's first at its own eps otherwise."""
    met = Counter((r.attack_name, r.eps, r.threat_space) for r in rows if r.attack_name in claim.attacks)
    if not met:
        return ["--attack", claim.attacks[0]]
    (name, eps, space), _ = max(met.items(), key=lambda item: (item[1], item[0]))
    words = ["--attack", name, "--eps", eps]
    return words + (["--threat-space", space] if space != "pixel" else [])


def _attack_word(c: Comparison) -> list[str]:
    from models.attacks.registry import inline
    from models.errors import ModelsError
    from models.specs import AttackSpec

    try:
        spec = AttackSpec.from_dict(dict(c.attack_config or {}))
        return ["--attack", inline(spec), *(["--seed", str(spec.seed)] if spec.seed else [])]
    except (ModelsError, KeyError, TypeError, ValueError):
        return ["--attack", c.attack_name, "--eps", c.eps]


def _space(c: Comparison) -> list[str]:
    return ["--threat-space", c.threat_space] if c.threat_space != "pixel" else []


def _examples_of(rows: Sequence[Result]) -> int:
    counted = Counter(r.n_examples for r in rows if r.n_examples)
    return counted.most_common(1)[0][0] if counted else _EXAMPLES


def _commands(
    dataset: str,
    batches: Sequence[tuple[Sequence[str], Result | None]],
    attack: Sequence[str],
    examples: int | None,
) -> str:
    """Train each batch as the result beside it was trained, and attack them all."""
    from models.datasets import registry
    from models.errors import ModelsError

    try:
        shipped = registry.find(dataset).name == "digits"
    except ModelsError:
        shipped = True
    fetch = [] if shipped else ["--download"]
    trainings: dict[tuple[str, ...], list[str]] = {}
    for names, like in batches:
        if names:
            trainings.setdefault(tuple(_recipe_words(like)), []).extend(names)

    def chosen(names: Sequence[str]) -> list[str]:
        return [word for name in names for word in ("--arch", name)]

    every = [name for names in trainings.values() for name in names]
    train = [
        ["nasrob-tui", "train", "--dataset", dataset, *fetch, *recipe, *chosen(names)]
        for recipe, names in trainings.items()
    ]
    run = ["nasrob-tui", "eval", "--headless", "--dataset", dataset, *attack, "--examples", str(examples)]
    return " && ".join(shlex.join(words) for words in (*train, [*run, *chosen(every)]))
