"""What the journal costs: 64 predictions that nobody waits for, at full speed, with a journal and without one.

Once with an engine (random weights, so small that a token costs it little), and once with one that computes nothing, so
that the front is all there is. The two servers are asked in turn.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine

from bench.processes import cpu_s_of
from lavatube.predictions.database import open_database
from lavatube.predictions.journal import Journal
from lavatube.predictions.leases import Leases
from lavatube.predictions.prediction import new_id
from lavatube.predictions.records import Piece, encode_pieces
from tests.checkpoints import write_checkpoint
from tests.flow.server import PureServer, Server

STREAMS = 64
ACTIVE = "lavatube_active_predictions 0.0"


def main() -> None:
    """Print the table."""
    rounds, database = int(os.environ.get("ROUNDS", "5")), os.environ.get("DATABASE", "")
    columns = ("without", "with", "with / without", "of the rounds", "front CPU a token, without and with")
    table = Table("engine", *columns, title_justify="left")
    table.title = f"{STREAMS} predictions at once, tokens/s, medians of {rounds} rounds; load {os.getloadavg()[0]:.1f}"
    with tempfile.TemporaryDirectory() as name:
        folder = write_checkpoint(Path(name) / "model", max_positions=4096, layers=6)
        (folder / "generation_config.json").write_text('{"eos_token_id": 0}')  # it never stops by itself
        journal = database or f"sqlite:///{name}/journal.db"
        for engine, kind, num_tokens in (("random weights, 6 layers", Server, 150), ("none", PureServer, 1500)):
            start = partial(kind, str(folder), Path(name) / "cache", "--max-sequences", str(STREAMS))
            table.add_row(engine, *_row(start, journal, num_tokens, rounds))
        commit_ms = _commit_ms(open_database(f"sqlite:///{name}/commits.db"))
    Console().print(table)
    print(f"a commit of two tokens of each of {STREAMS} predictions, to SQLite: {commit_ms:.2f} ms of CPU")
    print("repeat: python -m bench journal; DATABASE=postgresql://… is another journal than SQLite, ROUNDS how often")


def _row(start: partial[Server], journal: str, num_tokens: int, rounds: int) -> list[str]:
    environ = {"PURE_PERIOD_S": "0"}
    with start("--database", "off", environ=environ) as without, start("--database", journal, environ=environ) as kept:
        speeds: dict[Server, list[float]] = {without: [], kept: []}
        cpu_s = dict.fromkeys(speeds, 0.0)
        for server in speeds:
            server.wait_ready()
            _tokens_per_s(server, num_tokens)  # the first round of each warms up
        for number in range(rounds):
            for server in (without, kept) if number % 2 else (kept, without):
                cpu_s[server] -= cpu_s_of(server.process.pid)
                speeds[server].append(_tokens_per_s(server, num_tokens))
                cpu_s[server] += cpu_s_of(server.process.pid)
    ratios = [one / other for one, other in zip(speeds[kept], speeds[without], strict=True)]
    medians = [f"{statistics.median(speeds[server]):,.0f}" for server in (without, kept)]
    costs = " and ".join(f"{1e6 * cpu_s[server] / (rounds * STREAMS * num_tokens):.0f} µs" for server in speeds)
    return [*medians, f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f} to {max(ratios):.3f}", costs]


def _commit_ms(database: Engine, num_commits: int = 200) -> float:
    """As the journal's thread makes them while answers are written."""
    journal, leases = Journal(database), Leases(database)
    leases.enter()
    names = [new_id() for _ in range(STREAMS)]
    started_s = time.process_time()
    for number in range(num_commits):
        body = encode_pieces([Piece(0, [5], " word")] * 2)
        rows = [{"prediction_key": name, "first": 2 * number, "body": body} for name in names]
        with database.begin() as connection:
            leases.hold(connection)
            journal.write(connection, rows)
    return 1000 * (time.process_time() - started_s) / num_commits


def _tokens_per_s(server: Server, num_tokens: int) -> float:
    """From the first request until all have ended."""
    asked = {"model": "model", "input": "Tell me everything.", "background": True, "max_output_tokens": num_tokens}
    with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(8) as threads:

        def ask(_: int) -> None:
            client.post("/v1/responses", json=asked).raise_for_status()

        started = time.perf_counter()
        list(threads.map(ask, range(STREAMS)))
        while ACTIVE not in client.get("/metrics").text:
            time.sleep(0.05)
        return STREAMS * num_tokens / (time.perf_counter() - started)
