"""`/playground`: one page for people, that asks over the API like any other client. It loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PLAYGROUND_PATH: Final = "/playground"
_FILE: Final = Path(__file__).with_suffix(".html")


def playground_route() -> Route:
    """Open to everybody: the page holds nothing, and what it asks for needs a key where there is one."""
    return Route(PLAYGROUND_PATH, _show, methods=["GET"])


async def _show(request: Request) -> Response:
    page, headers = _page()
    return Response(page, headers=headers, media_type="text/html")


@cache
def _page() -> tuple[str, dict[str, str]]:
    """The page, and a policy under which nothing runs but its own script, in no other page's frame."""
    page = _FILE.read_text(encoding="utf-8")
    found = re.search(r"<script>(.*)</script>", page, re.DOTALL)
    assert found is not None
    digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, {"Content-Security-Policy": policy, "Cache-Control": "no-cache", "Referrer-Policy": "no-referrer"}
