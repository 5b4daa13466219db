"""What computes all that ships: its steps are those of the studies, and one that fails is one sentence."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest

from explorer import errors, precomputing
from explorer.errors import ExplorerError
from explorer.studies import definition, expansion


def trained(study: str) -> set[tuple[str, int]]:
    """Networks that a study trains, members of ensembles among them, with their seeds."""
    orders = [model.order for model in expansion.expand(definition.find(study)).models if model.order is not None]
    parts = [part for order in orders for part in (order.parts or (order,))]
    return {(part.architecture.canonical, part.seed) for part in parts}


def before(step: str, steps: Mapping[str, tuple[str, ...]]) -> set[str]:
    return {step}.union(*(before(other, steps) for other in steps[step]))


def test_every_small_study_is_computed_and_none_beside_one_that_trains_the_same() -> None:
    steps = precomputing.STEPS
    studies = {step: trained(step) for step in steps if step in definition.shipped()}
    assert set(studies) == {name for name in definition.shipped() if not name.startswith("paper-")}
    for one, other in itertools.combinations(studies, 2):
        earlier = before(one, steps), before(other, steps)
        if one in earlier[1] or other in earlier[0]:
            continue
        there = set().union(*(studies[step] for step in earlier[0] & earlier[1]))
        if one.startswith("digits") == other.startswith("digits"):
            assert studies[one] & studies[other] <= there, (one, other)


def test_a_step_that_fails_ends_it_with_a_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precomputing, "STEPS", {"digits-sells": (), "never": ("digits-sells",)})
    monkeypatch.setattr(precomputing, "write", lambda: pytest.fail("there is nothing to write"))
    for name in ("NASROB_HOME", "NASROB_SHIPPED", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # restored afterwards
    with pytest.raises(ExplorerError, match=r"nasrob-tui study run digits-sells .* ended with 2") as raised:
        precomputing.main(home)
    assert raised.value.exit_code == errors.USAGE
    said = capfd.readouterr().err
    assert "did you mean 'digits-cells'" in said.lower()
    assert "never" not in said
