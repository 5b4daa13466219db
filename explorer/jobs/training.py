"""A request to train: networks and ensembles, and the evaluations to do once there are weights. Torch-free.

It is written to a job's folder like a request to evaluate, marked with its kind. What is to be attacked afterwards is
named by its attacks alone: only training tells the SHA-256 that an evaluation is known by.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from explorer import ensembles
from explorer.errors import ExplorerError
from explorer.jobs.request import TRAINING, Request, RequestedModel, StepKind
from explorer.training import Order
from models.architectures import external
from models.architectures import registry as architectures
from models.attacks import registry as attacks
from models.devices import check_name
from models.ensembles import composition
from models.errors import InvalidSpec, ModelsError
from models.specs import AttackSpec, format_option

VERSION = 1


@dataclass(frozen=True)
class RequestedTraining:
    """An order to train, as text: architecture (canonical), dataset, seed, recipe (None: the architecture's own) and
    the keys of the recipe and of an ensemble's combiner that are to be others.
    """

    architecture: str
    dataset: str
    seed: int = 0
    recipe: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    combiner: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, order: Order) -> RequestedTraining:
        """The same, as text; keys that are not overridden are left out."""
        return cls(
            order.architecture.canonical,
            order.dataset,
            order.seed,
            order.recipe,
            {key: value for key, value in order.overrides.items() if value is not None},
            {key: value for key, value in order.combiner.items() if value is not None},
        )

    def order(self) -> Order:
        """Raises `ModelsError` for an architecture that nobody knows."""
        spec = architectures.parse_architecture(self.architecture)
        return Order(spec, self.dataset, self.seed, self.recipe, dict(self.overrides), dict(self.combiner))

    @property
    def ensemble(self) -> bool:
        return composition.is_ensemble(self.architecture)

    @property
    def members(self) -> tuple[str, ...]:
        """The architectures of an ensemble's members, where each stands alone."""
        if not self.ensemble:
            return ()
        made_of = composition.of(architectures.parse_architecture(self.architecture))
        return () if made_of.joint else tuple(member.architecture for member in made_of.members)

    def _check_kinds(self) -> None:
        """Raise `TypeError` for values of other kinds than they are declared."""
        for value, kinds in (
            (self.architecture, str),
            (self.dataset, str),
            (self.seed, int),
            (self.recipe, str | None),
            (self.overrides, dict),
            (self.combiner, dict),
        ):
            if not isinstance(value, kinds):
                raise TypeError(f"{value!r} is not what belongs there")


@dataclass(frozen=True)
class Afterwards:
    """What is evaluated of everything that was trained: the attacks on the first `examples` of a split.

    Of ensembles, `members` attacks each member alone too, `transfer` makes the attacks on each part and judges them on
    each other part, and `gradients` measures the angles between the members' gradients.
    """

    attacks: tuple[AttackSpec, ...]
    examples: int | None = None
    split: str = "test"
    members: bool = False
    transfer: bool = False
    gradients: bool = False


@dataclass(frozen=True)
class Step:
    """One training of a job: of a network, of an ensemble's member, or of the whole that is made of members, whose
    epochs are those of its combiner (0 where none learns).
    """

    number: int
    kind: StepKind
    order: Order
    epochs: int


@dataclass(frozen=True)
class TrainingRequest:
    """Trainings in order, each followed by what is to be done with its weights."""

    orders: tuple[RequestedTraining, ...]
    store: str
    then: Afterwards | None = None
    device: str = "auto"
    threads: int | None = None
    force: bool = False
    data_root: str | None = None
    #: Folder in which the request was made, where it needs a module that may lie there.
    import_from: str | None = None
    version: int = field(default=VERSION)

    @classmethod
    def of(
        cls, orders: Sequence[Order], store: Path | str, *, then: Afterwards | None = None, **more: Any
    ) -> TrainingRequest:
        """A request for these orders, checked; `more` are further fields. Raises `ModelsError`."""
        here = any(external.is_factory(order.architecture.name) for order in orders)
        found = cls(
            tuple(map(RequestedTraining.of, orders)),
            str(store),
            then,
            import_from=str(Path.cwd()) if here else None,
            **more,
        )
        found.check()
        return found

    def check(self) -> None:
        """Raise `ModelsError` now for what would be refused in the middle."""
        if not self.orders:
            raise InvalidSpec("nothing to train: name at least one architecture.")
        check_name(self.device)
        if self.threads is not None and self.threads < 1:
            raise InvalidSpec(f"--threads must be at least 1, not {self.threads}.")
        for requested in self.orders:
            order = requested.order()
            order.check()
            joint = requested.ensemble and not requested.members
            if joint and self.then is not None and (self.then.transfer or self.then.gradients):
                raise InvalidSpec(
                    f"the members of {requested.architecture} are trained together and do not stand alone: "
                    "attack the whole only."
                )

    def to_json(self) -> str:
        data: dict[str, Any] = {"kind": TRAINING, **asdict(self)}
        if self.then is not None:
            data["then"]["attacks"] = [attack.to_dict() for attack in self.then.attacks]
        return json.dumps(data, indent=2)

    @classmethod
    def from_json(cls, text: str, path: Path) -> TrainingRequest:
        """Raises `ExplorerError` for a request that is damaged or from another version."""
        try:
            data: dict[str, Any] = json.loads(text)
            if data["version"] != VERSION:
                raise ExplorerError(f"{path} is a request of version {data['version']}; this software reads {VERSION}.")
            if data.pop("kind") != TRAINING:
                raise ValueError("it is no request to train")
            data["orders"] = tuple(RequestedTraining(**order) for order in data["orders"])
            for order in data["orders"]:
                order._check_kinds()
            if data.get("then") is not None:
                then = data["then"]
                data["then"] = Afterwards(
                    **{**then, "attacks": tuple(AttackSpec.from_dict(attack) for attack in then["attacks"])}
                )
            return cls(**data)
        except (KeyError, TypeError, ValueError, AttributeError, ModelsError) as error:
            raise ExplorerError(f"{path} is not a valid request ({error}).") from None

    @property
    def root(self) -> Path | None:
        """The folder that datasets are looked for in, None for the usual one."""
        return Path(self.data_root) if self.data_root else None

    @property
    def title(self) -> str:
        """What the job is, in one line."""
        names = _few([order.architecture for order in self.orders])
        data = _few(list(dict.fromkeys(order.dataset for order in self.orders)))
        seeds = list(dict.fromkeys(order.seed for order in self.orders))
        seed = f", seed {_few(list(map(str, seeds)))}" if seeds != [0] else ""
        then = f" · {_few([attack.label for attack in self.then.attacks])}" if self.then and self.then.attacks else ""
        return f"train {names} on {data}{seed}{then}"

    def command(self) -> str:
        """The command lines that ask for the same, one below the other.

        Raises `InvalidSpec` for what no command line describes, such as a combiner with a learning rate of its own.
        """
        lines = [*map(shlex.join, self._train_commands()), *map(shlex.join, self._attack_commands())]
        return "\n".join(lines)

    def evaluations(self, requested: RequestedTraining) -> list[tuple[str, AttackSpec]]:
        """Architecture and attack of every evaluation that follows a training, in the order of `requests`."""
        then = self.then
        if then is None or not then.attacks:
            return []
        names = [requested.architecture, *(requested.members if then.members or then.transfer else ())]
        found = [(name, attack) for name in (names if then.members else names[:1]) for attack in then.attacks]
        if then.transfer and requested.ensemble:
            movable = [a for a in then.attacks if not a.stages and attacks.find(a.name).transfers]
            for i in range(len(names)):
                found += [(name, attack) for j, name in enumerate(names) if j != i for attack in movable]
        return found

    def whole(self, requested: RequestedTraining, model: RequestedModel) -> Request:
        """The attacks on what came out of a training, and nothing else."""
        then = self.then or Afterwards(())
        return Request(
            models=(model,),
            dataset=requested.dataset,
            split=then.split,
            examples=then.examples,
            attacks=then.attacks,
            store=self.store,
            device=self.device,
            threads=self.threads,
            force=self.force,
            data_root=self.data_root,
            import_from=self.import_from,
        )

    def requests(self, requested: RequestedTraining, model: RequestedModel) -> list[Request]:
        """The evaluations that follow a training, now that its weights are known; as many as `evaluations` says."""
        then = self.then
        if then is None or not then.attacks:
            return []
        whole = self.whole(requested, model)
        first = ensembles.with_members(whole) if then.members else whole
        return [first, *(ensembles.transfers(whole) if then.transfer else [])]

    def steps(self) -> list[Step]:
        """Every training of the request in order, the members of an ensemble before the whole. Raises `ModelsError`."""
        found: list[Step] = []
        for requested in self.orders:
            order = requested.order()
            parts = order.parts
            for part in parts:
                found.append(Step(len(found) + 1, "member", part, part.resolved().epochs))
            if parts:
                learned = composition.of(order.architecture).learned
                found.append(Step(len(found) + 1, "whole", order, order.tuning().epochs if learned else 0))
            else:
                found.append(Step(len(found) + 1, "network", order, order.resolved().epochs))
        return found

    # -- command lines -------------------------------------------------------------------------------------------------

    def _train_commands(self) -> list[list[str]]:
        groups: dict[str, list[RequestedTraining]] = {}
        for order in self.orders:
            alike = replace(order, architecture="ensemble" if order.combiner else "")
            groups.setdefault(repr(alike), []).append(order)
        return [self._train_command(alike) for alike in groups.values()]

    def _train_command(self, alike: list[RequestedTraining]) -> list[str]:
        """One line for orders that differ in their architectures alone."""
        first = alike[0]
        names = [order.architecture for order in alike]
        if first.combiner:
            if set(first.combiner) != {"epochs"}:
                raise InvalidSpec("no command line takes settings of a combiner but its epochs.")
            words = ["nasrob-tui", "ensemble", "train", *names, "--combiner-epochs", str(first.combiner["epochs"])]
        else:
            words = ["nasrob-tui", "train", *(word for name in names for word in ("--arch", name))]
        words += ["--dataset", first.dataset, "--seed", str(first.seed)]
        words += ["--recipe", first.recipe] if first.recipe else []
        for key, value in first.overrides.items():
            words += ["--set-recipe", f"{key}={format_option(value)}"]
        return words + self._place() + (["--force"] if self.force else [])

    def _attack_commands(self) -> list[list[str]]:
        then = self.then
        if then is None or not then.attacks:
            return []
        found = []
        for dataset in dict.fromkeys(order.dataset for order in self.orders):
            here = [order for order in self.orders if order.dataset == dataset]
            apart = then.members or then.transfer or then.gradients
            taken = [order.architecture for order in here if apart and order.ensemble]
            rest = [order.architecture for order in here if order.architecture not in taken]
            if rest:
                words = ["nasrob-tui", "eval", "--headless"]
                words += [word for name in dict.fromkeys(rest) for word in ("--arch", name)]
                words += [] if then.split == "test" else ["--split", then.split]
                found.append(words + self._attack_options(dataset))
            if taken:
                if then.split != "test" or then.attacks[0].threat_space != "pixel":
                    raise InvalidSpec("no command line attacks members on another split or in another threat space.")
                flags = [f"--{'' if then.members else 'no-'}members"]
                flags += [f"--{name}" for name in ("transfer", "gradients") if getattr(then, name)]
                words = ["nasrob-tui", "ensemble", "attack", *dict.fromkeys(taken), *flags]
                found.append(words + self._attack_options(dataset))
        return found

    def _attack_options(self, dataset: str) -> list[str]:
        assert self.then is not None
        then = self.then
        words = ["--dataset", dataset]
        for attack in then.attacks:
            words += ["--attack", attacks.inline(attack)]
        words += ["--examples", str(then.examples)] if then.examples is not None else []
        first = then.attacks[0]
        words += ["--seed", str(first.seed)] if first.seed else []
        words += ["--threat-space", first.threat_space] if first.threat_space != "pixel" else []
        return words + self._place() + (["--force"] if self.force else [])

    def _place(self) -> list[str]:
        words = ["--device", self.device] if self.device != "auto" else []
        words += ["--threads", str(self.threads)] if self.threads is not None else []
        words += ["--data-root", self.data_root] if self.data_root else []
        return [*words, "--store", self.store]


def _few(names: list[str]) -> str:
    """The first two, and how many more there are."""
    return ", ".join(names[:2]) + (f" +{len(names) - 2}" if len(names) > 2 else "")
