"""Our front, everything real but the model: `python -m bench.paced_front PORT PERIOD_S FOLDER`.

At its end FOLDER has `tokens`, when the engine wrote which token, and `wire`, when it was given to the socket.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from lavatube.engine.client import EngineClient
from lavatube.engine.wire import Load
from lavatube.predictions.service import PredictionService, ServiceLimits
from lavatube.serve.app import build_app
from lavatube.serve.health import HealthView, Phase
from lavatube.serve.serving import Serving
from lavatube.serve.transport import BACKLOG, Connection, build_server
from lavatube.settings import Settings
from tests.predictions.fakes import EchoPreparer

MARK = b"event: output"
NAME = re.compile(rb'"id":"([a-z0-9]+)"')
wire: dict[str, list[float]] = {}


class Noted(Connection):
    """A connection whose output events are noted as they are written."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.moments: list[float] | None = None
        self.transport.write, self._write = self._noting, self.transport.write  # type: ignore[method-assign]

    def _noting(self, data: bytes) -> None:
        if self.moments is None and (found := NAME.search(data)):
            self.moments = wire.setdefault(found[1].decode(), [])
        if self.moments is not None:
            self.moments += [time.monotonic()] * data.count(MARK)
        self._write(data)


async def serve(port: int, period_s: str, results: Path, folder: Path) -> None:
    times = str(results / "tokens")
    command = [sys.executable, "-m", "bench.paced_worker", "--period-s", period_s, "--times", times]
    engine = EngineClient(command)
    await engine.start(Load("", "cpu", "auto", 1, 1, 0))
    await engine.wait_ready()
    view = HealthView(Phase.READY, "paced", datetime.now(UTC), 0.0, ready_at=datetime.now(UTC), device="cpu")
    stop = asyncio.Event()
    serving = Serving(health=lambda: view, shutdown=stop.set)
    serving.service = PredictionService(EchoPreparer(folder), engine, ServiceLimits(max_running=1024))
    loop = asyncio.get_running_loop()
    server = build_server(
        build_app(serving, Settings()),
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
    (results / "wire").write_text(json.dumps(wire))


def main() -> None:
    port, period_s, results = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(serve(int(port), period_s, Path(results), Path(folder)))


if __name__ == "__main__":
    main()
