"""A job's folder: numbered, with `request.json`, `events.jsonl`, `process.json` and `log.txt`.

The event log is only ever appended to, one JSON object a line, so that anybody may follow it while the job runs.
Whether the job is alive is asked of the operating system (process number and start time), never of a flag that a
killed process could leave behind.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from explorer.errors import ExplorerError
from explorer.jobs.request import Request, is_training

if TYPE_CHECKING:
    from explorer.jobs.training import TrainingRequest

#: queued: written, its process not up yet; interrupted: the process died without saying so (kill -9, a reboot).
State = Literal["queued", "running", "complete", "failed", "cancelled", "interrupted"]

#: Time a fresh job's process has to report before the job counts as interrupted.
START_GRACE = 30.0


@dataclass(frozen=True)
class Event:
    """One line of the log: when, what, and the data that belongs to it."""

    time: str
    kind: str
    data: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps({"time": self.time, "event": self.kind, **self.data}, ensure_ascii=False)


class Job:
    """A job on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def number(self) -> int:
        return int(self.folder.name)

    @property
    def events_path(self) -> Path:
        return self.folder / "events.jsonl"

    def request(self) -> Request | TrainingRequest:
        """What the job is to do. Raises `ExplorerError` for a request that is damaged or cannot be read."""
        path = self.folder / "request.json"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ExplorerError(f"cannot read {path}: {error.strerror or error}.") from None
        if not is_training(text):
            return Request.from_json(text, path)
        from explorer.jobs.training import TrainingRequest

        return TrainingRequest.from_json(text, path)

    def append(self, kind: str, **data: Any) -> Event:
        """Add an event; a line is written whole or, if the disk is full, raises `ExplorerError`."""
        event = Event(datetime.now(UTC).isoformat(timespec="milliseconds"), kind, data)
        line = (event.to_json() + "\n").encode()
        try:
            with self.events_path.open("ab", buffering=0) as file:
                file.write(line)
        except OSError as error:
            raise ExplorerError(f"cannot write {self.events_path}: {error.strerror or error}.", 1) from None
        return event

    def events(self) -> list[Event]:
        """All events so far."""
        return list(Tail(self.events_path).read())

    def claim(self) -> None:
        """Say that this process works on the job; raises `ExplorerError` if another living one does."""
        if self.alive() and self._process() != _this_process():
            raise ExplorerError(f"job {self.number} is running already (process {self._process()['pid']}).", 3)
        partial = self.folder / f"process.json.{os.getpid()}"
        partial.write_text(json.dumps(_this_process()), encoding="utf-8")
        os.replace(partial, self.folder / "process.json")

    def _process(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / "process.json").read_text(encoding="utf-8"))
            return found
        except (OSError, ValueError):
            return {}

    def alive(self) -> bool:
        """Whether the job's process is running now."""
        import psutil

        process = self._process()
        if not process:
            return False
        try:
            running = psutil.Process(process["pid"])
            return bool(
                abs(running.create_time() - process["started"]) < 1 and running.status() != psutil.STATUS_ZOMBIE
            )
        except (psutil.Error, KeyError):
            return False

    def state(self, events: list[Event] | None = None) -> State:
        """Where the job stands. `events` saves reading the log again."""
        events = self.events() if events is None else events
        alive = self.alive()
        for event in reversed(events):
            if event.kind == "job_finished":
                # A resumed job appends after its earlier end.
                state: State = event.data.get("state", "failed")
                return state
            if event.kind in ("job_started", "job_resumed"):
                break
        if alive:
            return "running"
        started = any(e.kind == "job_started" for e in events)
        if not started and time.time() - self.folder.stat().st_mtime < START_GRACE:
            return "queued"
        return "interrupted"

    def start(self) -> None:
        """Start the job's process, detached: it survives this one, the terminal and the SSH connection."""
        with (self.folder / "log.txt").open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-P", "-m", "nasrob_tui", "eval", "--headless", "--job", str(self.number)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                env={**os.environ, "NASROB_HOME": str(self.folder.parent.parent), "NO_COLOR": "1"},
            )

    def cancel(self) -> bool:
        """Ask the job to stop; what was finished stays. False when it is not running."""
        if not self.alive():
            return False
        os.kill(self._process()["pid"], signal.SIGTERM)
        return True


class Tail:
    """Reads a job's events as they are appended, never the same one twice, never half a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def read(self) -> Iterator[Event]:
        """The events since the last call. Lines that are no event are passed over."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        for line in data[:whole].splitlines():
            try:
                raw = json.loads(line)
                yield Event(raw.pop("time"), raw.pop("event"), raw)
            except (ValueError, KeyError, AttributeError, TypeError):
                continue


def create(jobs: Path, request: Request | TrainingRequest) -> Job:
    """A new job with the next free number; raises `ExplorerError` when the folder cannot be written."""
    try:
        jobs.mkdir(parents=True, exist_ok=True)
        number = max((job.number for job in all_jobs(jobs)), default=0) + 1
        while True:
            folder = jobs / str(number)
            try:
                folder.mkdir()
                break
            except FileExistsError:
                number += 1
        partial = folder / "request.json.part"
        partial.write_text(request.to_json(), encoding="utf-8")
        os.replace(partial, folder / "request.json")
    except OSError as error:
        raise ExplorerError(
            f"cannot write jobs below {jobs}: {error.strerror or error}. Set NASROB_HOME to a folder you can write to."
        ) from None
    return Job(folder)


def all_jobs(jobs: Path) -> list[Job]:
    """The jobs there are, newest first."""
    try:
        folders = [f for f in jobs.iterdir() if f.name.isdigit() and f.is_dir()]
    except OSError:
        return []
    return [Job(f) for f in sorted(folders, key=lambda f: int(f.name), reverse=True)]


def find(jobs: Path, number: int) -> Job:
    """The job with this number; raises `ExplorerError` when there is none."""
    folder = jobs / str(number)
    if not folder.is_dir():
        raise ExplorerError(f"there is no job {number} in {jobs}: `nasrob-tui jobs` lists them.")
    return Job(folder)


def _this_process() -> dict[str, Any]:
    import psutil

    return {"pid": os.getpid(), "started": psutil.Process().create_time()}
