"""Studies as they are written, expanded and reported: TOML, ranges, refusals, shipped studies, statistics, plots."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from explorer.errors import ExplorerError
from explorer.studies import comparisons, costs, definition, document, expansion, measurements, reporting, scatter
from explorer.studies.comparisons import Comparison
from explorer.studies.measurements import Findings, Mean, Measurement, Setting
from explorer.studies.standing import Found, ModelState
from models.errors import UnknownName

TEXT = """
name = "small"
title = "Small"
datasets = ["digits"]
attacks = ["fgsm", "pgd-3"]
eps = ["8/255", "16/255"]
seeds = [0, 1]

[[groups]]
name = "hand-crafted"
architectures = ["resnet18@width=2"]

[[groups]]
name = "random"
architectures = ["darts-random-{seed}"]
options = { init_channels = 4, layers = 3 }

[[claims]]
says = "Random is better"
more = "random"
less = "hand-crafted"
"""


def study(text: str = TEXT, **changes: str) -> definition.Study:
    """The small study; `changes` replace the value of a key at the top."""
    for key, value in changes.items():
        found = re.search(rf"^{key} = .*$", text, flags=re.MULTILINE)
        line = f"{key} = {value}"
        text = text.replace(found[0], line) if found else f"{line}\n{text}"
    return definition.parse(text, source="study.toml", where="study.toml")


def refusal(text: str) -> str:
    with pytest.raises(ExplorerError) as caught:
        expansion.expand(definition.parse(text, source="study.toml", where="study.toml"))
    said = str(caught.value)
    assert caught.value.exit_code == 2
    assert said.startswith("study.toml"), "an error names the file"
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("darts", ["darts"]),
        ("darts-random-{3..5}", ["darts-random-3", "darts-random-4", "darts-random-5"]),
        ("darts-random-{0..1}@layers={2..3}", [f"darts-random-{i}@layers={n}" for i in (0, 1) for n in (2, 3)]),
        ("darts-random-{seed}", ["darts-random-{seed}"]),
        ("20 random cells, seeds 0-19", [f"darts-random-{i}" for i in range(20)]),
        ("2 random nasbench201 cells, seeds 7-8", ["nasbench201-random-7", "nasbench201-random-8"]),
    ],
)
def test_ranges(text: str, names: list[str]) -> None:
    assert definition.expand(text, ValueError) == names


@pytest.mark.parametrize("text", ["darts-random-{5..3}", "darts-{x}", "19 random cells, seeds 0-19", "a{0..9999999}"])
def test_ranges_that_make_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        definition.expand(text, ValueError)


@pytest.mark.parametrize(
    ("change", "key", "says"),
    [
        ('seed = [1]\nname = "small"', "seed:", "'seeds'"),
        ('name = "Small one"', "name:", "lower-case"),
        ('name = "small"\nexamples = 0', "examples:", '"all"'),
        ('name = "small"\nseeds = ["a"]', "Cannot overwrite", ""),
        ('name = "small"\nthreat_spaces = ["pixels"]', "threat_spaces:", "normalized-clamped"),
        ('name = "small"\nverdict = "first"', "verdict:", "worst"),
        ('name = "small"\nengine = { slot = 3 }', "engine.slot:", "'slots'"),
        ('name = "small"\noptions = { depth = 3 }', "options.depth:", "layers"),
        ('name = "small"\nrecipe = "fats"', "recipe:", "'fast'"),
        ('name = "small"\nrecipe = { epoch = 3 }', "recipe:", "'epochs'"),
        ('name = "small"\nprinted = 2', "printed:", "no text"),
        ('name = "small"\nplots = ["bars"]', "plots:", "tradeoff"),
        ('name = "small"\ntop_k = 3', "top_k:", "1, 5"),
        ('name = "small"\ntop_k = true', "top_k:", "True is none of 1, 5"),
        ('name = "small"\nprinted = "Table 99"', "printed:", "Table 1, Table 2"),
        ('name = "small"\nexamples = 501', "examples:", "500 test examples"),
        ('name = "small"\nattack_seed = 9223372036854775808', "attack_seed:", "2**63"),
        (f'name = "small"\nattack_seed = {"9" * 5000}', "64 bits", ""),
        (f'name = "small"\nattack_seed = 0x{"f" * 5000}', "attack_seed:", "2**63"),
        (f"a = {'[' * 20000}{']' * 20000}", "too deeply", ""),
        (f"{'.'.join('a' * 2000)} = 1", "too deeply", ""),
        ('name = "small\\u001b[31m"', "name:", "U+001B"),
        ('name = "small"\ndescription = "a \\u0007"', "description:", "U+0007"),
        ('name = "small"\ndescription = "\\u202e"', "description:", "U+202E"),
        ('name = "small"\n"a\\u001b" = 1', "key", "U+001B"),
        ('name = "small\\n"', "name:", "one line"),
        ('name = "small', "not valid TOML", ""),
    ],
)
def test_refusals_name_file_key_and_what_was_meant(change: str, key: str, says: str) -> None:
    said = refusal(TEXT.replace('name = "small"', change, 1))
    assert key in said
    assert says in said


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ('["resnet18@width=2"]', '["resnet81"]', "groups.hand-crafted.architectures", "resnet18"),
        ('["resnet18@width=2"]', '["resnet18@widht=2"]', "groups.hand-crafted.architectures", "'width'"),
        ('["resnet18@width=2"]', "[]", "groups.hand-crafted.architectures", "list of architectures"),
        ('["resnet18@width=2"]', '["densenas-large"]', "groups.hand-crafted.architectures", "net_config"),
        ('["resnet18@width=2"]', '[{ architecture = "resnet18", lable = "x" }]', "architectures.1.lable", "'label'"),
        ('["resnet18@width=2"]', '["resnet18"]\nweights = "published"', "groups.hand-crafted", "no package publishes"),
        ('["digits"]', '["digitz"]', "datasets", "'digits'"),
        ('["fgsm", "pgd-3"]', '["fgms"]', "attacks", "'fgsm'"),
        ('["fgsm", "pgd-3"]', "[]", "attacks", "empty"),
        ('["8/255", "16/255"]', '["8"]', "attacks", "8/255"),
        ('less = "hand-crafted"', 'less = "handcrafted"', "claims.1.less", "'hand-crafted'"),
        ('less = "hand-crafted"', 'less = "hand-crafted"\nattack = "pgd-10"', "claims.1.attack", "pgd-3"),
        ("init_channels = 4", "inital_channels = 4", "groups.random.options.inital_channels", "init_channels"),
        ('name = "random"', 'name = "hand-crafted"', "groups", "twice"),
        ('name = "random"', 'name = "ran\\ndom"', "groups.2.name", "one line"),
        ('says = "Random', 'says = "\\u0000', "claims.1.says", "U+0000"),
        ('more = "random"', 'more = "hand-crafted"', "claims.1.less", "two groups"),
        ('["digits"]', '["digits", "Digits"]', "datasets", "same dataset"),
        ("[0, 1]", "[9223372036854775808]", "seeds.1", "2**63"),
        ("[0, 1]", '"0-999999999"', "seeds", "0-999999999"),
        ("[0, 1]", '"0-9999"', "groups", "20,000 models"),
        ('["resnet18@width=2"]', '["resnet18@width={0..99999}"]', "groups.hand-crafted", "0..99999"),
        ('["resnet18@width=2"]', '["darts-random-{0..999}@layers={1..99999}"]', "groups.hand-crafted", "99,999,000"),
        ('["resnet18@width=2"]', str(["a{0..6000}"] * 2), "groups.hand-crafted", "10,000"),
        ('["resnet18@width=2"]', '["resnet18", "resnet18"]', "groups.hand-crafted", "'resnet18' is listed twice"),
        ('["resnet18@width=2"]', '["resnet18", "resnet18@width=16"]', "groups.hand-crafted", "same architecture"),
        (
            '["resnet18@width=2"]',
            '["darts-random-{0..5}", "darts-random-3"]',
            "groups.hand-crafted",
            "'darts-random-3'",
        ),
        ("[0, 1]", "[922337203685477580]\n", "training seed", "92233720368547758"),
    ],
)
def test_refusals_of_names(old: str, new: str, key: str, says: str) -> None:
    text = TEXT.replace("darts-random-{seed}", "darts-ensemble-0@cells=1-1") if key == "training seed" else TEXT
    said = refusal(text.replace(old, new, 1))
    assert key in said
    assert says in said
    assert len(said) < 400


def test_the_same_architecture_in_two_groups_and_with_other_weights_is_no_repetition() -> None:
    text = TEXT.replace('["darts-random-{seed}"]', '["darts", { architecture = "resnet18@width=2", weights = "abc" }]')
    found = expansion.expand(study(text.replace('["resnet18@width=2"]', '["resnet18@width=2", "darts@layers=3"]')))
    assert len(found.models) == 4 + 3


def test_expansion_of_seeds_options_attacks_and_threat_spaces() -> None:
    found = expansion.expand(study(threat_spaces='["pixel", "normalized-clamped"]'))
    assert [(m.group, m.architecture, m.seed) for m in found.models] == [
        ("hand-crafted", "resnet18@width=2", 0),
        ("hand-crafted", "resnet18@width=2", 1),
        ("random", "darts-random-0@init_channels=4,layers=3", 0),
        ("random", "darts-random-1@init_channels=4,layers=3", 1),
    ]
    assert {m.label for m in found.models if m.group == "random"} == {"darts-random-*"}
    assert [a.label for a in found.attacks["pixel"]] == [
        "fgsm 8/255", "fgsm 16/255", "pgd-3 8/255", "pgd-3 16/255",
    ]  # fmt: skip
    assert len({a.identity for a in found.all_attacks}) == 8
    assert found.n_evaluations == 4 * 8
    # Both random cells are one line, of two runs; what is not trained has no seeds to vary.
    setting = Setting("digits", "pixel", "8/255")
    assert [(line.label, len(line.models)) for line in measurements.lines(found, [], setting)] == [
        ("resnet18", 2),
        ("darts-random-*", 2),
    ]


def test_recipe_and_options_of_study_group_and_text() -> None:
    text = TEXT.replace("[[groups]]", 'recipe = { name = "fast", epochs = 7 }\noptions = { width = 4 }\n[[groups]]', 1)
    text = text.replace('["resnet18@width=2"]', '["resnet18@width=2", "vgg16-bn"]')
    text = text.replace("options = { init_channels", "recipe = { epochs = 3 }\noptions = { init_channels")
    models = {m.label: m for m in expansion.expand(study(text)).models}
    assert models["resnet18"].architecture == "resnet18@width=2", "its own text goes before the study's options"
    assert models["vgg16-bn"].architecture == "vgg16-bn@width=4"
    orders = [models[name].order for name in ("resnet18", "darts-random-*")]
    recipes = [order.resolved() for order in orders if order is not None]
    assert [(r.name, r.epochs) for r in recipes] == [("fast", 7), ("fast", 3)]


def test_weights_that_a_person_brings() -> None:
    text = TEXT.replace('["resnet18@width=2"]', '[{ architecture = "densenas-large", weights_needed = "ask them" }]')
    (needed,) = [m for m in expansion.expand(study(text)).models if m.group == "hand-crafted"]
    assert needed.weights_needed == "ask them"
    assert needed.spec is None
    (given,) = [m for m in expansion.expand(study(text), {"densenas-large": "abc"}).models if m.group == "hand-crafted"]
    assert (given.weights, given.weights_needed, given.order) == ("abc", None, None)
    with pytest.raises(ExplorerError, match="resnet99"):
        expansion.expand(study(text), {"resnet99": "abc"})


#: Models of the studies that are tables of the publication; Table 1 has three cells, and means over four runs.
PAPER = {
    "paper-cifar10": 10,
    "paper-cifar100": 9,
    "paper-imagenet": 11,
    "paper-flowers102": 9,
    "paper-parameters": 19,
    "paper-ensemble": 5 * 4,
}
SMALL = [f"{data}-{kind}" for data in ("digits", "fashion-mnist") for kind in ("cells", "parameters", "ensemble")]


def test_shipped_studies_are_all_there() -> None:
    assert set(definition.shipped()) == {*PAPER, *SMALL}


@pytest.mark.parametrize("name", [*PAPER, *SMALL])
def test_shipped_studies_expand(name: str) -> None:
    found = expansion.expand(definition.find(name))
    study = found.study
    assert study.name == name
    assert study.title
    assert study.description
    assert len(found.models) == PAPER.get(name, len(found.models))
    assert {m.group for m in found.models} == {g.name for g in study.groups}
    for model in found.models:
        assert model.order is not None or model.weights_needed or model.weights == "IMAGENET1K_V1"
    engine = study.engine
    assert (engine.compile, engine.channels_last, engine.fold, engine.precision) == ("off", "off", "off", "float32")


@pytest.mark.parametrize("name", SMALL)
def test_small_studies_ask_what_the_tables_ask(name: str) -> None:
    found = expansion.expand(definition.find(name))
    assert [expansion.label_of(a) for a in found.all_attacks if a.eps.text == found.study.eps[0]] == [
        "fgsm", "f-fgsm", "pgd-10",
    ]  # fmt: skip
    if name.endswith("ensemble"):
        assert [g.name for g in found.study.groups] == ["searched", "random", "ensemble"]
        by_group = {g: {m.architecture for m in found.models if m.group == g} for g in ("random", "ensemble")}
        assert [len(by_group[g]) for g in ("random", "ensemble")] == [4, 4], (
            "a new cell and a new ensemble in every run"
        )
        assert {m.seed for m in found.models} == {0, 1, 2, 3}
    elif name.endswith("cells"):
        assert {"hand-crafted", "searched", "random"} <= {m.group for m in found.models}
    else:
        assert "parameters" in found.study.plots


@pytest.mark.parametrize("name", [*PAPER])
def test_studies_of_the_paper_have_its_protocol_and_all_its_rows(name: str, home: Path) -> None:
    from explorer import settings

    found = expansion.expand(definition.find(name))
    assert set(found.attacks) == {"pixel", "normalized-clamped"}
    for attacks in found.attacks.values():
        assert [expansion.label_of(a) for a in attacks] == ["fgsm", "f-fgsm", "pgd-10"]
        assert {(a.norm, a.eps.text) for a in attacks} == {("Linf", "8/255")}
        pgd = next(a for a in attacks if a.name == "pgd")
        assert pgd.step_size is not None
        assert pgd.step_size.value == pytest.approx(2 / 255)
    rows = measurements.printed(found, expansion.Place(settings.load()))
    names = {measurements.plain(n) for m in found.models for n in (m.printed or m.label, m.text)}
    names |= {measurements.plain(g.printed) for g in found.study.groups if g.printed}
    assert rows
    assert [row.architecture for row in rows if row.key not in names] == []
    assert {row.dataset for row in rows} == set(found.study.datasets)


def test_unknown_study_and_file(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="digits-cells"):
        definition.find("digits-cell")
    with pytest.raises(ExplorerError, match="there is no study file"):
        definition.find(str(tmp_path / "none.toml"))


def comparison(more: tuple[float, ...], less: tuple[float, ...]) -> Comparison:
    claim = definition.Claim("a beats b", "a", "b")
    p, low, high = comparisons._welch(more, less)
    means = Mean(more), Mean(less)
    setting = Setting("digits", "pixel", "8/255")
    return Comparison(claim, setting, "pgd-10", *means, *means, False, "runs", p, low, high, ("x", 1.0), ("y", 1.0))


def test_tests_agree_with_scipy() -> None:
    from scipy import stats

    more, less = (31.2, 29.8, 35.1, 33.0), (25.0, 30.1, 27.7)
    p, low, high = comparisons._welch(more, less)
    theirs = stats.ttest_ind(more, less, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert p == pytest.approx(theirs.pvalue)
    assert (low, high) == pytest.approx((interval.low, interval.high))
    differences = [a - b for a, b in zip(more[:3], less, strict=True)]
    p, low, high = comparisons._paired(differences)
    theirs = stats.ttest_1samp(differences, 0.0)
    interval = theirs.confidence_interval(0.95)
    assert (p, low, high) == pytest.approx((theirs.pvalue, interval.low, interval.high))
    assert Mean(more).std == pytest.approx(stats.tstd(more))


@pytest.mark.parametrize(
    ("more", "less", "said"),
    [
        ((50.0, 51.0, 52.0), (20.0, 21.0, 19.0), "holds"),
        ((20.0, 21.0, 19.0), (50.0, 51.0, 52.0), "opposite"),
        ((20.0, 50.0, 35.0), (30.0, 31.0, 29.0), "open"),
        ((0.5, 0.7, 0.1), (1.0, 0.2, 0.3), "floor"),
        ((40.0,), (20.0,), "single"),
        ((5.0, 5.0, 5.0), (50.0, 50.0, 50.0), "agreed"),
        ((100 / 3,) * 49, (200 / 3,) * 3, "agreed"),
    ],
)
def test_verdicts(more: tuple[float, ...], less: tuple[float, ...], said: str) -> None:
    assert comparison(more, less).verdict == said


def test_no_spread_is_not_too_few_runs() -> None:
    agreed = comparison((5.0, 5.0, 5.0), (50.0, 50.0, 50.0))
    said = document._compared(agreed)
    assert (
        "difference -45.0 points (no spread within the groups, no p-value, 3 against 3 runs): **all runs agree**"
        in said
    )
    assert "too few" not in said + document.verdict([agreed])
    assert comparisons._paired([0.1 + 0.2, 0.3]) == (None, None, None), "what rounding leaves is no spread"


def test_rank_correlation_counts_every_order_of_few_points() -> None:
    from scipy import stats

    assert ranked(range(5), range(5)) == pytest.approx([1, 2 / 120])
    estimate, p = ranked(range(4), range(4))
    assert (round(estimate or 0, 9), p) == (1, None)
    assert comparisons.rank_correlation([(i, 3.0) for i in range(6)]) is None
    x, y = [1.0, 2, 3, 4, 5, 6], [2.0, 1, 4, 4, 9, 7]
    theirs = stats.permutation_test(
        (y,), lambda one: stats.spearmanr(x, one).statistic, permutation_type="pairings", n_resamples=10**4
    )
    assert ranked(x, y) == pytest.approx([theirs.statistic, theirs.pvalue])
    x, y = [float(i) for i in range(9)], [0.0, 2, 1, 4, 3, 6, 5, 8, 7]
    assert ranked(x, y) == pytest.approx(list(stats.spearmanr(x, y)))


def ranked(x: Iterable[float], y: Iterable[float]) -> list[float | None]:
    """Rank correlation and p-value."""
    return list(comparisons.rank_correlation(list(zip(x, y, strict=True))) or ())


def findings(text: str, robust: Callable[[int], float] = float) -> Findings:
    """Findings of a study whose every evaluation is complete; the models have 1000, 2000, ... parameters."""
    found = expansion.expand(study(text))
    states, rows = [], []
    for i, model in enumerate(found.models):
        states.append(ModelState(model, "here", None, (), tuple(Found("e", a, "complete") for a in found.all_attacks)))
        for attack in found.all_attacks:
            value = robust(i)
            row = {"params": 1000 * (i + 1), "warnings": ["odd <b>"], "evaluation_id": "e", "n_classes": 10}
            row |= {"clean_accuracy": 90.0, "robust_accuracy": value, "robust_accuracy_low": None}
            row |= {"robust_accuracy_high": None, "n_examples": 500, "n_errors": 0}
            row |= dict.fromkeys(("software_version", "torch_version", "engine_revision", "device"), "x_y")
            rows.append(Measurement(model, attack, expansion.label_of(attack), row, 90.0, value, 1.0, None))
    return Findings(found, states, rows, [], "nasrob-tui study run 'a```b'")


@pytest.mark.parametrize(("n", "said"), [(4, "4 sizes are too few to tell"), (5, "goes up"), (1, "")])
def test_report_gives_no_p_value_for_few_sizes(n: int, said: str) -> None:
    text = TEXT.partition('[[groups]]\nname = "random"')[0].replace("width=2", f"width={{1..{n}}}")
    text = text.replace("seeds = [0, 1]", 'seeds = [0]\nplots = ["parameters"]')
    lines = [line for line in document.markdown(findings(text), []).splitlines() if "Spearman" in line]
    assert all(said in line for line in lines)
    assert bool(lines) == (n > 1)
    assert [", p = 0.017, 5 sizes" in line for line in lines] == [n == 5] * len(lines)


#: Texts that would be markup, HTML, a formula or a link, if a report took them as they are.
HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "![x](http://e/x.png)",
    "# heading", "a|b", "$x$", "`code` and ``more``", "P`|<b>", "- item", "1. item", "*x* _y_ ~~z~~ \\|", "&lt;b&gt;",
    "<javascript:1>", "--- | ---", "> quote", "[red]", "\\", "``` fence", "=== a",
]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE)
def test_texts_of_a_study_are_no_markup_in_its_report(hostile: str) -> None:
    from markdown_it import MarkdownIt

    said = json.dumps(hostile)
    text = TEXT.replace('"Small"', f'{said}\ndescription = {said}\nplots = ["tradeoff", "parameters"]')
    text = text.replace('name = "random"', f"name = {said}\ndescription = {said}").replace(
        'more = "random"', f"more = {said}"
    )
    text = text.replace('"darts-random-{seed}"', f'{{ architecture = "darts-random-{{seed}}", label = {said} }}')
    text = text.replace('"Random is better"', said).replace("seeds = [0, 1]", "seeds = [0]")
    found = findings(text, lambda i: 10.0 + i)
    tokens = (
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(document.markdown(found, []))
    )
    every = [one for token in tokens for one in (token, *(token.children or ()))]
    kinds = {one.type for one in every}
    assert not kinds & {"html_inline", "html_block", "image", "s_open", "blockquote_open", "ordered_list_open", "hr"}
    assert {one.attrs["href"] for one in every if one.type == "link_open"} == {"evaluations.csv", "study.toml"}
    shown = ["".join(c.content for c in one.children or () if c.type in ("text", "code_inline")) for one in tokens]
    heads = [shown[i + 1] for i, one in enumerate(tokens) if one.type == "heading_open"]
    assert heads == [
        hostile, "What it says", *(f"digits, eps {n}/255, threat space pixel" if i == 0 else "By group" for n in (8, 16)
                                   for i in (0, 1)), "Warnings", "How it was measured",
    ]  # fmt: skip
    assert shown.count(hostile) >= 1 + 1 + 2 * 3, "the title, the description, and cells of the tables"
    assert f"{hostile}." in [one.content for one in every] or any(one.startswith(f"{hostile}. ") for one in shown)
    assert sum(one.type == "fence" for one in tokens) == 1
    assert not re.search(r"(?<!\\)\$", document.markdown(found, [])), "two dollars would be a formula on some pages"
    for name, plot in reporting.plots(found).items():
        root = ElementTree.fromstring(plot)
        assert hostile in [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")], name


def test_plots_hold_what_xml_can() -> None:
    axis = scatter.Axis("a\x00")
    text = scatter.svg([scatter.Point(1, 1, "s\x1b", "l\ufffe $x$")], axis, axis, 't\x07 "<')
    assert "l\ufffd $x$" in [e.text for e in ElementTree.fromstring(text).iter()]


def test_verdicts_in_words() -> None:
    holds, open_ = comparison((50.0, 51.0), (20.0, 21.0)), comparison((20.0, 50.0), (30.0, 31.0))
    opposite = comparison((20.0, 21.0), (50.0, 51.0))
    assert document.verdict([]) == "Not measured yet."
    assert document.verdict([holds, holds]) == "Holds here, in every setting measured."
    assert document.verdict([opposite]) == "The opposite holds here, in the setting measured."
    assert document.verdict([holds, open_]).startswith(
        "Holds in part: of 2 settings in 1 it holds, in 1 the difference"
    )
    assert document.verdict([holds, opposite]).startswith("Undecided here")
    assert document.verdict([open_]) == "The difference cannot be told from chance."


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", text)]


def test_plots_are_well_formed_and_labels_do_not_overlap() -> None:
    points = [
        scatter.Point(90 + math.sin(i), 30 + 4 * math.cos(i), f"family {i % 4} <&>", f"network-{i} & co", 0.3, 1.0)
        for i in range(24)
    ]
    text = scatter.svg(points, scatter.Axis("clean", ceiling=100), scatter.Axis("robust", floor=0), 'a "title" <1>')
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    marks = [e for e in root.iter() if e.get("class") == "mark"]
    assert len(marks) == 24 + 4, "a mark a point, and one a family in the legend"
    shapes = {len(e.get("points", "").split()) for e in marks}
    assert len(shapes) > 1, "families differ in shape"
    assert "prefers-color-scheme:dark" in text
    boxes = []
    for e in root.iter(f"{space}text"):
        if e.text and e.text.startswith("network-"):
            x, y, width = float(e.get("x", 0)), float(e.get("y", 0)), len(e.text) * 12 * 0.6
            left = {"start": x, "end": x - width}[e.get("text-anchor", "start")]
            boxes.append((left, y - 11, left + width, y + 2))
            assert left >= 0
            assert left + width <= scatter.WIDTH
    assert boxes
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])


def test_plots_of_extremes() -> None:
    """One point, equal points, none, and figures over many magnitudes: finite places, all of them inside."""
    percent = scatter.Axis("percent", floor=0, ceiling=100)
    for points in ([], [scatter.Point(0, 0, "a", "x")], [scatter.Point(100, 100, "a", "x")] * 3):
        assert "nan" not in scatter.svg(points, percent, percent, "t")
        ElementTree.fromstring(scatter.svg(points, percent, percent, "t"))
    wide = [scatter.Point(10.0**i, i, "a", str(i)) for i in range(3, 9)]
    root = ElementTree.fromstring(scatter.svg(wide, scatter.Axis("parameters", log=True), percent, "t"))
    places = [float(e.get("cx", "nan")) for e in root.iter() if e.get("cx") and e.get("class") == "mark"][1:]
    assert places == sorted(places)
    steps = [b - a for a, b in itertools.pairwise(places)]
    assert max(steps) - min(steps) < 0.5, "a logarithmic axis has equal steps for equal factors"


def test_times_as_people_say_them() -> None:
    said = [costs.about(s) for s in (None, 12.4, 600, 7200, 100_000, 1_000_000)]
    assert said == ["?", "12 s", "10 min", "2.0 h", "28 h", "12 days"]
