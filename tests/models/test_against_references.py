"""Verdicts equal to torchattacks and foolbox, example by example: same weights, same images, same start. And those of
AutoAttack as a whole, whose starts are its own.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.attacks import norms
from models.attacks.random import key_of, uniform
from models.classifier import frozen
from models.datasets import registry as datasets
from models.evaluation import Evaluator
from models.specs import AttackSpec
from tests.support import attack, classifier_of, examples_of, outcomes, robust

N = 300
EPS = ["2/255", "8/255", "16/255"]

needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
    for name in ("torchattacks", "foolbox", "pyautoattack")
}


def noise(spec: AttackSpec, shape: tuple[int, ...]) -> Tensor:
    """The offsets that our attack starts with, for the first examples."""
    unit = uniform(
        key_of(spec.seed, spec.name), torch.arange(shape[0]), torch.zeros(shape[0], dtype=torch.long), shape[1:]
    )
    return (2 * unit - 1) * spec.eps.value


def same_start(monkeypatch: pytest.MonkeyPatch, spec: AttackSpec) -> None:
    """Make `uniform_(-eps, eps)`, by which the references draw their start, give ours."""

    def uniform_(self: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        assert high == pytest.approx(spec.eps.value)
        return self.copy_(noise(spec, tuple(self.shape)))

    monkeypatch.setattr(torch.Tensor, "uniform_", uniform_)


def step_of(spec: AttackSpec) -> float:
    assert spec.step_size is not None
    return spec.step_size.value


def data(evaluator: Evaluator) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(evaluator.examples.images[:N]), torch.from_numpy(evaluator.examples.labels[:N])


def assert_equal_verdicts(evaluator: Evaluator, spec: AttackSpec, adversarial: Tensor) -> None:
    """Same prediction for every example, but for those on the border; and enough of both verdicts to mean something."""
    found = outcomes(evaluator, spec, range(N))
    with torch.no_grad():
        theirs = evaluator.classifier.eval()(adversarial).argmax(1).tolist()
    ours = [found[i].adversarial_prediction for i in range(N)]
    borderline = {i for i in range(N) if abs(found[i].margin or 0) < 1e-4}
    assert len(borderline) < 3
    assert [p for i, p in enumerate(ours) if i not in borderline] == [
        p for i, p in enumerate(theirs) if i not in borderline
    ]


@needs["torchattacks"]
@pytest.mark.parametrize("eps", EPS)
class TestTorchattacks:
    def test_fgsm(self, eps: str, evaluator: Evaluator) -> None:
        import torchattacks

        spec = attack("fgsm", eps=eps, verdict="last")
        x, y = data(evaluator)
        evaluator.classifier.eval()
        assert_equal_verdicts(evaluator, spec, torchattacks.FGSM(evaluator.classifier, eps=spec.eps.value)(x, y))

    def test_f_fgsm(self, eps: str, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
        import torchattacks

        spec = attack("f-fgsm", eps=eps, verdict="last")
        assert step_of(spec) == pytest.approx(1.25 * spec.eps.value)
        x, y = data(evaluator)
        same_start(monkeypatch, spec)
        reference = torchattacks.FFGSM(evaluator.classifier.eval(), eps=spec.eps.value, alpha=step_of(spec))
        assert_equal_verdicts(evaluator, spec, reference(x, y))

    @pytest.mark.parametrize("random_start", [True, False])
    def test_pgd(self, eps: str, random_start: bool, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
        import torchattacks

        spec = attack("pgd", eps=eps, steps=10, random_start=random_start, verdict="last")
        x, y = data(evaluator)
        same_start(monkeypatch, spec)
        reference = torchattacks.PGD(
            evaluator.classifier.eval(),
            eps=spec.eps.value,
            alpha=step_of(spec),
            steps=10,
            random_start=random_start,
        )
        assert_equal_verdicts(evaluator, spec, reference(x, y))

    def test_bim(self, eps: str, evaluator: Evaluator) -> None:
        import torchattacks

        spec = attack("bim", eps=eps, verdict="last")
        x, y = data(evaluator)
        reference = torchattacks.BIM(
            evaluator.classifier.eval(), eps=spec.eps.value, alpha=step_of(spec), steps=spec.steps
        )
        assert_equal_verdicts(evaluator, spec, reference(x, y))

    def test_mi_fgsm(self, eps: str, evaluator: Evaluator) -> None:
        import torchattacks

        spec = attack("mi-fgsm", eps=eps, verdict="last")
        x, y = data(evaluator)
        reference = torchattacks.MIFGSM(
            evaluator.classifier.eval(), eps=spec.eps.value, alpha=step_of(spec), steps=spec.steps, decay=1.0
        )
        assert_equal_verdicts(evaluator, spec, reference(x, y))

    def test_pgd_in_the_threat_space_of_the_public_code(
        self, eps: str, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That code hands normalised tensors to the library, which clamps them to [0, 1]."""
        import torchattacks

        spec = attack("pgd", eps=eps, verdict="last", threat_space="normalized-clamped")
        x, y = data(evaluator)
        evaluator.classifier.eval()
        z = evaluator.classifier.normalize(x)
        same_start(monkeypatch, spec)
        reference = torchattacks.PGD(evaluator.classifier.network, eps=spec.eps.value, alpha=step_of(spec), steps=10)
        adversarial = reference(z, y)
        found = outcomes(evaluator, spec, range(N))
        with torch.no_grad():
            theirs = evaluator.classifier.network(adversarial).argmax(1).tolist()
        differ = [i for i in range(N) if found[i].adversarial_prediction != theirs[i]]
        assert all(abs(found[i].margin or 0) < 1e-4 for i in differ)


@pytest.mark.parametrize("eps", EPS)
class TestWrittenOutByHand:
    """Attacks that no library has as they were published."""

    @pytest.mark.parametrize("name", ["step-ll", "iter-ll"])
    def test_least_likely_class(self, name: str, eps: str, evaluator: Evaluator) -> None:
        spec = attack(name, eps=eps, verdict="last")
        x, _ = data(evaluator)
        model = evaluator.classifier.eval()
        with torch.no_grad():
            target = model(x).argmin(1)
        adversarial = x
        for _ in range(spec.steps):
            at = adversarial.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(at), target, reduction="sum"), at)
            moved = adversarial - step_of(spec) * gradient.sign()
            adversarial = (x + (moved - x).clamp(-spec.eps.value, spec.eps.value)).clamp(0, 1)
        assert_equal_verdicts(evaluator, spec, adversarial)

    def test_r_fgsm(self, eps: str, evaluator: Evaluator) -> None:
        from models.attacks.random import normal

        spec = attack("r-fgsm", eps=eps, verdict="last")
        assert step_of(spec) == pytest.approx(spec.eps.value / 2)
        x, y = data(evaluator)
        model = evaluator.classifier.eval()
        key = key_of(spec.seed, spec.name)
        gaussian = normal(key, torch.arange(N), torch.zeros(N, dtype=torch.long), tuple(x.shape[1:]))
        start = (x + spec.eps.value / 2 * gaussian.sign()).clamp(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(start), y, reduction="sum"), start)
        adversarial = (start + spec.eps.value / 2 * gradient.sign()).clamp(0, 1).detach()
        assert_equal_verdicts(evaluator, spec, adversarial)


@needs["foolbox"]
@pytest.mark.parametrize(("norm", "eps"), [("L2", "0.3"), ("L2", "0.8"), ("L1", "2"), ("L1", "6")])
@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd"])
def test_other_norms_equal_foolbox_s(name: str, norm: str, eps: str, evaluator: Evaluator) -> None:
    import foolbox

    # In L1 foolbox scales what leaves the ball, where ours goes to its nearest point; four quarter steps stay inside.
    few = {"steps": 4} if norm == "L1" and name != "fgsm" else {}
    of_theirs = {"fgsm": "FastGradientAttack", "bim": "BasicIterativeAttack", "pgd": "PGD"}[name]
    spec = attack(name, eps=eps, norm=norm, verdict="last", **({"random_start": False} if name == "pgd" else {}), **few)
    settings = {} if name == "fgsm" else {"abs_stepsize": step_of(spec), "steps": spec.steps, "random_start": False}
    made = getattr(foolbox.attacks, f"{norm}{of_theirs}")(**settings)
    x, y = data(evaluator)
    model = foolbox.PyTorchModel(evaluator.classifier.eval(), bounds=(0, 1), device="cpu")
    _, adversarial, _ = made(model, x, y, epsilons=spec.eps.value)
    assert_equal_verdicts(evaluator, spec, adversarial)


@needs["foolbox"]
@pytest.mark.parametrize("eps", EPS)
class TestFoolbox:
    def test_fgsm(self, eps: str, evaluator: Evaluator) -> None:
        import foolbox

        spec = attack("fgsm", eps=eps, verdict="last")
        x, y = data(evaluator)
        model = foolbox.PyTorchModel(evaluator.classifier.eval(), bounds=(0, 1), device="cpu")
        _, adversarial, _ = foolbox.attacks.LinfFastGradientAttack()(model, x, y, epsilons=spec.eps.value)
        assert_equal_verdicts(evaluator, spec, adversarial)

    @pytest.mark.parametrize("random_start", [True, False])
    def test_pgd(self, eps: str, random_start: bool, evaluator: Evaluator) -> None:
        import eagerpy as ep
        import foolbox

        spec = attack("pgd", eps=eps, steps=10, random_start=random_start, verdict="last")

        class SameStart(foolbox.attacks.LinfPGD):
            def get_random_start(self, x0: ep.Tensor, epsilon: float) -> ep.Tensor:
                return x0 + ep.astensor(noise(spec, tuple(x0.shape)))

        x, y = data(evaluator)
        model = foolbox.PyTorchModel(evaluator.classifier.eval(), bounds=(0, 1), device="cpu")
        reference = SameStart(abs_stepsize=step_of(spec), steps=10, random_start=random_start)
        _, adversarial, _ = reference(model, x, y, epsilons=spec.eps.value)
        assert_equal_verdicts(evaluator, spec, adversarial)


def trained_on(classes: int) -> Evaluator:
    """A perceptron for the first classes of digits, on their test images, trained on adversarial ones (L2, 0.5)."""
    digits = {split: datasets.load("digits", split) for split in ("train", "test")}
    few = {split: np.flatnonzero(found.labels < classes) for split, found in digits.items()}
    x, y = (torch.from_numpy(a[few["train"]]) for a in (digits["train"].images, digits["train"].labels))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, classes))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        start = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(network(start), y, reduction="sum"), start)
        optimizer.zero_grad()
        moved = (x + 0.5 * norms.direction(gradient, "L2")).clamp(0, 1)
        nn.functional.cross_entropy(network(moved), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    images, labels = (torch.from_numpy(a[few["test"]]) for a in (digits["test"].images, digits["test"].labels))
    return Evaluator(
        classifier_of(network.eval(), classes=classes), examples_of(images, labels, classes), slots=len(labels)
    )


@needs["pyautoattack"]
class TestAutoAttack:
    """pyautoattack, its authors' code, with fewer steps for both."""

    STEPS: ClassVar = {"apgd-ce": 20, "apgd-t": 20, "fab-t": 10, "square": 60}
    #: By number of classes: about half of the examples survive.
    EPS: ClassVar = {
        10: {"Linf": "32/255", "L2": "0.6", "L1": "1.5"},
        3: {"Linf": "45/255", "L2": "0.8", "L1": "2"},
        2: {"Linf": "56/255", "L2": "1.2", "L1": "4"},
    }

    def reference(self, evaluator: Evaluator, spec: AttackSpec, stages: list[str], every: range) -> list[bool]:
        """Which of the examples survive the reference's `stages`, with the steps and targets of `spec`."""
        import pyautoattack

        made = pyautoattack.AutoAttack(
            evaluator.classifier, norm=spec.norm, eps=spec.eps.value, version="standard", seed=0
        )
        settings = {stage.name: dict(stage.settings) for stage in spec.stages}
        made.attacks_to_run = stages
        made.apgd.n_iter = made.apgd_targeted.n_iter = self.STEPS["apgd-ce"]
        made.fab.n_iter, made.square.n_queries = self.STEPS["fab-t"], self.STEPS["square"]
        classes = evaluator.examples.n_classes
        made.fab.n_target_classes = min(int(settings["fab-t"]["targets"]), classes - 1)
        made.apgd_targeted.n_target_classes = min(int(settings["apgd-t"]["targets"]), classes - 1)
        x, y = (torch.from_numpy(a[list(every)]) for a in (evaluator.examples.images, evaluator.examples.labels))
        with torch.random.fork_rng(), frozen(evaluator.classifier):
            adversarial, _ = made.run_standard_evaluation(x, y, batch_size=len(x))
            correct = evaluator.classifier(x).argmax(1) == y
            found: list[bool] = (correct & (evaluator.classifier(adversarial).argmax(1) == y)).tolist()
        return found

    def shortened(self, classes: int, norm: str, *stages: str) -> AttackSpec:
        spec = attack("autoattack", norm=norm, eps=self.EPS[classes][norm])
        chosen = tuple(replace(s, steps=self.STEPS[s.name]) for s in spec.stages if not stages or s.name in stages)
        return replace(spec, stages=chosen)

    def assert_alike(self, ours: list[bool], theirs: list[bool], *, differ: float = 0.03) -> None:
        """Random starts differ, so that an example on the border falls to one and not to the other: a share of at most
        `differ`, and ours leaves no more standing, but for one in a hundred.
        """
        assert sum(a != b for a, b in zip(ours, theirs, strict=True)) <= differ * len(ours)
        assert sum(ours) - sum(theirs) <= 0.01 * len(ours)

    @pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
    def test_as_many_survive(self, norm: str) -> None:
        """All stages, and those alone of which the others would make up for what they miss."""
        evaluator = trained_on(10)
        every = range(0, len(evaluator.examples), 3)
        whole = self.shortened(10, norm)
        for stages in (["apgd-ce"], ["apgd-t"], [stage.name for stage in whole.stages]):
            found = outcomes(evaluator, self.shortened(10, norm, *stages), every)
            theirs = self.reference(evaluator, whole, stages, every)
            assert 0.3 < sum(theirs) / len(theirs) < 0.7
            self.assert_alike([bool(found[i].robust) for i in every], theirs)

    @pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
    @pytest.mark.parametrize("classes", [2, 3])
    def test_fewer_classes_than_its_targeted_loss_needs(self, classes: int, norm: str) -> None:
        """The reference stops at an index there. Ours takes the margin, and breaks at least what the others break."""
        evaluator = trained_on(classes)
        every = range(len(evaluator.examples))
        whole = self.shortened(classes, norm)
        with pytest.raises(IndexError):
            self.reference(evaluator, whole, ["apgd-t"], every)
        others = ["apgd-ce", "fab-t", "square"]
        for stages in (["square"], ["fab-t"], ["apgd-ce"], others):
            found = outcomes(evaluator, self.shortened(classes, norm, *stages), every)
            theirs = self.reference(evaluator, whole, stages, every)
            # A search that is cut off after few queries depends on luck the most.
            differ = 0.06 if stages == ["square"] else 0.03
            self.assert_alike([bool(found[i].robust) for i in every], theirs, differ=differ)
        assert 0.3 < sum(theirs) / len(theirs) < 0.7
        assert robust(outcomes(evaluator, whole, every)) <= robust(found)
        margin = outcomes(evaluator, self.shortened(classes, norm, "apgd-t"), every)
        assert len(robust(margin)) - len(robust(found)) <= 0.03 * len(every)
