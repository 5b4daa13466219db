"""A person's own words and values in messages: as much of them as can be read."""

from __future__ import annotations

import reprlib

_MOST = 60

_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxlist, _repr.maxtuple, _repr.maxdict = 4, 8, 8, 4
_repr.maxstring = _repr.maxlong = _repr.maxother = _MOST


def short(value: object) -> str:
    """`repr` of a value of any size and depth, in at most 60 characters."""
    text = _repr.repr(value)
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."
