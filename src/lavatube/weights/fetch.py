"""Files of a source come in as ranges over several connections, are hashed in order, and become blobs of the cache.

Two kinds of threads share one condition: receivers take spans and write them into parts; hashers follow the finished
prefix of each file. A file whose digest is wrong is fetched anew, once. The caller's thread only reports.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Final

from lavatube.weights.cache import Cache
from lavatube.weights.download import Download
from lavatube.weights.options import MIB, Policy
from lavatube.weights.patience import Patience, Transient
from lavatube.weights.progress import Meter, OnProgress, Phase, Progress
from lavatube.weights.source import Reader, Source, SourceFile

REPORT_S: Final = 0.2
MAX_HASHERS: Final = 4


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of one file that one receiver brings; `file` is its index."""

    file: int
    start: int
    stop: int


class RangeIgnored(Exception):
    """The whole file came where a piece was asked for."""


def plan(sizes: Sequence[int], done: Sequence[Sequence[int]], chunk_bytes: int) -> list[Span]:
    """The chunks that are missing, in the order they are wanted.

    Files of one chunk come first (they say what the checkpoint is), then the first chunk of each other file (the names
    of its tensors lie there), then the rest in turn, since one file's bytes are hashed one after the other.
    `done` has one truth value a chunk.
    """
    missing = [
        Span(file, chunk * chunk_bytes, min((chunk + 1) * chunk_bytes, size))
        for file, size in enumerate(sizes)
        for chunk, is_done in enumerate(done[file])
        if not is_done
    ]
    return sorted(missing, key=lambda span: (sizes[span.file] > chunk_bytes, span.start))


def fetch(
    source: Source, files: Sequence[SourceFile], cache: Cache, policy: Policy, on_progress: OnProgress
) -> dict[str, str]:
    """Bring `files` of the source into the cache, verified; gives the sha256 of each path.

    Raises: SourceUnavailable, DigestMismatch, CacheUnusable.
    """
    chunk_bytes = source.chunk_bytes or policy.chunk_bytes
    with ExitStack() as stack:
        downloads = [stack.enter_context(closing(Download(source, file, cache, chunk_bytes))) for file in files]
        _Fetch(source, downloads, policy).run(on_progress)
        return {download.file.path: download.sha256 for download in downloads}


class _Fetch:
    """One run: what is queued, what is done, and the threads on it."""

    def __init__(self, source: Source, downloads: Sequence[Download], policy: Policy) -> None:
        self._source = source
        self._downloads = downloads
        self._policy = policy
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._readers: list[Reader] = []
        sizes = [download.file.size for download in downloads]
        self._chunk_bytes = source.chunk_bytes or policy.chunk_bytes
        self._spans = deque(plan(sizes, [download.part.done for download in downloads], self._chunk_bytes))
        self._fetch_bytes = sum(sizes)
        self._done_bytes = self._fetch_bytes - sum(span.stop - span.start for span in self._spans)

    def run(self, on_progress: OnProgress) -> None:
        num_chunks = sum(download.part.num_chunks for download in self._downloads)
        num_receivers = max(1, min(self._policy.connections, num_chunks))
        num_hashers = min(os.cpu_count() or 1, MAX_HASHERS, len(self._downloads))
        with ThreadPoolExecutor(num_receivers + num_hashers, "fetch") as pool:
            futures = [pool.submit(self._receive) for _ in range(num_receivers)]
            futures += [pool.submit(self._hash) for _ in range(num_hashers)]
            try:
                self._watch(futures, on_progress)
            finally:
                self._end()

    def _watch(self, futures: list[Future[None]], on_progress: OnProgress) -> None:
        """Report until all threads are through, or one has failed."""
        meter = Meter()
        is_waiting = True
        while is_waiting:
            finished, waiting = wait(futures, timeout=REPORT_S, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
            is_waiting = bool(waiting)
            done_bytes = min(self._done_bytes, self._fetch_bytes)
            phase: Phase = "fetching" if done_bytes < self._fetch_bytes else "verifying"
            already_bytes = self._source.total_bytes - self._fetch_bytes
            rate = meter.rate(self._done_bytes)
            on_progress(Progress(phase, already_bytes + done_bytes, self._source.total_bytes, rate))

    def _end(self) -> None:
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
            for reader in self._readers:
                reader.abort()

    def _is_over(self) -> bool:
        return self._stop.is_set() or all(download.is_finished for download in self._downloads)

    def _receive(self) -> None:
        buffer = memoryview(bytearray(MIB))
        with closing(self._source.connect()) as reader:
            with self._changed:
                self._readers.append(reader)
            while (span := self._take_span()) is not None:
                try:
                    self._transfer(reader, span, buffer)
                except RangeIgnored:
                    self._demand_whole(span.file)
                finally:
                    self._let_go(span.file)

    def _take_span(self) -> Span | None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_over() or self._spans)
            if self._is_over():
                return None
            span = self._spans.popleft()
            self._downloads[span.file].num_receivers += 1
            return span

    def _demand_whole(self, file: int) -> None:
        with self._changed:
            self._downloads[file].is_whole = True
            self._spans = deque(span for span in self._spans if span.file != file)

    def _let_go(self, file: int) -> None:
        """After a span; when the last one of a file whose server ignores ranges has ended, all of it is queued."""
        download = self._downloads[file]
        with self._changed:
            download.num_receivers -= 1
            if download.is_whole and download.num_receivers == 0 and not all(download.part.done):
                self._spans.append(Span(file, 0, download.file.size))
            self._changed.notify_all()

    def _transfer(self, reader: Reader, span: Span, buffer: memoryview) -> None:
        """Bring one span, in as many tries as make progress. Raises: RangeIgnored, SourceUnavailable."""
        path = self._downloads[span.file].file.path
        patience = Patience(
            f"{path} (bytes {span.start}-{span.stop - 1}) from {self._source.uri}", self._policy, self._stop
        )
        position = span.start
        while position < span.stop and not self._stop.is_set():
            before = position
            try:
                for reached in self._pour(reader, span, before, buffer):
                    position = reached
            except Transient as error:
                if position - before >= min(self._policy.min_progress_bytes, span.stop - before):
                    patience.renew()
                patience.fail(error)

    def _pour(self, reader: Reader, span: Span, position: int, buffer: memoryview) -> Iterator[int]:
        """One body, from `position` on; gives the position that was reached after each piece."""
        download = self._downloads[span.file]
        size = download.file.size
        is_whole = span.stop - span.start == size
        with closing(reader.open(download.file.location, position, span.stop, size)) as body:
            if (body.start, body.stop) != (position, span.stop) and not is_whole:
                raise RangeIgnored
            download.check_version(body.version)
            started, at = time.monotonic(), body.start
            while at < span.stop and not self._stop.is_set():
                if download.is_whole and not is_whole:
                    raise RangeIgnored
                chunk = at // self._chunk_bytes
                stop = position if at < position else download.part.span(chunk)[1]
                count = body.readinto(buffer[: stop - at])
                if at >= position and not download.part.done[chunk]:
                    self._store(download, chunk, buffer[:count], at)
                at += count
                self._check_rate(at - body.start, time.monotonic() - started)
                yield max(at, position)

    def _store(self, download: Download, chunk: int, data: memoryview, offset: int) -> None:
        download.part.write(data, offset)
        is_last = offset + len(data) == download.part.span(chunk)[1]
        if is_last:
            download.part.mark(chunk)
        with self._changed:
            self._done_bytes += len(data)
            if is_last:
                self._changed.notify_all()

    def _check_rate(self, received_bytes: int, elapsed_s: float) -> None:
        if elapsed_s > self._policy.read_timeout_s and received_bytes < elapsed_s * self._policy.min_rate_bytes_s:
            raise Transient(f"slower than {self._policy.min_rate_bytes_s} bytes a second")

    def _hash(self) -> None:
        buffer = memoryview(bytearray(MIB))
        while (download := self._take_hashable()) is not None:
            wrong = download.advance(buffer)
            with self._changed:
                download.is_hashing = False
                self._queue_again(download, wrong)
                self._changed.notify_all()

    def _take_hashable(self) -> Download | None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_over() or any(download.can_hash for download in self._downloads))
            if self._is_over():
                return None
            download = next(download for download in self._downloads if download.can_hash)
            download.is_hashing = True
            return download

    def _queue_again(self, download: Download, chunks: Sequence[int]) -> None:
        file, size = self._downloads.index(download), download.file.size
        spans = [Span(file, *download.part.span(chunk)) for chunk in chunks]
        self._done_bytes -= sum(span.stop - span.start for span in spans)
        self._spans.extend([Span(file, 0, size)] if spans and download.is_whole else spans)
