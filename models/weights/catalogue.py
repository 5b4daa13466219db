"""What weight files there are and what they say about themselves, read from their headers without torch.

A file of ours is safetensors with a JSON record in its header: architecture, dataset, normalisation, recipe, accuracy
and the SHA-256 of its tensors. A record is data from wherever the file came from: nothing in it is ever executed, and
no name in it makes anything be imported.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from models.architectures import definitions, registry
from models.architectures.definitions import PLAIN_NAME, Definition
from models.architectures.wording import short
from models.errors import InvalidSpec, WeightsError
from models.specs import ArchitectureSpec, Preprocessing, canonical_json

FORMAT = "nasrob-weights-1"
_KEY = "nasrob"
_MAX_HEADER = 100_000_000
#: What a record says of the training of a model, and of each member of an ensemble.
_OF_TRAINING = ("recipe_name", "recipe", "seed", "clean_accuracy", "clean_examples")


@dataclass(frozen=True)
class WeightsRecord:
    """What a weights file says about itself. Accuracies in percent; `seed` is the training seed.

    `definition` is what the search found, where the architecture has such, so that the file can be used where nobody
    has heard of it. `geometry` says how images were brought to the network's size, None for images as they are. Weights
    from elsewhere have the SHA-256 of the file they came in and, in `source`, where that was found.
    """

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
    name: str | None = None
    definition: dict[str, Any] | None = None
    geometry: str | None = None
    source: str | None = None
    source_sha256: str | None = None
    members: list[dict[str, Any]] | None = None

    def check(self) -> None:
        """Raise `ValueError` or `InvalidSpec` for values of other kinds than they are declared."""
        texts = (self.architecture, self.dataset, self.dataset_fingerprint, self.tensors_sha256, self.origin)
        maybe_texts = (self.recipe_name, self.name, self.geometry, self.source, self.source_sha256)
        numbers = (self.num_classes, self.in_channels)
        for values, kinds in (
            ((*texts, self.software_version, self.created_at), str),
            (maybe_texts, str | None),
            (numbers, int),
            ((self.seed, self.clean_examples), int | None),
            ((self.clean_accuracy, *self.mean, *self.std), int | float | None),
            ((self.recipe, self.definition), dict | None),
            ((self.members,), list | None),
        ):
            for value in values:
                if not isinstance(value, kinds):
                    raise ValueError(f"{short(value)} is not what belongs there")
        _check_training(vars(self))
        for member in [] if self.members is None else self.members:
            if not (
                isinstance(member, dict) and all(isinstance(member.get(k), str) for k in ("architecture", "sha256"))
            ):
                raise ValueError(f"{short(member)} is no member of an ensemble")
            _check_training(member)
        Preprocessing(self.mean, self.std)

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
            record.check()
        except Exception as error:
            raise WeightsError(f"{path} has a damaged record ({error}): get the file again.") from None
        return record


def _check_training(about: Mapping[str, Any]) -> None:
    """Raise `ValueError` where what is said of a training, of a model or of a member, is of another kind or range."""
    # Infinity and what is not a number come from text that is not quite JSON, and no store or file takes them.
    canonical_json({key: about.get(key) for key in _OF_TRAINING})
    if not isinstance(about.get("recipe"), dict | None) or not isinstance(about.get("recipe_name"), str | None):
        raise ValueError(f"{short(about.get('recipe'))} is no recipe")
    for key in ("seed", "clean_examples"):
        value = about.get(key)
        if value is not None and not (type(value) is int and 0 <= value < 2**63):
            raise ValueError(f"{key} {short(value)} is no whole number from 0 to {2**63 - 1}")
    accuracy = about.get("clean_accuracy")
    if accuracy is not None and not (type(accuracy) in (int, float) and 0 <= accuracy <= 100):
        raise ValueError(f"clean_accuracy {short(accuracy)} is not in percent")


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
    except (ValueError, AttributeError, KeyError, IndexError, TypeError, RecursionError):
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


def locate(text: str, files: Iterable[WeightsFile]) -> Path:
    """The file that a person means: a path, or the beginning of the SHA-256 of one of `files`.

    Raises `WeightsError` when there is none, or more than one.
    """
    path = Path(text).expanduser()
    if not path.exists() and len(text) >= 6 and re.fullmatch("[0-9a-fA-F]+", text):
        return by_sha256(text, files).path
    if not path.exists():
        raise WeightsError(f"there is no weights file {text}.")
    if not path.is_file():
        raise WeightsError(f"{text} is not a file.")
    return path


def by_sha256(text: str, files: Iterable[WeightsFile], *, architecture: str | None = None) -> WeightsFile:
    """The one of `files` whose tensors' SHA-256 begins with `text`; of several with the same tensors one that is of
    `architecture` (canonical text).

    Raises `WeightsError` when there is none, when `text` is too short to tell, and when architectures share the tensors
    and none of them is named.
    """
    found = [f for f in files if f.record.tensors_sha256.startswith(text.lower())]
    sets = {f.record.tensors_sha256 for f in found}
    if len(sets) > 1:
        raise WeightsError(f"{len(sets)} sets of weights begin with {text}: give more digits.")
    if not found:
        raise WeightsError(f"no weights begin with SHA-256 {text}: `nasrob-tui weights` lists what there is.")
    named = [f for f in found if f.record.architecture == architecture] or found
    if architecture is None and len({f.record.architecture for f in named}) > 1:
        files_of = "; ".join(f"{f.record.architecture} in {f.path}" for f in named)
        raise WeightsError(f"several architectures share the tensors {text} ({files_of}): give one of these files.")
    return named[-1]


def member_by_sha256(text: str, files: Iterable[WeightsFile]) -> tuple[WeightsFile, int] | None:
    """The ensemble among `files` with a member whose SHA-256 begins with `text`, and the member's position; None when
    there is none, and for a text that a file of its own has.
    """
    if len(text) < 6 or not re.fullmatch("[0-9a-f]+", text.lower()):
        return None
    found = None
    for file in files:
        if file.record.tensors_sha256.startswith(text.lower()):
            return None
        for position, member in enumerate(file.record.members or ()):
            if found is None and str(member["sha256"]).startswith(text.lower()):
                found = file, position
    return found


def shipped_folder() -> Path:
    """Where the weights lie that come with the package, a folder a dataset."""
    return Path(str(resources.files("models.weights"))) / "shipped"


def architecture_of(record: WeightsRecord, path: Path, *, given: ArchitectureSpec | None = None) -> ArchitectureSpec:
    """The architecture that a file names. `given` is the one that a person named, which the file's must then be.

    A definition that the file carries is kept, so that its name is known here from now on. Raises `WeightsError` for
    another architecture than `given`, for a name whose definition is another here than in the file, and for a name that
    would import a module, unless it is the very one that was given.
    """
    text = record.architecture
    if given is not None and given.canonical == text and not PLAIN_NAME.fullmatch(given.name):
        return given
    name = text.partition("@")[0]
    if not PLAIN_NAME.fullmatch(name):
        raise WeightsError(
            f"{path} says that its architecture is {text!r}, which is code from outside: name it with --arch if you "
            "trust it."
        )
    try:
        carried = _carried(record.definition, name) if record.definition is not None else None
        if carried is not None and carried.name == name:
            definitions.remember(carried)
        here = registry.find(name).definition
        named = registry.parse_architecture(text)
    except InvalidSpec as error:
        raise WeightsError(f"{path} names an architecture that is not known here: {error}") from None
    if carried is not None and here != carried:
        raise WeightsError(
            f"{path} was made for another {name} than the one known here: its definition differs. Name an "
            "architecture with --arch and add the file again."
        )
    if given is not None and given != named:
        raise WeightsError(f"{path} holds weights of {named.canonical}, not of {given.canonical}.")
    return named


def _carried(data: dict[str, Any], name: str) -> Definition:
    """The definition that a file carries. Raises `InvalidSpec`, also for an ensemble with members that are code, unless
    that very ensemble was picked here.
    """
    found = Definition.from_dict(data, picked=True)
    if found.factories and definitions.recall(name) != found:
        return Definition.from_dict(data)
    return found
