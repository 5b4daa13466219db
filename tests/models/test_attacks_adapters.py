"""Attacks of other libraries: their names and settings, and what comes of a run."""

from __future__ import annotations

import importlib.metadata
import json
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.attacks import adapters, libraries
from models.attacks.adapters import Adapter
from models.attacks.slots import Outcome
from models.classifier import Classifier
from models.datasets import registry as datasets
from models.datasets.registry import Examples
from models.errors import DeviceError, EvaluationError, InvalidSpec, ModelsError
from models.evaluation import Evaluator
from models.specs import AttackSpec
from tests.models.perceptron import perceptron
from tests.support import attack, classifier_of, outcomes, robust

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return perceptron()


@pytest.fixture(scope="module")
def examples() -> Examples:
    return datasets.load("digits", "test")


def run(classifier: Classifier, examples: Examples, spec: AttackSpec, indices: list[int]) -> dict[int, Outcome]:
    """All chunks, one after the other."""
    adapter = Adapter(spec)
    found: dict[int, Outcome] = {}
    for chunk in adapter.chunks(indices):
        images, labels = torch.from_numpy(examples.pixels(chunk)), torch.from_numpy(examples.labels[chunk])
        made = adapter.run(classifier, images, labels, chunk, CPU)
        assert [o.example for o in made] == chunk
        found |= {o.example: o for o in made}
    return found


def resolved(text: str, **settings: Any) -> AttackSpec:
    """A configuration, which its text and its data give back."""
    spec = libraries.resolve(text, **settings)
    assert libraries.resolve(libraries.inline(spec), seed=spec.seed) == spec
    assert AttackSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    return spec


class TestAgainstOurOwn:
    """The same attack from two sides: ours, and the library's through its adapter."""

    def same(self, classifier: Classifier, examples: Examples, ours: AttackSpec, theirs: AttackSpec) -> None:
        evaluator = Evaluator(classifier, examples, slots=64)
        wanted = outcomes(evaluator, ours, range(150))
        found = run(classifier, examples, theirs, list(range(150)))
        assert 20 < len(robust(wanted)) < 130
        for index, outcome in wanted.items():
            assert found[index].clean_prediction == outcome.clean_prediction
            assert found[index].clean_rank == outcome.clean_rank
            assert found[index].clean_margin == pytest.approx(outcome.clean_margin, abs=1e-4)
            if abs(outcome.margin or 0) > 1e-3:
                assert found[index].adversarial_prediction == outcome.adversarial_prediction
                assert found[index].robust == outcome.robust
                assert found[index].rank == outcome.rank
                assert found[index].margin == pytest.approx(outcome.margin, abs=1e-3)
                assert found[index].distance == pytest.approx(outcome.distance, abs=1e-6)

    @pytest.mark.parametrize("eps", ["12/255", "24/255"])
    def test_torchattacks_pgd(self, eps: str, classifier: Classifier, examples: Examples) -> None:
        pytest.importorskip("torchattacks")
        ours = attack("pgd", eps=eps, random_start=False, verdict="last")
        theirs = resolved("torchattacks:PGD@random_start=false", eps=eps)
        assert (theirs.steps, theirs.step_size) == (ours.steps, ours.step_size)
        self.same(classifier, examples, ours, theirs)

    @pytest.mark.parametrize("eps", ["12/255", "24/255"])
    def test_foolbox_pgd(self, eps: str, classifier: Classifier, examples: Examples) -> None:
        pytest.importorskip("foolbox")
        ours = attack("pgd", eps=eps, random_start=False, verdict="last")
        step = ours.step_size
        theirs = resolved(f"foolbox:LinfPGD@random_start=false,steps=10,step_size={step}", eps=eps)
        self.same(classifier, examples, ours, theirs)

    def test_foolbox_pgd_in_l2(self, classifier: Classifier, examples: Examples) -> None:
        pytest.importorskip("foolbox")
        ours = attack("pgd", norm="L2", eps="0.6", random_start=False, verdict="last")
        theirs = resolved("foolbox:L2PGD@random_start=false,steps=10,step_size=0.15", eps="0.6")
        assert theirs.norm == "L2"
        self.same(classifier, examples, ours, theirs)

    def test_art_pgd(self, classifier: Classifier, examples: Examples) -> None:
        pytest.importorskip("art")
        ours = attack("pgd", eps="24/255", random_start=False, verdict="last")
        theirs = resolved("art:ProjectedGradientDescent@steps=10,step_size=6/255", eps="24/255")
        assert not theirs.random_start
        self.same(classifier, examples, ours, theirs)

    def test_reference_autoattack_is_pyautoattack(self, classifier: Classifier, examples: Examples) -> None:
        pyautoattack = pytest.importorskip("pyautoattack")
        spec = resolved("reference:autoattack@version=custom,attacks=apgd-ce+fab-t,eps=16/255,batch=60", seed=3)
        found = run(classifier, examples, spec, list(range(60)))
        x, y = torch.from_numpy(examples.pixels(list(range(60)))), torch.from_numpy(examples.labels[:60])
        # FAB leaves gradients on the parameters, so this is a classifier of its own.
        direct = pyautoattack.AutoAttack(
            perceptron(), attacks=["apgd-ce", "fab-t"], version="custom", eps=16 / 255, norm="Linf", seed=3
        )
        with torch.random.fork_rng():
            adversarial, _ = direct.run_standard_evaluation(x, y, batch_size=60)
        with torch.no_grad():
            survives = classifier(adversarial).argmax(1) == y
        assert 10 < int(survives.sum()) < 50
        assert [found[i].robust for i in range(60)] == survives.tolist()

    def test_reference_autoattack_is_the_standard_one_unless_asked(self) -> None:
        pytest.importorskip("pyautoattack")
        spec = resolved("reference:autoattack", norm="L2", eps="0.5")
        assert (spec.norm, spec.setting("version"), spec.setting("attacks")) == ("L2", "standard", "none")
        made = libraries.find(spec.name).arguments(spec, {"model": None, "device": CPU, "seed": 5})
        assert made == {"model": None, "device": CPU, "seed": 5, "eps": 0.5, "norm": "L2"}


class TestNames:
    def test_torchattacks(self) -> None:
        pytest.importorskip("torchattacks")
        version = importlib.metadata.version("torchattacks")
        spec = resolved("torchattacks:pgd-20@eps=4/255,alpha=1/255,random_start=false")
        assert spec.name == "torchattacks:PGD"
        assert (spec.norm, spec.eps.text, spec.steps, spec.random_start) == ("Linf", "4/255", 20, False)
        assert spec.step_size is not None
        assert spec.step_size.text == "1/255"
        assert dict(spec.settings) == {"library": f"torchattacks {version}", "batch": 64}
        followed = resolved("torchattacks:PGD", eps="16/255").step_size
        assert followed is not None
        assert followed.text == "4/255", "the library has 2/255 at 8/255"
        square = resolved("torchattacks:Square-100@n_restarts=2,p_init=0.3")
        assert (square.steps, square.restarts, square.setting("p_init")) == (100, 2, 0.3)
        assert resolved("torchattacks:PGDL2").norm == "L2"
        assert resolved("torchattacks:Pixle@norm=L2").setting("x_dimensions") == "(2, 10)"
        assert libraries.find("torchattacks:Square").arguments(square, {"model": None, "seed": 7, "classes": 10}) == {
            "model": None,
            "seed": 7,
            "verbose": False,
            "eps": 8 / 255,
            "norm": "Linf",
            "n_queries": 100,
            "n_restarts": 2,
            "p_init": 0.3,
        }

    def test_foolbox(self) -> None:
        pytest.importorskip("foolbox")
        spec = resolved("foolbox:LinfPGD")
        assert (spec.norm, spec.step_size, spec.steps) == ("Linf", None, 40)
        assert spec.setting("rel_stepsize") == pytest.approx(0.01 / 0.3)
        assert resolved("foolbox:L1PGD@restarts=3").restarts == 3
        assert resolved("foolbox:InversionAttack@norm=L2").norm == "L2"
        for text, message in (
            ("foolbox:L0FMNAttack", "bounded in L0"),
            ("foolbox:SpatialAttack", "bounded in no norm"),
            ("foolbox:LinfPGD@norm=L2", "an attack in Linf, not in L2"),
            ("foolbox:FGSM@restarts=2", "starts at the clean image"),
            ("foolbox:VirtualAdversarialAttack", "needs steps"),
        ):
            with pytest.raises(InvalidSpec, match=message):
                libraries.resolve(text)

    def test_art(self) -> None:
        pytest.importorskip("art")
        spec = resolved("art:ProjectedGradientDescent@restarts=3", norm="L2", eps="0.3")
        assert (spec.norm, spec.restarts, spec.random_start, spec.steps) == ("L2", 3, True, 100)
        assert spec.step_size is not None
        assert spec.step_size.value == pytest.approx(0.1)
        given = {"model": None, "batch": 5}
        made = libraries.find(spec.name).arguments(spec, given)
        assert (made["norm"], made["num_random_init"], made["batch_size"], made["verbose"]) == (2, 3, 5, False)
        clean = resolved("art:ProjectedGradientDescent")
        assert libraries.find(spec.name).arguments(clean, given)["num_random_init"] == 0

    @pytest.mark.parametrize("name", ["torchattacks", "foolbox", "reference"])
    def test_every_attack_of_a_library_resolves_or_says_why_not(self, name: str) -> None:
        library = libraries.libraries()[name]
        pytest.importorskip(library.module.partition(".")[0])
        good = 0
        for key in library.attacks():
            for norm in ("Linf", "L2", "L1"):
                try:
                    resolved(f"{name}:{key}", norm=norm)
                    good += 1
                except InvalidSpec as error:
                    said = str(error)
                    assert said.startswith(f"{name}:{key} ")
        assert good >= len(library.attacks()) / 2

    def test_a_library_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import importlib.util

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        for text, command in (
            ("torchattacks:PGD", "pip install --no-deps torchattacks"),
            ("foolbox:LinfPGD", "pip install foolbox"),
            ("art:FastGradientMethod", "pip install adversarial-robustness-toolbox"),
            ("reference:autoattack", "pip install pyautoattack"),
        ):
            with pytest.raises(InvalidSpec, match=f"is not installed, .*: {command}"):
                libraries.resolve(text)

    def test_reading_a_name_or_a_configuration_imports_no_library(self) -> None:
        code = """
            import sys
            from models.attacks import libraries
            from models.specs import AttackSpec, Radius
            settings = (("library", "torchattacks 3.5.1"), ("batch", 64))
            eps = Radius.parse("8/255")
            spec = AttackSpec("torchattacks:PGD", "Linf", eps, None, 1, 1, True, "", 0, settings=settings)
            assert libraries.is_foreign("torchattacks:PGD@eps=1/255")
            assert not libraries.is_foreign("pgd@eps=8/255")
            print(libraries.inline(spec))
            assert not {"torch", "torchattacks", "foolbox", "art", "pyautoattack"} & set(sys.modules)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == (
            "torchattacks:PGD@eps=8/255,norm=Linf,steps=1,restarts=1,random_start=true,batch=64"
        )


FAKE = """
    import random

    import numpy as np
    import torch
    from torch import nn


    class Attack:
        def __init__(self, model):
            self.model = model


    class Noise(Attack):
        "Moves by eps times a sign from all global random states, after some passes."

        def __init__(
            self, model, eps=0.1, alpha=0.05, steps=3, random_start=True, names=("a", "b"), factor=1.0, how=None
        ):
            super().__init__(model)
            self.eps, self.alpha, self.steps, self.factor = eps, alpha, steps, factor
            assert names == ("a", "b")

        def __call__(self, x, y):
            import sys

            sys.settrace(None)
            print("a library that talks")
            for _ in range(self.steps):
                x.requires_grad_()
                torch.autograd.grad(nn.functional.cross_entropy(self.model(x.double()), y), x)
            self.model(x[:1])
            x = x.detach()
            flip = np.sign(np.random.rand() - 0.5) * np.sign(random.random() - 0.5)
            return (x + flip * self.factor * self.eps * torch.randn_like(x).sign()).clamp(0, 1)


    class Far(Attack):
        "Takes no eps and goes as far as it is told."

        def __init__(self, model, amount=0.2):
            super().__init__(model)
            self.amount = amount

        def __call__(self, x, y):
            return x + self.amount * (1 - 2 * x.round())


    class Restarted(Attack):
        def __init__(self, model, eps=0.1, num_random_init=0):
            super().__init__(model)


    class Broken(Attack):
        def __init__(self, model, how, eps=0.1):
            super().__init__(model)
            self.how = how

        def __call__(self, x, y):
            if self.how == "raise":
                raise KeyError("something")
            if self.how == "memory":
                raise RuntimeError("CUDA out of memory. Tried to allocate")
            if self.how == "shape":
                return x[:, :, 1:]
            if self.how == "bright":
                return x + 0.01
            x = x.clone()
            x[1] = float("nan")
            return x
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A library of attacks that do as they are told."""
    (tmp_path / "fake_attacks.py").write_text(textwrap.dedent(FAKE))
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = libraries.Library(
        name="fake",
        module="fake_attacks",
        distribution="fake",
        install="pip install fake",
        base="fake_attacks:Attack",
        parameters={
            "eps": ["eps"],
            "step_size": ["alpha"],
            "steps": ["steps"],
            "random_start": ["random_start"],
            "restarts": ["num_random_init"],
        },
        zero_restarts_start_clean=["num_random_init"],
        given={"model": "model"},
        norms={"Far": "Linf"},
    )
    monkeypatch.setattr(libraries, "libraries", lambda: {"fake": entry})
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    monkeypatch.setattr(
        adapters, "RUNNERS", {"fake": lambda a, spec, given, x, y: a.cls(**a.arguments(spec, given))(x, y)}
    )
    yield
    sys.modules.pop("fake_attacks", None)


@pytest.mark.usefixtures("fake")
class TestSettings:
    def test_what_may_be_set(self) -> None:
        spec = resolved("fake:noise@eps=0.2,factor=1/2,how=3,batch=10")
        assert dict(spec.settings) == {
            "library": "fake 1.0",
            "batch": 10,
            "names": "('a', 'b')",
            "factor": 0.5,
            "how": 3,
        }
        assert spec.step_size is not None
        assert spec.step_size.value == pytest.approx(0.1)
        assert resolved("fake:Noise").setting("how") == "none"
        assert libraries.find("fake:Noise").arguments(spec, {"model": 1}) == {
            "model": 1,
            "eps": 0.2,
            "alpha": pytest.approx(0.1),
            "steps": 3,
            "random_start": True,
            "factor": 0.5,
            "how": 3,
        }

    @pytest.mark.parametrize(
        ("asked", "starts", "restarts", "theirs"),
        [("", False, 1, 0), ("@restarts=3", True, 3, 3), ("@random_start=true", True, 1, 1)],
    )
    def test_no_restarts_mean_the_clean_image(self, asked: str, starts: bool, restarts: int, theirs: int) -> None:
        spec = resolved(f"fake:Restarted{asked}")
        assert (spec.random_start, spec.restarts) == (starts, restarts)
        assert libraries.find("fake:Restarted").arguments(spec, {"model": 1})["num_random_init"] == theirs

    def test_registry_entry(self) -> None:
        entry = libraries.entry("fake:far")
        assert (entry.name, entry.source, entry.transfers) == ("fake:Far", "fake 1.0", False)
        assert entry.description == "Takes no eps and goes as far as it is told."

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("fake:Noise@facto=2", "no parameter 'facto'. Did you mean 'factor'.* It takes eps, norm, step_size"),
            ("fake:Noisy", "no attack 'Noisy'. Did you mean 'Noise'"),
            ("fake:Q", "It has Broken, Far, Noise, Restarted"),
            ("other:Noise", "unknown library 'other'"),
            ("fake:Noise@factor=much", "takes a number"),
            ("fake:Noise@names=c", "cannot be set here"),
            ("fake:Noise@steps=many", "takes a whole number"),
            ("fake:Noise@norm=L2", "an attack in Linf, not in L2"),
            ("fake:Noise@norm=L7", "norm 'L7' is unknown"),
            ("fake:Noise@restarts=2", "no parameter for restarts"),
            ("fake:Far@steps=2", "no parameter for steps"),
            ("fake:Far@step_size=0.1", "no parameter for step_size"),
            ("fake:Noise@verdict=worst", "its verdict is last"),
            ("fake:Noise@batch=0", "batch must be at least 1"),
            ("fake:Broken", "needs a value for how"),
        ],
    )
    def test_what_may_not(self, text: str, message: str) -> None:
        with pytest.raises(InvalidSpec, match=message):
            libraries.resolve(text)

    def test_other_threat_spaces_are_refused(self) -> None:
        with pytest.raises(InvalidSpec, match="attacks pixels"):
            libraries.resolve("fake:Noise", threat_space="normalized-clamped")

    def test_another_version_is_another_attack(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = libraries.resolve("fake:Noise")
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.1")
        assert libraries.resolve("fake:Noise").identity != spec.identity
        with pytest.raises(EvaluationError, match=r"asked for with fake 1\.0, but fake 1\.1 is installed"):
            Adapter(spec)


@pytest.mark.usefixtures("fake")
class TestRuns:
    def test_resumed_run_ends_the_same(self, classifier: Classifier, examples: Examples) -> None:
        spec = resolved("fake:Noise@eps=0.25,batch=16")
        indices = [int(i) for i in np.random.default_rng(0).permutation(75)]
        torch.manual_seed(1)
        whole = run(classifier, examples, spec, indices)
        assert 10 < len(robust(whole)) < 70
        torch.manual_seed(2)
        np.random.seed(2)
        random.seed(2)
        rest = run(classifier, examples, spec, indices[32:])
        assert rest == {i: whole[i] for i in indices[32:]}
        assert run(classifier, examples, libraries.resolve("fake:Noise@eps=0.25,batch=16", seed=1), indices) != whole

    def test_chunks_have_random_numbers_of_their_own(self, classifier: Classifier) -> None:
        spec = libraries.resolve("fake:Noise@eps=0.1")
        images = torch.full((40, 1, 8, 8), 0.5)
        with torch.no_grad():
            labels = classifier(images).argmax(1)
        made = []
        for first in (0, 64):
            kept: dict[int, int] = {}
            adapter = Adapter(spec, keep=lambda index, image, prediction: kept.update({index: prediction}))  # noqa: B023
            found = adapter.run(classifier, images, labels, range(first, first + 40), CPU)
            assert kept == {o.example: o.adversarial_prediction for o in found if not o.robust} != {}
            assert adapter.rows_forward == sum(o.forwards for o in found)
            made.append([o.margin for o in found])
        assert made[0] != made[1]

    def test_no_side_effects(
        self, classifier: Classifier, examples: Examples, capsys: pytest.CaptureFixture[str]
    ) -> None:
        classifier.train()
        parameter = next(classifier.parameters())
        random.seed(0)
        states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]
        traced: list[str] = []
        before = sys.gettrace()

        def trace(frame: object, event: str, argument: object) -> None:
            traced.append(event)

        try:
            sys.settrace(trace)
            run(classifier, examples, libraries.resolve("fake:Noise"), list(range(20)))
            after = sys.gettrace()
        finally:
            sys.settrace(before)
            was_training = classifier.training
            classifier.eval()
        assert after is trace
        assert was_training
        assert parameter.requires_grad
        assert parameter.grad is None
        assert random.getstate() == states[0]
        assert np.array_equal(np.random.get_state()[1], states[1])  # type: ignore[index]
        assert torch.equal(torch.get_rng_state(), states[2])
        said = capsys.readouterr()
        assert said.out == ""
        assert "a library that talks" in said.err

    def test_passes_are_counted_and_shared_out(self, classifier: Classifier, examples: Examples) -> None:
        found = run(classifier, examples, libraries.resolve("fake:Noise@steps=4,batch=10"), list(range(20)))
        # The clean image, four rows with a gradient, the image that was made; and one row more for each chunk.
        assert sorted(o.forwards for o in found.values()) == [6] * 18 + [7] * 2
        assert {o.backwards for o in found.values()} == {4}

    def test_an_image_outside_the_ball_is_an_error(self, classifier: Classifier, examples: Examples) -> None:
        run(classifier, examples, libraries.resolve("fake:Noise@eps=0.1,factor=1.000001"), list(range(10)))
        with pytest.raises(EvaluationError, match=r"left its eps ball at example \d+: distance 0\.1001"):
            run(classifier, examples, libraries.resolve("fake:Noise@eps=0.1,factor=1.001"), list(range(10)))

    def test_an_attack_without_eps_counts_where_it_stayed_near(
        self, classifier: Classifier, examples: Examples
    ) -> None:
        near = run(classifier, examples, libraries.resolve("fake:Far@amount=0.2", eps="0.2"), list(range(60)))
        far = run(classifier, examples, libraries.resolve("fake:Far@amount=0.2", eps="0.19"), list(range(60)))
        correct = {i for i, o in near.items() if o.clean_correct}
        assert robust(near) < correct
        assert robust(far) == correct
        for outcome in far.values():
            assert outcome.adversarial_prediction == outcome.clean_prediction
            assert (outcome.margin, outcome.rank) == (outcome.clean_margin, outcome.clean_rank)
            assert outcome.distance is None
        assert {round(o.distance or 0, 5) for o in near.values()} == {0.2}

    def test_non_finite_images_are_errors_of_their_examples(self, classifier: Classifier, examples: Examples) -> None:
        found = run(classifier, examples, libraries.resolve("fake:Broken@how=nan"), list(range(5)))
        assert [i for i, o in found.items() if o.error] == [1]
        assert found[1].robust is None
        assert "non-finite pixels" in (found[1].error or "")
        assert found[0].robust == found[0].clean_correct

    def test_non_finite_logits_are_errors_of_their_examples(self, classifier: Classifier, examples: Examples) -> None:
        class Breaks(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                z: Tensor = classifier(x)
                return torch.where((x.flatten(1).mean(1) > 0.31)[:, None], torch.full_like(z, torch.nan), z)

        clean = {i for i in range(40) if examples.images[i].mean() > 0.31}
        assert 3 < len(clean) < 37
        spec = libraries.resolve("fake:Noise@eps=0.02")
        found = run(classifier_of(Breaks(), classes=10), examples, spec, list(range(40)))
        assert {i for i, o in found.items() if o.error == "non-finite logits on the clean image"} == clean
        assert all(found[i].clean_margin is None and found[i].forwards == 1 for i in clean)
        others = [o for i, o in found.items() if i not in clean]
        assert {o.error for o in others} <= {None, "non-finite logits under attack"}

    @pytest.mark.parametrize(
        ("how", "kind", "message"),
        [
            ("raise", EvaluationError, "failed with KeyError: 'something'"),
            ("memory", DeviceError, "ask for fewer with batch=2"),
            ("shape", EvaluationError, "returned images of shape"),
            ("bright", EvaluationError, "left the range of pixels"),
        ],
    )
    def test_failures_are_said(
        self, how: str, kind: type[ModelsError], message: str, classifier: Classifier, examples: Examples
    ) -> None:
        with pytest.raises(kind, match=message):
            run(classifier, examples, libraries.resolve(f"fake:Broken@how={how}"), list(range(8)))
