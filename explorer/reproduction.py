"""From a row of the trade-off table to the command that gives the same row."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any


def command(row: Mapping[str, Any]) -> str | None:
    """The command line that measures this row again; None when the row does not say enough, as with published ones."""
    from explorer.jobs.request import normalisation
    from models.attacks.registry import inline
    from models.errors import ModelsError
    from models.specs import AttackSpec

    if row.get("source") != "measured" or not row.get("architecture_id") or not row.get("attack_config"):
        return None
    try:
        attack = AttackSpec.from_dict(json.loads(row["attack_config"]))
        word = inline(attack)
        normal = json.loads(row["preprocessing"])
        normalised = normalisation(row["dataset"], tuple(normal["mean"]), tuple(normal["std"]))
    except (ModelsError, KeyError, TypeError, ValueError):
        return None
    words = [
        "nasrob-tui",
        "eval",
        "--headless",
        "--arch",
        row["architecture_id"],
        "--weights",
        # Weights of ours are found by their hash wherever they lie; others only where they were read.
        row["weights_path"] if row["origin"] == "imported" else row["model_sha256"][:16],
    ]
    words += normalised
    words += ["--dataset", row["dataset"], *(["--split", row["split"]] if row["split"] != "test" else [])]
    words += ["--attack", word, "--examples", str(row["n_requested"])]
    words += ["--seed", str(attack.seed)] if attack.seed else []
    words += ["--threat-space", attack.threat_space] if attack.threat_space != "pixel" else []
    if (other := attack.surrogate) is not None:
        words += ["--surrogate", other.architecture, "--surrogate-weights", other.sha256[:16]]
    return shlex.join(words)
