"""A bounded line in front of the engine: who may enter, and when to come back otherwise. Pure arithmetic."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from lavatube.errors import MAX_RETRY_AFTER_S, Overloaded, RateLimited
from lavatube.predictions.gate import Gate
from lavatube.predictions.owners import NO_LIMITS, OPERATOR, OwnerLimits, Owners
from lavatube.predictions.turns import Claim

FIRST_GUESS_S: Final = 2.0
SMOOTHING: Final = 0.2
SHARE_OF_FREE: Final = 4


@dataclass(slots=True)
class Ticket:
    """The place of one request, the bytes it holds until it is prepared, and the gate that it has passed last."""

    size_bytes: int
    claim: Claim = field(default_factory=Claim)
    gate: Gate | None = None

    async def pass_through(self, gate: Gate) -> None:
        """Out of the gate before, then into this one, when it is its turn."""
        self.leave_gate()
        await gate.enter(self.claim)
        self.gate = gate

    def leave_gate(self) -> None:
        """Twice does no harm."""
        if self.gate is not None:
            self.gate.leave(self.claim)
            self.gate = None


class Line:
    """Counts what was let in and not yet finished, in requests and in bytes that wait to be prepared.

    `limits_of` says what an owner may use; by default, what there is.
    """

    def __init__(
        self,
        max_running: int,
        max_waiting: int,
        max_bytes: int,
        limits_of: Callable[[str], OwnerLimits] = lambda _: NO_LIMITS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_running = max_running
        self._max_requests = max_running + max_waiting
        self._max_bytes = max_bytes
        self._mean_s = FIRST_GUESS_S
        self._owners = Owners(limits_of, clock)
        self.num_requests = 0
        self.num_bytes = 0

    @property
    def is_busy(self) -> bool:
        """One more request would have to wait."""
        return self.num_requests >= self._max_running

    @property
    def num_free(self) -> int:
        """Places."""
        return max(self._max_requests - self.num_requests, 0)

    @property
    def num_waiting(self) -> int:
        """More than can run at once."""
        return max(self.num_requests - self._max_running, 0)

    def enter(self, size_bytes: int, owner: str = OPERATOR, *, cost: int = 1) -> Ticket:
        """Raises Overloaded when the line is full, RateLimited when the owner has its share of it.

        A first request is let in whatever its size.
        """
        if self.num_requests >= self._max_requests:
            raise self._refusal(f"{self.num_requests} predictions are running or waiting; no more are taken.")
        if self.num_bytes and self.num_bytes + size_bytes > self._max_bytes:
            raise self._refusal("The pictures that wait to be read fill the memory set aside for them.")
        self._check_share(owner)
        self._owners.enter(owner)
        return self._admit(size_bytes, owner, cost)

    def readmit(self, owner: str, *, cost: int = 1) -> Ticket:
        """One that was let in before, by a server that is no more."""
        self._owners.readmit(owner)
        return self._admit(0, owner, cost)

    def release_bytes(self, ticket: Ticket) -> None:
        """The request was prepared, or never will be: its own bytes are no longer held. Twice does no harm."""
        self.num_bytes -= ticket.size_bytes
        ticket.size_bytes = 0

    def leave(self, ticket: Ticket, duration_s: float | None, num_tokens: int = 0) -> None:
        """A request is over; `duration_s` is how long the engine had it, None if it never did."""
        self.release_bytes(ticket)
        ticket.leave_gate()
        self._owners.leave(ticket.claim.owner, num_tokens)
        self.num_requests -= 1
        if duration_s is not None:
            self._mean_s += SMOOTHING * (duration_s - self._mean_s)

    def _admit(self, size_bytes: int, owner: str, cost: int) -> Ticket:
        self.num_requests += 1
        self.num_bytes += size_bytes
        limits = self._owners.limits(owner)
        claim = Claim(owner, limits.priority, limits.weight, min(cost, self._max_running))
        return Ticket(size_bytes, claim)

    @property
    def retry_after_s(self) -> int:
        """When half of those that wait now will be through: later the line would run dry, sooner it is still full."""
        waiting = max(self.num_requests - self._max_running, 1)
        rate = self._max_running / max(self._mean_s, 1e-3)
        return max(1, min(MAX_RETRY_AFTER_S, math.ceil(waiting / 2 / rate)))

    def _check_share(self, owner: str) -> None:
        """One key can't fill the line: it may hold four times what it leaves free, so that a newcomer always gets in.

        Source: Choudhury and Hahne, Dynamic queue length thresholds, 1998.
        """
        held = self._owners.num_inside(owner)
        if owner == OPERATOR or held < SHARE_OF_FREE * (self._max_requests - self.num_requests):
            return
        after_s = self.retry_after_s
        raise RateLimited(
            f"This key has {held} predictions running or waiting; the places left are for others.",
            remedy=f"Try again in {after_s} s.",
            retry_after_s=after_s,
        )

    def _refusal(self, message: str) -> Overloaded:
        after_s = self.retry_after_s
        return Overloaded(message, remedy=f"Try again in {after_s} s.", retry_after_s=after_s)
