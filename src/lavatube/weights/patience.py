"""When to try again and when to give up: a failure that may pass, and the count of tries that brought nothing."""

from __future__ import annotations

import threading

from lavatube.errors import SourceUnavailable
from lavatube.weights.options import Policy


class Transient(Exception):
    """A source failed in a way that another try may mend; never leaves `weights`."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Crowded(Transient):
    """The source gives, but not to so many at once."""


class Patience:
    """Counts tries in a row without progress; waits between them; ends in an error that names what was wanted."""

    def __init__(self, what: str, policy: Policy, stop: threading.Event | None = None) -> None:
        self._what = what
        self._policy = policy
        self._stop = stop or threading.Event()
        self._tries = 0

    def renew(self) -> None:
        """A try brought something: the count begins anew."""
        self._tries = 0

    def fail(self, error: Transient) -> None:
        """Count a try that failed, then wait.

        Raises: SourceUnavailable when it was the last.
        """
        self._tries += 1
        if self._tries >= self._policy.max_tries:
            raise SourceUnavailable(
                f"{self._what}: {error}, {self._tries} times in a row without progress.",
                remedy="Check the network and the source, then start again: what was fetched is kept.",
            ) from error
        self._stop.wait(self._delay_s(error))

    def _delay_s(self, error: Transient) -> float:
        backoff = self._policy.backoff_s * 2.0 ** (self._tries - 1)
        import random  # most fetches never wait

        # Spread out, so that the connections of a fleet don't come back in step.
        delay = backoff * random.uniform(0.75, 1.25)  # noqa: S311
        return min(max(delay, error.retry_after_s or 0.0), self._policy.max_wait_s)


def check_rate(policy: Policy, received_bytes: int, elapsed_s: float) -> None:
    """Raises: Transient for what comes, but would take for ever."""
    if elapsed_s > policy.read_timeout_s and received_bytes < elapsed_s * policy.min_rate_bytes_s:
        raise Transient(f"slower than {policy.min_rate_bytes_s} bytes a second")


def parse_retry_after(text: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for, as a number or as a date; None if it says nothing usable."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text.strip()[:9])
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
