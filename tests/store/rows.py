"""Rows and batches for the tests of the store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from store.results import ArchitectureRow, AttackRow, DatasetRow, EvaluationRow, ModelRow, outcome_schema


def architecture(name: str = "darts", **changes: Any) -> ArchitectureRow:
    fields: dict[str, Any] = {
        "architecture_id": f"{name}@layers=5",
        "name": name,
        "family": "nas",
        "lineage": name,
        "options": {"layers": 5},
        "genotype": {"normal": [["sep_conv_3x3", 0]]},
        "description": "A test architecture",
        "source": "nowhere",
    }
    return ArchitectureRow(**(fields | changes))


def dataset(**changes: Any) -> DatasetRow:
    fields: dict[str, Any] = {
        "dataset_id": "digits/test#12345678",
        "name": "digits",
        "split": "test",
        "n_examples": 100,
        "n_classes": 10,
        "image_shape": "1x8x8",
        "fingerprint": "12345678" * 8,
        "source": "UCI",
        "license": "CC BY 4.0",
    }
    return DatasetRow(**(fields | changes))


def model(sha256: str = "a" * 64, **changes: Any) -> ModelRow:
    fields: dict[str, Any] = {
        "model_sha256": sha256,
        "architecture_id": "darts@layers=5",
        "trained_on": "digits",
        "n_classes": 10,
        "params": 1000,
        "origin": "trained",
        "weights_path": "/weights/darts.safetensors",
        "label": "darts on digits",
    }
    return ModelRow(**(fields | changes))


def attack(**changes: Any) -> AttackRow:
    fields: dict[str, Any] = {
        "attack_id": "pgd-1",
        "name": "pgd",
        "norm": "Linf",
        "eps_text": "8/255",
        "eps": 8 / 255,
        "step_size": 2 / 255,
        "steps": 10,
        "restarts": 1,
        "random_start": True,
        "loss": "ce",
        "seed": 0,
        "threat_space": "pixel",
        "verdict": "worst",
        "config": {"name": "pgd", "eps": "8/255", "steps": 10},
    }
    return AttackRow(**(fields | changes))


def evaluation(evaluation_id: str = "e1", **changes: Any) -> EvaluationRow:
    fields: dict[str, Any] = {
        "evaluation_id": evaluation_id,
        "model_sha256": "a" * 64,
        "architecture_id": "darts@layers=5",
        "dataset_id": "digits/test#12345678",
        "attack_id": "pgd-1",
        "preprocessing": {"mean": [0.3], "std": [0.4]},
        "n_requested": 100,
        "subset_digest": "all",
        "device": "cpu",
        "precision": "float32",
        "software_version": "0.1.0",
        "torch_version": "2.9",
        "engine_revision": 1,
    }
    fields |= changes
    fields.setdefault("examples", list(range(fields["n_requested"])))
    if fields["subset_digest"] == "all":
        fields["subset_digest"] = f"all {fields['n_requested']}"
    return EvaluationRow(**fields)


def request(evaluation_id: str = "e1", **changes: Any) -> dict[str, Any]:
    """The keyword arguments of `open_evaluation` for one evaluation; `changes` are of its row."""
    return {
        "architecture": architecture(),
        "dataset": dataset(),
        "model": model(),
        "attack": attack(),
        "evaluation": evaluation(evaluation_id, **changes),
    }


def batch(examples: Iterable[int], **changes: Any) -> pa.Table:
    """Outcomes by a fixed rule: every 10th example wrong without attack, every 7th without a verdict, of the others the
    even ones robust. `changes` replace a column by one value."""
    rows = []
    for i in examples:
        error = "non-finite logits" if i % 7 == 3 else None
        clean = i % 10 != 9
        robust = None if error else clean and i % 2 == 0
        broken = clean and robust is False
        rows.append(
            {
                "example": i,
                "label": i % 10,
                "clean_prediction": i % 10 if clean else (i + 1) % 10,
                "adversarial_prediction": None if error else (i % 10 if robust else (i + 1) % 10),
                "clean_correct": clean,
                "robust": robust,
                "broken_at_step": i % 4 if broken else None,
                "broken_at_restart": 0 if broken else None,
                "distance": None if error else 8 / 255,
                "clean_margin": 1.5 if clean else -1.5,
                "margin": None if error else (5e-5 if i % 20 == 0 else (1.0 if robust else -1.0)),
                "forwards": 2 + i % 4,
                "backwards": 1 + i % 4,
                "zero_gradient_steps": 1 if i % 13 == 0 else 0,
                "error": error,
            }
            | changes
        )
    return pa.Table.from_pylist(rows, schema=outcome_schema())
