"""The outermost ring: every request gets an id, every error an answer in the caller's dialect, every answer a log line.

Errors of ours that reach this ring are answered; anything else is a defect, logged with its stack, answered with 500.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lavatube.errors import InternalError, LavatubeError
from lavatube.serve.connection import ClientGone
from lavatube.serve.dialects import error_response
from lavatube.serve.health import PROBE_PATHS

logger = logging.getLogger(__name__)

request_id_var: ContextVar[str] = ContextVar("request_id", default="-")

# Of a request that is over: the path as its route declares it, the method, the status (0: none), the error's code.
OnAnswer = Callable[[str, str, int, str], None]
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})

_GOOD_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestId(logging.Filter):
    """Puts onto every line of the log the id of the request in whose course it was written; "-" outside of all."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__.setdefault("request_id", request_id_var.get())
        return True


class Boundary:
    """ASGI middleware around everything else. `on_answer` is told of every request when it is over."""

    def __init__(self, app: ASGIApp, on_answer: OnAnswer) -> None:
        self._app = app
        self._on_answer = on_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        token = request_id_var.set(exchange.request_id)
        try:
            await self._answer(exchange, receive)
        finally:
            exchange.log()
            self._on_answer(*exchange.facts)
            request_id_var.reset(token)

    async def _answer(self, exchange: _Exchange, receive: Receive) -> None:
        try:
            await self._app(exchange.scope, receive, exchange.send)
        except ClientGone:
            exchange.code = "client_gone"
        except LavatubeError as error:
            await exchange.refuse(error, receive)
        except Exception:
            logger.exception("a defect of the server")
            await exchange.refuse(InternalError("The server failed to answer; its log says why."), receive)


class _Exchange:
    """One request and what became of it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.request_id = _request_id(scope)
        self.code = "-"
        self._send = send
        self._status = 0
        self._started = time.monotonic()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
        await self._send(message)

    async def refuse(self, error: LavatubeError, receive: Receive) -> None:
        """Answer with an error. An answer that was begun is left without its end: it can't be taken for a whole one."""
        self.code = error.code
        if self._status:
            return
        await error_response(error, self.scope["path"], self.request_id)(self.scope, receive, self.send)

    @property
    def facts(self) -> tuple[str, str, int, str]:
        """What may be counted: nothing that a client can make up."""
        route: str = getattr(self.scope.get("route"), "path", "none")
        method = self.scope["method"] if self.scope["method"] in METHODS else "other"
        return route, method, self._status, "" if self.code == "-" else self.code

    def log(self) -> None:
        """The path as it came, percent-encoded: no control character can forge a line."""
        level = logging.DEBUG if self.scope["path"] in PROBE_PATHS else logging.INFO
        path = self.scope.get("raw_path", b"").decode("ascii", "backslashreplace")[:200]
        elapsed_ms = (time.monotonic() - self._started) * 1000
        method, status, ms = self.scope["method"], self._status or "-", round(elapsed_ms, 1)
        facts = {"method": method, "path": path, "status": self._status, "ms": ms, "code": self.code}
        logger.log(level, "%s %s %s %s ms %s", method, path, status, ms, self.code, extra={"facts": facts})


def _request_id(scope: Scope) -> str:
    """The client's own, where it is harmless; else one of ours."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _GOOD_ID.fullmatch(value):
            return str(value.decode())
    return new_request_id()


def new_request_id() -> str:
    return f"req_{secrets.token_hex(12)}"
