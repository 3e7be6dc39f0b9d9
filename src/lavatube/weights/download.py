"""One file on its way into the cache: its part, its running digest, and how often it turned out wrong."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

from lavatube.errors import DigestMismatch, SourceUnavailable
from lavatube.weights.cache import Cache
from lavatube.weights.manifest import DIGEST_BYTES
from lavatube.weights.options import MIB
from lavatube.weights.parts import Part
from lavatube.weights.source import Source, SourceFile

MAX_STRIKES: Final = 2
WHOLE: Final = -1
"""Stands for all chunks, where strikes are counted."""


def part_name(source: Source, file: SourceFile) -> str:
    """What a part is called: by what it must become, or else by where it comes from."""
    if file.sha256:
        return file.sha256
    if file.git_sha1 or source.identity:
        facts = f"{source.identity} {file.path} {file.size} {file.git_sha1}"
        return hashlib.sha256(facts.encode()).hexdigest()
    return f"unverified-{secrets.token_hex(16)}"  # with no digest to decide, half a file must not be taken up again


class Download:
    """State of one file. Receivers write chunks, one hasher at a time follows them; their owner keeps the counts.

    A byte of a finished chunk is never written again, so what was hashed is what is kept. A file that somebody trails
    has each chunk checked as soon as it is there, where the manifest has digests of chunks; else they are looked at
    only when the whole is wrong.
    """

    def __init__(
        self, source: Source, file: SourceFile, cache: Cache, chunk_bytes: int, *, is_trailed: bool = False
    ) -> None:
        has_digests = is_trailed and bool(file.chunks)
        self.file = file
        self.part = Part(cache.parts, part_name(source, file), file.size, chunk_bytes, has_digests=has_digests)
        self.is_whole = False
        """The server ignores ranges: one receiver reads the file from its beginning to its end."""
        self.is_hashing = False
        self.num_receivers = 0
        self.sha256 = ""
        """Known when the file is verified and in its place."""
        self._source = source
        self._cache = cache
        self._version = ""
        self._strikes: Counter[int] = Counter()
        self._has_digests = has_digests
        self._is_checked = bytearray([not has_digests]) * self.part.num_chunks
        self._unchecked = deque(chunk for chunk, done in enumerate(self.part.done) if done and has_digests)
        self._reached: dict[int, int] = {}
        self._store_lock = threading.Lock()
        self._hashed = 0
        self._running = _begin_digests(file)

    @property
    def is_finished(self) -> bool:
        return bool(self.sha256)

    @property
    def can_hash(self) -> bool:
        """Whether `advance` has something to do and may be called."""
        if self.is_hashing or self.is_finished:
            return False
        if self._hashed == self.part.num_chunks:
            return not self.is_whole or self.num_receivers == 0
        return bool(self._unchecked) or self.is_usable(self._hashed)

    def is_usable(self, chunk: int) -> bool:
        """Whether those who trail this file may read a chunk."""
        return bool(self.part.done[chunk] and self._is_checked[chunk])

    def close(self) -> None:
        self.part.close()

    def check_version(self, version: str) -> None:
        """Without a digest only the source's own mark tells that a file was replaced under our hands.

        Raises: SourceUnavailable.
        """
        if self.file.sha256 or self.file.git_sha1:
            return
        self._version = self._version or version
        if version != self._version:
            raise SourceUnavailable(f"{self.file.path} changed while it was fetched.", remedy="Start again.")

    def store(self, chunk: int, data: memoryview, offset: int) -> bool:
        """Keep what came for a chunk, unless it is whole already; whether that made it whole. Raises: CacheUnusable."""
        with self._store_lock:
            if self.part.done[chunk]:
                return False  # a racer was faster
            self.part.write(data, offset)
            is_last = offset + len(data) == self.part.span(chunk)[1]
            if is_last:
                self.part.mark(chunk)
                if self._has_digests:
                    self._unchecked.append(chunk)
            return is_last

    def count(self, chunk: int, stop: int) -> int:
        """How many bytes up to `stop` of a chunk had not been counted before."""
        reached = max(self._reached.get(chunk, self.part.span(chunk)[0]), stop)
        fresh = reached - self._reached.get(chunk, self.part.span(chunk)[0])
        self._reached[chunk] = reached
        return fresh

    def advance(self, buffer: memoryview) -> list[int]:
        """Hash the next chunk; after the last one decide. Gives the chunks that were wrong and have to come again.

        Raises: DigestMismatch when it was wrong too often.
        """
        if self._unchecked:
            return self._check(self._unchecked.popleft(), buffer)
        if self._hashed == self.part.num_chunks:
            return self._decide()
        self._follow(self._running, self._hashed, buffer)
        self._hashed += 1
        return []

    def _check(self, chunk: int, buffer: memoryview) -> list[int]:
        """Compare a chunk with its digest; if it is the next of the file, the hash of the whole goes on in one pass."""
        own, running = hashlib.sha256(), []
        if chunk == self._hashed:
            running = [digest.copy() for digest in self._running]
        self._follow([own, *running], chunk, buffer)
        if not self._is_right(chunk, own.digest()):
            return self._forget([chunk], chunk, self._mismatch_of(chunk, own.hexdigest()))
        self.part.vouch(chunk)
        self._is_checked[chunk] = 1
        if running:
            self._running = running
            self._hashed += 1
        return []

    def _follow(self, digests: Sequence[hashlib._Hash], chunk: int, buffer: memoryview) -> None:
        for piece in self.part.read(chunk, buffer):
            for digest in digests:
                digest.update(piece)

    def _is_right(self, chunk: int, digest: bytes) -> bool:
        """Whether the manifest has this sha256 for a chunk; True where it has none."""
        expected = self.file.chunks[chunk * DIGEST_BYTES : (chunk + 1) * DIGEST_BYTES]
        return not expected or digest == expected

    def _decide(self) -> list[int]:
        sha256 = self._running[0].hexdigest()
        mismatch = self._mismatch(sha256)
        if mismatch is None:
            self.part.commit(self._cache.blob(sha256))
            self.sha256 = sha256
            return []
        wrong = self._wrong_chunks()
        self._hashed, self._running = 0, _begin_digests(self.file)
        return self._forget(wrong, WHOLE, mismatch)

    def _forget(self, chunks: list[int], strikes_of: int, mismatch: DigestMismatch) -> list[int]:
        """Have chunks fetched again. Raises: DigestMismatch, if they were wrong too often or none can be named."""
        self._strikes[strikes_of] += 1
        if self._strikes[strikes_of] == MAX_STRIKES * self._source.num_places or not chunks:
            self.part.discard()
            raise mismatch
        self._source.blame(self.file.location)
        with self._store_lock:
            self.part.reset(chunks)
            for chunk in chunks:
                self._reached.pop(chunk, None)
                self._is_checked[chunk] = not self._has_digests
        return chunks

    def _wrong_chunks(self) -> list[int]:
        """Those whose digest is not the manifest's; all, where it says nothing of them."""
        chunks = range(self.part.num_chunks)
        if not self.file.chunks:
            return list(chunks)
        buffer = memoryview(bytearray(MIB))
        return [chunk for chunk in chunks if not self._is_right(chunk, self._chunk_digest(chunk, buffer))]

    def _chunk_digest(self, chunk: int, buffer: memoryview) -> bytes:
        digest = hashlib.sha256()
        self._follow([digest], chunk, buffer)
        return digest.digest()

    def _mismatch(self, sha256: str) -> DigestMismatch | None:
        kind, expected, actual = "sha256", self.file.sha256 or sha256, sha256
        if self.file.git_sha1:
            kind, expected, actual = "git blob id", self.file.git_sha1, self._running[1].hexdigest()
        if actual == expected:
            return None
        return self._disagree(self.file.path, kind, expected, actual, WHOLE)

    def _mismatch_of(self, chunk: int, sha256: str) -> DigestMismatch:
        start, stop = self.part.span(chunk)
        expected = self.file.chunks[chunk * DIGEST_BYTES : (chunk + 1) * DIGEST_BYTES].hex()
        return self._disagree(f"{self.file.path} (bytes {start}-{stop - 1})", "sha256", expected, sha256, chunk)

    def _disagree(self, what: str, kind: str, expected: str, actual: str, strikes_of: int) -> DigestMismatch:
        return DigestMismatch(
            f"{what} from {self._source.uri} has {kind} {actual}, but {expected} was expected; "
            f"it was fetched {self._strikes[strikes_of] + 1} times.",
            remedy="The source and the digests disagree: a file was changed, or something on the way damages it.",
        )


def _begin_digests(file: SourceFile) -> list[hashlib._Hash]:
    """The sha256, and git's own digest where that is what is known of the file."""
    git = [hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)] if file.git_sha1 else []
    return [hashlib.sha256(), *git]
