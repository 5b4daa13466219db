"""What an ensemble is made of, torch-free: members, and the rule by which they are combined.

Two kinds have names. A *sampled* one, `darts-ensemble-7@cells=12-6-2`, follows from its seed and its options: member i
is the random cell of seed 1000 x 7 + i, stacked as often as `cells` says (arXiv:2007.08428, section 5). A *picked* one,
`ensemble-3f9a...`, is a list of architectures that somebody chose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.architectures import external, registry
from models.architectures.definitions import PLAIN_NAME, Definition
from models.architectures.wording import short
from models.errors import InvalidSpec
from models.specs import ArchitectureSpec, AttackSpec, Preprocessing

#: Every rule, with what it does.
RULES: dict[str, str] = {
    "mean-logits": "the mean of the members' logits",
    "mean-probs": "the logarithm of the mean of the members' probabilities",
    "log-mean": "the mean of the logarithms of the members' probabilities: their geometric mean",
    "majority": "the class that most members vote for; between equal counts the mean of the probabilities decides",
    "learned": "two linear layers with BatchNorm and a classifier over the members' logits, tuned while the members "
    "stand still (arXiv:2007.08428)",
    "features-mean": "one linear classifier on the mean of the members' last feature maps, all trained together",
    "features-concat": "one linear classifier on a 1x1 convolution of the members' last feature maps side by side, "
    "all trained together",
}
#: Rules of which all parts are trained together.
JOINT = ("features-mean", "features-concat")
#: Rules with parameters of their own, tuned after the members.
LEARNED = ("learned",)

#: A sampled ensemble's members have the seeds from so many times its own.
SEEDS_EACH = 1000
MOST_MEMBERS = 100
#: No normalisation has such numbers, and a float holds them.
_LARGE = 1e30

#: Of each space that is sampled: the option of its networks that counts cells.
CELLS_OPTION = {"darts": "layers", "nasbench201": "cells_per_stage"}


@dataclass(frozen=True)
class Member:
    """A member: its architecture, and the normalisation that it alone has, None where the ensemble's serves all."""

    architecture: str
    preprocessing: Preprocessing | None = None

    @property
    def spec(self) -> ArchitectureSpec:
        return registry.parse_architecture(self.architecture)


@dataclass(frozen=True)
class Composition:
    """The members of an ensemble in order, and how they are combined."""

    members: tuple[Member, ...]
    combine: str
    #: Hidden width of the learned combiner.
    width: int

    @property
    def joint(self) -> bool:
        """Whether everything is trained together, so that no member exists alone."""
        return self.combine in JOINT

    @property
    def learned(self) -> bool:
        """Whether a combiner is to be tuned once the members are trained."""
        return self.combine in LEARNED


def is_ensemble(architecture: str) -> bool:
    """Whether an architecture, by name or canonical text, is an ensemble. Raises what `registry.find` does."""
    return registry.find(architecture.partition("@")[0]).family == "ensemble"


def of(spec: ArchitectureSpec) -> Composition:
    """What an ensemble is made of. Raises `InvalidSpec` for an architecture that is none."""
    definition = registry.find(spec.name).definition
    if definition is None or definition.space != "ensemble":
        raise InvalidSpec(f"{spec.canonical} is no ensemble.")
    return compose(definition.data, dict(spec.options))


def compose(data: dict[str, Any], options: dict[str, Any]) -> Composition:
    """The composition of a definition's data under the options of its architecture."""
    combine, width = str(options["combine"]), int(options.get("width", 64))
    if "members" in data:
        return Composition(tuple(_picked(m) for m in data["members"]), combine, width)
    space, seed = data["space"], data["seed"]
    own = {k: v for k, v in options.items() if k not in ("cells", "combine", "width")}
    members = []
    for i, count in enumerate(cell_counts(str(options["cells"]))):
        name = f"{space}-random-{seed * SEEDS_EACH + i}"
        spec = registry.parse_architecture(name, {**own, CELLS_OPTION[space]: count})
        members.append(Member(spec.canonical))
    return Composition(tuple(members), combine, width)


def check_threat_space(attack: AttackSpec, architecture: ArchitectureSpec, normal: Preprocessing) -> None:
    """Raise `InvalidSpec` for an attack on normalised inputs where networks that take part normalise differently.

    In the threat space normalized-clamped the perturbation is one of the tensor behind `normal`, the normalisation of
    the attacked model. Members with others of their own, or a surrogate with another, would see another image in it.
    """
    if attack.threat_space == "pixel":
        return
    source = attack.surrogate
    who = None
    if is_ensemble(architecture.name) and any(m.preprocessing not in (None, normal) for m in of(architecture).members):
        who = f"the members of {architecture.canonical}"
    elif source is not None and Preprocessing(source.mean, source.std) != normal:
        who = f"{architecture.canonical} and the surrogate {source.architecture}"
    if who is not None:
        raise InvalidSpec(
            f"{who} normalise images differently, so an eps in the threat space {attack.threat_space} means another "
            "perturbation for each: use --threat-space pixel."
        )


def cell_counts(text: str) -> list[int]:
    """The numbers in `12-6-2`."""
    return [int(part) for part in text.split("-")]


def picked(members: list[Member]) -> Definition:
    """The definition of an ensemble of these members. Raises `InvalidSpec` for fewer than two or too many."""
    data = {"members": [_as_data(member) for member in members]}
    return Definition.from_dict({"space": "ensemble", "data": data}, picked=True)


def _as_data(member: Member) -> dict[str, Any]:
    found: dict[str, Any] = {"architecture": member.architecture}
    if member.preprocessing is not None:
        found |= {"mean": list(member.preprocessing.mean), "std": list(member.preprocessing.std)}
    definition = registry.find(member.architecture.partition("@")[0]).definition
    if definition is not None:
        # So that the ensemble means the same where nobody has heard of the member.
        found["definition"] = definition.to_dict()
    return found


def _picked(data: dict[str, Any]) -> Member:
    normal = Preprocessing(tuple(data["mean"]), tuple(data["std"])) if "mean" in data else None
    return Member(data["architecture"], normal)


def check(data: dict[str, Any]) -> dict[str, Any]:
    """The data of an ensemble's definition in normal form: `space` and `seed`, or `members`.

    Definitions that the members carry are kept, so that their names are known here. Raises `InvalidSpec`.
    """
    from models.architectures import definitions

    if "members" not in data:
        return _checked_sample(data)
    members = data["members"]
    if not isinstance(members, list) or not 2 <= len(members) <= MOST_MEMBERS:
        raise InvalidSpec(f"an ensemble has 2 to {MOST_MEMBERS} members.")
    found = []
    for entry in members:
        if not (isinstance(entry, dict) and isinstance(entry.get("architecture"), str)):
            raise InvalidSpec(f"a member of an ensemble names its architecture, unlike {short(entry)}.")
        text = entry["architecture"]
        name = text.partition("@")[0]
        if not (PLAIN_NAME.fullmatch(name) or external.is_factory(name)):
            raise InvalidSpec(f"{short(name)} is no name of an architecture, so it is no member of an ensemble.")
        given = entry.get("definition")
        if isinstance(given, dict) and given.get("space") == "ensemble":
            raise InvalidSpec("a member of an ensemble is a network, not another ensemble.")
        carried = Definition.from_dict(given) if given is not None else None
        if carried is not None and carried.name == name:
            definitions.remember(carried)
        known = registry.find(name)
        if known.family == "ensemble":
            raise InvalidSpec("a member of an ensemble is a network, not another ensemble.")
        if carried is not None and known.definition != carried:
            raise InvalidSpec(f"the member {short(name)} is another here than where the ensemble was made.")
        found.append(_as_data(Member(registry.parse_architecture(text).canonical, _normalisation(entry, name))))
    return {"members": found}


def _normalisation(entry: dict[str, Any], name: str) -> Preprocessing | None:
    if "mean" not in entry and "std" not in entry:
        return None
    lists = [entry.get("mean"), entry.get("std")]
    if not all(isinstance(values, list) and all(map(_is_number, values)) for values in lists):
        raise InvalidSpec(f"mean and std of the member {short(name)} are lists of numbers.")
    mean, std = (tuple(map(float, values or ())) for values in lists)
    return Preprocessing(mean, std)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGE


def _checked_sample(data: dict[str, Any]) -> dict[str, Any]:
    space, seed = data.get("space"), data.get("seed")
    if not isinstance(space, str) or space not in CELLS_OPTION:
        raise InvalidSpec(f"an ensemble is sampled from {' or '.join(CELLS_OPTION)}, or it lists its members.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= registry.LARGEST_OF_ENSEMBLES:
        raise InvalidSpec(
            f"the seed of an ensemble is a whole number from 0 to {registry.LARGEST_OF_ENSEMBLES}, not {short(seed)}."
        )
    return {"space": space, "seed": seed}
