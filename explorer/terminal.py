"""The terminal that the app draws on, kept from everybody else."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from explorer.errors import ExplorerError


def require() -> None:
    """Raises `ExplorerError` when there is no terminal to draw on or to read keys from."""
    if os.environ.get("TEXTUAL_DRIVER"):
        return
    if not (_is_terminal(0) and (_is_terminal(1) or _is_terminal(2))):
        raise ExplorerError(
            "the app needs a terminal; in a script, use the commands that `nasrob-tui --help` lists, such as "
            "`nasrob-tui eval --headless`."
        )


@contextlib.contextmanager
def reserved() -> Iterator[None]:
    """Inside, what native libraries print on stderr goes to a file, not across the screen; afterwards it is shown.

    Textual draws through `sys.__stderr__`, so that name gets a file of its own on the terminal.
    """
    if os.environ.get("TEXTUAL_DRIVER") or sys.__stderr__ is None or not _is_terminal(0):
        yield
        return
    sys.__stderr__.flush()
    before = sys.__stderr__
    saved = os.dup(2)
    screen = os.fdopen(os.dup(2 if _is_terminal(2) else 1), "w", encoding="utf-8", errors="replace")
    with tempfile.TemporaryFile() as caught:
        try:
            os.dup2(caught.fileno(), 2)
            sys.__stderr__ = screen  # type: ignore[misc]
            yield
        finally:
            sys.__stderr__ = before  # type: ignore[misc]
            os.dup2(saved, 2)
            os.close(saved)
            with contextlib.suppress(OSError):
                screen.close()
            caught.seek(0)
            said = caught.read()
            if said:
                with contextlib.suppress(OSError):
                    os.write(2, said)


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False
