"""Jobs on disk: requests that survive, logs that are tailed, states that are asked of the system."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from explorer.cli import program
from explorer.errors import ExplorerError
from explorer.jobs import folder, planning
from explorer.jobs.request import Request
from explorer.settings import load
from models.attacks import registry as attacks
from models.attacks.registry import inline


@pytest.fixture
def request_(home_with_weights: Path) -> Request:
    asked = planning.Asked(
        architectures=["resnet18@width=8"], attacks=["fgsm", "pgd-20"], eps=["8/255", "16/255"], threads=1, examples=40
    )
    return planning.plan(asked, load())[0]


def test_request_survives_the_way_to_disk(request_: Request, tmp_path: Path) -> None:
    assert Request.from_json(request_.to_json(), tmp_path) == request_
    for text in ("", "{}", '{"version": 99}', request_.to_json().replace('"Linf"', '"L7"')):
        with pytest.raises(Exception, match=r"request|norm"):
            Request.from_json(text, tmp_path)


def test_command_line_of_a_request_asks_for_the_same(request_: Request) -> None:
    import shlex

    from typer.main import get_command

    words = shlex.split(request_.command())
    assert words[:3] == ["nasrob-tui", "eval", "--headless"]
    command = get_command(program.app).commands["eval"]
    context = command.make_context("eval", words[2:])
    again = planning.plan(
        planning.Asked(
            architectures=context.params["arch"],
            weights=context.params["weights"],
            attacks=context.params["attack"],
            examples=context.params["examples"],
            threads=context.params["threads"],
        ),
        load(Path(context.params["store"])),
    )
    assert [a.identity for a in again[0].attacks] == [a.identity for a in request_.attacks]
    assert again[0].models[0].sha256 == request_.models[0].sha256


@pytest.mark.parametrize("text", ["fgsm", "f-fgsm", "pgd", "pgd@random_start=false", "pgd-3@eps=1/255,restarts=4"])
def test_inline_form_is_read_back(text: str) -> None:
    spec = attacks.resolve(text)
    assert attacks.resolve(inline(spec)).identity == spec.identity


def test_jobs_are_numbered_and_listed_newest_first(request_: Request, tmp_path: Path) -> None:
    made = [folder.create(tmp_path / "jobs", request_) for _ in range(3)]
    assert [job.number for job in made] == [1, 2, 3]
    (tmp_path / "jobs" / "notes").mkdir()
    assert [job.number for job in folder.all_jobs(tmp_path / "jobs")] == [3, 2, 1]
    assert folder.find(tmp_path / "jobs", 2).request() == request_
    with pytest.raises(ExplorerError, match="no job 9"):
        folder.find(tmp_path / "jobs", 9)


def test_tail_never_gives_half_a_line_nor_the_same_one_twice(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = folder.Tail(path)
    assert list(tail.read()) == []
    path.write_text('{"time": "t", "event": "one"}\n{"time": "t", "ev')
    assert [e.kind for e in tail.read()] == ["one"]
    with path.open("a") as file:
        file.write('ent": "two", "n": 3}\nnot json\n[1]\n{"event": "no time"}\n')
    found = list(tail.read())
    assert [(e.kind, e.data) for e in found] == [("two", {"n": 3})]
    assert list(tail.read()) == []


def test_states(request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = folder.create(tmp_path / "jobs", request_)
    assert job.state() == "queued"
    monkeypatch.setattr(folder, "START_GRACE", -1.0)
    assert job.state() == "interrupted"
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        import psutil

        record = {"pid": other.pid, "started": psutil.Process(other.pid).create_time()}
        (job.folder / "process.json").write_text(json.dumps(record))
        job.append("job_started", n_evaluations=4)
        assert job.alive()
        assert job.state() == "running"
        with pytest.raises(ExplorerError, match="running already"):
            job.claim()
        # The same number given to another process later is not this job.
        (job.folder / "process.json").write_text(json.dumps({**record, "started": record["started"] - 100}))
        assert not job.alive()
        (job.folder / "process.json").write_text(json.dumps(record))
        assert job.cancel()
        other.wait(10)
    assert job.state() == "interrupted"
    assert not job.cancel()
    job.append("job_finished", state="cancelled", exit_code=130)
    assert job.state() == "cancelled"
    job.append("job_started", n_evaluations=4)
    assert job.state() == "interrupted"


def test_detached_job_outlives_its_starter_and_can_be_cancelled_and_resumed(request_: Request) -> None:
    """Start it from a process that ends at once, as an app does that is quit; cancel it; resume it to the end."""
    import dataclasses

    settings = load()
    slow = dataclasses.replace(
        request_, attacks=(attacks.resolve("pgd", steps=400, eps="4/255"),), examples=None, slots=16
    )
    job = folder.create(settings.jobs, slow)
    code = f"from pathlib import Path; from explorer.jobs.folder import Job; Job(Path({str(job.folder)!r})).start()"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_for(lambda: any(e.kind == "progress" and e.data["n_done"] for e in job.events()), 60)
    assert job.state() == "running"
    assert job.cancel()
    wait_for(lambda: not job.alive(), 30)
    assert job.state() == "cancelled"
    partial = [e for e in job.events() if e.kind == "evaluation_finished"][-1].data
    assert partial["status"] == "partial"
    assert 0 < partial["n_done"] < 500
    # Resumed with fewer steps it would be another evaluation; the same request goes on where it stopped.
    job.start()
    wait_for(lambda: job.alive(), 30)
    wait_for(lambda: [e for e in job.events() if e.kind == "evaluation_started"][-1].data["n_done"] > 0, 60)
    resumed = [e for e in job.events() if e.kind == "evaluation_started"][-1].data
    assert resumed["n_done"] == partial["n_done"]
    job.cancel()
    wait_for(lambda: not job.alive(), 30)


def wait_for(condition: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_two_evaluations_of_the_same_request_at_once_agree(home_with_weights: Path, tmp_path: Path) -> None:
    """Two processes work on the same evaluation, a third queries meanwhile: nothing is refused, nothing stored
    twice.
    """
    store = tmp_path / "store.duckdb"
    words = ["eval", "--headless", "--arch", "resnet18@width=8", "--attack", "pgd", "--steps", "30", "--threads", "1",
             "--batch-size", "16", "--store", str(store), "--format", "json"]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen([sys.executable, "-P", "-m", "nasrob_tui", *words], stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(2)
    ]
    from store import Store, run_query

    answers = []
    while any(run.poll() is None for run in runs):
        if store.exists():
            # A store that somebody holds for long refuses.
            answers.append(run_query(Store(store), "SELECT count(*) FROM outcomes", max_rows=1).table[0][0].as_py())
        time.sleep(0.1)
    results = [json.loads(run.communicate()[0])[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert results[0]["robust_accuracy"] == results[1]["robust_accuracy"]
    table = run_query(Store(store), "SELECT count(*), count(DISTINCT example) FROM outcomes").table
    assert [column[0].as_py() for column in table.columns] == [500, 500]
    # Somebody looked while they were at it.
    assert len(set(answers)) > 2, answers


def test_running_accuracy_is_not_that_of_what_broke_first() -> None:
    """Examples 1, 3, 5 break at once, 0 and 2 are robust and take long: nothing is known until 0 is done."""
    from explorer.jobs.recording import Tally
    from models.attacks.slots import Outcome
    from store.results import outcome_schema

    def outcome(example: int) -> Outcome:
        robust = example % 2 == 0
        step = None if robust else 1
        return Outcome(example, 0, 0, 0 if robust else 1, True, robust, step, step, 0.1, 1.0, 1.0, 3, 2, 0)

    tally = Tally(range(6), outcome_schema().empty_table())
    tally.add([outcome(i) for i in (1, 3, 5)])
    assert (tally.n_done, tally.n_counted, tally.n_robust) == (3, 0, 0)
    tally.add([outcome(0)])
    assert (tally.n_done, tally.n_counted, tally.n_robust) == (4, 2, 1)
    tally.add([outcome(4), outcome(2)])
    assert (tally.n_done, tally.n_counted, tally.n_robust, tally.forwards) == (6, 6, 3, 18)
