"""The command `nasrob-tui`. Checks that the three rooms are this distribution's own, then hands over to the command
line.

Their names (`models`, `store`, `explorer`) are common words; another folder of that name earlier on `sys.path` would be
imported instead, and every number would come from somewhere else.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

ROOMS = ("models", "store", "explorer")


def shadowed(rooms: tuple[str, ...] = ROOMS) -> str | None:
    """A sentence about the first room that would be imported from elsewhere; None when all are ours."""
    home = Path(__file__).resolve().parent
    for room in rooms:
        spec = importlib.util.find_spec(room)
        if spec is None or spec.origin is None:
            place = next(iter(spec.submodule_search_locations or ()), None) if spec else None
            found = f"{place}, which is no package" if place else "nothing"
        elif Path(spec.origin).resolve().parent.parent == home:
            continue
        else:
            found = str(Path(spec.origin).parent)
        return (
            f"nasrob-tui: the package '{room}' should come from {home / room}, but Python finds {found}. Remove that "
            "folder from PYTHONPATH, or run nasrob-tui from an environment of its own."
        )
    return None


def main() -> None:
    problem = shadowed()
    if problem:
        print(problem, file=sys.stderr)
        raise SystemExit(2)
    try:
        from explorer.cli import run
    except KeyboardInterrupt:
        print("nasrob-tui: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    code = run()
    # The command is over and its exit code stands, whatever is pressed while Python shuts down.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
