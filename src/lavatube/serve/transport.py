"""The HTTP server: uvicorn on h11, with the patience and the limits that it lacks.

What is added to a connection: a deadline for the request's head, JSON for what can't be parsed, an end to the rest of a
body that was refused, an answer to a client that has closed its sending half, and an end to one that reads nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from http import HTTPStatus
from types import FrameType
from typing import Final

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import HANDLED_SIGNALS

from lavatube.errors import BodyTooLarge, HeadersTooLarge, InvalidRequest, LavatubeError, RequestTimeout
from lavatube.serve.boundary import new_request_id
from lavatube.serve.dialects import error_response
from lavatube.serve.limits import MAX_HEADER_BYTES
from lavatube.serve.sse import PIECES

logger = logging.getLogger(__name__)

HEAD_DEADLINE_S: Final = 10.0
IDLE_CONNECTION_S: Final = 75
REFUSED_BODY_S: Final = 5.0
HALF_CLOSED_S: Final = 0.1
STALLED_READER_S: Final = 60.0
LARGEST_CHUNK_BYTES: Final = 2**31
BACKLOG: Final = 2048
ACCEPTED_AT_ONCE: Final = 8
"""So many new clients are taken on in a round of the event loop: a crowd at the door does not hold up what streams."""
BEGINNING_BYTES: Final = 256
_TARGET: Final = re.compile(rb"[A-Z]+ (/[!-~]*)")


class Connection(H11Protocol):
    """One client's connection."""

    head_deadline_s = HEAD_DEADLINE_S
    stalled_reader_s = STALLED_READER_S
    _timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _begun = b""  # of a head that is not whole yet: who can't be understood is answered in their dialect all the same

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._app, self.app = self.app, self._run
        _send_at_once(transport)
        self._after(self.head_deadline_s, self._on_late_head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        self._cancel_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads more slowly than we write. What it is to read waits in the logs, but not for ever."""
        super().pause_writing()
        self._stall = self.loop.call_later(self.stalled_reader_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._cancel_stall()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE:
            self._begun = (self._begun + data[:BEGINNING_BYTES])[:BEGINNING_BYTES]
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._begun = b""
        if self.transport.is_closing():
            return
        if getattr(self.conn._reader, "_bytes_in_chunk", 0) > LARGEST_CHUNK_BYTES:
            self._refuse(BodyTooLarge("A chunk of the body is larger than any body may be.", remedy="Send less."))
            return
        if self.conn.their_state is h11.IDLE:
            if self._timer is None and data:
                self._after(self.head_deadline_s, self._on_late_head)
        elif self.conn.our_state is not h11.DONE:
            self._cancel_timer()

    def eof_received(self) -> bool:  # type: ignore[override]
        """A half-closed client may still read: what can be answered at once is, the rest stops as for one that left."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        self._after(HALF_CLOSED_S, self.transport.close)
        return True

    def on_response_complete(self) -> None:
        """The rest of a body that nobody wanted is read past, so that the answer arrives, but not for ever."""
        self._cancel_timer()
        if self.conn.their_state is h11.SEND_BODY:
            self._after(REFUSED_BODY_S, self.transport.abort)
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:  # the begin of a pipelined request
            self._after(self.head_deadline_s, self._on_late_head)

    def send_400_response(self, msg: str) -> None:
        """Called where h11 gave up on what came; only the error in flight knows whether it was the size."""
        error = sys.exception()
        if getattr(error, "error_status_hint", 400) == 431:
            self._refuse(
                HeadersTooLarge(
                    f"The head of the request is larger than {MAX_HEADER_BYTES // 1024} KiB.",
                    remedy="Send fewer headers.",
                )
            )
        else:
            self._refuse(InvalidRequest("This is not an HTTP request.", remedy="Send HTTP/1.1, as RFC 9112 says."))

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, with the shorter way for pieces where the protocol has them."""
        if scope["http_version"] == "1.1" and scope["method"] != "HEAD":
            scope["extensions"] = {**scope.get("extensions", {}), PIECES: self._write_piece}
        is_last = any(name == b"connection" and b"close" in value.lower() for name, value in scope["headers"])
        await self._app(scope, receive, self._reading_past(receive, send) if is_last else send)

    def _reading_past(self, receive: Receive, send: Send) -> Send:
        """Who wants the connection to end with the answer would get a reset, if the rest of the body were not read."""

        async def answer(message: Message) -> None:
            is_end = message["type"] == "http.response.body" and not message.get("more_body")
            if is_end and self.conn.their_state is h11.SEND_BODY and not self.conn.they_are_waiting_for_100_continue:
                await send({**message, "more_body": True})
                with suppress(TimeoutError):
                    async with asyncio.timeout(REFUSED_BODY_S):
                        while (await receive()).get("more_body"):
                            pass
                message = {**message, "body": b""}
            await send(message)

        return answer

    async def _write_piece(self, piece: bytes) -> None:
        """One chunk of a body without a length, as h11 would frame it, past all that has nothing to say about it.

        Source: RFC 9112, section 7.1.
        """
        if self.flow.write_paused:
            await self.flow.drain()
        if piece and not self.transport.is_closing():  # an empty chunk would be the end
            self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def _unsupported_upgrade_warning(self) -> None:
        """Who asks for another protocol is answered in this one, as RFC 9110 allows; uvicorn's advice is for us."""

    def _on_late_head(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._refuse(RequestTimeout("The head of the request did not arrive in time.", remedy="Send it faster."))

    def _refuse(self, error: LavatubeError) -> None:
        """Answer without the application, where the protocol still allows it, and hang up."""
        request_id = new_request_id()
        logger.info("connection refused: %s", error.code, extra={"request_id": request_id})
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = error_response(error, self._path(), request_id)
            head = h11.Response(
                status_code=response.status_code,
                headers=[*response.raw_headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")],
                reason=HTTPStatus(response.status_code).phrase,
            )
            for event in (head, h11.Data(bytes(response.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:  # what the application still says has no place any more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _path(self) -> str:
        """Of the request that is refused: as its head begins, or as it was parsed."""
        begun = _TARGET.match(self._begun)
        if begun is not None:
            return begun[1].decode("ascii")
        return self.scope["path"] if self.scope else "/"

    def _after(self, delay_s: float, act: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(delay_s, act)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def _send_at_once(transport: asyncio.Transport) -> None:
    """asyncio does this only for sockets whose protocol number was given; 40 ms an answer otherwise."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Server(uvicorn.Server):
    """uvicorn that does not end by itself: the first signal calls `on_signal`, the second ends at once.

    Whoever runs it drains the predictions and then sets `should_exit`.
    """

    def __init__(self, config: uvicorn.Config, on_signal: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_signal = on_signal
        self._has_signal = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """asyncio takes one number for how many clients may wait and how many are taken on at once; here are two."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)

    async def take(self, clients: Iterable[socket.socket]) -> None:
        """Clients that were let in before it began, as if they came now."""
        for client in clients:
            await asyncio.get_running_loop().connect_accepted_socket(self._connect, client)

    def _connect(self) -> Connection:
        return Connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """By the loop, which had somebody else take them before, and without a moment between the two."""
        if threading.current_thread() is threading.main_thread():
            for number in HANDLED_SIGNALS:
                asyncio.get_running_loop().add_signal_handler(number, self.handle_exit, number, None)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._has_signal:
            self.should_exit = self.force_exit = True
        self._has_signal = True
        self._on_signal()


def build_server(app: ASGIApp, *, host: str, port: int, on_signal: Callable[[], None], grace_s: float = 2.0) -> Server:
    """A server for the application. `grace_s`: for answers still being sent when it is told to exit."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=ACCEPTED_AT_ONCE,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=IDLE_CONNECTION_S,
        timeout_graceful_shutdown=max(1, round(grace_s)),
    )
    return Server(config, on_signal)
