"""Ours and the peers, each a server of OpenAI's chat completions in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from bench.engine.shapes import Shape
from bench.processes import resident_bytes

PEERS: Final = Path(__file__).parent.parent / "peers"
ENVIRONMENT: Final = Path(os.environ.get("BENCH_PEERS", ".venv-peers")).absolute()
START_LIMIT_S: Final = 600.0
CACHE_MIB: Final = 256


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to serve a shape. `prepare` makes what it loads, once; `needs` must exist, else it is left out."""

    name: str
    command: Callable[[Shape, int], list[str]]
    bits: int = 16  # of a weight of the decoder
    cache_mib: int = 0  # what it keeps for keys and values, where that is known
    health: str = "/health"
    needs: Path = PEERS
    prepare: Callable[[Shape], None] = lambda shape: None
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def is_here(self) -> bool:
        return self.needs.exists()


@dataclass(slots=True)
class Server:
    """An engine that is up."""

    engine: Engine
    url: str
    process: subprocess.Popen[bytes]
    ready_s: float = 0.0

    @property
    def resident_bytes(self) -> int:
        """Of all its processes; what several of them map is counted once."""
        return resident_bytes(self.process.pid)


@contextlib.contextmanager
def started(engine: Engine, shape: Shape) -> Iterator[Server]:
    """Raises: AssertionError, with the end of its log, if it does not get ready."""
    engine.prepare(shape)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            engine.command(shape, port),
            env={**os.environ, **engine.environ},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        server = Server(engine, f"http://127.0.0.1:{port}", process)
        try:
            _wait_ready(server)
            yield server
        except BaseException:
            log.seek(0)
            print(log.read()[-3000:].decode("utf-8", "replace"), file=sys.stderr)
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_ready(server: Server) -> None:
    begun = time.monotonic()
    while time.monotonic() < begun + START_LIMIT_S:
        assert server.process.poll() is None, f"{server.engine.name} ended"
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(server.url + server.engine.health).status_code == 200:
                server.ready_s = time.monotonic() - begun
                return
        time.sleep(0.1)
    raise AssertionError(f"{server.engine.name} does not get ready")


def engines() -> list[Engine]:
    """All that the bench knows, ours first."""
    return [
        Engine(
            "lavatube bf16",
            lambda shape, port: _ours(shape, port, "--dtype", "bfloat16"),
            cache_mib=CACHE_MIB,
            health="/readyz",
        ),
        Engine("transformers bf16", lambda shape, port: _peer("serve_transformers.py", shape.folder(), port)),
    ]


def _ours(shape: Shape, port: int, *options: str) -> list[str]:
    cache = ["--model-name", "bench", "--kv-cache-mib", str(CACHE_MIB), "--database", "off", "--log-level", "warning"]
    serve = [sys.executable, "-P", "-m", "lavatube.cli", "serve", str(shape.folder()), "--port", str(port)]
    return [*serve, *cache, *options]


def _peer(program: str, folder: Path, port: int, python: str = sys.executable) -> list[str]:
    return [python, str(PEERS / program), str(folder), str(port)]
