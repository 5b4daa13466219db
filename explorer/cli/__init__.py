"""The command line: one file a command, all of them in `program`; without a command the app opens, which needs none."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from explorer import errors, settings
from explorer.cli.opening import open_app
from explorer.cli.streams import reserve_stdout


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code. A user's mistake is one sentence on stderr, `--debug` shows where.

    Without `arguments` it is that of the process, whose standard streams are then put in order.
    """
    if arguments is None:
        reserve_stdout()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    # The flag may stand anywhere; it is the program's, not a command's.
    words = ["--debug", *(w for w in words if w != "--debug")] if debug else words
    try:
        if not words:
            return open_app(settings.load())
        from explorer.cli.program import app

        app(words, prog_name="nasrob-tui")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else errors.FAILED if leaving.code else errors.OK
    except BrokenPipeError:
        # The reader of a pipe (head, less) left; there is nobody to tell.
        sys.stderr.close()
        return errors.OK
    except (Exception, KeyboardInterrupt) as error:
        code = errors.exit_code_of(error)
        if debug or code is None:
            if code is None and not debug:
                print(
                    f"nasrob-tui: this is a bug ({type(error).__name__}: {error}). Please report it with:",
                    file=sys.stderr,
                )
            import traceback

            traceback.print_exception(error)
            return errors.FAILED if code is None else code
        message = "interrupted" if errors.is_interruption(error) else str(error)
        print(f"nasrob-tui: {message}", file=sys.stderr)
        return code
    return errors.OK
