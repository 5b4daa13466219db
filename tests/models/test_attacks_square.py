"""The Square attack: its schedule, its proposals query by query, and its strength beside the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.attacks import norms, registry
from models.attacks.engine import SlotEngine
from models.attacks.random import uniform
from models.attacks.slots import INDEX, STEP, Outcome, Slots, Work, margins
from models.attacks.square import AHEAD, Square, pattern, sides
from models.datasets import registry as datasets
from models.errors import InvalidSpec
from models.evaluation import Evaluator
from tests.models.perceptron import perceptron
from tests.support import Linear, attack, block, classifier_of, examples_of, outcomes, robust

EPS = {"Linf": "0.03", "L2": "0.3", "L1": "3"}
SHAPES = [(1, 1, 1), (3, 2, 2), (1, 4, 4), (2, 5, 9), (3, 12, 9), (1, 3, 30), (1, 30, 3), (3, 32, 32)]


def square(norm: str, **settings: object) -> Square:
    kernel = registry.kernel(attack("square", norm=norm, **{"eps": EPS[norm], **settings}))
    assert isinstance(kernel, Square)
    return kernel


def problem(shape: tuple[int, ...], n: int, *, seed: int = 3) -> tuple[nn.Module, Tensor, Tensor]:
    """A small random convolutional network with images that it classifies right by definition."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    pixels = shape[1] * shape[2]
    network = nn.Sequential(
        nn.Conv2d(shape[0], 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * pixels, 10)
    ).requires_grad_(False)
    clean = torch.rand(n, *shape, generator=generator)
    return network, clean, network(clean).argmax(1)


def search(kernel: Square, network: nn.Module, clean: Tensor, labels: Tensor, queries: int) -> tuple[Slots, Tensor]:
    """The attack step by step, without the engine; also the query (0: the start) that fooled first, -1 for none."""
    slots = block(clean, labels)
    slots.x = kernel.start(slots)
    kernel.reset(slots, torch.arange(len(clean)))
    first = torch.full((len(clean),), -1)
    for query in range(queries + 1):
        found = kernel.evaluate(network, slots)
        wrong = found.logits.argmax(1) != labels
        first = torch.where((first < 0) & wrong, query, first)
        kernel.advance(slots, found)
        slots.numbers[:, STEP] += 1
    return slots, first


class TestSchedule:
    def test_sides_at_32_pixels_are_the_published_ones(self) -> None:
        found = sides((3, 32, 32), "Linf", p_init=0.8, steps=6000)
        assert sorted(set(found), reverse=True) == [29, 20, 14, 10, 7, 5, 4, 3]
        changes = [i for i in range(1, 6000) if found[i] != found[i - 1]]
        assert changes == [11, 51, 201, 501, 1001, 2001, 4001]

    def test_rescaled_schedule_ends_with_the_queries(self) -> None:
        whole = sides((3, 32, 32), "Linf", p_init=0.8, steps=10_000)
        assert sides((3, 32, 32), "Linf", p_init=0.8, steps=1000, rescale=True) == whole[::10]
        assert attack("square").setting("rescale_schedule") is False

    def test_windows_of_l2_and_l1_are_odd_and_at_least_3(self) -> None:
        for norm in ("L2", "L1"):
            assert sides((3, 32, 32), norm, p_init=0.8, steps=5000)[::1000] == [29, 7, 5, 5, 5]
            assert set(sides((1, 2, 7), norm, p_init=0.8, steps=5000)) == {2}

    def test_settings_are_checked_and_read_back(self) -> None:
        spec = attack("square-1000@p_init=0.3,rescale_schedule=true,norm=L2")
        assert (spec.steps, spec.setting("p_init"), spec.setting("rescale_schedule")) == (1000, 0.3, True)
        assert attack(registry.inline(spec)) == spec
        assert attack("square").steps == 5000
        with pytest.raises(InvalidSpec, match="p_init must be 0 to 1"):
            attack("square@p_init=2")


class TestAgainstTheReference:
    """pyautoattack's implementation, handed our random numbers one example at a time."""

    def reference(
        self, monkeypatch: pytest.MonkeyPatch, kernel: Square, network: nn.Module, slots: Slots, row: int, queries: int
    ) -> tuple[int, Tensor]:
        """Its number of queries (the start included) and its best iterate for one example."""
        module = pytest.importorskip("pyautoattack.square")
        norm, clean = kernel.spec.norm, slots.clean[row : row + 1]
        one = block(clean)
        one.numbers[:, INDEX] = row
        channels, height, width = clean.shape[1:]
        if norm == "Linf":
            waiting = uniform(kernel._key, one.indices, one.runs, (channels, 1, width)).flatten().tolist()
        else:
            tiles = (1 + channels, height // max(1, height // 5), width // max(1, height // 5))
            waiting = uniform(kernel._key, one.indices, one.runs, tiles)[0].permute(1, 2, 0).flatten().tolist()
        step = 0

        def rand(shape: list[int]) -> Tensor:
            nonlocal step
            count = math.prod(shape)
            while len(waiting) < count:
                drawn = kernel._draw(one, torch.tensor([step]))[0, 0].tolist()
                waiting.extend(drawn[:2] + drawn[5:] if norm == "Linf" else drawn)
                step += 1
            return torch.tensor([waiting.pop(0) for _ in range(count)]).view(shape)

        theirs = module.SquareAttack(
            network, norm=norm, eps=kernel.spec.eps.value, n_queries=queries, resc_schedule=False
        )
        theirs.init_hyperparam(clean)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "rand", rand)
            spent, x = theirs.attack_single_run(clean, slots.labels[row : row + 1])
        return int(spent), x[0]

    # In L1 a window may hold nothing but what rounding left, which the proposal scales up: trajectories part there.
    @pytest.mark.parametrize(("norm", "queries"), [("Linf", 300), ("L2", 150), ("L1", 15)])
    @pytest.mark.parametrize("shape", [(3, 8, 8), (1, 10, 14)])
    def test_the_same_queries(
        self, norm: str, queries: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("pyautoattack")
        network, clean, labels = problem(shape, 8)
        kernel = square(norm)
        slots, first = search(kernel, network, clean, labels, queries)
        standing = 0
        for row in range(8):
            spent, x = self.reference(monkeypatch, kernel, network, slots, row, queries)
            if first[row] >= 0:
                assert spent == first[row] + 1
            else:
                standing += 1
                assert spent == queries + 1
                assert (x - slots.memory["best"][row]).abs().max() < 1e-4
        assert 0 < standing < 8

    def test_patterns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = pytest.importorskip("pyautoattack.square")
        monkeypatch.setattr(torch, "rand", lambda shape: torch.zeros(shape))
        for norm in ("L2", "L1"):
            theirs = module.SquareAttack(None, norm=norm, eps=1.0, device="cpu")
            for side in range(1, 30):
                torch.testing.assert_close(pattern(side, norm).float(), theirs.eta(side), atol=1e-6, rtol=0)

    def test_projection_to_the_l1_ball_in_the_box(self) -> None:
        module = pytest.importorskip("pyautoattack.autopgd_base")
        generator = torch.Generator().manual_seed(0)
        clean = torch.rand(40, 3, 8, 8, generator=generator)
        clean[:, :, ::2] = clean[:, :, ::2].round()
        offset = torch.randn(40, 3, 8, 8, generator=generator) * torch.rand(40, 1, 1, 1, generator=generator)
        for eps in (0.0, 0.1, 1.0, 5.0, 30.0, 200.0):
            ours = norms.project_l1_in_box(offset, clean, eps, 0.0, 1.0)
            assert torch.equal(ours, norms.project_l1_in_box(offset, clean, torch.full((40,), eps), 0.0, 1.0))
            theirs = offset + module.L1_projection(clean, offset, eps)
            assert (ours - theirs).abs().max() < 5e-5
            assert norms.length(ours, "L1").max() <= eps * (1 + 1e-6)
            assert (clean + ours).min() >= 0
            assert (clean + ours).max() <= 1

    def test_robust_accuracy_is_that_of_the_reference(self, digits: Evaluator) -> None:
        """Random searches differ by a point from seed to seed, so what counts is the mean over seeds and norms."""
        module = pytest.importorskip("pyautoattack.square")
        x, y = torch.from_numpy(digits.examples.images[:300]), torch.from_numpy(digits.examples.labels[:300])
        model = digits.classifier.eval()
        differences = []
        for norm, eps in (("Linf", "24/255"), ("L2", "0.7"), ("L1", "3")):
            ours, theirs = [], []
            for seed in range(4):
                spec = attack("square-100", norm=norm, eps=eps, seed=seed)
                ours.append(len(robust(outcomes(digits, spec, range(300)))))
                reference = module.SquareAttack(
                    model, norm=norm, eps=spec.eps.value, n_queries=100, resc_schedule=False, seed=seed
                )
                with torch.random.fork_rng(), torch.no_grad():
                    theirs.append(int((model(reference.perturb(x, y)).argmax(1) == y).sum()))
            assert 50 < np.mean(ours) < 280
            differences.append((np.mean(ours) - np.mean(theirs)) / 3)
        assert max(differences) < 1.5
        assert np.mean(differences) < 0.5


@pytest.fixture(scope="module")
def digits() -> Evaluator:
    return Evaluator(perceptron(), datasets.load("digits", "test"), slots=256)


class TestSearch:
    @pytest.mark.parametrize("norm", EPS)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_iterate_is_in_the_ball_and_the_box_and_the_margin_falls(
        self, norm: str, shape: tuple[int, ...]
    ) -> None:
        network, clean, labels = problem(shape, 12)
        # Pixels at the border of the box, where an offset has no room.
        clean[:6] = clean[:6].round()
        kernel = square(norm, steps=80, verdict="last")
        eps = kernel.spec.eps.value
        slots = block(clean, labels)
        slots.x = kernel.start(slots)
        kernel.reset(slots, torch.arange(12))
        lowest = torch.full((12,), torch.inf)
        moved = 0
        for _ in range(80):
            assert torch.isfinite(slots.x).all()
            assert slots.x.min() >= 0
            assert slots.x.max() <= 1
            assert norms.length(slots.x - clean, norm).max() <= eps + 1e-6
            kernel.advance(slots, kernel.evaluate(network, slots))
            slots.numbers[:, STEP] += 1
            best, now = slots.memory["best"], slots.memory["best loss"]
            assert (now <= lowest).all()
            torch.testing.assert_close(now, margins(network(best), labels), atol=1e-5, rtol=1e-4)
            moved += int((now < lowest).sum())
            lowest = now
        assert moved >= 12

    @pytest.mark.parametrize("norm", EPS)
    def test_verdicts_do_not_depend_on_batch_size_resume_or_where_it_runs(self, norm: str, digits: Evaluator) -> None:
        spec = attack("square-70", norm=norm, eps={"Linf": "20/255", "L2": "0.6", "L1": "3"}[norm], restarts=2)
        whole = outcomes(digits, spec, range(60))
        assert 5 < len(robust(whole)) < 55
        assert {o.broken_at_restart for o in whole.values()} == {None, 0, 1}
        for slots in (3, 17):
            other = Evaluator(digits.classifier, digits.examples, slots=slots)
            again = outcomes(other, spec, range(60))
            assert {i: (o.robust, o.broken_at_step) for i, o in again.items()} == {
                i: (o.robust, o.broken_at_step) for i, o in whole.items()
            }
        rest = [i for i in range(60) if i % 3]
        assert outcomes(digits, spec, rest) == {i: whole[i] for i in rest}

    def test_verdicts_do_not_depend_on_how_often_the_host_looks(self, digits: Evaluator) -> None:
        spec = attack("square-70", eps="20/255")

        def run(poll: int) -> dict[int, Outcome]:
            model, examples = digits.classifier.eval(), digits.examples
            engine = SlotEngine(
                model, registry.kernel(spec), slots=16, device=torch.device("cpu"), classes=10, poll=poll
            )
            works = [
                Work(i, torch.from_numpy(examples.images[i]), int(examples.labels[i]), int(examples.labels[i]), 0.0, 1)
                for i in range(60)
            ]
            return {o.example: o for found in engine.run(works) for o in found}

        once, often = run(1), run(4)
        assert {i: (o.robust, o.broken_at_step) for i, o in often.items()} == {
            i: (o.robust, o.broken_at_step) for i, o in once.items()
        }

    def test_last_iterate_is_the_best_one(self, digits: Evaluator) -> None:
        """Proposals go on after the model is fooled; what counts at the end is what the search kept."""
        settings = {"eps": "24/255", "steps": 60}
        worst = robust(outcomes(digits, attack("square", **settings), range(100)))
        assert robust(outcomes(digits, attack("square", verdict="last", **settings), range(100))) == worst
        assert 20 < len(worst) < 90

    def test_queries_are_counted_and_there_are_no_gradients(self, digits: Evaluator) -> None:
        found = outcomes(digits, attack("square-50", eps="12/255"), range(100)).values()
        assert {o.forwards for o in found if o.robust} == {1 + 51}
        assert all(o.backwards == 0 for o in found)
        assert all(o.forwards == 2 + o.broken_at_step for o in found if o.broken_at_step is not None)

    def test_more_queries_only_break_more(self, digits: Evaluator) -> None:
        few = outcomes(digits, attack("square-40", eps="20/255"), range(150))
        many = outcomes(digits, attack("square-160", eps="20/255"), range(150))
        assert robust(many) < robust(few)
        for index, outcome in few.items():
            if not outcome.robust:
                assert many[index].broken_at_step == outcome.broken_at_step

    def test_a_margin_of_zero_is_judged_as_the_prediction_is(self) -> None:
        """Of equal logits the lower class is predicted, in the search and in the verdict."""
        weight = torch.zeros(2, 4)
        images = torch.full((4, 1, 2, 2), 0.5)
        for label, bias, expected in ((0, [0.0, 0.0], True), (1, [0.0, 0.0], False), (1, [0.0, 1.0], True)):
            network = Linear(weight, torch.tensor(bias))
            evaluator = Evaluator(
                classifier_of(network, classes=2), examples_of(images, torch.full((4,), label), 2), slots=4
            )
            for norm in EPS:
                found = outcomes(evaluator, attack("square-20", norm=norm), range(4))
                assert {o.robust for o in found.values()} == {expected}

    def test_an_example_broken_by_a_tie_stays_broken(self) -> None:
        class Ties(nn.Module):
            """Class 1, with which class 0 draws level where the second pixel row has become brighter on average."""

            def forward(self, x: Tensor) -> Tensor:
                brighter = (x[:, 0, 1].mean(1) > 0.53).float()
                return torch.stack([brighter - 1, 0 * brighter], 1)

        images = torch.full((40, 1, 8, 8), 0.5)
        examples = examples_of(images, torch.ones(40, dtype=torch.long), 2)
        evaluator = Evaluator(classifier_of(Ties(), classes=2), examples, slots=16)
        worst = robust(outcomes(evaluator, attack("square-2", eps="0.05"), range(40)))
        assert 0 < len(worst) < 40
        assert robust(outcomes(evaluator, attack("square-2", eps="0.05", verdict="last"), range(40))) == worst

    def test_a_proposal_that_changes_nothing_is_not_taken(self) -> None:
        clean = torch.full((4, 1, 8, 8), 0.5)
        flat = Linear(torch.zeros(2, 64), torch.tensor([1.0, 0.0]))
        kernel = square("Linf")
        slots, _ = search(kernel, flat, clean, torch.zeros(4, dtype=torch.long), 20)
        assert torch.equal(slots.memory["best"], kernel.start(block(clean)))
        assert not torch.equal(slots.x, slots.memory["best"])


class TestRandomNumbers:
    @pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 20)])
    def test_squares_are_uniform_over_the_reference_s_range(self, shape: tuple[int, ...]) -> None:
        kernel = square("Linf")
        slots = block(torch.rand(200, *shape))
        numbers = kernel._draw(slots, torch.full((200,), 300)).flatten(0, 1)
        grid = kernel._grid_of(slots)
        side = int(grid.side_at[300])
        assert side == sides(shape, "Linf", p_init=0.8, steps=5000)[300]
        top, left = kernel._corner(numbers, torch.full((len(numbers),), side), grid)
        for places, pixels in ((top, shape[1]), (left, shape[2])):
            counts = torch.bincount(places, minlength=pixels - side).double()
            assert len(counts) == pixels - side
            expected = len(places) / len(counts)
            chi_square = float(((counts - expected).square() / expected).sum())
            # Far beyond the 99.9 % quantile for so many places.
            freedom = len(counts) - 1
            assert chi_square < freedom + 4.5 * math.sqrt(2 * freedom) + 5
        inside = grid.square(top, left, torch.full((len(numbers),), side))
        assert (inside.sum((1, 2, 3)) == side * side).all()
        assert not inside[:, :, -1].any(), "the last row is out of reach, as in the reference"
        signs = kernel._signs(numbers)
        assert abs(float(signs.mean())) < 0.05
        assert set(signs.flatten().tolist()) == {-1.0, 1.0}
        # Iterations, examples and channels have numbers of their own.
        assert len(set(map(tuple, numbers.tolist()))) == len(numbers)

    def test_numbers_are_those_of_the_iteration_whenever_they_are_drawn(self) -> None:
        kernel = square("Linf")
        slots = block(torch.rand(6, 3, 8, 8))
        alone = torch.stack([kernel._draw(slots, torch.full((6,), step))[:, 0] for step in range(3 * AHEAD)])
        kernel.reset(slots, torch.arange(6))
        for turn in range(2 * AHEAD):
            # Rows are at different steps, and a refill in between draws anew.
            step = turn + torch.arange(6)
            if turn in (5, 6, 40):
                kernel.reset(slots, torch.tensor([1]))
            assert torch.equal(kernel._numbers(slots, step), alone[step, torch.arange(6)])

    def test_starts(self) -> None:
        clean = torch.full((50, 3, 8, 8), 0.5)
        stripes = square("Linf").start(block(clean)) - clean
        assert torch.allclose(stripes.abs(), torch.tensor(0.03), atol=1e-6)
        assert (stripes == stripes[:, :, :1]).all(), "a stripe has one sign from top to bottom"
        assert abs(float(stripes.sign().mean())) < 0.1
        for norm in ("L2", "L1"):
            tiles = square(norm).start(block(clean)) - clean
            assert torch.allclose(norms.length(tiles, norm), torch.tensor(float(EPS[norm])), rtol=1e-5)
            assert len({tuple(row.sign().flatten().tolist()) for row in tiles}) == 50
