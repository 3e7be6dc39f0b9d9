"""What the front decides about its worker: what state it is in, whether it hangs, when to start another one.

Decides only: no processes, no sockets, no clock. `client.py` acts on it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from lavatube.engine.wire import Event, Heartbeat, Ready


class EngineState(StrEnum):
    """STARTING has a process and no model yet; RESTARTING waits before the next process."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"

    def can_become(self, state: EngineState) -> bool:
        return state in _LEGAL_MOVES[self]


_ENDS: Final = {EngineState.RESTARTING, EngineState.FAILED, EngineState.STOPPED}
_LEGAL_MOVES: Final[dict[EngineState, set[EngineState]]] = {
    EngineState.STARTING: {EngineState.LOADING} | _ENDS,
    EngineState.LOADING: {EngineState.READY} | _ENDS,
    EngineState.READY: _ENDS,
    EngineState.RESTARTING: {EngineState.STARTING, EngineState.FAILED, EngineState.STOPPED},
    EngineState.FAILED: {EngineState.STOPPED},
    EngineState.STOPPED: set(),
}


class RestartPolicy:
    """A delay that doubles with each failure, until there were too many in too short a time."""

    def __init__(
        self, *, first_delay_s: float = 1.0, max_delay_s: float = 30.0, max_failures: int = 5, window_s: float = 600.0
    ) -> None:
        self._first_delay_s = first_delay_s
        self._max_delay_s = max_delay_s
        self._max_failures = max_failures
        self._window_s = window_s
        self._failed_s: deque[float] = deque()

    def delay_after_failure(self, now_s: float) -> float | None:
        """Seconds to wait before the next start; None: give up."""
        self._failed_s.append(now_s)
        while self._failed_s[0] <= now_s - self._window_s:
            self._failed_s.popleft()
        if len(self._failed_s) >= self._max_failures:
            return None
        return min(self._max_delay_s, self._first_delay_s * 2.0 ** (len(self._failed_s) - 1))


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a worker may be silent (`start_s` until it is ready, `hang_s` from then on), or work without progress.

    Imports and driver calls hold the interpreter lock, so a start is granted more.
    """

    hang_s: float = 10.0
    start_s: float = 120.0
    check_every_s: float = 1.0


class Watchdog:
    """Tells a worker that hangs from one that is busy. One for each life of a worker."""

    def __init__(self, patience: Patience, now_s: float) -> None:
        self._patience = patience
        self._heard_s = now_s
        self._moved_s = now_s
        self._checked_s = now_s
        self._steps = 0
        self._layer_s = 0.0

    def hear(self, event: Event, now_s: float) -> None:
        """The worker said something; all but a heartbeat that repeats itself is progress."""
        self._heard_s = now_s
        if isinstance(event, Ready):
            self._layer_s = event.layer_s
        if isinstance(event, Heartbeat):
            if event.steps == self._steps:
                return
            self._steps = event.steps
        self._moved_s = now_s

    def complaint(self, now_s: float, *, is_ready: bool, has_work: bool) -> str | None:
        """Why the worker must be killed, if it must. To be asked every `check_every_s`."""
        if now_s - self._checked_s > 3 * self._patience.check_every_s:
            self._heard_s = self._moved_s = now_s  # it was we who slept: its messages are still unread
        self._checked_s = now_s
        if not has_work:
            self._moved_s = now_s
        if now_s - self._heard_s > (self._patience.hang_s if is_ready else self._patience.start_s):
            return f"it was silent for {now_s - self._heard_s:.0f} s"
        if is_ready and now_s - self._moved_s > self._patience.hang_s + self._layer_s:
            return f"it made no progress for {now_s - self._moved_s:.0f} s"
        return None
