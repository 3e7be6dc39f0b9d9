"""Real processes on one cache: killed, racing, waiting, and reading where nobody may write."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lavatube.weights.options import ProvisionOptions
from lavatube.weights.provision import provision
from tests.cdn import Cdn
from tests.weights.conftest import CHUNK, POLICY, SIZES, contents, expected

REPOSITORY = Path(__file__).parent.parent.parent
TOTAL_BYTES = sum(SIZES.values())
SMALL_BYTES = 64 * 1024  # config, tokenizer and manifest, generously
NUM_CHUNKS = 10 + 3


def start(
    uri: str, cache: Path, *, lock_wait_s: float = 30.0, flags: tuple[str, ...] = (), by: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """`by` is a command that starts it."""
    command = [*by, sys.executable, "-m", "tests.weights.puller", uri, str(cache), str(lock_wait_s), *flags]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def answer(child: subprocess.Popen[str]) -> dict[str, object]:
    stdout, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    value = json.loads(stdout)
    assert isinstance(value, dict)
    return value


def wait_until(is_true: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_kill_and_resume(share: float, cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    child = start(cdn.url("slow"), options.cache)
    wait_until(lambda: cdn.log.sent_bytes >= share * TOTAL_BYTES)
    kill(child)
    assert not list(options.cache.glob("trees/*.ready"))
    sent_before, cdn.log.sent_bytes = cdn.log.sent_bytes, 0
    provisioned = provision(cdn.url("ok"), options, lambda _: None)
    assert contents(provisioned.folder) == expected(origin)
    in_flight = POLICY.connections * (CHUNK + 128 * 1024)  # a chunk each, and what lay in the sockets
    assert cdn.log.sent_bytes <= TOTAL_BYTES - sent_before + in_flight + SMALL_BYTES
    assert not list((options.cache / "parts").iterdir())


@pytest.mark.parametrize("num_runs", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_kill_at_random_instants(num_runs: int, cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    """From before the first import to after the last rename; whatever is called ready must be right."""
    generator = random.Random(1)
    num_killed = 0
    for _ in range(num_runs):
        child = start(cdn.url("slow"), options.cache)
        try:
            child.wait(generator.uniform(0.05, 0.9))
        except subprocess.TimeoutExpired:
            num_killed += 1
        kill(child)
        for tree in options.cache.glob("trees/*.ready"):
            assert contents(tree.with_suffix("")) == expected(origin)
            shutil.rmtree(options.cache)
    cdn.log.sent_bytes = 0
    assert contents(provision(cdn.url("ok"), options, lambda _: None).folder) == expected(origin)
    assert num_killed
    assert not list((options.cache / "parts").iterdir())


@pytest.mark.slow
def test_kills_cost_what_was_in_flight(cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    """Many starts, each killed in the middle: together they fetch the bytes once, and a bounded rest for each kill."""
    generator, num_kills = random.Random(1), 0
    while not list(options.cache.glob("trees/*.ready")):
        child = start(cdn.url("slow"), options.cache)
        enough = cdn.log.sent_bytes + generator.uniform(0.1, 0.4) * TOTAL_BYTES
        wait_until(lambda enough=enough, child=child: cdn.log.sent_bytes > enough or child.poll() is not None)
        num_kills += child.poll() is None
        kill(child)
    assert num_kills > 2
    in_flight = POLICY.connections * (CHUNK + 128 * 1024)
    assert cdn.log.sent_bytes <= TOTAL_BYTES + num_kills * in_flight + (num_kills + 1) * SMALL_BYTES
    assert contents(next(options.cache.glob("trees/*.ready")).with_suffix("")) == expected(origin)


@pytest.mark.parametrize("num_processes", [2, 8])
def test_processes_download_once(num_processes: int, cdn: Cdn, origin: Path, tmp_path: Path) -> None:
    children = [start(cdn.url("slow"), tmp_path / "cache") for _ in range(num_processes)]
    answers = [answer(child) for child in children]
    assert sorted(bool(given["from_cache"]) for given in answers) == [False] + [True] * (num_processes - 1)
    assert len(cdn.log.weights()) == NUM_CHUNKS
    assert contents(Path(str(answers[0]["folder"]))) == expected(origin)


def test_waiter_takes_over_from_a_killed_holder(cdn: Cdn, origin: Path, tmp_path: Path) -> None:
    holder = start(cdn.url("slow"), tmp_path / "cache")
    wait_until(lambda: len(cdn.log.weights()) > 2)
    waiter = start(cdn.url("slow"), tmp_path / "cache")
    wait_until(lambda: len([request for request in cdn.log.requests if request.name == "lavatube.lock.json"]) == 2)
    kill(holder)
    assert contents(Path(str(answer(waiter)["folder"]))) == expected(origin)
    assert len(cdn.log.weights()) <= NUM_CHUNKS + POLICY.connections


def test_a_file_that_the_system_lets_grow_no_further(cdn: Cdn, origin: Path, options: ProvisionOptions) -> None:
    """The kernel refuses, as it does when a disk or a quota is full; and the next start goes on."""
    limited = ("sh", "-c", 'ulimit -f 1000; exec "$@"', "sh")
    given = answer(start(cdn.url("ok"), options.cache, by=limited))
    assert given["code"] == "cache_unusable"
    assert not list(options.cache.glob("trees/*"))
    assert contents(provision(cdn.url("ok"), options, lambda _: None).folder) == expected(origin)


def test_without_the_lock_both_are_right(cdn: Cdn, origin: Path, tmp_path: Path) -> None:
    children = [start(cdn.url("slow"), tmp_path / "cache", lock_wait_s=0) for _ in range(2)]
    for child in children:
        assert contents(Path(str(answer(child)["folder"]))) == expected(origin)
    assert not list((tmp_path / "cache" / "parts").iterdir())


def test_ready_set_is_used_without_a_write(cdn: Cdn, origin: Path, tmp_path: Path) -> None:
    answer(start(cdn.url("ok"), tmp_path / "cache"))
    given = answer(start(cdn.url("ok"), tmp_path / "cache", flags=("--watch-writes",)))
    assert given == {"folder": given["folder"], "from_cache": True, "writes": []}
    shutil.rmtree(tmp_path / "cache" / "locks")
    given = answer(start(cdn.url("ok"), tmp_path / "cache", flags=("--watch-writes",)))
    assert given["writes"] == []


def test_the_watch_sees_writes(cdn: Cdn, tmp_path: Path) -> None:
    given = answer(start(cdn.url("ok"), tmp_path / "cache", flags=("--watch-writes",)))
    assert given["writes"]
