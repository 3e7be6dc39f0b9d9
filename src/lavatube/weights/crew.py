"""The receivers of one fetch: how many there are, how many are being given bytes, and which of them are to end.

For many threads; knows no spans and no sources.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Crew:
    """Counts who comes and goes; one receiver always stays."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._size = 0
        self._num_surplus = 0
        self._num_refused = 0
        self._num_served = 0

    def join(self) -> None:
        """One more begins."""
        with self._lock:
            self._size += 1

    def dismiss(self, count: int) -> None:
        """So many are to end when they have nothing in hand: they don't make the line faster."""
        with self._lock:
            self._num_surplus += count

    def retire(self) -> bool:
        """Whether the one that asks, which has nothing in hand, is to end."""
        with self._lock:
            is_surplus = self._num_surplus > 0
            self._num_surplus -= is_surplus
            self._size -= is_surplus
            return is_surplus

    def leave(self) -> bool:
        """Whether the one that asks, which is refused, may end: another stays, and the source gives to somebody."""
        with self._lock:
            may_leave = self._size - self._num_surplus > 1 and self._num_served > 0
            self._size -= may_leave
            self._num_refused += may_leave
            return may_leave

    def take_refused(self) -> int:
        """How many have left since this was asked last."""
        with self._lock:
            count, self._num_refused = self._num_refused, 0
            return count

    @contextmanager
    def served(self) -> Iterator[None]:
        """While the source answers a receiver."""
        with self._lock:
            self._num_served += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_served -= 1
