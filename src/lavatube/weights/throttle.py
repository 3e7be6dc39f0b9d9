"""How many connections a line is worth: more, as long as each doubling brings more. Decides only."""

from __future__ import annotations

from typing import Final

GAIN: Final = 1.15
"""A doubling that brings less is taken back: the fewer spans share a line, the sooner each of them is here."""
SETTLE_S: Final = 0.5


class Throttle:
    """Counts up from some connections to at most `most`."""

    def __init__(self, connections: int, most: int) -> None:
        self.connections = connections
        self._most = most
        self._is_settled = False
        self._best_rate = 0.0
        self._added = 0
        self._since: tuple[float, int] | None = None

    def advance(self, received_bytes: int, now_s: float) -> int:
        """How many connections to add at this moment, or to give up, given all bytes so far."""
        if self._since is None:
            self._since = now_s, received_bytes
        begun_s, begun_bytes = self._since
        if self._is_settled or now_s - begun_s < SETTLE_S:
            return 0
        rate = (received_bytes - begun_bytes) / (now_s - begun_s)
        if rate > GAIN * self._best_rate:
            self._added = min(self.connections, self._most - self.connections)
            self._is_settled = self._added == 0
        else:
            self._added, self._is_settled = -self._added, True
        self._best_rate, self._since = rate, (now_s, received_bytes)
        self.connections += self._added
        return self._added
