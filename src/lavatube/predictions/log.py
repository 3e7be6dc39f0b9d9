"""The append-only log of one prediction: one writer, any number of readers, each at a position of its own.

Nothing is ever dropped from a log, so a slow, late or returning reader sees what a quick one saw. That is bounded
because an answer is (`max_tokens`), and because `retention.py` forgets whole predictions, the oldest first; a reader
keeps the log that it reads, forgotten or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from lavatube.predictions.events import Completed, Event, Output

EVENT_OVERHEAD_BYTES: Final = 160
LOGPROB_BYTES: Final = 120


class EventLog:
    """Events with ids 1, 2, 3 …, ended by one Completed."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._arrival = asyncio.Event()
        self._is_closed = False
        self.size_bytes = 0

    @property
    def next_id(self) -> int:
        return len(self._events) + 1

    @property
    def has_ended(self) -> bool:
        return bool(self._events) and isinstance(self._events[-1], Completed)

    @property
    def outputs(self) -> list[str]:
        """The pieces of text of the first answer so far."""
        return [event.text for event in self.pieces(0)]

    def pieces(self, choice: int) -> list[Output]:
        """What was written of one answer so far."""
        return [event for event in self._events if isinstance(event, Output) and event.choice == choice]

    def append(self, event: Event) -> None:
        assert event.id == self.next_id, "ids have no gaps"
        assert not self.has_ended, "nothing comes after the end"
        self._events.append(event)
        self.size_bytes += EVENT_OVERHEAD_BYTES
        if isinstance(event, Output):
            num_logprobs = sum(1 + len(logprob.top) for logprob in event.logprobs)
            self.size_bytes += len(event.text) * 4 + num_logprobs * LOGPROB_BYTES
        self._wake()

    def close(self) -> None:
        """Its readers are let go, without an end: the rest is written elsewhere."""
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        arrival, self._arrival = self._arrival, asyncio.Event()
        arrival.set()

    async def read(self, after: int = 0, idle_s: float | None = None) -> AsyncGenerator[Event | None, None]:
        """Every event whose id is greater than `after`, as they come, up to the end; the last again for who is past it.

        With `idle_s`, a None whenever nothing has come for that long: the moment to say that one is still there.
        """
        position = after
        while True:
            while position < len(self._events):
                yield self._events[position]
                position += 1
            if self.has_ended:
                if after >= len(self._events):
                    yield self._events[-1]
                return
            if self._is_closed:
                return
            try:
                async with asyncio.timeout(idle_s):
                    await self._arrival.wait()
            except TimeoutError:
                yield None
