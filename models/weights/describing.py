"""What is in a weights file, for a person who has just got it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.classifier import tensors_sha256
from models.weights import containers, inference
from models.weights.catalogue import read_record

#: Classes and channels from which the search for architectures starts; it finds the file's own.
_USUAL_CLASSES, _USUAL_CHANNELS = 10, 3


@dataclass(frozen=True)
class Description:
    """A file: its container, its tensors by type, what else it holds, and what it is.

    `intact` says whether the tensors are those of the record; `fits` names architectures for a file without a record.
    """

    container: str
    bytes: int
    tensors: int
    values: int
    types: dict[str, int]
    entries: dict[str, int]
    others: tuple[str, ...]
    record: dict[str, Any] | None
    intact: bool | None
    fits: tuple[str, ...]


def describe(path: Path, *, say: Callable[[str], None]) -> Description:
    """Read a file through; raises `WeightsError` for one that is no weights file or is damaged."""
    contents = containers.read(path)
    record = read_record(path) if contents.container == "safetensors" else None
    fits: tuple[str, ...] = ()
    if record is None:
        say("looking for architectures that these tensors fit")
        search = inference.identify(contents, num_classes=_USUAL_CLASSES, in_channels=_USUAL_CHANNELS)
        fits = tuple(f"{g.spec.canonical} with {g.num_classes} classes" for g in search.guesses)
        if search.looked_at < search.total:
            say(f"{search.looked_at} of {search.total} architectures were tried in the time there is")
    return Description(
        container=contents.container,
        bytes=path.stat().st_size,
        tensors=len(contents.tensors),
        values=sum(t.numel() for t in contents.tensors.values()),
        types=dict(Counter(str(t.dtype).removeprefix("torch.") for t in contents.tensors.values())),
        entries=dict(Counter(name.partition(".")[0] for name in contents.tensors).most_common(12)),
        others=contents.others[:12],
        record=asdict(record) if record is not None else None,
        intact=tensors_sha256(contents.tensors) == record.tensors_sha256 if record is not None else None,
        fits=fits,
    )
