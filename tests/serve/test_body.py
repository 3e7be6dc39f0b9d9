"""A body is read where reading it holds up nobody else."""

from __future__ import annotations

import json
import threading
import time

import httpx
import pytest
from starlette.requests import Request
from starlette.types import Message

from lavatube.errors import InvalidInput
from lavatube.serve.body import ON_THE_LOOP_BYTES, BodyReader
from tests.serve.live import LiveServer

PART = {"type": "text", "text": "a"}


def request_of(body: bytes) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


@pytest.mark.parametrize(("size_bytes", "is_on_the_loop"), [(100, True), (ON_THE_LOOP_BYTES, False)])
async def test_large_bodies_are_parsed_and_checked_in_a_thread(size_bytes: int, is_on_the_loop: bool) -> None:
    threads: list[int] = []

    def parse(body: dict[str, object]) -> int:
        threads.append(threading.get_ident())
        return len(body)

    body = json.dumps({"a": "x" * size_bytes}).encode()
    reader = BodyReader(max_bytes=1 << 20)
    assert await reader.read(request_of(body), parse) == 1
    assert (threads == [threading.get_ident()]) is is_on_the_loop
    assert reader.held_bytes == 0


@pytest.mark.parametrize("padding", [b"", b" " * ON_THE_LOOP_BYTES])
async def test_what_is_no_object_and_what_the_route_refuses_is_raised(padding: bytes) -> None:
    def refuse(body: dict[str, object]) -> None:
        raise InvalidInput("No.", param="a", remedy="Do not.")

    reader = BodyReader(max_bytes=1 << 20)
    with pytest.raises(InvalidInput, match="object"):
        await reader.read(request_of(b"[]" + padding), refuse)
    with pytest.raises(InvalidInput) as refusal:
        await reader.read(request_of(b"{}" + padding), refuse)
    assert refusal.value.param == "a"
    assert reader.held_bytes == 0


@pytest.mark.slow  # it looks at a clock: not for a machine that does something else
@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"0," * 1_500_000 + b"0]",
        b"[" + b"[]," * 5_000_000 + b"[]]",
        json.dumps([{"role": "user", "content": [PART] * 40}] * 400).encode(),
        b'[{"role":"user","content":"' + b'\\":' * 9_000_000 + b'"}]',
    ],
    ids=["numbers", "lists", "parts", "keys in a text"],
)
def test_the_probes_answer_while_dense_bodies_are_read(server: LiveServer, text: bytes) -> None:
    body = b'{"model":"echo","messages":' + text + b"}"
    is_done = threading.Event()
    latencies: list[float] = []

    def probe() -> None:
        with server.client() as client:
            while not is_done.is_set():
                started = time.monotonic()
                client.get("/livez")
                latencies.append(time.monotonic() - started)

    prober = threading.Thread(target=probe)
    prober.start()
    LiveServer.until(lambda: bool(latencies))
    httpx.post(f"{server.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    is_done.set()
    prober.join()
    assert max(latencies) < 0.4, "0.1 s on a machine that has nothing else to do"
