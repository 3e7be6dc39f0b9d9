"""Many streams at once over a paced engine: what is lost, how late a token is on the wire, and what it costs the front.

Ours, the real Cog server and LitServe are asked the same by the same client; each has one front process and one that
paces the text. LitServe lives in an environment of its own, named by LITSERVE_PYTHON; without it, it is left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from bench.paced_text import num_tokens as count
from bench.processes import cpu_s_of, family
from lavatube.serve.openapi import openapi_document

PERIOD_S = 0.05
SLEEP_S = 30.0
READ_EVERY_S = 0.2
HERE = Path(__file__).parent
PICTURE = "data:image/png;base64,AAAA"
RATE = round(1 / PERIOD_S)


@dataclass(slots=True)
class Peer:
    """A server that runs. `inputs`: what it asks for besides. `results`: where ours leaves its tokens' moments."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    inputs: dict[str, object] = field(default_factory=dict)
    results: Path | None = None
    token_bytes: int = len("word ")

    @property
    def front_cpu_s(self) -> float:
        """Of the processes that hold the listening socket: the one that speaks HTTP, and LitServe's idle parent."""
        return sum(cpu_s_of(pid) for pid in _listeners(self.process.pid, self.port))

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@dataclass(slots=True)
class Stream:
    """One client. It must cost little: it reads a few times a second, and counts when all is over."""

    line: socket.socket
    deaf_until_s: float = 0.0
    is_open: bool = True
    read_bytes: bytearray = field(default_factory=bytearray)

    def read(self, now_s: float) -> None:
        while self.is_open and now_s >= self.deaf_until_s:
            try:
                data = self.line.recv(1 << 16)
            except BlockingIOError:
                return
            if not data:
                self.is_open = False
                self.line.close()
                return
            self.read_bytes += data


@dataclass(frozen=True, slots=True)
class Run:
    """What became of the streams, and what they took: CPU seconds of the front and of all clients, seconds in all."""

    streams: list[Stream]
    front_s: float
    clients_s: float
    elapsed_s: float


def main() -> None:
    """Print both tables."""
    num_streams, num_tokens = int(os.environ.get("STREAMS", "500")), int(os.environ.get("TOKENS", "800"))
    print(f"load before: {os.getloadavg()}")
    with ours() as peer:
        run = _run(peer, num_streams, num_tokens, SLEEP_S)
    assert peer.results is not None
    late_ms = _late_ms(peer.results)
    shutil.rmtree(peer.results)
    lost = [num_tokens - count(bytes(stream.read_bytes), peer.token_bytes) for stream in run.streams]
    title = f"{num_streams} streams of {num_tokens} tokens at {RATE}/s"
    table = Table("figure", "value", title=title, title_justify="left")
    for figure, value in {
        "tokens lost": f"{sum(lost):,} of {num_streams * num_tokens:,}",
        "token to wire, median": f"{statistics.median(late_ms):.1f} ms",
        "token to wire, p99": f"{_quantile(late_ms, 0.99):.1f} ms",
        "token to wire, worst": f"{max(late_ms):.1f} ms",
        f"a reader that sleeps {SLEEP_S:g} s, tokens lost": f"{lost[0]}",
        "front CPU": f"{run.front_s / run.elapsed_s:.0%} of a core",
        "front CPU a token": f"{1e6 * run.front_s / (num_streams * num_tokens):.0f} µs",
        "clients' CPU": f"{run.clients_s / run.elapsed_s:.0%} of a core",
        "took": f"{run.elapsed_s:.1f} s (due {num_tokens * PERIOD_S:.0f})",
        "load after": str(os.getloadavg()),
    }.items():
        table.add_row(figure, value)
    Console().print(table)
    _compare()


def _compare(num_streams: int = 100, num_tokens: int = 200) -> None:
    title = f"front CPU, {num_streams} streams of {num_tokens} tokens at {RATE}/s"
    table = Table("server", "µs a token", "tokens lost", "took", title=title, title_justify="left")
    for start in (ours, cog, litserve):
        with start() as peer:
            if peer is None:
                continue
            run = _run(peer, num_streams, num_tokens)
        num_sent = sum(count(bytes(stream.read_bytes), peer.token_bytes) for stream in run.streams)
        lost, cost_us = num_streams * num_tokens - num_sent, 1e6 * run.front_s / max(num_sent, 1)
        table.add_row(
            peer.name, f"{cost_us:.0f}", f"{lost}", f"{run.elapsed_s:.1f} s (due {num_tokens * PERIOD_S:.0f})"
        )
    Console().print(table)
    print("repeat: python -m bench streams; STREAMS and TOKENS are the size of the first table")


def _run(peer: Peer, num_streams: int, num_tokens: int, sleep_s: float = 0.0) -> Run:
    """Streams to their end, the first of which does not read for so long."""
    request = _request(num_tokens, peer.inputs)
    cpu_s, own_s, begun_s = peer.front_cpu_s, time.process_time(), time.monotonic()
    streams = [_connected(peer.port, request, begun_s + sleep_s)]
    streams += [_connected(peer.port, request) for _ in range(num_streams - 1)]
    while any(stream.is_open for stream in streams):
        now_s = time.monotonic()
        for stream in streams:
            stream.read(now_s)
        time.sleep(max(now_s + READ_EVERY_S - time.monotonic(), 0))
    return Run(streams, peer.front_cpu_s - cpu_s, time.process_time() - own_s, time.monotonic() - begun_s)


def _connected(port: int, request: bytes, deaf_until_s: float = 0.0) -> Stream:
    line = socket.socket()
    if deaf_until_s:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect(("127.0.0.1", port))
    line.sendall(request)
    line.setblocking(False)
    return Stream(line, deaf_until_s)


def _request(num_tokens: int, inputs: dict[str, object]) -> bytes:
    body = json.dumps({"input": inputs | {"prompt": "x", "max_tokens": num_tokens}}).encode()
    lines = ("POST /predictions HTTP/1.1", "Host: localhost", "Accept: text/event-stream", "Connection: close")
    head = (*lines, f"Content-Length: {len(body)}", "Content-Type: application/json", "", "")
    return "\r\n".join(head).encode() + body


def _late_ms(results: Path) -> list[float]:
    """Of every token: from the engine to the socket."""
    tokens, wire = (json.loads((results / name).read_text()) for name in ("tokens", "wire"))
    return [
        1000 * (sent_s - written_s)
        for name, moments in tokens.items()
        for written_s, sent_s in zip(moments, wire[name], strict=True)
    ]


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


@contextlib.contextmanager
def ours() -> Iterator[Peer]:
    port, folder = _free_port(), Path(tempfile.mkdtemp())
    command = [sys.executable, "-m", "bench.paced_front", str(port), str(PERIOD_S), str(folder)]
    with _started("Lavatube", command, port, "/readyz") as peer:
        peer.results, peer.inputs, peer.token_bytes = folder, {"image": PICTURE}, 1
        yield peer


@contextlib.contextmanager
def cog() -> Iterator[Peer]:
    """The real server; its schema is one that its command line would have written."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(HERE / "peers" / "cog_predict.py", folder / "predict.py")
        document = openapi_document(10_000)
        inputs = document["components"]["schemas"]["Input"]
        inputs["required"] = ["prompt", "max_tokens"]
        inputs["properties"] = {name: inputs["properties"][name] for name in inputs["required"]}
        (folder / ".cog").mkdir()
        (folder / ".cog" / "openapi_schema.json").write_text(json.dumps(document))
        environ = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PORT": str(port),
            "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
            "COG_MAX_CONCURRENCY": "128",
        }
        command = [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"]
        is_ready: Callable[[httpx.Response], bool] = lambda answer: answer.json()["status"] == "READY"  # noqa: E731
        with _started("Cog 0.23.1", command, port, "/health-check", folder, environ, is_ready) as peer:
            yield peer


@contextlib.contextmanager
def litserve() -> Iterator[Peer | None]:
    python = os.environ.get("LITSERVE_PYTHON")
    if not python:
        yield None
        return
    port = _free_port()
    command = [python, str(HERE / "peers" / "litserve_server.py"), str(port)]
    with _started("LitServe 0.2.19", command, port, "/health", HERE / "peers") as peer:
        yield peer


@contextlib.contextmanager
def _started(
    name: str,
    command: list[str],
    port: int,
    health: str,
    folder: Path | None = None,
    environ: dict[str, str] | None = None,
    is_ready: Callable[[httpx.Response], bool] = lambda _: True,
) -> Iterator[Peer]:
    everything = {**os.environ, "BENCH_PERIOD_S": str(PERIOD_S), **(environ or {})}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=folder, env=everything, stdout=log, stderr=log, start_new_session=True)
        try:
            peer = Peer(name, f"http://127.0.0.1:{port}", process)
            _wait_ready(peer, health, is_ready)
            yield peer
            process.terminate()
            process.wait(20)
        except AssertionError:
            log.seek(0)
            print(log.read()[-3000:].decode("utf-8", "replace"))
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # LitServe leaves children behind
            process.wait()


def _wait_ready(peer: Peer, health: str, is_ready: Callable[[httpx.Response], bool]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert peer.process.poll() is None, f"{peer.name} ended"
        with contextlib.suppress(httpx.TransportError, KeyError):
            answer = httpx.get(peer.url + health)
            if answer.status_code == 200 and is_ready(answer):
                return
        time.sleep(0.1)
    raise AssertionError(f"{peer.name} does not get ready")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _listeners(root: int, port: int) -> list[int]:
    """Processes of a family that hold the socket which listens at a port."""
    inodes = {
        words[9]
        for words in (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        if words[1].endswith(f":{port:04X}") and words[3] == "0A"
    }
    wanted = {f"socket:[{inode}]" for inode in inodes}
    return [pid for pid in family(root) if wanted & _descriptors(pid)]


def _descriptors(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(link.readlink()))
    return found
