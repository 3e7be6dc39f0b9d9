"""A gate that lets so much through at once; who waits is let in by turns. Belongs to one event loop."""

from __future__ import annotations

import asyncio

from lavatube.predictions.turns import Claim, Turns


class Gate:
    """`capacity` is shared by the costs of all claims inside; a single claim gets in whatever its cost."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = 0
        self._waiting: Turns[asyncio.Future[None]] = Turns()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    async def enter(self, claim: Claim) -> None:
        """Waits for its turn. Whoever has got in must `leave`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(turn, claim)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove(turn)
                self._admit()  # it may have been the one that was too large for what is free
            else:  # let in at the very moment at which it was cancelled
                self.leave(claim)
            raise

    def leave(self, claim: Claim) -> None:
        self._used -= claim.cost
        assert self._used >= 0
        self._admit()

    def _admit(self) -> None:
        """In turn, and nobody past one for whom there is no room yet: it would wait for ever."""
        while self._waiting:
            turn, claim = self._waiting.peek()
            if self._used and self._used + claim.cost > self._capacity:
                return
            if turn.cancelled():  # its task has not been told yet, and will take it out
                return
            self._waiting.take()
            self._used += claim.cost
            turn.set_result(None)
