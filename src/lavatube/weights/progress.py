"""How far provisioning and loading have come: the one value that is reported, and the meter for its rate."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lavatube.weights.options import MIB

Phase = Literal["resolving", "fetching", "verifying", "ready", "loading"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes that are in place, of how many; `total_bytes` is 0 while it is not known."""

    phase: Phase
    done_bytes: int = 0
    total_bytes: int = 0
    rate_bytes_s: float = 0.0

    @property
    def eta_s(self) -> float | None:
        """Until all are in place, at this rate; None where that can't be told."""
        if self.rate_bytes_s <= 0 or not self.total_bytes:
            return None
        return max(self.total_bytes - self.done_bytes, 0) / self.rate_bytes_s

    @property
    def extent(self) -> str:
        """Bytes, rate and time left, for people; what is not known is left out."""
        if not self.total_bytes:
            return ""
        from datetime import timedelta  # not for those who never show it

        rate = f", {self.rate_bytes_s / MIB:,.1f} MiB/s" if self.rate_bytes_s else ""
        left = "" if self.eta_s is None else f", {timedelta(seconds=round(self.eta_s))} left"
        return f"{self.done_bytes / MIB:,.1f} of {self.total_bytes / MIB:,.1f} MiB{rate}{left}"


OnProgress = Callable[[Progress], None]


class Ledger:
    """One progress of several parts, each of which counts from the moment on at which its length is known."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._parts: dict[str, Progress] = {}

    def expect(self, name: str, total_bytes: int) -> None:
        """A part of this length is still to come."""
        self._parts.setdefault(name, Progress("resolving", 0, total_bytes))

    def part(self, name: str) -> OnProgress:
        """What hears of one part, and tells of all."""

        def on_progress(progress: Progress) -> None:
            if progress.total_bytes:
                self._parts[name] = progress
            done_bytes = sum(part.done_bytes for part in self._parts.values())
            total_bytes = sum(part.total_bytes for part in self._parts.values())
            self._on_progress(Progress(progress.phase, done_bytes, total_bytes, progress.rate_bytes_s))

        return on_progress


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
    follow, done_bytes = follower(phase, on_progress), 0

    def count(piece_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += piece_bytes
        follow(done_bytes, total_bytes)

    return count


def follower(phase: Phase, on_progress: OnProgress) -> Callable[[int, int], None]:
    """Takes bytes that are in place, and of how many, and reports them now and then, and at the end."""
    meter, pace = Meter(), Pace()

    def follow(done_bytes: int, total_bytes: int) -> None:
        if pace.is_due() or done_bytes == total_bytes:
            on_progress(Progress(phase, done_bytes, total_bytes, meter.rate(done_bytes)))

    return follow
