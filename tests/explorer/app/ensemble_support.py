"""Ensembles with results in small stores, for the tests of their pages. Nothing here needs torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import typer.main
from click import Context

from models.attacks import registry as attacks
from models.specs import AttackSpec, Surrogate
from store import Store

NOW = "TIMESTAMP '2026-01-01 12:00:00'"
DATASET = "digits/test#1"
WHOLE = "darts-ensemble-0@cells=2-1,init_channels=8,combine=mean-logits"
MEMBERS = ("darts-random-0@init_channels=8,layers=2", "darts-random-1@init_channels=8,layers=1")
#: An outcome a mark: `+` robust, `-` broken, `x` wrong without attack. Robust: 5, 4 and 4 of 8; 6 by any member.
MARKS = ("+++++---", "++++----", "++--++--")


def sha_of(architecture: str) -> str:
    return hashlib.sha256(architecture.encode()).hexdigest()


@dataclass
class Ensembles:
    """A store to which ensembles, evaluations and gradients are added."""

    store: Store

    def model(
        self, architecture: str, members: Sequence[str] = (), *, combine: str | None = None, day: int = 1, seed: int = 0
    ) -> str:
        """A model trained on digits; returns its SHA-256."""
        sha = sha_of(architecture)
        with self.store.write() as con:
            con.execute(
                f"INSERT OR IGNORE INTO architectures VALUES (?, ?, ?, 'line', '{{}}', NULL, 'A test', 'here', {NOW})",
                [architecture, architecture.partition("@")[0], "ensemble" if combine else "nas"],
            )
            con.execute(
                "INSERT OR IGNORE INTO models BY NAME SELECT $sha AS model_sha256, $architecture AS architecture_id, "
                "'digits' AS trained_on, 10 AS n_classes, 43100 AS params, 1000 AS macs, 'trained' AS origin, "
                "'/w/file.safetensors' AS weights_path, $label AS label, $seed AS train_seed, "
                "96.5 AS clean_accuracy_recorded, $combine AS combine, "
                f"make_timestamp(2026, 1, $day, 0, 0, 0) AS created_at, {NOW} AS recorded_at",
                {
                    "sha": sha,
                    "architecture": architecture,
                    "label": f"{architecture.partition('@')[0]} seed {seed}",
                    "seed": seed,
                    "combine": combine,
                    "day": day,
                },
            )
            for position, member in enumerate(members):
                con.execute(
                    "INSERT OR IGNORE INTO ensemble_members VALUES (?, ?, ?, ?, ?)",
                    [sha, architecture, position, sha_of(member), member],
                )
        return sha

    def whole(self, architecture: str = WHOLE, *, day: int = 1) -> str:
        """An ensemble of the two members."""
        for member in MEMBERS:
            self.model(member)
        return self.model(architecture, MEMBERS, combine="mean-logits", day=day)

    def evaluation(self, architecture: str, marks: str, spec: AttackSpec | None = None, *, minute: int = 0) -> str:
        """An evaluation with an outcome a mark; returns its identity."""
        spec = spec or pgd()
        sha = sha_of(architecture)
        identity = hashlib.sha256(f"{sha}{spec.identity}".encode()).hexdigest()[:16]
        n = len(marks)
        with self.store.write() as con:
            con.execute(
                f"INSERT OR IGNORE INTO datasets VALUES ('{DATASET}', 'digits', 'test', 500, 10, '1x8x8', 'f', 'UCI', "
                f"'CC', {NOW})"
            )
            con.execute(
                "INSERT OR IGNORE INTO attacks SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, " + NOW,
                [
                    spec.identity,
                    spec.name,
                    spec.norm,
                    spec.eps.text,
                    spec.eps.value,
                    spec.step_size.value if spec.step_size else None,
                    spec.steps,
                    spec.restarts,
                    spec.random_start,
                    spec.loss,
                    spec.seed,
                    spec.threat_space,
                    spec.verdict,
                    json.dumps(spec.to_dict()),
                ],
            )
            con.execute(
                "INSERT INTO evaluations BY NAME SELECT $id AS evaluation_id, $sha AS model_sha256, "
                f"$architecture AS architecture_id, '{DATASET}' AS dataset_id, $attack AS attack_id, "
                "'{}' AS preprocessing, $n AS n_requested, $subset AS subset_digest, 'complete' AS status, "
                "$n AS n_done, $n AS n_counted, $clean AS n_clean_correct, $robust AS n_robust, 0 AS n_errors, "
                "[]::TEXT[] AS warnings, 'cpu' AS device, 'float32' AS \"precision\", '0.1' AS software_version, "
                f"'2.9' AS torch_version, 1 AS engine_revision, {NOW} AS started_at, "
                "make_timestamp(2026, 1, 1, 12, $minute, 0) AS updated_at",
                {
                    "id": identity,
                    "sha": sha,
                    "architecture": architecture,
                    "attack": spec.identity,
                    "subset": f"first-{n}",
                    "n": n,
                    "clean": n - marks.count("x"),
                    "robust": marks.count("+"),
                    "minute": minute,
                },
            )
            con.execute("INSERT OR IGNORE INTO subsets VALUES (?, range(?))", [f"first-{n}", n])
            rows = [
                {
                    "evaluation_id": identity,
                    "example": i,
                    "label": i % 10,
                    "clean_prediction": (i + (mark == "x")) % 10,
                    "adversarial_prediction": (i + (mark != "+")) % 10,
                    "clean_correct": mark != "x",
                    "robust": mark == "+",
                    "forwards": 1,
                    "backwards": 1,
                    "zero_gradient_steps": 0,
                }
                for i, mark in enumerate(marks)
            ]
            con.register("given", pa.Table.from_pylist(rows))
            con.execute("INSERT INTO outcomes BY NAME FROM given")
            con.unregister("given")
        return identity

    def attacked(self, spec: AttackSpec | None = None, *, members: bool = True, minute: int = 0) -> str:
        """The ensemble of two members under an attack; returns the identity of the evaluation of the whole."""
        self.whole()
        for member, marks in zip(MEMBERS if members else (), MARKS[1:], strict=False):
            self.evaluation(member, marks, spec)
        return self.evaluation(WHOLE, MARKS[0], spec, minute=minute)

    def transfer(self, source: str, target: str, marks: str) -> str:
        """PGD made on one part and judged on another."""
        surrogate = Surrogate(source, sha_of(source), (0.5,), (0.25,), "/w/file.safetensors")
        return self.evaluation(target, marks, pgd(surrogate=surrogate, verdict="last"))

    def cosines(self, values: Sequence[float]) -> None:
        """Between the gradients of the two members."""
        first, second = sorted((sha_of(m), m) for m in MEMBERS)
        with self.store.write() as con:
            con.executemany(
                "INSERT INTO gradient_cosines VALUES (?, ?, ?, ?, ?, ?, ?)",
                [[DATASET, i, *first, *second, value] for i, value in enumerate(values)],
            )


def pgd(eps: str = "8/255", **changes: Any) -> AttackSpec:
    return replace(attacks.resolve("pgd", eps=eps), **changes)


def understood(words: Sequence[str]) -> dict[str, Any]:
    """What the command line makes of `nasrob-tui WORDS`: the values of all options. Raises where it does not."""
    from explorer.cli.program import app

    command: Any = typer.main.get_command(app)
    rest, name = list(words), None
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(Context(command), rest)
    return dict(command.make_context(name, rest).params)
