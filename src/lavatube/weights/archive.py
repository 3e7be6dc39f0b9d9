"""A tar archive of a checkpoint becomes blobs of the cache, in one pass: each member is hashed as it comes by.

What breaks off is taken up where it was, within one run; a plain archive's members that are here already are jumped
over. Names decide nothing until they have passed the manifest's rules.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from typing import Final

from lavatube.errors import DigestMismatch, SourceUnavailable, UnsupportedCheckpoint
from lavatube.weights.buffer import new_buffer
from lavatube.weights.cache import Cache
from lavatube.weights.content import COMPANIONS, check_paths, is_content, select_content
from lavatube.weights.manifest import Manifest, ManifestFile
from lavatube.weights.options import MIB, Policy
from lavatube.weights.parts import Part
from lavatube.weights.patience import Patience, Transient, check_rate
from lavatube.weights.source import Body, Reader, Source
from lavatube.weights.tar import Member, Stream, members

logger = logging.getLogger(__name__)

MAX_RATIO: Final = 100
"""How many times its size an archive may become; weights hardly shrink at all."""


def unpack(source: Source, cache: Cache, policy: Policy, on_bytes: Callable[[int], None]) -> Manifest:
    """The files of an archive, all of them in the cache; `on_bytes` hears of the archive's bytes.

    Where a manifest says what belongs in it, an archive that turns out wrong is fetched again, from each other place
    once, or from the only one a second time; the files that were right are kept.

    Raises: SourceUnavailable, UnsupportedCheckpoint, InvalidManifest, DigestMismatch, CacheUnusable.
    """
    (file,) = source.files
    tries = 1 if source.contents is None else max(2, source.num_places)
    while True:
        tries, num_bytes = tries - 1, 0

        def count(piece_bytes: int) -> None:
            nonlocal num_bytes
            num_bytes += piece_bytes
            on_bytes(piece_bytes)

        try:
            return _unpack(source, cache, policy, count)
        except (DigestMismatch, UnsupportedCheckpoint) as error:
            if not tries:
                raise
            logger.warning("%s It is fetched again.", error.sentence)
            source.blame(file.location, [(0, file.size)])
            on_bytes(-num_bytes)


def _unpack(source: Source, cache: Cache, policy: Policy, on_bytes: Callable[[int], None]) -> Manifest:
    (file,) = source.files
    is_packed = file.path.endswith("gz")
    with closing(source.connect()) as reader:
        raw = _Raw(reader, source, policy, on_bytes)
        with closing(raw):
            stream: Stream = _Unpacked(raw, file.size * MAX_RATIO) if is_packed else raw
            found = _take_members(stream, source, cache)
    if source.contents is not None:
        check_complete(source.contents, found, source.uri)
        return source.contents
    kept = select_content(found, source.uri)
    return Manifest(source.name, tuple(found[path] for path in kept))


def _take_members(stream: Stream, source: Source, cache: Cache) -> dict[str, ManifestFile]:
    wanted = {file.path: file for file in source.contents.files} if source.contents else None
    found: dict[str, ManifestFile] = {}
    for member in members(stream, source.uri):
        path = clean(member.name, source.uri)
        if path in found:
            raise UnsupportedCheckpoint(f"{source.uri} holds {path!r:.200} twice.")
        known = find_known(wanted, path)
        if not is_content(path) or (wanted is not None and known is None):
            stream.skip(member.size)
        elif known is not None and cache.has_intact_blob(known.sha256, known.size, lambda _: None):
            stream.skip(member.size)
            found[path] = ManifestFile(path, known.size, known.sha256)
        else:
            found[path] = _store(stream, member, path, known, source, cache)
        stream.skip(member.padding)
    names = _without_top(list(found))
    check_paths(names, source.uri)
    return {name: ManifestFile(name, file.size, file.sha256) for name, file in zip(names, found.values(), strict=True)}


def _store(
    stream: Stream, member: Member, path: str, known: ManifestFile | None, source: Source, cache: Cache
) -> ManifestFile:
    """One member into a blob. What a manifest says otherwise is wrong before it is stored."""
    if known is not None and known.size != member.size:
        raise DigestMismatch(
            f"{path} in {source.uri} has {member.size} bytes, but its manifest says {known.size}.",
            remedy="The archive and its manifest disagree: write the manifest again with `lavatube lock`.",
        )
    digest, at = hashlib.sha256(), 0
    part = Part(cache.parts, f"archive-{secrets.token_hex(16)}", member.size, max(member.size, 1))
    with closing(part):
        try:
            while at < member.size:
                data = stream.take(min(MIB, member.size - at))
                digest.update(data)
                part.write(memoryview(data), at)
                at += len(data)
            sha256 = digest.hexdigest()
            if known is not None and known.sha256 != sha256:
                raise DigestMismatch(
                    f"{path} in {source.uri} has sha256 {sha256}, but {known.sha256} was expected.",
                    remedy="The archive and its manifest disagree: write the manifest again with `lavatube lock`.",
                )
            part.commit(cache.blob(sha256))
        except BaseException:
            part.discard()
            raise
    return ManifestFile(path, member.size, sha256)


def clean(name: str, where: str) -> str:
    """A member's name as a relative path. Raises: InvalidManifest for one that leads elsewhere."""
    path = name.removeprefix("./")
    if path.startswith("/") or ".." in path.split("/") or "\0" in path or "\\" in path:
        check_paths([path], f"{where}, an archive")
    return path


def find_known(wanted: dict[str, ManifestFile] | None, path: str) -> ManifestFile | None:
    """What the manifest says of a member, with or without the one folder that all of them are in."""
    if wanted is None:
        return None
    return wanted.get(path) or wanted.get(path.partition("/")[2])


def _without_top(paths: list[str]) -> list[str]:
    """The paths without the one folder that all of them are in, if there is such a folder."""
    tops = {path.partition("/")[0] for path in paths}
    if len(tops) != 1 or any("/" not in path for path in paths) or tops <= set(COMPANIONS):
        return paths
    return [path.partition("/")[2] for path in paths]


def check_complete(contents: Manifest, found: dict[str, ManifestFile], where: str) -> None:
    for file in contents.files:
        if found.get(file.path) != ManifestFile(file.path, file.size, file.sha256):
            raise DigestMismatch(
                f"{where} has no {file.path} as its manifest describes it.",
                remedy="The archive and its manifest disagree: write the manifest again with `lavatube lock`.",
            )


class _Raw:
    """The bytes of the archive itself, in order, over as many bodies as it takes."""

    def __init__(self, reader: Reader, source: Source, policy: Policy, on_bytes: Callable[[int], None]) -> None:
        (self._file,) = source.files
        self._reader = reader
        self._where = source.uri
        self._has_digests = source.contents is not None
        self._patience = Patience(source.uri, policy)
        self._on_bytes = on_bytes
        self._at = 0
        self._policy = policy
        self._num_new = 0
        self._version = ""
        self._body: Body | None = None
        self._body_bytes, self._opened_s = 0, 0.0
        self._buffer = new_buffer()

    def take(self, count: int) -> bytes:
        """Raises: SourceUnavailable; UnsupportedCheckpoint at the archive's end."""
        data = bytearray()
        while len(data) < count:
            piece = self.some(count - len(data))
            if not piece:
                raise UnsupportedCheckpoint(f"{self._where} ends in the middle of a file.", remedy="Fetch it again.")
            data += piece
        return bytes(data)

    def some(self, most: int) -> bytes:
        """A few bytes; none at the archive's end."""
        while self._at < self._file.size:
            try:
                if self._body is None:
                    self._open()
                assert self._body is not None
                count = self._receive(self._body, min(most, self._file.size - self._at))
            except Transient as error:
                self.close()
                if self._num_new >= self._policy.min_progress_bytes:
                    self._patience.renew()
                self._num_new = 0
                self._patience.fail(error)
                continue
            self._at += count
            self._num_new += count
            self._on_bytes(count)
            return bytes(self._buffer[:count])
        return b""

    def skip(self, count: int) -> None:
        if count > MIB:  # cheaper as another request than to be read
            self.close()
            self._at += count
            self._on_bytes(count)
        elif count:
            self.take(count)

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    def _receive(self, body: Body, most: int) -> int:
        """How many bytes are in the buffer now. Raises: Transient, also for a trickle."""
        count = body.readinto(self._buffer[:most])
        self._body_bytes += count
        check_rate(self._policy, self._body_bytes, time.monotonic() - self._opened_s)
        return count

    def _open(self) -> None:
        size = self._file.size
        body = self._reader.open(self._file.location, self._at, size, size)
        self._body, self._body_bytes, self._opened_s = body, 0, time.monotonic()
        self._version = self._version or body.version
        if body.version != self._version and not self._has_digests:  # else they decide, and mirrors differ in this
            raise SourceUnavailable(f"{self._where} changed while it was fetched.", remedy="Start again.")
        passed = self._at - body.start
        while passed > 0:  # a server that ignores ranges begins anew
            passed -= self._receive(body, min(passed, MIB))


class _Unpacked:
    """The bytes of an archive that is packed with gzip."""

    def __init__(self, raw: _Raw, max_bytes: int) -> None:
        self._raw = raw
        self._decompressor = zlib.decompressobj(wbits=31)
        self._rest = b""
        self._left = max_bytes

    def take(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self._some(count - len(data))
            data += piece
        return bytes(data)

    def skip(self, count: int) -> None:
        while count:
            count -= len(self._some(min(count, MIB)))

    def _some(self, most: int) -> bytes:
        while True:
            packed = self._rest or self._raw.some(64 * 1024)
            if not packed or self._decompressor.eof:
                raise UnsupportedCheckpoint("The archive ends in the middle of a file.", remedy="Fetch it again.")
            try:
                piece = self._decompressor.decompress(packed, most)
            except zlib.error as error:
                raise UnsupportedCheckpoint(f"The archive can't be unpacked: {error}.") from error
            self._rest = self._decompressor.unconsumed_tail
            self._left -= len(piece)
            if self._left < 0:
                raise UnsupportedCheckpoint(f"The archive becomes more than {MAX_RATIO} times its size.")
            if piece:
                return piece
