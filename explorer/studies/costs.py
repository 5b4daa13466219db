"""What a study will cost: times of earlier trainings and evaluations, else a few images measured.

Times of trainings are kept below the home folder, by architecture, dataset and device. They decide nothing: a study
gives the same whatever is written there.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explorer.studies.expansion import Expansion, Place, StudyModel
from explorer.studies.standing import ModelState
from explorer.training import Order
from models.datasets import registry as datasets
from models.errors import ModelsError
from models.specs import AttackSpec

#: Measuring stops after so many seconds; models that are left are taken to cost what the others of their group do.
MOST_MEASURING = 20.0
#: A gradient of the attacked images costs about this part of a training step, and a forward pass this part.
_GRADIENT, _FORWARD = 0.9, 0.3
#: Share of the passes at most that an evaluation needs, when nothing is known of the model yet.
_USUAL_SHARE = 0.6
#: Times that are kept.
_KEPT = 4000


@dataclass(frozen=True)
class Cost:
    """Seconds to come, None where nobody can tell."""

    training: float | None
    evaluating: float | None

    @property
    def seconds(self) -> float | None:
        return None if self.training is None or self.evaluating is None else self.training + self.evaluating


class Times:
    """Seconds a training image takes, as measured earlier on this machine."""

    def __init__(self, place: Place) -> None:
        self.path = place.settings.home / "studies" / "times.json"
        self.where = f"{place.device} x{place.threads or 'all'}"

    def of(self, architecture: str, dataset: str) -> float | None:
        value = self._read().get(self._key(architecture, dataset))
        return float(value) if isinstance(value, int | float) else None

    def note(self, architecture: str, dataset: str, seconds: float) -> None:
        """Keep a time; a home that cannot be written to keeps none."""
        found = self._read()
        found.pop(self._key(architecture, dataset), None)
        found[self._key(architecture, dataset)] = float(f"{seconds:.4g}")
        while len(found) > _KEPT:
            del found[next(iter(found))]
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(found, indent=0), encoding="utf-8")
            os.replace(partial, self.path)

    def _key(self, architecture: str, dataset: str) -> str:
        return f"{architecture} {dataset} {self.where}"

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def estimate(states: Sequence[ModelState], expansion: Expansion, place: Place, *, measure: bool = True) -> list[Cost]:
    """What is left to do for every model. Imports torch to `measure` what was never timed."""
    times, seconds = Times(place), _Seconds(place, measure)
    known = _evaluation_seconds(place)
    return [_cost(state, expansion, times, seconds, known) for state in states]


class _Seconds:
    """Seconds a training image takes, measured within a budget; for the rest, those of the group."""

    def __init__(self, place: Place, measure: bool) -> None:
        self.place, self.measure = place, measure
        self.spent = 0.0
        self._groups: dict[tuple[str, str], list[float]] = {}

    def of(self, model: StudyModel, times: Times) -> float | None:
        found = times.of(model.architecture, model.dataset)
        like = self._groups.setdefault((model.group, model.dataset), [])
        if found is None and self.measure and model.spec is not None and self.spent < MOST_MEASURING:
            began = time.monotonic()
            found = self._measured(model)
            self.spent += time.monotonic() - began
            if found is not None:
                times.note(model.architecture, model.dataset, found)
        if found is None:
            return sum(like) / len(like) if like else None
        like.append(found)
        return found

    def _measured(self, model: StudyModel) -> float | None:
        from models import devices
        from models.training import timing

        assert model.spec is not None
        try:
            devices.set_threads(self.place.threads)
            return timing.seconds_an_image(model.spec, datasets.find(model.dataset), devices.choose(self.place.device))
        except (ModelsError, RuntimeError, MemoryError, ValueError):
            return None  # the run will say what is wrong with it


def _cost(
    state: ModelState,
    expansion: Expansion,
    times: Times,
    seconds: _Seconds,
    known: Mapping[tuple[str, str, str], float],
) -> Cost:
    model = state.model
    if state.weights in ("needed", "no data") and model.order is None:
        return Cost(None, None)
    to_train = state.is_to_train
    done = {one.attack.identity for one in state.evaluations if one.status == "complete"}
    missing = [attack for attack in expansion.all_attacks if attack.identity not in done]
    if not to_train and not missing:
        return Cost(0.0, 0.0)
    recorded = [known.get((model.architecture, model.dataset, attack.identity)) for attack in missing]
    an_image = seconds.of(model, times) if to_train or None in recorded else 0.0
    if an_image is None:
        return Cost(None, None)
    dataset = datasets.find(model.dataset)
    n = expansion.study.examples or dataset.sizes.get(dataset.split_named("test"), 0)
    evaluating = 0.0
    for attack, earlier in zip(missing, recorded, strict=True):
        each = an_image * _share(attack, dataset.n_classes)
        evaluating += earlier * n if earlier is not None else n * each
    training = epochs_of(model.order) * dataset.sizes.get("train", 0) * an_image if to_train and model.order else 0.0
    return Cost(training, evaluating)


def _share(attack: AttackSpec, classes: int) -> float:
    """Training steps that an image under attack costs as much as."""
    from models import estimating

    forwards, backwards = estimating.cost(attack, classes)
    return _USUAL_SHARE * (backwards * _GRADIENT + (forwards - backwards) * _FORWARD)


def epochs_of(order: Order) -> float:
    """Epochs of a training as an architecture's own steps cost; those of an ensemble's members are the whole's."""
    first = (order.parts or (order,))[0].resolved()
    return first.epochs * (1 + (first.adversary_steps if first.adversary != "none" else 0))


def _evaluation_seconds(place: Place) -> dict[tuple[str, str, str], float]:
    """Seconds an example of finished evaluations, by architecture, dataset and attack."""
    from store import Store
    from store.errors import StoreNotFound

    try:
        with Store(place.settings.store).read() as connection:
            rows = connection.execute(
                "SELECT e.architecture_id, d.name, e.attack_id, sum(e.seconds) / sum(e.n_done) "
                "FROM evaluations AS e JOIN datasets AS d USING (dataset_id) "
                "WHERE e.status = 'complete' AND e.n_done > 0 AND e.seconds IS NOT NULL GROUP BY ALL"
            ).fetchall()
    except StoreNotFound:
        return {}
    return {(row[0], row[1], row[2]): float(row[3]) for row in rows}


def about(seconds: float | None) -> str:
    """A time as people say it: 40 s, 12 min, 3.5 h, 12 days."""
    if seconds is None:
        return "?"
    for limit, size, unit in ((90, 1, "s"), (90 * 60, 60, "min"), (36 * 3600, 3600, "h")):
        if seconds < limit:
            value = seconds / size
            return f"{value:.1f} {unit}" if unit == "h" and value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
