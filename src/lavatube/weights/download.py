"""One file on its way into the cache: its part, its running digest, and how often it turned out wrong."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from lavatube.errors import DigestMismatch, SourceUnavailable
from lavatube.weights.cache import Cache
from lavatube.weights.manifest import DIGEST_BYTES
from lavatube.weights.options import MIB
from lavatube.weights.parts import Part
from lavatube.weights.source import Source, SourceFile

MAX_STRIKES: Final = 2


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

    A byte of a finished chunk is never written again, so what was hashed is what is kept.
    """

    def __init__(self, source: Source, file: SourceFile, cache: Cache, chunk_bytes: int) -> None:
        self.file = file
        self.part = Part(cache.parts, part_name(source, file), file.size, chunk_bytes)
        self.is_whole = False
        """The server ignores ranges: one receiver reads the file from its beginning to its end."""
        self.is_hashing = False
        self.num_receivers = 0
        self.sha256 = ""
        """Known when the file is verified and in its place."""
        self._source = source
        self._cache = cache
        self._version = ""
        self._strikes = 0
        self._begin_digest()

    @property
    def is_finished(self) -> bool:
        return bool(self.sha256)

    @property
    def can_hash(self) -> bool:
        """Whether `advance` has something to do and may be called."""
        if self.is_hashing or self.is_finished:
            return False
        if self._hashed == self.part.num_chunks:
            return self.num_receivers == 0
        return bool(self.part.done[self._hashed])

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

    def advance(self, buffer: memoryview) -> list[int]:
        """Hash the next chunk; after the last one decide. Gives the chunks that were wrong and have to come again.

        Raises: DigestMismatch when it was wrong too often.
        """
        if self._hashed == self.part.num_chunks:
            return self._decide()
        for piece in self.part.read(self._hashed, buffer):
            self._sha256.update(piece)
            if self._git_sha1 is not None:
                self._git_sha1.update(piece)
        self._hashed += 1
        return []

    def is_right(self, chunk: int, digest: bytes) -> bool:
        """Whether the manifest has this sha256 for a chunk; True where it has none."""
        expected = self.file.chunks[chunk * DIGEST_BYTES : (chunk + 1) * DIGEST_BYTES]
        return not expected or digest == expected

    def _decide(self) -> list[int]:
        sha256 = self._sha256.hexdigest()
        mismatch = self._mismatch(sha256)
        if mismatch is None:
            self.part.commit(self._cache.blob(sha256))
            self.sha256 = sha256
            return []
        self._strikes += 1
        wrong = self._wrong_chunks()
        if self._strikes == MAX_STRIKES * self._source.num_places or not wrong:
            self.part.discard()
            raise mismatch
        self._source.blame(self.file.location)
        self.part.reset(wrong)
        self._begin_digest()
        return wrong

    def _wrong_chunks(self) -> list[int]:
        """Those whose digest is not the manifest's; all, where it says nothing of them."""
        chunks = range(self.part.num_chunks)
        if not self.file.chunks:
            return list(chunks)
        buffer = memoryview(bytearray(MIB))
        return [chunk for chunk in chunks if not self.is_right(chunk, self._chunk_digest(chunk, buffer))]

    def _chunk_digest(self, chunk: int, buffer: memoryview) -> bytes:
        digest = hashlib.sha256()
        for piece in self.part.read(chunk, buffer):
            digest.update(piece)
        return digest.digest()

    def _mismatch(self, sha256: str) -> DigestMismatch | None:
        kind, expected, actual = "sha256", self.file.sha256 or sha256, sha256
        if self._git_sha1 is not None:
            kind, expected, actual = "git blob id", self.file.git_sha1, self._git_sha1.hexdigest()
        if actual == expected:
            return None
        return DigestMismatch(
            f"{self.file.path} from {self._source.uri} has {kind} {actual}, but {expected} was expected; "
            f"it was fetched {self._strikes + 1} times.",
            remedy="The source and the digests disagree: a file was changed, or something on the way damages it.",
        )

    def _begin_digest(self) -> None:
        self._hashed = 0
        self._sha256 = hashlib.sha256()
        header = b"blob %d\0" % self.file.size
        self._git_sha1 = hashlib.sha1(header, usedforsecurity=False) if self.file.git_sha1 else None
