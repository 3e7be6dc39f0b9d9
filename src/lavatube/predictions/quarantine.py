"""Who may be in the engine beside whom, after a crash: whatever was in it then goes in alone first, one at a time.

So the one that caused the crash, if it was one of them, takes nobody down again. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Visit:
    """One prediction's stay in the engine."""

    def __init__(self, on_clear: Callable[[], None]) -> None:
        self._on_clear = on_clear
        self.is_alone = False

    def clear(self) -> None:
        """A suspect has done no harm: others may join it. Twice does no harm."""
        if self.is_alone:
            self.is_alone = False
            self._on_clear()


class Quarantine:
    """Suspects come before others, who would keep them waiting for ever.

    One that did no harm in its first tokens stays, and the next suspect goes in beside it. If that one then brings the
    engine down it is to blame alone, for nothing else was new.
    """

    def __init__(self) -> None:
        self._visits: set[Visit] = set()
        self._num_suspects_waiting = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._crash: Exception | None = None
        self._culprits: frozenset[Visit] = frozenset()

    @asynccontextmanager
    async def visit(self, *, is_suspect: bool) -> AsyncIterator[Visit]:
        """Waits until it may go in."""
        visit = Visit(self._wake)
        if is_suspect:
            await self._enter_alone(visit)
        else:
            await self._until(lambda: not self._num_suspects_waiting and not self._loners)
        self._visits.add(visit)
        try:
            yield visit
        finally:
            self._visits.discard(visit)
            self._wake()

    def culprits(self, crash: Exception) -> frozenset[Visit]:
        """Who may have caused it. To be asked by everyone who was in the engine, before leaving."""
        if crash is not self._crash:  # all are told of it by the same object
            self._crash, self._culprits = crash, frozenset(self._loners or self._visits)
        return self._culprits

    @property
    def _loners(self) -> set[Visit]:
        return {visit for visit in self._visits if visit.is_alone}

    async def _enter_alone(self, visit: Visit) -> None:
        self._num_suspects_waiting += 1
        try:
            await self._until(lambda: not self._loners)
            visit.is_alone = True
        finally:
            self._num_suspects_waiting -= 1
            self._wake()

    async def _until(self, is_free: Callable[[], bool]) -> None:
        while not is_free():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
