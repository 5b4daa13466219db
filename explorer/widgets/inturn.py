"""Keys one after the other: each goes to where the one before has led.

Textual hands a key to the widget that has the focus and takes the next one at once, while what the first does (moving
the focus, opening a screen) happens only when it has come up again through all the widgets around. Of keys that arrive
together, as they do over SSH, those behind a tab would go to the field before it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from textual import events
from textual.app import App
from textual.message import Message

#: A key waits for the one before it no longer than this, in seconds: the widget that had it may be gone.
PATIENCE = 1.0
#: What a key sets off may be a message of its widget (a field was submitted) or a call (to move the focus): both come
#: before what is sent behind them.
_ROUNDS = 2


class InTurn(App[None]):
    """An app that takes a key, or what is pasted, only once all that the one before set off has been done."""

    class Settled(Message, bubble=True, verbose=True):
        """Sent behind a key by the same way: whoever gets it has dealt with the key."""

        def __init__(self, turn: int, round_: int) -> None:
            super().__init__()
            self.turn = turn
            self.round = round_

    def __init__(self) -> None:
        super().__init__()
        self._turn = 0
        self._taking = False
        self._waiting: deque[events.Key | events.Paste] = deque()

    async def on_event(self, event: events.Event) -> None:
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
        elif self._taking:
            self._waiting.append(event)
            self._be_patient()
        else:
            await self._take(event)

    async def _take(self, event: events.Key | events.Paste) -> None:
        self._taking = True
        self._turn += 1
        await super().on_event(event)
        await self._send_behind(1)

    async def _send_behind(self, round_: int) -> None:
        widget: Any = (self.focused or self.screen) if self._screen_stack else None
        if widget is None or not widget.post_message(self.Settled(self._turn, round_)):
            await self._next()

    async def on_in_turn_settled(self, message: Settled) -> None:
        if message.turn != self._turn or not self._taking:
            return
        if message.round < _ROUNDS:
            await self._send_behind(message.round + 1)
        else:
            await self._next()

    async def _next(self) -> None:
        self._taking = False
        if self._waiting:
            await self._take(self._waiting.popleft())
            if self._waiting:
                self._be_patient()

    def _be_patient(self) -> None:
        turn = self._turn

        async def give_up() -> None:
            if self._taking and self._turn == turn:
                await self._next()

        self.set_timer(PATIENCE, give_up)
