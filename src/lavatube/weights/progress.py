"""How far provisioning has come: the one value it reports, and the meter for its rate."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Phase = Literal["resolving", "fetching", "verifying", "ready"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes that are in place, of how many; `total_bytes` is 0 while it is not known."""

    phase: Phase
    done_bytes: int = 0
    total_bytes: int = 0
    rate_bytes_s: float = 0.0


OnProgress = Callable[[Progress], None]


class Meter:
    """Bytes a second over the last few seconds, from counts that are fed to it."""

    def __init__(self, window_s: float = 5.0) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque()

    def rate(self, done_bytes: int) -> float:
        """Take a count and give the rate that ends in it; 0 while there is nothing to compare with."""
        now = time.monotonic()
        self._samples.append((now, done_bytes))
        while len(self._samples) > 2 and now - self._samples[0][0] > self._window_s:
            self._samples.popleft()
        since, before = self._samples[0]
        return max(0.0, (done_bytes - before) / (now - since)) if now > since else 0.0


class Pace:
    """Lets a report through a few times a second, however often it is offered."""

    def __init__(self, interval_s: float = 0.2) -> None:
        self._interval_s = interval_s
        self._next = 0.0

    def is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._interval_s
        return True


def counter(phase: Phase, total_bytes: int, on_progress: OnProgress) -> Callable[[int], None]:
    """Takes the lengths of pieces and reports their sum now and then."""
    meter, pace, done_bytes = Meter(), Pace(), 0

    def count(piece_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += piece_bytes
        if pace.is_due():
            on_progress(Progress(phase, done_bytes, total_bytes, meter.rate(done_bytes)))

    return count
