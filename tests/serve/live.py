"""A real server on a loopback port, in a thread with an event loop of its own, for real clients of any kind."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import httpx

from lavatube.predictions.limits import ServiceLimits
from lavatube.predictions.prediction import Prediction
from lavatube.predictions.service import PredictionService
from lavatube.serve.app import build_app
from lavatube.serve.auth import Keyring
from lavatube.serve.health import HealthView, Phase
from lavatube.serve.kept import Kept
from lavatube.serve.metrics import Metrics
from lavatube.serve.serving import Serving
from lavatube.serve.transport import Server, build_server
from lavatube.settings import Settings
from tests.predictions.fakes import EchoEngine, EchoPreparer

MODEL = "org/echo"


class LiveServer:
    """`serving`, `engine` and `view` may be changed by a test; they are read by the server's own thread."""

    def __init__(
        self,
        folder: Path,
        *,
        limits: ServiceLimits | None = None,
        is_ready: bool = True,
        send_buffer_bytes: int = 0,
        keyring: Keyring | None = None,
        kept: Kept | None = None,
        **settings: object,
    ) -> None:
        self.preparer = EchoPreparer(folder)
        self.engine = EchoEngine().knows(self.preparer)
        self.view = HealthView(Phase.READY, "echo", datetime.now(UTC), 0.0, ready_at=datetime.now(UTC), device="cpu")
        self.num_shutdowns = 0
        self.serving = Serving(health=lambda: self.view, shutdown=self._count_shutdown)
        self.metrics = Metrics(self.serving)
        self._limits = limits or ServiceLimits(max_running=8, max_waiting=56)
        self._is_ready = is_ready
        self._settings = Settings(model=MODEL, **settings)
        self._keyring = keyring or Keyring(self._settings.api_key)
        self.kept = kept
        self._socket = socket.create_server(("127.0.0.1", 0))
        if send_buffer_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.app = build_app(self.serving, self._settings, self._keyring, self.metrics, kept=kept)
        self._server: Server | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        if self._is_ready:
            self.make_ready()
        else:
            self.view = replace(self.view, phase=Phase.PROVISIONING, ready_at=None)
        self._server = build_server(self.app, host="127.0.0.1", port=0, on_signal=self._count_shutdown)
        await self._server.serve(sockets=[self._socket])
        if self.serving.service is not None:
            await self.serving.service.drain(0)

    def make_ready(self) -> None:
        self.serving.service = PredictionService(self.preparer, self.engine, self._limits, self._keyring.limits_of)
        self.serving.service.observers.append(self.metrics)
        self.view = replace(self.view, phase=Phase.READY)

    def predictions(self) -> list[Prediction]:
        """All that can be asked for."""
        assert self.serving.service is not None
        retention = self.serving.service._retention
        return [*retention._running.values(), *retention._finished.values()]

    def _count_shutdown(self) -> None:
        self.num_shutdowns += 1

    def __enter__(self) -> Self:
        self._thread.start()
        self.until(lambda: self._server is not None and self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive(), "the server hangs"

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, **options)

    def raw(self, data: bytes, *, timeout_s: float = 20.0, half_close: bool = False, num_answers: int = 1) -> bytes:
        """What the server answers to these bytes, until so many answers are whole or it closes; silence is an error."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            with suppress(ConnectionResetError):
                while _num_whole(answer) < num_answers and (piece := connection.recv(65536)):
                    answer += piece
            return answer

    @staticmethod
    def until(is_true: Callable[[], bool], timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_true():
            assert time.monotonic() < deadline, "it did not come to pass"
            time.sleep(0.005)


def _num_whole(answers: bytes) -> int:
    """Complete answers in it; one without Content-Length ends with its connection."""
    num = 0
    while True:
        head, separator, rest = answers.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if not separator or length is None or len(rest) < int(length[1]):
            return num
        num, answers = num + 1, rest[int(length[1]) :]
