"""The real Cog server, running our predictor, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

import lavatube.platforms.cog
from lavatube.serve.openapi import openapi_document

PREDICT = Path(lavatube.platforms.cog.__file__).with_name("predict.py")


@dataclass(frozen=True)
class CogServer:
    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def cog_server(folder: Path, model: str, cache: Path, max_new_tokens: int) -> Iterator[CogServer]:
    """Laid out as `cog build` does it: the predictor, and the schema that its command line would have written."""
    shutil.copy(PREDICT, folder)
    (folder / ".cog").mkdir()
    (folder / ".cog" / "openapi_schema.json").write_text(json.dumps(openapi_document(max_new_tokens)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PORT": str(port),
        "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
        "LAVATUBE_MODEL": model,
        "LAVATUBE_CACHE": str(cache),
        "LAVATUBE_MAX_NEW_TOKENS": str(max_new_tokens),
    }
    command = [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, cwd=folder, env=environ, stderr=log) as process:
        try:
            _wait_ready(server := CogServer(f"http://127.0.0.1:{port}", process), folder / "log")
            yield server
        finally:
            process.terminate()
            process.wait(60)


def _wait_ready(server: CogServer, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{server.url}/health-check").json()["status"] == "READY":
                return
        except httpx.TransportError:
            assert server.process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())
