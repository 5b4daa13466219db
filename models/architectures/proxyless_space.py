"""ProxylessNAS networks as data, in two forms, and their checks. Torch-free.

Cai, Zhu and Han, "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware", ICLR 2019.

A *mobile* network (ImageNet) is a row of inverted residual blocks, some of them "zero", which pass their input on:

    {"network": "mobile", "bn": {"momentum": 0.1, "eps": 0.001}, "stem": 32, "feature_mix": 1280, "blocks": [
        {"op": "mbconv", "cin": 32, "cout": 16, "k": 3, "s": 1, "e": 1, "shortcut": false}, {"op": "zero"}, ...]}

A *tree* network (CIFAR) is a row of residual blocks, each holding a tree of operations. Two branches take half of the
block's channels each; a branch has two edges, and each edge leads to a node with two leaves:

    {"network": "tree", "stem": 16, "blocks": [
        {"cell_channels": 18, "shortcut": "identity", "branches": [
            {"edges": ["dwsep7x7", "maxpool3x3"], "leaves": [["dwsep3x3_d2", "identity"], ["dwsep7x7", "identity"]]},
            ...]}, ...]}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from models.architectures.wording import short
from models.errors import InvalidSpec

#: A network that a person gives may have so many channels anywhere, and widen them so many times, at most.
_MOST_CHANNELS, _MOST_EXPANSION = 65_536, 64

#: Channels that leave a tree block, for each of its own.
TREE_EXPANSION = 4

#: The shortcut of a tree block, by whether the block halves the map.
SHORTCUTS: dict[bool, str] = {False: "identity", True: "avgpool2x2_s2"}

_OPERATION = re.compile(r"(conv|dwsep)([13579])x\2(?:_d([1-9]))?|(avg|max)pool([3579])x\5|identity")


@dataclass(frozen=True)
class MobileBlock:
    """An inverted residual block; `shortcut` adds its input to its output."""

    channels_in: int
    channels: int
    kernel: int
    stride: int
    expansion: int
    shortcut: bool


@dataclass(frozen=True)
class MobileNetwork:
    """A checked mobile network. None stands for a zero block; `feature_mix` may be missing."""

    eps: float
    momentum: float
    stem: int
    blocks: tuple[MobileBlock | None, ...]
    feature_mix: int | None

    @property
    def channels(self) -> int:
        """Channels that the last block gives."""
        return next((block.channels for block in reversed(self.blocks) if block), self.stem)

    def to_definition(self) -> dict[str, Any]:
        """The definition in its one form, as `read` takes it."""
        return {
            "network": "mobile",
            "bn": {"momentum": self.momentum, "eps": self.eps},
            "stem": self.stem,
            "blocks": [
                {
                    "op": "mbconv",
                    "cin": block.channels_in,
                    "cout": block.channels,
                    "k": block.kernel,
                    "s": block.stride,
                    "e": block.expansion,
                    "shortcut": block.shortcut,
                }
                if block
                else {"op": "zero"}
                for block in self.blocks
            ],
            "feature_mix": self.feature_mix,
        }


@dataclass(frozen=True)
class Operation:
    """An edge of a tree: `conv` and `dwsep` (depthwise, then pointwise) come after BatchNorm and ReLU."""

    kind: Literal["conv", "dwsep", "avg", "max", "identity"]
    kernel: int = 1
    dilation: int = 1

    def __str__(self) -> str:
        size = f"{self.kernel}x{self.kernel}"
        match self.kind:
            case "identity":
                return "identity"
            case "avg" | "max":
                return f"{self.kind}pool{size}"
        return f"{self.kind}{size}" + (f"_d{self.dilation}" if self.dilation > 1 else "")


Pair = tuple[Operation, Operation]


@dataclass(frozen=True)
class Branch:
    """Two edges, and behind each a node with two leaves; what meets is added."""

    edges: Pair
    leaves: tuple[Pair, Pair]


@dataclass(frozen=True)
class TreeBlock:
    """A residual block around a tree of `channels`; one that halves the map pools its shortcut."""

    channels: int
    halves: bool
    branches: tuple[Branch, Branch]


@dataclass(frozen=True)
class TreeNetwork:
    """A checked tree network."""

    stem: int
    blocks: tuple[TreeBlock, ...]

    def to_definition(self) -> dict[str, Any]:
        """The definition in its one form, as `read` takes it."""
        return {
            "network": "tree",
            "stem": self.stem,
            "blocks": [
                {
                    "cell_channels": block.channels,
                    "shortcut": SHORTCUTS[block.halves],
                    "branches": [
                        {
                            "edges": [str(edge) for edge in branch.edges],
                            "leaves": [[str(leaf) for leaf in leaves] for leaves in branch.leaves],
                        }
                        for branch in block.branches
                    ],
                }
                for block in self.blocks
            ],
        }


def read(definition: Mapping[str, Any]) -> MobileNetwork | TreeNetwork:
    """The network that a definition describes; raises `InvalidSpec` when it describes none that could run."""
    match definition.get("network"):
        case "mobile":
            return _read_mobile(definition)
        case "tree":
            return _read_tree(definition)
    raise InvalidSpec('a ProxylessNAS definition says "network": "mobile" or "tree".')


def check(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition in its one form; raises `InvalidSpec` when it is none."""
    return read(definition).to_definition()


def _blocks(definition: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
    blocks = definition.get("blocks")
    if not isinstance(blocks, list | tuple) or not blocks:
        raise InvalidSpec("a ProxylessNAS definition lists its blocks, one at least.")
    return iter(enumerate(blocks))


def _positive(definition: Mapping[str, Any], name: str) -> int:
    value = definition.get(name)
    if not isinstance(value, int) or not 1 <= value <= _MOST_CHANNELS:
        raise InvalidSpec(f"{name} of a ProxylessNAS definition is 1 to {_MOST_CHANNELS} channels, not {short(value)}.")
    return value


def _refuse(position: int, entry: Any, expected: str) -> NoReturn:
    raise InvalidSpec(f"block {position} is {short(entry)}: {expected}.")


def _read_mobile(definition: Mapping[str, Any]) -> MobileNetwork:
    match definition.get("bn"):
        case {"momentum": int() | float() as momentum, "eps": int() | float() as eps} if 0 < momentum <= 1 and eps > 0:
            pass
        case other:
            raise InvalidSpec(f"bn of a ProxylessNAS definition gives a momentum and an eps, not {short(other)}.")
    stem = width = _positive(definition, "stem")
    blocks: list[MobileBlock | None] = []
    for position, entry in _blocks(definition):
        match entry:
            case {"op": "zero"}:
                blocks.append(None)
                continue
            case {
                "op": "mbconv",
                "cin": int(channels_in),
                "cout": int(channels),
                "k": int(kernel),
                "s": int(stride),
                "e": int(expansion),
                "shortcut": bool(shortcut),
            }:
                block = MobileBlock(channels_in, channels, kernel, stride, expansion, shortcut)
            case _:
                _refuse(position, entry, "it should have op, and for mbconv cin, cout, k, s, e and shortcut")
        if not (1 <= channels <= _MOST_CHANNELS and 1 <= expansion <= _MOST_EXPANSION):
            _refuse(position, entry, f"channels are 1 to {_MOST_CHANNELS}, e is 1 to {_MOST_EXPANSION}")
        if kernel % 2 == 0 or not 1 <= kernel <= 31 or stride not in (1, 2):
            _refuse(position, entry, "k is odd and below 32, s is 1 or 2")
        if channels_in != width:
            _refuse(position, entry, f"it takes {channels_in} channels, but gets {width}")
        if shortcut and (channels_in != channels or stride != 1):
            _refuse(position, entry, "a shortcut needs equal channels and stride 1")
        blocks.append(block)
        width = channels
    mix = None if definition.get("feature_mix") is None else _positive(definition, "feature_mix")
    return MobileNetwork(float(eps), float(momentum), stem, tuple(blocks), mix)


def _read_tree(definition: Mapping[str, Any]) -> TreeNetwork:
    stem = width = _positive(definition, "stem")
    blocks: list[TreeBlock] = []
    for position, entry in _blocks(definition):
        match entry:
            case {"cell_channels": int(channels), "shortcut": str(shortcut), "branches": [first, second]}:
                pass
            case _:
                _refuse(position, entry, "it should have cell_channels, shortcut and two branches")
        if not 2 <= channels <= _MOST_CHANNELS or channels % 2 or shortcut not in SHORTCUTS.values():
            _refuse(position, entry, f"cell_channels is even, the shortcut {' or '.join(SHORTCUTS.values())}")
        if TREE_EXPANSION * channels < width:
            _refuse(position, entry, f"it gives {TREE_EXPANSION * channels} channels, fewer than the {width} it gets")
        branches = (_branch(position, first), _branch(position, second))
        blocks.append(TreeBlock(channels, shortcut == SHORTCUTS[True], branches))
        width = TREE_EXPANSION * channels
    return TreeNetwork(stem, tuple(blocks))


def _branch(position: int, entry: Any) -> Branch:
    match entry:
        case {"edges": edges, "leaves": [first, second]}:
            return Branch(_pair(position, edges), (_pair(position, first), _pair(position, second)))
    _refuse(position, entry, "a branch has two edges, and leaves with two operations for each")


def _pair(position: int, entry: Any) -> Pair:
    match entry:
        case [first, second]:
            return _operation(position, first), _operation(position, second)
    _refuse(position, entry, "operations come in pairs")


def _operation(position: int, text: Any) -> Operation:
    found = _OPERATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        _refuse(position, text, "operations are dwsep<k>x<k>, conv<k>x<k>, avgpool<k>x<k>, maxpool<k>x<k> or identity")
    if found[4]:
        return Operation("avg" if found[4] == "avg" else "max", int(found[5]))
    if found[1]:
        return Operation("conv" if found[1] == "conv" else "dwsep", int(found[2]), int(found[3] or 1))
    return Operation("identity")
