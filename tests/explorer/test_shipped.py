"""What comes with the package: there at the first start, and the same when it is measured again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from explorer import settings, shipped
from explorer.reproduction import command
from explorer.results import Freshness, Results
from explorer.tradeoff import Statement
from models.weights import catalogue
from models.weights.files import load_model
from store import Store, results, shipping

Cli = Callable[..., tuple[int, str, str]]

#: Verdicts this close to the border may differ on other hardware, and of the others so many: a sign of a gradient that
#: rounds the other way leads an attack along another path.
BORDER, OTHERWISE = 1e-3, 0.006

EVERYTHING = Statement("FROM tradeoff ORDER BY row_key", [])


@pytest.fixture
def visible(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new home in which what comes with the package is seen."""
    monkeypatch.setenv("NASROB_SHIPPED", "on")
    return home


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the shipped results and nothing else."""
    store = Store(tmp_path_factory.mktemp("packaged") / "results.duckdb")
    assert shipping.provide(store, shipping.FOLDER) > 0
    return store


def rows(store: Store, sql: str) -> list[tuple[object, ...]]:
    with store.read() as con:
        return con.execute(sql).fetchall()


def test_a_new_home_has_a_full_table_and_a_named_file_stays_empty(visible: Path, cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("tradeoff", "--source", "measured", "--format", "json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert {"handcrafted", "nas", "ensemble"} <= {row["family"] for row in found}
    assert len({row["architecture"] for row in found if row["lineage"] == "darts-random"}) >= 16
    assert all(row["status"] == "complete" for row in found)
    named = tmp_path / "own.duckdb"
    assert json.loads(cli("tradeoff", "--source", "measured", "--store", str(named), "--format", "json")[1]) == []


def test_it_can_be_hidden(home: Path, cli: Cli) -> None:
    assert json.loads(cli("tradeoff", "--source", "measured", "--format", "json")[1]) == []
    assert settings.load().weights_folders == [home / "weights"]


def test_the_app_sees_it_at_its_first_look(visible: Path) -> None:
    where = settings.load()
    found = Results(where.store, prepare=partial(shipped.provide, where))
    try:
        assert found.refresh().problem is None
        assert found._mirror.count > 300
    finally:
        found.close()


class TestPreview:
    """Making the store of a new home takes most of a second; its rows are shown before."""

    @pytest.fixture
    def found(self, visible: Path) -> Iterator[Results]:
        where = settings.load()
        results = Results(where.store, prepare=partial(shipped.provide, where), preview=partial(shipped.preview, where))
        yield results
        results.close()

    def test_shows_what_the_store_will_hold(self, found: Results) -> None:
        assert found.refresh() == Freshness(True)
        assert not found.path.exists()
        before = found.query(EVERYTHING).to_pylist()
        assert len(before) > 900
        assert found.refresh() == Freshness(True)
        assert found.path.exists()
        assert found.query(EVERYTHING).to_pylist() == before
        assert found.refresh() == Freshness(False)

    def test_a_store_that_is_there_is_read_at_once(self, found: Results) -> None:
        Store(found.path).ensure()
        assert found.refresh().changed
        assert found._mirror.count > 900

    def test_whoever_asks_the_store_itself_makes_it(self, found: Results) -> None:
        assert found.refresh().changed
        assert rows(found.made_store(), "SELECT count(*) > 100000 FROM outcomes") == [(True,)]
        assert found.refresh() == Freshness(True)  # is still told to the table
        assert found._mirror.count > 900

    def test_stays_when_the_store_cannot_be_made(self, found: Results) -> None:
        assert found.refresh().changed
        found.path.parent.parent.mkdir(parents=True, exist_ok=True)
        found.path.parent.write_text("in the way of the folder")
        fresh = found.refresh()
        assert not fresh.changed
        assert fresh.problem is not None
        assert str(found.path.parent) in fresh.problem
        assert len(found.query(EVERYTHING).to_pylist()) > 900

    def test_without_what_ships_the_printed_figures_are_there(
        self, found: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
        monkeypatch.setattr(shipping, "FOLDER", tmp_path)
        assert found.refresh() == Freshness(True)
        assert {row["source"] for row in found.query(EVERYTHING).to_pylist()} == {"published"}
        fresh = found.refresh()
        assert fresh.problem is not None
        assert "damaged" in fresh.problem


def test_damage_is_said_and_costs_nothing_else(
    visible: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    monkeypatch.setattr(shipping, "FOLDER", tmp_path)
    code, out, err = cli("tradeoff", "--format", "json")
    assert code == 0
    assert "not shown" in err
    assert {row["source"] for row in json.loads(out)} == {"published"}


def test_where_no_store_can_be_made_it_is_said_once(visible: Path, cli: Cli) -> None:
    visible.parent.mkdir(parents=True, exist_ok=True)
    visible.write_text("in the way of the folder")
    code, _, err = cli("tradeoff")
    assert code == 2
    assert err.count("\n") == 1
    assert "a file stands where a folder" in err


def test_every_model_on_digits_has_its_weights_here(packaged: Store) -> None:
    """By file or as a member of an ensemble's file, under the SHA-256 that its results are stored with."""
    files = catalogue.scan([catalogue.shipped_folder()])
    there = {(f.record.tensors_sha256, f.record.architecture) for f in files}
    there |= {(str(m["sha256"]), str(m["architecture"])) for f in files for m in f.record.members or ()}
    wanted = rows(
        packaged,
        """
        SELECT DISTINCT e.model_sha256, e.architecture_id
        FROM evaluations AS e JOIN datasets USING (dataset_id) WHERE name = 'digits'
        """,
    )
    assert len(wanted) > 40
    assert set(wanted) <= there


def test_weights_are_what_their_records_say(home: Path) -> None:
    from models.datasets import registry

    files = catalogue.scan([catalogue.shipped_folder()])
    for file in files:
        # Refuses a file whose tensors are not those of its record.
        loaded = load_model(file.path, None, registry.find(file.record.dataset))
        assert loaded.sha256 == file.record.tensors_sha256


def test_without_words_about_weights_the_first_seed_is_attacked(visible: Path, cli: Cli) -> None:
    """Of several that ship and differ in nothing else."""
    seeds = {
        file.record.seed: file.record.tensors_sha256
        for file in catalogue.scan([catalogue.shipped_folder()])
        if file.record.architecture == "darts@init_channels=4,layers=5"
    }
    assert len(seeds) > 1
    words = "eval --headless --arch darts --attack fgsm --eps 8/255 --dataset digits --device cpu --threads 1"
    code, out, _ = cli(*words.split(), "--format", "json")
    assert code == 0
    (row,) = json.loads(out)
    assert row["model_sha256"] == seeds[0]


def sample(store: Store) -> list[str]:
    """One evaluation by PGD a kind: hand-crafted, searched, random, an ensemble, a member of one, a transfer."""
    found = rows(
        store,
        """
        SELECT any_value(evaluation_id ORDER BY evaluation_id)
        FROM (
            SELECT evaluation_id, a.family, a.lineage, k.name, split_part(m.weights_path, '#', 2) <> '' AS member,
                json_extract(k.config, 'surrogate') IS NULL AS own
            FROM evaluations AS e
            JOIN datasets AS d USING (dataset_id)
            JOIN attacks AS k USING (attack_id)
            JOIN models AS m ON m.model_sha256 = e.model_sha256 AND m.architecture_id = e.architecture_id
            JOIN architectures AS a ON a.architecture_id = e.architecture_id
            WHERE d.name = 'digits' AND k.eps_text = '16/255' AND k.name = 'pgd'
                AND (a.lineage IN ('resnet', 'darts', 'darts-random', 'darts-ensemble') OR a.family = 'ensemble')
        )
        GROUP BY family, lineage, member, own
        ORDER BY ALL
        """,
    )
    return [str(row[0]) for row in found]


def test_a_sample_measured_again_gives_the_same_outcomes(
    visible: Path, cli: Cli, packaged: Store, tmp_path: Path
) -> None:
    """By the command line that every row carries."""

    chosen = sample(packaged)
    assert 6 <= len(chosen) <= 12
    mirror = Results(packaged.path)
    mirror.refresh()
    again = Store(tmp_path / "again.duckdb")
    try:
        details = mirror.details(chosen)
    finally:
        mirror.close()
    for row in details:
        compared = differ = 0
        line = command(row)
        assert line is not None, row["architecture_id"]
        words = shlex.split(line)[1:]
        extra = ("--threads", "1", "--device", "cpu", "--fold", "off", "--channels-last", "off", "--compile", "off")
        code, out, err = cli(*words, *extra, "--store", str(again.path), "--format", "json")
        assert code == 0, (line, err)
        (measured,) = json.loads(out)
        old = {o["example"]: o for o in results.outcomes(packaged, row["evaluation_id"]).to_pylist()}
        for new in results.outcomes(again, measured["evaluation_id"]).to_pylist():
            before = old[new["example"]]
            for key in ("label", "clean_prediction", "clean_correct"):
                assert new[key] == before[key], (line, new["example"], key)
            compared += 1
            if min(abs(before["margin"]), abs(new["margin"])) >= BORDER:
                differ += new["robust"] != before["robust"]
        assert differ <= OTHERWISE * compared, line
        assert compared == row["n_requested"]
