"""What happened when, written down by several processes into one file that chrome://tracing and Perfetto open.

Source: the Trace Event Format's JSON array, whose closing bracket may be missing; times are of the one monotonic clock.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Final

_MICRO: Final = 1e6


class Trace:
    """Appends whole lines, so that processes do not cut into each other's; with no path it does nothing."""

    def __init__(self, path: str = "") -> None:
        """Raises: OSError, if the file can't be written."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644) if path else -1

    def begin(self) -> None:
        """Empty the file: what is in it is of an earlier start. This one's time begins now."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, b"[\n")
            self.moment("start", "start", time.monotonic())

    def span(self, kind: str, name: str, begun_s: float, ended_s: float) -> None:
        """Something that took its time; both are of `time.monotonic`."""
        self._write({"ph": "X", "cat": kind, "name": name, "ts": begun_s * _MICRO, "dur": (ended_s - begun_s) * _MICRO})

    def moment(self, kind: str, name: str, at_s: float) -> None:
        self._write({"ph": "i", "s": "g", "cat": kind, "name": name, "ts": at_s * _MICRO})

    def _write(self, event: dict[str, object]) -> None:
        if self._descriptor >= 0:
            event |= {"pid": os.getpid(), "tid": threading.get_native_id()}
            os.write(self._descriptor, json.dumps(event).encode() + b",\n")
