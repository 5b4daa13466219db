"""Small stores, weights and job folders for the tests of the app. Nothing here needs torch."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import psutil
from textual.pilot import Pilot

from explorer.jobs import folder, planning
from explorer.jobs.folder import Job
from explorer.jobs.request import Request
from explorer.screens.application import NasrobApp
from explorer.settings import Settings
from models.architectures import registry as architectures
from models.attacks import registry as attacks
from models.datasets import registry as datasets
from models.specs import Surrogate
from models.weights.catalogue import WeightsRecord
from store import Store

NOW = "TIMESTAMP '2026-01-01 12:00:00'"


def add_evaluation(
    store: Store,
    architecture: str,
    *,
    attack: str = "pgd",
    eps: str = "8/255",
    threat_space: str = "pixel",
    family: str = "nas",
    n: int = 100,
    clean: int = 95,
    robust: int = 20,
    status: str = "complete",
    requested: int | None = None,
    warnings: Sequence[str] = (),
    model: str | None = None,
    crafted_on: str | None = None,
) -> str:
    """Put one evaluation into a store; returns its identity. `clean` and `robust` are numbers of examples."""
    spec = attacks.resolve(attack, eps=eps, threat_space=threat_space)  # type: ignore[arg-type]
    if crafted_on is not None:
        spec = replace(spec, surrogate=Surrogate(f"{crafted_on}@layers=5", "0" * 64, (0.5,), (0.5,)))
    sha = hashlib.sha256((model or architecture).encode()).hexdigest()
    identity = f"{sha[:8]}{spec.identity[:8]}{requested or n}"
    with store.write() as con:
        con.execute(
            f"INSERT OR IGNORE INTO architectures VALUES (?, ?, ?, 'line', '{{}}', NULL, 'A test', 'nowhere', {NOW})",
            [f"{architecture}@layers=5", architecture, family],
        )
        con.execute(
            "INSERT OR IGNORE INTO datasets VALUES "
            f"('digits/test#1', 'digits', 'test', 500, 10, '1x8x8', 'f', 'UCI', 'CC', {NOW})"
        )
        con.execute(
            "INSERT OR IGNORE INTO models VALUES "
            f"(?, ?, 'digits', 10, 43100, 1000, 'trained', '/w', NULL, 0, 95, ?, {NOW}, {NOW}, NULL)",
            [sha, f"{architecture}@layers=5", f"{architecture} seed 0"],
        )
        con.execute(
            f"INSERT OR IGNORE INTO attacks VALUES (?, ?, 'Linf', ?, ?, ?, ?, ?, ?, 'ce', 0, ?, 'worst', ?, {NOW})",
            [
                spec.identity,
                spec.name,
                spec.eps.text,
                spec.eps.value,
                spec.step_size.value,
                spec.steps,
                spec.restarts,
                spec.random_start,
                spec.threat_space,
                json.dumps(spec.to_dict()),
            ],
        )
        con.execute(
            f"""
            INSERT OR REPLACE INTO evaluations BY NAME
            SELECT $id AS evaluation_id, $sha AS model_sha256, $architecture AS architecture_id,
                'digits/test#1' AS dataset_id, $attack AS attack_id, $preprocessing AS preprocessing,
                $requested AS n_requested, 'all' AS subset_digest, $status AS status,
                $n AS n_done, $n AS n_counted, $clean AS n_clean_correct, $robust AS n_robust, 0 AS n_errors,
                $warnings::TEXT[] AS warnings,
                'cpu' AS device, 'float32' AS "precision", '0.1.0' AS software_version, '2.9' AS torch_version,
                1 AS engine_revision, 12.5 AS seconds, 900 AS forwards, 800 AS backwards,
                {NOW} AS started_at, {NOW} AS updated_at
            """,
            {
                "id": identity,
                "sha": sha,
                "architecture": f"{architecture}@layers=5",
                "attack": spec.identity,
                "preprocessing": json.dumps(asdict(datasets.find("digits").preprocessing)),
                "requested": requested or n,
                "status": status,
                "n": n,
                "clean": clean,
                "robust": robust,
                "warnings": list(warnings),
            },
        )
    return identity


def add_weights(settings: Settings, architecture: str, /, *, seed: int = 0, **record_fields: Any) -> str:
    """A weights file with a record and no tensors; returns the SHA-256 it claims. `record_fields` go before the usual
    ones."""
    sha = hashlib.sha256(f"{architecture}{seed}".encode()).hexdigest()
    dataset = datasets.find("digits")
    spec = architectures.parse_architecture(architecture, scale="small")
    usual: dict[str, Any] = {
        "architecture": spec.canonical,
        "dataset": "digits",
        "dataset_fingerprint": "f",
        "num_classes": 10,
        "in_channels": 1,
        "mean": dataset.preprocessing.mean,
        "std": dataset.preprocessing.std,
        "tensors_sha256": sha,
        "origin": "trained",
        "seed": seed,
        "clean_accuracy": 97.2,
    }
    record = WeightsRecord(**{**usual, **record_fields})
    header = json.dumps({"__metadata__": record.to_header()}).encode()
    folder_ = settings.weights / "digits"
    folder_.mkdir(parents=True, exist_ok=True)
    (folder_ / f"{spec.name}-{seed}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return sha


def add_job(settings: Settings, *names: str, attack: Sequence[str] = ("fgsm", "pgd")) -> Job:
    """A job that is written and not started, of architectures whose weights `add_weights` makes."""
    for name in names:
        add_weights(settings, name)
    asked = planning.Asked(architectures=names, attacks=attack, examples=100)
    return folder.create(settings.jobs, planning.plan(asked, settings)[0])


def claim(job: Job) -> None:
    """Let the process of the test pass for that of the job."""
    process = {"pid": os.getpid(), "started": psutil.Process().create_time()}
    (job.folder / "process.json").write_text(json.dumps(process))


def begin(job: Job, *, done: int = 40, robust: int = 10) -> None:
    """Write the events of a job that is in the middle of its first evaluation."""
    request = job.request()
    assert isinstance(request, Request)
    model, attack = request.models[0], request.attacks[0]
    identity = request.evaluation(model, attack).identity
    job.append("job_started", title=request.title, device="cpu", threads=1, n_evaluations=len(request.attacks))
    job.append(
        "evaluation_started",
        evaluation_id=identity,
        number=1,
        architecture=model.architecture,
        attack=attack.label,
        n_requested=100,
        n_done=0,
    )
    job.append(
        "progress",
        evaluation_id=identity,
        n_requested=100,
        n_done=done,
        n_clean_correct=done,
        n_robust=robust,
        n_errors=0,
        examples_per_second=20.0,
        eta_seconds=3.0,
    )


async def until(pilot: Pilot[Any], condition: Callable[[], object], *, seconds: float = 8.0) -> None:
    """Let the app work until something holds."""
    for _ in range(int(seconds / 0.02)):
        if condition():
            await pilot.pause()
            return
        await pilot.pause(0.02)
    raise AssertionError("it did not come about")


def text_of(app: NasrobApp) -> str:
    """What is on the screen, line by line."""
    width, height = app.size
    lines = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in lines[:height])[: (width + 1) * height]
