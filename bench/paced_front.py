"""Our front, everything real but the model: `python -m bench.paced_front PORT PERIOD_S TIMES`."""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from lavatube.engine.client import EngineClient
from lavatube.engine.wire import Load
from lavatube.predictions.service import PredictionService, ServiceLimits
from lavatube.serve.app import build_app
from lavatube.serve.health import HealthView, Phase
from lavatube.serve.serving import Serving
from lavatube.serve.transport import BACKLOG, build_server
from lavatube.settings import Settings
from tests.predictions.fakes import EchoPreparer


async def serve(port: int, period_s: str, times: str, folder: Path) -> None:
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
    running = asyncio.create_task(server.serve([socket.create_server(("127.0.0.1", port), backlog=BACKLOG)]))
    await stop.wait()
    await serving.service.drain(0)
    server.should_exit = True
    await running
    await engine.stop()


def main() -> None:
    port, period_s, times = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(serve(int(port), period_s, times, Path(folder)))


if __name__ == "__main__":
    main()
