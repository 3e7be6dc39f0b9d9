"""Phase 1 against the floor of the same bytes: nginx on loopback, whole processes, all ways in turn in each round.

`BENCH_MIB` is the size of the weights (default 1024), `BENCH_NGINX` the server's program, `BENCH_DIR` where it all lies
(default: the temporary folder; on a tmpfs the disk plays no part). Needs `cc` for the floor. Says the machine's load,
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
from functools import partial
from pathlib import Path

from bench.table import show
from lavatube.weights.manifest import FILE_NAME, build_manifest

ROUNDS = 3
MIB = 1024 * 1024
SHARDS = 4
CHUNK_MIB = 16
LIMIT_MIB_S = 50
CONNECTIONS = (4, 8, 16)
SETTLE_S = 0.3
PULL = [sys.executable, "-P", "-m", "lavatube.cli", "pull", "--json"]
PULL_WITH = """
import sys
from pathlib import Path
from lavatube.weights.provision import Policy, ProvisionOptions, provision
uri, cache, connections = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
policy = Policy(connections=connections, max_connections=connections)
provision(uri, ProvisionOptions(cache=cache, policy=policy), lambda progress: None)
"""

Ways = dict[str, Callable[[], None]]
Figures = dict[str, list[float]]


def main() -> None:
    """Print the tables."""
    size_mib = int(os.environ.get("BENCH_MIB", "1024"))
    where = os.environ.get("BENCH_DIR")
    with tempfile.TemporaryDirectory(prefix="lavatube-bench-", dir=where) as name, _nginx(Path(name)) as root:
        folder = Path(name)
        _write_weights(folder / "www", size_mib)
        print(f"{size_mib} MiB in {SHARDS} files, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        _measure_unlimited(folder, root)
        _measure_limited(folder, root, size_mib)
        _measure_bytes(folder, root, size_mib)


def _measure_unlimited(folder: Path, root: str) -> None:
    receive = folder / "receive"
    subprocess.run(["cc", "-O2", "-pthread", "-o", receive, Path(__file__).with_name("receive.c")], check=True)
    floor = "receive to files, C (unverified)"
    ways: Ways = {
        floor: lambda: _receive(receive, root, folder / "out"),
        "curl, 4 connections, to files (unverified)": lambda: _curl(f"{root}/free", folder / "out"),
        "curl, one after another, through sha256sum": lambda: _curl_sha256(f"{root}/free"),
        "lavatube pull (verified, in the cache)": lambda: _pull(f"{root}/free", folder / "cold"),
        "lavatube pull, all cached": lambda: _pull(f"{root}/free", folder / "warm"),
        "two at once on one cache": lambda: _pull_twice(f"{root}/free", folder / "cold"),
    }
    for run in ways.values():  # memory that was never touched is several times slower
        run()
        _clean(folder)
    wall, cpu = _measure(ways, folder)
    show("whole processes (repeat: python -m bench cold_start)", wall, "s")
    show("their CPU", cpu, "CPU s")
    show("over the floor of the same round", _ratios(wall, wall[floor]), "x")


def _measure_limited(folder: Path, root: str, size_mib: int) -> None:
    ways: Ways = {
        f"lavatube pull, {count} x {LIMIT_MIB_S} MiB/s": partial(_pull_with, f"{root}/slow", folder / "cold", count)
        for count in CONNECTIONS
    }
    wall, _ = _measure(ways, folder)
    floors = [size_mib / (count * LIMIT_MIB_S) for count in CONNECTIONS]
    ratios = {
        way: [value / floor for value in values] for (way, values), floor in zip(wall.items(), floors, strict=True)
    }
    show(f"each connection limited, whole processes over {size_mib} MiB / (connections x limit)", ratios, "x")


def _measure_bytes(folder: Path, root: str, size_mib: int) -> None:
    """What the server sent, as a multiple of what there is, and how much of it was more than once."""
    _clean(folder)
    _sent_bytes(folder)
    _pull_twice(f"{root}/free", folder / "cold")
    twice = _sent_bytes(folder)
    _clean(folder)
    killed = subprocess.Popen(_pull_command(f"{root}/slow", folder / "cold"), stdout=subprocess.DEVNULL)
    while sum(int(line) for line in (folder / "access.log").read_text().split()) < size_mib * MIB / 2:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    time.sleep(SETTLE_S)  # until the server has noticed, and told how much it had sent
    before = _sent_bytes(folder)
    _pull(f"{root}/slow", folder / "cold")
    after = _sent_bytes(folder)
    whole = size_mib * MIB
    print(f"two processes on one cache: {twice / whole:.3f} x the bytes were sent")
    print(
        f"killed (SIGKILL) when {before / MIB:.0f} MiB had been sent, then started again: {after / MIB:.0f} MiB; "
        f"{(before + after - whole) / MIB:.0f} MiB of {size_mib} came twice"
    )


def _sent_bytes(folder: Path) -> int:
    """Since the last call."""
    log = folder / "access.log"
    sent = sum(int(line) for line in log.read_text().split())
    os.truncate(log, 0)
    return sent


def _ratios(figures: Figures, floor: list[float]) -> Figures:
    return {way: [value / least for value, least in zip(row, floor, strict=True)] for way, row in figures.items()}


def _clean(folder: Path) -> None:
    for name in ("out", "cold"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _measure(ways: Ways, folder: Path) -> tuple[Figures, Figures]:
    """Seconds and CPU seconds of each way."""
    wall: Figures = {}
    cpu: Figures = {}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            _clean(folder)
            os.sync()
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
    (folder / FILE_NAME).write_text(build_manifest(folder, "bench", chunk_bytes=CHUNK_MIB * MIB).to_json())


@contextmanager
def _nginx(folder: Path) -> Iterator[str]:
    (folder / "www").mkdir()
    folder.chmod(0o755)
    port = random.randrange(20000, 60000)
    (folder / "nginx.conf").write_text(f"""
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 2; user root;
events {{ worker_connections 256; }}
http {{
  log_format sent '$body_bytes_sent'; access_log {folder}/access.log sent; sendfile on; tcp_nopush on;
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


def _receive(program: Path, root: str, out: Path) -> None:
    out.mkdir()
    pairs = [argument for name in _names() for argument in (f"/free/{name}", str(out / name))]
    subprocess.run([program, root.rpartition(":")[2], *pairs], check=True)


def _curl_sha256(root: str) -> None:
    commands = "; ".join(f"curl -sS {root}/{name} | sha256sum >/dev/null" for name in _names())
    subprocess.run(["sh", "-c", commands], check=True)


def _pull_command(root: str, cache: Path) -> list[str]:
    return [*PULL, root, "--cache", str(cache)]


def _pull(root: str, cache: Path) -> None:
    subprocess.run(_pull_command(root, cache), check=True, stdout=subprocess.DEVNULL)


def _pull_with(root: str, cache: Path, connections: int) -> None:
    subprocess.run([sys.executable, "-P", "-c", PULL_WITH, root, str(cache), str(connections)], check=True)


def _pull_twice(root: str, cache: Path) -> None:
    children = [subprocess.Popen(_pull_command(root, cache), stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
