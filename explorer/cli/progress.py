"""What a person or a program sees of a running job, on stderr."""

from __future__ import annotations

import time
from abc import abstractmethod
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from explorer.jobs.folder import Event
from explorer.statistics import half_width

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Listener(AbstractContextManager["Listener"]):
    """Hears every event of a job."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    @abstractmethod
    def __call__(self, event: Event) -> None:
        """Take note of an event."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


class JsonProgress(Listener):
    """The event stream, one JSON object a line."""

    def __call__(self, event: Event) -> None:
        self.say(event.to_json())


class LineProgress(Listener):
    """For a log file: a line when an evaluation or a training ends, and every ten seconds in between."""

    EVERY = 10.0

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        self._said = time.monotonic()
        self._about = ""

    def __call__(self, event: Event) -> None:
        data = event.data
        match event.kind:
            case "evaluation_started":
                self._about = describe(data)
                self._said = time.monotonic()
            case "training_started":
                self._about = data["title"]
                self._said = time.monotonic()
            case "progress" | "training_progress" if time.monotonic() - self._said >= self.EVERY:
                self._said = time.monotonic()
                said = running(data) if event.kind == "progress" else f"epoch {data['epoch']}, {learning(data)}"
                self.say(f"{self._about}: {said}")
            case "evaluation_finished":
                self.say(f"{self._about}: {result(data)}")
            case "training_finished":
                self.say(f"{data['title']}: {learned(data)}")
            case "estimate":
                self.say(f"{data['attack']}: {estimated(data)}")
            case "warning" | "note":
                self.say(f"{event.kind}: {data['message']}")
            case "error":
                self.say(f"nasrob-tui: {data['message']}")


class BarProgress(Listener):
    """For a terminal: a bar for the evaluation under way, with running robust accuracy and time left; for a training
    with loss and accuracy.
    """

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bar: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[running]}", markup=False),
            console=Console(file=stream, highlight=False),
            refresh_per_second=10,
            transient=True,
        )
        self._task: TaskID | None = None
        self._about = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        from rich.text import Text

        self._bar.console.print(Text(text), soft_wrap=True)

    def __call__(self, event: Event) -> None:
        data = event.data
        match event.kind:
            case "evaluation_started":
                self._about = describe(data)
                self._task = self._bar.add_task(
                    self._about, total=data["n_requested"], completed=data["n_done"], running=""
                )
            case "training_started":
                self._about = data["title"]
                self._task = self._bar.add_task(self._about, total=data["epochs"], running="epochs")
            case "progress" if self._task is not None:
                self._bar.update(self._task, completed=data["n_done"], running=running(data))
            case "training_progress" if self._task is not None:
                self._bar.update(self._task, completed=data["epoch"], running=f"epochs  {learning(data)}")
            case "evaluation_finished":
                self._end_task()
                self.say(f"{self._about}: {result(data)}")
            case "training_finished":
                self._end_task()
                self.say(f"{data['title']}: {learned(data)}")
            case "training_failed":
                self._end_task()
            case "estimate":
                self.say(f"{data['attack']}: {estimated(data)}")
            case "warning" | "note":
                self.say(f"{event.kind}: {data['message']}")
            case "error":
                self.say(f"nasrob-tui: {data['message']}")

    def _end_task(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def progress_for(stream: IO[str]) -> Listener:
    """A bar on a terminal, lines elsewhere."""
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)


def describe(data: dict[str, Any]) -> str:
    return f"{data['architecture']} · {data['attack']}"


def running(data: dict[str, Any]) -> str:
    """Running robust accuracy with its 95 % half width, speed and time left.

    Over the examples before the first one still in work: those that break soon are done first.
    """
    judged = data["n_counted"] - data["n_errors"]
    text = "robust –"
    if judged:
        robust = 100 * data["n_robust"] / judged
        text = f"robust {robust:.1f} ± {half_width(data['n_robust'], judged):.1f} %"
    if data.get("examples_per_second"):
        text += f"  {data['examples_per_second']:.0f} ex/s"
    if data.get("eta_seconds") is not None:
        text += f"  {clock(data['eta_seconds'])} left"
    return text


def result(data: dict[str, Any]) -> str:
    """The outcome of an evaluation in one line."""
    known = " (from the store)" if data["from_store"] else ""
    warnings = "".join(f"\n  warning: {w}" for w in data["warnings"])
    unfinished = f"{data['status']} after {data['n_done']} examples"
    if data["robust_accuracy"] is None:
        if not data["n_counted"]:
            return f"{unfinished}, too few to say; the same command continues{known}{warnings}"
        none = f"no accuracy: all {data['n_counted']} examples counted gave non-finite logits"
        if data["status"] != "complete":
            none = f"{unfinished}: {none}; the same command continues"
        return none + known + warnings
    text = (
        f"clean {data['clean_accuracy']:.1f} %, robust {data['robust_accuracy']:.1f} % "
        f"[{data['robust_accuracy_low']:.1f}–{data['robust_accuracy_high']:.1f}], {data['seconds']:.1f} s"
    )
    if data["status"] != "complete":
        text = f"{unfinished}: {text}; the same command continues"
    return text + known + warnings


def learning(data: dict[str, Any]) -> str:
    """Loss and accuracy on the training images as the network saw them, and the time left."""
    text = f"loss {data['loss']:.3f}, train {data['accuracy']:.1f} %"
    return text + (f"  {clock(data['eta_seconds'])} left" if data.get("eta_seconds") is not None else "")


def learned(data: dict[str, Any]) -> str:
    """The outcome of a training in one line."""
    clean = f"clean {data['clean_accuracy']:.1f} %, " if data["clean_accuracy"] is not None else ""
    took = "trained already" if data["from_disk"] else f"{data['seconds']:.1f} s"
    return f"{clean}{took}, SHA-256 {data['sha256'][:12]}"


def estimated(data: dict[str, Any]) -> str:
    """What an evaluation will cost, in one line."""
    about, most = (
        f"{_many(data[f'forwards_{kind}'])} forward and {_many(data[f'backwards_{kind}'])} backward passes, "
        f"{clock(data[f'seconds_{kind}'])}"
        for kind in ("expected", "most")
    )
    return f"{data['examples']} examples, about {about} if those survive that survive one step; at most {most}"


def _many(count: int) -> str:
    """A count as people say it: 940, 12 k, 3.4 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def clock(seconds: float) -> str:
    """Minutes and seconds, hours where there are any."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
