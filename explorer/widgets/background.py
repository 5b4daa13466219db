"""Work beside the event loop. An error that a person can act on is shown as its sentence; a bug ends nothing."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from textual.dom import DOMNode

from explorer.errors import exit_code_of

if TYPE_CHECKING:
    from explorer.screens.application import NasrobApp


def background(
    node: DOMNode, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any, group: str, exclusive: bool = True
) -> None:
    """Run `work` for a screen. Of an exclusive group only the latest goes on. It ends with the screen."""
    guarded: Any = partial(_guarded, cast("NasrobApp", node.app), work, arguments)
    node.run_worker(guarded, group=group, exclusive=exclusive)


async def _guarded(app: NasrobApp, work: Callable[..., Coroutine[Any, Any, None]], arguments: tuple[Any, ...]) -> None:
    try:
        await work(*arguments)
    except Exception as error:
        if exit_code_of(error) is not None:
            app.notify(str(error), severity="error", markup=False)
        else:
            app.keep_bug(error)
