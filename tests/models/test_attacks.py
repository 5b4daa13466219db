"""Attacks against outside truth: closed forms, orders that must hold, and changes that must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.attacks import registry
from models.attacks.slots import Outcome, ranks
from models.classifier import Classifier, buffers_digest
from models.datasets import registry as datasets
from models.errors import EvaluationError
from models.evaluation import Evaluator
from models.specs import AttackSpec, Preprocessing
from tests.support import Linear, attack, block, classifier_of, examples_of, outcomes, quick, robust

ALL = sorted(registry.entries())
#: Every attack in every norm that it takes.
EVERY = [(name, norm) for name in ALL for norm in registry.find(name).eps]
#: AutoAttack plus has the stages of the others, and many of them: left out where they would only be tested again.
MOST = [name for name in ALL if name != "autoattack-plus"]
#: Attacks that take the verdict `last` too.
LAST = [name for name in ALL if registry.find(name).verdict == "worst" and registry.find(name).kernel]
#: A bound at which the trained network keeps some of its examples under every attack.
SOME = 10 / 255


def linear_problem(seed: int, n: int, pixels: int, classes: int) -> tuple[Linear, Tensor, Tensor]:
    """A linear model with images well inside the box, so that the box never binds at the eps of the tests."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, pixels, generator=generator)
    images = 0.3 + 0.4 * torch.rand(n, 1, 1, pixels, generator=generator)
    network = Linear(weight, 0.3 * torch.randn(classes, generator=generator))
    labels = network(images).argmax(1).detach()
    return network, images, labels


def exact_distances(network: Linear, images: Tensor, labels: Tensor, norm: str = "Linf") -> np.ndarray:
    """Distance to the decision border without the box, which can only make it larger: min over k of
    (z_y - z_k) / ||w_y - w_k||, in the dual norm.
    """
    weight = network.weight.detach().double()
    z = images.flatten(1).double() @ weight.T + network.bias.detach().double()
    own = z.gather(1, labels[:, None])
    dual = {"Linf": 1.0, "L2": 2.0, "L1": math.inf}[norm]
    norms = torch.linalg.vector_norm(weight[labels][:, None, :] - weight[None], ord=dual, dim=2)
    ratios = (own - z) / norms.masked_fill(norms == 0, math.nan)
    return ratios.nan_to_num(nan=math.inf).amin(1).numpy()


@pytest.mark.parametrize(("name", "norm"), EVERY)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    pixels=st.integers(1, 12),
    classes=st.integers(2, 5),
    slots=st.sampled_from([5, 16, 40]),
    eps=st.floats(0.0, 0.25),
)
def test_linear_model_no_attack_beats_the_closed_form(
    name: str, norm: str, seed: int, pixels: int, classes: int, slots: int, eps: float
) -> None:
    network, images, labels = linear_problem(seed, 24, pixels, classes)
    exact = exact_distances(network, images, labels, norm)
    spec = quick(name, eps, norm=norm, shape=(1, 1, pixels))
    found = outcomes(
        Evaluator(classifier_of(network, classes=classes), examples_of(images, labels, classes), slots=slots),
        spec,
        range(24),
    )
    assert sorted(found) == list(range(24))
    for index, outcome in found.items():
        bound = spec.eps.value
        assert outcome.robust or exact[index] <= bound + 1e-5 * (1 + bound), "broke an example that is provably robust"
        if spec.verdict == "closest" and outcome.distance is not None and outcome.distance > 0:
            assert outcome.distance >= exact[index] - 1e-5 * (1 + exact[index]), "closer than any can be"


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_two_class_linear_model_is_solved_exactly(name: str) -> None:
    """With two classes the gradient's sign is the optimal direction, so the verdict equals the closed form."""
    network, images, labels = linear_problem(3, 200, 16, 2)
    exact = exact_distances(network, images, labels)
    eps = float(np.median(exact))
    evaluator = Evaluator(classifier_of(network, classes=2), examples_of(images, labels, 2), slots=32)
    found = outcomes(evaluator, attack(name, eps=repr(eps)), range(200))
    for index, outcome in found.items():
        if abs(exact[index] - eps) > 1e-5:
            assert outcome.robust == (exact[index] > eps)
    assert 60 < len(robust(found)) < 140


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_eps_zero_changes_no_prediction(name: str, norm: str, evaluator: Evaluator) -> None:
    spec = quick(name, 0.0, norm=norm)
    found = outcomes(evaluator, spec, range(30))
    if spec.verdict != "closest":
        assert all(o.adversarial_prediction == o.clean_prediction for o in found.values())
    assert robust(found) == {i for i, o in found.items() if o.clean_correct}


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_robust_implies_clean_correct_and_broken_ones_stay_in_the_ball(
    name: str, norm: str, evaluator: Evaluator
) -> None:
    spec = quick(name, 40 / 255, norm=norm)
    found = outcomes(evaluator, spec, range(64))
    assert sorted(found) == list(range(64))
    assert len(robust(found)) < sum(o.clean_correct for o in found.values()), "it breaks some"
    for outcome in found.values():
        assert outcome.clean_correct or not outcome.robust
        assert (outcome.broken_at_step is not None) == (outcome.clean_correct and not outcome.robust)
        if not outcome.robust:
            assert outcome.distance is not None
            assert outcome.distance <= spec.eps.value * (1 + 1e-6) + 1e-6
            # argmax takes the first of equal logits, so a tie may be judged either way.
            assert (outcome.margin is None) == (spec.verdict == "closest" and outcome.clean_correct)
            assert (outcome.margin or 0) <= 0
        elif spec.verdict == "closest":
            assert outcome.distance is None or outcome.distance > spec.eps.value
        else:
            assert outcome.margin is not None
            assert outcome.margin >= 0


def test_stronger_settings_never_raise_robust_accuracy(evaluator: Evaluator) -> None:
    n = range(200)
    eps = "12/255"
    fgsm = robust(outcomes(evaluator, attack("fgsm", eps=eps), n))
    pgd = robust(outcomes(evaluator, attack("pgd", eps=eps), n))
    assert len(pgd) <= len(fgsm)
    more_restarts = robust(outcomes(evaluator, attack("pgd", eps=eps, restarts=4), n))
    assert more_restarts <= pgd, "the first restart is the same run, so restarts can only break more"
    more_steps = robust(outcomes(evaluator, attack("pgd", eps=eps, steps=20, step_size="3/255"), n))
    assert more_steps <= pgd, "the first ten steps are the same run"
    last = None
    for numerator in (2, 4, 8, 16, 32, 96):
        now = len(robust(outcomes(evaluator, attack("pgd", eps=f"{numerator}/255"), n)))
        assert last is None or now <= last
        last = now
    assert last == 0, "nothing survives 96/255 on a standard-trained network"


def test_worst_verdict_is_at_most_the_last_one(evaluator: Evaluator) -> None:
    worst = robust(outcomes(evaluator, attack("pgd", eps="10/255"), range(200)))
    last = robust(outcomes(evaluator, attack("pgd", eps="10/255", verdict="last"), range(200)))
    assert worst <= last


def verdicts(found: dict[int, Outcome]) -> dict[int, tuple[bool | None, int | None, str | None]]:
    """What must not depend on the batch; margins and distances differ in the last digits."""
    return {i: (o.robust, o.broken_at_step, o.stage) for i, o in sorted(found.items())}


@pytest.mark.parametrize(
    ("name", "verdict"), [(name, None) for name in MOST] + [(name, "last") for name in ("fgsm", "pgd", "mi-fgsm")]
)
def test_order_batch_size_and_resume_do_not_matter(name: str, verdict: str | None, evaluator: Evaluator) -> None:
    entry = registry.find(name)
    again_and_again = {} if "restarts" in entry.fixed or not entry.kernel else {"restarts": 2}
    spec = quick(name, SOME, verdict=verdict, **again_and_again)
    whole = outcomes(evaluator, spec, range(48))
    shuffled = outcomes(evaluator, spec, np.random.default_rng(0).permutation(48))
    assert verdicts(shuffled) == verdicts(whole)
    for slots in (11,):
        other = Evaluator(evaluator.classifier, evaluator.examples, slots=slots)
        again = outcomes(other, spec, range(48))
        assert verdicts(again) == verdicts(whole)
    # Stop in the middle, then do the rest with a fresh evaluator, as a resumed job does.
    first: dict[int, Outcome] = {}

    def enough() -> bool:
        return len(first) > 8

    few = Evaluator(evaluator.classifier, evaluator.examples, slots=4)
    for batch in few.run(spec, list(range(48)), stop=enough):
        first.update({o.example: o for o in batch})
    assert 0 < len(first) < 48
    rest = outcomes(
        Evaluator(evaluator.classifier, evaluator.examples, slots=32), spec, [i for i in range(48) if i not in first]
    )
    assert verdicts({**first, **rest}) == verdicts(whole)


def test_seed_decides_the_random_start_and_nothing_else_does(evaluator: Evaluator) -> None:
    def distances(seed: int, **settings: object) -> list[float | None]:
        spec = attack("f-fgsm", eps="8/255", seed=seed, **settings)
        return [o.margin for _, o in sorted(outcomes(evaluator, spec, range(50)).items())]

    torch.manual_seed(1)
    one = distances(0)
    torch.manual_seed(2)
    assert distances(0) == one
    assert distances(1) != one


@pytest.mark.parametrize("name", MOST)
def test_no_side_effects(name: str, evaluator: Evaluator) -> None:
    model = evaluator.classifier
    model.train()
    model.network.bn1.eval()
    some = next(iter(model.parameters()))
    some.requires_grad_(False)
    modes = [m.training for m in model.modules()]
    wants = [p.requires_grad for p in model.parameters()]
    buffers = buffers_digest(model)
    random_state = torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    outcomes(evaluator, quick(name, SOME), range(40))
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wants
    assert all(p.grad is None for p in model.parameters())
    assert buffers_digest(model) == buffers
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize("name", MOST)
def test_normalisation_inside_the_model_equals_a_hand_normalised_twin(name: str, evaluator: Evaluator) -> None:
    mean, std = 0.3048, 0.3755

    class Twin(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.network((x - mean) / std)
            return out

    twin = Evaluator(
        classifier_of(Twin(evaluator.classifier.network), classes=10), evaluator.examples, slots=evaluator.slots
    )
    spec = quick(name, SOME)
    ours, theirs = outcomes(evaluator, spec, range(48)), outcomes(twin, spec, range(48))
    # An attack that follows the border closely may round to the other side of it.
    assert len(robust(ours) ^ robust(theirs)) <= 1


def test_threat_space_of_the_public_code_differs_and_is_reproduced(evaluator: Evaluator) -> None:
    """normalized-clamped: eps on the normalised tensor, clamped to [0, 1], written out by hand here."""
    spec = attack("fgsm", threat_space="normalized-clamped")
    found = outcomes(evaluator, spec, range(100))
    network, images = evaluator.classifier.network.eval(), torch.from_numpy(evaluator.examples.images[:100])
    labels = torch.from_numpy(evaluator.examples.labels[:100])
    z = ((images - 0.3048) / 0.3755).requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(network(z), labels, reduction="sum"), z)
    with torch.no_grad():
        adversarial = network((z + 8 / 255 * gradient.sign()).clamp(0, 1)).argmax(1)
    for index, outcome in found.items():
        if outcome.clean_correct:
            assert outcome.adversarial_prediction == adversarial[index]
    assert robust(found) != robust(outcomes(evaluator, attack("fgsm"), range(100)))


def test_random_start_is_uniform_in_the_ball_and_clamped() -> None:
    clean = torch.full((400, 1, 8, 8), 0.05)
    start = registry.kernel(attack("pgd", eps="0.1")).start(block(clean))
    offset = (start - clean).flatten().double()
    assert offset.max() <= 0.1 + 1e-7
    assert start.min() == 0, "half of the downward noise leaves the box and is clamped"
    inside = offset[offset > -0.05 + 1e-6]
    # Kolmogorov-Smirnov against U(-0.05, 0.1).
    ranks = torch.sort(inside).values
    expected = (ranks + 0.05) / 0.15
    empirical = torch.arange(1, len(ranks) + 1, dtype=torch.float64) / len(ranks)
    assert (expected - empirical).abs().max() < 1.63 / math.sqrt(len(ranks))


@settings(max_examples=60, deadline=None)
@given(
    logits=st.integers(1, 12).flatmap(
        lambda classes: st.lists(st.lists(st.integers(-2, 2), min_size=classes, max_size=classes), min_size=1)
    ),
    data=st.data(),
)
def test_rank_is_the_place_in_the_order_that_argmax_begins(logits: list[list[int]], data: st.DataObject) -> None:
    """Whole numbers from a small range: most rows have ties, which the lower class wins."""
    labels = [data.draw(st.integers(0, len(row) - 1)) for row in logits]
    expected = [
        1 + sorted(range(len(row)), key=lambda k, row=row: (-row[k], k)).index(label)  # type: ignore[misc]
        for row, label in zip(logits, labels, strict=True)
    ]
    z, y = torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)
    assert ranks(z, y).tolist() == expected
    assert ((ranks(z, y) == 1) == (z.argmax(1) == y)).all()


def many_classes() -> tuple[Linear, Tensor, Tensor]:
    """A linear model of 30 classes with labels anywhere in its ten best classes."""
    network, images, best = linear_problem(5, 120, 16, 30)
    order = network(images).topk(10).indices
    labels = order.gather(1, torch.randint(0, 10, (120, 1), generator=torch.Generator().manual_seed(0))).squeeze(1)
    assert 5 < int((labels == best).sum()) < 60
    return network, images, labels


def in_top(k: int, logits: Tensor, labels: Tensor) -> list[bool]:
    found: list[bool] = (logits.topk(k).indices == labels[:, None]).any(1).tolist()
    return found


@pytest.mark.parametrize("slots", [7, 64])
def test_ranks_of_an_evaluation_are_those_of_topk(slots: int) -> None:
    """FGSM to its end, written out by hand here."""
    network, images, labels = many_classes()
    evaluator = Evaluator(classifier_of(network, classes=30), examples_of(images, labels, 30), slots=slots)
    found = outcomes(evaluator, attack("fgsm", eps="2/255", verdict="last"), range(120))
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(network(x), labels, reduction="sum"), x)
    with torch.no_grad():
        clean, attacked = network(images), network((images + 2 / 255 * gradient.sign()).clamp(0, 1))
    for k in (1, 5, 10):
        assert [found[i].clean_rank <= k for i in range(120)] == in_top(k, clean, labels)  # type: ignore[operator]
        assert [found[i].rank <= k for i in range(120)] == in_top(k, attacked, labels)  # type: ignore[operator]
    robust_5 = {i for i, o in found.items() if o.clean_rank <= 5 and o.rank <= 5}  # type: ignore[operator]
    assert robust(found) < robust_5 < set(range(120))


@pytest.mark.parametrize("name", LAST)
@pytest.mark.parametrize("verdict", ["worst", "last"])
def test_rank_1_is_the_prediction_and_what_is_not_attacked_keeps_its_rank(name: str, verdict: str) -> None:
    network, images, labels = many_classes()
    evaluator = Evaluator(classifier_of(network, classes=30), examples_of(images, labels, 30), slots=16)
    found = outcomes(evaluator, quick(name, 4 / 255, verdict=verdict, shape=(1, 1, 16)), range(120))
    for outcome in found.values():
        assert (outcome.clean_rank == 1) == outcome.clean_correct
        assert (outcome.rank == 1) == (outcome.adversarial_prediction == outcome.label)
        if verdict == "worst" and not outcome.clean_correct:
            assert outcome.rank == outcome.clean_rank
    moved = sum(o.rank != o.clean_rank for o in found.values() if not o.clean_correct)
    assert (moved > 5) == (verdict == "last")


class TestModelsThatMisbehave:
    """Right verdict or a clear refusal, never a silent number."""

    def evaluate(self, network: nn.Module, *, classes: int = 10, spec: AttackSpec | None = None) -> dict[int, object]:
        evaluator = Evaluator(classifier_of(network, classes=classes), datasets.load("digits", "test"), slots=16)
        evaluator.check(list(range(32)))
        return outcomes(evaluator, spec or attack("pgd", steps=3), range(32))

    def test_tuple_and_dict_outputs_are_understood(self) -> None:
        base = Linear(torch.randn(10, 64), torch.zeros(10))

        class Wrapped(nn.Module):
            def __init__(self, wrap: object) -> None:
                super().__init__()
                self.base = base
                self.wrap = wrap

            def forward(self, x: Tensor) -> object:
                return self.wrap(self.base(x))  # type: ignore[operator]

        plain = self.evaluate(base)
        assert self.evaluate(Wrapped(lambda z: (z, None))) == plain
        assert self.evaluate(Wrapped(lambda z: {"logits": z})) == plain
        with pytest.raises(EvaluationError, match="no logits were recognised"):
            self.evaluate(Wrapped(lambda z: "cat"))
        with pytest.raises(EvaluationError, match="expected"):
            self.evaluate(Wrapped(lambda z: z[:, :4]))

    def test_wrong_number_of_classes_is_refused(self) -> None:
        with pytest.raises(EvaluationError, match="4 classes"):
            self.evaluate(Linear(torch.randn(4, 64), torch.zeros(4)), classes=4)

    def test_non_finite_logits_are_counted_apart(self) -> None:
        class Breaks(nn.Module):
            """NaN for images whose first pixel row sums high, under attack or not."""

            def __init__(self) -> None:
                super().__init__()
                self.base = Linear(torch.randn(10, 64), torch.zeros(10))

            def forward(self, x: Tensor) -> Tensor:
                z: Tensor = self.base(x)
                return torch.where((x.flatten(1).mean(1) > 0.31)[:, None], torch.full_like(z, math.nan), z)

        found = self.evaluate(Breaks())
        errors = {i for i, o in found.items() if o.error}  # type: ignore[attr-defined]
        assert errors
        assert len(errors) < 32
        assert all(found[i].robust is None for i in errors)  # type: ignore[attr-defined]
        means = datasets.load("digits", "test").images[:32].reshape(32, -1).mean(1)
        assert {i for i in range(32) if means[i] > 0.31} <= errors
        assert {i for i, o in found.items() if o.rank is None} == errors  # type: ignore[attr-defined]
        unattacked = {i for i, o in found.items() if o.clean_rank is None}  # type: ignore[attr-defined]
        assert unattacked == {i for i in range(32) if means[i] > 0.31}

    def test_model_that_changes_its_statistics_is_refused(self) -> None:
        class Cheats(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.base = Linear(torch.randn(10, 64), torch.zeros(10))
                self.register_buffer("seen", torch.zeros(1))

            def forward(self, x: Tensor) -> Tensor:
                self.seen += 1
                out: Tensor = self.base(x)
                return out

        with pytest.raises(EvaluationError, match="changed its own buffers"):
            self.evaluate(Cheats())

    def test_randomised_model_and_probabilities_are_warned_about(self) -> None:
        class Noisy(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.flatten(1)[:, :10] + torch.randn(len(x), 10)

        class Probabilities(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.flatten(1)[:, 10:20].softmax(1)

        for network, word in ((Noisy(), "randomised"), (Probabilities(), "probabilities")):
            evaluator = Evaluator(classifier_of(network, classes=10), datasets.load("digits", "test"))
            evaluator.check(list(range(20)))
            assert word in evaluator.warnings[0]

    def test_zero_gradients_are_counted(self) -> None:
        class Flat(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return (x.flatten(1)[:, :10] * 0).round() + x.flatten(1)[:, 20:30].detach()

        found = self.evaluate(Flat(), spec=attack("pgd", steps=3))
        attacked = [o for o in found.values() if o.backwards]  # type: ignore[attr-defined]
        assert attacked
        assert all(o.zero_gradient_steps == o.backwards for o in attacked)  # type: ignore[attr-defined]

    def test_all_misclassified(self) -> None:
        class Wrong(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.eye(10)[torch.zeros(len(x), dtype=torch.long)] + 0 * x.flatten(1)[:, :10]

        found = self.evaluate(Wrong())
        labels = datasets.load("digits", "test").labels[:32]
        assert robust(found) == {i for i in range(32) if labels[i] == 0}  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "norm"), EVERY)
@pytest.mark.parametrize(("shape", "classes"), [((1, 4, 4), 2), ((3, 5, 9), 3), ((1, 2, 11), 12)])
def test_small_and_non_square_images(shape: tuple[int, int, int], classes: int, name: str, norm: str) -> None:
    """No crash, and every example judged: none broken that no perturbation can break."""
    channels, pixels = shape[0], math.prod(shape)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(16, *shape, generator=generator)
    network = Linear(torch.randn(classes, pixels, generator=generator), torch.zeros(classes))
    preprocessing = Preprocessing((0.5,) * channels, (0.2,) * channels)
    with torch.no_grad():
        labels = network((images - 0.5) / 0.2).argmax(1)
    evaluator = Evaluator(Classifier(network, preprocessing, classes), examples_of(images, labels, classes))
    spec = quick(name, 0.08, shape=shape, norm=norm)
    found = outcomes(evaluator, spec, range(16))
    assert sorted(found) == list(range(16))
    assert all(o.error is None and o.clean_correct for o in found.values())
    exact = exact_distances(network, (images - 0.5) / 0.2, labels, norm) * 0.2
    safe = {i for i in range(16) if exact[i] > spec.eps.value * (1 + 1e-4)}
    assert safe <= robust(found)
    if not name.startswith("noise"):
        assert len(robust(found)) < 16


def test_out_of_memory_halves_the_slots_and_loses_nothing(evaluator: Evaluator) -> None:
    spec = attack("pgd", eps="12/255")
    whole = outcomes(evaluator, spec, range(100))

    class Hungry(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if len(x) > 16 and self.calls > 6:
                raise torch.OutOfMemoryError("CUDA out of memory")
            out: Tensor = self.network(x)
            return out

    hungry = Classifier(Hungry(evaluator.classifier.network), Preprocessing((0.3048,), (0.3755,)), 10)
    other = Evaluator(hungry, evaluator.examples, slots=64)
    found = outcomes(other, spec, range(100))
    assert other.slots == 16
    assert robust(found) == robust(whole)
