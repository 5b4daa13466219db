"""What makes networks alike beside their topology: their size and how they were trained.

A *design* is both. Groups are compared within one design wherever one has networks of both; otherwise each group is
held to one recipe, and the comparison says so. Printed rows have no design: the study calls them comparable.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from explorer.findings.model import GROUPS, Design
from models.errors import InvalidSpec
from models.specs import canonical_json, split_options

if TYPE_CHECKING:
    from explorer.findings.evidence import Result

_Key = TypeVar("_Key", bound=Hashable)
#: Keys of a recipe that do not decide how a network is trained, or decide only chance.
_NO_SETTINGS = ("name", "seed", "combiner")
#: Between the kind of cell and the seed in the name of a sampled ensemble.
_ENSEMBLE = "-ensemble-"


@dataclass(frozen=True)
class Training:
    """A recipe that a model was trained by, without its seed. Two names of the same settings are one recipe."""

    #: The settings as canonical JSON.
    identity: str
    name: str = field(compare=False)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by key."""
        read: dict[str, Any] = json.loads(self.identity)
        return read

    @property
    def said(self) -> str:
        """`fast, 12 epochs`."""
        epochs = self.settings.get("epochs")
        return self.name + (f", {epochs} epoch{'s' * (epochs != 1)}" if epochs else "")


def training_of(recipe: Any) -> Training | None:
    """The training that a stored recipe tells of; of an ensemble that of its members, each trained apart. None where it
    is not known, also of one member only."""
    if not isinstance(recipe, Mapping) or not recipe:
        return None
    if isinstance(recipe.get("members"), list):
        members = [training_of(member) for member in recipe["members"]]
        known = [member for member in members if member is not None]
        if len(known) < len(members) or not known:
            return None
        kinds = {member.identity: member for member in known}
        names = "+".join(dict.fromkeys(member.name for member in known))
        if len(kinds) == 1:
            return Training(known[0].identity, names)
        return Training(canonical_json({"members": [member.identity for member in known]}), names)
    settings = {key: value for key, value in recipe.items() if key not in _NO_SETTINGS}
    name = str(recipe.get("name") or "a recipe without a name")
    # Of weights from elsewhere the name may be all that there is.
    return Training(canonical_json(settings or {"name": name}), name)


def scale_of(architecture_id: str, options: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """Topology and size of an architecture: `darts` and `init_channels=8,layers=5`; the size is empty where no option
    says it.

    `options` name those that make another `topology`, and those by which the members of an ensemble are `joined`. An
    ensemble has as many cells as its members together: `cells=6-3-1` is `layers=10`.
    """
    try:
        name, given = split_options(architecture_id)
    except InvalidSpec:
        return architecture_id, ""
    space, ensemble, _ = name.partition(_ENSEMBLE)
    if ensemble and "cells" in given:
        from models.ensembles.composition import CELLS_OPTION, cell_counts

        total = sum(cell_counts(given["cells"])) if given["cells"].replace("-", "").isdigit() else given["cells"]
        given = {key: value for key, value in given.items() if key not in ("cells", *options["joined"])}
        given[CELLS_OPTION.get(space, "cells")] = str(total)
    own = _written({key: value for key, value in given.items() if key in options["topology"]})
    size = _written({key: value for key, value in given.items() if key not in options["topology"]})
    return f"{name}@{own}" if own else name, size


def _written(given: Mapping[str, str]) -> str:
    return ",".join(f"{key}={given[key]}" for key in sorted(given))


# -- alike -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alike:
    """What of two groups is compared: the results, the design they share if they do, and what to say of the rest."""

    a: list[Result]
    b: list[Result]
    design: Design | None
    cautions: tuple[str, ...]


def alike(a: Sequence[Result], b: Sequence[Result]) -> Alike:
    """Those results of two groups that are most alike.

    Of the designs that both have, the one with the most topologies in the smaller group (then in the other, then the
    most models, then by its text). Where they share none, each group's recipe with the most topologies (then the one
    of which the other group has the most, then the most models, then by its text).
    """
    if a[0].source == "published":
        return Alike(list(a), list(b), None, ())
    first, second = _by(a, _design), _by(b, _design)
    # Networks whose options say no size are of as many sizes as there are networks.
    shared = [key for key in first if key in second and key[0]]
    if not shared:
        kept_a, kept_b = _one_recipe(a, b), _one_recipe(b, a)
        left = _left_out(a, kept_a, "by other recipes") + _left_out(b, kept_b, "by other recipes")
        return Alike(kept_a, kept_b, None, (*left, *_unlike(kept_a, kept_b)))

    def order(key: tuple[str, str]) -> tuple[int, int, int, tuple[str, str]]:
        counts = sorted((_topologies(first[key]), _topologies(second[key])))
        return -counts[0], -counts[1], -_models([*first[key], *second[key]]), key

    chosen = min(shared, key=order)
    kept_a, kept_b = first[chosen], second[chosen]
    left = _left_out(a, kept_a, "in other sizes or by other recipes")
    left += _left_out(b, kept_b, "in other sizes or by other recipes")
    return Alike(kept_a, kept_b, Design(chosen[0], recipe_said([*kept_a, *kept_b])), (*left, *_unknown(kept_a, kept_b)))


def recipe_said(rows: Sequence[Result]) -> str | None:
    """The recipe of results that share one, by every name that it has: `darts/pdarts, 30 epochs`. None where it is not
    known, or there are several."""
    if len({_recipe(row) for row in rows}) != 1:
        return None
    found = [row.training for row in rows if row.training is not None]
    if not found:
        return None
    return Training(found[0].identity, "/".join(sorted({one.name for one in found}))).said


def _by(rows: Sequence[Result], key: Callable[[Result], _Key]) -> dict[_Key, list[Result]]:
    found: dict[_Key, list[Result]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found


def _recipe(row: Result) -> str:
    return row.training.identity if row.training is not None else ""


def _design(row: Result) -> tuple[str, str]:
    return row.scale, _recipe(row)


def _topologies(rows: Sequence[Result]) -> int:
    return len({row.topology for row in rows})


def _models(rows: Sequence[Result]) -> int:
    return len({(row.model, row.architecture_id) for row in rows})


def _one_recipe(rows: Sequence[Result], others: Sequence[Result]) -> list[Result]:
    own, theirs = _by(rows, _recipe), _by(others, _recipe)

    def order(recipe: str) -> tuple[int, int, int, str]:
        return -_topologies(own[recipe]), -_topologies(theirs.get(recipe, [])), -_models(own[recipe]), recipe

    return own[min(own, key=order)]


# -- what to say of it -------------------------------------------------------------------------------------------------


def _left_out(rows: Sequence[Result], kept: Sequence[Result], how: str) -> tuple[str, ...]:
    lost = _models(rows) - _models(kept)
    return (f"{GROUPS[rows[0].group]}: {lost} model{'s' * (lost != 1)} {how} left out",) if lost else ()


def _unlike(a: Sequence[Result], b: Sequence[Result]) -> tuple[str, ...]:
    """That two groups share no design, and what is mixed within each of them."""
    said_a, said_b = recipe_said(a), recipe_said(b)
    if _recipe(a[0]) == _recipe(b[0]):
        found = ["the groups share no size"]
    else:
        told = [
            f"{GROUPS[rows[0].group]} by {said or 'recipes that are not known'}"
            for rows, said in ((a, said_a), (b, said_b))
        ]
        if said_a == said_b:
            told.append(f"they differ in {', '.join(_differing(a[0], b[0]))}")
        found = [f"the groups share no size and recipe: {'; '.join(told)}"]
    for rows in (a, b):
        sizes = sorted({row.scale or row.topology for row in rows})
        if len(sizes) > 1:
            several = [len({row.scale for row in same}) for same in _by(rows, lambda row: row.topology).values()]
            pooled = sum(count > 1 for count in several)
            of_one = f", {pooled} of the topologies in several" if pooled else ""
            found.append(f"{GROUPS[rows[0].group]}: {len(sizes)} sizes are mixed{of_one}")
    return (*found, *_unknown(a, b))


def _differing(a: Result, b: Result) -> list[str]:
    first, second = (row.training.settings if row.training is not None else {} for row in (a, b))
    return [key for key in sorted({*first, *second}) if first.get(key) != second.get(key)]


def _unknown(a: Sequence[Result], b: Sequence[Result]) -> tuple[str, ...]:
    """Where trainings are not known, there may be several of them."""
    groups = [GROUPS[rows[0].group] for rows in (a, b) if not _recipe(rows[0])]
    return (f"how {' and '.join(groups)} were trained is not known: recipes may be mixed",) if groups else ()
