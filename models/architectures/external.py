"""Names of networks that other packages build: torchvision's, timm's, registered ones, and any importable factory.

Torch-free: a name is understood here, and its package imported only when the network is built.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from models.architectures.wording import short
from models.errors import InvalidSpec, UnknownName
from models.specs import OptionValue

if TYPE_CHECKING:
    from models.architectures.registry import Architecture

#: Packages name the architectures that they add in this entry point group: name = "package.module:factory".
ENTRY_POINTS = "nasrob.architectures"

_PYTHON_FILE = re.compile(r"(?P<folder>.*[/\\])?(?P<stem>[^/\\:]+)\.py(:(?P<function>[\w.]*))?")
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_OUR_ROOMS = ("models", "store", "explorer")
_BUILDERS = "models.architectures.factories"

#: Families of torchvision and timm whose layers a search chose.
_SEARCHED = re.compile(
    r"(tf_)?(efficientnet|mnasnet|semnasnet|nasnet|pnasnet|fbnet|spnasnet|hardcorenas|tinynet|mixnet|mobilenet_?v3)"
)


def read_value(value: object) -> OptionValue:
    """An option of a factory as a number, true or false where it reads as one, else as text."""
    if isinstance(value, (bool, int, float)):
        return value
    text = str(value).strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def find(name: str) -> Architecture | None:
    """The architecture that another package builds, None when the name is no such name.

    Raises `UnknownName` or `InvalidSpec` for one that cannot be built.
    """
    text = name.strip()
    for prefix in ("torchvision:", "torchvision_", "torchvision-"):
        if text.lower().startswith(prefix):
            return _torchvision(text[len(prefix) :])
    for prefix in ("timm:", "timm_", "timm-"):
        if text.lower().startswith(prefix):
            return _timm(text[len(prefix) :])
    if (point := _entry_points().get(text)) is not None:
        return _factory(text, point.value, f"registered by {point.dist.name if point.dist else 'a package'}")
    if match := _PYTHON_FILE.fullmatch(text):
        module = re.sub(r"\W", "_", match["stem"])
        called = "" if module == match["stem"] else f" (call the file {module}.py)"
        raise InvalidSpec(
            f"{short(text)} is a file: write {module}:{match['function'] or 'factory'}, with the name of the function "
            f"or class that makes the network; modules are looked for in the current folder, so run there{called}."
        )
    if _FACTORY.fullmatch(text):
        root = re.split(r"[.:]", text)[0]
        if root in _OUR_ROOMS:
            raise InvalidSpec(
                f"{root!r} is a package of nasrob-tui itself, so {text} cannot mean yours: put the factory into a "
                "module of another name, or import it in one, such as my_networks.py."
            )
        return _factory(text, text, f"the factory {text}")
    return None


def packaged(name: str) -> list[str]:
    """What to write for a name that a package gives one of its models: `torchvision:mnasnet1_0`."""
    folded = name.strip().lower().replace("-", "_")
    found = [f"torchvision:{folded}"] if folded in torchvision_models() else []
    return [*found, f"timm:{folded}"] if folded.partition(".")[0] in _timm_models() else found


@cache
def _timm_models() -> frozenset[str]:
    """Names of timm's models, read off its source: importing it would import torch."""
    found = importlib.util.find_spec("timm")
    names: set[str] = set()
    for folder in (found.submodule_search_locations or ()) if found else ():
        for path in Path(folder, "models").glob("*.py"):
            names |= set(re.findall(r"@register_model\s+def (\w+)", path.read_text(encoding="utf-8", errors="replace")))
    return frozenset(names)


def _factory(name: str, target: str, source: str) -> Architecture:
    from models.architectures.registry import Architecture

    return Architecture(
        name=name,
        family="handcrafted",
        lineage=re.split(r"[.:]", name)[0].lower(),
        builder=f"{_BUILDERS}:imported",
        options=(),
        description=f"What {target} returns",
        source=source,
        recipe="standard",
        fixed={"target": target},
        free_options=True,
        curated=False,
    )


@cache
def _entry_points() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}


def registered() -> list[Architecture]:
    """The architectures that installed packages add."""
    return [a for name in _entry_points() if (a := find(name)) is not None]


@cache
def torchvision_models() -> dict[str, dict[str, Any]]:
    """What is known of torchvision's classification models: their weights and how those want images."""
    text = resources.files("models.architectures.data").joinpath("torchvision.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def _torchvision(wanted: str) -> Architecture:
    from models.architectures.registry import Architecture

    known = torchvision_models()
    name = next((n for n in known if n.replace("_", "-") == wanted.strip().lower().replace("_", "-")), None)
    if name is None:
        name = wanted.strip().lower()
        if name not in _torchvision_lists():
            raise UnknownName("torchvision model", wanted, known, listing="nasrob-tui archs --search torchvision")
    return Architecture(
        name=f"torchvision:{name}",
        family="nas" if _SEARCHED.match(name) else "handcrafted",
        lineage=re.split(r"[_\d]", name)[0],
        builder=f"{_BUILDERS}:from_torchvision",
        options=(),
        description=f"{name} of torchvision's model registry",
        source="torchvision.models",
        recipe="standard",
        fixed={"name": name},
        auxiliary=name in ("googlenet", "inception_v3"),
        input_size=known.get(name, {}).get("input_size", 224),
        num_classes=1000,
        curated=False,
    )


@dataclass(frozen=True)
class Published:
    """A set of weights that a package publishes, and how it wants images. `weights` names it: `torchvision:…`."""

    weights: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None
    crop: int
    interpolation: Literal["bilinear", "bicubic"]


#: Folders that modules of factories are looked for in after `sys.path`; the current folder is, too.
_folders: list[str] = []


def search_also(folder: str) -> None:
    """Look for factories' modules in a folder too: the one in which a job was asked for."""
    if folder not in _folders:
        _folders.append(folder)


def import_folders() -> list[str]:
    """Folders that factories' modules may lie in, besides `sys.path`."""
    return [str(Path.cwd()), *_folders]


def target_of(name: str) -> str:
    """`package.module:factory` of a factory's name, registered ones included."""
    point = _entry_points().get(name)
    return point.value if point is not None else name


def is_factory(name: str) -> bool:
    """Whether a name stands for a callable that returns a network, perhaps with its weights."""
    return name in _entry_points() or (
        _FACTORY.fullmatch(name) is not None and not name.startswith(("timm:", "torchvision:"))
    )


def pretrained(name: str) -> str | None:
    """What `--weights` takes for the weights that an architecture's package publishes; None when there are none."""
    if name.startswith("torchvision:"):
        known = torchvision_models().get(name.partition(":")[2])
        return str(known["default"]) if known else "DEFAULT"
    return "pretrained" if name.startswith("timm:") else None


def preprocessing(name: str, weights: str) -> Published | None:
    """The published weights called `weights` (`IMAGENET1K_V2`, `DEFAULT`, `pretrained`) of an architecture.

    None when that is no such name. Raises `UnknownName` for weights that a torchvision model does not have.
    """
    package, _, model = name.partition(":")
    if package == "torchvision" and model in torchvision_models():
        known = torchvision_models()[model]
        wanted = weights.removeprefix("torchvision:").upper()
        wanted = known["default"] if wanted in ("DEFAULT", "PRETRAINED") else wanted
        if wanted not in known["weights"]:
            if not re.fullmatch(r"IMAGENET\w+", wanted):
                return None
            raise UnknownName(f"weights of {name}", weights, known["weights"], listing=f"nasrob-tui archs show {name}")
        facts = known["weights"][wanted]
        return Published(
            f"torchvision:{wanted}",
            tuple(facts["mean"]),
            tuple(facts["std"]),
            facts["resize"],
            facts["crop"],
            facts["interpolation"],
        )
    if package == "timm" and weights in ("pretrained", "timm:pretrained"):
        return _timm_preprocessing(model)
    return None


def _timm_preprocessing(model: str) -> Published:
    import timm

    config = timm.get_pretrained_cfg(model, allow_unregistered=False)
    if config is None or not config.has_weights:
        raise InvalidSpec(f"timm publishes no weights for {model}: give a file with --weights.")
    side = config.input_size[-1]
    return Published(
        "timm:pretrained",
        tuple(config.mean),
        tuple(config.std),
        math.floor(side / config.crop_pct),
        side,
        "bicubic" if config.interpolation == "bicubic" else "bilinear",
    )


@cache
def _torchvision_lists() -> frozenset[str]:
    """Classification models of the installed torchvision, for those newer than this software."""
    from torchvision import models

    return frozenset(models.list_models(module=models))


def torchvision_entries() -> list[Architecture]:
    """An entry for each classification model of torchvision that this software knows."""
    return [_torchvision(name) for name in torchvision_models()]


def _timm(wanted: str) -> Architecture:
    from models.architectures.registry import Architecture

    if importlib.util.find_spec("timm") is None:
        raise InvalidSpec("timm is not installed, which builds timm:… models: pip install timm.")
    name = wanted.strip()
    if not re.fullmatch(r"\w+(\.\w+)?", name):
        raise InvalidSpec(f"{short(wanted)} is no name of a timm model: write timm:efficientnet_lite0.")
    return Architecture(
        name=f"timm:{name}",
        family="nas" if _SEARCHED.match(name) else "handcrafted",
        lineage=re.split(r"[_\d.]", name.removeprefix("tf_"))[0],
        builder=f"{_BUILDERS}:from_timm",
        options=(),
        description=f"{name} of timm's model registry",
        source="timm",
        recipe="standard",
        fixed={"name": name},
        input_size=224,
        num_classes=1000,
        free_options=True,
        curated=False,
    )
