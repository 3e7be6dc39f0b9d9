"""Digests of streams that come at the same time, against hashlib's."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread
from types import ModuleType

import pytest

from lavatube.weights.digest import Adding, Digest, Unaided, new_digest

MIB = 1024 * 1024
LIMIT_S = 20.0
CUTS = (1, 3, 55, 56, 63, 64, 65, 119, 120, 128, 5000, 70_000)
WITHOUT_LIBRARY = """
import sys
sys.modules["lavatube.weights._sha256"] = None
from lavatube.weights.digest import Digest, new_digest
digest = new_digest()
digest.update(b"volcano")
print(digest.hexdigest())
"""


@pytest.mark.parametrize("size", [*range(130), 4095, 4096, 4097, 32 * 1024 + 1, 3 * MIB + 17])
def test_whatever_the_pieces(size: int) -> None:
    draw = random.Random(size)
    data, digest, at = draw.randbytes(size), new_digest(), 0
    while at < size:
        cut = draw.choice(CUTS) if size < MIB else draw.randint(1, MIB)
        digest.update(memoryview(data)[at : at + cut])
        at += cut
        assert digest.digest() == hashlib.sha256(data[:at]).digest()
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()


def test_a_copy_goes_on_alone() -> None:
    digest = new_digest()
    digest.update(b"lava")
    other = digest.copy()
    other.update(b"tube")
    assert digest.hexdigest() == hashlib.sha256(b"lava").hexdigest()
    assert other.hexdigest() == hashlib.sha256(b"lavatube").hexdigest()


@pytest.mark.parametrize("num_threads", [2, 3, 8])
def test_threads_at_once(num_threads: int) -> None:
    """Each with pieces of other lengths, so that one is done while the other one that it was paired with is not."""

    def add(digest: Digest, twin: Digest, piece: memoryview, draw: random.Random) -> None:
        digest.update(piece)
        twin.update(piece)

    _compare_in_threads(num_threads, add)


def test_lenders_of_many_threads_at_once() -> None:
    """While they do something else for a moment, and then want it back."""

    def add(digest: Digest, twin: Digest, piece: memoryview, draw: random.Random) -> None:
        with Adding(piece) as add_to:
            add_to(digest)
            time.sleep(draw.choice([0.0, draw.random() / 1000]))
            twin.update(piece)

    _compare_in_threads(6, add)


def _compare_in_threads(num_threads: int, add: Callable[[Digest, Digest, memoryview, random.Random], None]) -> None:
    """Each thread has a digest of its own and a twin from hashlib, to which `add` adds pieces of all lengths."""
    start = Barrier(num_threads)

    def add_up(thread: int) -> tuple[str, str]:
        draw = random.Random(thread)
        data, digest, twin = draw.randbytes(MIB), new_digest(), Unaided(hashlib.sha256())
        start.wait()
        for _ in range(60):
            add(digest, twin, memoryview(data)[: draw.randint(0, MIB)], draw)
        return digest.hexdigest(), twin.hexdigest()

    with ThreadPoolExecutor(num_threads) as pool:
        for seen, expected in pool.map(add_up, range(num_threads)):
            assert seen == expected


def test_two_threads_at_one_digest() -> None:
    """It says so, rather than to be the digest of neither's bytes."""
    sha256 = _sha256()
    digest, piece, is_refused, num_pieces = sha256.sha256(), bytes(8 * MIB), Event(), 0

    def add() -> None:
        nonlocal num_pieces
        while not is_refused.is_set():
            digest.update(piece)
            num_pieces += 1

    thread = Thread(target=add)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="another thread"):
            _ask_for(digest, LIMIT_S)
    finally:
        is_refused.set()
        thread.join()
    assert digest.hexdigest() == hashlib.sha256(piece * num_pieces).hexdigest()


def test_whoever_comes_takes_what_is_lent() -> None:
    """Pieces of all lengths, some added by their own thread and some, while it sleeps, by the other one."""
    draw = random.Random(7)
    data, lenders, twins = draw.randbytes(MIB), [new_digest() for _ in range(4)], [hashlib.sha256() for _ in range(4)]
    for _ in range(40):
        pieces = [memoryview(data)[: draw.randint(0, MIB)] for _ in lenders]
        for lender, twin, piece in zip(lenders, twins, pieces, strict=True):
            lender.lend(piece)
            twin.update(piece)
        new_digest().update(data)  # takes some of them along
        for lender in lenders:
            lender.settle()
    assert [lender.hexdigest() for lender in lenders] == [twin.hexdigest() for twin in twins]


@pytest.mark.parametrize("make", [new_digest, lambda: Unaided(hashlib.sha256())])
def test_added_by_the_end_of_the_block_whatever_happens_in_it(make: Callable[[], Digest]) -> None:
    data, digests = memoryview(bytes(MIB)), [make(), make()]

    def fill_the_disk() -> None:
        with Adding(data) as add_to:
            for digest in digests:
                add_to(digest)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fill_the_disk()
    assert {digest.hexdigest() for digest in digests} == {hashlib.sha256(data).hexdigest()}


def test_what_is_lent_is_neither_read_nor_added_to() -> None:
    sha256 = _sha256()
    digest, data = sha256.sha256(), bytes(MIB)
    digest.settle()  # of nothing
    digest.lend(data)
    for call in (digest.hexdigest, digest.copy, lambda: digest.lend(data), lambda: digest.update(data)):
        with pytest.raises(RuntimeError, match="another thread"):
            call()
    digest.settle()
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()


def test_a_digest_that_goes_while_it_is_lent() -> None:
    """Nobody is left with its bytes, which are free again."""
    data = bytearray(MIB)
    digest = new_digest()
    digest.lend(data)
    with pytest.raises(BufferError):
        data.clear()
    del digest
    data.clear()
    other = new_digest()
    other.update(bytes(MIB))
    assert other.hexdigest() == hashlib.sha256(bytes(MIB)).hexdigest()


def _sha256() -> ModuleType:
    sha256: ModuleType = pytest.importorskip("lavatube.weights._sha256")
    if not sha256.is_supported():
        pytest.skip("this processor has no instructions for sha256")
    return sha256


def _ask_for(digest: Digest, limit_s: float) -> None:
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        digest.hexdigest()


@pytest.mark.parametrize("nonsense", ["text", None, memoryview(bytes(8))[::2]])
def test_what_is_no_bytes(nonsense: object) -> None:
    with pytest.raises((TypeError, BufferError)):
        new_digest().update(nonsense)  # type: ignore[arg-type]


def test_without_the_library() -> None:
    ran = subprocess.run([sys.executable, "-c", WITHOUT_LIBRARY], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == hashlib.sha256(b"volcano").hexdigest()
