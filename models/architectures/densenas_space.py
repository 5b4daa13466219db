"""DenseNAS networks as data: read and write the authors' `net_config` files, and check them.

Torch-free. Fang et al., "Densely Connected Search Space for More Flexible Neural Architecture Search", CVPR 2020. A
definition is `{"net_type": "mbv2" | "res", "net_config": [...]}`; each entry of `net_config` is a block,

    [[channels in, channels out], head operation, [stack operations], number of stack operations, stride of the head]

and an mbv2 network ends with `[[channels in, channels out], "conv1_1"]`. The stem, which no entry describes, is a 3x3
convolution of stride 2 to the first block's input channels.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from models.architectures.wording import short
from models.errors import InvalidSpec

NetType = Literal["mbv2", "res"]
NET_TYPES: tuple[NetType, ...] = ("mbv2", "res")

#: The name of the 1x1 convolution that ends an mbv2 network.
LAST = "conv1_1"
#: Beginnings of the names of operations that only networks of one type have.
_OPERATIONS: dict[str, tuple[str, ...]] = {"mbv2": ("mbconv_k", LAST), "res": ("basic_block", "bottle_neck")}
#: A block that a person gives may have so many channels at most.
_MOST_CHANNELS = 65_536
#: Published files have less than three thousand characters.
_MOST_CHARACTERS = 100_000
_MBCONV = re.compile(r"mbconv_k([3579])_t([1-9])")


@dataclass(frozen=True)
class Layer:
    """One operation: what it takes, what it gives. `expansion` and `kernel` are those of an mbconv, else 0."""

    operation: str
    channels_in: int
    channels: int
    stride: int
    kernel: int = 0
    expansion: int = 0

    @property
    def width_in(self) -> int:
        """Width of the map that it takes. A bottleneck takes four times its input channels unless they are 32."""
        if self.operation == "bottle_neck" and self.channels_in != 32:
            return 4 * self.channels_in
        return self.channels_in

    @property
    def width(self) -> int:
        """Width of the map that it gives."""
        return 4 * self.channels if self.operation == "bottle_neck" else self.channels

    @property
    def is_identity(self) -> bool:
        """A skip between equal widths hands any map on as it is, whatever its width."""
        return self.operation == "skip_connect" and self.channels_in == self.channels


@dataclass(frozen=True)
class Block:
    """A head layer, which may change width and size, and stack layers, which keep both."""

    head: Layer
    stack: tuple[Layer, ...]

    def __iter__(self) -> Iterator[Layer]:
        return iter((self.head, *self.stack))


@dataclass(frozen=True)
class Network:
    """A checked network: widths fit from the stem to the classifier. `last` has the channels of mbv2's final
    convolution, in and out; `width` is what the classifier takes.
    """

    net_type: NetType
    stem: int
    blocks: tuple[Block, ...]
    last: tuple[int, int] | None
    width: int

    def to_definition(self) -> dict[str, Any]:
        """The definition in its one form, as `read` takes it."""
        entries: list[list[Any]] = [
            [
                [block.head.channels_in, block.head.channels],
                block.head.operation,
                [layer.operation for layer in block.stack],
                len(block.stack),
                block.head.stride,
            ]
            for block in self.blocks
        ]
        if self.last is not None:
            entries.append([list(self.last), LAST])
        return {"net_type": self.net_type, "net_config": entries}


def read(definition: Mapping[str, Any]) -> Network:
    """The network that a definition describes; raises `InvalidSpec` when it describes none that could run."""
    entries = definition.get("net_config")
    if isinstance(entries, str):
        entries = _entries(entries)
    net_type = definition["net_type"] if "net_type" in definition else _type_of(entries)
    if not isinstance(net_type, str) or net_type not in NET_TYPES:
        raise InvalidSpec(f"net_type is {short(net_type)}: DenseNAS networks are {' or '.join(NET_TYPES)}.")
    if not isinstance(entries, list | tuple) or not entries:
        raise InvalidSpec("net_config lists no block: it needs [[in, out], head, [stack], number, stride] for each.")
    blocks = list(entries)
    last = _last(blocks.pop()) if net_type == "mbv2" else None
    if not blocks:
        raise InvalidSpec("net_config has only the final convolution: it needs blocks before it.")
    read_blocks = tuple(_block(position, entry) for position, entry in enumerate(blocks))
    stem = width = read_blocks[0].head.channels_in
    for position, block in enumerate(read_blocks):
        for layer in block:
            if layer.is_identity:
                continue
            if layer.width_in != width:
                raise InvalidSpec(
                    f"block {position}: {layer.operation} of {layer.channels_in} input channels takes a map of width "
                    f"{layer.width_in}, but gets one of width {width}."
                )
            width = layer.width
    taker, expected = (LAST, last[0]) if last else ("the classifier", read_blocks[-1].head.width)
    if width != expected:
        raise InvalidSpec(f"{taker} takes {expected} channels, but the last block gives {width}.")
    return Network(net_type, stem, read_blocks, last, last[1] if last else width)


def check(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition in its one form; raises `InvalidSpec` when it is none."""
    return read(definition).to_definition()


def _last(entry: Any) -> tuple[int, int]:
    match entry:
        case [[int(channels_in), int(channels)], str(name)] if name == LAST and _are_widths(channels_in, channels):
            return channels_in, channels
    raise InvalidSpec(f"an mbv2 net_config ends with [[in, out], '{LAST}'], not with {short(entry)}.")


def _are_widths(*channels: int) -> bool:
    return all(1 <= width <= _MOST_CHANNELS for width in channels)


def _block(position: int, entry: Any) -> Block:
    match entry:
        case [[int(channels_in), int(channels)], str(head), [*stack], int(number), int(stride)]:
            pass
        case _:
            raise InvalidSpec(
                f"block {position} is {short(entry)}: it should read [[in, out], head, [stack], number, stride]."
            )
    if not _are_widths(channels_in, channels) or stride not in (1, 2):
        raise InvalidSpec(
            f"block {position}: channels must be 1 to {_MOST_CHANNELS} and the stride 1 or 2, not {short(entry)}."
        )
    if number != len(stack):
        raise InvalidSpec(f"block {position} says {number} stack operations and lists {len(stack)}.")
    return Block(
        _layer(position, head, channels_in, channels, stride),
        tuple(_layer(position, operation, channels, channels, 1) for operation in stack),
    )


def _layer(position: int, operation: Any, channels_in: int, channels: int, stride: int) -> Layer:
    if isinstance(operation, str):
        if operation in ("basic_block", "bottle_neck", "skip_connect"):
            return Layer(operation, channels_in, channels, stride)
        if match := _MBCONV.fullmatch(operation):
            return Layer(operation, channels_in, channels, stride, int(match[1]), int(match[2]))
    raise InvalidSpec(
        f"block {position}: operation {short(operation)} is unknown; known: mbconv_k<kernel>_t<expansion>, "
        "basic_block, bottle_neck, skip_connect."
    )


def looks_like_net_config(text: str) -> bool:
    """Whether a text is meant as a `net_config`: it says a type, or names an operation of these networks alone."""
    return "net_type" in text or any(name in text for names in _OPERATIONS.values() for name in names)


def parse_net_config(text: str) -> dict[str, Any]:
    """The definition in the text of an authors' `net_config` file, without running any of it.

    The file joins the blocks by `|`, over as many lines as it likes, and ends with a line `net_type: mbv2` or
    `net_type: res`; what follows that line is not read. Without that line the type is the one whose operations the
    blocks have. Raises `InvalidSpec`.
    """
    body: list[str] = []
    said: dict[str, Any] = {}
    for line in text.splitlines():
        if "net_type" in line:
            said = {"net_type": line.rpartition(":")[2].strip()}
            break
        body.append(line.strip())
    return check({**said, "net_config": _entries("".join(body))})


def _entries(text: str) -> list[Any]:
    """The blocks in a text that joins them by `|`."""
    if len(text) > _MOST_CHARACTERS:
        raise InvalidSpec("that is too long for a net_config.")
    entries = []
    for position, part in enumerate(text.split("|")):
        try:
            entries.append(ast.literal_eval(part.strip()))
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            raise InvalidSpec(
                f"block {position} of the net_config is {short(part.strip())}: it should hold only lists, names and "
                "numbers."
            ) from None
    return entries


def _type_of(entries: Any) -> str:
    """The type of network whose operations the blocks have; raises `InvalidSpec` when they have none's or both's."""
    named = set()
    for entry in entries if isinstance(entries, list | tuple) else ():
        for part in entry if isinstance(entry, list | tuple) else ():
            named |= {name for name in (part if isinstance(part, list | tuple) else [part]) if isinstance(name, str)}
    found = [kind for kind, stems in _OPERATIONS.items() if any(name.startswith(stems) for name in named)]
    if len(found) != 1:
        raise InvalidSpec(
            "the net_config does not say its type: end it with a line 'net_type: mbv2' (or res); in JSON give it as "
            "net_type."
        )
    return found[0]


def format_net_config(definition: Mapping[str, Any]) -> str:
    """The text of a `net_config` file that the authors' code and `parse_net_config` read."""
    found = check(definition)
    return "|\n".join(str(entry) for entry in found["net_config"]) + f"\nnet_type: {found['net_type']}\n"
