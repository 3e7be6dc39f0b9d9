"""One file that comes in pieces, in any order and more than once: what is kept is what was hashed."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import closing
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lavatube.weights.cache import Cache
from lavatube.weights.download import Download
from lavatube.weights.memory import memory_source
from lavatube.weights.source import SourceFile

CHUNK, SIZE = 16, 70
CONTENT = bytes(range(SIZE))
PIECES = [
    (start, min(start + 8, chunk + CHUNK, SIZE))
    for chunk in range(0, SIZE, CHUNK)
    for start in range(chunk, min(chunk + CHUNK, SIZE), 5)
]
SOURCE = memory_source("weights", {"model.safetensors": CONTENT})
FILE = SourceFile("model.safetensors", SIZE, "model.safetensors", hashlib.sha256(CONTENT).hexdigest())


def finish(download: Download) -> None:
    buffer = memoryview(bytearray(7))
    while download.claim():
        assert download.advance(buffer) == []


@settings(max_examples=30)
@given(st.permutations(PIECES), st.sets(st.integers(0, len(PIECES)), max_size=9))
def test_pieces_may_come_in_any_order(pieces: list[tuple[int, int]], pauses: set[int]) -> None:
    """Some of them are hashed as they come, some when a hasher comes by, and some bytes come twice."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder))
        cache.prepare()
        with closing(Download(SOURCE, FILE, cache, CHUNK)) as download:
            for index, (start, stop) in enumerate(pieces):
                download.store(memoryview(CONTENT)[start:stop], start)
                if index in pauses:
                    finish(download)
            assert download.received_bytes == SIZE
            finish(download)
            assert download.sha256 == FILE.sha256
        assert cache.blob(FILE.sha256).read_bytes() == CONTENT


def test_of_two_that_bring_the_same_the_first_is_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.prepare()
    with closing(Download(SOURCE, FILE, cache, CHUNK)) as download:
        download.store(memoryview(CONTENT)[:10], 0)
        for start in range(0, SIZE, CHUNK):
            slow = bytearray(CONTENT[start : start + CHUNK])
            slow[: max(0, 10 - start)] = bytes(max(0, 10 - start))
            download.store(memoryview(slow), start)
        finish(download)
    assert cache.blob(FILE.sha256).read_bytes() == CONTENT
