"""Trainings side by side, each in a process of its own: on several devices, or on the cores of one machine."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from queue import Queue

from explorer.errors import ExplorerError
from explorer.training import Order, Trainer
from models.specs import format_option


def train(orders: Sequence[Order], trainer: Trainer, *, workers: int, devices: Sequence[str]) -> None:
    """Train networks that are not trained yet, `workers` at a time, on the devices in turn.

    A training is the command `nasrob-tui train`, so it resumes like one. On an interruption all are told to stop and
    the interruption is raised. Raises `ExplorerError` when one fails; the others go on first.
    """
    todo = [order for order in dict.fromkeys(map(command_of, orders)) if order]
    free: Queue[str] = Queue()
    for _, device in zip(range(workers), cycle(devices), strict=False):
        free.put(device)
    threads = trainer.threads or max(1, (os.cpu_count() or 1) // workers)
    running: list[subprocess.Popen[bytes]] = []

    def work(words: tuple[str, ...]) -> int:
        device = free.get()
        try:
            extra = ["--device", device, "--threads", str(threads), "--store", str(trainer.settings.store)]
            extra += ["--data-root", str(trainer.data_root)] if trainer.data_root else []
            extra += ["--force"] if trainer.force else []
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "nasrob_tui", *words, *extra, "--format", "json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "NASROB_HOME": str(trainer.settings.home), "OMP_NUM_THREADS": str(threads)},
            )
            running.append(process)
            return process.wait()
        finally:
            free.put(device)

    with ThreadPoolExecutor(workers) as pool:
        try:
            codes = list(pool.map(work, todo))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()
            raise
    failed = [shlex.join(words) for words, code in zip(todo, codes, strict=True) if code]
    if failed:
        raise ExplorerError(f"{len(failed)} trainings failed, the first: nasrob-tui {failed[0]}", 1)


def command_of(order: Order) -> tuple[str, ...]:
    """The command line that trains a network, without device and places."""
    words = ["train", "--arch", order.architecture.canonical, "--dataset", order.dataset, "--seed", str(order.seed)]
    words += ["--recipe", order.recipe] if order.recipe else []
    for key, value in order.overrides.items():
        if value is not None:
            text = format_option(value) if isinstance(value, bool | int | float | str) else str(value)
            words += ["--set-recipe", f"{key}={text}"]
    return tuple(words)
