"""Ensembles as networks: what every rule computes, its gradients, and attacks on it."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from models import counting
from models.architectures import registry
from models.architectures.cells import CellNetwork
from models.attacks.forwarding import Forwarding, Plan
from models.attacks.slots import Outcome
from models.classifier import Classifier
from models.datasets import registry as datasets
from models.ensembles import composition, gradients, network
from models.ensembles.composition import Member
from models.ensembles.network import COMBINATIONS, Ensemble, JointEnsemble
from models.errors import EvaluationError, InvalidSpec
from models.evaluation import EXACT, Evaluator
from models.specs import Preprocessing, Surrogate, digest
from tests.models.ensembles_support import DIGITS, RULES, ensemble, few_digits, learned_digits, logits_of, small
from tests.models.test_against_references import needs, same_start, step_of
from tests.support import Linear, attack, examples_of, outcomes, robust

N = 120
JOINT = ("features-mean", "features-concat")
FIRST = Preprocessing((0.5,), (0.25,))
SECOND = Preprocessing((0.1,), (2.0,))


def build(text: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    spec = registry.parse_architecture(text, {k: str(v) for k, v in options.items()})
    return registry.build(spec, num_classes=10, in_channels=1)


@pytest.fixture(scope="module")
def trained_members() -> list[nn.Module]:
    torch.set_num_threads(1)
    return [learned_digits(seed) for seed in range(3)]


def evaluator(net: nn.Module, **more: object) -> Evaluator:
    return Evaluator(Classifier(net, DIGITS, 10), datasets.load("digits", "test"), slots=64, **more)  # type: ignore[arg-type]


# -- rules -------------------------------------------------------------------------------------------------------------

halves = st.integers(-8, 8).map(lambda v: v / 2)
extreme = st.one_of(halves, st.floats(-1e4, 1e4))


@st.composite
def member_logits(draw: st.DrawFn, values: st.SearchStrategy[float] = halves) -> Tensor:
    """Logits (M, N, K), float64; halves make ties likely."""
    m, n, k = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(2, 5))
    flat = draw(st.lists(values, min_size=m * n * k, max_size=m * n * k))
    return torch.tensor(flat, dtype=torch.float64).view(m, n, k)


def exact_mean_of_probabilities(logits: Tensor) -> list[list[Decimal]]:
    """The logarithm of the mean of softmax with fifty digits, (N, K)."""
    m, n, k = logits.shape
    with localcontext(prec=50):
        found = []
        for example in range(n):
            rows = [[Decimal(v).exp() for v in logits[i, example].tolist()] for i in range(m)]
            probabilities = [[v / sum(row) for v in row] for row in rows]
            found.append([(sum((p[c] for p in probabilities), Decimal(0)) / m).ln() for c in range(k)])
    return found


@settings(max_examples=60, deadline=None)
@given(member_logits(extreme))
def test_mean_of_probabilities_is_the_logarithm_of_the_mean_of_softmax(logits: Tensor) -> None:
    """Also where every probability underflows: nothing does here."""
    logits.requires_grad_()
    scores = network.mean_probabilities(logits)
    for ours, exact in zip(
        scores.flatten().tolist(), itertools.chain(*exact_mean_of_probabilities(logits.detach())), strict=True
    ):
        assert ours == pytest.approx(float(exact), rel=1e-9, abs=1e-9)
    (gradient,) = torch.autograd.grad(F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long)), logits)
    assert torch.isfinite(gradient).all()
    single = network.mean_probabilities(logits.detach().float())
    assert torch.isfinite(single).all()
    assert torch.allclose(single.double(), scores, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(member_logits())
def test_mean_of_log_probabilities_decides_and_leads_as_the_mean_of_logits(logits: Tensor) -> None:
    labels = torch.zeros(logits.shape[1], dtype=torch.long)
    found = []
    for rule in ("log-mean", "mean-logits"):
        x = logits.clone().requires_grad_()
        scores = COMBINATIONS[rule](x)
        (gradient,) = torch.autograd.grad(F.cross_entropy(scores, labels), x)
        found.append((scores.softmax(1), gradient))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-12)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-12)
    by_hand = torch.stack([member.log_softmax(1) for member in logits]).sum(0) / len(logits)
    assert torch.allclose(COMBINATIONS["log-mean"](logits), by_hand)
    assert torch.allclose(COMBINATIONS["mean-logits"](logits), sum(logits) / len(logits))  # type: ignore[arg-type]


def winners(logits: Tensor, example: int) -> set[int]:
    """Who wins a vote, counted by hand: the classes with the most votes, of these those of the greatest probability."""
    rows = [member[example].tolist() for member in logits]
    votes = Counter(row.index(max(row)) for row in rows)
    most = [c for c, n in votes.items() if n == max(votes.values())]
    softmax = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in rows]
    means = {c: math.fsum(p[c] for p in softmax) for c in most}
    return {c for c in most if means[c] > max(means.values()) - 1e-12}


@settings(max_examples=150, deadline=None)
@given(member_logits())
def test_majority_is_a_count_of_votes(logits: Tensor) -> None:
    scores, means = network.majority(logits), network.mean_probabilities(logits)
    for example, row in enumerate(scores):
        winner = int(row.argmax())
        assert winner in winners(logits, example)
        assert bool((row[winner] > row[torch.arange(len(row)) != winner]).all()) or torch.equal(row, means[example])
        losers = torch.arange(len(row)) != winner
        assert torch.equal(row[losers], means[example][losers]), "only the winner is lifted"
        if int(means[example].argmax()) == winner:
            assert torch.equal(row, means[example])


@settings(max_examples=60, deadline=None)
@given(member_logits(), st.integers(0, 2**30))
def test_scores_of_a_vote_lead_as_the_mean_of_probabilities(logits: Tensor, seed: int) -> None:
    weights = torch.rand(logits.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = []
    for rule in (network.majority, network.mean_probabilities):
        x = logits.clone().requires_grad_()
        found.append(torch.autograd.grad((rule(x) * weights).sum(), x)[0])
    assert torch.equal(found[0], found[1])


def test_votes_that_are_equal_in_all_go_to_the_first_class_and_two_against_one_wins() -> None:
    tie = torch.tensor([[[0.0, 2.0, 1.0]], [[0.0, 1.0, 2.0]]])
    assert network.majority(tie).argmax(1).tolist() == [1]
    # Two members are barely for class 0, one is certain of class 1: the mean says 1, the vote 0.
    outvoted = torch.tensor([[[0.1, 0.0]], [[0.1, 0.0]], [[-9.0, 9.0]]])
    assert network.mean_probabilities(outvoted).argmax(1).tolist() == [1]
    scores = network.majority(outvoted)
    assert scores.argmax(1).tolist() == [0]
    assert float(scores[0, 0] - scores[0, 1]) == pytest.approx(network.LIFT, rel=1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_a_member_without_finite_logits_is_never_outvoted(rule: str) -> None:
    """Such examples are errors of the evaluation, as those of a single network are."""

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x.flatten(1).sum(1, keepdim=True) > 20, torch.nan, 0.0).expand(-1, 10)

    images = torch.cat([torch.zeros(3, 1, 8, 8), torch.ones(3, 1, 8, 8)])
    net = ensemble([small(0), Broken(), small(1)], rule)
    pixels = Classifier(net, Preprocessing((0.0,), (1.0,)), 10)
    logits = logits_of(pixels, images)
    assert torch.isfinite(logits[:3]).all()
    assert torch.isnan(logits[3:]).all(1).all()
    judge = Evaluator(pixels, examples_of(images, torch.zeros(6, dtype=torch.long), 10), slots=8)
    found = outcomes(judge, attack("fgsm", eps="1/255"), range(6))
    assert [found[i].error is not None for i in range(6)] == [False] * 3 + [True] * 3


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_every_member_normalises_as_it_does_alone(rule: str) -> None:
    """Three members that normalise in three ways, behind nothing: computed by hand."""
    members = [small(seed).eval() for seed in range(3)]
    third = Preprocessing((0.0,), (0.5,))
    net = ensemble(members, rule, [FIRST, SECOND, third])
    x = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        by_hand = torch.stack([members[0]((x - 0.5) / 0.25), members[1]((x - 0.1) / 2.0), members[2](x / 0.5)])
        assert torch.allclose(net.logits_of_members(x), by_hand, atol=1e-6)
        assert torch.allclose(net(x), COMBINATIONS[rule](by_hand), atol=1e-6)
        assert not torch.allclose(net(x), ensemble(members, rule, [FIRST, FIRST, FIRST])(x), atol=1e-3)


def test_constants_of_normalisations_are_no_weights() -> None:
    """They are part of the architecture: the tensors of a member are its own, under its place."""
    net = ensemble([small(0), small(1)], "mean-logits", [FIRST, SECOND])
    assert {key.rsplit(".", 2)[0] for key in net.state_dict()} == {"members.0", "members.1"}
    assert {
        k.removeprefix("members.1."): v.shape for k, v in net.state_dict().items() if k.startswith("members.1.")
    } == {k: v.shape for k, v in small(1).state_dict().items()}


def test_members_and_combiner_are_counted_together() -> None:
    spec = registry.parse_architecture("nasbench201-ensemble-7@cells=2-1,init_channels=2,combine=learned,width=5")
    parts = [
        counting.of_network(registry.build(member.spec, num_classes=10, in_channels=1), (1, 8, 8))
        for member in composition.of(spec).members
    ]
    params, macs = counting.of_network(registry.build(spec, num_classes=10, in_channels=1), (1, 8, 8))
    combiner = (20 * 5 + 5) + 2 * (2 * 5) + (5 * 5 + 5) + (5 * 10 + 10)
    assert params == sum(p for p, _ in parts) + combiner
    assert macs is not None
    assert macs == sum(m or 0 for _, m in parts) + 20 * 5 + 5 * 5 + 5 * 10


def test_what_a_member_returns_beside_its_logits_is_left_out() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return x.flatten(1)[:, :10], None

    x = torch.rand(2, 1, 8, 8)
    assert torch.allclose(ensemble([Pair(), Pair()], "mean-logits")(x), x.flatten(1)[:, :10])


def test_members_of_a_learned_combiner_stand_still_in_training() -> None:
    learned, plain = ensemble([small(0), small(1)], "learned"), ensemble([small(0), small(1)], "mean-logits")
    learned.train()
    assert learned.training
    assert learned.combiner is not None
    assert learned.combiner.training
    assert not any(module.training for module in learned.members.modules())
    assert all(module.training for module in plain.train().members.modules())


def test_a_learned_combiner_is_two_layers_with_batchnorm_and_a_classifier_over_the_logits() -> None:
    net = ensemble([small(0), small(1), small(2)], "learned", width=6)
    assert isinstance(net.combiner, nn.Sequential)
    assert [type(layer).__name__ for layer in net.combiner] == [
        *("Linear", "BatchNorm1d", "ReLU") * 2,
        "Linear",
    ]
    assert [(m.in_features, m.out_features) for m in net.combiner if isinstance(m, nn.Linear)] == [
        (30, 6),
        (6, 6),
        (6, 10),
    ]
    x = torch.rand(3, 1, 8, 8)
    beside = torch.cat([member(x) for member in net.members], 1)
    assert torch.allclose(net(x), net.combiner(beside))


def _functional(
    net: nn.Module, name: str, x: Tensor, labels: Tensor
) -> tuple[Callable[[Tensor, Tensor], Tensor], tuple[Tensor, Tensor]]:
    def loss(image: Tensor, weight: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(net, {name: weight}, (image,)), labels)

    return loss, (x.clone().requires_grad_(), net.get_parameter(name).detach().clone().requires_grad_())


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        *((rule, "members.1.0.weight") for rule in (*RULES, "learned")),
        ("learned", "combiner.0.weight"),
        ("learned", "combiner.4.weight"),
        ("features-mean", "members.1.stem.0.weight"),
        ("features-mean", "classifier.weight"),
        ("features-concat", "members.1.stem.0.weight"),
        ("features-concat", "mixer.weight"),
    ],
)
def test_gradients_equal_finite_differences(rule: str, name: str) -> None:
    """In float64, with respect to the image and to weights of members and combiners."""
    if rule in JOINT:
        net = build("darts-ensemble-7", cells="2-2", init_channels=2, combine=rule)
    else:
        net = ensemble([small(seed, smooth=True) for seed in range(3)], rule)
    net = net.double().eval()
    torch.manual_seed(2)
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    if rule == "majority":
        # Where the vote and the mean agree; elsewhere the scores jump, and lead as the mean does.
        x = torch.rand(40, 1, 8, 8, dtype=torch.float64)
        with torch.no_grad():
            assert isinstance(net, Ensemble)
            votes = net(x).argmax(1) == network.mean_probabilities(net.logits_of_members(x)).argmax(1)
        x = x[votes][:3]
        assert len(x) == 3
    loss, inputs = _functional(net, name, x, torch.tensor([0, 3, 9]))
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-7, rtol=1e-4, fast_mode=True)
    image, weight = torch.autograd.grad(loss(*inputs), inputs)
    assert float(image.abs().max()) > 0
    assert float(weight.abs().max()) > 0


# -- trained together --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", JOINT)
def test_last_feature_maps_are_joined_before_one_classifier(rule: str) -> None:
    net = build("darts-ensemble-7", cells="2-2", init_channels=2, combine=rule).eval()
    assert isinstance(net, JointEnsemble)
    x = torch.rand(3, 1, 8, 8)
    maps = []
    with torch.no_grad():
        for member in net.members:
            assert isinstance(member, CellNetwork)
            seen: list[Tensor] = []
            hook = member.cells[-1].register_forward_hook(lambda module, args, out, seen=seen: seen.append(out))
            member(x)
            hook.remove()
            maps.append(seen[0])
        joined = (maps[0] + maps[1]) / 2
        if rule == "features-concat":
            assert net.mixer is not None
            weight = net.mixer.weight[:, :, 0, 0]
            joined = torch.einsum("oc,nchw->nohw", weight, torch.cat(maps, 1))
        by_hand = F.linear(joined.mean((2, 3)), net.classifier.weight, net.classifier.bias)
        assert torch.allclose(net(x), by_hand, atol=1e-5)
    assert not any(key.startswith("members.") and "classifier" in key for key in net.state_dict())


@pytest.mark.parametrize("rule", JOINT)
def test_what_is_trained_together_learns(rule: str) -> None:
    net = build("darts-ensemble-7", cells="2-2", init_channels=2, combine=rule).train()
    examples = few_digits(64)
    images, labels = torch.from_numpy(examples.images.copy()), torch.from_numpy(examples.labels)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        assert all(p.grad is not None and bool((p.grad != 0).any()) for p in net.parameters() if p.ndim == 2)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    found = outcomes(evaluator(net.eval()), attack("fgsm", eps="8/255"), range(20))
    assert len(found) == 20


def test_members_that_are_trained_together_begin_differently() -> None:
    """Kaiming normal, Xavier normal, Kaiming uniform, and from the start again."""
    torch.manual_seed(0)
    copies = "-".join(["2"] * 4)
    net = build("darts-ensemble-7", cells=copies, init_channels=16, combine="features-mean")
    shares: list[list[float]] = []
    assert isinstance(net, JointEnsemble)
    for member in net.members:
        convolutions = [m.weight for m in member.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() >= 1024]
        kaiming, xavier, largest = [], [], []
        for weight in convolutions:
            fan_in, fan_out = weight[0].numel(), weight.shape[0] * weight[0, 0].numel()
            kaiming.append(float(weight.detach().std()) / math.sqrt(2 / fan_in))
            xavier.append(float(weight.detach().std()) / math.sqrt(2 / (fan_in + fan_out)))
            largest.append(float(weight.detach().abs().max()) / math.sqrt(6 / fan_in))
        shares.append([sum(kaiming) / len(kaiming), sum(xavier) / len(xavier), max(largest)])
        assert len(convolutions) >= 3
    for position in (0, 3):
        assert shares[position][0] == pytest.approx(1, abs=0.05)
        assert shares[position][2] > 1.2, "a normal distribution has tails"
    assert shares[1][1] == pytest.approx(1, abs=0.05)
    assert shares[1][0] != pytest.approx(1, abs=0.05)
    assert shares[2][0] == pytest.approx(1, abs=0.05)
    assert shares[2][2] <= 1, "a uniform one has none"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("darts-ensemble-7@cells=2-1,init_channels=2,combine=features-mean", "maps of one shape; they have 16, 32"),
        ("nasbench201-ensemble-7@cells=1-1,init_channels=2,combine=features-concat", "is one of mean-logits"),
    ],
)
def test_maps_that_cannot_be_joined_are_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidSpec, match=says):
        build(text)


def test_maps_of_other_sizes_and_normalisations_of_its_own_are_refused(home: object) -> None:
    cells = [Member("darts@init_channels=2,layers=3"), Member("darts@init_channels=2,layers=3,form=imagenet")]
    net = network.build(composition.Composition(tuple(cells), "features-mean", 64), num_classes=10, in_channels=1)
    with pytest.raises(EvaluationError, match="one shape, not"):
        net.eval()(torch.rand(1, 1, 224, 224))
    own = composition.Composition((replace(cells[0], preprocessing=FIRST), cells[0]), "features-mean", 64)
    with pytest.raises(InvalidSpec, match="normalised alike"):
        network.build(own, num_classes=10, in_channels=1)
    other = Member(cells[0].architecture, Preprocessing((0.5,) * 3, (0.5,) * 3))
    with pytest.raises(InvalidSpec, match="3 channels and the images have 1"):
        network.build(composition.Composition((cells[0], other), "majority", 64), num_classes=10, in_channels=1)


# -- attacks -----------------------------------------------------------------------------------------------------------


def same_but_for_rounding(a: dict[int, Outcome], b: dict[int, Outcome]) -> None:
    """Verdicts, steps and predictions are equal, but for examples that stand on the border.

    Margins need not be: where the network is sure, 1 - p has few digits left in float32, so that a gradient close to
    zero may have another sign.
    """
    borderline = {i for i in a if abs(a[i].margin or 0) < 1e-4}
    assert len(borderline) < 4
    for i in set(a) - borderline:
        for name in ("robust", "broken_at_step", "clean_prediction", "adversarial_prediction", "forwards", "backwards"):
            assert getattr(a[i], name) == getattr(b[i], name), (i, name)


@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "fgsm"])
@pytest.mark.parametrize("rule", RULES)
def test_attacking_copies_equals_attacking_one(name: str, rule: str, trained_members: list[nn.Module]) -> None:
    """The mean of the logits of 2 or 4 equal networks is their logits, bit for bit, and so is every outcome.

    The other rules return their logits less log of the sum of exp, which softmax, the cross-entropy and differences of
    logits do not see: equal in exact arithmetic, and here but for the examples that rounding can turn over. A learned
    combiner is a function of its own and trained parts share nothing, so for these nothing of the kind holds.
    """
    spec = attack(name, eps="8/255", **({} if name == "fgsm" else {"steps": 8}))
    net = trained_members[0]
    alone = outcomes(evaluator(net), spec, range(N))
    assert 10 < len(robust(alone)) < 110
    for copies in (2, 4):
        found = outcomes(evaluator(ensemble([copy.deepcopy(net) for _ in range(copies)], rule)), spec, range(N))
        if rule == "mean-logits":
            assert found == alone
        else:
            same_but_for_rounding(alone, found)


@pytest.mark.parametrize("rule", ["mean-logits", "majority"])
def test_attacking_copies_in_the_normalised_threat_space_equals_attacking_one(
    rule: str, trained_members: list[nn.Module]
) -> None:
    spec = attack("pgd", eps="16/255", steps=5, threat_space="normalized-clamped")
    net = trained_members[0]
    alone = outcomes(evaluator(net), spec, range(60))
    found = outcomes(evaluator(ensemble([net, copy.deepcopy(net)], rule)), spec, range(60))
    same_but_for_rounding(alone, found)
    pixels = outcomes(evaluator(net), replace(spec, threat_space="pixel"), range(60))
    assert robust(alone) != robust(pixels), "the two spaces are not the same"


def test_with_normalisations_of_their_own_the_normalised_space_is_that_of_pixels(
    trained_members: list[nn.Module],
) -> None:
    """What stands before such an ensemble does nothing, so the tensor it clamps is the image."""
    net = ensemble(trained_members, "mean-probs", [DIGITS, FIRST, DIGITS])
    judge = Evaluator(Classifier(net, Preprocessing((0.0,), (1.0,)), 10), datasets.load("digits", "test"), slots=64)
    spec = attack("pgd", eps="8/255", steps=4)
    other = replace(spec, threat_space="normalized-clamped")
    assert outcomes(judge, spec, range(40)) == outcomes(judge, other, range(40))


@needs["torchattacks"]
@pytest.mark.parametrize("eps", ["4/255", "12/255"])
def test_robust_accuracy_equals_that_of_torchattacks(
    eps: str, trained_members: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PGD on the mean of three networks' logits, from the same start, judged at its last iterate."""
    import torchattacks

    spec = attack("pgd", eps=eps, verdict="last")
    ours = evaluator(ensemble(trained_members, "mean-logits"))
    found = outcomes(ours, spec, range(N))
    x = torch.from_numpy(ours.examples.images[:N])
    y = torch.from_numpy(ours.examples.labels[:N])
    # The reference starts from a draw for the whole batch, which is numbered from the first example on.
    import tests.models.test_against_references as references

    monkeypatch.setattr(references, "N", N)
    same_start(monkeypatch, spec)
    theirs = torchattacks.PGD(
        ours.classifier.eval(), eps=spec.eps.value, alpha=step_of(spec), steps=spec.steps, random_start=True
    )(x, y)
    predictions = logits_of(ours.classifier, theirs).argmax(1).tolist()
    borderline = {i for i in range(N) if abs(found[i].margin or 0) < 1e-4}
    assert len(borderline) < 3
    for i in set(range(N)) - borderline:
        assert found[i].adversarial_prediction == predictions[i], i
        assert found[i].robust == (predictions[i] == int(y[i]) == found[i].clean_prediction), i
    assert 3 < len(robust(found)) < N - 3


@pytest.mark.parametrize("rule", [*RULES, "learned"])
@pytest.mark.parametrize("plan", [Plan(fold=True), Plan(channels_last=True)], ids=str)
def test_another_way_to_compute_keeps_the_logits(rule: str, plan: Plan) -> None:
    torch.manual_seed(0)
    net = build("darts-ensemble-3", cells="1-2-1", init_channels=2, combine=rule)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.normal_()
    classifier = Classifier(net, DIGITS, 10).eval()
    before = {k: v.clone() for k, v in classifier.state_dict().items()}
    x = torch.rand(6, 1, 8, 8)
    changed = Forwarding(classifier, plan, 6)
    with torch.no_grad():
        assert torch.allclose(changed.forward(x), classifier(x), atol=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in classifier.state_dict().items())
    # A BatchNorm after a pooling has no convolution to be folded into.
    left, all_of = (
        sum(isinstance(m, nn.BatchNorm2d) for m in c.network.modules()) for c in (changed._classifier, classifier)
    )
    assert left < 0.5 * all_of if plan.fold else left == all_of


def test_folding_what_is_trained_together_is_refused_in_a_sentence() -> None:
    joint = build("darts-ensemble-7", cells="2-2", init_channels=2, combine="features-mean")
    with pytest.raises(EvaluationError, match="--fold off"):
        Forwarding(Classifier(joint, DIGITS, 10).eval(), Plan(fold=True), 2)


def test_a_folded_ensemble_gives_the_same_verdicts(trained_members: list[nn.Module]) -> None:
    net = ensemble(trained_members, "mean-probs")
    spec = attack("pgd", eps="8/255", steps=5)
    plain = outcomes(evaluator(net), spec, range(60))
    folded = outcomes(evaluator(net, speed=replace(EXACT, fold="on")), spec, range(60))
    borderline = {i for i in plain if abs(plain[i].margin or 0) < 1e-4}
    assert robust(plain) - borderline == robust(folded) - borderline


def test_a_vote_says_that_its_number_may_be_too_high() -> None:
    for rule in RULES:
        judge = evaluator(ensemble([small(0), small(1)], rule))
        judge.check(range(8))
        assert [("majority vote" in w and "square" in w) for w in judge.warnings] == [True] * (rule == "majority")


def test_where_vote_and_mean_differ_the_cross_entropy_is_that_of_the_lifted_scores() -> None:
    """Two members vote for the first class, the third is sure of the second: the scores of both keep their gradients,
    and the loss weighs them as the vote has them.
    """
    logits = torch.tensor([[[1.0, 0.5]], [[1.0, 0.5]], [[-9.0, 9.0]]], requires_grad=True)
    scores = network.majority(logits)
    mean = network.mean_probabilities(logits)
    assert (int(scores.argmax()), int(mean.argmax())) == (0, 1)
    label = torch.tensor([0])
    ours, of_mean = (
        torch.autograd.grad(torch.nn.functional.cross_entropy(found, label), logits, retain_graph=True)[0]
        for found in (scores, mean)
    )
    by_hand = sum(
        (float(weight) - (k == 0)) * torch.autograd.grad(mean[0, k], logits, retain_graph=True)[0]
        for k, weight in enumerate(scores.detach().softmax(1)[0])
    )
    assert isinstance(by_hand, Tensor)
    assert torch.allclose(ours, by_hand, atol=1e-6)
    assert not torch.allclose(ours, of_mean, atol=1e-3)


class TestTransfer:
    """An attack is made on an ensemble and judged on another model, and the other way round."""

    SPEC = replace(
        attack("pgd", eps="12/255", steps=5, verdict="last"), surrogate=Surrogate("x", "0" * 64, (0.0,), (1.0,))
    )

    def run(self, target: nn.Module, source: nn.Module) -> dict[int, Outcome]:
        return outcomes(evaluator(target, surrogate=Classifier(source, DIGITS, 10)), self.SPEC, range(60))

    def test_an_ensemble_as_source_and_as_target(self, trained_members: list[nn.Module]) -> None:
        one, two, three = trained_members
        copies = ensemble([one, copy.deepcopy(one)], "mean-logits")
        assert self.run(two, copies) == self.run(two, one)
        assert self.run(copies, two) == self.run(one, two)
        both = ensemble([two, three], "mean-logits")
        assert self.run(one, both) != self.run(one, two)
        # Made on itself it is an attack on itself.
        own = outcomes(evaluator(both), replace(self.SPEC, surrogate=None), range(60))
        assert {i: o.adversarial_prediction for i, o in self.run(both, both).items()} == {
            i: o.adversarial_prediction for i, o in own.items()
        }


# -- gradients of members ----------------------------------------------------------------------------------------------


class TestCosines:
    def test_of_linear_networks_by_hand(self) -> None:
        """The gradient of the cross-entropy is (p - e_y) W / std, in pixels."""
        torch.manual_seed(0)
        weights = [torch.randn(3, 4) for _ in range(3)]
        normals = [Preprocessing((0.0,), (1.0,)), FIRST, SECOND]
        images, labels = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
        members = [Classifier(Linear(w, torch.zeros(3)), normal, 3) for w, normal in zip(weights, normals, strict=True)]
        by_hand = []
        for w, normal in zip(weights, normals, strict=True):
            z = (images.flatten(1) - normal.mean[0]) / normal.std[0] @ w.T
            by_hand.append((z.softmax(1) - F.one_hot(labels, 3)) @ w / normal.std[0])
        batches = list(
            gradients.cosines(members, examples_of(images, labels, 3), [4, 0, 2], device="cpu", batch_size=2)
        )
        assert [len(batch) for batch in batches] == [6, 3]
        found = {(c.example, c.a, c.b): c.cosine for batch in batches for c in batch}
        assert set(found) == {(i, a, b) for i in (4, 0, 2) for a, b in ((0, 1), (0, 2), (1, 2))}
        for (i, a, b), value in found.items():
            assert value == pytest.approx(float(F.cosine_similarity(by_hand[a][i], by_hand[b][i], 0)), abs=1e-5)

    def test_how_sure_a_network_is_makes_no_difference(self) -> None:
        """Its cross-entropy is zero to float64, and so are its gradients: their direction is not."""
        torch.manual_seed(0)
        w = torch.randn(3, 4)
        images, labels = torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.long)
        other = classifier_with(torch.randn(3, 4), torch.zeros(3))
        sure, unsure = (classifier_with(w, torch.tensor([b, 0.0, 0.0])) for b in (900.0, 20.0))
        examples = examples_of(images, labels, 3)
        one, two = (
            [c.cosine for batch in gradients.cosines([m, other], examples, range(4), device="cpu") for c in batch]
            for m in (sure, unsure)
        )
        assert one == pytest.approx(two, abs=1e-4)
        assert all(value is not None for value in one)

    def test_copies_look_the_same_way_and_a_blind_one_nowhere(self) -> None:
        torch.manual_seed(0)
        seeing, blind = (
            classifier_with(torch.randn(3, 4), torch.zeros(3)),
            classifier_with(torch.zeros(3, 4), torch.ones(3)),
        )
        opposite = classifier_with(-seeing.network.get_parameter("weight").detach(), torch.zeros(3))
        broken = classifier_with(torch.full((3, 4), torch.nan), torch.zeros(3))
        examples = examples_of(torch.full((1, 1, 2, 2), 1e-7), torch.tensor([1]), 3)
        members = [seeing, copy.deepcopy(seeing), opposite, blind, broken]
        (batch,) = gradients.cosines(members, examples, [0], device="cpu")
        found = {(c.a, c.b): c.cosine for c in batch}
        assert found[0, 1] == pytest.approx(1)
        assert found[0, 2] == pytest.approx(-1, abs=1e-3)
        assert all(value is None for (a, b), value in found.items() if b >= 3)

    def test_nothing_changes_in_the_members(self) -> None:
        net = Classifier(small(0), DIGITS, 10).train()
        before = {k: v.clone() for k, v in net.state_dict().items()}
        list(gradients.cosines([net, net], few_digits(4), range(4), device="cpu"))
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
        assert net.training
        assert all(p.requires_grad and p.grad is None for p in net.parameters())


def classifier_with(weight: Tensor, bias: Tensor) -> Classifier:
    return Classifier(Linear(weight, bias), Preprocessing((0.0,), (1.0,)), 3)


# -- names -------------------------------------------------------------------------------------------------------------


class TestSampled:
    def test_members_follow_from_the_seed(self) -> None:
        spec = registry.parse_architecture("darts-ensemble-7")
        assert spec.canonical == "darts-ensemble-7@cells=12-6-2,init_channels=36,combine=learned"
        made_of = composition.of(spec)
        assert [m.architecture for m in made_of.members] == [
            f"darts-random-{7000 + i}@init_channels=36,layers={n}" for i, n in enumerate((12, 6, 2))
        ]
        assert (made_of.combine, made_of.learned, made_of.joint, made_of.width) == ("learned", True, False, 64)
        other = composition.of(registry.parse_architecture("NASBench201_ensemble_0@cells=2-1,c=4,combine=majority"))
        assert [m.architecture for m in other.members] == [
            f"nasbench201-random-{i}@init_channels=4,cells_per_stage={n}" for i, n in enumerate((2, 1))
        ]
        assert (other.combine, other.learned) == ("majority", False)

    @pytest.mark.parametrize(
        "text",
        [
            "darts-ensemble-7@cells=1-1,init_channels=4,combine=learned,width=8",
            "darts-ensemble-0@cells=3-2,init_channels=4,combine=features-mean,form=imagenet",
            "nasbench201-ensemble-999999999999999@cells=1-50,init_channels=4,combine=log-mean",
        ],
    )
    def test_canonical_names_are_read_back(self, text: str) -> None:
        spec = registry.parse_architecture(text)
        assert spec.canonical == text
        assert registry.parse_architecture(spec.canonical) == spec
        assert composition.is_ensemble(text)

    def test_options_reach_every_member(self) -> None:
        spec = registry.parse_architecture("darts-ensemble-1@cells=03-2,c=4,form=imagenet")
        assert spec.option("cells") == "3-2"
        assert [m.spec.option("form") for m in composition.of(spec).members] == ["imagenet"] * 2
        wide = registry.parse_architecture("darts-ensemble-1", {"cells": "1-1", "width": "7"}, scale="small")
        assert composition.of(wide).width == 7

    @pytest.mark.parametrize(
        "cells",
        [
            *("3", "0-1", "1-", "-1", "1--1", "1-201", "１-2", "²-2", "1e3-2", "1.5-2", "1-999999999999", "-", "x"),
            "1-" * 10**6,
            "-".join(["1"] * 101),
        ],
        ids=lambda text: text[:12],
    )
    def test_counts_of_cells_that_make_no_sense(self, cells: str) -> None:
        with pytest.raises(InvalidSpec, match="cells") as caught:
            registry.parse_architecture("darts-ensemble-7", {"cells": cells})
        assert len(str(caught.value)) < 300

    def test_a_hundred_members_are_the_most(self) -> None:
        spec = registry.parse_architecture("darts-ensemble-7", {"cells": "-".join(["1"] * 100)})
        assert composition.of(spec).members[-1].architecture.startswith("darts-random-7099@")

    @pytest.mark.parametrize(
        "name",
        [
            *("darts-ensemble", "darts-ensemble-", "darts-ensemble-x", "darts-ensemble--1", "darts-ensemble-007"),
            *("darts-ensemble-1000000000000000", "nasbench201-ensemble-" + "9" * 40, "robnet-ensemble-1"),
        ],
    )
    def test_seeds_that_make_no_sense(self, name: str) -> None:
        with pytest.raises(InvalidSpec) as caught:
            registry.find(name)
        assert len(str(caught.value)) < 300

    def test_what_is_no_ensemble(self) -> None:
        assert not composition.is_ensemble("resnet18@width=2")
        with pytest.raises(InvalidSpec, match=r"resnet18@width=2 is no ensemble"):
            composition.of(registry.parse_architecture("resnet18@width=2"))
        with pytest.raises(InvalidSpec, match="combine is one of mean-logits"):
            registry.parse_architecture("darts-ensemble-7@combine=mean")


@pytest.mark.usefixtures("home")
class TestPicked:
    def test_a_name_is_made_of_the_content(self) -> None:
        members = [Member("resnet18@width=2"), Member("darts-random-3@layers=1,c=2")]
        found = composition.picked(members)
        cells = registry.find("darts-random-3").definition
        assert cells is not None
        data = {
            "members": [
                {"architecture": "resnet18@width=2"},
                {"architecture": "darts-random-3@init_channels=2,layers=1", "definition": cells.to_dict()},
            ]
        }
        assert found.data == data
        assert found.name == f"ensemble-{digest({'space': 'ensemble', 'data': data})[:12]}"
        assert composition.picked(members[::-1]).name != found.name
        own = [replace(member, preprocessing=FIRST) for member in members]
        assert composition.picked(own).name != found.name

    def test_text_that_a_person_pastes_is_an_ensemble(self) -> None:
        text = json.dumps(composition.picked([Member("resnet18@width=2"), Member("resnet34@width=2")]).to_dict())
        spec = registry.parse_architecture(registry.find(text).name)
        assert registry.find(spec.name).lineage == "ensemble"
        assert [o.name for o in registry.find(spec.name).options] == ["combine", "width"]
        assert spec.canonical == f"{spec.name}@combine=mean-logits"
        assert registry.parse_architecture(spec.canonical) == spec
        net = registry.build(spec, num_classes=10, in_channels=1)
        assert isinstance(net, Ensemble)
        assert len(net.members) == 2
        sampled = '{"space": "ensemble", "data": {"space": "darts", "seed": 7}}'
        assert registry.find(sampled).name == "darts-ensemble-7"

    @pytest.mark.parametrize("n", [0, 1, 101])
    def test_two_to_a_hundred_members(self, n: int) -> None:
        with pytest.raises(InvalidSpec, match="2 to 100 members"):
            composition.picked([Member("resnet18@width=2")] * n)
