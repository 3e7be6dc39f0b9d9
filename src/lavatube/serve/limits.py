"""What is looked at before any route: the size of the headers, and the key. Bodies have their limits in body.py."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from lavatube.errors import HeadersTooLarge, InvalidRequest, Unauthorized
from lavatube.serve.health import PROBE_PATHS

MAX_HEADERS: Final = 100
MAX_HEADER_BYTES: Final = 16 * 1024


class HeaderLimit:
    """ASGI middleware. The HTTP parser bounds what is incomplete; many small headers in one read are whole."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not scope["path"].startswith("/"):
                raise InvalidRequest("The target of the request is not a path.", remedy="Send one that begins with /.")
            headers = scope["headers"]
            size_bytes = sum(len(name) + len(value) for name, value in headers) + len(scope.get("raw_path", b""))
            if len(headers) > MAX_HEADERS or size_bytes + len(scope["query_string"]) > MAX_HEADER_BYTES:
                raise HeadersTooLarge(
                    f"The request has more than {MAX_HEADERS} headers or {MAX_HEADER_BYTES // 1024} KiB of them.",
                    remedy="Send fewer.",
                )
        await self._app(scope, receive, send)


class BearerKey:
    """ASGI middleware: without the key, the probes and nothing else, and those without details (`is_stranger`).

    Decided on the path that the router will match, never on a URL that was put together from headers.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._digest = sha256(key.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._has_key(scope):
            if scope["path"] not in PROBE_PATHS:
                raise Unauthorized(
                    "The key is missing or wrong.", param="authorization", remedy="Send Authorization: Bearer KEY."
                )
            scope.setdefault("state", {})["is_stranger"] = True
        await self._app(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        """Digests of bytes are compared: equal lengths, no text that could fail to compare, no early end."""
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(values) != 1:
            return False
        scheme, _, key = values[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(sha256(key.strip()).digest(), self._digest)
