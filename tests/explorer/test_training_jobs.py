"""Jobs that train: requests that survive, trainings that go on after a kill, evaluations that follow."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from explorer import errors
from explorer.cli import program
from explorer.cli.progress import BarProgress, LineProgress
from explorer.errors import ExplorerError
from explorer.jobs import folder, following
from explorer.jobs.folder import Event, Job
from explorer.jobs.training import Afterwards, RequestedTraining, TrainingRequest
from explorer.jobs.trainingrunner import TrainingRunner
from explorer.settings import load
from explorer.training import Order
from models.architectures import registry as architectures
from models.attacks import registry as attacks
from models.errors import InvalidSpec

Cli = Callable[..., tuple[int, str, str]]

SMALL = "nasbench201-random-3@init_channels=2,cells_per_stage=1"
PAIR = "nasbench201-ensemble-4@init_channels=2,cells=1-1,combine=mean-logits"


def order(text: str, *, seed: int = 0, combiner: dict[str, Any] | None = None, **overrides: Any) -> Order:
    """An order for digits; one epoch unless `overrides` say otherwise."""
    spec = architectures.parse_architecture(text, scale="small")
    return Order(spec, "digits", seed, None, {"epochs": 1, **overrides}, combiner or {})


def asked(*orders: Order, then: Afterwards | None = None, **more: Any) -> TrainingRequest:
    return TrainingRequest.of(orders, load().store, then=then, threads=1, **more)


def fgsm(**more: Any) -> Afterwards:
    return Afterwards((attacks.resolve("fgsm"),), examples=20, **more)


def work(job: Job, *, stop: Callable[[], bool] = lambda: False) -> tuple[int, list[Event]]:
    """Work on a job in this process; its exit code and the events of this session."""
    heard: list[Event] = []
    request = job.request()
    assert isinstance(request, TrainingRequest)
    return TrainingRunner(job, request, listeners=[heard.append], stop=stop).run(), heard


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events if event.kind != "progress"]


@pytest.fixture
def request_(home: Path) -> TrainingRequest:
    return asked(
        order(SMALL, seed=3, lr=0.05),
        order(PAIR, combiner={"epochs": 1}),
        then=Afterwards((attacks.resolve("pgd-3"), attacks.resolve("fgsm")), 40, members=True, transfer=True),
        device="cpu",
        force=True,
    )


# -- requests ----------------------------------------------------------------------------------------------------------


def test_request_survives_the_way_to_disk(request_: TrainingRequest, tmp_path: Path) -> None:
    assert json.loads(request_.to_json())["kind"] == "training"
    assert TrainingRequest.from_json(request_.to_json(), tmp_path) == request_
    job = folder.create(tmp_path / "jobs", request_)
    assert folder.find(tmp_path / "jobs", job.number).request() == request_
    assert [requested.order().seed for requested in request_.orders] == [3, 0]
    without = replace(request_, then=None)
    assert TrainingRequest.from_json(without.to_json(), tmp_path) == without


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"version": 1', '"version": 99'),
        ('"orders"', '"order"'),
        ('"seed": 3', '"seed": "3"'),
        ('"lr": 0.05', '"lr"'),
        ('"Linf"', '"L7"'),
        ('"attacks": [', '"attacks": ["pgd", '),
        ('"threads"', '"thread"'),
    ],
)
def test_a_damaged_request_is_a_sentence(request_: TrainingRequest, tmp_path: Path, before: str, after: str) -> None:
    text = request_.to_json()
    assert before in text
    job = folder.create(tmp_path / "jobs", request_)
    (job.folder / "request.json").write_text(text.replace(before, after, 1))
    with pytest.raises(ExplorerError, match="request"):
        job.request()
    assert following.progress_of(job, []).title.endswith(".")


def test_what_cannot_be_trained_is_refused_at_once(home: Path) -> None:
    with pytest.raises(InvalidSpec, match="at least one"):
        asked()
    with pytest.raises(InvalidSpec, match="recipe key"):
        asked(order(SMALL, epoch=2))
    with pytest.raises(InvalidSpec, match="use auto, cpu"):
        asked(order(SMALL), device="gpu")
    joint = order("darts-ensemble-4@init_channels=2,cells=1-1,combine=features-mean")
    with pytest.raises(InvalidSpec, match="do not stand alone"):
        asked(joint, then=fgsm(transfer=True))
    assert len(asked(joint, then=fgsm(members=True)).steps()) == 1


def test_command_lines_ask_for_the_same(request_: TrainingRequest) -> None:
    """Every line is one that the program takes, and the trainings in them are those of the request."""
    command: Any = get_command(program.app)
    lines = [shlex.split(line)[1:] for line in request_.command().splitlines()]
    assert [line[:2] for line in lines] == [["train", "--arch"], ["ensemble", "train"],
                                            ["eval", "--headless"], ["ensemble", "attack"]]  # fmt: skip
    train = command.commands["train"].make_context("train", lines[0][1:]).params
    single = request_.orders[0]
    assert (train["arch"], train["seed"], train["dataset"]) == ([single.architecture], 3, "digits")
    assert set(train["set_recipe"]) == {"epochs=1", "lr=0.05"}
    assert (train["device"], train["threads"], train["force"]) == ("cpu", 1, True)
    ensemble = command.commands["ensemble"].commands
    trained = ensemble["train"].make_context("train", lines[1][2:]).params
    assert (list(trained["names"]), trained["combiner_epochs"]) == ([request_.orders[1].architecture], 1)
    evaluated = command.commands["eval"].make_context("eval", lines[2][1:]).params
    assert (evaluated["arch"], evaluated["examples"]) == ([single.architecture], 40)
    attacked = ensemble["attack"].make_context("attack", lines[3][2:]).params
    assert (attacked["members"], attacked["transfer"], attacked["cosines"]) == (True, True, False)
    assert [attacks.resolve(text).identity for text in attacked["attack"]] == [
        spec.identity
        for spec in request_.then.attacks  # type: ignore[union-attr]
    ]
    with pytest.raises(InvalidSpec, match="combiner"):
        asked(order(PAIR, combiner={"lr": 0.1})).command()


def test_orders_that_differ_in_architecture_alone_are_one_line(home: Path) -> None:
    request = asked(order(SMALL), order("resnet18@width=1"), order(SMALL, seed=1))
    assert [line.count("--arch") for line in request.command().splitlines()] == [2, 1]
    assert request.title == f"train {SMALL}, resnet18@width=1 +1 on digits, seed 0, 1"


# -- the work ----------------------------------------------------------------------------------------------------------


def test_a_network_is_trained_then_attacked(home: Path, cli: Cli) -> None:
    job = folder.create(load().jobs, asked(order(SMALL), then=fgsm()))
    queued = following.progress_of(job, [])
    assert [(t.state, t.epochs) for t in queued.trainings] == [("queued", 1)]
    assert [(e.state, e.architecture) for e in queued.evaluations] == [("queued", SMALL)]
    code, events = work(job)
    assert code == errors.OK
    assert kinds(events) == [
        "job_started",
        "training_started",
        "training_progress",
        "training_finished",
        "evaluation_started",
        "evaluation_finished",
        "job_finished",
    ]
    told = {event.kind: event.data for event in events}
    assert told["training_started"]["title"] == f"{SMALL}, seed 0"
    assert (told["training_progress"]["epoch"], told["training_progress"]["epochs"]) == (1, 1)
    finished = told["training_finished"]
    assert Path(finished["path"]).is_file()
    assert not finished["from_disk"]
    assert finished["seconds"] > 0
    assert finished["sha256"] == told["evaluation_started"]["model_sha256"]
    view = following.progress_of(job, job.events())
    assert (view.state, view.n_trained, view.n_complete, view.fraction) == ("complete", 1, 1, 1.0)
    assert view.trainings[0].clean_accuracy == finished["clean_accuracy"]
    assert view.trainings[0].loss == pytest.approx(told["training_progress"]["loss"])
    again, events = work(folder.create(load().jobs, asked(order(SMALL), then=fgsm())))
    assert again == errors.OK
    told = {event.kind: event.data for event in events}
    assert told["training_finished"]["from_disk"]
    assert told["evaluation_finished"]["from_store"]
    assert "training_started" not in told


def test_members_of_an_ensemble_are_trained_and_attacked_each(home: Path) -> None:
    request = asked(order(PAIR), then=fgsm(members=True, transfer=True, gradients=True))
    job = folder.create(load().jobs, request)
    code, events = work(job)
    assert code == errors.OK, [event.data for event in events if event.kind == "error"]
    finished = [event.data for event in events if event.kind == "training_finished"]
    assert [(f["number"], f["seed"]) for f in finished] == [(1, 0), (2, 1), (3, 0)]
    assert finished[2]["architecture"] == request.orders[0].architecture
    planned = request.evaluations(request.orders[0])
    started = [event.data for event in events if event.kind == "evaluation_started"]
    assert [s["number"] for s in started] == list(range(1, len(planned) + 1))
    assert [s["architecture"] for s in started] == [name for name, _ in planned]
    assert len(planned) == 3 + 3 * 2
    assert started[1]["model_sha256"] == finished[0]["sha256"]
    assert [e.data["n_examples"] for e in events if e.kind == "gradients_measured"] == [20]
    view = following.progress_of(job, job.events())
    assert [t.kind for t in view.trainings] == ["member", "member", "whole"]
    assert view.fraction == 1.0
    _, events = work(folder.create(load().jobs, asked(order(PAIR))))
    known = [event.data for event in events if event.kind == "training_finished"]
    assert [(f["sha256"], f["from_disk"]) for f in known] == [(f["sha256"], True) for f in finished]


def test_a_training_that_fails_is_reported_and_the_others_go_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the second member is not finite: the ensemble cannot be made, the network after it is trained."""
    from models.training import loop

    train = loop.train

    def sometimes(plan: Any, *args: Any, **more: Any) -> Any:
        if plan.seed == 1:
            raise loop.TrainingError("the loss became nan in epoch 1: train with a smaller --lr (it is 0.1).")
        return train(plan, *args, **more)

    monkeypatch.setattr(loop, "train", sometimes)
    job = folder.create(load().jobs, asked(order(PAIR), order(SMALL), then=fgsm()))
    code, events = work(job)
    assert code == errors.FAILED
    said = [event.data["message"] for event in events if event.kind == "error"]
    assert len(said) == 1
    assert "seed 1: the loss became nan" in said[0]
    view = following.progress_of(job, job.events())
    assert [t.state for t in view.trainings] == ["complete", "failed", "failed", "complete"]
    assert [e.state for e in view.evaluations] == ["queued", "complete"]
    assert view.state == "failed"
    assert view.resumable


def test_too_little_memory_is_a_sentence_and_a_bug_is_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.training import loop

    def failing(error: Exception) -> None:
        def fail(*args: object, **more: object) -> None:
            raise error

        monkeypatch.setattr(loop, "train", fail)

    failing(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    code, events = work(folder.create(load().jobs, asked(order(SMALL))))
    assert code == errors.USAGE
    assert "batch_size" in next(e for e in events if e.kind == "error").data["message"]
    failing(RuntimeError("index out of bounds"))
    with pytest.raises(RuntimeError, match="bounds"):
        work(folder.create(load().jobs, asked(order(SMALL))))


def test_forced_training_is_done_once_a_job(home: Path) -> None:
    def finished(job: Job) -> list[bool]:
        return [event.data["from_disk"] for event in work(job)[1] if event.kind == "training_finished"]

    work(folder.create(load().jobs, asked(order(SMALL))))
    job = folder.create(load().jobs, asked(order(SMALL), force=True))
    assert finished(job) == [False]
    assert finished(job) == [True]


# -- stopping and going on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_cancelled_between_epochs_it_goes_on_after_the_last_one(force: bool, home: Path) -> None:
    if force:
        work(folder.create(load().jobs, asked(order(SMALL, epochs=3))))
    job = folder.create(load().jobs, asked(order(SMALL, epochs=3), then=fgsm(), force=force))
    epochs = 0

    def count(event: Event) -> None:
        nonlocal epochs
        epochs += event.kind == "training_progress"

    request = job.request()
    assert isinstance(request, TrainingRequest)
    code = TrainingRunner(job, request, listeners=[count], stop=lambda: epochs >= 2).run()
    assert code == errors.INTERRUPTED
    view = following.progress_of(job, job.events())
    assert (view.state, view.trainings[0].state) == ("cancelled", "partial")
    # The log is told of an epoch at most four times a second.
    assert view.trainings[0].epoch in (1, 2)
    code, events = work(job)
    assert code == errors.OK
    assert [e.data["epoch"] for e in events if e.kind == "training_progress"] == [2, 3]
    assert following.progress_of(job, job.events()).n_complete == 1


def test_killed_and_resumed_it_gives_the_same_weights(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 in the middle of a detached job; another process ends it, and a third home never was interrupted."""
    job = folder.create(load().jobs, asked(order(SMALL, epochs=12)))
    job.start()
    wait_for(lambda: epochs_of(job), 60)
    assert job.state() == "running"
    os.kill(json.loads((job.folder / "process.json").read_text())["pid"], signal.SIGKILL)
    wait_for(lambda: not job.alive(), 10)
    reached = max(epochs_of(job))
    assert reached < 12
    assert job.state() == "interrupted"
    code, events = work(job)
    assert code == errors.OK
    resumed = next(event.data["epoch"] for event in events if event.kind == "training_progress")
    assert resumed >= reached
    monkeypatch.setenv("NASROB_HOME", str(home.with_name("other")))
    _, whole = work(folder.create(load().jobs, asked(order(SMALL, epochs=12))))
    shas = [[e.data["sha256"] for e in found if e.kind == "training_finished"] for found in (events, whole)]
    assert shas[0] == shas[1]


def test_a_signal_ends_a_training_at_once_and_resume_goes_on(home: Path, cli: Cli) -> None:
    job = folder.create(load().jobs, asked(order(SMALL, epochs=400)))
    job.start()
    wait_for(lambda: epochs_of(job), 60)
    code, _, err = cli("jobs", "cancel", str(job.number))
    assert code == 0, err
    wait_for(lambda: not job.alive(), 10)
    assert job.state() == "cancelled"
    assert job.events()[-1].data["exit_code"] == errors.INTERRUPTED
    assert not [e for e in job.events() if e.kind == "error"]
    assert (job.folder / "log.txt").read_text() == ""
    reached = epochs_of(job)
    assert cli("jobs", "resume", str(job.number))[0] == 0
    wait_for(lambda: epochs_of(job)[-1] > reached[-1], 60)
    assert epochs_of(job)[len(reached)] >= reached[-1]

    def listed() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(cli("jobs", "--format", "json")[1])[0]
        return found

    wait_for(lambda: listed()["eta_seconds"] is not None, 60)  # from the second epoch on
    row = listed()
    assert (row["state"], row["trainings"], row["trainings_finished"]) == ("running", 1, 0)
    assert (row["training"], row["epochs"]) == (SMALL, 400)
    assert row["epoch"] > reached[-1]
    assert row["loss"] > 0
    assert row["eta_seconds"] > 0
    assert f"{row['epochs']}" in cli("jobs")[1]
    assert "train_accuracy" in cli("jobs", "--format", "csv")[1].splitlines()[0]
    job.cancel()
    wait_for(lambda: not job.alive(), 10)


def test_a_signal_does_not_wait_for_the_end_of_an_epoch(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch may take an hour. What comes after training is ended politely again."""
    from explorer.cli import evaluate
    from models.training import loop

    def endless(*args: object, **more: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
        raise AssertionError("it went on")

    monkeypatch.setattr(loop, "train", endless)
    job = folder.create(load().jobs, asked(order(SMALL)))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        assert evaluate._work(job, json_progress=True) == (errors.INTERRUPTED, [])
        assert job.state() == "cancelled"
        politely = evaluate._Interruption()
        politely.install()
        os.kill(os.getpid(), signal.SIGTERM)
        assert politely()
        with pytest.raises(KeyboardInterrupt), politely.at_once():
            raise AssertionError("it was begun")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def epochs_of(job: Job) -> list[int]:
    """The epochs that the log tells of."""
    return [event.data["epoch"] for event in job.events() if event.kind == "training_progress"]


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


# -- what is shown -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listener", [LineProgress, BarProgress])
def test_a_training_is_told_in_lines_and_as_a_bar(
    listener: type[LineProgress | BarProgress], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setattr(LineProgress, "EVERY", 0.0)
    about = {"number": 1, "title": "darts, seed 0", "epochs": 4}
    with listener(sys.stderr) as listen:
        listen(Event("", "training_started", about))
        report = {"epoch": 1, "loss": 1.25, "accuracy": 50.0, "eta_seconds": 63.0}
        listen(Event("", "training_progress", about | report))
        result = {"clean_accuracy": 91.25, "seconds": 4.0, "sha256": "ab" * 32, "from_disk": False}
        listen(Event("", "training_finished", about | result))
    said = capsys.readouterr().err
    assert "darts, seed 0: clean 91.2 %, 4.0 s, SHA-256 abababababab" in said
    if listener is LineProgress:
        assert "darts, seed 0: epoch 1, loss 1.250, train 50.0 %  1:03 left" in said


def test_progress_of_hours_is_read_at_once(request_: TrainingRequest, tmp_path: Path) -> None:
    """Of the epochs of each training the last one tells all; the time left is that of the training under way."""
    job = folder.create(tmp_path / "jobs", request_)
    job.append("job_started", n_evaluations=20)
    for number in (1, 2):
        if number == 2:
            job.append("training_finished", number=1, epochs=50, sha256="ab" * 32, clean_accuracy=95.0)
        job.append("training_started", number=number, epochs=50)
        for epoch in range(1, 40):
            told = {"loss": 1 / epoch, "accuracy": 50.0 + epoch, "eta_seconds": 50.0 - epoch}
            job.append("training_progress", number=number, epoch=epoch, epochs=50, **told)
    events = job.events()
    assert len(following._without_superseded(events)) == 6
    process = {"pid": os.getpid(), "started": __import__("psutil").Process().create_time()}
    (job.folder / "process.json").write_text(json.dumps(process))
    view = following.progress_of(job, events)
    assert view.training is not None
    assert (view.training.number, view.training.epoch, view.training.train_accuracy) == (2, 39, 89.0)
    assert view.training.eta_seconds == 11.0
    assert view.eta_seconds is None
    board = following.Board(tmp_path / "jobs")
    assert board.poll() == (view,)


def test_times_of_trainings_are_kept_for_the_next_ones(home: Path) -> None:
    from explorer.studies.costs import Times
    from explorer.studies.expansion import Place

    work(folder.create(load().jobs, asked(order(SMALL))))
    each = Times(Place(load(), threads=1)).of(SMALL, "digits")
    assert each is not None
    assert 0 < each < 0.1


def test_orders_as_text_leave_out_what_is_not_overridden() -> None:
    requested = RequestedTraining.of(order(SMALL, lr=None, combiner={"epochs": None}))
    assert (dict(requested.overrides), dict(requested.combiner)) == ({"epochs": 1}, {})
    assert requested.order().identity("f") == order(SMALL).identity("f")
