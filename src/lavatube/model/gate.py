"""How far a forward pass may go where weights are still to come: one thread puts them in place, another computes.

Every stage of the model waits for its own weights; the last norm waits until all is said to be right, so that nothing
is ever sampled from weights that nobody has vouched for.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

VERIFIED: Final = "verified"
"""The stage of the last norm, and of all that comes after it."""


class Gate:
    """Shut in the beginning, open for good in the end; in between it lets pass what can be computed."""

    def __init__(
        self,
        sizes: Mapping[str, int],
        on_pass: Callable[[str, float, float], None] = lambda stage, came_s, passed_s: None,
    ) -> None:
        """`sizes` names the weights in the order in which they will come, with their bytes.

        `on_pass` hears when a stage was come to, and when it was let in.
        """
        self.num_waits = 0
        """Grows while somebody waits: whoever looks for a hang sees that it only waits."""
        self._on_pass = on_pass
        self._arrived_bytes: float = 0
        self._changed = threading.Condition()
        self._needed_bytes = cache(lambda stage: _needed_bytes(stage, sizes))

    @property
    def is_open(self) -> bool:
        """Whether everything is in place, and right."""
        return self._arrived_bytes == math.inf

    def advance(self, arrived_bytes: float) -> None:
        """So many bytes of weights are in place."""
        with self._changed:
            self._arrived_bytes = arrived_bytes
            self._changed.notify_all()

    def open(self) -> None:
        """Everything is in place, and right."""
        self.advance(math.inf)

    def lets(self, stage: str) -> bool:
        """Whether a stage, by the path of its module, may run."""
        return self._arrived_bytes >= self._needed_bytes(stage)

    def tell(self, stage: str, came_s: float) -> None:
        """Somebody came to a stage then, and is let in now."""
        self._on_pass(stage, came_s, time.monotonic())

    def wait(self, stage: str, timeout_s: float) -> None:
        """For a stage, and not for long: there is more to watch."""
        self.num_waits += 1
        with self._changed:
            self._changed.wait_for(lambda: self.lets(stage), timeout_s)


def _needed_bytes(stage: str, sizes: Mapping[str, int]) -> float:
    """Bytes up to the last weight of a stage."""
    if stage == VERIFIED:
        return math.inf
    sum_bytes = needed_bytes = 0
    for name, size_bytes in sizes.items():
        sum_bytes += size_bytes
        if name.startswith(f"{stage}."):
            needed_bytes = sum_bytes
    return needed_bytes
