"""Which web pages may call from a browser: the setting `allowed_origins` → CORS headers, and the check of who writes.

A browser sends a page's plain forms anywhere without asking. A server without keys therefore looks at what the browser
says of the page, so that no page that somebody happens to open can upload to a server on their machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from lavatube.errors import InvalidSetting

METHODS: Final = ("GET", "POST", "PUT", "DELETE")
READ_BY_PAGES: Final = ("X-Request-ID", "Retry-After", "X-Should-Retry", "Preference-Applied")
ASK_AGAIN_S: Final = 600
_ORIGIN: Final = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s,?#]+")


class Origins:
    """Those of the setting. Raises: InvalidSetting."""

    def __init__(self, text: str) -> None:
        self._allowed = [origin.strip() for origin in text.split(",") if origin.strip()]
        for origin in self._allowed:
            if not _ORIGIN.fullmatch(origin):
                raise InvalidSetting(
                    f"allowed_origins: {origin!r} is no origin.",
                    remedy="An origin is a scheme and a host, if need be with a port, such as https://app.example.com.",
                )

    def middleware(self) -> list[Middleware]:
        """Around everything else, so that a page can read errors, too. Keys come in a header: no cookies are asked."""
        if not self._allowed:
            return []
        return [
            Middleware(
                CORSMiddleware,
                allow_origins=self._allowed,
                allow_methods=METHODS,
                allow_headers=("*",),
                expose_headers=READ_BY_PAGES,
                allow_private_network=True,
                max_age=ASK_AGAIN_S,
            )
        ]

    def may_write(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request that changes something comes from no web page, from one of our own or an allowed one."""
        if headers.get(b"sec-fetch-site") != b"cross-site":
            return True
        return "*" in self._allowed or headers.get(b"origin", b"").decode("latin-1") in self._allowed
