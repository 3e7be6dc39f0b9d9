"""Digests of streams that come at the same time, against hashlib's."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread

import pytest

from lavatube.weights.digest import Digest, new_digest

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
    start = Barrier(num_threads)

    def add_up(thread: int) -> tuple[str, str]:
        draw = random.Random(thread)
        data, digest, twin = draw.randbytes(MIB), new_digest(), hashlib.sha256()
        start.wait()
        for _ in range(60):
            piece = memoryview(data)[: draw.randint(0, MIB)]
            digest.update(piece)
            twin.update(piece)
        return digest.hexdigest(), twin.hexdigest()

    with ThreadPoolExecutor(num_threads) as pool:
        for seen, expected in pool.map(add_up, range(num_threads)):
            assert seen == expected


def test_two_threads_at_one_digest() -> None:
    """It says so, rather than to be the digest of neither's bytes."""
    sha256 = pytest.importorskip("lavatube.weights._sha256")
    if not sha256.is_supported():
        pytest.skip("this processor has no instructions for sha256")
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
