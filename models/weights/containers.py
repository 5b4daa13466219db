"""What a checkpoint holds, whoever wrote it: its tensors under dotted names. Reading never runs code from a file.

Read are safetensors and what `torch.save` writes, in the zip layout and in the one from before torch 1.6. A
checkpoint is a state dict, or a dictionary that has one somewhere; all of it becomes one flat table, in which
`{"state_dict": {"fc.weight": t}}` is `state_dict.fc.weight`. Which of these names a network wants, `fit` decides.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import pickletools
import re
import shlex
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.errors import WeightsError
from models.weights.catalogue import read_header

#: `torch.save` never compresses; what unpacks to more than this many times its size is no checkpoint.
MOST_INFLATION, FREE_BYTES = 20, 64 * 2**20
#: The number with which `torch.save` began its files before torch 1.6, as a pickle holds it.
_TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
#: Entries of nested dictionaries, and how deep they may nest.
MOST_ENTRIES, MOST_DEPTH = 200_000, 6

#: Turns a file that holds objects into one that holds tensors, where the user trusts it. `sys.argv` spares quoting.
_KEPT = (
    "t = lambda x: hasattr(x, 'dtype') and getattr(x.dtype, 'kind', 'f') in 'biuf'; "
    "f = lambda v: v.state_dict() if hasattr(v, 'state_dict') else "
    "{k: f(x) for k, x in v.items() if isinstance(x, dict) or hasattr(x, 'state_dict') or t(x)} "
    "if isinstance(v, dict) else torch.as_tensor(v) if t(v) else v; "
)
_CONVERT = (
    f"import sys, torch; {_KEPT}"
    "torch.save(f(torch.load(sys.argv[1], map_location='cpu', weights_only=False)), sys.argv[2])"
)
_CONVERT_PICKLE = f"import pickle, sys, torch; {_KEPT}torch.save(f(pickle.load(open(sys.argv[1], 'rb'))), sys.argv[2])"
_CONVERT_ARRAYS = (
    "import sys, numpy, torch; "
    "torch.save({k: torch.as_tensor(v) for k, v in numpy.load(sys.argv[1]).items()}, sys.argv[2])"
)
_CONVERT_SCRIPT = (
    "import sys, torch; torch.save(torch.jit.load(sys.argv[1], map_location='cpu').state_dict(), sys.argv[2])"
)


@dataclass(frozen=True)
class Contents:
    """All tensors of a file by dotted name, and the names of what else is in it (epoch, best_acc, args).

    `arrays` says how many of the tensors were NumPy arrays.
    """

    path: Path
    container: str
    tensors: dict[str, Tensor]
    others: tuple[str, ...] = ()
    arrays: int = 0


class _Inert:
    """Stands in for an object of a training script that is no tensor, such as a NumPy accuracy or the options.

    The restricted unpickler of torch refuses such a file as a whole. Under these names it makes this class instead,
    which takes anything and keeps nothing, so that neither NumPy's code nor anybody else's runs. (NumPy's arrays keep
    their bytes: see `_Array`.)
    """

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class _Type(_Inert):
    """Stands in for a NumPy data type: its short name (`f4`) and its byte order."""

    name, order = "", "<"

    def __init__(self, name: object = None, *_: object) -> None:
        self.name = name if isinstance(name, str) else ""

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, str(order), *_):
                self.order = order


class _Array(_Inert):
    """Stands in for a NumPy array: what its pickle says, checked before any of it is believed."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def tensor(self) -> Tensor | None:
        """The array as a tensor; None for what is no plain array of numbers, whole."""
        match self.state:
            case (_, tuple(shape), _Type() as kind, bool(by_columns), bytes(content)):
                pass
            case _:
                return None
        dtype = _TYPES.get(kind.name)
        if dtype is None or not all(type(n) is int and n >= 0 for n in shape):
            return None
        if not content or math.prod(shape) * dtype.itemsize != len(content) or kind.order not in ("<", "=", "|", ">"):
            return None
        flat = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        if kind.order == ">":
            flat = flat.reshape(-1, dtype.itemsize).flip(1).flatten()
        flat = flat.view(dtype)
        return flat.reshape(shape[::-1]).permute(*range(len(shape))[::-1]) if by_columns else flat.reshape(shape)


#: NumPy's names of the types of numbers that weights are of.
_TYPES: dict[str, torch.dtype] = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}

_NUMPY_NAMES: tuple[tuple[type, str], ...] = (
    *((_Inert, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_Array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (_Type, "numpy.dtype"),
    (_Inert, "numpy.ndarray"),
)
_INERT_NAMES = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    *(f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows", "PurePosix")),
)


def read(path: Path) -> Contents:
    """Read a checkpoint; raises `WeightsError` with what it is instead, or with how to convert it."""
    container = recognise(path)
    if container == "safetensors":
        return Contents(path, container, _read_safetensors(path))
    tensors: dict[str, Tensor] = {}
    others: list[str] = []
    arrays = 0
    for name, value in _leaves(_read_torch(path, container), path):
        if isinstance(value, _Array) and (made := value.tensor()) is not None:
            tensors[name] = made
            arrays += 1
        elif isinstance(value, Tensor):
            tensors[name] = value.detach()
        else:
            others.append(name)
    if not tensors:
        raise WeightsError(
            f"{path} holds no state dict: expected names with tensors, bare or under 'state_dict'"
            + (f"; it has {_some(others)}." if others else ".")
        )
    return Contents(path, container, tensors, tuple(others), arrays)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}.") from None


def recognise(path: Path) -> str:
    """`safetensors`, `torch` or `torch before 1.6`, by content and not by name.

    Raises `WeightsError` for anything else, which it names where it can: a web page in the place of a download, say.
    """
    if path.is_dir():
        raise WeightsError(f"{path} is a folder: name the file of the weights in it.")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}.") from None
    # First, because the length that comes first may look like the beginning of the others.
    if start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] + 8 <= path.stat().st_size:
        return "safetensors"
    if start.startswith(b"PK\x03\x04"):
        return _recognise_zip(path)
    if start.startswith(b"\x80"):
        if _TORCH_MAGIC not in start[:40]:
            raise WeightsError(_about_pickle(path))
        return "torch before 1.6"
    if path.suffix == ".safetensors":
        return "safetensors"
    raise WeightsError(f"{path} {_what_it_is(start)}")


def _about_pickle(path: Path) -> str:
    """One sentence on a pickle that torch.save did not write."""
    try:
        with path.open("rb") as file:
            list(_imports(file))
    except Exception:
        return f"{path} is no checkpoint, or it is damaged: get the file again."
    return (
        f"{path} is a plain pickle, which only running its code can read; where you trust the file, keep its arrays "
        f"and tensors alone and use those: {_command(_CONVERT_PICKLE, path)}"
    )


def _what_it_is(start: bytes) -> str:
    text = start.lstrip().lower()
    if not start:
        return "is empty: get the file again."
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not weights: the download gave a page instead of the file; get it with a browser."
    if text.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself: get it with `git lfs pull`."
    if text.startswith(b"\x89hdf"):
        return "is an HDF5 file (Keras?): convert it to a PyTorch state dict."
    if text.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"rar!", b"bzh", b"\xfd7zxz")):
        return "is a compressed archive: unpack it and name the checkpoint in it."
    if start[257:262] == b"ustar":
        return "is a tar archive: unpack it and name the checkpoint in it."
    if text.startswith(b"\x93numpy"):
        return "is a NumPy array: weights are read from safetensors or from what torch.save wrote."
    return "is no checkpoint, or it is damaged: weights are read from safetensors or from what torch.save wrote."


def _recognise_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"{path} is cut short or damaged ({error}): get the file again.") from None
    names = [entry.filename for entry in entries]
    unpacked = sum(entry.file_size for entry in entries)
    size = path.stat().st_size
    if unpacked > FREE_BYTES + MOST_INFLATION * size:
        raise WeightsError(f"{path} would unpack from {size:,} to {unpacked:,} bytes: that is no checkpoint.")
    if names and all(name.endswith(".npy") for name in names):
        raise WeightsError(f"{path} is an archive of NumPy arrays; convert it: {_command(_CONVERT_ARRAYS, path)}")
    if not any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        raise WeightsError(f"{path} is an archive of {_some(names)}, not a checkpoint: unpack it and name one of them.")
    if any(name.endswith("/constants.pkl") for name in names):
        raise WeightsError(
            f"{path} is a TorchScript archive, a program with its weights; where you trust it, keep its tensors "
            f"alone and use those: {_command(_CONVERT_SCRIPT, path)}"
        )
    return "torch"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    read_header(path)
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"cannot read {path}: {error}. The file is damaged; get it again.") from None


def _read_torch(path: Path, container: str) -> Any:
    stand_ins: list[Any] = [*_NUMPY_NAMES, *((_Inert, name) for name in _INERT_NAMES)]
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            # Of storage classes that old files name, and of pickle protocols.
            warnings.simplefilter("ignore")
            # A path would let torch choose another reader by the name's ending.
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, str(error))) from None
    except MemoryError:
        raise WeightsError(f"{path} does not fit into memory.") from None
    except Exception as error:
        if container != "torch" and tarfile.is_tarfile(path):
            raise WeightsError(f"{path} is in torch's layout from before 0.1.10: {_how_to_convert(path)}") from None
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"cannot read {path}: {reason}. The file is damaged or no checkpoint.") from None


def _refusal(path: Path, reason: str) -> str:
    """One sentence on what torch's unpickler met, and how to go on."""
    named = re.search(r"GLOBAL ([\w.]+)", reason)
    names = [named.group(1)] if named else _pickled_names(path)
    if names is None:
        return f"{path} is no checkpoint, or it is damaged: get the file again."
    if not names:
        return f"{path} is pickled in a way that is not read safely; where you trust the file, {_how_to_convert(path)}"
    return (
        f"{path} holds more than tensors ({_some(names)}), and loading that would run its code; where you trust the "
        f"file, {_how_to_convert(path)}"
    )


def _pickled_names(path: Path) -> list[str] | None:
    """What the pickles in a file want to import, read without importing it; None when they are no whole pickles."""
    names: list[str] = []
    try:
        for stream in _pickles(path):
            names += _imports(stream)
    except Exception:
        # A damaged pickle may ask for anything, such as more text than there is memory.
        return None
    return [name for name in dict.fromkeys(names) if not name.startswith(("torch.", "collections.", "_codecs."))]


def _imports(stream: IO[bytes]) -> Iterator[str]:
    """The names that one pickle would import: given as text, or as the two words that were pushed last."""
    pushed: list[str] = []
    kept: dict[int, str] = {}
    before = ""
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(pushed[-2:])
        elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
            pushed = [*pushed[-1:], kept.get(int(str(argument)), "")]
        elif opcode.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            place = len(kept) if opcode.name == "MEMOIZE" else int(str(argument))
            kept[place] = pushed[-1] if before == "text" else ""
        elif isinstance(argument, str):
            pushed = [*pushed[-1:], argument]
        before = "text" if isinstance(argument, str) else ""


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield io.BytesIO(archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl"))))
        return
    with path.open("rb") as file:
        # torch's old layout: a number, a version and the machine come before the object, storages after it.
        for _ in range(4):
            if file.peek(1)[:1] == b"\x80":
                yield file


def _how_to_convert(path: Path) -> str:
    return f"keep its tensors alone and use those: {_command(_CONVERT, path)}"


def _command(script: str, path: Path) -> str:
    made = path.with_name(f"{path.name.split('.')[0]}-tensors.pt")
    return f'python -c "{script}" {shlex.quote(str(path))} {shlex.quote(str(made))}'


def _leaves(content: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested dictionaries; lists count where they hold dictionaries or tensors."""
    pending: list[tuple[str, Any, int]] = [("", content, 0)]
    seen = 0
    while pending:
        name, value, depth = pending.pop()
        seen += 1
        if seen > MOST_ENTRIES or depth > MOST_DEPTH:
            raise WeightsError(f"{path} nests too much to be a checkpoint: save the state dict alone.")
        items: list[tuple[Any, Any]] | None = None
        if isinstance(value, Mapping):
            items = list(value.items())
            if any(isinstance(inner, Tensor) for _, inner in items):
                # Beside tensors an array is a script's (a history of losses); in their place it is a weight.
                items = [(key, None if isinstance(inner, _Array) else inner) for key, inner in items]
        elif isinstance(value, list | tuple) and any(isinstance(v, Tensor | Mapping) for v in value):
            items = list(enumerate(value))
        if items is None:
            yield name or "(unnamed)", value
            continue
        # The last one first, so that the order of the file is kept.
        for key, inner in reversed(items):
            text = key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
            pending.append((f"{name}.{text}" if name else text, inner, depth + 1))


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
