"""APGD against its authors' code, iterate by iterate and by verdicts, and against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.attacks import apgd, norms, registry
from models.attacks.engine import SlotEngine
from models.attacks.random import key_of, normal, uniform
from models.attacks.slots import TARGET, Outcome, Work
from models.datasets import registry as datasets
from models.evaluation import Evaluator
from models.specs import AttackSpec
from tests.support import Linear, attack, block, classifier_of, examples_of, outcomes, robust

NAMES = ["apgd-ce", "apgd-dlr", "apgd-t"]
CASES = [
    (name, norm, large) for norm, large in (("Linf", "true"), ("L2", "true"), ("L1", "true"), ("L1", "false"))
    for name in NAMES
]  # fmt: skip
EPS = {"Linf": "12/255", "L2": "0.5", "L1": "3"}
#: So large that the first step overshoots for some examples: their best iterate is the start.
LARGE_EPS = {"Linf": "120/255", "L2": "5", "L1": "20"}


def small_network(seed: int = 0) -> nn.Module:
    """A network of random weights whose predictions a small perturbation changes, on 8x8 images."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 10))
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return network


def digits(count: int) -> Tensor:
    return torch.from_numpy(datasets.load("digits", "test").images[:count])


def our_iterates(spec: AttackSpec, forward: nn.Module, x: Tensor, y: Tensor, target: Tensor) -> list[Tensor]:
    """Everything that the attack evaluates in one run, the start first."""
    kernel = registry.kernel(spec)
    slots = block(x, y)
    slots.numbers[:, TARGET] = target
    slots.x = kernel.start(slots)
    kernel.reset(slots, torch.arange(len(x)))
    iterates, taken = [slots.x], torch.zeros(len(x), dtype=torch.long)
    while int(taken.min()) < spec.steps:
        stepped = kernel.advance(slots, kernel.evaluate(forward, slots))
        taken += 1 if stepped is None else stepped
        iterates.append(slots.x)
    return iterates


def their_iterates(
    spec: AttackSpec, forward: nn.Module, x: Tensor, y: Tensor, target: Tensor, monkeypatch: pytest.MonkeyPatch
) -> list[Tensor]:
    """The same of the authors' code, with our random numbers."""
    reference = pytest.importorskip("pyautoattack.autopgd_base")
    seen: list[Tensor] = []

    def model(z: Tensor) -> Tensor:
        seen.append(z.detach().clone())
        out: Tensor = forward(z)
        return out

    numbers = (key_of(spec.seed, spec.name), torch.arange(len(x)), torch.zeros(len(x), dtype=torch.long), x.shape[1:])
    monkeypatch.setattr(torch, "rand", lambda shape: uniform(*numbers))
    monkeypatch.setattr(torch, "randn", lambda shape: normal(*numbers))
    monkeypatch.setattr(torch, "randn_like", lambda like: normal(*numbers))
    large = spec.norm == "L1" and dict(spec.settings).get("large_eps", True)
    common: dict[str, Any] = {"n_iter": spec.steps, "norm": spec.norm, "eps": spec.eps.value, "device": "cpu"}
    if spec.name == "apgd-t":
        attacker = reference.APGDAttack_targeted(model, **common)
        attacker.y_target = target
    else:
        attacker = reference.APGDAttack(model, loss=spec.loss, **common)
    attacker.init_hyperparam(x)
    if large:
        early = math.ceil(0.3 * spec.steps)
        steps = [early, early, spec.steps - 2 * early]
        attacker.decr_eps_pgd(x, y, [3 * spec.eps.value, 2 * spec.eps.value, spec.eps.value], steps)
    else:
        attacker.attack_single_run(x, y)
    return seen


def problem(count: int) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A network, images, its predictions as labels, and the third most likely classes."""
    network, x = small_network(), digits(count)
    order = network(x).sort(dim=1).indices
    return network, x, order[:, -1], order[:, -3]


@pytest.mark.filterwarnings("ignore:there are .* points with zero gradient")
@pytest.mark.parametrize(
    ("name", "norm", "large", "steps"),
    # There are no three phases of one step: the authors' code fails.
    [(*case, steps) for case in CASES for steps in (1, 7, 100) if (steps, *case[1:]) != (1, "L1", "true")],
)
def test_every_iterate_is_that_of_the_authors_code(
    name: str, norm: str, large: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Theirs may leave the ball by a rounding error.
    monkeypatch.setattr(norms, "JUST_INSIDE", 1.0)
    eps = (LARGE_EPS if steps == 7 else EPS)[norm]
    spec = attack(f"{name}@large_eps={large}", norm=norm, eps=eps, steps=steps)
    arguments = (spec, *problem(60))
    ours, theirs = torch.stack(our_iterates(*arguments)), torch.stack(their_iterates(*arguments, monkeypatch))
    assert ours.shape == theirs.shape
    assert len(ours) == steps + (3 if (norm, large) == ("L1", "true") else 1)
    same = ((ours - theirs).abs().flatten(2).amax(2) <= 1e-5).all(0)
    # In L1 a coordinate moves or does not: rounding of another library may decide that differently.
    assert same.float().mean() >= (0.95 if norm == "L1" else 1)
    moved = (ours[1:] - ours[:-1]).abs().flatten(2).amax(2)
    assert (moved[0] > 0).float().mean() > 0.8


def test_step_sizes_are_halved_at_the_checkpoints_of_each_example_by_itself() -> None:
    network, x, y, _ = problem(200)
    spec = attack("apgd-dlr", eps="24/255")
    kernel = registry.kernel(spec)
    slots = block(x, y)
    slots.x = kernel.start(slots)
    kernel.reset(slots, torch.arange(len(x)))
    sizes = []
    for _ in range(100):
        kernel.advance(slots, kernel.evaluate(network, slots))
        sizes.append(slots.memory["step size"].clone())
    history = (torch.stack(sizes) / (2 * spec.eps.value)).numpy()
    assert (history[0] == 1).all()
    changed = (history[1:] != history[:-1]).any(1).nonzero()[0] + 1
    # Table 1 of the paper, in other words: p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06).
    assert set(changed.tolist()) <= {22, 41, 57, 70, 80, 87, 93, 99}
    assert len(changed) >= 6
    assert len(np.unique(history[-1])) >= 3, "examples halve independently of each other"
    assert set(np.unique(history[1:] / history[:-1]).tolist()) == {0.5, 1.0}


def test_checkpoints() -> None:
    assert np.cumsum(apgd.shorter_and_shorter(100)).tolist() == [22, 41, 57, 70, 80, 87, 93, 99]
    assert apgd.shorter_and_shorter(10) == [2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert apgd.always_alike(100) == [4] * 25
    assert apgd.phases(100, 12.0, large=True) == [(30, 36.0), (30, 24.0), (40, 12.0)]
    assert apgd.phases(100, 12.0, large=False) == [(100, 12.0)]
    for steps in range(1, 60):
        phases = apgd.phases(steps, 1.0, large=True)
        assert sum(n for n, _ in phases) == steps
        assert all(n >= 1 for n, _ in phases)
        assert phases[-1][1] == 1.0


@pytest.mark.parametrize(("name", "norm", "large"), CASES)
def test_iterates_stay_in_the_ball_and_in_the_range(name: str, norm: str, large: str) -> None:
    spec = attack(f"{name}@large_eps={large}", norm=norm, eps=EPS[norm], steps=20)
    network, x, y, target = problem(100)
    kernel = registry.kernel(spec)
    iterates = our_iterates(spec, network, x, y, target)
    within = [float(kernel.distance(z - x).max()) / spec.eps.value for z in iterates]
    assert all(z.min() >= 0 and z.max() <= 1 for z in iterates)
    if norm == "L1" and large == "true":
        assert 2 < max(within[:7]) <= 3
        assert 1 < max(within[7:14]) <= 2
        within = within[14:]
    assert 0.999 < max(within[1:]) <= (1 + 1e-5 if norm == "Linf" else 1), "rounding does not lead out of the ball"


@pytest.mark.parametrize(("name", "norm"), [(name, norm) for name in NAMES for norm in ("Linf", "L2")])
def test_start_is_on_the_border(name: str, norm: str) -> None:
    """In the middle of the range, where it is not clamped."""
    kernel = registry.kernel(attack(name, norm=norm, eps="0.25"))
    clean = torch.full((50, 3, 5, 7), 0.5)
    first = kernel.start(block(clean))
    assert torch.allclose(kernel.distance(first - clean), torch.full((50,), 0.25), atol=1e-6)
    assert torch.equal(kernel.start(block(clean[:7])), first[:7])
    again = block(clean)
    again.runs.fill_(1)
    assert (kernel.start(again) != first).float().mean() > 0.9


def their_attack(spec: AttackSpec, model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The whole attack of the authors, with the random numbers that ours draws for each example and run."""
    reference = pytest.importorskip("pyautoattack.autopgd_base")
    key = key_of(spec.seed, spec.name)
    index_of = {image.numpy().tobytes(): i for i, image in enumerate(images)}
    run = -1
    present = torch.zeros(0, dtype=torch.long)

    def begin(x: Tensor) -> None:
        nonlocal run, present
        run += 1
        present = torch.tensor([index_of[image.numpy().tobytes()] for image in x])

    def drawn(numbers: Callable[..., Tensor]) -> Callable[[Any], Tensor]:
        return lambda _: numbers(key, present, torch.full_like(present, run), images.shape[1:])

    monkeypatch.setattr(torch, "rand", drawn(uniform))
    monkeypatch.setattr(torch, "randn", drawn(normal))
    monkeypatch.setattr(torch, "randn_like", drawn(normal))
    targeted = spec.name == "apgd-t"
    kind = reference.APGDAttack_targeted if targeted else reference.APGDAttack
    outer = "decr_eps_pgd" if spec.norm == "L1" else "attack_single_run"
    inner = getattr(kind, outer)

    def one_run(self: Any, x: Tensor, *arguments: Any, **keywords: Any) -> Any:
        begin(x)
        return inner(self, x, *arguments, **keywords)

    monkeypatch.setattr(kind, outer, one_run)
    own = {"n_target_classes": int(spec.number("targets"))} if targeted else {"loss": spec.loss}
    return kind(
        model,
        n_iter=spec.steps,
        n_restarts=spec.restarts,
        norm=spec.norm,
        eps=spec.eps.value,
        device="cpu",
        use_largereps=spec.norm == "L1",
        **own,
    )


VERDICTS = [
    ("apgd-ce", "Linf", 15, 1), ("apgd-t@targets=2", "Linf", 8, 1),
    ("apgd-ce", "L2", 8, 2), ("apgd-dlr", "L2", 12, 1), ("apgd-ce", "L1", 12, 1),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:there are .* points with zero gradient")
@pytest.mark.parametrize(("name", "norm", "steps", "restarts"), VERDICTS)
def test_robust_accuracy_is_that_of_the_authors_code(
    name: str, norm: str, steps: int, restarts: int, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within half a point on 300 examples: other batches round differently, and ours stay a hair inside the ball."""
    n = 300
    x, y = torch.from_numpy(evaluator.examples.images[:n]), torch.from_numpy(evaluator.examples.labels[:n])
    model = evaluator.classifier.eval().requires_grad_(False)
    counts = []
    for eps in {"Linf": ("10/255", "16/255"), "L2": ("0.3", "0.5"), "L1": ("0.5", "0.9")}[norm]:
        spec = attack(name, norm=norm, eps=eps, steps=steps, restarts=restarts)
        ours = robust(outcomes(evaluator, spec, range(n)))
        with monkeypatch.context() as patched:
            adversarial = their_attack(spec, model, x, patched).perturb(x, y)
            theirs = set((model(adversarial).argmax(1) == y).nonzero().squeeze(1).tolist())
        assert abs(len(ours) - len(theirs)) <= 0.005 * n
        assert len(ours ^ theirs) <= 0.01 * n
        counts.append(len(ours))
    assert 15 < counts[1] < counts[0] - 15 < 270


@pytest.mark.parametrize(("norm", "eps"), [("Linf", "10/255"), ("L1", "0.8")])
def test_apgd_is_not_weaker_than_pgd_with_the_same_loss(norm: str, eps: str, evaluator: Evaluator) -> None:
    """By more than a point, that is: the starts differ."""
    pgd = robust(outcomes(evaluator, attack("pgd", norm=norm, eps=eps, steps=10), range(200)))
    found = robust(outcomes(evaluator, attack("apgd-ce", norm=norm, eps=eps, steps=10), range(200)))
    assert len(found) <= len(pgd) + 2
    assert len(found) > 10


def linear_problem(classes: int, pixels: int = 16, n: int = 150) -> tuple[Linear, Tensor, Tensor]:
    """A linear model with images so far inside the range that it never binds at eps below 0.1."""
    generator = torch.Generator().manual_seed(classes)
    network = Linear(torch.randn(classes, pixels, generator=generator), 0.3 * torch.randn(classes, generator=generator))
    images = 0.3 + 0.4 * torch.rand(n, 1, 1, pixels, generator=generator)
    return network, images, network(images).argmax(1).detach()


def exact_distances(network: Linear, images: Tensor, labels: Tensor, norm: str) -> Tensor:
    """Distance to the nearest border: in L-inf and L2 (z_y - z_k) / ||w_y - w_k|| in the dual norm. In L1 the pixels
    that count most are moved first, each as far as the range lets it.
    """
    weight, z = network.weight.detach(), network(images).detach()
    slopes = weight[labels][:, None] - weight[None]
    gaps = z.gather(1, labels[:, None]) - z
    if norm != "L1":
        distances: Tensor = gaps / torch.linalg.vector_norm(slopes, 1 if norm == "Linf" else 2, dim=2)
        return distances.nan_to_num(nan=math.inf).amin(1)
    flat = images.flatten(1)[:, None]
    room = torch.where(slopes > 0, flat, 1 - flat)
    order = slopes.abs().argsort(dim=2, descending=True)
    slopes, room = slopes.abs().gather(2, order), room.gather(2, order)
    missing = gaps[:, :, None] - (slopes * room).cumsum(2) + slopes * room
    parts = torch.minimum((missing / slopes).nan_to_num(nan=math.inf).clamp_min(0), room)
    reached = (slopes * room).sum(2) >= gaps
    nearest = parts.sum(2).masked_fill(~reached, torch.inf)
    return nearest.scatter(1, labels[:, None], torch.inf).amin(1)


def assert_solved(name: str, classes: int, norm: str) -> None:
    network, images, labels = linear_problem(classes)
    exact = exact_distances(network, images, labels, norm)
    eps = float(exact.quantile(0.5))
    evaluator = Evaluator(classifier_of(network, classes=classes), examples_of(images, labels, classes), slots=32)
    found = outcomes(evaluator, attack(name, norm=norm, eps=repr(eps), steps=40), range(len(images)))
    clear = [i for i in found if abs(float(exact[i]) / eps - 1) > 0.02]
    assert len(clear) > 120
    assert sum(1 < float(exact[i]) / eps < 3 for i in clear) > 20
    assert {i for i in clear if found[i].robust} == {i for i in clear if exact[i] > eps}


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_targeted_reaches_the_closed_form_of_linear_models(classes: int, norm: str) -> None:
    """Whichever border is nearest is one of the targets'. With fewer than four classes its loss is the margin. In L1
    the examples between eps and 3 eps, which the first phases break, must count as robust.
    """
    assert_solved("apgd-t", classes, norm)


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-dlr"])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_two_classes_are_solved_exactly(name: str, norm: str) -> None:
    assert_solved(name, 2, norm)


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_fewer_classes_than_the_ratio_needs(name: str, classes: int) -> None:
    logits = torch.randn(20, classes, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(20) % classes
    targets = (labels + 1) % classes
    for loss, least in ((apgd.dlr, 3), (apgd.targeted_dlr, 4)):
        values = loss(logits, labels, targets)
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        assert torch.isfinite(gradient).all()
        if classes == 1:
            continue
        assert torch.isfinite(values).all()
        if classes < least:
            margin = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
            assert torch.allclose(values, margin.squeeze(1))
    kernel = registry.kernel(attack(name, restarts=2))
    assert kernel.prepare(classes) == (2 * max(1, classes - 1) if name == "apgd-t" else 2)


def test_losses_are_those_of_the_authors_code() -> None:
    reference = pytest.importorskip("pyautoattack.autopgd_base")
    logits = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    labels, targets = torch.arange(500) % 6, (torch.arange(500) // 6) % 6
    assert torch.equal(apgd.dlr(logits, labels, targets), reference.APGDAttack.dlr_loss(None, logits, labels))
    attacker = reference.APGDAttack_targeted(None, eps=0.1)
    attacker.y_target = targets
    assert torch.equal(apgd.targeted_dlr(logits, labels, targets), attacker.dlr_loss_targeted(logits, labels))


def test_targets_are_the_most_likely_classes_but_the_label_one_after_another() -> None:
    kernel = registry.kernel(attack("apgd-t@targets=4", restarts=2))
    assert (kernel.runs, kernel.prepare(1000), kernel.prepare(4)) == (8, 8, 6)

    def targets(label: int) -> list[int]:
        work = Work(0, torch.zeros(1, 1, 1), label, 7, 0.0, 1, top=(7, 3, 9, 1, 0, 2))
        found = []
        for work.run in range(kernel.runs):
            found.append(kernel.target_of(work))
        return found

    assert targets(7) == [3, 3, 9, 9, 1, 1, 0, 0]
    assert targets(9) == [7, 7, 3, 3, 1, 1, 0, 0], "of an example that is misclassified as it is"
    assert registry.kernel(attack("apgd-ce", restarts=2)).runs == 2


@pytest.mark.parametrize(("spread", "eps"), [(0.1, 3.0), (1.0, 3.0), (1.0, 0.0), (0.01, 50.0), (3.0, 20.0)])
def test_l1_correction_leads_to_the_nearest_point_of_ball_and_range(spread: float, eps: float) -> None:
    """Bisection for the one amount that all coordinates shrink by, in double precision; and the authors' code."""
    reference = pytest.importorskip("pyautoattack.autopgd_base")
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(40, 3, 6, 6, generator=generator)
    offset = spread * torch.randn(clean.shape, generator=generator)
    radius = torch.full((40,), eps)
    found = offset + norms.l1_correction(offset, clean, radius, 0.0, 1.0)
    assert (clean + found).min() >= -1e-6
    assert (clean + found).max() <= 1 + 1e-6
    assert (found.abs().flatten(1).sum(1) <= eps + 1e-4).all()
    ours = found.flatten(1).double()
    boxed = (clean + offset).clamp(0, 1).sub(clean).flatten(1).double().abs()
    magnitude = offset.flatten(1).double().abs()
    low, high = torch.zeros(40, 1, dtype=torch.double), magnitude.amax(1, keepdim=True)
    for _ in range(60):
        middle = (low + high) / 2
        far = torch.minimum((magnitude - middle).clamp_min(0), boxed).sum(1, keepdim=True) > eps
        low, high = torch.where(far, middle, low), torch.where(far, high, middle)
    exact = torch.minimum((magnitude - high).clamp_min(0), boxed) * offset.flatten(1).sign()
    assert (ours - exact).abs().max() < 3e-5
    theirs = offset + reference.L1_projection(clean, offset, eps)
    assert (found - theirs).abs().max() < 3e-5


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 8), (3, 16, 16)])
def test_both_ways_to_the_nearest_point_in_l1_lead_to_the_same(shape: tuple[int, ...]) -> None:
    """Sorting and searching, in double precision, with clean pixels at the ends of the range among them."""
    generator = torch.Generator().manual_seed(2)
    clean = torch.rand(60, *shape, generator=generator, dtype=torch.double)
    clean[::3] = clean[::3].round()
    offset = torch.randn(clean.shape, generator=generator, dtype=torch.double)
    offset[::4] *= torch.rand(offset[::4].shape, generator=generator, dtype=torch.double) < 0.2
    eps = torch.rand(60, generator=generator, dtype=torch.double) * offset.abs().flatten(1).sum(1)
    sorted_, searched = (
        offset + norms.l1_correction(offset, clean, eps, 0.0, 1.0),
        norms.project_l1_in_box(offset, clean, eps, 0.0, 1.0),
    )
    assert (sorted_ - searched).abs().max() < 1e-7
    assert ((sorted_ - offset).abs().amax((1, 2, 3)) > 0).float().mean() > 0.5


def test_l1_correction_of_rows_with_balls_of_their_own() -> None:
    clean, offset = torch.full((3, 1, 1, 4), 0.5), torch.tensor([[[[0.4, -0.2, 0.1, 0.0]]]]).expand(3, 1, 1, 4)
    found = offset + norms.l1_correction(offset, clean, torch.tensor([0.3, 0.5, 9.0]), 0.0, 1.0)
    expected = torch.tensor([[0.25, -0.05, 0, 0], [1.0 / 3, -0.4 / 3, 0.1 / 3, 0], [0.4, -0.2, 0.1, 0]])
    expected[1] = torch.tensor([0.4 - 0.2 / 3, -(0.2 - 0.2 / 3), 0.1 - 0.2 / 3, 0])
    assert torch.allclose(found.flatten(1), expected, atol=1e-6)


def test_cost_of_a_survivor(evaluator: Evaluator) -> None:
    """Clean prediction, an iterate a step, the last one; and in L1 the starts of two further phases."""
    for norm, large, extra in (("Linf", "true", 0), ("L1", "false", 0), ("L1", "true", 2)):
        spec = attack(f"apgd-ce@large_eps={large}", norm=norm, eps="0.001", steps=4, restarts=2)
        found = [o for o in outcomes(evaluator, spec, range(32)).values() if o.robust]
        assert len(found) > 24
        assert {(o.forwards, o.backwards) for o in found} == {(1 + 2 * (5 + extra), 2 * (4 + extra))}


@pytest.mark.parametrize(("name", "norm", "large"), [CASES[0], CASES[5], CASES[6], CASES[11]])
def test_slots_and_looks_at_them_do_not_matter(name: str, norm: str, large: str) -> None:
    network, x, y, _ = problem(60)
    eps = {"Linf": "6/255", "L2": "0.3", "L1": "0.5"}[norm]
    more = ",targets=2" if name == "apgd-t" else ""
    spec = attack(f"{name}@large_eps={large}{more}", norm=norm, eps=eps, steps=12, restarts=2)
    order = network(x).argsort(1, descending=True).tolist()

    def run(slots: int, poll: int) -> dict[int, Outcome]:
        engine = SlotEngine(
            network, registry.kernel(spec), slots=slots, device=torch.device("cpu"), classes=10, poll=poll
        )
        works = (Work(i, x[i], int(y[i]), int(y[i]), 1.0, 1, top=tuple(order[i])) for i in range(len(x)))
        return {o.example: o for batch in engine.run(works) for o in batch}

    def verdicts(found: dict[int, Outcome]) -> dict[int, tuple[object, ...]]:
        return {i: (o.robust, o.broken_at_restart, o.broken_at_step) for i, o in found.items()}

    whole = verdicts(run(64, 1))
    assert verdicts(run(16, 1)) == whole
    assert verdicts(run(20, 4)) == whole
    assert len({v[0] for v in whole.values()}) == 2


class Noisy(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        out: Tensor = self.network(x) + 0.5 * torch.randn(len(x), 10)
        return out


def test_gradients_of_a_random_model_are_averaged() -> None:
    network, x, y, target = problem(50)
    spec = attack("apgd-ce@eot=8", steps=5)
    torch.manual_seed(0)
    noisy = Noisy(network)
    iterates = our_iterates(spec, noisy, x, y, target)
    assert noisy.rows == 5 * 8 * 50
    assert torch.isfinite(iterates[-1]).all()
    evaluator = Evaluator(classifier_of(Noisy(network), classes=10), examples_of(x, y, 10), slots=16)
    found = outcomes(evaluator, spec, range(50))
    assert {o.backwards % 8 for o in found.values()} == {0}
    assert all(o.error is None for o in found.values())


class WithoutGradient(nn.Module):
    """Logits are finite, their gradient is NaN for images that are bright in the middle."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        bright = (flat[:, 20:40].mean(1, keepdim=True) > 0.3).to(x.dtype)
        return flat[:, :10] + torch.sqrt(flat[:, 10:20] * (1 - bright)) + torch.eye(10)[0]


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_gradient_that_is_not_finite_is_no_error_of_the_model(norm: str) -> None:
    x = 0.2 + 0.6 * digits(40)
    network = WithoutGradient()
    probe = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(probe).sum(), probe)
    assert 5 < int(torch.isnan(gradient).flatten(1).any(1).sum()) < 40
    labels = network(x).argmax(1)
    found = outcomes(
        Evaluator(classifier_of(network, classes=10), examples_of(x, labels, 10), slots=16),
        attack("apgd-ce", norm=norm, eps="0.02", steps=10),
        range(40),
    )
    assert all(o.error is None for o in found.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [lambda: torch.rand(30, 3, 5, 9), lambda: torch.rand(30, 2, 1, 1)])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_small_and_non_square_images(name: str, make: Callable[[], Tensor], norm: str) -> None:
    torch.manual_seed(0)
    images = make()
    network = Linear(torch.randn(5, images[0].numel()), torch.zeros(5))
    labels = network(images).argmax(1)
    evaluator = Evaluator(classifier_of(network, classes=5, channels=images.shape[1]), examples_of(images, labels, 5))
    found = outcomes(evaluator, attack(name, norm=norm, eps="0.9", steps=5), range(30))
    assert len(found) == 30
    assert all(o.error is None for o in found.values())
    assert len(robust(found)) < 30
