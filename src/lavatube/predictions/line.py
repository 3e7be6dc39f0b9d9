"""A bounded line in front of the engine: who may enter, and when to come back otherwise. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from lavatube.errors import MAX_RETRY_AFTER_S, Overloaded

FIRST_GUESS_S: Final = 2.0
SMOOTHING: Final = 0.2


@dataclass(slots=True)
class Ticket:
    """The place of one request, and the bytes it holds until it is prepared."""

    size_bytes: int


class Line:
    """Counts what was let in and not yet finished, in requests and in bytes that wait to be prepared."""

    def __init__(self, max_running: int, max_waiting: int, max_bytes: int) -> None:
        self._max_running = max_running
        self._max_requests = max_running + max_waiting
        self._max_bytes = max_bytes
        self._mean_s = FIRST_GUESS_S
        self.num_requests = 0
        self.num_bytes = 0

    @property
    def is_busy(self) -> bool:
        """One more request would have to wait."""
        return self.num_requests >= self._max_running

    def enter(self, size_bytes: int) -> Ticket:
        """Raises Overloaded when the line is full. A first request is let in whatever its size."""
        if self.num_requests >= self._max_requests:
            raise self._refusal(f"{self.num_requests} predictions are running or waiting; no more are taken.")
        if self.num_bytes and self.num_bytes + size_bytes > self._max_bytes:
            raise self._refusal("The pictures that wait to be read fill the memory set aside for them.")
        self.num_requests += 1
        self.num_bytes += size_bytes
        return Ticket(size_bytes)

    def release_bytes(self, ticket: Ticket) -> None:
        """The request was prepared, or never will be: its own bytes are no longer held. Twice does no harm."""
        self.num_bytes -= ticket.size_bytes
        ticket.size_bytes = 0

    def leave(self, ticket: Ticket, duration_s: float | None) -> None:
        """A request is over; `duration_s` is how long the engine had it, None if it never did."""
        self.release_bytes(ticket)
        self.num_requests -= 1
        if duration_s is not None:
            self._mean_s += SMOOTHING * (duration_s - self._mean_s)

    @property
    def retry_after_s(self) -> int:
        """When half of those that wait now will be through: later the line would run dry, sooner it is still full."""
        waiting = max(self.num_requests - self._max_running, 1)
        rate = self._max_running / max(self._mean_s, 1e-3)
        return max(1, min(MAX_RETRY_AFTER_S, math.ceil(waiting / 2 / rate)))

    def _refusal(self, message: str) -> Overloaded:
        after_s = self.retry_after_s
        return Overloaded(message, remedy=f"Try again in {after_s} s.", retry_after_s=after_s)
