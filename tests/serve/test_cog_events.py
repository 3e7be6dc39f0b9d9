"""Streams of the Cog API: their events, their readers, and where one goes on."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import httpx
import pytest

from tests.serve.cog import SSE, body, chunks, events, stream
from tests.serve.live import LiveServer


def test_events_come_one_by_one_each_with_an_id(server: LiveServer, client: httpx.Client) -> None:
    server.engine.token_s = 0.02
    arrivals = []
    seen = []
    with client.stream("POST", "/predictions", json=body(), headers=SSE) as response:
        for event in events(response.iter_lines()):
            seen.append(event)
            arrivals.append(time.monotonic())
    names = [name for name, _, _ in seen]
    assert names == ["start", *["output"] * (len(seen) - 2), "completed"]
    assert [seen[0][1], seen[-1][1]] == [1, 14]
    assert chunks(seen) == "hello hello "
    for place, (_, event_id, data) in enumerate(seen[1:-1], 2):
        assert data["index"] == seen[place - 2][1] - 1, "the place of the first, behind the last that was seen"
        assert event_id == data["index"] + len(data["chunk"]) + 1, "the id of the last"
    assert seen[0][2]["status"] == "processing"
    assert seen[-1][2]["status"] == "succeeded"
    assert arrivals[-1] - arrivals[1] > 0.1, "they came at once"


def test_line_separators_do_not_break_a_line(shared_client: httpx.Client) -> None:
    text = "a\u2028b\u0085c\rd\ne"
    seen = stream(shared_client, "POST", "/predictions", json=body(text, max_tokens=len(text.encode())), headers=SSE)
    assert "".join(data["chunk"] for name, _, data in seen if name == "output") == text


def test_a_stream_of_async_work_outlives_its_reader_and_is_taken_up_again(
    server: LiveServer, client: httpx.Client
) -> None:
    server.engine.token_s = 0.02
    with client.stream("PUT", "/predictions/mine", json=body(), headers=SSE | {"prefer": "respond-async"}) as response:
        assert response.headers["preference-applied"] == "respond-async"
        _, last_id, _ = next(events(response.iter_lines()))
    time.sleep(0.05)
    rest = stream(client, "PUT", "/predictions/mine", json=body(), headers=SSE | {"last-event-id": str(last_id)})
    assert rest[0][1] > last_id
    assert chunks(rest) == "hello hello "[last_id - 1 :]
    assert rest[-1][2]["status"] == "succeeded"


def test_a_position_past_the_end_of_a_running_one_still_gets_its_end(server: LiveServer, client: httpx.Client) -> None:
    server.engine.token_s = 0.02
    client.put("/predictions/mine", json=body(), headers={"prefer": "respond-async"})
    seen = stream(client, "GET", "/predictions/mine/stream", headers={"last-event-id": "900"})
    assert [(name, data["status"]) for name, _, data in seen] == [("completed", "succeeded")]


def test_a_bad_position_is_refused_before_anything_runs(server: LiveServer, client: httpx.Client) -> None:
    refused = client.post("/predictions", json=body(), headers=SSE | {"last-event-id": "x"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "last-event-id")
    assert server.preparer.num_prepared == 0


def test_the_last_reader_of_a_stream_stops_it(server: LiveServer, client: httpx.Client) -> None:
    server.engine.token_s = 0.01
    with client.stream("PUT", "/predictions/mine", json=body(max_tokens=2000), headers=SSE) as creator:
        created_lines = creator.iter_lines()
        next(created_lines)
        with server.client() as other, other.stream("GET", "/predictions/mine/stream") as reader:
            lines = reader.iter_lines()
            next(lines)
            creator.close()
            time.sleep(0.2)
            assert client.get("/predictions/mine").json()["status"] == "processing"
    server.until(lambda: client.get("/predictions/mine").json()["status"] == "canceled")


def test_a_slow_reader_loses_nothing(shared_client: httpx.Client) -> None:
    text = "x" * 500
    with shared_client.stream("POST", "/predictions", json=body(text, max_tokens=4000), headers=SSE) as response:
        time.sleep(0.5)
        seen = list(events(response.iter_lines()))
    assert chunks(seen) == "x" * 4000
    assert seen[-1][1] == 4002


def test_a_reader_that_stopped_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavatube.serve.transport.Connection.stalled_reader_s", 0.3)
    text = json.dumps(body("x" * 500, max_tokens=4000)).encode()
    head = f"POST /predictions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
    with LiveServer(tmp_path, send_buffer_bytes=4096) as server, socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", server.port))
        server.engine.token_s = 0.0005
        stalled.sendall(head.encode() + b"Accept: text/event-stream\r\n\r\n" + text)
        server.until(lambda: len(server.engine.aborted) == 1)
