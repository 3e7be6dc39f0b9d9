"""A server that is asked while its weights are still being fetched."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
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
from tests.originals import write_original
from tests.waiting import waiting_client

WAIT_S = 120.0
CHUNK = 64 * 1024
QUESTION = {"image": data_url("shapes.png"), "prompt": "What is it?", "temperature": 0, "max_tokens": 8}


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
    return httpx.post(f"{server.url}/predictions", json={"input": QUESTION}, timeout=WAIT_S)


def stream_chat(server: Server) -> str:
    body = {"model": "doomed", "messages": [{"role": "user", "content": "What is it?"}], "stream": True}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=WAIT_S).text


def gauge(server: Server, name: str) -> float:
    found = re.search(rf"^lavatube_{name} (\S+)$", httpx.get(f"{server.url}/metrics").text, re.MULTILINE)
    assert found, name
    return float(found[1])


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_can_be_asked_how_it_is_before_anything_is_here(cdn: Cdn, tmp_path: Path) -> None:
    """A second is what it takes on a machine that does nothing else; that it waits for no weights is what counts."""
    with Server(cdn.url("held"), tmp_path / "cache") as server:
        said = httpx.get(f"{server.url}/health-check").json()
        assert time.monotonic() - server.started_at < 10
        assert said["status"] == "STARTING"
        assert not cdn.released.is_set()
        assert not list((tmp_path / "cache").glob("trees/*"))
        assert httpx.get(f"{server.url}/livez").status_code == 200
        assert httpx.get(f"{server.url}/readyz").status_code == 503


def test_who_waits_is_answered_as_by_a_server_that_was_ready(cdn: Cdn, expected: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    flags = ["--queue-while-starting", "--trace", str(trace)]
    with ThreadPoolExecutor() as threads, Server(cdn.url("held"), tmp_path / "cache", *flags) as server:
        answer = threads.submit(ask, server)
        wait_until(lambda: gauge(server, "engine_running") == 1)
        startup = httpx.get(f"{server.url}/startupz")
        assert (startup.status_code, startup.json()["phase"]) == (503, "provisioning")
        assert 0 < startup.json()["done_bytes"] < startup.json()["total_bytes"]
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        assert not answer.done()
        cdn.released.set()
        assert answer_of(answer.result(WAIT_S)) == expected
        server.wait_ready()
        wait_until(lambda: not list((tmp_path / "cache" / "staged").iterdir()))
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
        wait_until(lambda: gauge(server, "engine_running") == 1)
        os.kill(server.child_pid(b"pull"), signal.SIGKILL)
        refused = answer.result(WAIT_S).json()
        assert (refused["status"], refused["code"]) == ("failed", "source_unavailable"), refused
        assert httpx.get(f"{server.url}/startupz").json()["phase"] == "failed"
        assert ask(server).status_code == 503


def test_a_fetch_that_fails_reaches_everybody_whose_request_is_held(cdn: Cdn, tmp_path: Path) -> None:
    """In whichever API, streaming or not, with the engine or on the way to it."""
    with (
        ThreadPoolExecutor() as threads,
        Server(cdn.url("doomed"), tmp_path, "--queue-while-starting", "--max-sequences", "1") as server,
    ):
        blocking = [threads.submit(ask, server) for _ in range(2)]
        streaming = threads.submit(stream_chat, server)
        wait_until(lambda: (gauge(server, "active_predictions"), gauge(server, "engine_running")) == (3, 1))
        cdn.released.set()
        for answer in blocking:
            refused = answer.result(WAIT_S).json()
            assert (refused["status"], refused["code"]) == ("failed", "source_unavailable"), refused
        assert "source_unavailable" in streaming.result(WAIT_S)
        assert httpx.get(f"{server.url}/startupz").json()["phase"] == "failed"


def test_who_leaves_while_weights_are_missing_is_gone_at_once(cdn: Cdn, expected: str, tmp_path: Path) -> None:
    """Hung up or cancelled; who stays gets what a server says that was ready."""
    with (
        ThreadPoolExecutor() as threads,
        Server(cdn.url("held"), tmp_path, "--queue-while-starting") as server,
    ):
        server.wait_for_line("engine: ready")
        staying = threads.submit(ask, server)
        body = {"input": QUESTION}
        httpx.post(f"{server.url}/predictions", json=body | {"id": "away"}, headers={"Prefer": "respond-async"})
        with waiting_client(f"{server.url}/predictions", body):
            wait_until(lambda: gauge(server, "engine_running") == 3)
        wait_until(lambda: gauge(server, "engine_running") == 2)
        httpx.post(f"{server.url}/predictions/away/cancel")
        wait_until(lambda: httpx.get(f"{server.url}/predictions/away").json()["status"] == "canceled")
        wait_until(lambda: gauge(server, "engine_running") == 1)
        assert not staying.done()
        cdn.released.set()
        assert answer_of(staying.result(WAIT_S)) == expected


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


def test_a_checkpoint_of_the_original_layout_is_followed_with_its_tower(tmp_path: Path) -> None:
    """Files of torch on a CDN; the vision tower is a repository of a hub."""
    main = write_original(
        tmp_path / "main", write_checkpoint(tmp_path / "hf", layers=4), torch_files=True, num_shards=2
    )
    (main / "vision_tower").rename(tmp_path / "tower")
    (main / FILE_NAME).write_text(build_manifest(main, "main", chunk_bytes=CHUNK).to_json())
    with Cdn(main) as cdn, FakeHub(cdn) as hub:
        hub.others["somebody/some-tower"] = tmp_path / "tower"
        flags = ["--queue-while-starting", "--hf-endpoint", hub.root]
        with ThreadPoolExecutor() as threads, Server(cdn.url("held"), tmp_path / "cache", *flags) as server:
            answer = threads.submit(ask, server)
            wait_until(lambda: gauge(server, "engine_running") == 1)
            assert httpx.get(f"{server.url}/startupz").json()["phase"] == "provisioning"
            assert not answer.done()
            cdn.released.set()
            first = answer_of(answer.result(WAIT_S))
            server.wait_ready()
            assert first == answer_of(ask(server)) != ""
