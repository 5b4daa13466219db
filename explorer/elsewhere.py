"""Questions that only a package above torch can answer, put to a child process: the app itself never imports torch.

The child is this module run by itself: a question as JSON on stdin, the answer as JSON on stdout. It ends with the task
that waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from explorer.errors import ExplorerError, exit_code_of
from explorer.jobs import planning
from explorer.jobs.planning import Asked
from explorer.jobs.request import Request
from explorer.settings import Settings
from models.architectures import external, registry
from models.architectures.options import Scale
from models.specs import ArchitectureSpec

#: How long an answer may take, in seconds. Importing torchvision or timm takes a tenth of it.
LIMIT = 60.0


def knows_more(architecture: str) -> bool:
    """Whether only its package knows if there is such an architecture: a model of torchvision that is not listed
    here.
    """
    found = re.match(r"\s*torchvision[:_-]([^@]*)", architecture, re.IGNORECASE)
    known = {name.replace("_", "-") for name in external.torchvision_models()}
    return found is not None and found[1].strip().lower().replace("_", "-") not in known


def plans_more(models: Iterable[tuple[str, str | None]]) -> bool:
    """Whether only packages can say how these models, as (architecture, weights), want their images."""
    return any(knows_more(architecture) or (weights or "").startswith("timm:") for architecture, weights in models)


async def look_up(text: str, scale: Scale, settings: Settings) -> tuple[ArchitectureSpec, str]:
    """The architecture that a person means, and its family. Raises `ExplorerError` when there is none."""
    found = await _ask({"what": "architecture", "text": text, "scale": scale}, settings)
    return ArchitectureSpec(found["name"], tuple((key, value) for key, value in found["options"])), found["family"]


async def plan(asked: Asked, settings: Settings) -> tuple[Request, ...]:
    """What `planning.plan` plans. Raises `ExplorerError`."""
    found = await _ask({"what": "plan", "asked": asdict(asked)}, settings)
    return tuple(Request.from_json(json.dumps(request), settings.jobs) for request in found["requests"])


async def _ask(question: dict[str, Any], settings: Settings) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "explorer.elsewhere"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "NASROB_HOME": str(settings.home), "OMP_NUM_THREADS": "1"},
    )
    sent = json.dumps({**question, "home": str(settings.home), "store": str(settings.store)}).encode()
    try:
        printed, said = await asyncio.wait_for(process.communicate(sent), LIMIT)
    except TimeoutError:
        raise ExplorerError(f"the packages did not answer within {LIMIT:.0f} s: try again.") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    try:
        answer: dict[str, Any] = json.loads(printed.splitlines()[-1])
    except (ValueError, IndexError):
        lines = said.decode("utf-8", "replace").strip().splitlines()
        raise ExplorerError(lines[-1] if lines else "the packages gave no answer.") from None
    if "problem" in answer:
        raise ExplorerError(answer["problem"])
    return answer


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """What the child answers; `problem` is a sentence."""
    settings = Settings(Path(question["home"]), Path(question["store"]))
    try:
        if question["what"] == "architecture":
            spec = registry.parse_architecture(question["text"], scale=question["scale"])
            return {"name": spec.name, "options": spec.options, "family": registry.find(spec.name).family}
        requests = planning.plan(Asked(**question["asked"]), settings)
        return {"requests": [json.loads(request.to_json()) for request in requests]}
    except Exception as error:
        if exit_code_of(error) is None:
            raise
        return {"problem": str(error)}


if __name__ == "__main__":
    # What a package prints when it is imported is no answer.
    with contextlib.redirect_stdout(sys.stderr):
        found = answer(json.load(sys.stdin))
    print(json.dumps(found))
