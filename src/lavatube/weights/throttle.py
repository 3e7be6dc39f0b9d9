"""How many connections a line is worth: more, as long as each doubling brings more, and there is a processor for them.

What a line gives may change: after a while more are tried again, and after twice as long once more. Decides only.
"""

from __future__ import annotations

from typing import Final

GAIN: Final = 1.15
"""A doubling that brings less is taken back: the fewer spans share a line, the sooner each of them is here."""
SETTLE_S: Final = 0.5
AGAIN_S: Final = 15.0
"""How long what was found out counts, at first."""
BUSY: Final = 0.7
"""The share of all processors from which on they are the bottleneck: more connections would cost, and bring nothing."""


class Throttle:
    """Counts up from some connections to at most `most`."""

    def __init__(self, connections: int, most: int, num_processors: int = 1) -> None:
        self.connections = connections
        self.most = most
        self._again_s, self._pause_s = 0.0, AGAIN_S
        self._num_processors = num_processors
        self._is_settled = False
        self._best_rate = 0.0
        self._added = 0
        self._since: tuple[float, int, float] | None = None

    def advance(self, received_bytes: int, now_s: float, cpu_s: float = 0.0) -> int:
        """How many connections to add at this moment, or to give up, given all bytes and CPU seconds so far."""
        if self._since is None:
            self._since = now_s, received_bytes, cpu_s
        if self._is_settled:
            if now_s >= self._again_s:
                self._is_settled, self._best_rate, self._added = False, 0.0, 0
                self._since = now_s, received_bytes, cpu_s
            return 0
        begun_s, begun_bytes, begun_cpu_s = self._since
        elapsed_s = now_s - begun_s
        if elapsed_s < SETTLE_S:
            return 0
        self._since = now_s, received_bytes, cpu_s
        rate = (received_bytes - begun_bytes) / elapsed_s
        is_busy = cpu_s - begun_cpu_s > BUSY * elapsed_s * self._num_processors
        if rate > GAIN * self._best_rate:
            self._added = 0 if is_busy else min(self.connections, self.most - self.connections)
            if self._added == 0:
                self._settle(now_s)
        else:
            self._added = -self._added
            self._settle(now_s)
        self._best_rate = rate
        self.connections += self._added
        return self._added

    def refuse(self, count: int, now_s: float) -> None:
        """The source has refused so many of them, which are no more: for a while there are no others."""
        if count:
            self.connections -= count
            self._added = 0
            self._settle(now_s)

    def _settle(self, now_s: float) -> None:
        self._is_settled = True
        self._again_s, self._pause_s = now_s + self._pause_s, 2 * self._pause_s
