"""Phase 1 against the floor of the same bytes and beside its peers: nginx on loopback, whole processes, all in turn.

Each way runs twice in a row in each round, and the second time counts: where a virtual machine gives memory that was
free for a second or two back to its host, taking it again costs several times as much, and the order of the ways would
decide. `BENCH_MIB` is the size of the weights (default 1024), `BENCH_NGINX` the server's program, `BENCH_DIR` where it
all lies (default: the temporary folder; on a tmpfs the disk plays no part), `BENCH_ROUNDS` how often (default 3),
`BENCH_PARTS` what of it (default: free limited busy bytes), `BENCH_WAYS` which ways beside the floor (part of their
names). Beside the floor stands what the processors allow: its own work, the server's and sha256, each measured in the
same run. Needs `cc` for the floor and `openssl` for a certificate; `aria2c` and `huggingface_hub` take part where they
are installed. Says the machine's load, for whose sake only ratios of one round are worth reading.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.cdn import MIB, SHARDS, Cdn, serve_weights
from bench.downloaders import FLOOR, PULL, Command, Cost, pull, pull_with, run, ways_to
from bench.table import show
from lavatube.weights.digest import new_digest

LIMIT_MIB_S = 50
CONNECTIONS = (4, 8, 16)
SETTLE_S = 0.3
LOOK_S = 0.02

Ways = dict[str, list[Command]]
Figures = dict[str, list[float]]


def main() -> None:
    """Print the tables."""
    size_mib = int(os.environ.get("BENCH_MIB", "1024"))
    rounds = int(os.environ.get("BENCH_ROUNDS", "3"))
    parts = os.environ.get("BENCH_PARTS", "free limited busy bytes").split()
    where = os.environ.get("BENCH_DIR")
    with (
        tempfile.TemporaryDirectory(prefix="lavatube-bench-", dir=where) as name,
        serve_weights(Path(name), size_mib, LIMIT_MIB_S) as cdn,
    ):
        print(f"{size_mib} MiB in {SHARDS} files, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        out = Path(name) / "out"
        if "free" in parts:
            _measure_free(cdn, out, rounds)
        if "limited" in parts:
            _measure_limited(cdn, out, rounds, size_mib)
        if "busy" in parts:
            _measure_busy(cdn, out, rounds)
        if "bytes" in parts:
            _measure_bytes(cdn, out, size_mib)


def _measure_free(cdn: Cdn, out: Path, rounds: int) -> None:
    wanted = os.environ.get("BENCH_WAYS", "")
    ways = {way: commands for way, commands in ways_to(cdn, out).items() if way == FLOOR or wanted in way}
    costs = _measure(cdn, ways, out, rounds)
    wall = {way: [cost.wall_s for cost in row] for way, row in costs.items()}
    show("whole processes (repeat: python -m bench cold_start)", wall, "s")
    show("their CPU", {way: [cost.cpu_s for cost in row] for way, row in costs.items()}, "CPU s")
    show("over the floor of the same round", _ratios(wall, wall[FLOOR]), "x")
    _show_least(costs, statistics.median(_hash_s(cdn) for _ in range(rounds)))
    run([pull(cdn.free, out)], cdn)
    cached = [run([pull(cdn.free, out)], cdn).wall_s for _ in range(rounds)]
    show("all cached", {PULL: cached}, "s")


def _show_least(costs: Mapping[str, Sequence[Cost]], hash_s: float) -> None:
    """What verified bytes cost at least: the floor's work, serving it, and sha256, on processors that never idle."""
    receive_s = statistics.median(cost.cpu_s for cost in costs[FLOOR])
    serve_s = statistics.median(cost.server_cpu_s for cost in costs[FLOOR])
    least_s = (receive_s + serve_s + hash_s) / (os.cpu_count() or 1)
    over = least_s / statistics.median(cost.wall_s for cost in costs[FLOOR])
    print(
        f"to receive and write {receive_s:.2f}, to serve {serve_s:.2f}, to hash {hash_s:.2f} CPU s: "
        f"at least {least_s:.2f} s on {os.cpu_count()} cores, {over:.2f} x the floor"
    )
    for way, row in costs.items():
        print(f"  {statistics.median(cost.wall_s for cost in row) / least_s:5.2f} x that: {way}")


def _hash_s(cdn: Cdn) -> float:
    """CPU seconds for the sha256 of as many bytes as there are, from the cache, in two threads at a time."""
    piece, num_pieces = os.urandom(MIB), cdn.size_bytes // MIB // 2
    start = threading.Barrier(2)

    def add_up() -> None:
        digest = new_digest()
        start.wait()
        for _ in range(num_pieces):
            digest.update(piece)

    begun_s, threads = time.process_time(), [threading.Thread(target=add_up) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.process_time() - begun_s


def _measure_limited(cdn: Cdn, out: Path, rounds: int, size_mib: int) -> None:
    ways = {
        f"lavatube pull, {count} x {LIMIT_MIB_S} MiB/s": [pull_with(cdn.limited, out, count)] for count in CONNECTIONS
    }
    floors = [size_mib / (count * LIMIT_MIB_S) for count in CONNECTIONS]
    costs = _measure(cdn, ways, out, rounds)
    ratios = {
        way: [cost.wall_s / floor for cost in row] for (way, row), floor in zip(costs.items(), floors, strict=True)
    }
    show(f"each connection limited, whole processes over {size_mib} MiB / (connections x limit)", ratios, "x")


def _measure_busy(cdn: Cdn, out: Path, rounds: int) -> None:
    """Over TLS, as the server has it done, with nothing beside it and beside a program that never waits."""
    command = pull_with(cdn.secure, out, CONNECTIONS[0], {"SSL_CERT_FILE": str(cdn.certificate)})
    walls: Figures = {"alone": [], "beside a thread of Python that never waits": []}
    for _ in range(rounds):
        for way, row in walls.items():
            _clean(out)
            spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if way != "alone" else None
            try:
                row.append(run([command], cdn).wall_s)
            finally:
                if spinner is not None:
                    spinner.kill()
                    spinner.wait()
    show(f"https, {CONNECTIONS[0]} connections of {LIMIT_MIB_S} MiB/s", walls, "s")
    show("over the one alone in the same round", _ratios(walls, walls["alone"]), "x")


def _measure_bytes(cdn: Cdn, out: Path, size_mib: int) -> None:
    """The memory of a pull; what the server sent, as a multiple of what there is, and how much was more than once."""
    _clean(out)
    print(f"lavatube pull had at most {_resident_mib(pull(cdn.free, out)):.0f} MiB resident")
    _clean(out)
    cdn.forget_sent()
    run([pull(cdn.free, out)] * 2, cdn)
    twice = cdn.sent_bytes()
    _clean(out)
    cdn.forget_sent()
    killed = pull(cdn.limited, out).start()
    while cdn.sent_bytes() < size_mib * MIB / 2:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    time.sleep(SETTLE_S)  # until the server has noticed, and told how much it had sent
    before = cdn.sent_bytes()
    run([pull(cdn.limited, out)], cdn)
    after = cdn.sent_bytes() - before
    whole = size_mib * MIB
    print(f"two processes on one cache: {twice / whole:.3f} x the bytes were sent")
    print(
        f"killed (SIGKILL) when {before / MIB:.0f} MiB had been sent, then started again: {after / MIB:.0f} MiB; "
        f"{(before + after - whole) / MIB:.0f} MiB of {size_mib} came twice"
    )


def _resident_mib(command: Command) -> float:
    """The most that was resident of a process at once, with its libraries; looked at until it ends."""
    process, most_kib = command.start(), 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        most_kib = max(most_kib, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
        time.sleep(LOOK_S)
    return most_kib / 1024


def _measure(cdn: Cdn, ways: Ways, out: Path, rounds: int) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, commands in ways.items():
            for _again in range(2):
                _clean(out)
                os.sync()
                cost = run(commands, cdn)
            costs[way].append(cost)
            _clean(out)
    return costs


def _ratios(figures: Figures, floor: list[float]) -> Figures:
    return {way: [value / least for value, least in zip(row, floor, strict=True)] for way, row in figures.items()}


def _clean(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
