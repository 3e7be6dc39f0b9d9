"""Where the server is, as its client sees it: for the URLs within answers."""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request

from lavatube.errors import InvalidRequest

_AUTHORITY: Final = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(:[0-9]{1,5})?", re.IGNORECASE)


def base_url(request: Request, public_url: str = "") -> str:
    """The operator's setting; else what the client itself says in Host. Without a slash at the end.

    Raises: InvalidRequest.
    """
    if public_url:
        return public_url.rstrip("/")
    authority = request.headers.get("host", "")
    if not _AUTHORITY.fullmatch(authority):
        raise InvalidRequest("Host is not a host.", param="host", remedy="Send the server's name or address.")
    return f"{request.url.scheme}://{authority}"
