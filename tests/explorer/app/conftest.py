"""A home of its own for every test, with a store that holds a few results."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from explorer.errands import Errands
from explorer.screens.application import NasrobApp
from explorer.settings import Settings
from store import Store
from tests.explorer.app.ensemble_support import Ensembles
from tests.explorer.app.support import add_evaluation


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without measurements. Not to be written to."""
    path = tmp_path_factory.mktemp("empty") / "results.duckdb"
    Store(path).ensure()
    return path


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: Path) -> Settings:
    """A home of the test's own, with a store without measurements."""
    monkeypatch.setenv("NASROB_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty, tmp_path / "results.duckdb")
    return Settings(home=tmp_path, store=tmp_path / "results.duckdb")


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two models measured here, beside the published rows of every store. Not to be written to."""
    path = tmp_path_factory.mktemp("filled") / "results.duckdb"
    store = Store(path)
    add_evaluation(store, "darts-random-4", attack="pgd", robust=6, warnings=["single step stronger than PGD"])
    add_evaluation(store, "darts-random-4", attack="fgsm", robust=51)
    add_evaluation(store, "resnet18", attack="pgd", robust=24, family="handcrafted")
    return path


@pytest.fixture
def store(settings: Settings, filled: Path) -> Store:
    """A copy of the filled store for the test alone."""
    shutil.copy(filled, settings.store)
    return Store(settings.store)


@pytest.fixture
def make_app(settings: Settings) -> Iterator[Callable[..., NasrobApp]]:
    """Apps on the home of the test. At the end, none of them has met a bug."""
    made: list[NasrobApp] = []

    def make(focus_job: int | None = None) -> NasrobApp:
        made.append(NasrobApp(settings, focus_job=focus_job))
        return made[-1]

    yield make
    for app in made:
        app.results.close()
        assert app.bugs == []


@pytest.fixture
def ensembles(settings: Settings) -> Ensembles:
    """The store of the test, to which ensembles are added."""
    return Ensembles(Store(settings.store))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been started beside the app; each goes on until the test ends."""
    found: list[list[str]] = []

    async def run(errands: Errands, words: Sequence[str]) -> str:
        found.append(list(words))
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(Errands, "run", run)
    monkeypatch.setattr(Errands, "going", lambda errands, words: list(words) in found)
    return found
