"""stdout is for data: what code of somebody else writes there goes to stderr.

A network of a person's own may print from Python, write to descriptor 1, or call C code that does, at any time until
the process ends. So the program keeps a duplicate of descriptor 1 for its own output, and descriptor 1 itself leads to
stderr.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

#: What `reserve_stdout` put in the place of Python's stdout.
_reserved: TextIO | None = None


def reserve_stdout() -> None:
    """Give `sys.stdout` a descriptor of its own, and lead descriptor 1 to stderr. For the start of a process.

    A standard stream that was closed becomes one to nowhere: else the next file that is opened, the results store say,
    would get its descriptor, and whatever is printed would be written into it. Does nothing where `sys.stdout` is not
    descriptor 1 (somebody captures it).
    """
    global _reserved
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _open_to_nowhere(number, name)
    before = sys.stdout
    if not _leads_to(before, 1) or not _leads_to(sys.stderr, 2):
        return
    before.flush()
    unbuffered = getattr(before, "write_through", False)
    raw = open(os.dup(1), "wb", 0 if unbuffered else -1)  # noqa: SIM115 - for the rest of the process
    _reserved = io.TextIOWrapper(
        raw,
        encoding=before.encoding,
        errors=before.errors,
        newline="\n" if os.name == "posix" else None,
        line_buffering=getattr(before, "line_buffering", False),
        write_through=unbuffered,
    )
    os.dup2(2, 1)
    sys.stdout = sys.__stdout__ = _reserved  # type: ignore[misc]


def release_stdout() -> None:
    """Lead descriptor 1 to where it led at the start, for the app, which looks for its terminal there."""
    if _reserved is not None:
        _reserved.flush()
        os.dup2(_reserved.fileno(), 1)


@contextlib.contextmanager
def foreign_code() -> Iterator[None]:
    """Inside, what Python code prints goes to stderr too: for code of somebody else that runs in this process."""
    original = sys.__stdout__
    with contextlib.redirect_stdout(sys.stderr):
        sys.__stdout__ = sys.stderr  # type: ignore[misc, assignment]
        try:
            yield
        finally:
            sys.__stdout__ = original  # type: ignore[misc]


def _open_to_nowhere(descriptor: int, name: str) -> None:
    """Fill in a standard stream that Python found closed. The lower ones are open, so it gets its own descriptor."""
    try:
        os.fstat(descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDWR)
        stream = open(descriptor, "w" if descriptor else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
    else:
        # Some file has the descriptor already: it is left alone.
        stream = open(os.devnull, "w" if descriptor else "r", encoding="utf-8")  # noqa: SIM115
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _leads_to(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (AttributeError, OSError, ValueError):
        return False
