"""Where things are kept. `NASROB_HOME` moves all of it; `--store` moves the results alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models import home as home_of_files


@dataclass(frozen=True)
class Settings:
    """The folders of one installation."""

    home: Path
    store: Path

    @property
    def weights(self) -> Path:
        """Trained and imported weights, a folder a dataset."""
        return self.home / "weights"

    @property
    def jobs(self) -> Path:
        """One folder a job: the request and its events."""
        return self.home / "jobs"

    @property
    def checkpoints(self) -> Path:
        """Trainings that were interrupted."""
        return self.home / "checkpoints"

    @property
    def weights_folders(self) -> list[Path]:
        """Where weights are looked for, in order: a person's own, then those that come with the package."""
        from models.weights import catalogue
        from store import shipping

        return [self.weights, *([catalogue.shipped_folder()] if shipping.wanted() else [])]

    @property
    def is_default_store(self) -> bool:
        """Whether the results are those of the home folder, and not of a file that somebody named."""
        return self.store == self.home / "results.duckdb"


def load(store: Path | None = None) -> Settings:
    """The settings in force: `NASROB_HOME`, else the platform's data directory; `store` overrides the results file."""
    home = home_of_files.folder()
    return Settings(home=home, store=(store.expanduser().absolute() if store else home / "results.duckdb"))
