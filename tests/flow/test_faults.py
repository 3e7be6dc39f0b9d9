"""What the road does when something on it dies: every stream gets its end, and the next request its answer."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from lavatube.weights.manifest import FILE_NAME, build_manifest
from lavatube.weights.uri import EMBEDDED
from tests.cdn import Cdn
from tests.flow.conftest import ENDLESS_TOKENS, data_url, endless_server
from tests.flow.server import Server, SlowServer
from tests.flow.sse import events

LONG = {
    "image": data_url("shapes.png"),
    "prompt": "Describe the picture.",
    "temperature": 0,
    "max_tokens": ENDLESS_TOKENS,
}
SHORT = {**LONG, "max_tokens": 5}
STREAM = {"Accept": "text/event-stream"}
SAMPLINGS = ({"temperature": 0}, {"temperature": 1.0, "seed": 7})
NUM_TOKENS = 300
"""A second's work or more: it still goes on when the first of them have come."""


def is_answered(server: Server) -> bool:
    response = httpx.post(f"{server.url}/predictions", json={"input": SHORT})
    return response.status_code == 200 and response.json()["status"] == "succeeded"


def text_of(server: Server, input_: dict[str, object]) -> list[str]:
    return httpx.post(f"{server.url}/predictions", json={"input": input_}, timeout=60).json()["output"]


@pytest.fixture(scope="module")
def endless(endless_folder: Path, cache: Path) -> Iterator[Server]:
    """One for all who take an engine from it; it starts another."""
    with endless_server(endless_folder, cache) as server:
        server.wait_ready()
        yield server


def test_streams_outlive_the_worker(endless: Server) -> None:
    """Greedy, sampled, and the stock client's: each reader sees a pause, and then what would have come."""
    inputs = [{**LONG, "max_tokens": NUM_TOKENS, **sampling} for sampling in SAMPLINGS]
    worker = endless.worker_pid()
    with ExitStack() as open_ones:
        client = open_ones.enter_context(OpenAI(base_url=f"{endless.url}/v1", api_key="none", max_retries=0))
        streams = [open_ones.enter_context(stream_of(endless, input_)) for input_ in inputs]
        received = [events(stream) for stream in streams]
        pieces = chat(client)
        for each in received:
            assert [next(each).name for _ in range(3)] == ["start", "output", "output"]
        text = next(piece for piece in pieces if piece)
        os.kill(worker, signal.SIGKILL)
        text += "".join(pieces)
        lasts = [[*each][-1] for each in received]
        assert [(last.name, last.data["status"]) for last in lasts] == [("completed", "succeeded")] * len(inputs)
        assert endless.worker_pid() != worker
        endless.wait_ready()
        assert ["".join(last.data["output"]) for last in lasts] == [
            "".join(text_of(endless, input_)) for input_ in inputs
        ]
        assert text == "".join(chat(client))


def stream_of(server: Server, input_: dict[str, object]) -> AbstractContextManager[httpx.Response]:
    return httpx.stream("POST", f"{server.url}/predictions", json={"input": input_}, headers=STREAM, timeout=60)


def chat(client: OpenAI) -> Iterator[str]:
    messages = [{"role": "user", "content": "Tell me everything."}]
    chunks = client.chat.completions.create(
        model="endless", messages=messages, temperature=0, max_tokens=NUM_TOKENS, stream=True
    )
    return (chunk.choices[0].delta.content or "" for chunk in chunks)


def test_the_weights_outlive_a_collection_beside_the_server(tmp_path: Path) -> None:
    """gc would forget them first, as those that were used longest ago; the engine's next life needs them."""
    command = [sys.executable, "-m", "lavatube.cli", "cache", "gc", "--max-size", "0", "--cache", str(tmp_path)]

    def collect() -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    with Server("tiny", tmp_path) as server:
        server.wait_ready()
        assert "is in use, and stays" in collect()
        worker = server.worker_pid()
        os.kill(worker, signal.SIGKILL)
        server.wait_for_line("engine: restarting")
        server.wait_ready()
        assert server.worker_pid() != worker
        assert is_answered(server)
    assert "stays" not in collect()
    assert not list(tmp_path.glob("trees/*"))


def test_a_hung_worker_is_replaced(endless: Server) -> None:
    worker = endless.worker_pid()
    os.kill(worker, signal.SIGSTOP)
    response = httpx.post(f"{endless.url}/predictions", json={"input": SHORT}, timeout=60)
    assert response.json()["status"] == "succeeded"
    endless.wait_ready()
    assert endless.worker_pid() != worker


def test_a_client_that_leaves_stops_its_generation(endless: Server) -> None:
    with httpx.stream("POST", f"{endless.url}/predictions", json={"input": LONG}, headers=STREAM) as response:
        received = events(response)
        identifier = next(received).data["id"]
        next(received)
    deadline = time.monotonic() + 20
    while (status := _status(endless, identifier)) == "processing" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert status == "canceled"
    assert is_answered(endless)


def test_sigterm_before_there_is_a_model(cache: Path) -> None:
    with Server("tiny", cache) as server:
        assert server.stop(10) == 0


def test_a_model_that_can_not_be_served_is_told_by_health(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with Server(str(tmp_path), cache) as server:
        deadline = time.monotonic() + 30
        while (view := httpx.get(f"{server.url}/startupz").json())["phase"] != "failed" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert view["failure"]["code"] == "unsupported_checkpoint"
        assert httpx.get(f"{server.url}/livez").status_code == 200
        assert httpx.get(f"{server.url}/health-check").json()["status"] == "SETUP_FAILED"
        assert server.stop() == 1


def _status(server: Server, identifier: str) -> str:
    status: str = httpx.get(f"{server.url}/predictions/{identifier}").json()["status"]
    return status


def test_a_slow_source_is_seen_coming(tmp_path: Path) -> None:
    """The front answers meanwhile, tells how far phase 1 is, and says where it is once it is ready."""
    folder = Path(shutil.copytree(EMBEDDED, tmp_path / "tiny"))
    (folder / FILE_NAME).write_text(build_manifest(folder, "tiny").to_json())
    with Cdn(folder) as cdn, Server(cdn.url("slower"), tmp_path / "cache", "--model-name", "slow") as server:
        cdn.released.set()  # nothing has come while the front could not be asked yet
        seen = []
        while not seen or seen[-1]["phase"] == "provisioning":
            seen.append(httpx.get(f"{server.url}/startupz").json())
            time.sleep(0.05)
        fetched = [view["done_bytes"] for view in seen[:-1] if view["total_bytes"]]  # the last one tells of the loading
        assert fetched == sorted(fetched)
        assert len(set(fetched)) > 3
        assert any(view["eta_s"] for view in seen)
        server.wait_ready()
        assert "phase 1: fetching" in server.text
        assert f"slow at {server.url}" in server.text


def test_a_slow_load_is_seen_coming(tmp_path: Path) -> None:
    """Bytes, rate and time left, over HTTP and in the log, as those of a fetch are."""
    with SlowServer(str(EMBEDDED), tmp_path) as server:
        seen = []
        while not seen or seen[-1]["phase"] in ("provisioning", "loading"):
            seen.append(httpx.get(f"{server.url}/startupz").json())
            time.sleep(0.05)
        server.wait_ready()
        text = server.text
    loading = [view for view in seen if view["phase"] == "loading" and view["total_bytes"]]
    done = [view["done_bytes"] for view in loading]
    assert done == sorted(done)
    assert len(set(done)) > 3
    assert any(view["rate_bytes_s"] > 0 and view["eta_s"] for view in loading)
    assert re.search(r"phase 2: loading [\d.]+ of [\d.]+ MiB, [\d.]+ MiB/s, \d:\d\d:\d\d left", text), text
