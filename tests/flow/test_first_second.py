"""A server before its front is there: who is answered already, who waits, and that it can be ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lavatube.doorman import MAX_GUESTS
from tests.flow.processes import children, until_gone

GATE = """
import importlib, os, time

def import_module(name, package=None, real=importlib.import_module):
    while name == "lavatube.front" and not os.path.exists(os.environ["GATE"]):
        time.sleep(0.01)
    return real(name, package)

importlib.import_module = import_module
"""


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Servers have no front until it exists."""
    (tmp_path / "sitecustomize.py").write_text(GATE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("GATE", str(tmp_path / "gate"))
    return tmp_path / "gate"


@contextmanager
def starting(cache: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server, and the port at which it is going to be."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lavatube.cli", "serve", "tiny", "--port", str(port), "--cache", str(cache)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    try:
        yield server, port
    finally:
        server.kill()
        server.communicate()


def knock(port: int, request: bytes) -> socket.socket:
    """As soon as somebody listens."""
    deadline_s = time.monotonic() + 60
    while True:
        try:
            client = socket.create_connection(("127.0.0.1", port), 60)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
        else:
            client.sendall(request)
            return client


def answer(client: socket.socket) -> tuple[bytes, dict[str, object]]:
    with client, client.makefile("rb") as lines:
        status = lines.readline()
        while lines.readline() != b"\r\n":
            pass
        return status, json.loads(lines.read())


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


ALIVE = b"HTTP/1.1 200 OK\r\n", {"status": "alive", "phase": "provisioning"}
NOT_YET = b"HTTP/1.1 503 Service Unavailable\r\n"


def test_who_comes_first(cache: Path, gate: Path) -> None:
    """A probe is answered at once, and nobody is lost: neither who asks for more, nor who says it in pieces."""
    with starting(cache) as (_, port):
        early, slow, silent = knock(port, get("/readyz")), knock(port, get("/startupz")[:9]), knock(port, b"")
        knock(port, get("/livez")[:3]).close()
        assert answer(knock(port, get("/livez"))) == ALIVE
        assert answer(knock(port, get("/livez?probe=1"))) == ALIVE
        gate.touch()
        slow.sendall(get("/startupz")[9:])
        assert answer(early)[0] == answer(slow)[0] == NOT_YET
        silent.sendall(get("/livez"))
        assert answer(silent)[0] == ALIVE[0]


def test_a_crowd(cache: Path, gate: Path) -> None:
    """More than are let in before the front is there."""
    with starting(cache) as (server, port):
        crowd = [knock(port, get("/readyz")) for _ in range(150)]
        deadline_s = time.monotonic() + 60
        while num_sockets(server.pid) < MAX_GUESTS:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        time.sleep(0.1)
        assert num_sockets(server.pid) < MAX_GUESTS + 50, "the others wait where the system lets them"
        gate.touch()
        statuses = {answer(client)[0][9:12] for client in crowd}
    assert b"503" in statuses
    assert statuses <= {b"503", b"200"}


def num_sockets(pid: int) -> int:
    return sum("socket" in str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())


def test_who_has_gone_makes_room_for_others(cache: Path, gate: Path) -> None:
    with starting(cache) as (_, port):
        for _ in range(2 * MAX_GUESTS):
            knock(port, b"").close()
        assert [answer(knock(port, get("/livez"))) for _ in range(2 * MAX_GUESTS)] == [ALIVE] * 2 * MAX_GUESTS


@pytest.mark.parametrize("num_signals", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_can_be_ended(number: signal.Signals, num_signals: int, cache: Path, gate: Path) -> None:
    """While the front is imported; and who is impatient breaks nothing."""
    with starting(cache) as (server, port):
        knock(port, b"").close()
        deadline_s = time.monotonic() + 60
        while len(family := children(server.pid)) < 2:  # the engine and the pull
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        for _ in range(num_signals):
            os.killpg(server.pid, number)  # as Ctrl-C does, which means all that a terminal has started
            time.sleep(0.02)
        _, log = server.communicate(timeout=60)
        assert server.returncode == 0, log
        assert b"stopped before it had begun to serve" in log
        assert b"Traceback" not in log
        until_gone(family)
