"""Commands that the app starts a process of its own for, such as `nasrob-tui ensemble attack`: what takes more than a
moment and is more than one job.

The process is detached, so that it outlives the app. What it says is read once it has ended.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from explorer.errors import INTERRUPTED, ExplorerError
from explorer.settings import Settings

#: Time between two looks at a process, in seconds.
_LOOK_EVERY = 0.1


class Errands:
    """The processes that one app has started, by their command lines. For the thread of the event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._started: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}

    def going(self, words: Sequence[str]) -> bool:
        """Whether the same command was started and has not ended."""
        process = self._started.get(tuple(words))
        return process is not None and process.poll() is None

    @property
    def under_way(self) -> list[tuple[str, ...]]:
        """The commands that are running."""
        return [words for words, process in self._started.items() if process.poll() is None]

    @property
    def busy(self) -> bool:
        """Whether any command is running."""
        return any(process.poll() is None for process in self._started.values())

    async def run(self, words: Sequence[str]) -> str:
        """Run `nasrob-tui WORDS` and wait for its end; returns the last line that it said on stderr.

        It goes on when the one who waits goes away. Raises `ExplorerError` with that line when it fails, and when the
        same command is running already.
        """
        if self.going(words):
            raise ExplorerError("that is under way already: wait for its end.")
        with tempfile.TemporaryFile() as said:
            process = self._start(words, said.fileno())
            self._started[tuple(words)] = process
            while (code := process.poll()) is None:
                await asyncio.sleep(_LOOK_EVERY)
            said.seek(0)
            lines = said.read().decode("utf-8", "replace").strip().splitlines()
        last = lines[-1].removeprefix("nasrob-tui: ") if lines else ""
        if code == INTERRUPTED:
            raise ExplorerError("it was stopped; what is finished stays.")
        if code:
            raise ExplorerError(last or f"nasrob-tui {' '.join(words[:2])} failed.")
        return last

    def _start(self, words: Sequence[str], stderr: int) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                command_of(words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
                env={**os.environ, "NASROB_HOME": str(self.settings.home), "NO_COLOR": "1"},
            )
        except OSError as error:
            raise ExplorerError(f"nasrob-tui could not be started: {error.strerror or error}.") from None


def command_of(words: Sequence[str]) -> list[str]:
    """The command that runs `nasrob-tui WORDS`, whatever is around it."""
    return [sys.executable, "-P", "-m", "nasrob_tui", *words]
