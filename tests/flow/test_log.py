"""The server's log: whose request a line belongs to, and what is not worth a warning."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

import httpx

from tests.flow.server import Server


def until_logged(server: Server, text: str) -> None:
    """Wait for a line with this text."""
    deadline = time.monotonic() + 20
    while not any(text in line for line in server.log):
        assert time.monotonic() < deadline, server.text
        time.sleep(0.02)


def test_every_line_in_the_course_of_a_request_has_its_id(tiny: Server) -> None:
    """Also what is logged by the threads that fetch its pictures, one after the other or side by side."""
    body = {"input": {"image": "http://127.0.0.1/cat.png", "prompt": "What?"}}
    response = httpx.post(f"{tiny.url}/predictions", json=body, headers={"X-Request-Id": "of-this-test"})
    assert response.json()["detail"][0]["code"] == "image_url_forbidden", response.text
    until_logged(tiny, " WARNING of-this-test refused to call 127.0.0.1")
    until_logged(tiny, " INFO of-this-test POST /predictions 422")
    pictures = [{"type": "image_url", "image_url": {"url": f"http://127.0.0.1/{name}.png"}} for name in "ab"]
    chat = {"model": "tiny", "messages": [{"role": "user", "content": [*pictures, {"type": "text", "text": "?"}]}]}
    httpx.post(f"{tiny.url}/v1/chat/completions", json=chat, headers={"X-Request-Id": "of-two"}, timeout=60)
    until_logged(tiny, " WARNING of-two refused to call 127.0.0.1")
    until_logged(tiny, " INFO - listening on")


def test_what_is_no_http_gets_a_line_and_no_warning(tiny: Server) -> None:
    with socket.create_connection((urlsplit(tiny.url).hostname, urlsplit(tiny.url).port), timeout=20) as connection:
        connection.sendall(b"\x16\x03\x01 this is no request\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    until_logged(tiny, " connection refused: invalid_request")
    assert "Invalid HTTP request" not in tiny.text
