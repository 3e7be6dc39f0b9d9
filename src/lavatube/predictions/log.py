"""The append-only log of one prediction: one writer, any number of readers, each at a position of its own.

Nothing is ever dropped from a log, so a slow, late or returning reader sees what a quick one saw. That is bounded
because an answer is (`max_tokens`), and because `retention.py` forgets whole predictions, the oldest first; a reader
keeps the log that it reads, forgotten or not. A reader is a position and nothing more: whoever falls behind holds no
copy of what it has not read, and takes more at once when it comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from lavatube.predictions.events import Completed, Event, Output

EVENT_OVERHEAD_BYTES: Final = 160
LOGPROB_BYTES: Final = 120
MOST_AT_ONCE_BYTES: Final = 64 * 1024
"""A reader that is behind is given about so much at a time, so that what waits to be sent stays small."""


class EventLog:
    """Events with ids 1, 2, 3 …, ended by one Completed."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._readers: set[_Reader] = set()
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
        self.size_bytes += _size_bytes(event)
        self._wake()

    def close(self) -> None:
        """Its readers are let go, without an end: the rest is written elsewhere."""
        self._is_closed = True
        self._wake()

    async def follow(self, after: int = 0, idle_s: float | None = None) -> AsyncGenerator[list[Event], None]:
        """All events whose ids are greater than `after`, up to the end, each time as many as there are by then.

        For who is past the end, the last event again. With `idle_s`, an empty list whenever nothing has come for that
        long: the moment to say that one is still there.
        """
        position = after
        reader = _Reader(idle_s)
        self._readers.add(reader)
        try:
            while True:
                while position < len(self._events):
                    events = self._from(position)
                    position += len(events)
                    yield events
                if self.has_ended:
                    if after >= len(self._events):
                        yield self._events[-1:]
                    return
                if self._is_closed:
                    return
                if not await reader.wait():
                    yield []
        finally:
            self._readers.discard(reader)
            reader.close()

    def _wake(self) -> None:
        for reader in self._readers:
            reader.wake()

    def _from(self, position: int) -> list[Event]:
        """The events from there on, as many as make a good piece; at least one."""
        end, size_bytes = position + 1, _size_bytes(self._events[position])
        while end < len(self._events) and size_bytes < MOST_AT_ONCE_BYTES:
            size_bytes += _size_bytes(self._events[end])
            end += 1
        return self._events[position:end]


class _Reader:
    """One who waits for the next event. Its alarm is put forward when it rings early, not with every event."""

    def __init__(self, idle_s: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle_s = idle_s
        self._news: asyncio.Future[bool] | None = None
        self._since_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    async def wait(self) -> bool:
        """Whether something came before `idle_s` were over."""
        self._news = self._loop.create_future()
        self._since_s = self._loop.time()
        if self._alarm is None and self._idle_s is not None:
            self._alarm = self._loop.call_later(self._idle_s, self._ring, self._idle_s)
        return await self._news

    def wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(True)

    def close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def _ring(self, idle_s: float) -> None:
        self._alarm = None
        due_s = self._since_s + idle_s
        if due_s > self._loop.time():
            self._alarm = self._loop.call_at(due_s, self._ring, idle_s)
        elif self._news is not None and not self._news.done():
            self._news.set_result(False)


def _size_bytes(event: Event) -> int:
    """What it takes in memory, and more than what it takes on a wire."""
    if not isinstance(event, Output):
        return EVENT_OVERHEAD_BYTES
    num_logprobs = sum(1 + len(logprob.top) for logprob in event.logprobs) if event.logprobs else 0
    return EVENT_OVERHEAD_BYTES + len(event.text) * 4 + num_logprobs * LOGPROB_BYTES
