"""`weights export` and `weights import`: sets of weights that go from one machine to another."""

from __future__ import annotations

import functools
import http.server
import json
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from explorer import precomputing
from models.weights import catalogue
from models.weights.catalogue import WeightsRecord
from store import shipping
from store.connection import memory

Cli = Callable[..., tuple[int, str, str]]


def rows(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text)
    return found


@pytest.fixture
def packed(home_with_weights: Path, cli: Cli, tmp_path: Path) -> Path:
    """An archive with the small trained network."""
    path = tmp_path / "set.zip"
    code, out, err = cli("weights", "export", str(path), "--format", "json")
    assert (code, len(rows(out))) == (0, 1), err
    return path


@pytest.fixture
def elsewhere(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another machine, with nothing on it."""
    folder = tmp_path / "elsewhere"
    monkeypatch.setenv("NASROB_HOME", str(folder))
    return folder


def taken(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*") if path.is_file())


def test_an_archive_brings_the_same_bytes_once(packed: Path, elsewhere: Path, cli: Cli, trained: Path) -> None:
    code, out, err = cli("weights", "import", str(packed), "--format", "json")
    (row,) = rows(out)
    assert (code, err, row["added"]) == (0, "", True)
    assert taken(elsewhere) == [Path(row["path"])]
    assert Path(row["path"]).read_bytes() == trained.read_bytes()
    code, out, _ = cli("weights", "import", str(packed), "--format", "json")
    assert (code, rows(out)[0]["added"]) == (0, False)
    assert taken(elsewhere) == [Path(row["path"])]


def test_a_folder_and_a_file_do_too(packed: Path, home: Path, elsewhere: Path, cli: Cli, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "unpacked")
    (file,) = (tmp_path / "unpacked").rglob("*.safetensors")
    assert rows(cli("weights", "import", str(tmp_path / "unpacked"), "-f", "json")[1])[0]["added"] is True
    assert rows(cli("weights", "import", str(file), "-f", "json")[1])[0]["added"] is False


def test_export_to_a_folder_leaves_what_is_there(home_with_weights: Path, cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    assert cli("weights", "export", str(target), "--dataset", "digits", "--arch", "resnet18")[0] == 0
    assert [path.name for path in taken(target) if path.suffix != ".safetensors"] == ["mine.txt"]
    assert len(list(target.rglob("*.safetensors"))) == 1
    assert not list(target.rglob("*.new"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--arch", "darts"], "no weights are like that"),
        (["--dataset", "cifar10"], "no weights are like that"),
        (["--arch", "drats"], "unknown architecture 'drats'"),
        (["--dataset", "digit"], "unknown dataset 'digit'"),
    ],
)
def test_export_of_nothing(
    home_with_weights: Path, cli: Cli, tmp_path: Path, options: list[str], sentence: str
) -> None:
    code, _, err = cli("weights", "export", str(tmp_path / "set.zip"), *options)
    assert code == 2
    assert sentence in err
    assert not (tmp_path / "set.zip").exists()


def test_export_to_where_nothing_can_be_written(home_with_weights: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in ("file/set.zip", "file/set"):
        code, _, err = cli("weights", "export", str(tmp_path / target))
        assert code == 1
        assert err.count("\n") == 1
        assert "cannot write" in err


def test_an_address(packed: Path, elsewhere: Path, cli: Cli) -> None:
    handler = functools.partial(_Quiet, directory=str(packed.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_address[1]}"
        code, out, err = cli("weights", "import", f"{at}/set.zip?raw=1", "--format", "json")
        missing = cli("weights", "import", f"{at}/other.zip")
        server.shutdown()
    assert (code, rows(out)[0]["added"]) == (0, True), err
    assert missing[0] == 2
    assert "could not be fetched" in missing[2]
    assert len(taken(elsewhere)) == 1


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


class TestUntrusted:
    """One bad file costs the others nothing, and nothing of it is kept."""

    @pytest.fixture
    def damaged(self, packed: Path, tmp_path: Path) -> Callable[[bytes, str], Path]:
        with zipfile.ZipFile(packed) as archive:
            (name,) = archive.namelist()
            good = archive.read(name)

        def make(content: bytes, called: str) -> Path:
            path = tmp_path / "bad.zip"
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(called, content)
                archive.writestr(name, good)
            return path

        return make

    @pytest.mark.parametrize("content", [b"", b"not weights", b"\x10" * 4000], ids=["empty", "text", "noise"])
    def test_what_is_no_safetensors(
        self, damaged: Callable[[bytes, str], Path], elsewhere: Path, cli: Cli, content: bytes
    ) -> None:
        code, out, err = cli("weights", "import", str(damaged(content, "digits/a.safetensors")), "-f", "json")
        assert (code, len(rows(out))) == (1, 1)
        assert err.startswith("not taken: digits/a.safetensors ")
        assert len(taken(elsewhere)) == 1

    def test_tensors_that_are_not_the_records(
        self, damaged: Callable[[bytes, str], Path], elsewhere: Path, cli: Cli, trained: Path, tmp_path: Path
    ) -> None:
        content = bytearray(trained.read_bytes())
        content[-1] ^= 1
        code, _, err = cli("weights", "import", str(damaged(bytes(content), "x.safetensors")))
        assert code == 1
        assert "damaged" in err
        assert len(taken(elsewhere)) == 1

    @pytest.mark.parametrize(
        "called",
        ["../../../outside.safetensors", "/outside.safetensors", "a/../../outside.safetensors", ".hidden.safetensors"],
    )
    def test_names_lead_nowhere_else(
        self, damaged: Callable[[bytes, str], Path], elsewhere: Path, cli: Cli, trained: Path, called: str
    ) -> None:
        code, out, _ = cli("weights", "import", str(damaged(trained.read_bytes(), called)), "-f", "json")
        assert code == 0
        assert len(taken(elsewhere)) == 1
        assert all(path.parent == elsewhere / "weights" / "digits" for path in taken(elsewhere))
        assert {Path(row["path"]) for row in rows(out)} == set(taken(elsewhere))

    def test_a_record_that_names_code(
        self, damaged: Callable[[bytes, str], Path], elsewhere: Path, cli: Cli, trained: Path, tmp_path: Path
    ) -> None:
        record = catalogue.read_record(trained)
        assert record is not None
        wrong = {**vars(record), "architecture": "os:system"}
        path = tmp_path / "code.safetensors"
        save_file(load_file(trained), path, metadata=WeightsRecord(**wrong).to_header())
        code, _, err = cli("weights", "import", str(damaged(path.read_bytes(), "code.safetensors")))
        assert code == 1
        assert "code from outside" in err
        assert len(taken(elsewhere)) == 1

    def test_a_file_without_a_record(self, elsewhere: Path, cli: Cli, trained: Path, tmp_path: Path) -> None:
        save_file(load_file(trained), tmp_path / "bare.safetensors")
        code, _, err = cli("weights", "import", str(tmp_path / "bare.safetensors"))
        assert code == 1
        assert "`nasrob-tui weights add`" in err

    def test_another_model_of_the_same_name_is_not_overwritten(
        self, packed: Path, elsewhere: Path, cli: Cli, trained: Path
    ) -> None:
        there = elsewhere / "weights" / "digits" / trained.name
        there.parent.mkdir(parents=True)
        there.write_bytes(b"mine")
        code, _, err = cli("weights", "import", str(packed))
        assert code == 1
        assert "holds another model" in err
        assert there.read_bytes() == b"mine"


@pytest.mark.parametrize("make", ["nothing", "empty folder", "empty archive", "cut archive", "page"])
def test_sources_that_are_none(packed: Path, elsewhere: Path, cli: Cli, tmp_path: Path, make: str) -> None:
    path = tmp_path / "source.zip"
    if make == "empty folder":
        path.mkdir()
    elif make == "empty archive":
        zipfile.ZipFile(path, "w").close()
    elif make == "cut archive":
        path.write_bytes(packed.read_bytes()[:-30])
    elif make == "page":
        path.write_text("<html>")
    code, _, err = cli("weights", "import", str(path))
    assert code in (1, 2)
    assert err.count("\n") == 1
    assert not taken(elsewhere)


def test_the_optional_archive_holds_every_model_on_fashion_mnist_that_ships(home: Path, cli: Cli) -> None:
    code, out, _ = cli("weights", "import", str(precomputing.OPTIONAL), "--format", "json")
    assert code == 0
    with memory() as con:
        wanted = con.execute(
            """
            SELECT DISTINCT model_sha256, architecture_id FROM read_parquet(?) JOIN read_parquet(?) USING (dataset_id)
            WHERE starts_with(name, 'fashion-mnist')
            """,
            [str(shipping.FOLDER / "evaluations.parquet"), str(shipping.FOLDER / "datasets.parquet")],
        ).fetchall()
    assert wanted
    files = catalogue.scan([home / "weights"])
    there = {(f.record.tensors_sha256, f.record.architecture) for f in files}
    assert {(row["sha256"], row["architecture"]) for row in rows(out)} == there <= set(wanted)
    # Members of sampled ensembles are in the ensembles' files.
    inside = {(str(m["sha256"]), str(m["architecture"])) for f in files for m in f.record.members or ()}
    assert set(wanted) <= there | inside
