"""Phase 1 against the floor of the same bytes: nginx on loopback, whole processes, all ways in turn in each round.

`BENCH_MIB` is the size of the weights (default 1024), `BENCH_NGINX` the server's program. Says the machine's load,
for whose sake only ratios of one round are worth reading.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.table import show
from lavatube.weights.manifest import FILE_NAME, build_manifest

ROUNDS = 3
MIB = 1024 * 1024
SHARDS = 4
LIMIT_MIB_S = 50
PULL = [sys.executable, "-P", "-m", "lavatube.cli", "pull", "--json"]


def main() -> None:
    """Print the tables."""
    size_mib = int(os.environ.get("BENCH_MIB", "1024"))
    with tempfile.TemporaryDirectory(prefix="lavatube-bench-") as name, _nginx(Path(name)) as root:
        folder = Path(name)
        _write_weights(folder / "www", size_mib)
        print(f"{size_mib} MiB in {SHARDS} files, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        ways: dict[str, Callable[[], None]] = {
            "curl, 4 connections, to files (unverified)": lambda: _curl(f"{root}/free", folder / "out"),
            "curl, one after another, through sha256sum": lambda: _curl_sha256(f"{root}/free"),
            "lavatube pull (verified, in the cache)": lambda: _pull(f"{root}/free", folder / "cold"),
            f"curl, 4 x {LIMIT_MIB_S} MiB/s, to files": lambda: _curl(f"{root}/slow", folder / "out"),
            f"lavatube pull, 6 x {LIMIT_MIB_S} MiB/s": lambda: _pull(f"{root}/slow", folder / "cold"),
            "lavatube pull, all cached": lambda: _pull(f"{root}/free", folder / "warm"),
            "two at once on one cache": lambda: _pull_twice(f"{root}/free", folder / "cold"),
        }
        _pull(f"{root}/free", folder / "warm")
        wall, cpu = _measure(ways, [folder / "out", folder / "cold"])
        show("whole processes (repeat: python -m bench cold_start)", wall, "s")
        show("their CPU", cpu, "CPU s")


def _measure(
    ways: dict[str, Callable[[], None]], leftovers: list[Path]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    wall: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            for path in leftovers:
                shutil.rmtree(path, ignore_errors=True)
            before, started = os.times(), time.monotonic()
            run()
            wall.setdefault(way, []).append(time.monotonic() - started)
            after = os.times()
            used = (after.children_user - before.children_user) + (after.children_system - before.children_system)
            cpu.setdefault(way, []).append(used)
    return wall, cpu


def _write_weights(folder: Path, size_mib: int) -> None:
    for shard in range(SHARDS):
        with (folder / f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors").open("wb") as file:
            for _ in range(size_mib // SHARDS):
                file.write(os.urandom(MIB))
    (folder / FILE_NAME).write_text(build_manifest(folder, "bench", chunk_bytes=16 * MIB).to_json())


@contextmanager
def _nginx(folder: Path) -> Iterator[str]:
    (folder / "www").mkdir()
    folder.chmod(0o755)
    port = random.randrange(20000, 60000)
    (folder / "nginx.conf").write_text(f"""
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 2; user root;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on;
  server {{
    listen 127.0.0.1:{port};
    location /free/ {{ alias {folder}/www/; }}
    location /slow/ {{ alias {folder}/www/; limit_rate {LIMIT_MIB_S}m; }}
  }}
}}""")
    program = os.environ.get("BENCH_NGINX", "nginx")
    server = subprocess.Popen([program, "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        time.sleep(1.0)
        assert server.poll() is None, "nginx did not start"
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _names() -> list[str]:
    return [f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors" for shard in range(SHARDS)]


def _curl(root: str, out: Path) -> None:
    out.mkdir()
    urls = [argument for name in _names() for argument in ("-o", str(out / name), f"{root}/{name}")]
    subprocess.run(["curl", "-sS", "--no-progress-meter", "-Z", "--parallel-max", "4", *urls], check=True)


def _curl_sha256(root: str) -> None:
    commands = "; ".join(f"curl -sS {root}/{name} | sha256sum >/dev/null" for name in _names())
    subprocess.run(["sh", "-c", commands], check=True)


def _pull_command(root: str, cache: Path) -> list[str]:
    return [*PULL, root, "--cache", str(cache)]


def _pull(root: str, cache: Path) -> None:
    subprocess.run(_pull_command(root, cache), check=True, stdout=subprocess.DEVNULL)


def _pull_twice(root: str, cache: Path) -> None:
    children = [subprocess.Popen(_pull_command(root, cache), stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
