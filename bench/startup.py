"""Cold and warm start of a server with the embedded model: process start to first `/livez`, and to ready."""

from __future__ import annotations

import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ThreadPoolExecutor(1) as pool:
        alive_at = pool.submit(_wait_alive, f"http://127.0.0.1:{port}/livez")
        with Server("tiny", cache, "--port", str(port)) as server:
            listening = time.monotonic()
            server.wait_ready()
            ready = time.monotonic()
        moments = {"/livez": alive_at.result(), "all other answers": listening, "ready": ready}
        return {f"process start to {moment}": at_s - server.started_at for moment, at_s in moments.items()}


def _wait_alive(url: str) -> float:
    """When a probe that comes again and again is answered."""
    while True:
        with suppress(httpx.ConnectError):
            httpx.get(url, timeout=60).raise_for_status()
            return time.monotonic()
        time.sleep(0.01)
