"""What weight files there are and what they say about themselves, read from their headers without torch.

A file of ours is safetensors with a JSON record in its header: architecture, dataset, normalisation, recipe, accuracy
and the SHA-256 of its tensors. Nothing in a header is ever executed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from models.errors import WeightsError
from models.specs import ArchitectureSpec, Preprocessing, canonical_json

FORMAT = "nasrob-weights-1"
_KEY = "nasrob"
_MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class WeightsRecord:
    """What a weights file says about itself. Accuracies in percent; `seed` is the training seed."""

    architecture: str
    dataset: str
    dataset_fingerprint: str
    num_classes: int
    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tensors_sha256: str
    origin: str
    recipe_name: str | None = None
    recipe: dict[str, Any] | None = None
    seed: int | None = None
    clean_accuracy: float | None = None
    clean_examples: int | None = None
    software_version: str = ""
    created_at: str = ""

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.mean, self.std)

    def to_header(self) -> dict[str, str]:
        """The header entry of a safetensors file."""
        return {"format": FORMAT, _KEY: canonical_json(asdict(self))}

    @classmethod
    def from_header(cls, header: dict[str, str], path: Path) -> WeightsRecord | None:
        """The record in a header, None when the file was written by something else."""
        if _KEY not in header:
            return None
        if header.get("format") != FORMAT:
            raise WeightsError(
                f"{path} is in weights format {header.get('format')!r}, and this version reads {FORMAT!r}: "
                "update nasrob-tui."
            )
        try:
            raw = json.loads(header[_KEY])
            known = {f.name for f in fields(cls)}
            values: dict[str, Any] = {k: tuple(v) if k in ("mean", "std") else v for k, v in raw.items() if k in known}
            record = cls(**values)
            Preprocessing(record.mean, record.std)
        except Exception as error:
            raise WeightsError(f"{path} has a damaged record ({error}): get the file again.") from None
        return record


@dataclass(frozen=True)
class WeightsFile:
    """A weights file with its record."""

    path: Path
    record: WeightsRecord


def read_header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without reading tensors; raises `WeightsError` for anything else."""
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            (length,) = struct.unpack("<Q", prefix) if len(prefix) == 8 else (0,)
            if not 2 <= length <= _MAX_HEADER:
                raise WeightsError(f"{path} is not a safetensors file.")
            raw = file.read(length)
            size = file.seek(0, 2)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}.") from None
    try:
        header = json.loads(raw)
        metadata = header.pop("__metadata__", {})
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if size != 8 + length + end:
            raise ValueError(size)
        return {str(k): str(v) for k, v in metadata.items()}
    except (ValueError, AttributeError, KeyError, IndexError, TypeError):
        raise WeightsError(f"{path} is not a safetensors file, or it is cut short: get the file again.") from None


def read_record(path: Path) -> WeightsRecord | None:
    """What the file says about itself; None for safetensors written by something else."""
    return WeightsRecord.from_header(read_header(path), path)


def scan(folders: Iterable[Path]) -> list[WeightsFile]:
    """All files of ours below `folders`, sorted by path; unreadable ones are passed over."""
    found: list[WeightsFile] = []
    for folder in folders:
        for path in sorted(folder.rglob("*.safetensors")) if folder.is_dir() else ():
            try:
                record = read_record(path)
            except WeightsError:
                continue
            if record is not None:
                found.append(WeightsFile(path, record))
    return found


def matching(files: Iterable[WeightsFile], architecture: ArchitectureSpec, dataset: str) -> list[WeightsFile]:
    """Those trained for an architecture on a dataset; the same tensors are listed once."""
    unique: dict[str, WeightsFile] = {}
    for file in files:
        if file.record.architecture == architecture.canonical and file.record.dataset == dataset:
            unique.setdefault(file.record.tensors_sha256, file)
    return list(unique.values())
