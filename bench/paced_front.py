"""Our front, everything real but the model: `python -m bench.paced_front PORT PERIOD_S FOLDER`.

At its end FOLDER has `tokens`, when the engine wrote which token, and `wire`, when it was given to the socket.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.paced_text import num_tokens
from lavatube.engine.client import EngineClient
from lavatube.engine.wire import Load
from lavatube.predictions.limits import ServiceLimits
from lavatube.predictions.service import PredictionService
from lavatube.serve.app import build_app
from lavatube.serve.health import HealthView, Phase
from lavatube.serve.metrics import Metrics
from lavatube.serve.serving import Serving
from lavatube.serve.transport import BACKLOG, Connection, build_server
from lavatube.settings import Settings
from tests.predictions.fakes import EchoPreparer

NAME = re.compile(rb'"id":"([a-z0-9]+)"')
written: list[list[tuple[float, bytes]]] = []


class Noted(Connection):
    """A connection of which is noted what is written when; to be read when all is over."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.noted: list[tuple[float, bytes]] = []
        written.append(self.noted)
        self.transport.write, self._write = self._noting, self.transport.write  # type: ignore[method-assign]

    def _noting(self, data: bytes) -> None:
        self.noted.append((time.monotonic(), data))
        self._write(data)


def wire() -> dict[str, list[float]]:
    """The moments at which the tokens of each prediction were written, each of them one character."""
    moments = {}
    for noted in written:
        if found := NAME.search(b"".join(data for _, data in noted)):
            moments[found[1].decode()] = [moment for moment, data in noted for _ in range(num_tokens(data))]
    return moments


async def serve(port: int, period_s: str, results: Path, folder: Path) -> None:
    times = str(results / "tokens")
    command = [sys.executable, "-m", "bench.paced_worker", "--period-s", period_s, "--times", times]
    engine = EngineClient(command)
    await engine.start(Load("", "cpu", "auto", 1, 1, 0))
    await engine.wait_ready()
    gc.freeze()  # as boot.py does
    view = HealthView(Phase.READY, "paced", datetime.now(UTC), 0.0, ready_at=datetime.now(UTC), device="cpu")
    stop = asyncio.Event()
    serving = Serving(health=lambda: view, shutdown=stop.set)
    serving.service = PredictionService(EchoPreparer(folder), engine, ServiceLimits(max_running=1024))
    metrics = Metrics(serving)
    serving.service.observers.append(metrics)
    loop = asyncio.get_running_loop()
    server = build_server(
        build_app(serving, Settings(), metrics=metrics),
        host="127.0.0.1",
        port=port,
        on_signal=lambda: loop.call_soon_threadsafe(stop.set),
    )
    server.config.http = Noted
    running = asyncio.create_task(server.serve([socket.create_server(("127.0.0.1", port), backlog=BACKLOG)]))
    await stop.wait()
    await serving.service.drain(0)
    server.should_exit = True
    await running
    await engine.stop()
    (results / "wire").write_text(json.dumps(wire()))


def main() -> None:
    port, period_s, results = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(serve(int(port), period_s, Path(results), Path(folder)))


if __name__ == "__main__":
    main()
