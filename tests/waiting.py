"""A client that has sent its request and waits for the answer, until the test lets it hang up."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


@contextmanager
def waiting_client(url: str, body: object) -> Iterator[None]:
    """POST the body, and close the connection at the end of the block without having read a byte."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    try:
        connection.request("POST", parts.path, json.dumps(body), {"Content-Type": "application/json"})
        yield
    finally:
        connection.close()
