"""FAB, DeepFool and Carlini-Wagner against closed forms, linear programs and the reference implementations."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize_scalar
from torch import Tensor, nn

from models.attacks import registry
from models.attacks.boundary import DUAL, to_hyperplane
from models.attacks.norms import length
from models.attacks.slots import STEP, TARGET, Outcome, Slots, Work
from models.classifier import frozen
from models.evaluation import Evaluator
from models.specs import AttackSpec
from tests.support import Linear, attack, block, classifier_of, examples_of, outcomes, robust

NORMS = ("Linf", "L2", "L1")
#: One attack a norm that it takes, with settings that take little time and get close on a linear model.
CLOSE = [
    *(f"{name}@norm={norm},steps=40" for name in ("fab", "fab-t") for norm in NORMS),
    *(f"deepfool@norm={norm}" for norm in ("Linf", "L2")),
    "cw@steps=100,binary_search_steps=6,initial_const=0.1",
]
#: The bound of a distance by the exact one: a factor and a length, from overshoot and steps of a fixed least length.
SLACK = {"fab": (1.007, 0.0), "fab-t": (1.007, 0.0), "deepfool": (1.021, 4e-4), "cw": (1.05, 5e-3)}
needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
    for name in ("pyautoattack", "foolbox", "torchattacks")
}


def linear_problem(seed: int, n: int, shape: tuple[int, ...], classes: int) -> tuple[Linear, Tensor, Tensor]:
    """A linear model whose border is at most 0.2 from all images, in the middle of the box, in any norm, box or not."""
    generator = torch.Generator().manual_seed(seed)
    pixels = math.prod(shape)
    weight = torch.randn(classes, pixels, generator=generator)
    images = 0.3 + 0.4 * torch.rand(20 * n, *shape, generator=generator)
    network = Linear(weight, -weight.sum(1) / 2)
    labels = network(images).argmax(1).detach()
    near = exact_distances(network, images, labels, "L1") < 0.2
    assert int(near.sum()) >= n
    return network, images[near][:n], labels[near][:n]


def exact_distances(network: Linear, images: Tensor, labels: Tensor, norm: str) -> Tensor:
    """Distance to the decision border without a box: min over k of (z_y - z_k) / |w_y - w_k| in the dual norm."""
    weight = network.weight.detach().double()
    z = images.flatten(1).double() @ weight.T + network.bias.detach().double()
    gaps = z.gather(1, labels[:, None]) - z
    normals = (weight[labels][:, None, :] - weight[None]).flatten(0, 1)
    ratios = gaps / length(normals, DUAL[norm]).view_as(gaps)
    return ratios.scatter(1, labels[:, None], math.inf).amin(1)


def evaluator_of(network: nn.Module, images: Tensor, labels: Tensor, classes: int, slots: int = 16) -> Evaluator:
    return Evaluator(
        classifier_of(network, classes=classes, channels=images.shape[1]),
        examples_of(images, labels, classes),
        slots=slots,
    )


def distances(found: dict[int, Outcome]) -> Tensor:
    """By example; infinite where none was found."""
    values = [o.distance for _, o in sorted(found.items())]
    return torch.tensor([math.inf if v is None else v for v in values], dtype=torch.float64)


class TestProjection:
    """The smallest move to a hyperplane inside the box."""

    def problem(self, seed: int, n: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
        """Points (some coordinates on the box's surface), normals (some coordinates zero), values: a third out of
        reach.
        """
        generator = torch.Generator().manual_seed(seed)
        points = (1.4 * torch.rand(n, d, generator=generator, dtype=torch.float64) - 0.2).clamp(0, 1)
        normal = torch.randn(n, d, generator=generator, dtype=torch.float64)
        normal *= torch.rand(n, d, generator=generator) > 0.2
        reach = torch.where(normal > 0, points, 1 - points) * normal.abs()
        back = torch.where(normal > 0, 1 - points, points) * normal.abs()
        value = torch.rand(n, generator=generator, dtype=torch.float64) * 1.5
        value *= torch.where(torch.arange(n) % 2 == 0, reach.sum(1), -back.sum(1))
        return points, normal, value

    def brute(self, point: Tensor, normal: Tensor, value: float, norm: str) -> float | None:
        """The length of the smallest move, by linear programming, or by the dual problem in one variable for L2."""
        t, w = point.numpy(), normal.numpy()
        if norm == "L2":

            def dual(multiplier: float) -> float:
                offset = np.clip(-multiplier * w, -t, 1 - t)
                return -(0.5 * float(offset @ offset) + multiplier * (float(w @ offset) + value))

            best = minimize_scalar(dual, bounds=(-1e4, 1e4), method="bounded", options={"xatol": 1e-10})
            offset = np.clip(-best.x * w, -t, 1 - t)
            return float(np.linalg.norm(offset)) if abs(w @ offset + value) < 1e-4 else None
        d = len(t)
        if norm == "Linf":
            bounds = [(-a, 1 - a) for a in t] + [(0, None)]
            size = np.ones((d, 1))
            cost, above = np.r_[np.zeros(d), 1], np.block([[np.eye(d), -size], [-np.eye(d), -size]])
            solved = linprog(cost, above, np.zeros(2 * d), np.r_[w, 0][None], [-value], bounds)
        else:
            bounds = [(0, 1 - a) for a in t] + [(0, a) for a in t]
            solved = linprog(np.ones(2 * d), A_eq=np.r_[w, -w][None], b_eq=[-value], bounds=bounds)
        return float(solved.fun) if solved.status == 0 else None

    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("d", [1, 2, 9])
    def test_is_the_smallest_by_linear_and_convex_programming(self, norm: str, d: int) -> None:
        points, normal, value = self.problem(d, 60, d)
        offset = to_hyperplane(points, normal, value, norm)
        assert bool(((points + offset >= -1e-12) & (points + offset <= 1 + 1e-12)).all())
        assert bool((offset[normal == 0] == 0).all())
        left = ((normal * offset).sum(1) + value).abs()
        reached = 0
        for row in range(60):
            smallest = self.brute(points[row], normal[row], float(value[row]), norm)
            if smallest is None:
                corner = torch.where(normal[row] * value[row] > 0, -points[row], 1 - points[row])
                assert torch.allclose(offset[row], corner * (normal[row] != 0))
                continue
            reached += 1
            assert left[row] < 1e-9
            assert float(length(offset[row : row + 1], norm)) == pytest.approx(smallest, abs=1e-5)
        assert 20 < reached < 60

    @needs["pyautoattack"]
    @pytest.mark.parametrize("norm", NORMS)
    def test_equals_the_authors_code(self, norm: str) -> None:
        from pyautoattack import fab_projections

        points, normal, value = (t.float() for t in self.problem(5, 400, 75))
        theirs = getattr(fab_projections, f"projection_{norm.lower()}")(
            points, normal, (normal * points).sum(1) - value
        )
        ours = to_hyperplane(points, normal, value, norm)
        assert float(((ours - theirs).abs().amax(1) < 2e-5).float().mean()) > 0.98
        assert torch.allclose(ours, theirs, atol=1e-3)
        assert float(((normal * ours).sum(1) + value)[::2].amin()) > -1e-4

    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e30])
    def test_scale_of_the_gradient_does_not_matter(self, norm: str, scale: float) -> None:
        points, normal, value = (t.float() for t in self.problem(6, 50, 12))
        ours = to_hyperplane(points, normal * scale, value * scale, norm)
        assert torch.allclose(ours, to_hyperplane(points, normal, value, norm), atol=1e-5)

    @pytest.mark.parametrize("norm", NORMS)
    def test_degenerate_hyperplanes_and_another_box(self, norm: str) -> None:
        points, normal, value = (t.float() for t in self.problem(7, 40, 6))
        assert bool((to_hyperplane(points, torch.zeros_like(normal), value, norm) == 0).all())
        assert bool((to_hyperplane(points, normal, torch.zeros_like(value), norm) == 0).all())
        wide = to_hyperplane(4 * points - 2, normal, 4 * value, norm, low=-2, high=2)
        assert torch.allclose(wide, 4 * to_hyperplane(points, normal, value, norm), atol=1e-4)
        outside = to_hyperplane(points + 3, normal, value, norm)
        assert bool((outside <= 0).all())
        assert bool(torch.isfinite(outside).all())


@pytest.mark.parametrize("text", CLOSE)
@pytest.mark.parametrize(("shape", "classes"), [((1, 3, 3), 2), ((2, 3, 5), 3), ((3, 4, 4), 7)])
def test_linear_model_distances_are_the_exact_ones_and_never_less(
    text: str, shape: tuple[int, ...], classes: int
) -> None:
    network, images, labels = linear_problem(classes, 24, shape, classes)
    exact = exact_distances(network, images, labels, attack(text).norm)
    spec = attack(text, eps=repr(1.1 * float(exact.median())))
    found = outcomes(evaluator_of(network, images, labels, classes), spec, range(24))
    factor, length_ = SLACK[spec.name]
    assert bool((distances(found) >= exact - 1e-6).all())
    assert bool((distances(found) <= factor * exact + length_).all()), (distances(found) / exact).max()
    for index, outcome in found.items():
        assert outcome.adversarial_prediction != outcome.label
        assert outcome.robust == (outcome.distance is not None and outcome.distance > spec.eps.value)
        assert (outcome.broken_at_step is None) == outcome.robust
        if not outcome.robust:
            assert exact[index] <= spec.eps.value + 1e-6
    assert 3 < len(robust(found)) < 21


@pytest.mark.parametrize("text", CLOSE)
def test_images_on_the_surface_of_the_box_are_attacked_inside_it(text: str) -> None:
    """On a box of black and white pixels half of the directions are closed, so distances grow but stay finite."""
    generator = torch.Generator().manual_seed(4)
    images = (torch.rand(30, 1, 5, 3, generator=generator) > 0.5).float()
    network = Linear(torch.randn(3, 15, generator=generator), torch.zeros(3))
    labels = network(images).argmax(1).detach()
    # From a corner of the box w has a long way to go.
    spec = attack(text + (",learning_rate=0.2" if text.startswith("cw") else ""), eps="0.3")
    found = outcomes(evaluator_of(network, images, labels, 3), spec, range(30))
    exact = torch.full((30,), math.inf, dtype=torch.float64)
    weight, z = network.weight.detach(), network(images).detach()
    for k in range(3):
        normal = (weight[k] - weight[labels]).view_as(images)
        value = z[:, k] - z.gather(1, labels[:, None]).squeeze(1)
        offset = to_hyperplane(images, normal, value, spec.norm)
        reached = ((normal * offset).flatten(1).sum(1) + value).abs() < 1e-4
        exact = torch.where(reached & (labels != k), torch.minimum(exact, length(offset, spec.norm).double()), exact)
    ratio = distances(found) / exact
    assert float(ratio.min()) >= 1 - 1e-4
    if spec.name.startswith("fab"):
        assert float(ratio.max()) < 1.1
    # DeepFool knows no box, and CW starts where tanh is flat.
    assert float((ratio < 1.5).double().mean()) > 0.5


def test_fab_with_restarts_is_never_farther_and_starts_where_it_says(evaluator: Evaluator) -> None:
    _, images, labels = linear_problem(1, 40, (1, 3, 5), 4)
    for norm in NORMS:
        kernel = registry.kernel(attack(f"fab-t@norm={norm},targets=2,restarts=3", eps="0.2"))
        assert (kernel.runs, kernel.prepare(10), kernel.prepare(2)) == (6, 6, 3)
        slots = block(images, labels)
        starts = []
        for run in range(6):
            slots.runs[:] = run
            starts.append(kernel.start(slots))
        for run, start in enumerate(starts):
            far = length(start - images, norm)
            assert bool((far == 0).all() if run % 3 == 0 else ((far - 0.1).abs() < 1e-5).all())
        assert all(not torch.equal(starts[a], starts[b]) for a, b in ((1, 2), (1, 4), (2, 5)))
    for name in ("fab@steps=4", "fab-t@steps=4,targets=1"):
        once = distances(outcomes(evaluator, attack(name, eps="0.05"), range(16)))
        more = distances(outcomes(evaluator, attack(name, restarts=3, eps="0.05"), range(16)))
        assert bool((more <= once).all())
        assert bool((more < once).any())


def test_fab_draws_back_what_fools_the_model_but_no_start() -> None:
    network, images, labels = linear_problem(2, 20, (1, 2, 4), 3)
    kernel = registry.kernel(attack("fab@beta=0.75"))
    slots = block(images, labels)
    slots.x = (images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    fooled = network(slots.x).argmax(1) != labels
    assert 3 < int(fooled.sum()) < 17
    kernel.evaluate(network, slots)
    assert torch.equal(slots.memory["drawn back"], slots.x)
    slots.numbers[:, STEP] = 1
    logits = kernel.evaluate(network, slots).logits
    assert torch.equal(logits, network(slots.x)), "what is judged is the iterate itself"
    expected = torch.where(fooled.view(-1, 1, 1, 1), images + 0.75 * (slots.x - images), slots.x)
    assert torch.allclose(slots.memory["drawn back"], expected)


def test_targets_are_the_most_likely_wrong_classes_one_after_the_other() -> None:
    kernel = registry.kernel(attack("fab-t@targets=3,restarts=2"))

    def targets(label: int) -> list[int]:
        work = Work(0, torch.zeros(1, 1, 1), label, 7, 0.0, 1, top=(7, 5, 3, 1, 0))
        found = []
        for run in range(6):
            work.run = run
            found.append(kernel.target_of(work))
        return found

    assert targets(7) == [5, 5, 3, 3, 1, 1]
    assert targets(5) == [7, 7, 3, 3, 1, 1]


@pytest.mark.parametrize(
    ("text", "forwards", "backwards"),
    [
        # 2 forward passes a step, 1 for the last iterate of a run, 1 for the clean image.
        ("fab-t@steps=5,targets=4", 4 * 11 + 1, 4 * 5),
        ("fab@steps=5", 11 + 1, 5 * 9),
        ("cw@steps=5,binary_search_steps=3,abort_early=false", 15 + 2, 15),
    ],
)
def test_passes_are_those_of_the_reference(text: str, forwards: int, backwards: int, evaluator: Evaluator) -> None:
    found = outcomes(evaluator, attack(text), range(20))
    assert {(o.forwards, o.backwards) for o in found.values() if o.clean_correct} == {(forwards, backwards)}


def test_deepfool_ends_with_the_first_iterate_that_fools(evaluator: Evaluator) -> None:
    found = outcomes(evaluator, attack("deepfool@steps=50,candidates=4"), range(60))
    attacked = [o for o in found.values() if o.clean_correct]
    assert all(o.distance is not None for o in attacked)
    # A turn a step and one more that finds out, the clean image, and the engine's look at the last iterate.
    turns = [o.forwards - 2 for o in attacked]
    assert min(turns) == 2
    assert float(np.median(turns)) < 8
    assert max(turns) < 51
    assert all(o.backwards == 3 * t for o, t in zip(attacked, turns, strict=True))
    assert all(o.broken_at_step == t - 1 for o, t in zip(attacked, turns, strict=True) if not o.robust)


@pytest.mark.parametrize("text", ["fab-t@targets=3,steps=10", "deepfool@norm=Linf", "fab@norm=L2,steps=8"])
def test_worst_verdict_agrees_with_the_closest_and_leaves_early(text: str, evaluator: Evaluator) -> None:
    closest = outcomes(evaluator, attack(text), range(40))
    eps = repr(float(distances(closest).median()))
    worst = outcomes(evaluator, attack(text, eps=eps, verdict="worst"), range(40))
    assert robust(worst) == {i for i, o in closest.items() if o.distance is None or o.distance > float(eps)}
    assert 10 < len(robust(worst)) < 30
    broken = [i for i, o in worst.items() if o.clean_correct and not o.robust]
    assert all(worst[i].distance <= float(eps) for i in broken)  # type: ignore[operator]
    if "deepfool" not in text:
        assert sum(worst[i].forwards for i in broken) < 0.6 * sum(closest[i].forwards for i in broken)


@pytest.mark.parametrize(
    "text",
    [
        "fab@norm=L1,steps=4",
        "fab-t@targets=2,restarts=2,steps=4",
        "deepfool",
        "cw@steps=15,binary_search_steps=3,initial_const=1,learning_rate=0.1",
    ],
)
def test_slots_and_order_do_not_matter(text: str, evaluator: Evaluator) -> None:
    """Also where runs have different lengths: DeepFool ends early, CW ends searches early."""
    spec = attack(text)
    whole = outcomes(evaluator, spec, range(20))
    for slots in (7, 64):
        other = Evaluator(evaluator.classifier, evaluator.examples, slots=slots)
        again = outcomes(other, spec, np.random.default_rng(slots).permutation(20))
        assert {i: (o.robust, o.adversarial_prediction) for i, o in again.items()} == {
            i: (o.robust, o.adversarial_prediction) for i, o in whole.items()
        }
        one, two = distances(whole), distances(again)
        assert bool((torch.isfinite(one) == torch.isfinite(two)).all())
        assert int(torch.isfinite(one).sum()) > 10
        fine = torch.isfinite(one)
        assert float(((one - two)[fine].abs() <= 1e-3 * one[fine]).double().mean()) > 0.95
        if "cw" not in text:
            assert [o.forwards for _, o in sorted(again.items())] == [o.forwards for _, o in sorted(whole.items())]


@pytest.mark.parametrize("text", [*CLOSE[::3], "deepfool", "cw@steps=8,binary_search_steps=11"])
@pytest.mark.parametrize(("shape", "classes"), [((1, 1, 1), 2), ((3, 1, 7), 3), ((2, 5, 2), 12)])
def test_tiny_images_few_and_many_classes(text: str, shape: tuple[int, ...], classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    images = torch.rand(20, *shape, generator=generator)
    network = Linear(torch.randn(classes, math.prod(shape), generator=generator), torch.zeros(classes))
    labels = network(images).argmax(1)
    found = outcomes(evaluator_of(network, images, labels, classes), attack(text), range(20))
    assert len(found) == 20
    assert all(o.error is None for o in found.values())
    for outcome in found.values():
        assert outcome.distance is None or outcome.distance > 0


@pytest.mark.parametrize("text", CLOSE)
def test_all_misclassified_flat_and_broken_models(text: str, evaluator: Evaluator) -> None:
    images, labels = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3

    class Flat(nn.Module):
        """Always class 0, by a constant gradient or by none."""

        def __init__(self, slope: float) -> None:
            super().__init__()
            self.slope = slope

        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([100.0, 0.0, 0.0]) + self.slope * x.flatten(1)[:, :3]

    for slope in (0.0, 1e-25, 1.0):
        found = outcomes(evaluator_of(Flat(slope), images, labels, 3), attack(text), range(12))
        assert robust(found) == {i for i in range(12) if labels[i] == 0}
        assert all((o.distance is None) == bool(o.robust) and o.error is None for o in found.values())
        assert all((o.zero_gradient_steps > 0) == (slope == 0 and bool(o.robust)) for o in found.values())
    found = outcomes(evaluator_of(Flat(0.0), images, labels * 0 + 2, 3), attack(text), range(12))
    assert not robust(found)
    assert all(o.backwards == 0 and o.distance == 0 for o in found.values())


@pytest.mark.parametrize("text", ["fab-t@targets=2,steps=5", "fab@steps=5", "deepfool@norm=Linf"])
def test_inputs_outside_the_box_of_the_threat_space(text: str, evaluator: Evaluator) -> None:
    """`normalized-clamped` hands over images outside of [0, 1]."""
    spec = attack(text, eps="0.5", threat_space="normalized-clamped", verdict="worst")
    found = outcomes(evaluator, spec, range(40))
    assert all(o.error is None for o in found.values())
    assert all(o.distance is None or o.robust or o.distance <= 0.5 for o in found.values())


def data(evaluator: Evaluator, n: int) -> tuple[Tensor, Tensor, list[int]]:
    """The first images and labels that are classified as they should be, and which they are."""
    x, y = torch.from_numpy(evaluator.examples.images[:n]), torch.from_numpy(evaluator.examples.labels[:n])
    with torch.no_grad():
        right = evaluator.classifier.eval()(x).argmax(1) == y
    return x[right], y[right], torch.nonzero(right).flatten().tolist()


def ours(evaluator: Evaluator, spec: AttackSpec, indices: list[int]) -> Tensor:
    return distances(outcomes(evaluator, spec, indices))


def measured(evaluator: Evaluator, x: Tensor, y: Tensor, adversarial: Tensor, norm: str) -> Tensor:
    """Distances of another library's adversarial examples; infinite where it has none."""
    with torch.no_grad():
        wrong = evaluator.classifier(adversarial).argmax(1) != y
    found = wrong & (adversarial.flatten(1).abs().amax(1) > 0)
    return torch.where(found, length(adversarial - x, norm), math.inf).double()


@needs["pyautoattack"]
class TestAuthorsFab:
    """pyautoattack, the AutoAttack authors' code."""

    def reference(self, evaluator: Evaluator, spec: AttackSpec, eps: float):  # type: ignore[no-untyped-def]
        from pyautoattack.fab_pt import FABAttack_PT

        targets = int(dict(spec.settings).get("targets", 0))
        made = FABAttack_PT(
            evaluator.classifier,
            norm=spec.norm,
            n_iter=spec.steps,
            eps=eps,
            targeted=targets > 0,
            n_target_classes=targets,
        )
        made.device = torch.device("cpu")
        return made

    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("text", ["fab-t@steps=12,targets=2", "fab@steps=5", "fab-t@steps=3,targets=9,eta=1.2"])
    def test_same_distance_of_every_example(self, text: str, norm: str, evaluator: Evaluator) -> None:
        spec = attack(text, norm=norm)
        x, y, indices = data(evaluator, 40)
        theirs = torch.full((len(x),), math.inf, dtype=torch.float64)
        with frozen(evaluator.classifier):
            reference = self.reference(evaluator, spec, 1e9)
            reference.eta = spec.number("eta")
            for target in range(2, max(reference.n_target_classes, 1) + 2):
                reference.target_class = target
                adversarial = reference.attack_single_run(x, y, is_targeted=reference.targeted)
                theirs = torch.minimum(theirs, measured(evaluator, x, y, adversarial, norm))
        mine = ours(evaluator, spec, indices)
        fine = torch.isfinite(theirs)
        assert torch.equal(torch.isfinite(mine), fine)
        assert int(fine.sum()) > 0.9 * len(x)
        ratio = (mine / theirs)[fine]
        assert float(ratio.median()) == pytest.approx(1, abs=1e-4)
        # Paths that rounding sends to another class end elsewhere.
        assert float(((ratio - 1).abs() < 1e-3).double().mean()) >= 0.92
        assert bool(((ratio - 1).abs() < 0.25).all())

    @pytest.mark.parametrize(("norm", "eps"), [("Linf", 14 / 255), ("L2", 0.25), ("L1", 0.7)])
    def test_same_verdicts_at_eps(self, norm: str, eps: float, evaluator: Evaluator) -> None:
        spec = attack("fab-t@steps=8,targets=2", norm=norm, eps=repr(eps), verdict="worst")
        x, y, indices = data(evaluator, 48)
        with frozen(evaluator.classifier):
            adversarial = self.reference(evaluator, spec, eps).perturb(x, y)
        broken = measured(evaluator, x, y, adversarial, norm) <= eps
        closest = ours(evaluator, attack("fab-t@steps=8,targets=2", norm=norm), indices)
        clear = ((closest / eps) - 1).abs() > 1e-4
        found = outcomes(evaluator, spec, indices)
        verdicts = torch.tensor([not o.robust for _, o in sorted(found.items())])
        assert torch.equal(verdicts[clear], broken[clear])
        assert int(clear.sum()) > 0.95 * len(x)
        assert 0.2 < float(broken.double().mean()) < 0.8

    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("name", ["fab-t", "fab"])
    def test_same_iterates(self, name: str, norm: str, evaluator: Evaluator) -> None:
        spec = attack(name, norm=norm, steps=4)
        x, y, _ = data(evaluator, 30)
        with frozen(evaluator.classifier):
            reference = self.reference(evaluator, spec, 1.0)
            reference.target_class = 2
            theirs: list[Tensor] = []
            predict = reference._get_predicted_label
            reference._get_predicted_label = lambda z: (theirs.append(z.clone()), predict(z))[1]
            reference.attack_single_run(x, y, is_targeted=name == "fab-t")
            slots = block(x, y)
            with torch.no_grad():
                slots.numbers[:, TARGET] = evaluator.classifier(x).sort(dim=1).indices[:, -2]
            kernel = registry.kernel(spec)
            slots.x = kernel.start(slots)
            # Theirs begin with the clean image, too.
            for step, expected in enumerate(theirs):
                assert torch.allclose(slots.x, expected, atol=2e-4), f"iterate {step}"
                kernel.advance(slots, kernel.evaluate(evaluator.classifier, slots))
                slots.numbers[:, STEP] += 1
        assert len(theirs) == 5


@needs["foolbox"]
class TestFoolbox:
    def theirs(self, evaluator: Evaluator, reference: object, x: Tensor, y: Tensor, norm: str) -> Tensor:
        import foolbox

        with frozen(evaluator.classifier):
            model = foolbox.PyTorchModel(evaluator.classifier, bounds=(0, 1), device="cpu")
            adversarial = reference.run(model, x, foolbox.criteria.Misclassification(y))  # type: ignore[attr-defined]
        return measured(evaluator, x, y, adversarial, norm)

    @pytest.mark.parametrize("norm", ["L2", "Linf"])
    @pytest.mark.parametrize("candidates", [2, 10])
    def test_deepfool_same_distance_of_every_example(self, norm: str, candidates: int, evaluator: Evaluator) -> None:
        import foolbox

        x, y, indices = data(evaluator, 60)
        make = foolbox.attacks.L2DeepFoolAttack if norm == "L2" else foolbox.attacks.LinfDeepFoolAttack
        theirs = self.theirs(evaluator, make(candidates=candidates), x, y, norm)
        mine = ours(evaluator, attack(f"deepfool@candidates={candidates}", norm=norm), indices)
        fine = torch.isfinite(theirs)
        assert int(fine.sum()) > 0.9 * len(x)
        assert torch.equal(torch.isfinite(mine), fine)
        assert float(((mine / theirs - 1)[fine].abs() < 1e-3).double().mean()) >= 0.98
        assert float(mine.median()) <= 1.02 * float(theirs.median())

    @pytest.mark.parametrize(
        ("searches", "steps", "first"),
        [(1, 40, 3.0), (3, 25, 0.5), (10, 10, 0.05)],
        ids=["fixed c", "search", "last one repeated"],
    )
    def test_cw_same_distance_of_every_example(
        self, searches: int, steps: int, first: float, evaluator: Evaluator
    ) -> None:
        """Without early ends, which foolbox decides for a whole batch."""
        import foolbox

        x, y, indices = data(evaluator, 32)
        reference = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=searches, steps=steps, initial_const=first, stepsize=0.03, abort_early=False
        )
        theirs = self.theirs(evaluator, reference, x, y, "L2")
        settings = {"binary_search_steps": searches, "initial_const": first, "learning_rate": 0.03}
        text = ",".join(f"{key}={value}" for key, value in settings.items())
        mine = ours(evaluator, attack(f"cw@{text},abort_early=false", steps=steps), indices)
        fine = torch.isfinite(theirs)
        assert 0.4 * len(x) < int(fine.sum())
        ratio = (mine / theirs)[fine]
        # The last iterate is judged here and not there, so ours may be a step ahead.
        assert float(ratio.max()) < 1.01
        assert float((ratio > 0.99).double().mean()) > 0.7
        assert float(mine.median()) <= 1.02 * float(theirs.median())

    def test_cw_ends_searches_early_and_is_no_farther_than_foolbox_with_one_example(self, evaluator: Evaluator) -> None:
        import foolbox

        x, y, indices = data(evaluator, 6)
        reference = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=3, steps=40, initial_const=1, stepsize=0.05
        )
        theirs = torch.cat([self.theirs(evaluator, reference, x[i : i + 1], y[i : i + 1], "L2") for i in range(len(x))])
        text = "cw@binary_search_steps=3,steps=40,initial_const=1,learning_rate=0.05"
        found = outcomes(evaluator, attack(text), indices)
        fine = torch.isfinite(theirs)
        assert int(fine.sum()) >= 3
        assert float((distances(found) / theirs)[fine].max()) < 1.01
        assert float(np.median([o.backwards for o in found.values()])) < 0.8 * 120
        whole = outcomes(evaluator, attack(f"{text},abort_early=false"), indices)
        assert {o.backwards for o in whole.values()} == {120}


@needs["torchattacks"]
def test_cw_with_a_fixed_constant_is_at_least_as_close_as_torchattacks(evaluator: Evaluator) -> None:
    """Theirs leaves pixels at 0 and 1 where they are, and takes the other class's logit for at least 0."""
    import torchattacks

    x, y, indices = data(evaluator, 32)
    with frozen(evaluator.classifier):
        adversarial = torchattacks.CW(evaluator.classifier, c=1, steps=40, lr=0.05)(x, y)
    theirs = measured(evaluator, x, y, adversarial, "L2")
    spec = attack("cw@binary_search_steps=1,initial_const=1,learning_rate=0.05,abort_early=false", steps=40)
    mine = ours(evaluator, spec, indices)
    assert int(torch.isfinite(mine).sum()) >= int(torch.isfinite(theirs).sum()) > 12
    both = torch.isfinite(mine) & torch.isfinite(theirs)
    assert float(mine[both].median()) <= 1.02 * float(theirs[both].median())


def test_cw_that_ends_searches_early_comes_as_close() -> None:
    network, images, labels = linear_problem(5, 12, (1, 3, 3), 3)
    evaluator = evaluator_of(network, images, labels, 3)
    text = "cw@steps=300,binary_search_steps=3,initial_const=1"
    early, whole = (outcomes(evaluator, attack(text + more), range(12)) for more in ("", ",abort_early=false"))
    assert sum(o.backwards for o in early.values()) < 0.7 * sum(o.backwards for o in whole.values())
    assert float((distances(early) / distances(whole)).max()) < 1.05


def test_cw_does_not_give_up_where_tanh_is_flat() -> None:
    """The loss hardly falls at first when all pixels are black or white."""
    generator = torch.Generator().manual_seed(4)
    images = (torch.rand(20, 1, 5, 3, generator=generator) > 0.5).float()
    network = Linear(torch.randn(3, 15, generator=generator), torch.zeros(3))
    labels = network(images).argmax(1).detach()
    spec = attack("cw@steps=200,binary_search_steps=2,initial_const=10,learning_rate=0.04")
    found = outcomes(evaluator_of(network, images, labels, 3), spec, range(20))
    assert all(o.distance is not None for o in found.values())


@pytest.mark.parametrize(("searches", "steps"), [(6, 12), (10, 6)])
def test_the_constant_of_every_example_is_searched_for_on_its_own(
    searches: int, steps: int, evaluator: Evaluator
) -> None:
    """c grows tenfold until something is found, then goes to the middle; a search starts at the clean image. From ten
    searches on the last one repeats the smallest c that was enough.
    """
    text = f"cw@binary_search_steps={searches},initial_const=0.5,learning_rate=0.05,abort_early=false"
    kernel = registry.kernel(attack(text, steps=steps))
    x, y, _ = data(evaluator, 20)
    slots = block(x, y)
    slots.x = kernel.start(slots)
    kernel.reset(slots, torch.arange(len(x)))
    assert kernel.steps == searches * steps
    constants, found = [], []
    with frozen(evaluator.classifier):
        for step in range(kernel.steps):
            if step % steps == 0:
                assert torch.allclose(slots.x, x, atol=1e-6)
                constants.append(slots.memory["c"].clone())
                found.append(torch.zeros(len(x), dtype=torch.bool))
            turn = kernel.evaluate(evaluator.classifier, slots)
            found[-1] |= turn.logits.argmax(1) != y
            kernel.advance(slots, turn)
            slots.numbers[:, STEP] += 1
            assert bool((slots.steps == step + 1).all())
    for row in range(len(x)):
        low, high, c = 0.0, math.inf, 0.5
        for search in range(searches):
            if searches == 10 and search == 9:
                c = min(high, 1e10)
            assert float(constants[search][row]) == pytest.approx(c, rel=1e-5)
            low, high = (low, c) if found[search][row] else (c, high)
            c = min(10 * c, 1e10) if math.isinf(high) else (low + high) / 2
    assert len({float(c) for c in constants[-1]}) > 2


def test_slots_keep_the_memory_of_every_attack() -> None:
    """Rows that the engine drops or moves take their state along."""
    network, images, labels = linear_problem(9, 6, (1, 3, 3), 4)
    for text in ("fab@steps=4", "fab-t@steps=4", "deepfool", "cw@steps=4"):
        whole, part = (self_contained(block(images, labels)) for _ in range(2))
        kernel = registry.kernel(attack(text))
        for slots in (whole, part):
            slots.numbers[:, TARGET] = (labels + 1) % 4
            slots.x = kernel.start(slots)
            kernel.reset(slots, torch.arange(6))
        for step in range(3):
            for slots in (whole, part):
                kernel.advance(slots, kernel.evaluate(network, slots))
                slots.numbers[:, STEP] = step + 1
            if step == 0:
                part.keep(torch.tensor([4, 1, 2]))
        assert torch.allclose(part.x, whole.x[[4, 1, 2]], atol=1e-6), text


def self_contained(slots: Slots) -> Slots:
    return Slots(slots.clean.clone(), slots.x.clone(), slots.numbers.clone(), slots.hit.clone(), slots.best.clone())
