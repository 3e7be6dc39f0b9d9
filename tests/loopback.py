"""Real HTTP servers on loopback, with a log of what was asked; what they answer is for their handlers."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

BLOCK = 64 * 1024
WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class Request:
    """What a client asked for; `span` is None where it sent no Range."""

    scenario: str
    name: str
    span: tuple[int, int] | None
    headers: dict[str, str]


@dataclass
class Log:
    """What the server saw and sent, in order."""

    requests: list[Request] = field(default_factory=list)
    sent_bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def weights(self) -> list[Request]:
        return [request for request in self.requests if request.name.endswith(WEIGHTS)]


class Gone(Exception):
    """The connection was ended on purpose."""


class LoopbackServer:
    """A threaded server that is up inside a `with`; subclasses say which handler."""

    handler: type[BaseHTTPRequestHandler]

    def __init__(self, certificate: Path | None = None) -> None:
        self.log = Log()
        self.closing = threading.Event()
        self._scheme = "http" if certificate is None else "https"
        self._server = _Server(("127.0.0.1", 0), self.handler)
        self._server.owner = self
        if certificate is not None:
            self._server.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._server.context.load_cert_chain(certificate)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def root(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    owner: LoopbackServer
    context: ssl.SSLContext | None = None

    def finish_request(self, request: socket.socket, client_address: object) -> None:
        """In the connection's own thread, so that a slow handshake holds up nobody."""
        if self.context is None:
            self.RequestHandlerClass(request, client_address, self)
            return
        with self.context.wrap_socket(request, server_side=True) as secure:
            self.RequestHandlerClass(secure, client_address, self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections end in every way here; that is the point."""


class LoopbackHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.pour(body)

    def pour(self, body: bytes, pause_s: float = 0.0) -> None:
        for start in range(0, len(body), BLOCK):
            piece = body[start : start + BLOCK]
            self.wfile.write(piece)
            self.server.owner.log.sent_bytes += len(piece)
            if pause_s and self.server.owner.closing.wait(pause_s):
                raise Gone
