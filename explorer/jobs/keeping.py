"""Where adversarial examples of an evaluation are kept, and which of them are not. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import DataError

if TYPE_CHECKING:
    from store.connection import Store


def folder_of(store: Path) -> Path:
    """The folder, beside the store, of the kept examples of its evaluations."""
    return store.with_name(f"{store.stem}-examples")


def path_of(store: Path, evaluation_id: str) -> Path:
    """The file of the kept examples of one evaluation."""
    return folder_of(store) / f"{evaluation_id}.npz"


@dataclass(frozen=True)
class Lacking:
    """How many adversarial examples should be kept, and how many of those are not."""

    n_wanted: int
    n_lacking: int

    def sentence(self, evaluation_id: str) -> str:
        """What a person should know."""
        what = f"{self.n_lacking} of the {self.n_wanted} adversarial examples to keep of {evaluation_id}"
        return f"{what} were found before any were kept: `--force` measures again and keeps them"


def lacking(store: Store, evaluation_id: str, indices: Sequence[int], limit: int) -> Lacking:
    """Compare what is kept with the first `limit` examples, in the order of `indices`, that the evaluation broke."""
    from models import kept
    from store import results

    table = results.outcomes(store, evaluation_id)
    columns = (table.column(name).to_pylist() for name in ("example", "clean_correct", "robust"))
    broken = {example for example, correct, robust in zip(*columns, strict=True) if correct and robust is False}
    wanted = [example for example in map(int, indices) if example in broken][:limit]
    path = path_of(store.path, evaluation_id)
    try:
        there = set(kept.read_predictions(path).examples.tolist()) if wanted and path.exists() else set()
    except DataError:
        there = set()
    return Lacking(len(wanted), len(set(wanted) - there))
