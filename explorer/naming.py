"""What models are called where there is little room: by what tells them apart."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Options by the names of papers, which the command line understands too: they leave room for the values.
PAPERS = {"init_channels": "C", "layers": "L"}


def telling_names(models: Iterable[tuple[str, int | None]]) -> dict[tuple[str, int | None], str]:
    """Models, each an architecture (`darts@layers=10,init_channels=4`) and the seed of its training, by short names.

    Of several with one name the options that differ among them are there (`darts@L=10,C=4`), those with the most values
    first, and a seed (`s1`) where nothing else differs.
    """
    found = dict.fromkeys(models)
    of_name: dict[str, dict[str, dict[str, str]]] = {}
    for architecture, _ in found:
        name, _, rest = architecture.partition("@")
        options = dict(part.partition("=")[::2] for part in re.split(r",(?=\w+=)", rest) if part)
        of_name.setdefault(name, {})[architecture] = options
    short: dict[str, str] = {}
    for name, variants in of_name.items():
        values: dict[str, set[str | None]] = {}
        for key in (key for options in variants.values() for key in options):
            values[key] = {options.get(key) for options in variants.values()}
        differing = sorted((key for key in values if len(values[key]) > 1), key=lambda key: -len(values[key]))
        for architecture, options in variants.items():
            told = ",".join(f"{PAPERS.get(key, key)}={options[key]}" for key in differing if key in options)
            short[architecture] = f"{name}@{told}" if told else name
    seeds: dict[str, set[int | None]] = {}
    for architecture, seed in found:
        seeds.setdefault(architecture, set()).add(seed)
    return {
        (architecture, seed): short[architecture]
        + (f" s{seed}" if seed is not None and len(seeds[architecture]) > 1 else "")
        for architecture, seed in found
    }


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Architectures by names that tell them apart: without options, or with those that differ among them."""
    return {name: short for (name, _), short in telling_names((name, None) for name in names).items()}
