"""One file that comes in pieces, in any order and more than once: what is kept is what was hashed."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavatube.errors import DigestMismatch
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


CHUNKS = b"".join(hashlib.sha256(CONTENT[at : at + CHUNK]).digest() for at in range(0, SIZE, CHUNK))
TRAILED = SourceFile(FILE.path, SIZE, FILE.location, FILE.sha256, chunks=CHUNKS)


@settings(max_examples=30)
@given(st.permutations(PIECES), st.booleans())
def test_trailed_chunks_are_checked_in_any_order(pieces: list[tuple[int, int]], can_wait: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder))
        cache.prepare()
        with closing(Download(SOURCE, TRAILED, cache, CHUNK, is_trailed=True)) as download:
            download.can_wait = can_wait
            for start, stop in pieces:
                download.store(memoryview(CONTENT)[start:stop], start)
            finish(download)
            assert download.is_all_usable
            assert download.sha256 == ("" if can_wait else FILE.sha256)
            download.can_wait = False
            finish(download)
            assert download.sha256 == FILE.sha256


@pytest.mark.parametrize("is_in_order", [True, False])
def test_a_trailed_chunk_that_is_wrong_is_not_usable_and_comes_again(tmp_path: Path, is_in_order: bool) -> None:
    cache = Cache(tmp_path)
    cache.prepare()
    wrong = bytearray(CONTENT)
    wrong[CHUNK + 3] ^= 1
    pieces = PIECES if is_in_order else PIECES[::-1]
    buffer = memoryview(bytearray(7))
    with closing(Download(SOURCE, TRAILED, cache, CHUNK, is_trailed=True)) as download:
        download.can_wait = True
        for start, stop in pieces:
            download.store(memoryview(wrong)[start:stop], start)
        again = []
        while download.claim():
            again += download.advance(buffer)
        assert again == [1]
        assert [download.is_usable(chunk) for chunk in range(download.part.num_chunks)] == [
            True,
            False,
            True,
            True,
            True,
        ]
        download.store(memoryview(CONTENT)[CHUNK : 2 * CHUNK], CHUNK)
        assert download.is_all_usable  # in its receiver's hand
        download.can_wait = False
        finish(download)
    assert cache.blob(FILE.sha256).read_bytes() == CONTENT


def test_a_manifest_whose_chunks_are_not_those_of_its_file_names_nothing(tmp_path: Path) -> None:
    """What its digests of chunks say is used, and never becomes a file that has another digest's name."""
    cache = Cache(tmp_path)
    cache.prepare()
    elsewhere = SourceFile(FILE.path, SIZE, FILE.location, hashlib.sha256(b"another").hexdigest(), chunks=CHUNKS)
    with closing(Download(SOURCE, elsewhere, cache, CHUNK, is_trailed=True)) as download:
        download.store(memoryview(CONTENT)[:CHUNK], 0)
        for start in range(CHUNK, SIZE, CHUNK):
            download.store(memoryview(CONTENT)[start : start + CHUNK], start)
        assert download.is_all_usable
        with pytest.raises(DigestMismatch):
            finish(download)
    assert not cache.has_blob(elsewhere.sha256, SIZE)
    assert not cache.has_blob(FILE.sha256, SIZE)
