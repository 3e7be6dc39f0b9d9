"""What is looked at before any route: the size of the headers, and whom they address. For keys see auth.py."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from lavatube.errors import Forbidden, HeadersTooLarge, InvalidRequest
from lavatube.serve.auth import Keyring
from lavatube.serve.health import PROBE_PATHS
from lavatube.serve.origins import Origins

MAX_HEADERS: Final = 100
MAX_HEADER_BYTES: Final = 16 * 1024
_HAS_PORT: Final = re.compile(r":\d*$")


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


class HostCheck:
    """ASGI middleware for a server that asks for no key: it serves no web page of others, unless it is allowed to.

    Without it any page could reach a server on this machine, through a name of its own that it lets point here (DNS
    rebinding), so the name that a request is addressed to must be nobody else's. A page can't do that to an address or
    to a name without dots; but it can send forms there, of which browsers say that they come from another site.
    Source: CVE-2024-28224 (Ollama), CVE-2025-62593 (Ray).
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, origins: Origins, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._keyring = keyring
        self._origins = origins
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._keyring.is_asking and scope["path"] not in PROBE_PATHS:
            for name, value in scope["headers"]:
                if name == b"host" and not self._is_ours(value.decode("latin-1")):
                    raise Forbidden(
                        "The request is addressed to a name that is not this server's.",
                        param="host",
                        remedy="Use its address, or name it in the setting allowed_hosts.",
                    )
            if scope["method"] not in ("GET", "HEAD", "OPTIONS") and not self._origins.may_write(
                dict(scope["headers"])
            ):
                raise Forbidden(
                    "The request comes from a web page of another site.",
                    param="origin",
                    remedy="Name the page's origin in the setting allowed_origins.",
                )
        await self._app(scope, receive, send)

    def _is_ours(self, authority: str) -> bool:
        host = authority.lower().rpartition(":")[0] if _HAS_PORT.search(authority) else authority.lower()
        if "*" in self._hosts or host in self._hosts or "." not in host or host.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return True
