"""One file on its way into the cache: its part, its running digest, and how often it turned out wrong."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

from lavatube.errors import DigestMismatch, SourceUnavailable
from lavatube.weights.buffer import new_buffer
from lavatube.weights.cache import Cache
from lavatube.weights.coverage import Coverage
from lavatube.weights.digest import Adding, Digest, Unaided, new_digest
from lavatube.weights.in_hand import InHand, Running
from lavatube.weights.manifest import DIGEST_BYTES
from lavatube.weights.options import MIB
from lavatube.weights.parts import Part
from lavatube.weights.source import Source, SourceFile

MAX_STRIKES: Final = 2
STEP_BYTES: Final = 2 * MIB
"""How much is hashed at once; whoever does so receives nothing meanwhile, and its connection must not run dry."""
WHOLE: Final = -1
"""Stands for all chunks, where strikes are counted."""


def part_name(source: Source, file: SourceFile) -> str:
    """What a part is called: by what it must become, or else by where it comes from."""
    if file.sha256:
        return file.sha256
    if file.git_sha1 or source.identity:
        facts = f"{source.identity} {file.path} {file.size} {file.git_sha1}"
        return hashlib.sha256(facts.encode()).hexdigest()
    return f"unverified-{os.urandom(16).hex()}"  # with no digest to decide, half a file must not be taken up again


class Download:
    """State of one file. Receivers store what they bring, one thread at a time takes the file's digest along.

    No byte is written twice, unless it was wrong, so what was hashed is what is kept. What is next in order is hashed
    while its receiver writes it and the processor's cache has it; what comes ahead of its turn is read again. A file
    that somebody trails has each chunk checked in this way, where the manifest has digests of chunks, and the digest of
    the whole follows when there is time; else they are looked at only when the whole is wrong.
    """

    def __init__(
        self, source: Source, file: SourceFile, cache: Cache, chunk_bytes: int, *, is_trailed: bool = False
    ) -> None:
        has_digests = is_trailed and bool(file.chunks)
        self.file = file
        self.part = Part(cache.parts, part_name(source, file), file.size, chunk_bytes, has_digests=has_digests)
        self.is_whole = False
        """The server ignores ranges: one receiver reads the file from its beginning to its end."""
        self.has_digests = has_digests
        self.can_wait = False
        """Whether the digest of the whole may wait, since chunks are used as soon as they are checked."""
        self.num_receivers = 0
        self.sha256 = ""
        """Known when the file is verified and in its place."""
        self._source = source
        self._cache = cache
        self._version = ""
        self._strikes: Counter[int] = Counter()
        self._is_checked = bytearray([not has_digests]) * self.part.num_chunks
        self._in_hand = InHand()
        self._unchecked = deque(chunk for chunk, done in enumerate(self.part.done) if done and has_digests)
        self._lock = threading.Lock()
        """Held while something is written, and never while something is hashed."""
        self._here = Coverage(self.part.span(chunk) for chunk, done in enumerate(self.part.done) if done)
        self._is_hashing = False
        self._hashed_bytes = 0
        self._running = _begin_digests(file)

    @property
    def is_finished(self) -> bool:
        return bool(self.sha256)

    @property
    def received_bytes(self) -> int:
        with self._lock:
            return self._here.num_bytes

    @property
    def is_all_usable(self) -> bool:
        return all(self.part.done) and all(self._is_checked)

    @property
    def is_awaited(self) -> bool:
        """Whether a chunk is here that counts for those who trail this file once its digest is right."""
        return bool(self._unchecked)

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

    def is_here(self, start: int, stop: int) -> bool:
        with self._lock:
            return self._here.reach(start) >= stop

    def store(self, data: memoryview, offset: int) -> bool:
        """Keep what is not here yet of some bytes of one chunk; gives whether `claim` is worth a try.

        Raises: CacheUnusable.
        """
        stop = offset + len(data)
        chunk = offset // self.part.chunk_bytes
        first, last = self.part.span(chunk)
        with Adding(data) as add_to, self._lock:
            missing = self._here.missing(offset, stop)
            is_new = missing == [(offset, stop)]
            in_hand = self._in_hand.take(chunk, offset - first) if is_new and self.has_digests else None
            is_next = is_new and not self.has_digests and offset == self._hashed_bytes and not self._is_hashing
            self._is_hashing = self._is_hashing or is_next
            for digest in [in_hand.digest] if in_hand else self._running if is_next else []:
                add_to(digest)
            for begin, end in missing:
                self.part.write(data[begin - offset : end - offset], begin)
                self._here.add(begin, end)
            is_complete = bool(missing) and self._here.reach(first) >= last
            if is_complete:
                self.part.mark(chunk)
        is_right = in_hand is not None and self._goes_on(chunk, in_hand, len(data), is_complete=is_complete)
        with self._lock:
            if is_next:
                self._hashed_bytes = stop
                self._is_hashing = False
            if self.has_digests and is_complete:
                self._in_hand.drop(chunk)
                if not is_right:
                    self._unchecked.append(chunk)
            return self._can_hash()

    def _goes_on(self, chunk: int, in_hand: Running, num_bytes: int, *, is_complete: bool) -> bool:
        """Whether the chunk is complete and right now; then it may be used."""
        in_hand.num_bytes += num_bytes
        is_right = is_complete and self._is_right(chunk, in_hand.digest.digest())
        if is_right:
            self._vouch(chunk)
        return is_right

    def claim(self) -> bool:
        """Whether there is something to hash and nobody does it; if so, the caller is to call `advance`."""
        with self._lock:
            is_due = self._can_hash()
            self._is_hashing = self._is_hashing or is_due
            return is_due

    def advance(self, buffer: memoryview) -> list[int]:
        """Hash what is next; after the last byte decide. Gives the chunks that were wrong and have to come again.

        Raises: DigestMismatch when it was wrong too often.
        """
        with self._lock:
            chunk = self._unchecked.popleft() if self._unchecked else None
            stop = self._hashable_until()
        try:
            if chunk is not None:
                return self._check(chunk, buffer)
            if self._hashed_bytes == self.file.size:
                return self._decide()
            self._follow(self._running, self._hashed_bytes, stop, buffer)
            self._hashed_bytes = stop
            return []
        finally:
            with self._lock:
                self._is_hashing = False

    def _can_hash(self) -> bool:
        if self._is_hashing or self.is_finished:
            return False
        if self._hashed_bytes == self.file.size:
            return not self.is_whole or self.num_receivers == 0
        return bool(self._unchecked) or (not self.can_wait and self._hashable_until() > self._hashed_bytes)

    def _hashable_until(self) -> int:
        """One past the last byte of the next step; of chunks that are checked first, all or nothing."""
        if self._hashed_bytes == self.file.size:
            return self._hashed_bytes
        chunk = self._hashed_bytes // self.part.chunk_bytes
        last = self.part.span(chunk)[1]
        if self.has_digests:
            return last if self.is_usable(chunk) else self._hashed_bytes
        return min(last, self._here.reach(self._hashed_bytes), self._hashed_bytes + STEP_BYTES)

    def _check(self, chunk: int, buffer: memoryview) -> list[int]:
        """Compare a chunk with its digest; the hash of the whole goes on in the same pass, unless that can wait."""
        start, stop = self.part.span(chunk)
        own, running = new_digest(), []
        if start == self._hashed_bytes and not self.can_wait:
            running = [digest.copy() for digest in self._running]
        self._follow([own, *running], start, stop, buffer)
        if not self._is_right(chunk, own.digest()):
            return self._forget([chunk], chunk, self._mismatch_of(chunk, own.hexdigest()))
        self._vouch(chunk)
        if running:
            self._running = running
            self._hashed_bytes = stop
        return []

    def _vouch(self, chunk: int) -> None:
        self.part.vouch(chunk)
        self._is_checked[chunk] = 1

    def _follow(self, digests: Sequence[Digest], start: int, stop: int, buffer: memoryview) -> None:
        for piece in self.part.read(start, stop, buffer):
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
        self._hashed_bytes, self._running = 0, _begin_digests(self.file)
        return self._forget(wrong, WHOLE, mismatch)

    def _forget(self, chunks: list[int], strikes_of: int, mismatch: DigestMismatch) -> list[int]:
        """Have chunks fetched again. Raises: DigestMismatch, if they were wrong too often or none can be named."""
        self._strikes[strikes_of] += 1
        if self._strikes[strikes_of] == MAX_STRIKES * self._source.num_places or not chunks:
            self.part.discard()
            raise mismatch
        self._source.blame(self.file.location, [self.part.span(chunk) for chunk in chunks])
        with self._lock:
            self.part.reset(chunks)
            for chunk in chunks:
                self._here.remove(*self.part.span(chunk))
                self._is_checked[chunk] = not self.has_digests
        return chunks

    def _wrong_chunks(self) -> list[int]:
        """Those whose digest is not the manifest's; all, where it says nothing of them."""
        chunks = range(self.part.num_chunks)
        if not self.file.chunks:
            return list(chunks)
        buffer = new_buffer()
        return [chunk for chunk in chunks if not self._is_right(chunk, self._chunk_digest(chunk, buffer))]

    def _chunk_digest(self, chunk: int, buffer: memoryview) -> bytes:
        digest = new_digest()
        self._follow([digest], *self.part.span(chunk), buffer)
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


def _begin_digests(file: SourceFile) -> list[Digest]:
    """The sha256, and git's own digest where that is what is known of the file."""
    git = [Unaided(hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False))] if file.git_sha1 else []
    return [new_digest(), *git]
