"""How a real server ends: readiness falls first, nothing new is taken, what runs is finished, nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from lavatube.weights.manifest import FILE_NAME, build_manifest
from lavatube.weights.uri import EMBEDDED
from tests.cdn import Cdn
from tests.flow.conftest import ENDLESS_TOKENS, data_url, endless_server
from tests.flow.processes import children, until_gone
from tests.flow.server import Server
from tests.flow.sse import Event, events

ASKED = {"image": data_url("shapes.png"), "prompt": "Describe the picture.", "temperature": 0}
CHAT = {"model": "endless", "messages": [{"role": "user", "content": "a"}]}
STREAM = {"Accept": "text/event-stream"}


def long(num_tokens: int) -> dict[str, object]:
    """An answer of just so many tokens, whatever a random model would say."""
    return {"input": {**ASKED, "max_tokens": num_tokens, "min_tokens": num_tokens}}


def test_readiness_falls_first_and_what_runs_is_finished(endless: Server) -> None:
    family = children(endless.process.pid)
    assert len(family) >= 2
    with httpx.stream("POST", f"{endless.url}/predictions", json=long(100), headers=STREAM, timeout=60) as response:
        received = events(response)
        next(received)
        os.kill(endless.worker_pid(), signal.SIGSTOP)  # so that it still runs when all this is seen
        endless.process.send_signal(signal.SIGTERM)
        endless.wait_for_status(503)
        assert httpx.get(f"{endless.url}/livez").status_code == 200
        for path in ("/predictions", "/v1/chat/completions"):
            refused = httpx.post(f"{endless.url}{path}", json=long(1) if path == "/predictions" else CHAT)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["connection"] == "close"
        os.kill(endless.worker_pid(), signal.SIGCONT)
        *_, last = received
    assert (last.data["status"], last.data["metrics"]["output_token_count"]) == ("succeeded", 100)
    assert endless.process.wait(60) == 0
    until_gone(family)


def test_a_signal_that_reaches_the_engine_too_ends_no_stream(endless_folder: Path, cache: Path) -> None:
    """As service managers send it, to every process of a service."""
    with Server(str(endless_folder), cache) as server:
        server.wait_ready()
        with httpx.stream("POST", f"{server.url}/predictions", json=long(300), headers=STREAM, timeout=60) as response:
            received = events(response)
            next(received)
            for pid in (server.worker_pid(), server.process.pid):
                os.kill(pid, signal.SIGTERM)
            *_, last = received
        assert (last.data["status"], last.data["metrics"]["output_token_count"]) == ("succeeded", 300)
        assert server.process.wait(60) == 0
        assert "crashed" not in server.text


def test_who_waits_in_line_is_served_too(endless_folder: Path, cache: Path) -> None:
    with Server(str(endless_folder), cache, "--max-sequences", "1") as server, ThreadPoolExecutor(4) as threads:
        server.wait_ready()
        os.kill(server.worker_pid(), signal.SIGSTOP)  # so that none is answered before the last has come
        ends = [threads.submit(last_event, server, long(40)) for _ in range(4)]
        deadline = time.monotonic() + 60
        while "lavatube_active_predictions 4.0" not in httpx.get(f"{server.url}/metrics").text:
            assert time.monotonic() < deadline
        server.process.send_signal(signal.SIGTERM)
        os.kill(server.worker_pid(), signal.SIGCONT)
        assert [end.result().data["status"] for end in ends] == ["succeeded"] * 4
        assert server.process.wait(60) == 0


def last_event(server: Server, body: dict[str, object]) -> Event:
    with httpx.stream("POST", f"{server.url}/predictions", json=body, headers=STREAM, timeout=60) as response:
        *_, last = events(response)
    return last


@pytest.mark.parametrize("num_signals", [1, 2])
def test_no_stream_is_left_without_its_end(endless_folder: Path, cache: Path, num_signals: int) -> None:
    """Neither when the grace is over, nor when a second signal says that there is none."""
    grace_s = "1" if num_signals == 1 else "60"
    with endless_server(endless_folder, cache, "--shutdown-grace-s", grace_s, "--max-sequences", "1") as server:
        server.wait_ready()
        with httpx.stream(
            "POST", f"{server.url}/predictions", json=long(ENDLESS_TOKENS), headers=STREAM, timeout=60
        ) as response:
            received = events(response)
            next(event for event in received if event.name == "output")
            server.process.send_signal(signal.SIGTERM)
            if num_signals == 2:
                server.wait_for_status(503)  # two signals at once are one
                server.process.send_signal(signal.SIGTERM)
            *_, last = received
        assert (last.name, last.data["status"], last.data["code"]) == ("completed", "failed", "draining")
        assert last.data["output"]
        assert server.process.wait(60) == 0


def test_in_the_middle_of_a_download(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EMBEDDED, tmp_path / "tiny"))
    (folder / FILE_NAME).write_text(build_manifest(folder, "tiny").to_json())
    with Cdn(folder) as cdn, Server(cdn.url("slower"), tmp_path / "cache", "--model-name", "slow") as server:
        cdn.released.set()
        while not httpx.get(f"{server.url}/startupz").json()["done_bytes"]:
            time.sleep(0.02)
        family = children(server.process.pid)
        assert server.stop(60) == 0
        until_gone(family)


@pytest.mark.parametrize("is_leaving", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_engine_that_failed_for_good_is_told_by_the_exit_code(
    endless_folder: Path, tmp_path: Path, is_leaving: bool
) -> None:
    """Its model has gone since: the next life of the engine can't load it, and there is no other."""
    folder = Path(shutil.copytree(endless_folder, tmp_path / "model"))
    with Server(str(folder), tmp_path, *["--exit-on-failure"] * is_leaving) as server:
        server.wait_ready()
        shutil.rmtree(folder)
        os.kill(server.worker_pid(), signal.SIGKILL)
        if is_leaving:
            assert server.process.wait(60) == 1
            return
        deadline = time.monotonic() + 60
        while httpx.get(f"{server.url}/startupz").json()["phase"] != "failed":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        assert httpx.get(f"{server.url}/livez").status_code == 200
        assert server.stop() == 1


def test_a_killed_front_leaves_nothing_behind(endless_folder: Path, cache: Path, tmp_path: Path) -> None:
    with Server(str(endless_folder), cache, environ={"TMPDIR": str(tmp_path)}) as server:
        server.wait_ready()
        family = children(server.process.pid)
        server.process.kill()
        server.process.wait()
        until_gone(family)
    assert [path for path in tmp_path.iterdir() if "lavatube" in path.name] == []
