"""A plain tar archive as what it is: files that lie one after the other, each of which can be asked for in ranges.

Its headers are read in a first pass that jumps over what lies between them; then its files are fetched as any others
are: side by side, taken up again after a kill, and in the order in which a model needs them. A manifest must say what
they are: without one, and where a server ignores ranges, an archive is taken apart as it comes by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Final

from lavatube.errors import UnsupportedCheckpoint
from lavatube.weights.archive import check_complete, clean, find_known
from lavatube.weights.buffer import new_buffer
from lavatube.weights.manifest import ManifestFile
from lavatube.weights.options import Policy
from lavatube.weights.patience import Patience, Transient, check_rate
from lavatube.weights.source import Body, Reader, Source, SourceFile
from lavatube.weights.tar import members

WINDOW_BYTES: Final = 64 * 1024
"""Read at a time: small files lie side by side, and the header of the next one behind each."""


def lay_out(source: Source, policy: Policy) -> Source | None:
    """The files of an archive, at their places in it; None where they must be taken as they come by.

    Raises: SourceUnavailable, UnsupportedCheckpoint, InvalidManifest, DigestMismatch.
    """
    (archive,) = source.files
    if source.contents is None or archive.path.endswith("gz"):
        return None
    wanted = {file.path: file for file in source.contents.files}
    places: dict[str, int] = {}
    found: dict[str, ManifestFile] = {}
    with closing(source.connect()) as reader:
        headers = _Headers(reader, source, policy)
        try:
            for member in members(headers, source.uri):
                path = clean(member.name, source.uri)
                if path in places:
                    raise UnsupportedCheckpoint(f"{source.uri} holds {path!r:.200} twice.")
                places[path] = headers.at
                known = find_known(wanted, path)
                if known is not None:
                    found[known.path] = ManifestFile(known.path, member.size, known.sha256)
                    places[known.path] = headers.at
                headers.skip(member.size + member.padding)
        except _NoRanges:
            return None
    check_complete(source.contents, found, source.uri)
    files = tuple(
        SourceFile(file.path, file.size, f"{places[file.path]} {archive.location}", file.sha256, chunks=file.chunks)
        for file in source.contents.files
    )
    return replace(
        source,
        name=source.contents.name,
        files=files,
        connect=lambda: _ArchiveReader(source.connect, archive.size),
        chunk_bytes=source.contents.chunk_bytes,
        blame=lambda location, spans: source.blame(*_inside(location, spans)),
        is_archive=False,
        contents=None,
    )


class _NoRanges(Exception):
    """The server gave the whole archive where a piece was asked for."""


class _Headers:
    """The bytes of an archive, of which most are skipped: only what is taken is asked for."""

    def __init__(self, reader: Reader, source: Source, policy: Policy) -> None:
        (self._archive,) = source.files
        self.at = 0
        self._reader = reader
        self._where = source.uri
        self._policy = policy
        self._window = b""
        self._window_start = 0

    def take(self, count: int) -> bytes:
        """Raises: _NoRanges; SourceUnavailable; UnsupportedCheckpoint at the archive's end."""
        stop = self.at + count
        if stop > self._archive.size:
            raise UnsupportedCheckpoint(f"{self._where} ends in the middle of a file.", remedy="Fetch it again.")
        if not self._window_start <= self.at <= stop <= self._window_start + len(self._window):
            self._window = self._read(self.at, min(max(stop, self.at + WINDOW_BYTES), self._archive.size))
            self._window_start = self.at
        data = self._window[self.at - self._window_start : stop - self._window_start]
        self.at = stop
        return data

    def skip(self, count: int) -> None:
        self.at += count

    def _read(self, start: int, stop: int) -> bytes:
        patience = Patience(self._where, self._policy)
        while True:
            try:
                with closing(self._reader.open(self._archive.location, start, stop, self._archive.size)) as body:
                    if (body.start, body.stop) != (start, stop):
                        raise _NoRanges
                    return _read_all(body, self._policy)
            except Transient as error:
                patience.fail(error)


def _read_all(body: Body, policy: Policy) -> bytes:
    """Raises: Transient, also for a trickle."""
    buffer, at, begun_s = new_buffer(body.stop - body.start), 0, time.monotonic()
    while at < len(buffer):
        at += body.readinto(buffer[at:])
        check_rate(policy, at, time.monotonic() - begun_s)
    return bytes(buffer)


class _ArchiveReader:
    """Reads files of an archive; a location is where in it a file begins, and the archive's own."""

    def __init__(self, connect: Callable[[], Reader], archive_bytes: int) -> None:
        self._reader = connect()
        self._archive_bytes = archive_bytes
        self.close = self._reader.close
        self.abort = self._reader.abort

    def open(self, location: str, start: int, stop: int, size: int) -> Body:
        archive, ((first, last),) = _inside(location, [(start, stop)])
        return _Inside(self._reader.open(archive, first, last, self._archive_bytes), first - start)


def _inside(location: str, spans: Sequence[tuple[int, int]]) -> tuple[str, list[tuple[int, int]]]:
    """The archive's own location, and where in it these bytes of a file are."""
    at, _, archive = location.partition(" ")
    return archive, [(int(at) + start, int(at) + stop) for start, stop in spans]


class _Inside:
    """A body whose first byte is counted from where its file begins."""

    def __init__(self, body: Body, offset: int) -> None:
        self.start, self.stop, self.version = body.start - offset, body.stop - offset, body.version
        self.readinto = body.readinto
        self.close = body.close
