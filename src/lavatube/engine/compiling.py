"""Requests whose grammar is being compiled: beside the engine's steps, so that nobody else waits for it."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from lavatube.engine.grammar import Grammars, Matcher
from lavatube.engine.sequence import Sequence
from lavatube.errors import RequestError

PATIENCE_S: Final = 0.01
"""How long is waited for a grammar where there is nothing else to do, before commands are looked at again."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """The sequences of one request, and their matcher, or why there is none."""

    request_id: str
    sequences: list[Sequence]
    matcher: Matcher | RequestError


class GrammarQueue:
    """Compiles on a thread of its own, one grammar after the other. One thread calls it."""

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = grammars
        self._thread = ThreadPoolExecutor(1, "lavatube-grammar")
        self._waiting: dict[str, tuple[list[Sequence], Future[Matcher]]] = {}

    def __len__(self) -> int:
        """Requests whose grammar has not been taken yet."""
        return len(self._waiting)

    def add(self, request_id: str, grammar: str, sequences: list[Sequence]) -> None:
        self._waiting[request_id] = (sequences, self._thread.submit(self._grammars.matcher, grammar))

    def discard(self, request_id: str) -> None:
        """Forget a request that has ended, if it is here."""
        if request_id in self._waiting:
            _, future = self._waiting.pop(request_id)
            future.cancel()

    def take(self, *, is_idle: bool) -> list[Compiled]:
        """Those that are ready. Where the engine is idle, the first is waited for, for a moment."""
        if is_idle and self._waiting:
            wait([future for _, future in self._waiting.values()], PATIENCE_S, FIRST_COMPLETED)
        ready = [request_id for request_id, (_, future) in self._waiting.items() if future.done()]
        return [self._result(request_id) for request_id in ready]

    def _result(self, request_id: str) -> Compiled:
        sequences, future = self._waiting.pop(request_id)
        try:
            return Compiled(request_id, sequences, future.result())
        except RequestError as error:
            return Compiled(request_id, sequences, error)
