"""The findings: every verdict from stores with known differences, the statistics against scipy and by hand, and what is
never counted."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from explorer import findings
from explorer.findings import comparing, designs, evidence, inference, judging, rules
from explorer.findings.evidence import Evidence, Result
from explorer.findings.inference import Sample
from explorer.findings.model import Comparison, Finding
from store import Store
from tests.explorer.findings_support import OneVisit, add, add_groups

Cli = Callable[..., tuple[int, str, str]]
BOOK = rules.load()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, only to be read: a dataset for each thing that can be found out. Robust examples are of 50."""
    store = OneVisit(tmp_path_factory.mktemp("findings") / "store.duckdb")
    store.ensure()
    with store.together():
        # Hand-crafted above searched by PGD, random above both, ensembles above all and close together.
        values = {
            "handcrafted": [20, 21, 19, 22, 20],
            "searched": [10, 11, 9, 12, 10],
            "random": [16, 31, 13, 35, 25],
            "ensemble": [40, 41, 40, 41, 40],
        }
        add_groups(store, values)
        # The other way round.
        add_groups(
            store, {"handcrafted": [10, 11, 9, 12, 13, 8], "searched": [20, 21, 19, 22, 23, 18]}, dataset="mnist"
        )
        # As alike as can be, of 100 examples.
        alike = {"handcrafted": [50, 51, 50, 51], "searched": [51, 50, 51, 50]}
        add_groups(store, alike, dataset="svhn", n=100)
        # Too few and too different to say.
        add_groups(store, {"handcrafted": [15, 25, 10], "searched": [12, 22, 8]}, dataset="cifar10")
        add_groups(store, {"handcrafted": [0, 0], "searched": [0, 0]}, dataset="fashion-mnist", eps="16/255")
        add_groups(store, {"handcrafted": [45, 45], "searched": [45, 45]}, dataset="kmnist", clean=45, eps="1/255")
        add_groups(store, {"handcrafted": [20, 21, 19, 22], "searched": [10, 11, 9, 12]}, dataset="large-pictures")
        # One line of designs: up to 24 million parameters the more the better, beyond that the less.
        for i, k in enumerate([10, 12, 14, 17, 18, 20]):
            add(store, f"r-{i}", "handcrafted", k, dataset="cifar100", params=(i + 1) * 4_000_000)
            add(store, f"s-{i}", "handcrafted", 30 - k, dataset="cifar100", params=(i + 8) * 4_000_000)
    return store.path


@cache
def on(path: Path, dataset: str | None = None) -> list[Finding]:
    """All findings of a store that nobody writes to any more."""
    return findings.compute(Store(path), dataset=dataset)


def finding(path: Path, number: int, dataset: str | None = None) -> Finding:
    return on(path, dataset)[number - 1]


def only(one: Finding) -> Comparison:
    (comparison,) = one.measured
    return comparison


# -- verdicts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "dataset", "verdict", "outcomes"),
    [
        (2, "digits", "holds", ["supports"]),
        (2, "mnist", "does not hold", ["against"]),
        (2, "svhn", "does not hold", ["against"]),
        (2, "cifar10", "undecided", ["open"]),
        (2, "fashion-mnist", "undecided", ["floor"]),
        (2, "kmnist", "undecided", ["ceiling"]),
        (3, "large-pictures", "holds", ["supports"]),
        (3, "digits", "undecided", []),
        (1, "digits", "undecided", []),
        (4, "cifar100", "holds", ["supports", "supports"]),
        (5, "digits", "holds", ["supports"] * 4),
        (5, "mnist", "undecided", []),
    ],
)
def test_every_verdict_can_be_reached(path: Path, number: int, dataset: str, verdict: str, outcomes: list[str]) -> None:
    one = finding(path, number, dataset)
    assert [c.outcome for c in one.measured] == outcomes
    assert one.verdict == verdict
    assert one.why
    assert (one.would_decide is None) == (verdict != "undecided")


def test_how_far_a_verdict_carries(path: Path) -> None:
    assert "Measured on digits alone: the claim is about more." in finding(path, 2, "digits").notes
    assert not any("alone" in note for note in finding(path, 5, "digits").notes)


def test_everywhere_means_everywhere(path: Path) -> None:
    """Of all the data together one contradicts, and that is enough."""
    one = finding(path, 2)
    assert {c.dataset: c.outcome for c in one.measured}["mnist"] == "against"
    assert one.verdict == "does not hold"
    assert one.why.startswith("On ")
    assert "against it" in one.why


def test_the_numbers_are_those_of_the_groups(path: Path) -> None:
    c = only(finding(path, 2, "digits"))
    hand, found = [40.0, 42, 38, 44, 40], [20.0, 22, 18, 24, 20]
    assert (c.a.name, c.b and c.b.name) == ("handcrafted", "searched")
    assert (c.a.mean, c.a.std) == pytest.approx((np.mean(hand), np.std(hand, ddof=1)))
    assert (c.a.best, c.a.best_architecture, c.a.n_architectures, c.a.n_models) == (44, "hand-3@layers=5", 5, 5)
    welch = stats.ttest_ind(hand, found, equal_var=False)
    assert c.difference == c.estimate == pytest.approx(20)
    assert (c.low, c.high) == pytest.approx(tuple(welch.confidence_interval(0.95)))
    assert c.p_value == pytest.approx(2 / math.comb(10, 5))
    assert c.p_adjusted == c.p_value
    assert c.test.startswith("unpaired")
    assert not c.paired
    assert len(c.evaluation_ids) == 10
    assert (c.attack, c.eps, c.threat_space, c.dataset_id, c.n_examples) == (
        "pgd-10", "8/255", "pixel", "digits/test#1", 50,
    )  # fmt: skip


def test_the_best_are_compared_as_pairs(path: Path) -> None:
    best = only(finding(path, 2, "digits")).best
    assert best is not None
    assert (best.architecture_a, best.architecture_b) == ("hand-3@layers=5", "found-3@layers=5")
    assert (best.robust_a, best.robust_b, best.difference, best.n_examples) == (44, 24, 20, 50)
    # The first 12 examples are robust in both, ten more in one only.
    assert best.p_value == pytest.approx(stats.binomtest(0, 10).pvalue)
    assert best.low is not None
    assert best.high is not None
    assert 8 <= best.low < 20 < best.high <= 34
    assert best.test.startswith("paired")


def test_ensembles_and_random_cells_are_grouped_over_seeds(path: Path) -> None:
    one = finding(path, 5, "digits")
    by_part = {c.part: c for c in one.measured}
    spread = by_part["random spread over ensembles"]
    random, ensembles = [32.0, 62, 26, 70, 50], [80.0, 82, 80, 82, 80]
    assert spread.a.std == pytest.approx(np.std(random, ddof=1))
    assert spread.estimate == pytest.approx(np.std(random, ddof=1) / np.std(ensembles, ddof=1))
    assert spread.p_value == pytest.approx(stats.levene(random, ensembles, center="median").pvalue)
    assert by_part["ensembles over random"].estimate == pytest.approx(np.mean(ensembles) - np.mean(random))
    # Four tests in one family: the smallest p-value is taken four times, and none falls below an earlier one.
    adjusted = sorted(c.p_adjusted or 9 for c in one.measured)
    assert adjusted[0] == pytest.approx(4 * min(c.p_value or 9 for c in one.measured))


def test_parameters_are_ranked_within_a_line(path: Path) -> None:
    below, above = finding(path, 4, "cifar100").measured
    assert (below.estimate, above.estimate) == (1, -1)
    assert below.p_value == pytest.approx(2 / math.factorial(6))
    assert (below.a.n_architectures, above.a.n_architectures) == (6, 6)
    assert below.difference is None


# -- the study's own figures -------------------------------------------------------------------------------------------


def test_printed_figures_are_those_of_the_store(path: Path) -> None:
    found = on(path)
    assert [len(one.published) for one in found] == [38, 39, 60, 19, 5]
    dense = [f for f in found[0].published if f.architecture == "NSGA-Net" and f.attack == "fgsm"]
    assert [(f.table, f.robust) for f in dense] == [("Table 2", 66.08), ("Table 3", 34.93)]
    assert {f.top_k for f in found[2].published if f.dataset == "imagenet"} == {5}


def test_printed_figures_are_judged_by_the_same_rule(path: Path) -> None:
    found = {one.claim.number: one for one in on(path)}
    assert {one.published_verdict for one in found.values()} == {"undecided"}
    one_step = {(c.dataset, c.attack_name): c for c in found[1].published_comparisons}
    cifar = one_step["cifar10", "fgsm"]
    assert (cifar.a.best, cifar.b and cifar.b.best) == (66.08, 53.53)
    assert (cifar.a.best_architecture, cifar.best and cifar.best.p_value) == ("NSGA-Net", None)
    # Four printed rows against five: even complete separation is no more than one in 126, twice.
    assert one_step["cifar100", "fgsm"].p_value == pytest.approx(2 / math.comb(9, 4))
    assert [c.outcome for c in found[2].published_comparisons] == ["supports", "supports", "open", "open"]
    imagenet = next(c for c in found[3].published_comparisons if (c.dataset, c.attack_name) == ("imagenet", "fgsm"))
    # By the best hand-crafted networks are ahead, by the mean searched ones.
    assert imagenet.best is not None
    assert imagenet.best.difference > 0 > imagenet.estimate
    assert (imagenet.a.mean, imagenet.b and imagenet.b.mean) == pytest.approx((46.09, 55.22), abs=0.01)
    assert imagenet.top_k == 5


def test_printed_means_over_runs_keep_their_spread(path: Path) -> None:
    one = finding(path, 5)
    by_part = {c.part: c for c in one.published_comparisons}
    versus = by_part["random over searched"]
    assert (versus.a.mean, versus.a.std, versus.a.n_architectures) == (14.47, 4.70, 4)
    welch = stats.ttest_ind_from_stats(14.47, 4.70, 4, 8.746667, 1.458984, 3, equal_var=False)
    assert versus.p_value == pytest.approx(welch.pvalue, rel=1e-4)
    assert versus.best is None
    spread = by_part["random spread over ensembles"]
    assert spread.p_value == pytest.approx(2 * stats.f.sf((4.70 / 0.35) ** 2, 3, 3))


# -- what never counts -------------------------------------------------------------------------------------------------


def test_what_is_left_out(tmp_path: Path) -> None:
    store = OneVisit(tmp_path / "store.duckdb")
    store.ensure()
    with store.together():
        kept = add_groups(store, {"handcrafted": [20, 21], "searched": [10, 11]})
        add(store, "hardened", "handcrafted", 48, recipe={"name": "pgd-at", "adversary": "pgd"})
        nested = {
            "name": "combiner",
            "members": [{"recipe": {"adversary": "none"}}, {"recipe": {"adversary": "trades"}}],
        }
        add(store, "darts-ensemble-9", "ensemble", 48, recipe=nested)
        add(store, "unfinished", "handcrafted", 3, done=20)
        for group in ("handcrafted", "searched"):
            add(store, f"transferred-{group}", group, 40, surrogate=True)
        add(store, "hand-0", "handcrafted", 49, force=True, done=49)  # a re-run that waits to replace the first
        add(store, "ensemble-0123456789ab", "ensemble", 40)  # picked by a person, not of random cells
        add(store, "nasbench201-all-conv3x3", "searched", 44)  # no find of a search
        add(store, "unknown", "handcrafted", 22, recipe={})
    one = finding(store.path, 2, "digits")
    c = only(one)
    assert sorted(c.evaluation_ids[:2]) == sorted(kept["handcrafted"])
    assert {m.architecture for m in c.a.members} == {"hand-0", "hand-1"}
    assert c.b is not None
    assert {m.architecture for m in c.b.members} == {"found-0", "found-1"}
    assert next(m for m in c.a.members if m.architecture == "hand-0").robust == 40
    # How it was trained is not known, so not by the recipe of the others.
    assert "hand-crafted: 1 model in other sizes or by other recipes left out" in c.cautions
    assert "2 models trained on adversarial examples left out" in one.notes[0]
    assert any(note.startswith("2 models in none of the claim's groups") for note in one.notes)
    assert not finding(store.path, 5, "digits").measured


def test_a_sampled_ensemble_is_no_ground_to_count_its_members_as_random(tmp_path: Path) -> None:
    store = OneVisit(tmp_path / "store.duckdb")
    store.ensure()
    with store.together():
        add_groups(store, {"random": [20, 21], "searched": [10, 11], "ensemble": [30]})
        add(store, "darts-random-7000", "random", 3)
        with store.write() as con:
            con.execute(
                """
                INSERT INTO ensemble_members
                SELECT e.model_sha256, e.architecture_id, 0, m.model_sha256, m.architecture_id
                FROM models AS e, models AS m
                WHERE e.architecture_id LIKE 'darts-ensemble-0@%' AND m.architecture_id LIKE 'darts-random-7000@%'
                """
            )
    one = finding(store.path, 5, "digits")
    versus = next(c for c in one.measured if c.part == "random over searched")
    assert versus.a.n_architectures == 2
    assert any(note.startswith("1 model that") or "members of a sampled ensemble" in note for note in one.notes)


def test_nothing_is_mixed(tmp_path: Path) -> None:
    store = OneVisit(tmp_path / "store.duckdb")
    store.ensure()
    groups = {"handcrafted": [20, 21], "searched": [10, 11]}
    with store.together():
        add_groups(store, groups)
        for other in ({"eps": "4/255"}, {"threat_space": "normalized-clamped"}, {"first": 100}, {"n": 60}):
            add_groups(store, groups, **other)
        add_groups(store, groups, attack="pgd-20")
    found = finding(store.path, 2, "digits").measured
    assert len(found) == 6
    assert all(len(c.evaluation_ids) == 4 for c in found)
    assert len({(c.attack, c.eps, c.threat_space, c.n_examples, c.evaluation_ids) for c in found}) == 6


def test_seeds_of_one_architecture_are_one_architecture(tmp_path: Path) -> None:
    store = OneVisit(tmp_path / "store.duckdb")
    store.ensure()
    with store.together():
        for seed, k in enumerate((10, 20, 30)):
            add(store, "hand-0", "handcrafted", k, seed=seed)
        add(store, "hand-1", "handcrafted", 25)
        add_groups(store, {"searched": [10, 12]})
    c = only(finding(store.path, 2, "digits"))
    assert (c.a.n_architectures, c.a.n_models) == (2, 4)
    assert c.a.mean == pytest.approx((40 + 50) / 2)
    # The best is the best model, not the best mean.
    assert (c.a.best, c.a.best_architecture) == (60, "hand-0@layers=5")


def test_only_one_size_and_recipe_is_compared(tmp_path: Path) -> None:
    """Else narrow networks of one study stand against wide ones of another, trained five times as long."""
    store = OneVisit(tmp_path / "store.duckdb")
    store.ensure()
    long, short = ({"name": name, "epochs": n} for name, n in (("standard", 60), ("fast", 12)))
    with store.together():
        for i, k in enumerate((40, 41, 42)):
            add(store, f"hand-{i}@layers=5", "handcrafted", k, recipe=long)
            add(store, f"hand-{i}@layers=20", "handcrafted", 5, recipe=long)
        add(store, "hand-9@layers=5", "handcrafted", 1, recipe=short)
        # Another name of the same settings is the same recipe.
        for i, k in enumerate((20, 21, 22)):
            add(store, f"found-{i}@layers=5", "searched", k, recipe=long | {"name": f"own-{i}"})
        for i in range(2):
            add(store, f"found-{i}@layers=5", "searched", 49, recipe=short)
        add(store, "found-8@layers=8", "searched", 49, recipe=long)
        # What only this topology has is no size.
        add(store, "found-7@layers=5,increment=2,squeeze_excitation=true", "searched", 23, recipe=long)
    c = only(finding(store.path, 2, "digits"))
    assert c.b is not None
    assert (c.a.n_architectures, c.a.mean, c.b.n_architectures, c.b.mean) == (3, 82, 4, 43)
    assert c.design is not None
    assert (c.design.scale, c.design.recipe) == ("layers=5", "own-0/own-1/own-2/standard, 60 epochs")
    assert c.to_dict()["design"] == {"scale": "layers=5", "recipe": c.design.recipe}
    assert c.cautions[:2] == (
        "hand-crafted: 4 models in other sizes or by other recipes left out",
        "searched: 3 models in other sizes or by other recipes left out",
    )


def test_groups_without_a_common_size_keep_one_recipe_each(tmp_path: Path) -> None:
    store = OneVisit(tmp_path / "store.duckdb")
    store.ensure()
    long, short = {"name": "standard", "epochs": 60}, {"name": "fast", "epochs": 12}
    with store.together():
        for width, k in ((4, 10), (8, 20)):
            add(store, f"hand-0@width={width}", "handcrafted", k, recipe=long)
        add(store, "hand-1@width=4", "handcrafted", 25, recipe=long)
        add(store, "hand-1@width=6", "handcrafted", 1, recipe=short)
        for i, k in enumerate((10, 12)):
            add(store, f"found-{i}@layers=5", "searched", k, recipe=short)
    c = only(finding(store.path, 2, "digits"))
    assert c.design is None
    assert (c.a.recipe, c.b and c.b.recipe) == ("standard, 60 epochs", "fast, 12 epochs")
    assert (c.a.n_architectures, c.a.n_models, c.a.mean) == (2, 3, pytest.approx((30 + 50) / 2))
    assert c.cautions[:3] == (
        "hand-crafted: 1 model by other recipes left out",
        "the groups share no size and recipe: hand-crafted by standard, 60 epochs; searched by fast, 12 epochs",
        "hand-crafted: 2 sizes are mixed, 1 of the topologies in several",
    )
    # The best is named by its own options, not by those of the first.
    assert (c.a.best, c.a.best_architecture) == (50, "hand-1@width=4")
    assert next(m for m in c.a.members if m.architecture == "hand-0").architecture_id == "hand-0@width=8"


def test_an_ensemble_has_as_many_cells_as_its_members(tmp_path: Path) -> None:
    store = OneVisit(tmp_path / "store.duckdb")
    store.ensure()
    recipe = {"name": "fast", "epochs": 12}
    joined = recipe | {"combiner": {"name": "combiner", "epochs": 2}}
    with store.together():
        for i, k in enumerate((40, 42, 41)):
            name = f"darts-ensemble-{i}@cells=6-3-1,init_channels=4,combine=learned,width=32"
            add(store, name, "ensemble", k, recipe=joined)
            add(store, f"darts-random-{i}@init_channels=4,layers=10", "random", 20 + i, recipe=recipe)
            add(store, f"found-{i}@init_channels=4,layers=10", "searched", 20 - i, recipe=recipe)
        for i in range(6):
            add(store, f"darts-random-{i}@init_channels=8,layers=5", "random", 49, recipe={"name": "darts"})
    by_part = {c.part: c for c in finding(store.path, 5, "digits").measured}
    assert len(by_part) == 4
    for c in by_part.values():
        assert c.design is not None
        assert c.design.said == "init_channels=4,layers=10 by fast, 12 epochs"
    spread = by_part["random spread over ensembles"]
    assert (spread.a.n_architectures, spread.a.mean) == (3, 42)
    assert "random cells: 6 models in other sizes or by other recipes left out" in spread.cautions


@pytest.mark.parametrize(
    ("architecture", "topology", "scale"),
    [
        ("googlenet", "googlenet", ""),
        ("darts@layers=5,init_channels=8", "darts", "init_channels=8,layers=5"),
        ("nsganet@init_channels=8,layers=5,increment=2", "nsganet@increment=2", "init_channels=8,layers=5"),
        ("darts-ensemble-7@cells=12-6-2,init_channels=4,combine=mean-probs", "darts-ensemble-7",
         "init_channels=4,layers=20"),
        ("nasbench201-ensemble-7@cells=3-2,init_channels=4,width=9", "nasbench201-ensemble-7",
         "cells_per_stage=5,init_channels=4"),
        ("resnet18@width=8", "resnet18", "width=8"),
        ("broken@", "broken@", ""),
    ],
)  # fmt: skip
def test_sizes(architecture: str, topology: str, scale: str) -> None:
    assert designs.scale_of(architecture, BOOK.options) == (topology, scale)


def test_recipes() -> None:
    fast = {"name": "fast", "epochs": 12, "lr": 0.1}
    one = designs.training_of(fast)
    assert one is not None
    assert one.said == "fast, 12 epochs"
    assert designs.training_of(fast | {"name": "other", "seed": 3}) == one
    assert designs.training_of(fast | {"lr": 0.4}) != one
    assert designs.training_of({"members": [fast, fast]}) == one
    assert designs.training_of(fast | {"combiner": {"epochs": 2}}) == one
    assert designs.training_of({"members": [fast, fast | {"lr": 0.4}]}) not in (one, None)
    for unknown in (None, {}, "fast", {"members": [fast, None]}, {"members": []}):
        assert designs.training_of(unknown) is None
    assert designs.training_of({"name": "fast"}) != designs.training_of({"name": "slow"})


def test_a_wrong_normalisation_never_counts(tmp_path: Path) -> None:
    """Measured later, under one attack only, or beside another architecture."""
    store = OneVisit(tmp_path / "store.duckdb")
    store.ensure()
    with store.together():
        add_groups(store, {"handcrafted": [20, 21], "searched": [10, 11]}, clean=45)
        for i in range(2):
            add(store, f"hand-{i}", "handcrafted", 0, mean=0.9, clean=5)
            add(store, f"hand-{i}", "handcrafted", 0, mean=0.9, clean=5, eps="4/255")
        add_groups(store, {"searched": [10, 11]}, clean=45, eps="4/255")
    one = finding(store.path, 2, "digits")
    c = only(one)
    assert (c.eps, c.a.mean, c.a.mean_clean, c.a.n_models) == ("8/255", 41, 90, 2)
    assert any(note.startswith("4 evaluations with another normalisation left out") for note in one.notes)


def test_only_sizes_of_one_design_by_one_recipe_are_a_line(tmp_path: Path) -> None:
    """Random cells share a space, not a design; and longer training is no more parameters."""
    store = OneVisit(tmp_path / "store.duckdb")
    store.ensure()
    with store.together():
        for i in range(5):
            add(store, f"darts-random-{i}@layers=5", "random", 30 - i, params=1000 * (i + 1))
        for layers in (5, 8):
            add(store, f"darts-random-9@layers={layers}", "random", layers, params=1000 * layers)
        for i, epochs in enumerate((10, 20, 30)):
            recipe = {"name": "fast", "epochs": epochs}
            add(store, f"resnet18@width={i}", "handcrafted", 30 - i, params=1000 * (i + 1), recipe=recipe)
        add(store, "ensemble-0123456789ab", "ensemble", 1, params=10)
    one = finding(store.path, 4, "digits")
    c = only(one)
    assert {m.architecture_id for m in c.a.members} == {"darts-random-9@layers=5", "darts-random-9@layers=8"}
    assert (c.estimate, c.outcome) == (1, "open")
    assert c.cautions[0] == "8 models left out: no other size of their line by their recipe"


# -- in memory: rows without a store -----------------------------------------------------------------------------------


def result(name: str, group: str, robust: float, **changes: Any) -> Result:
    usual = {
        "source": "measured", "table": None, "row": None, "dataset": "digits", "dataset_id": "digits/test#1",
        "subset": "all", "n_examples": 500, "image_side": 8, "attack_name": "pgd", "attack": "pgd-10",
        "attack_id": "one", "eps": "8/255", "eps_value": 8 / 255, "threat_space": "pixel", "top_k": 1,
        "architecture": name, "architecture_id": name, "topology": name, "scale": "layers=5",
        "training": designs.training_of({"name": "standard"}), "line": changes.get("lineage", group),
        "lineage": group, "ensemble": group == "ensemble", "group": group, "params": 1_000_000,
        "clean": 98.0, "robust": robust, "clean_top5": None, "robust_top5": None, "robust_std": None, "runs": None,
        "model": name, "evaluation_id": name, "engine_revision": 1, "n_warnings": 0, "citation": "",
    }  # fmt: skip
    return Result(**{**usual, **changes})


def rows_of(**groups: Sequence[float]) -> list[Result]:
    return [result(f"{group}-{i}", group, value) for group, values in groups.items() for i, value in enumerate(values)]


def judge(
    number: int, rows: Sequence[Result], counts: tuple[int, int, int, int] | None = None
) -> tuple[str, list[Comparison], str]:
    """Verdict, comparisons and what would decide it, with the same paired counts for every pair."""

    def pair(pairs: list[tuple[str, str]]) -> list[dict[str, int | float | None]]:
        both, a, b, neither = counts or (0, 0, 0, 0)
        n = sum(counts or ())
        row = {
            "n_examples": n or None, "both_robust": both, "only_a_robust": a, "only_b_robust": b,
            "neither_robust": neither, "difference": 100 * (a - b) / n if n else None,
            "p_value": stats.binomtest(min(a, b), a + b).pvalue if n else None,
        }  # fmt: skip
        return [dict(row) for _ in pairs]

    claim = BOOK.claims[number - 1]
    held = Evidence((), tuple(rows), (), (), {}, {})
    found = comparing.compare(claim, rows, held, BOOK, pair)
    verdict, _ = judging.verdict(claim, found, BOOK)
    decided = verdict != "undecided"
    return verdict, found, "" if decided else judging.would_decide(claim, found, rows, BOOK)


HIGH, LOW = (40.0, 41, 39, 42, 43), (20.0, 21, 19, 22, 23)


def test_best_pairs_that_say_the_opposite_leave_it_open() -> None:
    rows = rows_of(handcrafted=HIGH, searched=LOW)
    assert judge(2, rows, (100, 60, 5, 335))[0] == "holds"
    verdict, (c,), _ = judge(2, rows, (100, 5, 60, 335))
    assert (verdict, c.outcome) == ("undecided", "open")


def test_many_comparisons_need_stronger_evidence() -> None:
    rows = rows_of(handcrafted=HIGH[:4], searched=LOW[:4])
    assert judge(2, rows)[0] == "holds"
    twice = [*rows, *(replace(r, attack_id="two", eps_value=4 / 255, eps="4/255") for r in rows)]
    verdict, found, _ = judge(2, twice)
    assert verdict == "undecided"
    assert [c.p_adjusted for c in found] == pytest.approx([4 / 70, 4 / 70])


def test_a_random_cell_that_is_worse_speaks_against_claim_five() -> None:
    rows = rows_of(searched=HIGH, random=LOW, ensemble=(60, 61, 60, 61, 60.5))
    verdict, found, _ = judge(5, rows)
    assert verdict == "does not hold"
    assert next(c for c in found if c.part == "random over searched").outcome == "against"


def test_every_part_must_be_shown(path: Path) -> None:
    one = finding(path, 5, "digits")
    short = [c for c in one.measured if not c.part.startswith("ensembles over random")]
    verdict, why = judging.verdict(one.claim, short, BOOK)
    assert verdict == "undecided"
    assert "ensembles over random" in why


def test_an_open_comparison_that_leans_away_keeps_a_claim_from_holding() -> None:
    rows = rows_of(handcrafted=HIGH, searched=LOW)
    away = rows_of(handcrafted=[20, 40, 5], searched=[30, 45, 20])
    away = [replace(r, attack_id="two", eps_value=4 / 255, eps="4/255") for r in away]
    assert judge(2, [*rows, *away])[0] == "undecided"
    level = [replace(r, robust=r.robust + 9 * (r.group == "handcrafted")) for r in away]
    assert judge(2, [*rows, *level])[0] == "holds"


def test_small_differences_near_the_ends_of_the_scale_exclude_nothing() -> None:
    for base in (5.0, 93.0):
        rows = rows_of(
            handcrafted=[base + d for d in (0, 0.1, 0.2, 0.3)], searched=[base + d for d in (0, 0.1, 0.2, 0.1)]
        )
        assert judge(2, rows)[0] == "undecided"
    rows = rows_of(handcrafted=[50, 50.1, 50.2, 50.3], searched=[50, 50.1, 50.2, 50.1])
    assert judge(2, rows)[0] == "does not hold"


def test_more_parameters_beyond_the_turn() -> None:
    def line(values: Sequence[float], first: int) -> list[Result]:
        return [
            result(f"net-{first + i}", "handcrafted", v, params=(first + i) * 5_000_000) for i, v in enumerate(values)
        ]

    up, more = line([10, 20, 30, 35, 40], 1), line([50, 60, 70, 75, 80], 6)
    assert judge(4, [*up, *more])[0] == "does not hold"
    verdict, found, command = judge(4, up)
    assert (verdict, len(found)) == ("undecided", 1)
    assert "resnet18@width=104" in command
    assert judge(4, line([40, 35, 30, 20, 10], 1))[0] == "does not hold"


def test_no_order_is_looked_for_across_lines() -> None:
    """Two lines of different levels: sizes agree with accuracies within both, and against each other across."""
    a = [result(f"a-{i}", "handcrafted", 60 + i, lineage="a", params=1_000_000 * (i + 1)) for i in range(3)]
    b = [result(f"b-{i}", "handcrafted", 10 + i, lineage="b", params=5_000_000 * (i + 1)) for i in range(3)]
    _, (c,), _ = judge(4, [*a, *b])
    assert c.estimate == 1


def test_cautions_say_where_groups_are_not_alike() -> None:
    rows = [
        replace(r, params=5_000_000, clean=90.0) if r.group == "searched" else r
        for r in rows_of(handcrafted=HIGH, searched=LOW)
    ]
    rows[0] = replace(rows[0], n_warnings=1)
    _, (c,), _ = judge(2, rows)
    assert c.cautions == (
        "the groups' mean sizes differ 5.0-fold",
        "the groups' mean clean accuracies differ by 8.0 points",
        "1 of 10 evaluations carry warnings",
    )


def test_top_five_only_where_every_evaluation_has_it() -> None:
    rows = rows_of(handcrafted=HIGH, searched=LOW)
    rows = [replace(r, dataset="imagenet", clean_top5=99.0, robust_top5=r.robust + 30) for r in rows]
    held = Evidence((), tuple(rows), (), (), {}, {"imagenet": 5})

    def unpaired(pairs: list[tuple[str, str]]) -> list[dict[str, int | float | None]]:
        assert pairs == []  # outcomes are of the first class
        return []

    (c,) = comparing.compare(BOOK.claims[1], rows, held, BOOK, unpaired)
    assert (c.top_k, c.a.mean) == (5, 71)


@pytest.mark.parametrize(
    ("dataset", "side", "small"),
    [
        ("digits", 8, True),
        ("cifar10@size=64", 64, True),
        ("flowers102", 32, False),
        ("new", 32, True),
        ("new", 64, False),
    ],
)
def test_small_data(dataset: str, side: int, small: bool) -> None:
    assert BOOK.is_small(dataset, side) is small
    row = result("a", "searched", 1, dataset=dataset, image_side=side, attack_name="fgsm")
    assert comparing.concerns(BOOK.claims[0], row, BOOK) is small
    assert comparing.concerns(BOOK.claims[2], row, BOOK) is not small


@pytest.mark.parametrize(
    ("name", "family", "lineage", "group"),
    [
        ("resnet18", "handcrafted", "resnet", "handcrafted"),
        ("darts", "nas", "darts", "searched"),
        ("darts-random-7", "nas", "darts-random", "random"),
        ("nasbench201-random-7", "nas", "nasbench201-random", ""),
        ("darts-ensemble-7", "ensemble", "darts-ensemble", "ensemble"),
        ("nasbench201-ensemble-7", "ensemble", "ensemble", "ensemble"),
        ("ensemble-0123456789ab", "ensemble", "ensemble", ""),
        ("ENSEMBLE", "nas", "darts-ensemble", "ensemble"),
        ("RANDOM", "nas", "darts-random", "random"),
    ],
)
def test_groups(name: str, family: str, lineage: str, group: str) -> None:
    assert evidence.group_of(name, family, lineage, BOOK.groups) == group


# -- nothing follows from nothing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "groups",
    [
        {"handcrafted": [50.0], "searched": [10.0]},
        {"handcrafted": [50.0, 50], "searched": [10.0, 10]},
        {"handcrafted": [0.0] * 5, "searched": [0.0] * 5},
        {"handcrafted": [100.0] * 5, "searched": [100.0] * 5},
        {"handcrafted": [0.0] * 5},
        {"ensemble": [30.0] * 5},
        {"random": [50.0, 50], "ensemble": [50.0, 50], "searched": [50.0]},
        {"random": [50.0, 52], "ensemble": [40.0, 60], "searched": [50.0, 10]},
        {"random": [0.0] * 5, "ensemble": [100.0] * 2, "searched": [0.0] * 5},
        {},
    ],
)
@pytest.mark.parametrize("clean", [98.0, None])
def test_nothing_follows_from_nothing(groups: dict[str, list[float]], clean: float | None) -> None:
    rows = [replace(r, clean=clean) for r in rows_of(**groups)]
    for number in (1, 2, 3, 5):
        some = [replace(r, attack_name=BOOK.claims[number - 1].attacks[0]) for r in rows]
        verdict, found, command = judge(number, some)
        assert verdict == "undecided"
        assert command.startswith("nasrob-tui ")
        for c in found:
            assert judging.described(c)
            json.dumps(c.to_dict())
    for same in (rows, [replace(r, line="one", params=i + 1) for i, r in enumerate(rows)]):
        assert judge(4, same)[0] == "undecided"


def test_spreads_are_told_apart_only_where_there_is_room() -> None:
    """Ensembles next to 100 % or random cells next to 0 % have no place for a spread."""
    wide, close = [30.0, 40, 50, 60, 70, 35, 65], [50.0, 50.1, 50.2, 50.1, 50, 50.2, 50.1]

    def outcome(random: Sequence[float], ensemble: Sequence[float]) -> str:
        _, found, _ = judge(5, rows_of(random=random, ensemble=ensemble))
        (c,) = (c for c in found if c.measure == "spread")
        assert (c.p_value is None) == c.test.startswith("no test")
        return c.outcome

    assert outcome(wide, close) == "supports"
    assert outcome(close, wide) == "against"
    assert outcome(close * 5, close * 5) == "against"  # equal spreads: 1.5 times is excluded
    assert outcome(wide, [v + 45 for v in close]) == "open"
    assert outcome([v - 45 for v in close], [v - 45 for v in close]) == "open"
    assert outcome([v - 45 for v in close], [v - 10 for v in wide]) == "open"


def test_equal_means_are_no_line() -> None:
    """Five sizes of one line that fall are evidence; one pair with three networks beside it is none."""

    def line(name: str, values: Sequence[float]) -> list[Result]:
        return [
            result(f"{name}-{i}", "handcrafted", v, lineage=name, params=1_000_000 * (i + 1))
            for i, v in enumerate(values)
        ]

    single = [row for name in "bcd" for row in line(name, [30])]
    verdict, (c,), _ = judge(4, [*line("a", [50, 40]), *single])
    assert (verdict, c.p_small, c.a.n_architectures) == ("undecided", None, 2)
    assert judge(4, [*line("a", [50, 40]), *line("b", [50, 40]), *line("c", [50, 40])])[0] == "undecided"
    assert judge(4, line("a", [50, 40, 30, 20, 10]))[0] == "does not hold"
    assert judge(4, line("a", [50] * 6))[0] == "undecided"


# -- what would decide it ----------------------------------------------------------------------------------------------


def test_the_next_command_can_be_given(path: Path) -> None:
    """Every option and architecture of a suggestion is one that there is."""
    from models.architectures import registry
    from models.attacks import registry as attacks

    for one in on(path):
        for dataset in ("digits", "cifar10", "fashion-mnist", "kmnist", "nothing"):
            command = finding(path, one.claim.number, dataset).would_decide
            for part in (command or "").split(" && ") if command else ():
                words = shlex.split(part)
                assert words[:2] in (["nasrob-tui", "train"], ["nasrob-tui", "eval"])
                named = {words[i + 1] for i, word in enumerate(words) if word == "--arch"}
                assert named
                for name in named - {n for n in named if n.startswith(("hand-", "found-"))}:
                    registry.parse_architecture(name, scale="small")
                if "eval" in words:
                    attacks.resolve(words[words.index("--attack") + 1])
    for names in BOOK.candidates.values():
        for name in names:
            registry.parse_architecture(name.format(seed=3), scale="small")


def test_an_attack_that_is_too_strong_is_tried_weaker(path: Path) -> None:
    weaker = finding(path, 2, "fashion-mnist").would_decide or ""
    assert "--eps 8/255" in weaker
    assert "--arch hand-0@layers=5" in weaker
    assert "--eps 2/255" in (finding(path, 2, "kmnist").would_decide or "")


def test_groups_that_are_too_small_are_added_to(path: Path) -> None:
    command = finding(path, 2, "cifar10").would_decide or ""
    assert "--dataset cifar10" in command
    assert "pgd@eps=8/255,steps=10" in command
    assert "--examples 50" in command
    # Names that are measured there already are not asked for again.
    _, _, again = judge(
        2, [*rows_of(handcrafted=[20, 40, 5], searched=[30, 45, 20]), result("resnet18", "handcrafted", 9)]
    )
    assert "--arch resnet18 " not in again
    assert "--arch vgg16-bn" in again


def test_what_is_to_be_trained_next_is_of_the_design_compared(tmp_path: Path) -> None:
    """Else the new networks would be left out."""
    from models.training import recipes

    store = OneVisit(tmp_path / "store.duckdb")
    store.ensure()
    recipe = recipes.load("fast", "digits", {"epochs": 12, "per_step": False}).to_dict()
    with store.together():
        for i, k in enumerate((20, 45)):
            add(store, f"darts-random-{i}@init_channels=4,layers=10", "random", k, recipe=recipe)
            add(store, f"found-{i}@init_channels=4,layers=10", "searched", 60 - k, recipe=recipe)
    filled = finding(store.path, 5, "digits").would_decide or ""
    assert "--arch darts-ensemble-0@cells=6-3-1,init_channels=4,combine=learned" in filled
    assert "--recipe fast --set-recipe epochs=12 --set-recipe per_step=false" in filled
    with store.together():
        for i, k in enumerate((30, 35)):
            name = f"darts-ensemble-{i}@cells=5-5,init_channels=4,combine=learned"
            add(store, name, "ensemble", k, recipe=recipe)
    command = finding(store.path, 5, "digits").would_decide or ""
    train, run = command.split(" && ")
    assert "--recipe fast --set-recipe epochs=12 --set-recipe per_step=false" in train
    for part in (train, run):
        named = [word for word in shlex.split(part) if word.startswith("darts")]
        assert named
        for name in named:
            _, scale = designs.scale_of(name, BOOK.options)
            assert scale == "init_channels=4,layers=10"


# -- statistics --------------------------------------------------------------------------------------------------------


def test_permutations_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    for n, m in ((3, 4), (5, 5), (6, 4)):
        a, b = rng.normal(1, 2, n), rng.normal(0, 1, m)
        tested = inference.difference(Sample.of(a.tolist()), Sample.of(b.tolist()), least=2.0)
        every = {"permutation_type": "independent", "n_resamples": np.inf}
        statistic = lambda x, y: stats.ttest_ind(x, y, equal_var=False).statistic  # noqa: E731
        wanted = stats.permutation_test((a, b), statistic, **every)
        assert tested.p_value == pytest.approx(wanted.pvalue)
        less = stats.permutation_test((a - 2, b), statistic, alternative="less", **every)
        assert tested.p_small == pytest.approx(less.pvalue)


def test_drawn_permutations_come_near_and_are_the_same_each_time() -> None:
    rng = np.random.default_rng(2)
    a, b = Sample.of(rng.normal(0.8, 1, 14).tolist()), Sample.of(rng.normal(0, 1, 14).tolist())
    first, second = inference.difference(a, b, least=2), inference.difference(a, b, least=2)
    assert first == second
    assert "drawn" in first.test
    wanted = stats.ttest_ind(a.values, b.values, equal_var=False).pvalue
    assert first.p_value == pytest.approx(wanted, abs=0.01)


def test_effect_size_is_that_of_hedges() -> None:
    a, b = [5.0, 7, 9], [1.0, 2, 6]
    d = (np.mean(a) - np.mean(b)) / math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2)
    tested = inference.difference(Sample.of(a), Sample.of(b), least=2)
    assert tested.effect_size == pytest.approx(d * (1 - 3 / (4 * 6 - 9)))


def test_groups_of_one_have_no_test() -> None:
    tested = inference.difference(Sample.of([5.0]), Sample.of([1.0, 2]), least=2)
    assert (tested.estimate, tested.low, tested.p_value) == (3.5, None, None)


def test_rank_correlation_by_hand() -> None:
    lines = [([1.0, 2, 3, 4], [1.0, 3, 2, 4]), ([1.0, 2, 3], [3.0, 2, 1])]
    tested = inference.rank_correlation(lines, least=0.3)
    assert tested is not None
    assert tested.estimate == pytest.approx((5 - 1 - 3) / 9)
    scores = [
        sum(np.sign(p[j] - p[i]) for p in (first, second) for i in range(len(p)) for j in range(i + 1, len(p)))
        for first in itertools.permutations(range(4))
        for second in itertools.permutations(range(3))
    ]
    above, below = np.mean(np.array(scores) >= 1), np.mean(np.array(scores) <= 1)
    assert tested.p_value == pytest.approx(min(1, 2 * min(above, below)))
    assert inference.rank_correlation([([1.0, 1.0], [2.0, 3.0])], least=0.3) is None


def test_long_lines_agree_with_scipy() -> None:
    x, y = np.arange(10.0), np.array([1.0, 3, 2, 5, 4, 7, 6, 9, 8, 10])
    tested = inference.rank_correlation([(x.tolist(), y.tolist())], least=0.3)
    wanted = stats.kendalltau(x, y, method="exact")
    assert tested is not None
    assert (tested.estimate, tested.p_value) == pytest.approx((wanted.statistic, max(wanted.pvalue, 1 / 20_000)))


def test_few_points_exclude_no_order() -> None:
    """The bootstrap of a few points says 0 where their order alone could have come by chance."""

    def small(*lines: tuple[list[float], list[float]]) -> float:
        tested = inference.rank_correlation(lines, least=0.3)
        assert tested is not None
        assert tested.p_small is not None
        return tested.p_small

    assert small(([1, 2], [50, 40]), ([3], [30]), ([4], [30]), ([5], [30])) >= 0.5
    assert small(([1, 2, 3], [50, 40, 30])) >= 1 / 6
    assert small(([1, 2, 3, 4, 5], [50] * 5)) == pytest.approx(1)
    assert small(([1, 2, 3, 4, 5], [5, 4, 3, 2, 1])) < 0.05
    many = list(map(float, range(60)))
    assert small((many, [50.0] * 60)) == 1
    assert small((many, many[::-1])) < 0.05


def test_spreads_by_hand() -> None:
    a, b = [5.0, 9, 4, 16, 12], [14.0, 18.8, 13.8, 9.6, 20]
    tested = inference.spread(Sample.of(a), Sample.of(b), least=1.5)
    first, second = ([abs(v - float(np.median(values))) for v in values] for values in (a, b))
    assert tested.p_value == pytest.approx(stats.levene(a, b, center="median").pvalue)
    wanted = stats.ttest_ind([d / 1.5 for d in first], second, alternative="less")
    assert tested.p_small == pytest.approx(wanted.pvalue)
    assert "normal values" in tested.test
    # Two deviations from a median are always the same, so that nothing is known of how they vary.
    for other in ([40.0, 60], [20.0, 80, 21, 79, 22]):
        two = inference.spread(Sample.of([50.0, 52]), Sample.of(other), least=1.5)
        assert (two.p_value, two.p_small) == (None, None)
    printed = inference.spread(Sample(4, 10, 1.0), Sample(4, 10, 2.0), least=1.5)
    assert printed.p_small == pytest.approx(stats.f.cdf(0.25 / 2.25, 3, 3))


def test_tests_of_spread_keep_their_level() -> None:
    """At a ratio of exactly the least that counts, with values far from normal: no more than one in twenty."""
    rng = np.random.default_rng(3)
    for n, m in ((16, 4), (5, 5)):
        excluded = 0
        for _ in range(400):
            a, b = rng.standard_t(3, n) * 1.5, rng.standard_t(3, m)
            tested = inference.spread(Sample.of(a.tolist()), Sample.of(b.tolist()), least=1.5)
            excluded += (tested.p_small or 1) < 0.05
        assert excluded / 400 < 0.08


def test_holm_by_hand() -> None:
    assert inference.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert inference.holm([0.6, 0.7]) == [1.0, 1.0]


def test_the_paired_interval_is_that_of_resampled_examples() -> None:
    differences = np.repeat([0, 1, -1], [60, 30, 10])
    drawn = np.random.default_rng(5).choice(differences, (4000, 100)).mean(axis=1) * 100
    wanted = np.quantile(drawn, [0.025, 0.975])
    assert inference.paired_interval(40, 30, 10, 20) == pytest.approx(tuple(wanted), abs=1.5)


def test_how_many_are_needed() -> None:
    a, b = Sample.of([10.0, 12, 14]), Sample.of([20.0, 22, 24])
    assert inference.needed(a, b, level=0.05) == 4  # 2 of 70 rearrangements; 2 of 20 are too many
    wide = inference.needed(Sample.of([0.0, 20, 10]), Sample.of([5.0, 25, 15]), level=0.05)
    assert wide == math.ceil((1.959964 + 0.841621) ** 2 * 200 / 25)


# -- the command line --------------------------------------------------------------------------------------------------


def test_json(cli: Cli, path: Path) -> None:
    code, out, err = cli("findings", "--format", "json", "--store", str(path))
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [one["claim"]["number"] for one in found] == [1, 2, 3, 4, 5]
    for one in found:
        assert {"claim", "published", "measured", "verdict", "why", "would_decide", "rule"} <= one.keys()
        assert one["verdict"] in ("holds", "does not hold", "undecided")
        assert isinstance(one["published"], list)
        assert all(figure["table"].startswith("Table ") for figure in one["published"])
    first = next(c for c in found[1]["measured"] if c["dataset"] == "digits")
    assert first["difference"] == pytest.approx(20)
    assert first["paired"] is False
    assert first["best"]["p_value"] < 0.01
    assert first["a"]["members"][0]["evaluation_ids"]


def test_csv_has_a_row_a_comparison(cli: Cli, path: Path) -> None:
    _, out, _ = cli("findings", "--format", "csv", "--store", str(path), "--claim", "2", "--dataset", "digits")
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["claim"], row["verdict"], row["outcome"], row["mean_a"]) == ("2", "holds", "supports", "40.8")
    assert float(row["best_difference"]) == 20
    assert row["design"] == "layers=5 by standard"


def test_table_at_eighty_columns(cli: Cli, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = cli("findings", "--store", str(path))
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["claim", "published", "measured"]
    assert [line.split()[0] for line in lines[1:6]] == ["1", "2", "3", "4", "5"]
    assert "does not hold" in lines[2]
    long = [line for line in lines if len(line) > 80]
    assert all(line.lstrip().startswith("next ") for line in long)  # a command stays whole
    assert "best of each" in out
    assert "design           layers=5 by standard" in out


def test_refusals(cli: Cli, path: Path, tmp_path: Path) -> None:
    assert cli("findings", "--claim", "6", "--store", str(path))[0] == 2
    code, out, err = cli("findings", "--store", str(tmp_path / "none.duckdb"))
    assert (code, out) == (2, "")
    assert "no results store" in err


def test_a_new_home_has_the_printed_figures(cli: Cli) -> None:
    code, out, _ = cli("findings", "--format", "json")
    assert code == 0
    assert all(one["published"] and not one["measured"] for one in json.loads(out))


def test_the_same_store_gives_the_same_answer(path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(path, tmp_path / "copy.duckdb"))
    dumped = [json.dumps([one.to_dict() for one in findings.compute(Store(p))], default=str) for p in (path, copy)]
    assert dumped[0] == dumped[1]


def test_large_groups_are_quick_and_agree_with_scipy() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(0.2, 1, 300), rng.normal(0, 2, 250)
    tested = inference.difference(Sample.of(a.tolist()), Sample.of(b.tolist()), least=2)
    assert tested.p_value == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    x, y = np.arange(150.0), np.round(np.arange(150) / 40 + rng.normal(0, 3, 150))
    ranked = inference.rank_correlation([(x.tolist(), y.tolist())], least=0.3)
    wanted = stats.kendalltau(x, y, method="asymptotic")
    assert ranked is not None
    assert ranked.p_value == pytest.approx(wanted.pvalue, rel=0.05)  # ours with Kendall's correction for continuity


def test_long_lines_with_ties_come_near_to_scipy() -> None:
    x, y = np.arange(20.0), np.array([1, 2, 1, 3, 2, 2, 4, 3, 5, 4, 3, 2, 5, 4, 1, 3, 4, 5, 2, 4.0])
    ranked = inference.rank_correlation([(x.tolist(), y.tolist())], least=0.3)
    wanted = stats.kendalltau(x, y, method="asymptotic")
    assert ranked is not None
    assert ranked.p_value == pytest.approx(wanted.pvalue, abs=0.02)
