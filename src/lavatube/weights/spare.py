"""What the processors of this machine have left, and how to take no more than that.

Where the system does not tell, nothing is left.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

_STAT: Final = Path("/proc/stat")
_NICE: Final = 15


class Spare:
    """Looks again and again; each look tells of the time since the last one."""

    def __init__(self) -> None:
        self._idle, self._total = _ticks()

    def share(self) -> float:
        """Of the time of all processors, the part that was idle; 0 for no time."""
        idle, total = _ticks()
        elapsed, self._total = total - self._total, total
        rested, self._idle = idle - self._idle, idle
        return rested / elapsed if elapsed > 0 else 0.0


def _ticks() -> tuple[int, int]:
    """Idle and all, so far."""
    try:
        with _STAT.open() as file:
            counts = [int(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return sum(counts[3:5]), sum(counts)


def yield_to_others() -> None:
    """From now on this thread runs when no other process wants the processor."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
