"""The receivers of one fetch: how many there are, how many are being given bytes, and which of them are to end.

How many help is for the throttle to say. For many threads; knows no spans and no sources.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from lavatube.weights.throttle import Throttle


class Crew:
    """Counts who comes and goes; one receiver always stays."""

    def __init__(self, throttle: Throttle) -> None:
        self.most = throttle.most
        self._throttle = throttle
        self._start: Callable[[], Future[None]] = Future
        self._lock = threading.Lock()
        self._size = 0
        self._num_surplus = 0
        self._num_refused = 0
        self._num_served = 0

    def begin(self, start: Callable[[], Future[None]]) -> set[Future[None]]:
        """The first ones; `start` starts one."""
        self._start = start
        return self._add(self._throttle.connections)

    def adjust(self, received_bytes: int, now_s: float, cpu_s: float = 0.0) -> set[Future[None]]:
        """Those that begin at this moment; where fewer would do, some end when they have nothing in hand."""
        with self._lock:
            num_refused, self._num_refused = self._num_refused, 0
        self._throttle.refuse(num_refused, now_s)
        change = self._throttle.advance(received_bytes, now_s, cpu_s)
        with self._lock:
            self._num_surplus += max(0, -change)
        return self._add(change)

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

    def _add(self, count: int) -> set[Future[None]]:
        with self._lock:
            self._size += max(0, count)
        return {self._start() for _ in range(count)}
