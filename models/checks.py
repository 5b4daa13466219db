"""Reasons to doubt a robust accuracy: the checks of AutoAttack (Croce and Hein, ICML 2020) and of Carlini et al., "On
evaluating adversarial robustness" (arXiv:1902.06705), as sentences that are stored with an evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from models.attacks import registry
from models.evaluation import Evaluator
from models.specs import AttackSpec

#: Examples that the checks attack; they need not be precise.
EXAMPLES = 64
#: Share of all examples that Square may break after the attacks with gradients before it is told (AutoAttack's own).
SQUARE_GAIN = 0.002
#: Classes that the difference-of-logits-ratio needs, plain and targeted.
DLR_CLASSES, TARGETED_DLR_CLASSES = 3, 4


def before(evaluator: Evaluator, attack: AttackSpec) -> list[str]:
    """What can be said without an attack: losses that the number of classes rules out."""
    classes = evaluator.examples.n_classes
    found = []
    for stage in attack.stages or (attack,):
        needed = {"dlr": DLR_CLASSES, "dlr-targeted": TARGETED_DLR_CLASSES}.get(stage.loss, 0)
        if classes < needed:
            found.append(
                f"{stage.name}: the difference-of-logits-ratio needs {needed} classes and there are {classes}, so the "
                "margin was used instead"
            )
    return found


def sanity(evaluator: Evaluator, attack: AttackSpec, indices: Sequence[int]) -> list[str]:
    """Three short attacks that show whether gradients lead anywhere, on the first examples.

    One step must not break more than many, a larger eps not less, and without a bound nothing may survive.
    """
    some = [int(i) for i in indices[:EXAMPLES]]
    eps, norm = attack.eps.value, attack.norm
    if not some or eps == 0:
        return []

    def robust(text: str, bound: float, **settings: object) -> int:
        spec = registry.resolve(text, eps=repr(bound), norm=norm, seed=attack.seed, **settings)  # type: ignore[arg-type]
        spec = replace(spec, threat_space=attack.threat_space)
        return sum(bool(o.robust) for found in evaluator.run(spec, some) for o in found)

    one, many = robust("fgsm", eps), robust("pgd-20", eps)
    larger = robust("pgd-20", min(2 * eps, _range(evaluator, norm)))
    unbounded = robust("pgd-50", _range(evaluator, norm), step_size=repr(0.1 * _range(evaluator, norm)))
    found = []
    if one < many:
        found.append(
            f"one step (FGSM) leaves {one} of {len(some)} examples and twenty (PGD) {many}: the gradients mislead, so "
            "the model may only look robust"
        )
    if larger > many:
        found.append(
            f"PGD leaves {many} of {len(some)} examples at eps {attack.eps.text} and {larger} at twice that: the "
            "gradients mislead, so the model may only look robust"
        )
    if unbounded:
        found.append(
            f"{unbounded} of {len(some)} examples survive PGD without a bound, which no model can: the gradients "
            "mislead, so the model may only look robust"
        )
    return found


def _range(evaluator: Evaluator, norm: str) -> float:
    """The largest distance between two images in a norm: an eps that bounds nothing."""
    pixels = math.prod(evaluator.examples.image_shape)
    return {"Linf": 1.0, "L2": math.sqrt(pixels), "L1": float(pixels)}[norm]


def after(broken_by: dict[str, int], examples: int) -> list[str]:
    """What the stages of a finished cascade tell, from how many examples each broke."""
    square = broken_by.get("square", 0)
    if examples and square > SQUARE_GAIN * examples:
        return [
            f"Square, which uses no gradient, broke {square} of {examples} examples that the attacks with gradients "
            "left: the gradients may be masked, and the model weaker than the number says"
        ]
    return []
