"""What each owner of predictions may use, and has used: streams at once, requests and tokens a minute. Pure arithmetic.

An owner is the id of an API key; "" is everybody, where no key is asked for, and the operator.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lavatube.errors import MAX_RETRY_AFTER_S, RateLimited

OPERATOR: Final = ""
MINUTE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class OwnerLimits:
    """0 is no limit. `weight` and `priority` say how often it is this owner's turn where several wait."""

    max_streams: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    weight: int = 1
    priority: int = 0


NO_LIMITS: Final = OwnerLimits()


class Allowance:
    """Fills at a steady rate up to a minute's worth. What is taken afterwards may be a debt, to be waited off."""

    def __init__(self, per_minute: int, now_s: float) -> None:
        self._per_minute = per_minute
        self._left = float(per_minute)
        self._now_s = now_s

    def change(self, per_minute: int, now_s: float) -> None:
        """A new rate; what is left, or owed, stays."""
        self._fill(now_s)
        self._per_minute = per_minute
        self._left = min(self._left, float(per_minute))

    def wait_s(self, now_s: float) -> float:
        """Seconds until there is one."""
        self._fill(now_s)
        return max(0.0, 1.0 - self._left) * MINUTE_S / self._per_minute

    def take(self, amount: int, now_s: float) -> None:
        self._fill(now_s)
        self._left -= amount

    def _fill(self, now_s: float) -> None:
        self._left = min(self._per_minute, self._left + (now_s - self._now_s) * self._per_minute / MINUTE_S)
        self._now_s = now_s


class Owners:
    """Counts what each owner has in the line and takes in a minute. `limits_of` may give other limits at any time."""

    def __init__(self, limits_of: Callable[[str], OwnerLimits], clock: Callable[[], float]) -> None:
        self._limits_of = limits_of
        self._clock = clock
        self._num_inside: Counter[str] = Counter()
        self._allowances: dict[tuple[str, str], Allowance] = {}

    def limits(self, owner: str) -> OwnerLimits:
        return NO_LIMITS if owner == OPERATOR else self._limits_of(owner)

    def num_inside(self, owner: str) -> int:
        return self._num_inside[owner]

    def enter(self, owner: str) -> None:
        """Raises: RateLimited."""
        limits = self.limits(owner)
        if limits.max_streams and self._num_inside[owner] >= limits.max_streams:
            raise _refusal(f"This key has {limits.max_streams} predictions at once, as many as it may have.", 1.0)
        requests = self._allowance(owner, "requests", limits.requests_per_minute)
        tokens = self._allowance(owner, "tokens", limits.tokens_per_minute)
        now_s = self._clock()
        if requests and (wait_s := requests.wait_s(now_s)):
            raise _refusal(f"This key may make {limits.requests_per_minute:,} requests a minute.", wait_s)
        if tokens and (wait_s := tokens.wait_s(now_s)):
            raise _refusal(f"This key may use {limits.tokens_per_minute:,} tokens a minute.", wait_s)
        if requests:
            requests.take(1, now_s)
        self._num_inside[owner] += 1

    def readmit(self, owner: str) -> None:
        """What it has asked for before was counted then."""
        self._num_inside[owner] += 1

    def leave(self, owner: str, num_tokens: int) -> None:
        """A prediction is over and has read and written so many tokens."""
        self._num_inside[owner] -= 1
        if not self._num_inside[owner]:
            del self._num_inside[owner]
        tokens = self._allowance(owner, "tokens", self.limits(owner).tokens_per_minute)
        if tokens:
            tokens.take(num_tokens, self._clock())

    def _allowance(self, owner: str, what: str, per_minute: int) -> Allowance | None:
        """None where there is no limit. Kept for each owner that has one, so as many as there are keys."""
        if not per_minute:
            self._allowances.pop((owner, what), None)
            return None
        known = self._allowances.get((owner, what))
        if known is None:
            known = self._allowances[owner, what] = Allowance(per_minute, self._clock())
        known.change(per_minute, self._clock())
        return known


def _refusal(message: str, wait_s: float) -> RateLimited:
    after_s = max(1, min(MAX_RETRY_AFTER_S, math.ceil(wait_s)))
    return RateLimited(message, remedy=f"Try again in {after_s} s.", retry_after_s=after_s)
