"""The catalogue of hostile requests, where it lies beside the repository: each gets its status, its code, no leak."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from lavatube.serve.transport import Connection
from tests.kit import catalogue, context, is_as_listed, module, needs_kit, status_of
from tests.predictions.fakes import PNG
from tests.serve.live import LiveServer
from tests.serve.test_limits import KEY, LEAKS

GROUPS = ("json_shape", "numbers", "ids", "headers_protocol", "auth")
NOT_HERE = {"scenario", "statistical", "two_keys", "burst", "--big"}

pytestmark = needs_kit

CATALOGUE = catalogue()
CASES = [c for c in CATALOGUE["cases"] if c["group"] in GROUPS and not NOT_HERE & set(c.get("needs", ()))]


@pytest.fixture(scope="module")
def renderer() -> ModuleType:
    return module("bad_inputs_render")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, LiveServer]]:
    """One that is open, one with a key."""
    Connection.head_deadline_s, usual = 0.5, Connection.head_deadline_s
    with (
        LiveServer(tmp_path_factory.mktemp("open")) as open_,
        LiveServer(tmp_path_factory.mktemp("keyed"), api_key=KEY) as keyed,
    ):
        yield open_, keyed
    Connection.head_deadline_s = usual


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_case(
    servers: tuple[LiveServer, LiveServer], http: httpx.Client, renderer: ModuleType, tmp_path: Path, case: dict
) -> None:
    needs_key = "auth_enabled" in case.get("needs", ())
    server = servers[needs_key]
    (tmp_path / "ok.png").write_bytes(b"\x89PNG\r\n\x1a\n and so on")
    values = context(renderer, tmp_path, server.port, KEY, model="echo")
    rendered = renderer.render(CATALOGUE, case, values)
    answer = server.raw(rendered["raw"], half_close=rendered.get("half_close", False))
    head, _, body = answer.partition(b"\r\n\r\n")
    status = status_of(answer)
    assert is_as_listed(case, status, body), (status, body[:300])
    if isinstance(status, int) and status >= 400:
        assert b"content-type: application/json" in head.lower()
        assert len(body) <= 16 * 1024
        assert case["target"] == "raw" or b"x-request-id: " in head.lower()
    assert LEAKS.search(answer.decode("utf-8", "replace")) is None
    assert KEY.encode() not in answer
    headers = {"authorization": f"Bearer {KEY}"} if needs_key else {}
    control = {"input": {"image": PNG, "prompt": "still there?", "max_tokens": 1}}
    assert http.post(f"{server.url}/predictions", json=control, headers=headers).status_code == 200


def test_two_readers_of_one_stream_see_the_same(server: LiveServer) -> None:
    """abuse-10 of the catalogue."""
    server.engine.token_s = 0.002
    body = {"input": {"image": PNG, "prompt": "hello", "max_tokens": 100}}
    created = httpx.post(f"{server.url}/predictions", json=body, headers={"prefer": "respond-async"}).json()
    url = f"{server.url}/predictions/{created['id']}/stream"
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: httpx.get(url).text, range(2))
    assert _chunks(first) == _chunks(second) == "hello" * 20


def _chunks(stream: str) -> str:
    """The text, in whatever pieces it came."""
    lines = (line.removeprefix("data: ") for line in stream.splitlines() if line.startswith('data: {"chunk"'))
    return "".join(json.loads(line)["chunk"] for line in lines)


def test_a_burst_is_admitted_or_told_when_to_come_back(server: LiveServer) -> None:
    """abuse-07 of the catalogue, a few hundred at once: no third answer."""
    body = {"input": {"image": PNG, "prompt": "hello", "max_tokens": 200}}
    server.engine.token_s = 0.01
    with server.client(headers={"prefer": "respond-async"}) as client, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: client.post("/predictions", json=body), range(300)))
    assert {answer.status_code for answer in answers} == {202, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)
