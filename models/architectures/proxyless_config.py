"""The `.config` files of the ProxylessNAS authors, read into our compact definitions and written from them. Torch-free.

A `.config` is JSON that spells out every layer with all its settings (969 kB for the CIFAR network). Reading takes what
varies within the two families of networks, writes the whole `.config` again from that, and compares the two: nothing
that could change the network's function is lost unnoticed. What does not belong to the network is not kept: the number
of classes and of input channels, and for a tree network the side of its images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.architectures.proxyless_space import (
    SHORTCUTS,
    TREE_EXPANSION,
    MobileBlock,
    MobileNetwork,
    Operation,
    TreeBlock,
    TreeNetwork,
    check,
    read,
)
from models.architectures.wording import short
from models.errors import InvalidSpec

MOBILE, TREE = "ProxylessNASNets", "PyramidTreeNet"

_BEFORE, _AFTER = "bn_act_weight", "weight_bn_act"

#: What the authors' code takes for a setting that a layer does not give (mit-han-lab/proxylessnas:
#: proxyless_nas/layers.py, cifar_modules.py).
_UNIT = {"use_bn": True, "act_func": "relu", "dropout_rate": 0, "ops_order": _AFTER}
_PLAIN = {"use_bn": False, "act_func": None, "dropout_rate": 0, "ops_order": _AFTER}
_CONVOLUTION = {"kernel_size": 3, "stride": 1, "dilation": 1, "groups": 1, "bias": False, "has_shuffle": False, **_UNIT}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ConvLayer": _CONVOLUTION,
    "DepthConvLayer": _CONVOLUTION,
    "PoolingLayer": {"kernel_size": 2, "stride": 2, **_PLAIN},
    "IdentityLayer": _PLAIN,
    "LinearLayer": {"bias": True, **_PLAIN},
    "MBInvertedConvLayer": {"kernel_size": 3, "stride": 1, "expand_ratio": 6},
    "TreeNode": {"split_type": "copy", "merge_type": "add", "has_branch_bn": False, "path_drop_rate": 0},
    TREE: {"cell_drop_rate": 0},
}

#: BatchNorm of a mobile network whose `.config` does not set it: torch's.
_TORCH_NORM = {"momentum": 0.1, "eps": 1e-5}


def definition_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The compact definition of the network that an authors' `.config` describes.

    Raises `InvalidSpec`, naming the place, for a network outside the two families.
    """
    name = config.get("name")
    if name not in (MOBILE, TREE):
        raise InvalidSpec(f'a ProxylessNAS .config says "name": "{MOBILE}" or "{TREE}", not {short(name)}.')
    try:
        found = _plain_mobile(config) if name == MOBILE else _plain_tree(config)
        if name == MOBILE:
            definition = _extract_mobile(found)
            in_channels, side = found["first_conv"]["in_channels"], 0
        else:
            definition, side = _extract_tree(found)
            in_channels = found["blocks"][0]["layers"][0]["in_channels"]
        num_classes = found["classifier"]["out_features"]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidSpec(
            f"the .config of this {name} is not laid out as the authors' files are: {short(error)}."
        ) from None
    expected = config_from_definition(definition, num_classes=num_classes, in_channels=in_channels, pool=side)
    if difference := _difference(expected, found, name):
        raise InvalidSpec(f"the .config describes a network of another kind: {difference}.")
    return check(definition)


def config_from_definition(
    definition: Mapping[str, Any], *, num_classes: int, in_channels: int = 3, pool: int = 8
) -> dict[str, Any]:
    """The `.config` from which the authors' code builds the network.

    `pool` is the side of a tree network's last maps: 8 for 32x32 images and two blocks that halve.
    """
    network = read(definition)
    if isinstance(network, MobileNetwork):
        return _mobile(network, num_classes, in_channels)
    return _tree(network, num_classes, in_channels, pool)


def _extract_mobile(config: Mapping[str, Any]) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = []
    for entry in config["blocks"]:
        layer = entry["mobile_inverted_conv"]
        if layer["name"] == "ZeroLayer":
            blocks.append({"op": "zero"})
            continue
        blocks.append(
            {
                "op": "mbconv",
                "cin": layer["in_channels"],
                "cout": layer["out_channels"],
                "k": layer["kernel_size"],
                "s": layer["stride"],
                "e": layer["expand_ratio"],
                "shortcut": entry["shortcut"] is not None,
            }
        )
    mix = config["feature_mix_layer"]
    return {
        "network": "mobile",
        "bn": config["bn"],
        "stem": config["first_conv"]["out_channels"],
        "blocks": blocks,
        "feature_mix": None if mix is None else mix["out_channels"],
    }


def _extract_tree(config: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The definition and the side of the last pool."""
    first, *blocks, last = config["blocks"]
    definition = {
        "network": "tree",
        "stem": first["layers"][0]["out_channels"],
        "blocks": [
            {
                "cell_channels": block["cell"]["in_channels"],
                "shortcut": SHORTCUTS[block["shortcut"]["name"] == "PoolingLayer"],
                "branches": [
                    {
                        "edges": [_operation(edge) for edge in branch["edges"]],
                        "leaves": [[_operation(leaf) for leaf in node["edges"]] for node in branch["child_nodes"]],
                    }
                    for branch in block["cell"]["child_nodes"][0]["child_nodes"]
                ],
            }
            for block in blocks
        ],
    }
    return definition, last["layers"][0]["kernel_size"]


def _operation(layer: Mapping[str, Any]) -> str:
    match layer["name"]:
        case "IdentityLayer":
            return "identity"
        case "PoolingLayer":
            return str(Operation("avg" if layer["pool_type"] == "avg" else "max", layer["kernel_size"]))
        case "ConvLayer" | "DepthConvLayer" as name:
            kind = "conv" if name == "ConvLayer" else "dwsep"
            return str(Operation("conv" if kind == "conv" else "dwsep", layer["kernel_size"], layer["dilation"]))
    raise ValueError(layer["name"])


def _mobile(network: MobileNetwork, num_classes: int, in_channels: int) -> dict[str, Any]:
    blocks = []
    channels = network.stem
    for block in network.blocks:
        blocks.append(
            {
                "name": "MobileInvertedResidualBlock",
                "mobile_inverted_conv": _inverted(block),
                "shortcut": _identity(channels, order=_AFTER) if block is None or block.shortcut else None,
            }
        )
        channels = channels if block is None else block.channels
    mix = network.feature_mix
    return {
        "name": MOBILE,
        "bn": {"momentum": network.momentum, "eps": network.eps},
        "first_conv": _convolution(in_channels, network.stem, 3, stride=2, activation="relu6", order=_AFTER),
        "feature_mix_layer": mix and _convolution(channels, mix, activation="relu6", order=_AFTER),
        "classifier": _linear(mix or channels, num_classes, order=_AFTER),
        "blocks": blocks,
    }


def _inverted(block: MobileBlock | None) -> dict[str, Any]:
    if block is None:
        return {"name": "ZeroLayer", "stride": 1}
    return {
        "name": "MBInvertedConvLayer",
        "in_channels": block.channels_in,
        "out_channels": block.channels,
        "kernel_size": block.kernel,
        "stride": block.stride,
        "expand_ratio": block.expansion,
    }


def _tree(network: TreeNetwork, num_classes: int, in_channels: int, pool: int) -> dict[str, Any]:
    channels = network.stem
    blocks: list[dict[str, Any]] = [
        {
            "name": "TransitionBlock",
            "layers": [
                _convolution(in_channels, channels, 3, use_bn=False, activation=None),
                {**_identity(channels), "use_bn": True},
            ],
        }
    ]
    for block in network.blocks:
        blocks.append(_residual(block, channels))
        channels = TREE_EXPANSION * block.channels
    tail = {**_pool("avg", pool, channels, stride=pool), "use_bn": True, "act_func": "relu"}
    blocks.append({"name": "TransitionBlock", "layers": [tail]})
    return {"name": TREE, "cell_drop_rate": 0, "blocks": blocks, "classifier": _linear(channels, num_classes)}


def _residual(block: TreeBlock, channels_in: int) -> dict[str, Any]:
    channels = block.channels
    branches = [
        _node(
            channels,
            [_edge(edge, channels) for edge in branch.edges],
            [_node(channels, [_edge(leaf, channels) for leaf in leaves], [None, None]) for leaves in branch.leaves],
        )
        for branch in block.branches
    ]
    split = {
        **_node(channels, [_identity(channels), _identity(channels)], branches),
        "in_channels": 2 * channels,
        "split_type": "split",
        "has_branch_bn": True,
    }
    root = _convolution(channels, 2 * channels, 3, stride=2 if block.halves else 1, groups=2)
    return {
        "name": "ResidualTreeBlock",
        "cell_drop_rate": 0,
        "final_bn": True,
        "shortcut": _pool("avg", 2, channels_in, stride=2) if block.halves else _identity(channels_in),
        "in_bottle": _convolution(channels_in, channels, activation=None),
        "out_bottle": _convolution(channels, TREE_EXPANSION * channels),
        "cell": {**_node(channels, [root], [split]), "split_type": None, "merge_type": None},
    }


def _node(channels: int, edges: list[dict[str, Any]], children: list[Any]) -> dict[str, Any]:
    return {
        "name": "TreeNode",
        "in_channels": channels,
        "out_channels": channels,
        "split_type": "copy",
        "merge_type": "add",
        "has_branch_bn": False,
        "path_drop_rate": 0,
        "edges": edges,
        "child_nodes": children,
    }


def _edge(operation: Operation, channels: int) -> dict[str, Any]:
    match operation.kind:
        case "identity":
            return _identity(channels)
        case "avg" | "max" as kind:
            return _pool(kind, operation.kernel, channels, stride=1)
    layer = _convolution(channels, channels, operation.kernel, dilation=operation.dilation)
    return {**layer, "name": "DepthConvLayer"} if operation.kind == "dwsep" else layer


def _convolution(
    channels_in: int,
    channels: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    use_bn: bool = True,
    activation: str | None = "relu",
    order: str = _BEFORE,
) -> dict[str, Any]:
    return {
        "name": "ConvLayer",
        "kernel_size": kernel,
        "stride": stride,
        "dilation": dilation,
        "groups": groups,
        "bias": False,
        "has_shuffle": groups > 1,
        "in_channels": channels_in,
        "out_channels": channels,
        "use_bn": use_bn,
        "act_func": activation,
        "dropout_rate": 0,
        "ops_order": order,
    }


def _identity(channels: int, *, order: str = _BEFORE) -> dict[str, Any]:
    return {
        "name": "IdentityLayer",
        "in_channels": channels,
        "out_channels": channels,
        **_PLAIN,
        "ops_order": order,
    }


def _pool(kind: str, kernel: int, channels: int, *, stride: int) -> dict[str, Any]:
    sizes = {"pool_type": kind, "kernel_size": kernel, "stride": stride}
    return {"name": "PoolingLayer", **sizes, "in_channels": channels, "out_channels": channels, **_PLAIN} | {
        "ops_order": _BEFORE
    }


def _linear(features: int, num_classes: int, *, order: str = _BEFORE) -> dict[str, Any]:
    return {
        "name": "LinearLayer",
        "in_features": features,
        "out_features": num_classes,
        "bias": True,
        **_PLAIN,
        "ops_order": order,
    }


def _plain_mobile(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as the authors' code takes it: a zero block passes its input on whatever its shortcut says, and a
    shortcut of zeros is none.
    """
    blocks = []
    channels = config["first_conv"]["out_channels"]
    for entry in config["blocks"]:
        layer, shortcut = dict(entry["mobile_inverted_conv"]), entry["shortcut"]
        if layer["name"] == "ZeroLayer":
            layer, shortcut = _inverted(None), _identity(channels)
        elif shortcut is not None and shortcut["name"] == "ZeroLayer":
            shortcut = None
        if layer.get("mid_channels", 0) is None:
            del layer["mid_channels"]
        channels = layer.get("out_channels", channels)
        blocks.append({**entry, "mobile_inverted_conv": layer, "shortcut": shortcut})
    return {**config, "bn": config.get("bn", _TORCH_NORM), "blocks": blocks}


def _plain_tree(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as the authors' code takes it: `tree_node_config` goes to the nodes below each root, with the
    BatchNorm of branches only at the first of them; the blocks' own drop rates give way to the network's.
    """
    shared = config.get("tree_node_config") or {}
    deeper = {**shared, "has_branch_bn": False}
    blocks = []
    for block in config["blocks"]:
        if "cell" in block:
            cell = dict(block["cell"])
            first, *others = cell["child_nodes"]
            inner = [node and _overridden(node, deeper) for node in first["child_nodes"]]
            cell["child_nodes"] = [{**first, **shared, "child_nodes": inner}, *others]
            block = {**block, "cell": cell, "cell_drop_rate": 0}
        blocks.append(block)
    ignored = ("tree_node_config", "cell_drop_scheme")
    return {**{k: v for k, v in config.items() if k not in ignored}, "blocks": blocks}


def _overridden(node: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **node,
        **settings,
        "child_nodes": [child and _overridden(child, settings) for child in node["child_nodes"]],
    }


def _settings(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A layer's settings with the defaults filled in; the order of BatchNorm, activation and weights means nothing
    where there is neither BatchNorm nor activation.
    """
    found = {**_DEFAULTS.get(str(layer.get("name")), {}), **layer}
    if found.get("use_bn") is False and found.get("act_func") is None:
        found.pop("ops_order", None)
    return found


def _difference(expected: Any, found: Any, place: str) -> str | None:
    """Where `found` first differs from `expected`, in words."""
    if isinstance(expected, dict) and isinstance(found, Mapping):
        wanted, given = _settings(expected), _settings(found)
        for key in (*wanted, *(k for k in given if k not in wanted)):
            if key not in given:
                return f"{place}.{key} is missing"
            if key not in wanted:
                return f"{place}.{str(key)[:40]} is no setting of these networks"
            if said := _difference(wanted[key], given[key], f"{place}.{key}"):
                return said
        return None
    if isinstance(expected, list) and isinstance(found, list | tuple) and len(expected) == len(found):
        for position, (one, other) in enumerate(zip(expected, found, strict=True)):
            if said := _difference(one, other, f"{place}[{position}]"):
                return said
        return None
    return None if expected == found else f"{place} is {short(found)}, not {short(expected)}"
