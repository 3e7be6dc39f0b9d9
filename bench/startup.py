"""Cold and warm start of a server with the embedded model: process start to first `/livez`, and to ready."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import httpx

from bench.table import show
from tests.flow.server import Server

RUNS = 5


def main() -> None:
    """Print the table."""
    rows: dict[str, list[float]] = {}
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as folder:
            for state in ("empty cache", "full cache"):
                for figure, seconds in _start(Path(folder)).items():
                    rows.setdefault(f"{state}: {figure}", []).append(seconds)
    show("lavatube serve tiny (repeat: make bench, or python -m bench startup)", rows, "s")


def _start(cache: Path) -> dict[str, float]:
    with Server("tiny", cache) as server:
        httpx.get(f"{server.url}/livez").raise_for_status()
        alive = time.monotonic()
        server.wait_ready()
        ready = time.monotonic()
    return {"process start to /livez": alive - server.started_at, "process start to ready": ready - server.started_at}
