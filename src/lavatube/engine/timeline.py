"""What an engine writes into the trace: its first token; before it, if it trails a download, weights and stages."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from lavatube.engine.wire import RequestEvent, Tokens
from lavatube.trace import Trace

EVERY_S: Final = 0.02


class Timeline:
    """One start. What a stage takes is the time from its admission to the next one's arrival."""

    def __init__(self, path: str) -> None:
        self._trace = Trace(path)
        self._stage: tuple[str, float] | None = None
        self._next_s = 0.0
        self._has_answered = False

    def on_progress(self, done_bytes: int) -> None:
        """So many bytes of weights are in place."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + EVERY_S
            self._trace.moment("load", str(done_bytes), now_s)

    def on_pass(self, path: str, came_s: float, passed_s: float) -> None:
        """A stage was come to, and let in."""
        self._end_stage(came_s)
        self._trace.span("wait", path, came_s, passed_s)
        self._stage = path, passed_s

    def on_events(self, events: Iterable[RequestEvent]) -> None:
        """What the engine says; the first token is the end of the timeline."""
        if not self._has_answered and any(isinstance(event, Tokens) for event in events):
            self._has_answered = True
            now_s = time.monotonic()
            self._end_stage(now_s)
            self._trace.moment("token", "first token", now_s)

    def _end_stage(self, now_s: float) -> None:
        if self._stage is not None:
            path, begun_s = self._stage
            self._trace.span("encode" if path.startswith(("vision", "projector")) else "prefill", path, begun_s, now_s)
            self._stage = None
