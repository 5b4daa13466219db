"""Jobs folded from their event logs."""

from __future__ import annotations

import json
import time

import pytest

from explorer.jobs import following
from explorer.jobs.following import Board, JobProgress
from explorer.settings import Settings
from tests.explorer.app.support import add_job, begin, claim


def only(board: Board) -> JobProgress:
    found = board.poll()
    assert found is not None
    return found[0]


def test_a_job_before_its_first_event_shows_what_is_planned(settings: Settings) -> None:
    add_job(settings, "resnet18", "darts")
    job = only(Board(settings.jobs))
    assert job.state == "queued"
    assert [(e.architecture.partition("@")[0], e.attack, e.state) for e in job.evaluations] == [
        ("resnet18", "fgsm 8/255", "queued"),
        ("resnet18", "pgd-10 8/255", "queued"),
        ("darts", "fgsm 8/255", "queued"),
        ("darts", "pgd-10 8/255", "queued"),
    ]
    assert job.command.startswith("nasrob-tui eval --headless --arch resnet18@width=16")


def test_progress_and_end(settings: Settings) -> None:
    job = add_job(settings, "resnet18")
    board = Board(settings.jobs)
    claim(job)
    begin(job, done=40, robust=10)
    seen = only(board)
    assert seen.state == "running"
    assert seen.current is not None
    assert (seen.current.n_done, seen.current.n_robust, seen.current.fraction) == (40, 10, 0.4)
    assert seen.fraction == 0.2
    # The second evaluation is taken to last as long as the first one will: 100 examples at 20 a second.
    assert seen.eta_seconds == 8.0
    assert board.poll() is None
    identity = seen.current.evaluation_id
    job.append(
        "evaluation_finished",
        evaluation_id=identity,
        status="complete",
        from_store=False,
        n_done=100,
        clean_accuracy=95.0,
        robust_accuracy=25.0,
        robust_accuracy_low=17.5,
        robust_accuracy_high=34.3,
        seconds=5.0,
        warnings=["a warning"],
    )
    job.append("error", message="something broke")
    job.append("job_finished", state="failed", exit_code=1)
    ended = only(board)
    assert ended.state == "failed"
    assert ended.resumable
    assert ended.evaluations[0].state == "complete"
    assert ended.evaluations[0].warnings == ("a warning",)
    assert ended.messages[-1] == ("error", "something broke")


def test_a_job_that_was_killed_is_interrupted_and_may_be_resumed(settings: Settings) -> None:
    job = add_job(settings, "resnet18")
    begin(job)
    (job.folder / "process.json").write_text(json.dumps({"pid": 2**22 + 1, "started": 0.0}))
    board = Board(settings.jobs)
    seen = only(board)
    assert seen.state == "interrupted"
    assert seen.evaluations[0].state == "partial"
    board.starting(job.number)
    assert only(board).state == "queued"
    claim(job)
    begin(job, done=60)
    again = only(board)
    assert again.state == "running"
    assert again.evaluations[0].n_done == 60


def test_logs_of_other_versions_are_followed(settings: Settings) -> None:
    job = add_job(settings, "resnet18")
    claim(job)
    begin(job)
    with job.events_path.open("a") as log:
        log.write("not json\n[1, 2]\n{}\n")
        for event in (
            {"event": "a_new_kind", "payload": [1]},
            {"event": "progress"},
            {"event": "progress", "evaluation_id": "unknown", "n_done": "many"},
            {"event": "evaluation_started", "architecture": 5},
            {"event": "evaluation_finished", "evaluation_id": None, "warnings": "none", "robust_accuracy": "x"},
            {"event": "warning"},
            {"event": "job_started", "device": None, "n_evaluations": "two"},
        ):
            log.write(json.dumps({"time": "2026-01-01T00:00:00", **event}) + "\n")
        log.write('{"time": "2026", "event": "progress", "half a line')
    assert only(Board(settings.jobs)).state == "running"


@pytest.mark.parametrize("request_text", [None, "", "{", '{"version": 99}'])
def test_a_damaged_request_is_a_job_that_says_so(settings: Settings, request_text: str | None) -> None:
    job = add_job(settings, "resnet18")
    request = job.folder / "request.json"
    if request_text is None:
        request.unlink()
        job.append("job_started")
    else:
        request.write_text(request_text)
    seen = only(Board(settings.jobs))
    assert "request" in seen.title
    assert not seen.evaluations


def test_a_folder_that_is_being_written_is_waited_for(settings: Settings) -> None:
    (settings.jobs / "7").mkdir(parents=True)
    board = Board(settings.jobs)
    assert not board.poll()
    add_job(settings, "resnet18")
    assert only(board).number == 8


def test_a_long_log_is_read_at_once(settings: Settings) -> None:
    job = add_job(settings, "resnet18")
    begin(job)
    last = job.events_path.read_bytes().splitlines()[-1] + b"\n"
    with job.events_path.open("ab") as log:
        log.write(last * 20_000)
    began = time.perf_counter()
    only(Board(settings.jobs))
    assert time.perf_counter() - began < 2.0
    assert len(following._without_superseded(job.events())) == 3
