"""The way into the terminal app. The store is being read while the libraries of the screen load."""

from __future__ import annotations

import gc
import threading
import traceback
from functools import partial

from explorer import errors, terminal
from explorer.results import Results
from explorer.settings import Settings
from explorer.shipped import preview, provide


def run(settings: Settings, *, focus_job: int | None = None) -> int:
    """Run the app until the person leaves; returns the exit code. Raises `ExplorerError` when there is no terminal."""
    terminal.require()
    results = Results(settings.store, prepare=partial(provide, settings), preview=partial(preview, settings))
    reading = threading.Thread(target=results.preload, name="first-reading")
    reading.start()
    # What is loaded now stays: looking for garbage in it over and over takes a tenth of the time.
    gc.disable()
    from explorer.screens.application import NasrobApp

    gc.freeze()
    gc.enable()
    with terminal.reserved():
        app = NasrobApp(settings, results=results, focus_job=focus_job)
        app.run()
    reading.join()
    results.close()
    for bug in app.bugs:
        traceback.print_exception(bug)
    return app.return_code or errors.OK
