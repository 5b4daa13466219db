"""Sets of weights that go from one machine to another: a folder or a zip archive of files with records.

What comes from elsewhere is untrusted: it is read as safetensors only, it must be the model that its record names, and
no path in an archive decides where anything is written.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.datasets import registry as datasets
from models.errors import ModelsError, OutputError, WeightsError
from models.weights import catalogue
from models.weights.catalogue import WeightsFile

#: When every file in an archive was made, as far as the archive says: the same weights give the same bytes.
_ALWAYS = (1980, 1, 1, 0, 0, 0)
_ENDING = ".safetensors"


@dataclass(frozen=True)
class Brought:
    """What became of one file: where it lies now, whether that is new, or why it was not taken."""

    name: str
    file: WeightsFile | None = None
    new: bool = False
    problem: str | None = None


def pack(files: Sequence[WeightsFile], target: Path) -> None:
    """Write the files into `target`, a zip archive or (without that ending) a folder; each in a folder of its dataset.

    Files of a set that was packed before are replaced; in a folder others stay. Raises `OutputError` when there is no
    room or no permission.
    """
    try:
        if target.suffix.lower() == ".zip":
            target.parent.mkdir(parents=True, exist_ok=True)
            with _draft_of(target) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in files:
                    entry = zipfile.ZipInfo(_inside(file), _ALWAYS)
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(entry, file.path.read_bytes())
            return
        for file in files:
            path = target / _inside(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            with _draft_of(path) as draft:
                shutil.copyfile(file.path, draft)
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}. Free some space or choose another place."
        ) from None


def bring(source: str, home: Path, there: Sequence[WeightsFile]) -> Iterator[Brought]:
    """Take what `source` holds into the folder `home`, one file after the other.

    `source` is a file, a folder, a zip archive, or an http(s) address of a file or an archive. What one of the files
    `there` holds already is not written again. Raises `WeightsError` for a source that is none of these or holds no
    weights, and `OutputError` when there is no room; of what was brought until then all is whole.
    """
    known = list(there)
    found = 0
    with _opened(source, home) as names:
        for name, path in names:
            found += 1
            brought = _bring_one(name, path, home, known)
            if brought.new and brought.file is not None:
                known.append(brought.file)
            yield brought
    if not found:
        raise WeightsError(f"{source} holds no {_ENDING} file.")


def _bring_one(name: str, path: Path, home: Path, known: Sequence[WeightsFile]) -> Brought:
    """One file, checked as a whole: the architecture is built and the tensors must be those of the record."""
    from models.weights.files import load_model, write_atomically

    try:
        record = catalogue.read_record(path)
        if record is None:
            raise WeightsError(
                f"{name} has no record of what it is: `nasrob-tui weights add` matches such a file to an architecture."
            )
        dataset = datasets.find(record.dataset)
        loaded = load_model(path, None, dataset)
        file_name = Path(name).name
        goal = home / dataset.slug / file_name
        same = next(
            (f for f in known if _identity(f.record) == (loaded.sha256, record.architecture, record.dataset)), None
        )
        if same is not None:
            return Brought(name, same)
        if goal.exists():
            raise WeightsError(f"{goal} is there already and holds another model: move it aside.")
        write_atomically(goal, path.read_bytes())
    except OutputError:
        raise
    except ModelsError as error:
        return Brought(name, problem=str(error).replace(str(path), name))
    return Brought(name, WeightsFile(goal, record), new=True)


def _identity(record: catalogue.WeightsRecord) -> tuple[str, str, str]:
    return (record.tensors_sha256, record.architecture, record.dataset)


def _inside(file: WeightsFile) -> str:
    return f"{datasets.find(file.record.dataset).slug}/{file.path.name}"


@contextlib.contextmanager
def _draft_of(path: Path) -> Iterator[Path]:
    """A name beside `path` that takes its place at the end."""
    draft = path.with_name(f".{path.name}.new")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(source: str, home: Path) -> Iterator[Iterator[tuple[str, Path]]]:
    """The files of a source: what each is called, and where it can be read."""
    if source.startswith(("https://", "http://")):
        with _aside(home) as folder:
            path = folder / (source.partition("?")[0].rstrip("/").rpartition("/")[2] or "weights")
            _download(source, path)
            with _opened(str(path), home) as names:
                yield names
        return
    path = Path(source).expanduser()
    if path.is_dir():
        yield ((str(p.relative_to(path)), p) for p in sorted(path.rglob(f"*{_ENDING}")))
    elif not path.is_file():
        raise WeightsError(f"there is no {source}: give a file, a folder, a zip archive or an address.")
    elif zipfile.is_zipfile(path):
        with _aside(home) as folder:
            yield _unpacked(path, folder)
    else:
        yield iter([(path.name, path)])


def _unpacked(path: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """The weights in an archive, one at a time in a file of ours."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.is_dir() or not entry.filename.endswith(_ENDING):
                    continue
                aside = folder / f"entry{_ENDING}"
                with archive.open(entry) as source, aside.open("wb") as target:
                    shutil.copyfileobj(source, target)
                yield entry.filename, aside
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise WeightsError(f"{path} is a damaged archive ({error}): get it again.") from None
    except OSError as error:
        raise OutputError(f"cannot unpack {path}: {error.strerror or error}. Free some space.") from None


def _download(address: str, path: Path) -> None:
    import torch

    try:
        torch.hub.download_url_to_file(address, str(path), progress=False)
    except (OSError, ValueError) as error:  # urllib's errors are OSErrors
        raise WeightsError(f"{address} could not be fetched ({error}): check the address and the network.") from None


@contextlib.contextmanager
def _aside(home: Path) -> Iterator[Path]:
    """A folder for what is on its way, on the disk where it is going."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=".import-", dir=home)
    except OSError as error:
        raise OutputError(f"cannot write to {home}: {error.strerror or error}.") from None
    with made as name:
        yield Path(name)
