"""Whoever ends a request, and in whichever API: at most one more token is computed, by the engine's own count."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.flow.conftest import ENDLESS_TOKENS, endless_server
from tests.flow.server import Server
from tests.flow.sse import events
from tests.flow.test_shutdown import CHAT, STREAM, long
from tests.waiting import waiting_client

ENDLESS = long(ENDLESS_TOKENS)
ENDLESS_CHAT = {**CHAT, "max_tokens": ENDLESS_TOKENS, "min_tokens": ENDLESS_TOKENS}

ENDLESS_RESPONSE = {
    "model": "endless",
    "input": "a",
    "background": True,
    "temperature": 0,
    "max_output_tokens": ENDLESS_TOKENS,
}


def histogram(server: Server, name: str) -> dict[str, float]:
    """How many observations it has in all (`count`), and in its buckets."""
    text = httpx.get(f"{server.url}/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = families[f"lavatube_{name}"].samples
    return {sample.labels.get("le", sample.name.rpartition("_")[2]): sample.value for sample in samples}


def until_more(server: Server, name: str, count: float) -> dict[str, float]:
    deadline = time.monotonic() + 60
    while (found := histogram(server, name))["count"] < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def cog_stream_left(server: Server) -> None:
    with httpx.stream("POST", f"{server.url}/predictions", json=ENDLESS, headers=STREAM) as response:
        received = events(response)
        for _ in range(4):
            next(received)


def cog_canceled(server: Server) -> None:
    created = httpx.post(f"{server.url}/predictions", json=ENDLESS, headers={"Prefer": "respond-async"})
    assert created.status_code == 202
    url = f"{server.url}/predictions/{created.json()['id']}"
    with httpx.stream("GET", f"{url}/stream") as response:
        received = events(response)
        next(event for event in received if event.name == "output")
        assert httpx.post(f"{url}/cancel").status_code == 200
        *_, last = received
    assert last.data["status"] == "canceled"


def canceled(server: Server, path: str, body: dict[str, object]) -> None:
    """Once its answer is being written, by somebody who need not read it."""
    num_begun = histogram(server, "time_to_first_token_seconds")["count"]
    created = httpx.post(f"{server.url}{path}", json=body).json()
    until_more(server, "time_to_first_token_seconds", num_begun + 1)
    ended = httpx.post(f"{server.url}{path}/{created['id']}/cancel").json()
    assert ended["status"] in ("canceled", "cancelled")


def waiting_client_left(server: Server, path: str, body: dict[str, object]) -> None:
    """It goes once its answer is being written."""
    num_begun = histogram(server, "time_to_first_token_seconds")["count"]
    with waiting_client(f"{server.url}{path}", body):
        until_more(server, "time_to_first_token_seconds", num_begun + 1)


def stream_left(server: Server, path: str, body: dict[str, object], num_events: int) -> None:
    """After so many events, of which the last has text."""
    with httpx.stream("POST", f"{server.url}{path}", json={**body, "stream": True}) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        for _ in range(num_events):
            next(lines)


WAYS: dict[str, Callable[[Server], None]] = {
    "cog, stream left": cog_stream_left,
    "cog, canceled": cog_canceled,
    "cog, waiting client left": lambda server: waiting_client_left(server, "/predictions", ENDLESS),
    "openai, chat stream left": lambda server: stream_left(server, "/v1/chat/completions", ENDLESS_CHAT, 4),
    "openai, response stream left": lambda server: stream_left(
        server, "/v1/responses", {**ENDLESS_RESPONSE, "background": False}, 6
    ),
    "openai, response canceled": lambda server: canceled(server, "/v1/responses", ENDLESS_RESPONSE),
    "replicate, canceled": lambda server: canceled(
        server, "/v1/predictions", {"version": "lavatube/endless", **ENDLESS}
    ),
    "openai, waiting client left": lambda server: waiting_client_left(server, "/v1/chat/completions", ENDLESS_CHAT),
}


@pytest.fixture(scope="module")
def server(endless_folder: Path, cache: Path) -> Iterator[Server]:
    with endless_server(endless_folder, cache) as server:
        server.wait_ready()
        yield server


@pytest.mark.parametrize("way", WAYS)
def test_at_most_one_token_is_computed_after_the_end(server: Server, way: str) -> None:
    before = histogram(server, "engine_tokens_after_abort")
    for _ in range(5):
        WAYS[way](server)
    after = until_more(server, "engine_tokens_after_abort", before["count"] + 5)
    assert after["1.0"] - before["1.0"] == 5, after


def test_a_deadline_stops_it_too(endless_folder: Path, cache: Path) -> None:
    with endless_server(endless_folder, cache, "--request-timeout-s", "1") as server:
        server.wait_ready()
        answer = httpx.post(f"{server.url}/predictions", json=ENDLESS, timeout=60)
        assert answer.json()["code"] == "deadline_exceeded"
        assert until_more(server, "engine_tokens_after_abort", 1)["1.0"] == 1
        text = httpx.get(f"{server.url}/metrics").text
        assert 'lavatube_predictions_total{code="deadline_exceeded",origin="cog",status="failed"} 1.0' in text
        assert re.search(r'lavatube_tokens_total\{kind="completion"\} [1-9]', text)
