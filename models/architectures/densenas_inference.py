"""Which DenseNAS network are these weights of? Answered, torch-free, from the names and shapes of their tensors.

The block lists of DenseNAS-Large, -R1, -R2 and -R3 are published only beside their weights, and weights travel
without them. Everything follows from the tensors but the strides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.architectures.densenas_space import LAST, NetType, read
from models.errors import InvalidSpec, WeightsError

#: Side of the feature map at 224x224 by width, in the two published search spaces (JaminFong/DenseNAS:
#: configs/imagenet_search_cfg_mbv2.yaml and imagenet_search_cfg_resnet.yaml). The stride between two widths follows.
_SIDES: dict[NetType, dict[int, int]] = {
    "mbv2": {16: 112, 24: 56, **dict.fromkeys((32, 40, 48), 28), **dict.fromkeys((56, 64, 72, 96, 112, 128), 14)}
    | dict.fromkeys((160, 176, 192, 320, 352, 384), 7),
    "res": {32: 112, **dict.fromkeys((48, 56, 64), 56), **dict.fromkeys((72, 96, 112), 28)}
    | dict.fromkeys((128, 144, 160, 176, 192, 208, 224), 14)
    | dict.fromkeys((240, 256, 272, 288, 480, 496, 512), 7),
}

#: What the blocks' strides multiply to: a published network halves the image five times, once in the stem.
_BLOCKS_STRIDE = 16


@dataclass(frozen=True)
class Inferred:
    """What a checkpoint's tensors say, and in `assumptions` what they leave open and how it was filled in."""

    definition: dict[str, Any]
    num_classes: int
    in_channels: int
    assumptions: tuple[str, ...]


def infer_net_config(shapes: Mapping[str, tuple[int, ...]], *, strides: Sequence[int] | None = None) -> Inferred:
    """Reconstruct the network from the names and shapes of a checkpoint's tensors (`module.` prefixes are fine).

    Widths, operations, number of layers, network type and classes follow from them; strides do not, unless
    `strides` gives one a block. They are taken from the published search space, where the width of a block fixes the
    size of its map, and must multiply to 16 (32 with the stem). Raises `WeightsError` when the tensors are no
    DenseNAS network, or when their strides remain open.
    """
    tensors = {name.removeprefix("module."): tuple(shape) for name, shape in shapes.items()}
    stem, in_channels = _weight(tensors, "input_block.0.weight")[:2]
    num_classes, width = _weight(tensors, "classifier.weight")
    net_type: NetType = "mbv2" if "conv1_1_block.conv1_1.0.weight" in tensors else "res"
    layers: dict[int, set[int]] = {}
    for name in tensors:
        if match := re.match(r"blocks\.(\d+)\.(?:head_layer|stack_layers\.(\d+))\.", name):
            layers.setdefault(int(match[1]), set()).add(-1 if match[2] is None else int(match[2]))
    if not layers or max(layers) > 999 or max(max(found) for found in layers.values()) > 999:
        raise WeightsError("these tensors hold no blocks.<n>.head_layer: they are not weights of a DenseNAS network.")
    entries: list[list[Any]] = []
    known: list[set[int]] = []
    channels = stem
    skips = 0
    for block in range(max(layers) + 1):
        present = layers.get(block, set())
        names = [f"blocks.{block}.stack_layers.{i}" for i in range(max(present, default=-1) + 1)]
        head, channels_out, possible = _infer_layer(tensors, f"blocks.{block}.head_layer", channels)
        stack = [_infer_layer(tensors, name, channels_out)[0] for name in names]
        skips += [head, *stack].count("skip_connect")
        entries.append([[channels, channels_out], head, stack, len(stack), 1])
        known.append(possible)
        channels = channels_out
    assumptions = [
        "Layers that are skip_connect have no tensors: "
        + (f"{skips} stand where the numbering has gaps" if skips else "the numbering shows none")
        + ", and any at the end of a block are left out, which does not change the network."
    ]
    if strides is None:
        chosen, why = _infer_strides(net_type, entries, known)
        assumptions.insert(0, why)
    elif len(strides) != len(entries) or any(s not in options for s, options in zip(strides, known, strict=True)):
        wanted = ", ".join("/".join(map(str, sorted(options))) for options in known)
        raise WeightsError(f"strides {list(strides)} do not fit these weights, whose blocks allow {wanted}.")
    else:
        chosen = list(strides)
    for entry, stride in zip(entries, chosen, strict=True):
        entry[-1] = stride
    if net_type == "mbv2":
        last, channels_in = _weight(tensors, "conv1_1_block.conv1_1.0.weight")[:2]
        entries.append([[channels_in, last], LAST])
    try:
        found = read({"net_type": net_type, "net_config": entries})
        if found.width != width:
            raise InvalidSpec(f"the classifier takes {width} channels, but the last block gives {found.width}.")
    except InvalidSpec as error:
        raise WeightsError(f"these tensors are not those of a DenseNAS network: {error}") from None
    return Inferred(found.to_definition(), num_classes, in_channels, tuple(assumptions))


def _weight(tensors: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    shape = tensors.get(name)
    if shape is None or len(shape) < 2 or 0 in shape:
        raise WeightsError(f"there is no weight {name}: these tensors are not those of a DenseNAS network.")
    return shape


def _infer_layer(tensors: Mapping[str, tuple[int, ...]], name: str, channels_in: int) -> tuple[str, int, set[int]]:
    """Operation and output channels of a layer, and the strides that its tensors allow."""
    if f"{name}._depthwise_conv.0.weight" in tensors:
        depthwise = _weight(tensors, f"{name}._depthwise_conv.0.weight")
        channels, expanded = _weight(tensors, f"{name}._project_conv.0.weight")[:2]
        expansion, rest = divmod(expanded, channels_in)
        if rest:
            raise WeightsError(f"{name} expands {channels_in} channels to {expanded}, which no mbconv does.")
        return f"mbconv_k{depthwise[-1]}_t{expansion}", channels, {1, 2}
    if f"{name}.op.0.0.weight" in tensors:
        return "skip_connect", _weight(tensors, f"{name}.op.0.0.weight")[0], {1}
    if f"{name}.conv1.weight" not in tensors:
        return "skip_connect", channels_in, {1}
    channels, width_in = _weight(tensors, f"{name}.conv1.weight")[:2]
    bottleneck = f"{name}.conv3.weight" in tensors
    if f"{name}.downsample.0.weight" not in tensors:
        possible = {1}
    else:
        # The shortcut has weights where the stride is 2 or the width changes.
        possible = {2} if width_in == (4 * channels if bottleneck else channels) else {1, 2}
    return ("bottle_neck" if bottleneck else "basic_block"), channels, possible


def _infer_strides(
    net_type: NetType, entries: Sequence[Sequence[Any]], known: Sequence[set[int]]
) -> tuple[list[int], str]:
    sides = [_side(net_type, width) for width in (entries[0][0][0], *(entry[0][1] for entry in entries))]
    chosen: list[int] = []
    for before, after, possible in zip(sides[:-1], sides[1:], known, strict=True):
        if before is not None and after is not None and before in (after, 2 * after) and before // after in possible:
            chosen.append(before // after)
    if len(chosen) == len(known) and math.prod(chosen) == _BLOCKS_STRIDE:
        others = sorted({width for entry in entries for width in entry[0]} - set(_SIDES[net_type]))
        between = f" ({', '.join(map(str, others))} taken like the widths around)" if others else ""
        return chosen, (
            f"Strides are not in the weights: {chosen} is assumed, as in the published {net_type} search space, where "
            f"a block's width gives the size of its map{between}."
        )
    free = [options for options in known if len(options) > 1]
    forced = math.prod([min(options) for options in known if len(options) == 1])
    if forced * 2 ** len(free) == _BLOCKS_STRIDE or forced == _BLOCKS_STRIDE:
        stride = 1 if forced == _BLOCKS_STRIDE else 2
        chosen = [stride if len(options) > 1 else min(options) for options in known]
        return chosen, (
            f"Strides are not in the weights: {chosen} is assumed, the only ones whose product with the stem's is 32."
        )
    raise WeightsError(
        "these weights do not say the strides of their blocks, and their widths are not those of the published search "
        "space: give the network's net_config file, or the strides."
    )


def _side(net_type: NetType, width: int) -> int | None:
    """Side of the map at a width: of the table's entry, or of both its neighbours where they agree."""
    table = _SIDES[net_type]
    around = {
        table[nearest]
        for nearest in (
            max((known for known in table if known <= width), default=min(table)),
            min((known for known in table if known >= width), default=max(table)),
        )
    }
    return around.pop() if len(around) == 1 else None
