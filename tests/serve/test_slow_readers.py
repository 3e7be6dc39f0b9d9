"""A reader that stops reading costs the server a bounded buffer, and gets every character when it goes on."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lavatube.predictions.log import MOST_AT_ONCE_BYTES
from tests.predictions.fakes import PNG
from tests.serve.live import LiveServer
from tests.serve.responses import ask

PROMPT = "The quick brown fox jumps. "
NUM_TOKENS = 4000
WANTED = (PROMPT * NUM_TOKENS)[:NUM_TOKENS]
BUFFER_BYTES = 64 * 1024 + MOST_AT_ONCE_BYTES
"""asyncio's high-water mark, and the piece that passes it."""


def cog_body(num_tokens: int) -> dict[str, object]:
    return {"input": {"image": PNG, "prompt": PROMPT, "max_tokens": num_tokens}}


def chat_body(num_tokens: int) -> dict[str, object]:
    message = {"role": "user", "content": PROMPT}
    return {"model": "echo", "messages": [message], "max_tokens": num_tokens, "stream": True}


def response_body(num_tokens: int) -> dict[str, object]:
    return {"model": "echo", "input": ask(PROMPT), "max_output_tokens": num_tokens, "stream": True}


def data_of(stream: bytes) -> list[dict]:
    """The JSON of every event; all of a stream whose last chunk has come."""
    head, _, rest = stream.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    lines = (line.removeprefix("data: ") for line in body.decode().split("\n") if line.startswith("data: {"))
    return [json.loads(line) for line in lines]


def cog_text(event: dict) -> str:
    return event.get("chunk", "")


def chat_text(event: dict) -> str:
    return "".join(choice["delta"].get("content", "") for choice in event["choices"])


def response_text(event: dict) -> str:
    return event["delta"] if event["type"].endswith("text.delta") else ""


VIEWS = [
    pytest.param("/predictions", cog_body, cog_text, id="cog"),
    pytest.param("/v1/chat/completions", chat_body, chat_text, id="chat"),
    pytest.param("/v1/responses", response_body, response_text, id="responses"),
]


def begin(server: LiveServer, path: str, body: dict[str, object]) -> socket.socket:
    """A stream that was asked for by a client with a small buffer, of which nothing was read yet."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nConnection: close\r\n"
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.settimeout(60)
    line.connect(("127.0.0.1", server.port))
    line.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    return line


def rest_of(line: socket.socket) -> bytes:
    read = b""
    while data := line.recv(1 << 16):
        read += data
    return read


def buffered_bytes(server: LiveServer) -> int:
    """What waits in the server to be taken by sockets."""
    assert server._server is not None
    return sum(one.transport.get_write_buffer_size() for one in server._server.server_state.connections)


@pytest.mark.parametrize(("path", "body", "text_of"), VIEWS)
def test_who_reads_after_all_is_written_gets_every_character(
    tmp_path: Path, path: str, body: Callable[[int], dict], text_of: Callable[[dict], str]
) -> None:
    with LiveServer(tmp_path, send_buffer_bytes=4096) as server, begin(server, path, body(NUM_TOKENS)) as line:
        server.until(lambda: server.engine.num_tokens == NUM_TOKENS, timeout_s=60)
        server.until(lambda: not server.engine.running, timeout_s=60)
        assert 0 < buffered_bytes(server) < BUFFER_BYTES
        events = data_of(rest_of(line))
    assert "".join(map(text_of, events)) == WANTED
    assert len(events) < NUM_TOKENS, "who is behind gets larger pieces"


@pytest.mark.slow
@pytest.mark.parametrize(("path", "body", "text_of"), VIEWS)
def test_who_sleeps_for_half_a_minute_gets_every_character(
    tmp_path: Path, path: str, body: Callable[[int], dict], text_of: Callable[[dict], str]
) -> None:
    """Its buffers are full long before."""
    with LiveServer(tmp_path, send_buffer_bytes=4096) as server, begin(server, path, body(NUM_TOKENS)) as line:
        server.engine.token_s = 0.002
        time.sleep(30)
        assert 0 < buffered_bytes(server) < BUFFER_BYTES
        events = data_of(rest_of(line))
    assert "".join(map(text_of, events)) == WANTED


def test_a_stream_to_an_old_client_has_no_chunks(shared: LiveServer) -> None:
    """HTTP/1.0 knows none: the end of the connection is the end of the body."""
    body = json.dumps(cog_body(12)).encode()
    head = f"POST /predictions HTTP/1.0\r\nHost: x\r\nAccept: text/event-stream\r\nContent-Length: {len(body)}\r\n"
    answer = shared.raw(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    head_of_answer, _, stream = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head_of_answer.lower()
    assert stream.startswith(b"event: start\n")
    assert "".join(re.findall(r'"chunk":"([^"]*)"', stream.decode())) == PROMPT[:12]
