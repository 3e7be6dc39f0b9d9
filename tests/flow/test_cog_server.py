"""Cog's own server runs our `predict.py`, and gives the answer that ours gives."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import lavatube.platforms.cog
from lavatube.serve.openapi import openapi_document
from tests.flow.conftest import data_url
from tests.flow.server import Server
from tests.flow.sse import events
from tests.flow.test_road import QUESTION, ask_cog

PREDICT = Path(lavatube.platforms.cog.__file__).with_name("predict.py")


@pytest.fixture(scope="module")
def cog_url(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[str]:
    """Laid out as `cog build` does it: the predictor, and the schema that its command line would have written."""
    folder = tmp_path_factory.mktemp("cog")
    shutil.copy(PREDICT, folder)
    (folder / ".cog").mkdir()
    (folder / ".cog" / "openapi_schema.json").write_text(json.dumps(openapi_document(max_new_tokens=4096)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PORT": str(port),
        "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
        "LAVATUBE_CACHE": str(cache),
    }
    command = [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, cwd=folder, env=environ, stderr=log) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_ready(url, folder / "log")
            yield url
        finally:
            process.terminate()
            process.wait(20)


def _wait_ready(url: str, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health-check").json()["status"] == "READY":
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_the_real_cog_server_gives_the_same_answer(cog_url: str, tiny: Server) -> None:
    body = {"input": {"image": data_url("shapes.png"), "prompt": QUESTION, "temperature": 0}}
    prediction = httpx.post(f"{cog_url}/predictions", json=body, timeout=60).json()
    assert prediction["status"] == "succeeded", prediction
    assert "".join(prediction["output"]) == ask_cog(tiny, data_url("shapes.png"), QUESTION)


def test_the_real_cog_server_streams(cog_url: str) -> None:
    body = {"input": {"image": data_url("shapes.png"), "prompt": "Describe the picture.", "temperature": 0}}
    headers = {"Accept": "text/event-stream"}
    with httpx.stream("POST", f"{cog_url}/predictions", json=body, headers=headers, timeout=60) as response:
        received = list(events(response))
    chunks = [event.data["chunk"] for event in received if event.name == "output"]
    assert "".join(chunks) == "".join(received[-1].data["output"])
    assert received[-1].data["status"] == "succeeded"


@pytest.mark.parametrize("wrong", [{"top_p": 1.5}, {"temperature": -1}, {"max_tokens": -1}, {"prompt": None}])
def test_the_bounds_are_those_of_the_original(cog_url: str, wrong: dict[str, object]) -> None:
    body = {"input": {"image": data_url("shapes.png"), "prompt": QUESTION, **wrong}}
    assert httpx.post(f"{cog_url}/predictions", json=body, timeout=60).status_code == 422
