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

from bench.engine.shapes import CACHE, Shape
from bench.processes import resident_bytes

PEERS: Final = Path(__file__).parent.parent / "peers"
ENVIRONMENT: Final = Path(os.environ.get("BENCH_PEERS", ".venv-peers")).absolute()
START_LIMIT_S: Final = 600.0
LLAMA: Final = ENVIRONMENT / "llama.cpp" / "bin"
VLLM: Final = Path(os.environ.get("BENCH_VLLM", ".venv-vllm")).absolute()
CACHE_MIB: Final = 256

Command = Callable[[Shape, int], list[str]]
"""A shape and a port → what starts the server."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to serve a shape. `prepare` makes what it loads, once; `needs` must exist, else it is left out."""

    name: str
    command: Command
    bits: float = 16  # of a weight of the decoder's layers
    other_bits: float = 16  # of the tower, the projector and the head; embeddings have 16
    cache_mib: int = 0  # what it keeps for keys and values, where that is known
    health: str = "/health"
    needs: Path = PEERS
    prepare: Callable[[Shape], None] = lambda shape: None
    environ: dict[str, str] = field(default_factory=dict)
    is_serial: bool = False  # answers one question after the other

    @property
    def is_here(self) -> bool:
        return self.needs.exists()

    def takes(self, *, is_crowd: bool) -> bool:
        """Of a serial one, questions that come at once say no more than one does."""
        return not (is_crowd and self.is_serial)


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
        _ours("bf16", "--dtype", "bfloat16", bits=16, other_bits=16),
        _ours("int8", "--quantize", "int8", bits=8.0625, other_bits=8.0625),  # with the scales of their groups
        _ours("int4", "--quantize", "int4", bits=4.25, other_bits=8.0625),
        _transformers("bf16", "bfloat16", 16),
        _transformers("fp32", "float32", 32),
        *(
            _llama(name, kind, bits)
            for name, kind, bits in (("bf16", "", 16), ("Q8_0", "Q8_0", 8.5), ("Q4_K_M", "Q4_K_M", 4.9))
        ),
        *(_openvino(kind, bits) for kind, bits in (("fp16", 16), ("int8", 8), ("int4", 4.5))),
        *_vllms(),
    ]


def _ours(name: str, *options: str, bits: float, other_bits: float) -> Engine:
    program = [sys.executable, "-P", "-m", "lavatube.cli", "serve", "--model-name", "bench", "--database", "off"]
    cache = ["--kv-cache-mib", str(CACHE_MIB)]

    def command(shape: Shape, port: int) -> list[str]:
        return [*program, *cache, *options, "--port", str(port), str(shape.folder())]

    return Engine(f"lavatube {name}", command, bits, other_bits, CACHE_MIB, health="/readyz")


def _transformers(name: str, dtype: str, bits: float) -> Engine:
    """Float32 is what it is quickest in where a processor has no bfloat16."""

    def command(shape: Shape, port: int) -> list[str]:
        return [sys.executable, str(PEERS / "serve_transformers.py"), str(shape.folder()), str(port), dtype]

    return Engine(f"transformers {name}", command, bits, bits, is_serial=True)


def _llama(name: str, kind: str, bits: float) -> Engine:
    """llama.cpp's server, with as many slots as there are requests at once. `kind` is what the text is quantised to."""

    def files(shape: Shape) -> Path:
        return CACHE / "llama.cpp" / shape.name

    def prepare(shape: Shape) -> None:
        text, quantised = files(shape) / "text.gguf", files(shape) / f"text{kind}.gguf"
        if not text.exists():
            python = str(ENVIRONMENT / "bin" / "python")
            subprocess.run([python, str(PEERS / "write_gguf.py"), str(shape.folder()), str(text.parent)], check=True)
        if not quantised.exists():
            subprocess.run([str(LLAMA / "llama-quantize"), str(text), str(quantised), kind], check=True)

    def command(shape: Shape, port: int) -> list[str]:
        model = ["-m", str(files(shape) / f"text{kind}.gguf"), "--mmproj", str(files(shape) / "mmproj.gguf")]
        server = [str(LLAMA / "llama-server"), "--port", str(port), "-t", str(os.cpu_count()), "-np", "8"]
        return [*server, "-c", "8192", "--no-webui", *model]

    return Engine(f"llama.cpp {name}", command, bits, needs=LLAMA / "llama-server", prepare=prepare)


def _openvino(kind: str, bits: float) -> Engine:
    """OpenVINO GenAI over what its own exporter makes of the folder."""

    def folder(shape: Shape) -> Path:
        return CACHE / "openvino" / f"{shape.name}-{kind}"

    def prepare(shape: Shape) -> None:
        if not folder(shape).exists():
            export = [str(ENVIRONMENT / "bin" / "optimum-cli"), "export", "openvino", "-m", str(shape.folder())]
            options = ["--task", "image-text-to-text", "--weight-format", kind]
            subprocess.run([*export, *options, str(folder(shape))], check=True)

    def command(shape: Shape, port: int) -> list[str]:
        python = str(ENVIRONMENT / "bin" / "python")
        return [python, str(PEERS / "serve_openvino.py"), str(folder(shape)), str(port)]

    return Engine(f"openvino {kind}", command, bits, needs=ENVIRONMENT / "bin" / "optimum-cli", prepare=prepare)


def _vllms() -> list[Engine]:
    """What vLLM's build for CPUs can do here: its products of bfloat16 and of 4 bits want AVX-512."""
    if "avx512f" not in Path("/proc/cpuinfo").read_text():
        return [_vllm("fp32", "float32", 32, 32), _vllm("int8", "float32", 8, 8)]
    kinds = (("bf16", 16, 16), ("int8", 8, 8), ("int4", 4.125, 16))
    return [_vllm(name, "bfloat16", bits, other_bits) for name, bits, other_bits in kinds]


def _vllm(name: str, dtype: str, bits: float, other_bits: float) -> Engine:
    """Its server on all cores (left alone it keeps one back), with the OpenMP that its documentation asks for.

    `vllm serve` looks for a package of another name than this build has, hence the module.
    """
    cache_gib = 1
    environ = {
        "LD_PRELOAD": str(VLLM / "lib" / "libiomp5.so"),
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
        "VLLM_CPU_KVCACHE_SPACE": str(cache_gib),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }

    def folder(shape: Shape) -> Path:
        return CACHE / "vllm" / f"{shape.name}-{name}"

    def prepare(shape: Shape) -> None:
        if not folder(shape).exists():
            writer = [str(VLLM / "bin" / "python"), str(PEERS / "write_vllm.py")]
            subprocess.run([*writer, str(shape.folder()), str(folder(shape)), name], check=True)

    def command(shape: Shape, port: int) -> list[str]:
        server = [str(VLLM / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"]
        address = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "bench"]
        longest = min(shape.recipe.max_positions, 8192)
        size = ["--dtype", dtype, "--max-model-len", str(longest), "--max-num-seqs", "8"]
        return [*server, *address, *size, "--model", str(folder(shape))]

    return Engine(
        f"vllm {name}",
        command,
        bits,
        other_bits,
        1024 * cache_gib,
        needs=VLLM / "bin" / "python",
        prepare=prepare,
        environ=environ,
    )
