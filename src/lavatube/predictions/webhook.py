"""What a webhook is: an address, the events that it is told, and when it is told them. Values and arithmetic only."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import random
from typing import Final

INTERVAL_S: Final = 0.5
GROWTH: Final = 1.5
# When the next attempt is made after one that failed. Source: Standard Webhooks 1.0, "Deliverability and reliability".
RETRY_AFTER_S: Final = (5, 5 * 60, 30 * 60, *(hours * 3600 for hours in (2, 5, 10, 14, 20, 24)))
LONGEST_RETRY_AFTER_S: Final = 24 * 3600
JITTER: Final = 0.1
GONE: Final = 410


class HookEvent(StrEnum):
    """What a webhook may be told."""

    START = "start"
    OUTPUT = "output"
    LOGS = "logs"
    COMPLETED = "completed"


ALL_EVENTS: Final = frozenset(HookEvent)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where a prediction's news is sent, and which of it."""

    url: str
    events: frozenset[str] = ALL_EVENTS

    def wants(self, event: HookEvent) -> bool:
        return event in self.events


class Pace:
    """When a prediction that is being written may be sent: not twice within `interval_s`, and only what is half as long
    again as the last time. So a long answer costs three times its length, and not its square.
    """

    def __init__(self, interval_s: float = INTERVAL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._looked_s = float("-inf")
        self._sent_bytes = 0

    @property
    def wait_s(self) -> float:
        """Seconds until it is worth a look."""
        return max(self._looked_s + self._interval_s - self._clock(), 0.0)

    def is_worth(self, size_bytes: int) -> bool:
        """Whether there is enough news in a body of this size."""
        return size_bytes >= self._sent_bytes * GROWTH

    def looked(self, sent_bytes: int = 0) -> None:
        """`sent_bytes` is the size of the output that was sent, 0 for none."""
        self._looked_s = self._clock()
        self._sent_bytes = max(self._sent_bytes, sent_bytes)


class DeliveryState(StrEnum):
    """Where the telling of an end is. Only `pending` is tried again."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GONE = "gone"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt came to: a status, or None where there was no answer at all."""

    status: int | None
    retry_after_s: float = 0.0

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def after(outcome: Outcome, attempts: int, chance: Callable[[], float] = random) -> tuple[DeliveryState, float]:
    """What becomes of a delivery after so many attempts, and seconds until the next one. A redirect is a failure."""
    if outcome.is_success:
        return DeliveryState.DELIVERED, 0.0
    if outcome.status == GONE:
        return DeliveryState.GONE, 0.0
    if attempts > len(RETRY_AFTER_S):
        return DeliveryState.EXHAUSTED, 0.0
    wait_s = RETRY_AFTER_S[attempts - 1] * (1 + JITTER * chance())
    return DeliveryState.PENDING, max(wait_s, min(outcome.retry_after_s, LONGEST_RETRY_AFTER_S))
