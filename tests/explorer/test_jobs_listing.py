"""What `nasrob-tui jobs` and the closing line of an evaluation say is done."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from explorer.cli.progress import result
from explorer.jobs import folder, following, planning
from explorer.jobs.folder import Event, Job
from explorer.jobs.request import Request
from explorer.jobs.runner import Runner
from explorer.settings import load

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def request_(home_with_weights: Path) -> Request:
    asked = planning.Asked(
        architectures=["resnet18@width=8"], attacks=["fgsm", "pgd-2", "pgd-3"], threads=1, examples=40, slots=8
    )
    return planning.plan(asked, load())[0]


def listed(cli: Cli) -> dict[str, Any]:
    code, out, err = cli("jobs", "--format", "json")
    assert code == 0, err
    (row,) = json.loads(out)
    return {key: row[key] for key in ("state", "evaluations_finished", "evaluations", "evaluations_partial")}


def work(job: Job, *, stop_in: int | None = None) -> None:
    """Work on a job in this process; cancel it when some examples of the evaluation of this number are done."""
    asked = 0
    under_way = False

    def listen(event: Event) -> None:
        nonlocal under_way
        under_way |= event.kind == "evaluation_started" and event.data["number"] == stop_in

    def stop() -> bool:
        nonlocal asked
        asked += under_way
        return asked > 2

    Runner(job, job.request(), listeners=[listen], stop=stop).run()


def test_only_complete_evaluations_count_as_done(request_: Request, cli: Cli) -> None:
    """Cancelled in its second evaluation, resumed, cancelled in its third, resumed to the end."""
    job = folder.create(load().jobs, request_)
    assert listed(cli) == {"state": "queued", "evaluations_finished": 0, "evaluations": 3, "evaluations_partial": 0}
    work(job, stop_in=2)
    assert listed(cli) == {"state": "cancelled", "evaluations_finished": 1, "evaluations": 3, "evaluations_partial": 1}
    work(job, stop_in=3)
    assert listed(cli) == {"state": "cancelled", "evaluations_finished": 2, "evaluations": 3, "evaluations_partial": 1}
    work(job)
    assert listed(cli) == {"state": "complete", "evaluations_finished": 3, "evaluations": 3, "evaluations_partial": 0}
    table = cli("jobs")[1]
    assert "partial" in table


def test_a_rerun_that_was_cancelled_is_not_done(request_: Request, cli: Cli) -> None:
    """The earlier result stands, and is no result of this job."""
    once = dataclasses.replace(request_, attacks=request_.attacks[2:])
    Runner(folder.create(load().jobs, once), once).run()
    (load().jobs / "1").rename(load().jobs / "not a job")
    job = folder.create(load().jobs, dataclasses.replace(once, force=True))
    work(job, stop_in=1)
    assert listed(cli) == {"state": "cancelled", "evaluations_finished": 0, "evaluations": 1, "evaluations_partial": 1}
    said = [e.data for e in job.events() if e.kind == "evaluation_finished"][-1]
    assert said["status"] == "partial"
    assert 0 < said["n_done"] < 40
    assert cli("sql", "SELECT status FROM tradeoff WHERE source = 'measured'", "--format", "csv")[1].split() == [
        "status",
        "complete",
    ]


def test_a_job_whose_images_are_gone_is_still_listed(request_: Request, cli: Cli) -> None:
    """Its command line cannot be written any more; everything else can be said."""
    job = folder.create(load().jobs, dataclasses.replace(request_, dataset="folder:/nowhere"))
    job.append("job_started", n_evaluations=3)
    job.append("job_finished", state="failed", exit_code=2)
    assert listed(cli) == {"state": "failed", "evaluations_finished": 0, "evaluations": 3, "evaluations_partial": 0}
    (view,) = following.Board(load().jobs).poll() or ()
    assert (view.state, view.command) == ("failed", "")


FINISHED = {
    "status": "complete",
    "from_store": False,
    "n_done": 50,
    "n_counted": 50,
    "n_errors": 50,
    "clean_accuracy": None,
    "robust_accuracy": None,
    "robust_accuracy_low": None,
    "robust_accuracy_high": None,
    "seconds": 1.0,
    "warnings": ["w"],
}


@pytest.mark.parametrize(
    ("changes", "says", "not_"),
    [
        ({}, "all 50 examples counted gave non-finite logits", "same command"),
        ({"from_store": True}, "(from the store)", "same command"),
        (
            {"status": "partial", "n_counted": 20},
            "partial after 50 examples: no accuracy: all 20 examples counted gave non-finite logits; the same command",
            "too few",
        ),
        ({"status": "partial", "n_counted": 0, "n_errors": 0}, "too few to say; the same command", "non-finite"),
    ],
)
def test_an_evaluation_without_an_accuracy_says_why(changes: dict[str, Any], says: str, not_: str) -> None:
    line = result(FINISHED | changes)
    assert says in line
    assert not_ not in line
    assert "warning: w" in line


def test_a_network_that_gives_no_finite_logits_is_told_as_such(
    cli: Cli, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nan_models.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Nowhere(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x.flatten(1)) * float('nan')\n"
        "def net():\n"
        "    with torch.random.fork_rng():\n"
        "        torch.manual_seed(0)\n"
        "        return Nowhere(64, 10)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("--arch", "nan_models:net", "--attack", "fgsm", "--examples", "20", "--threads", "1")
    code, out, err = cli("eval", "--headless", *words, "--format", "json")
    assert code == 0, err
    assert "all 20 examples counted gave non-finite logits" in err
    assert "too few" not in err
    (row,) = json.loads(out)
    assert (row["status"], row["robust_accuracy"]) == ("complete", None)
