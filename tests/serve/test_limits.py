"""Hostile bytes on a real socket: sizes, slowness, half-open connections, keys; and the invariants of every answer."""

from __future__ import annotations

import json
import logging
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lavatube.serve.body import MIB, BodyReader
from lavatube.serve.limits import MAX_HEADER_BYTES
from lavatube.serve.transport import Connection
from tests.predictions.fakes import DEFECT, PNG
from tests.serve.live import LiveServer

KEY = "a-key-of-the-operator"
GOOD = {"input": {"image": PNG, "prompt": "hello", "max_tokens": 5}}
LEAKS = re.compile(r"0x[0-9a-f]{6,}|Traceback|site-packages|/tmp/|/home/|<_io\.|File \"")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("shared"), max_body_mib=1) as server:
        yield server


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("keyed"), api_key=KEY) as server:
        yield server


def parse(answer: bytes) -> tuple[int, dict[str, str], object]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    size_bytes = int(headers.get("content-length", len(body)))
    return int(first.split()[1]), headers, json.loads(body[:size_bytes]) if size_bytes else None


def code(answer: object) -> str:
    assert isinstance(answer, dict)
    assert LEAKS.search(json.dumps(answer)) is None
    error = answer["error"]
    if isinstance(error, dict):
        assert error.get("remedy", "OpenAI's has none")
    return error["code"] if isinstance(error, dict) else answer["code"]


def request(method: str, path: str, body: bytes = b"", *lines: str) -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *lines]
    if body and not any(line.lower().startswith("content-length") for line in lines):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


JSON_TYPE = "Content-Type: application/json"


@pytest.mark.parametrize(
    ("data", "status", "wanted"),
    [
        (request("GET", "/nope"), 404, "not_found"),
        (request("GET", "/predictions/"), 404, "not_found"),
        (request("GET", "/predictions/%00"), 404, "not_found"),
        (request("GET", "/predictions/%ff%fe"), 404, "not_found"),
        (request("GET", "/predictions"), 405, "method_not_allowed"),
        (request("DELETE", "/predictions/x"), 405, "method_not_allowed"),
        (request("OPTIONS", "/predictions"), 405, "method_not_allowed"),
        (request("GET", "/v1/chat/completions"), 405, "method_not_allowed"),
        (request("GET", "/v1/nothing"), 404, "not_found"),
        (request("GET", "/livez", b"", *["X-A: a"] * 10_000), 431, "headers_too_large"),
        (request("GET", "/livez", b"", "X-A: " + "a" * 20_000), 431, "headers_too_large"),
        (request("GET", "/livez?" + "a" * 20_000), 431, "headers_too_large"),
        (request("POST", "/predictions", b"{}"), 415, "unsupported_media_type"),
        (request("POST", "/predictions", b"{}", "Content-Type: text/plain"), 415, "unsupported_media_type"),
        (request("POST", "/predictions", b"{}", JSON_TYPE + "; charset=utf-16"), 415, "unsupported_media_type"),
        (
            request("POST", "/predictions", b"{}", JSON_TYPE, "Content-Encoding: gzip"),
            415,
            "unsupported_content_encoding",
        ),
        (
            request("POST", "/predictions", b"", JSON_TYPE, "Content-Length: 99999999999999"),
            413,
            "body_too_large",
        ),
        (request("POST", "/predictions", b"", JSON_TYPE, "Content-Length: -1"), 400, "invalid_request"),
        (request("POST", "/predictions", b"", JSON_TYPE), 400, "invalid_json"),
        (request("POST", "/predictions", b"[]", JSON_TYPE), 422, "invalid_input"),
        (request("POST", "/predictions", b"{'input': 1}", JSON_TYPE), 400, "invalid_json"),
        (request("POST", "/predictions", b'{"input": {"seed": NaN}}', JSON_TYPE), 400, "invalid_json"),
        (request("POST", "/v1/chat/completions", b"{", JSON_TYPE), 400, "invalid_json"),
        (request("POST", "/v1/chat/completions", b"null", JSON_TYPE), 400, "invalid_input"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "invalid_request"),
        (
            b"POST /predictions HTTP/1.1\r\nHost: x\r\n"
            + JSON_TYPE.encode()
            + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"FFFFFFFFFFFFFFFFFFFFF\r\nA",
            400,
            "invalid_request",
        ),
    ],
)
def test_each_gets_its_answer_in_json(
    shared: LiveServer, http: httpx.Client, data: bytes, status: int, wanted: str
) -> None:
    got, headers, answer = parse(shared.raw(data))
    assert (got, code(answer)) == (status, wanted)
    assert headers["content-type"] == "application/json"
    assert http.post(f"{shared.url}/predictions", json=GOOD).status_code == 200


def test_who_closes_after_the_answer_gets_it(shared: LiveServer) -> None:
    """And no reset: urllib asks for the connection's end, and sends all before it reads."""
    asked = urllib.request.Request(
        f"{shared.url}/v1/chat/completions", b"x" * (40 << 20), {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=30)
    with refused.value as answer:
        assert (answer.code, json.load(answer)["error"]["code"]) == (413, "body_too_large")


def test_a_body_is_counted_whatever_it_announces(shared: LiveServer) -> None:
    large = json.dumps(GOOD | {"id": "x" * (2 << 20)}).encode()
    assert parse(shared.raw(request("POST", "/predictions", large, JSON_TYPE)))[0] == 413
    chunks = b"".join(b"10000\r\n" + b" " * 0x10000 + b"\r\n" for _ in range(40)) + b"0\r\n\r\n"
    chunked = request("POST", "/predictions", b"", JSON_TYPE, "Transfer-Encoding: chunked") + chunks
    status, _, answer = parse(shared.raw(chunked))
    assert (status, code(answer)) == (413, "body_too_large")


def test_many_tiny_chunks_are_a_body_like_any_other(shared: LiveServer) -> None:
    text = json.dumps(GOOD).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in text) + b"0\r\n\r\n"
    status, _, answer = parse(
        shared.raw(request("POST", "/predictions", b"", JSON_TYPE, "Transfer-Encoding: chunked") + chunks)
    )
    assert status == 200
    assert isinstance(answer, dict)
    assert answer["output"] == list("hello")


def test_what_is_no_request_has_an_id_all_the_same(shared: LiveServer) -> None:
    _, headers, answer = parse(shared.raw(b"\x16\x03\x01\x02\x00\x01\x00"))
    assert isinstance(answer, dict)
    assert re.fullmatch(r"req_[0-9a-f]{24}", answer["error"]["request_id"])
    assert headers["x-request-id"] == answer["error"]["request_id"]


def test_an_upgrade_is_answered_without_advice_in_the_log(shared: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = ["Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA=="]
    assert parse(shared.raw(request("GET", "/livez", b"", *upgrade)))[0] == 200
    assert "uvicorn[standard]" not in caplog.text
    assert "upgrade" not in caplog.text


def test_an_endless_head_is_cut_off(shared: LiveServer) -> None:
    status, _, answer = parse(shared.raw(b"GET /livez HTTP/1.1\r\nX-A: " + b"a" * (20 * MAX_HEADER_BYTES)))
    assert (status, code(answer)) == (431, "headers_too_large")


def test_a_slow_head_has_a_deadline(shared: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "head_deadline_s", 0.3)
    started = time.monotonic()
    status, _, answer = parse(shared.raw(b"GET /livez HT"))
    assert (status, code(answer)) == (408, "request_timeout")
    assert time.monotonic() - started > 0.2
    kept = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    answers = shared.raw(kept + kept + b"GET /liv", num_answers=3)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"200", b"408"]


def test_a_slow_body_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavatube.serve.app.BodyReader", lambda max_bytes: BodyReader(max_bytes, patience_s=0.3))
    with LiveServer(tmp_path) as server:
        status, _, answer = parse(
            server.raw(request("POST", "/predictions", b"", JSON_TYPE, "Content-Length: 100") + b"{")
        )
        assert (status, code(answer)) == (408, "request_timeout")


def test_bodies_share_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = BodyReader(MIB, budget_bytes=1000)
    monkeypatch.setattr("lavatube.serve.app.BodyReader", lambda max_bytes: reader)
    head = request("POST", "/predictions", b"", JSON_TYPE, "Content-Length: 900")
    with LiveServer(tmp_path) as server, socket.create_connection(("127.0.0.1", server.port)) as holder:
        holder.sendall(head)
        server.until(lambda: reader.held_bytes == 900)
        status, headers, answer = parse(server.raw(head))
        assert (status, code(answer), headers["retry-after"]) == (429, "overloaded", "1")
        holder.close()
        server.until(lambda: parse(server.raw(request("POST", "/predictions", b"{}", JSON_TYPE)))[0] == 422)


def test_a_half_closed_client_still_gets_its_answer(shared: LiveServer) -> None:
    assert parse(shared.raw(request("GET", "/livez"), half_close=True))[0] == 200


def test_a_half_closed_client_does_not_hold_a_place(server: LiveServer) -> None:
    server.engine.token_s = 0.01
    body = json.dumps({"input": {"image": PNG, "prompt": "hello", "max_tokens": 2000}}).encode()
    server.raw(request("POST", "/predictions", body, JSON_TYPE, "Accept: text/event-stream"), half_close=True)
    server.until(lambda: len(server.engine.aborted) == 1)


def test_request_ids_are_echoed_only_when_harmless(shared: LiveServer) -> None:
    for sent, is_echoed in [("abc.DEF-1_2", True), ("a" * 129, False), ("a b", False), ("é", False)]:
        headers = {"x-request-id": sent.encode()}
        got = httpx.get(f"{shared.url}/livez", headers=headers).headers["x-request-id"]
        assert (got == sent) is is_echoed
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", got)


def test_a_defect_is_answered_without_its_secrets(shared: LiveServer) -> None:
    body = {"input": {"image": PNG, "prompt": DEFECT}}
    answer = httpx.post(f"{shared.url}/predictions", json=body)
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.text
    chat = {"model": "echo", "messages": [{"role": "user", "content": DEFECT}]}
    answer = httpx.post(f"{shared.url}/v1/chat/completions", json=chat)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "secret" not in answer.text
    assert answer.headers["x-should-retry"] == "false"


def test_one_log_line_a_request_that_cannot_be_forged(shared: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lavatube.serve.boundary"):
        httpx.get(
            f"{shared.url}/no%0AINFO%20forged", headers={"x-request-id": "mine", "authorization": "Bearer s3cr3t"}
        )
        shared.until(lambda: "forged" in caplog.text)
    lines = [message for message in caplog.messages if "forged" in message]
    assert len(lines) == 1
    assert re.fullmatch(r"GET /no%0AINFO%20forged 404 [\d.]+ ms not_found", lines[0])


@pytest.mark.parametrize(
    "value",
    [None, "", "Bearer", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY, "Bearer ééé".encode()],
)
def test_without_the_key_only_the_probes_answer(keyed: LiveServer, value: str | bytes | None) -> None:
    headers = {} if value is None else {"authorization": value}
    with keyed.client(headers=headers) as client:
        for response in (
            client.post("/predictions", json=GOOD),
            client.post("/v1/chat/completions", json={}),
            client.get("/predictions/x"),
            client.get("/openapi.json"),
            client.get("/"),
            client.get("/nope"),
            client.post("/shutdown"),
            client.get("//livez"),
        ):
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "unauthorized"
            assert response.headers["www-authenticate"] == "Bearer"
        for path in ("/livez", "/readyz", "/startupz", "/health", "/healthz", "/ping", "/health-check"):
            assert client.get(path).status_code == 200
    assert keyed.num_shutdowns == 0


def test_a_refused_connection_is_answered_once(keyed: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    """Here the body is no HTTP, and the head has no key."""
    head = b"POST /predictions HTTP/1.1\r\nHost: x\r\n" + JSON_TYPE.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    for body in (b"no size\r\n", b"FFFFFFFF\r\nA"):
        assert parse(keyed.raw(head + body))[0] in (400, 413)
    assert httpx.get(f"{keyed.url}/livez").status_code == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_with_the_key_everything_does(keyed: LiveServer) -> None:
    for scheme in ("Bearer", "bearer", "BEARER "):
        with keyed.client(headers={"authorization": f"{scheme} {KEY}"}) as client:
            assert client.post("/predictions", json=GOOD).status_code == 200
            assert client.get("/v1/models").status_code == 200
    twice = [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer x")]
    assert httpx.get(f"{keyed.url}/v1/models", headers=twice).status_code == 401


def test_the_key_stops_the_server_through_a_proxy_too(tmp_path: Path) -> None:
    headers = {"authorization": f"Bearer {KEY}", "x-forwarded-for": "203.0.113.7"}
    with LiveServer(tmp_path, api_key=KEY) as server:
        assert httpx.post(f"{server.url}/shutdown", headers=headers).status_code == 200
        assert server.num_shutdowns == 1


def test_the_host_header_does_not_open_a_door(keyed: LiveServer) -> None:
    answer = keyed.raw(b"GET /v1/models HTTP/1.1\r\nHost: a/health?x=\r\nConnection: close\r\n\r\n")
    assert parse(answer)[0] in (400, 401)
