"""A server that is asked while its weights are still being fetched."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from lavatube.weights.manifest import FILE_NAME, build_manifest
from tests.cdn import Cdn
from tests.checkpoints import write_checkpoint
from tests.flow.conftest import data_url
from tests.flow.server import Server
from tests.hub import FakeHub

WAIT_S = 120.0
CHUNK = 64 * 1024


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("origin") / "weights", num_shards=2, layers=4)
    (folder / FILE_NAME).write_text(build_manifest(folder, "weights", chunk_bytes=CHUNK).to_json())
    return folder


@pytest.fixture
def cdn(origin: Path) -> Iterator[Cdn]:
    with Cdn(origin) as server:
        yield server
        server.released.set()


@pytest.fixture(scope="module")
def expected(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a server says that had its weights before it was asked."""
    with Server(str(origin), tmp_path_factory.mktemp("plain")) as plain:
        plain.wait_ready()
        return answer_of(ask(plain))


def answer_of(response: httpx.Response) -> str:
    return "".join(response.json()["output"])


def ask(server: Server) -> httpx.Response:
    body = {"input": {"image": data_url("shapes.png"), "prompt": "What is it?", "temperature": 0, "max_tokens": 8}}
    return httpx.post(f"{server.url}/predictions", json=body, timeout=WAIT_S)


def test_who_waits_is_answered_as_by_a_server_that_was_ready(cdn: Cdn, expected: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    flags = ["--queue-while-starting", "--trace", str(trace)]
    with ThreadPoolExecutor() as threads, Server(cdn.url("held"), tmp_path / "cache", *flags) as server:
        answer = threads.submit(ask, server)
        server.wait_for_line("engine: ready")
        startup = httpx.get(f"{server.url}/startupz")
        assert (startup.status_code, startup.json()["phase"]) == (503, "provisioning")
        assert 0 < startup.json()["done_bytes"] < startup.json()["total_bytes"]
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        assert not answer.done()
        cdn.released.set()
        assert answer_of(answer.result(WAIT_S)) == expected
        server.wait_ready()
        assert not list((tmp_path / "cache" / "staged").iterdir())
        assert answer_of(ask(server)) == expected
    said = [json.loads(line.rstrip(",")) for line in trace.read_text().splitlines()[1:]]
    assert {event["cat"] for event in said} >= {"start", "download", "verify", "load", "wait", "encode", "token"}
    assert min(event["ts"] for event in said) == said[0]["ts"]


def test_a_fetch_that_dies_fails_what_waits_with_its_cause(cdn: Cdn, tmp_path: Path) -> None:
    with (
        ThreadPoolExecutor() as threads,
        Server(cdn.url("held"), tmp_path, "--queue-while-starting") as server,
    ):
        answer = threads.submit(ask, server)
        server.wait_for_line("engine: ready")
        os.kill(server.child_pid(b"pull"), signal.SIGKILL)
        refused = answer.result(WAIT_S).json()
        assert (refused["status"], refused["code"]) == ("failed", "source_unavailable"), refused
        assert httpx.get(f"{server.url}/startupz").json()["phase"] == "failed"
        assert ask(server).status_code == 503


def test_damage_on_the_way_from_a_hub_costs_a_second_load_and_no_wrong_answer(
    cdn: Cdn, expected: str, tmp_path: Path
) -> None:
    """A hub has no digests of pieces: the engine uses bytes that only the file's end shows to be wrong."""
    with (
        FakeHub(cdn, scenario="flip-once") as hub,
        ThreadPoolExecutor() as threads,
        Server("org/name", tmp_path, "--queue-while-starting", "--hf-endpoint", hub.root) as server,
    ):
        answer = threads.submit(ask, server)
        assert answer_of(answer.result(WAIT_S)) == expected
        server.wait_ready()
