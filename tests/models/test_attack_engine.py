"""The engine's own options: how the network is computed, looks at the slots, cascades. None may change a verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.attacks import forwarding
from models.attacks.engine import SlotEngine
from models.attacks.forwarding import Forwarding, Plan, Speed
from models.attacks.slots import Outcome, Survival
from models.classifier import Classifier
from models.errors import EvaluationError
from models.evaluation import EXACT, Evaluator
from models.specs import AttackSpec, Preprocessing
from tests.support import Linear, attack, outcomes, robust

N = 150


def other(evaluator: Evaluator, speed: Speed, **options: int) -> Evaluator:
    return Evaluator(evaluator.classifier, evaluator.examples, slots=32, speed=speed, **options)


def cascade(*stages: AttackSpec) -> AttackSpec:
    return replace(stages[-1], name="cascade", stages=stages, settings=())


class TestHowTheNetworkIsComputed:
    @pytest.mark.parametrize("name", ["fold", "channels_last"])
    def test_verdicts_are_the_same(self, name: str, evaluator: Evaluator) -> None:
        spec = attack("pgd", eps="8/255")
        plain = outcomes(evaluator, spec, range(N))
        changed = other(evaluator, replace(EXACT, **{name: "on"}))
        found = outcomes(changed, spec, range(N))
        assert name.split("_")[0][:4] in changed.how.lower()
        borderline = {i for i in range(N) if abs(plain[i].margin or 0) < 1e-4}
        assert robust(found) - borderline == robust(plain) - borderline
        assert 20 < len(robust(found)) < 140

    def test_a_folded_network_is_another_object_and_gives_the_same_logits(self, evaluator: Evaluator) -> None:
        classifier = evaluator.classifier.eval()
        before = {k: v.clone() for k, v in classifier.state_dict().items()}
        x = torch.from_numpy(evaluator.examples.images[:20])
        folded = Forwarding(classifier, Plan(fold=True), 20)
        kinds = [type(m) for m in folded._classifier.modules()]
        assert nn.BatchNorm2d not in kinds
        with torch.no_grad():
            assert torch.allclose(folded.forward(x), classifier(x), atol=1e-4)
        assert all(torch.equal(v, before[k]) for k, v in classifier.state_dict().items())

    def test_bf16_claims_are_confirmed_in_float32(self, evaluator: Evaluator) -> None:
        """An example counts as broken only where the float32 network is fooled, and most verdicts are those of
        float32.
        """
        spec = attack("pgd", eps="8/255")
        plain = robust(outcomes(evaluator, spec, range(N)))
        found = outcomes(other(evaluator, replace(EXACT, precision="bf16")), spec, range(N))
        for outcome in found.values():
            assert outcome.robust == (outcome.adversarial_prediction == outcome.label and outcome.clean_correct)
            assert (outcome.margin or 0) >= 0 if outcome.robust else (outcome.margin or 0) <= 0
        assert len(robust(found) ^ plain) <= 5

    def test_what_float32_does_not_confirm_goes_on(self, evaluator: Evaluator) -> None:
        """A forward pass that is wrong about everything breaks nothing, and every example takes all its steps."""
        spec = attack("pgd", eps="1/255", steps=3)
        classifier = evaluator.classifier.eval()
        for poll in (1, 2):
            engine = SlotEngine(
                lambda x: -classifier(x),
                evaluator_kernel(spec),
                slots=16,
                device=torch.device("cpu"),
                classes=10,
                judge=classifier,
                poll=poll,
            )
            list(evaluator.run(spec, range(30)))
            works = [
                evaluator._work(i, evaluator._images([i])[0]) for i in range(30) if evaluator_correct(evaluator, i)
            ]
            found = [o for batch in engine.run(works) for o in batch]
            assert len(found) == len(works)
            assert all(o.forwards >= 4 for o in found if o.robust)
            assert sum(bool(o.robust) for o in found) > 20

    def test_what_cannot_be_folded_is_refused_or_left(self, evaluator: Evaluator) -> None:
        class Branches(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                z = x.flatten(1)[:, :10]
                return z if float(z.detach().sum()) > 0 else -z

        x = torch.rand(8, 1, 8, 8)
        classifier = Classifier(Branches(), Preprocessing((0.0,), (1.0,)), 10).eval()
        with pytest.raises(EvaluationError, match="--fold off"):
            forwarding.choose(classifier, x, replace(EXACT, fold="on"), 1)
        plan, said = forwarding.choose(classifier, x, Speed(), 1e9)
        assert not plan.fold
        assert "float32" in said

    def test_auto_measures_only_where_it_pays(self, evaluator: Evaluator) -> None:
        x = torch.from_numpy(evaluator.examples.images[:32])
        assert forwarding.choose(evaluator.classifier, x, Speed(compile="off"), 1)[0] == Plan()
        _, said = forwarding.choose(evaluator.classifier, x, Speed(compile="off"), 1e6)
        assert "folded BatchNorm" in said
        assert "ms" in said

    def test_a_plan_reads_back(self) -> None:
        for plan in (Plan(), Plan("bf16", compile=True), Plan(fold=True, channels_last=True)):
            assert Plan.parse(str(plan)) == plan
            assert Plan.parse(f"{plan} (a gradient takes, in float32 0.77 ms)") == plan

    def test_a_continued_evaluation_is_computed_as_before(self, evaluator: Evaluator) -> None:
        spec = attack("pgd", eps="8/255", steps=3)
        free = other(evaluator, Speed(compile="auto"))
        free.compute_as("float32, folded BatchNorm")
        outcomes(free, spec, range(20))
        assert free.how == "float32, folded BatchNorm", "not measured anew"
        fixed = other(evaluator, EXACT)
        fixed.compute_as("float32, folded BatchNorm")
        outcomes(fixed, spec, range(20))
        assert fixed.how == "float32", "what a person says goes before"

    def test_unknown_precision_is_refused(self) -> None:
        for name in ("float8", "fp16"):
            with pytest.raises(EvaluationError, match="float32"):
                forwarding.precision_for(name, torch.device("cpu"))


def evaluator_kernel(spec: AttackSpec):  # type: ignore[no-untyped-def]
    from models.attacks import registry

    return registry.kernel(spec)


def evaluator_correct(evaluator: Evaluator, index: int) -> bool:
    return evaluator.clean.predictions[index] == int(evaluator.examples.labels[index])


@pytest.mark.parametrize("name", ["pgd", "pgd@verdict=last", "pgd@restarts=3", "bim@norm=L2,eps=1"])
@pytest.mark.parametrize("poll", [2, 5, 64])
def test_how_often_the_host_looks_does_not_matter(name: str, poll: int, evaluator: Evaluator) -> None:
    spec = attack(name)
    plain = outcomes(evaluator, spec, range(100))
    works = [
        evaluator._work(i, evaluator._images([i])[0])
        for i in range(100)
        if spec.verdict == "last" or evaluator_correct(evaluator, i)
    ]
    engine = SlotEngine(
        evaluator.classifier.eval(),
        evaluator_kernel(spec),
        slots=24,
        device=torch.device("cpu"),
        classes=10,
        poll=poll,
    )
    found = {o.example: o for batch in engine.run(works) for o in batch}
    assert {i: (o.robust, o.broken_at_step, o.broken_at_restart, o.forwards) for i, o in found.items()} == {
        i: (plain[i].robust, plain[i].broken_at_step, plain[i].broken_at_restart, plain[i].forwards) for i in found
    }


class TestCascade:
    def test_is_the_and_of_its_stages_and_says_which_broke(self, evaluator: Evaluator) -> None:
        fgsm, pgd = attack("fgsm", eps="8/255"), attack("pgd", eps="10/255")
        alone = [outcomes(evaluator, stage, range(N)) for stage in (fgsm, pgd)]
        found = outcomes(evaluator, cascade(fgsm, pgd), range(N))
        assert robust(found) == robust(alone[0]) & robust(alone[1])
        for i, outcome in found.items():
            first, second = alone[0][i], alone[1][i]
            if not outcome.clean_correct:
                assert outcome.stage is None
            elif not first.robust:
                assert outcome == replace(first, stage="fgsm")
            else:
                assert outcome.stage == (None if outcome.robust else "pgd")
                assert outcome.forwards == first.forwards + second.forwards - 1
                assert outcome.backwards == first.backwards + second.backwards
        stages = {o.stage for o in found.values()}
        assert stages == {None, "fgsm", "pgd"}

    def test_goes_on_after_the_stages_that_an_earlier_session_finished(self, evaluator: Evaluator) -> None:
        spec = cascade(attack("fgsm", eps="8/255"), attack("pgd", eps="10/255"))
        whole = outcomes(evaluator, spec, range(N))
        kept: dict[int, Survival] = {}
        done: dict[int, Outcome] = {}

        def note(found: list[Survival]) -> None:
            kept.update({s.example: s for s in found})

        first = Evaluator(evaluator.classifier, evaluator.examples, slots=16)
        for batch in first.run(spec, range(N), stop=lambda: len(done) >= 60, survived=note):
            done.update({o.example: o for o in batch})
        assert len(done) < N
        waiting = set(kept) - set(done)
        assert waiting
        second = Evaluator(evaluator.classifier, evaluator.examples, slots=16)
        rest = [i for i in range(N) if i not in done]
        again: list[Survival] = []
        for batch in second.run(spec, rest, survivals=kept, survived=again.extend):
            done.update({o.example: o for o in batch})
        assert done == whole
        assert not waiting & {s.example for s in again}, "a stage that was survived is not run again"


def test_transfer_follows_the_surrogate_and_judges_the_model(evaluator: Evaluator) -> None:
    """Crafted on a linear model by hand here, judged by the network."""
    from models.specs import Surrogate

    weight = torch.randn(10, 64, generator=torch.Generator().manual_seed(1))
    linear = Classifier(Linear(weight, torch.zeros(10)), Preprocessing((0.0,), (1.0,)), 10)
    surrogate = Surrogate("linear", "0" * 64, (0.0,), (1.0,))
    spec = replace(attack("fgsm", eps="24/255", verdict="last"), surrogate=surrogate)
    mixed = Evaluator(evaluator.classifier, evaluator.examples, slots=32, surrogate=linear)
    found = outcomes(mixed, spec, range(100))
    x = torch.from_numpy(evaluator.examples.images[:100]).requires_grad_()
    y = torch.from_numpy(evaluator.examples.labels[:100])
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(linear(x), y, reduction="sum"), x)
    with torch.no_grad():
        judged = evaluator.classifier.eval()((x + 24 / 255 * gradient.sign()).clamp(0, 1)).argmax(1)
    assert [found[i].adversarial_prediction for i in range(100)] == judged.tolist()
    assert robust(outcomes(evaluator, attack("fgsm", eps="24/255", verdict="last"), range(100))) < robust(found)
