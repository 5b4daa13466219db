"""Errors of the models room. Each message is one sentence or two that a user can act on."""

from __future__ import annotations

from collections.abc import Iterable


class ModelsError(Exception):
    """Base of all errors here. `str(error)` says what happened, where, and what to do next."""


class InvalidSpec(ModelsError):
    """What was asked for makes no sense: an eps that does not parse, an option out of range."""


class UnknownName(InvalidSpec):
    """A name that no registry holds; carries the nearest known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, listing: str) -> None:
        self.kind = kind
        self.name = name
        self.suggestions = nearest(name, known)
        hint = f" Did you mean {' or '.join(repr(s) for s in self.suggestions)}?" if self.suggestions else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} `{listing}` lists what there is.")


class WeightsError(ModelsError):
    """Weights that cannot be read, do not fit the architecture, or are missing."""


class DataError(ModelsError):
    """A dataset that is missing, damaged, or not in the shape that was promised."""


class EvaluationError(ModelsError):
    """An evaluation that cannot give a number anybody should believe."""


class OutputError(ModelsError):
    """A file that cannot be written: no room, no permission."""


class DeviceError(ModelsError):
    """A device that is not there, or that ran out of memory."""


def nearest(name: str, known: Iterable[str], *, limit: int = 2) -> list[str]:
    """The known names closest to `name`, best first; empty when nothing is close."""
    from rapidfuzz import fuzz, process

    folded = {k: k.lower().replace("_", "-") for k in known}
    found = process.extract(name.lower().replace("_", "-"), folded, scorer=fuzz.ratio, limit=limit, score_cutoff=60)
    return [str(key) for _, _, key in found]
