"""Files of a source come in as ranges over several connections, are hashed in order, and become blobs of the cache.

Threads take spans and store what they bring; each takes its file's digest along, unless another does. So the faster
bytes come, the more of the time goes into their digests, which are never far behind. One more thread does nothing else,
for all others may be waiting for bytes. What turns out wrong is fetched anew, once. The caller's thread reports, and
opens connections.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from typing import Final

from lavatube.trace import Trace
from lavatube.weights.buffer import new_buffer
from lavatube.weights.cache import Cache
from lavatube.weights.crew import Crew
from lavatube.weights.download import Download
from lavatube.weights.early import Early
from lavatube.weights.options import Policy
from lavatube.weights.order import tail_bytes
from lavatube.weights.patience import Crowded, Patience, Transient, check_rate
from lavatube.weights.progress import Meter, OnProgress, Phase, Progress
from lavatube.weights.source import Reader, Source, SourceFile
from lavatube.weights.spans import Line, Span, plan
from lavatube.weights.spare import yield_to_others
from lavatube.weights.throttle import Throttle
from lavatube.weights.trailed import Trailed

REPORT_S: Final = 0.2
STAGE_S: Final = 0.05
LOOK_S: Final = 0.2


class RangeIgnored(Exception):
    """The whole file came where a piece was asked for."""


def fetch(
    source: Source,
    files: Sequence[SourceFile],
    cache: Cache,
    policy: Policy,
    on_progress: OnProgress,
    staging: Early | None = None,
    trace: Trace | None = None,
) -> dict[str, str]:
    """Bring `files` of the source into the cache, verified; gives the sha256 of each path.

    Raises: SourceUnavailable, DigestMismatch, CacheUnusable.
    """
    chunk_bytes = source.chunk_bytes or policy.chunk_bytes
    is_trailed = staging is not None and not staging.is_over
    with ExitStack() as stack:
        if staging is not None:
            stack.enter_context(closing(staging))
        downloads = [
            stack.enter_context(closing(Download(source, file, cache, chunk_bytes, is_trailed=is_trailed)))
            for file in files
        ]
        _Fetch(source, downloads, policy, staging, trace or Trace()).run(on_progress)
        return {download.file.path: download.sha256 for download in downloads}


class _Fetch:
    """One run: what is in line, what is done, and the threads on it."""

    def __init__(
        self, source: Source, downloads: Sequence[Download], policy: Policy, staging: Early | None, trace: Trace
    ) -> None:
        self._source = source
        self._downloads = downloads
        self._policy = policy
        self._staging = staging
        self._trace = trace
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._readers: list[Reader] = []
        self._trailed = Trailed(downloads)
        num_chunks = sum(download.part.num_chunks for download in downloads)
        most = max(1, min(policy.max_connections, num_chunks))
        self._crew = Crew(Throttle(min(policy.connections, most), most, os.cpu_count() or 1))
        sizes = [download.file.size for download in downloads]
        self._chunk_bytes = source.chunk_bytes or policy.chunk_bytes
        tails = [tail_bytes(download.file.path) for download in downloads]
        spans = plan(sizes, [download.part.done for download in downloads], self._chunk_bytes, tails)
        self._line = Line(spans, policy.race_after_s)
        self._fetch_bytes = sum(sizes)

    def run(self, on_progress: OnProgress) -> None:
        with ThreadPoolExecutor(self._crew.most + 1, "fetch") as pool:
            futures = {pool.submit(self._verify), *self._crew.begin(lambda: pool.submit(self._receive))}
            try:
                self._watch(futures, on_progress)
            finally:
                self._end()

    def _watch(self, futures: set[Future[None]], on_progress: OnProgress) -> None:
        """Report, stage and open connections until every file is verified, or a thread has failed."""
        meter = Meter()
        is_under_way = True
        while is_under_way:
            is_staging = self._staging is not None and not self._staging.is_over
            finished, _ = wait(futures, timeout=STAGE_S if is_staging else REPORT_S, return_when=FIRST_COMPLETED)
            futures -= finished
            for future in finished:
                future.result()
            is_under_way = not self._is_over()
            if is_staging:
                self._stage()
            self._trailed.look()
            received_bytes = sum(download.received_bytes for download in self._downloads)
            futures |= self._crew.adjust(received_bytes, time.monotonic(), time.process_time())
            phase: Phase = "fetching" if received_bytes < self._fetch_bytes else "verifying"
            already_bytes = self._source.total_bytes - self._fetch_bytes
            rate = meter.rate(received_bytes)
            on_progress(Progress(phase, already_bytes + received_bytes, self._source.total_bytes, rate))

    def _stage(self) -> None:
        """Show what is here to whoever wants to begin with it; from then on, what is needed first is fetched first."""
        assert self._staging is not None
        ranks = self._staging.offer(self._downloads)
        if ranks is not None:
            with self._changed:
                self._line.sort(lambda span: (ranks[span.file][span.start // self._chunk_bytes], span.start))

    def _end(self) -> None:
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
            for reader in self._readers:
                reader.abort()

    def _is_over(self) -> bool:
        return self._stop.is_set() or all(download.is_finished for download in self._downloads)

    def _receive(self) -> None:
        buffer = new_buffer()
        with closing(self._source.connect()) as reader:
            with self._changed:
                self._readers.append(reader)
            while (task := self._take()) is not None:
                if isinstance(task, Download):
                    self._hash(task, buffer)
                elif not self._bring(reader, task, buffer):
                    return

    def _take(self) -> Span | Download | None:
        """The next span, or a download to hash, which is claimed: first of all one that nobody receives for."""
        with self._changed:
            while not self._is_over():
                if self._crew.retire():
                    return None
                download = next((each for each in self._downloads if not each.num_receivers and each.claim()), None)
                if download is not None:
                    return download
                span = self._line.take(time.monotonic())
                if span is not None:
                    self._downloads[span.file].num_receivers += 1
                    return span
                download = self._claim()
                if download is not None:
                    return download
                self._changed.wait(LOOK_S)  # a span becomes worth a race as time goes by
            return None

    def _verify(self) -> None:
        buffer = new_buffer()
        while not self._is_over():
            with self._changed:
                download = self._claim()
                if download is None:
                    self._changed.wait(LOOK_S)
            if download is not None:
                self._hash(download, buffer)

    def _claim(self) -> Download | None:
        return next((download for download in self._downloads if download.claim()), None)

    def _bring(self, reader: Reader, span: Span, buffer: memoryview) -> bool:
        """Whether the receiver is to go on."""
        begun_s, position = time.monotonic(), span.stop
        try:
            position = self._transfer(reader, span, buffer)
        except RangeIgnored:
            self._demand_whole(span.file)
        finally:
            self._let_go(span, position)
            self._tell("download", self._downloads[span.file], begun_s)
        return position == span.stop

    def _demand_whole(self, file: int) -> None:
        with self._changed:
            self._downloads[file].is_whole = True
            self._line.drop(file)

    def _let_go(self, span: Span, position: int) -> None:
        """After a span; when the last one of a file whose server ignores ranges has ended, all of it is queued."""
        download = self._downloads[span.file]
        with self._changed:
            if position < span.stop:
                self._line.put_back(span, position)
            else:
                self._line.give_back(span, time.monotonic())
            download.num_receivers -= 1
            if download.is_whole and download.num_receivers == 0 and not all(download.part.done):
                self._line.add([Span(span.file, 0, download.file.size)])
            self._changed.notify_all()

    def _transfer(self, reader: Reader, span: Span, buffer: memoryview) -> int:
        """Bring one span, in as many tries as make progress; gives the position at which the receiver leaves it.

        Raises: RangeIgnored, SourceUnavailable.
        """
        download = self._downloads[span.file]
        patience = Patience(
            f"{download.file.path} (bytes {span.start}-{span.stop - 1}) from {self._source.uri}",
            self._policy,
            self._stop,
        )
        position, is_refused = span.start, False
        while position < span.stop and not self._stop.is_set():
            before = position
            try:
                for reached in self._pour(reader, span, before, buffer):
                    position = reached
            except Transient as error:
                if position - before >= min(self._policy.min_progress_bytes, span.stop - before):
                    patience.renew()
                # The first time it may be a passing one, and the source may have said how long to wait.
                was_refused, is_refused = is_refused, isinstance(error, Crowded) and position == before
                if was_refused and is_refused and not download.is_whole and self._crew.leave():
                    break
                patience.fail(error)
        return position

    def _pour(self, reader: Reader, span: Span, position: int, buffer: memoryview) -> Iterator[int]:
        """One body, from `position` on; gives the position that was reached after each piece."""
        download = self._downloads[span.file]
        size = download.file.size
        is_whole = span.stop - span.start == size
        with closing(reader.open(download.file.location, position, span.stop, size)) as body, self._crew.served():
            if (body.start, body.stop) != (position, span.stop) and not is_whole:
                raise RangeIgnored
            download.check_version(body.version)
            started, at = time.monotonic(), body.start
            while at < span.stop and not self._stop.is_set():
                if download.is_whole and not is_whole:
                    raise RangeIgnored
                if not is_whole and download.is_here(at, span.stop):
                    yield span.stop  # a racer was faster
                    return
                stop = position if at < position else min(span.stop, (at // self._chunk_bytes + 1) * self._chunk_bytes)
                count = body.readinto(buffer[: stop - at])
                if at >= position and download.store(buffer[:count], at) and download.claim():
                    self._hash(download, buffer)
                at += count
                check_rate(self._policy, at - body.start, time.monotonic() - started)
                yield max(at, position)

    def _hash(self, download: Download, buffer: memoryview) -> None:
        """One step, or the decision at the end; and what others brought meanwhile, if somebody waits for its digest.

        They went on to their next spans, and it may be long before one of them looks up.
        """
        self._hash_once(download, buffer)
        while download.is_awaited and download.claim():
            self._hash_once(download, buffer)

    def _hash_once(self, download: Download, buffer: memoryview) -> None:
        if self._trailed.is_complete:
            yield_to_others()
        begun_s = time.monotonic()
        wrong = download.advance(buffer)
        self._tell("verify", download, begun_s)
        with self._changed:
            self._queue_again(download, wrong)
            if wrong or download.is_finished:
                self._changed.notify_all()
            else:
                self._changed.notify()  # there may be more to hash, for one that has nothing else to do

    def _tell(self, kind: str, download: Download, begun_s: float) -> None:
        self._trace.span(kind, download.file.path, begun_s, time.monotonic())

    def _queue_again(self, download: Download, chunks: Sequence[int]) -> None:
        file = self._downloads.index(download)
        spans = [Span(file, *download.part.span(chunk)) for chunk in chunks]
        self._line.add([Span(file, 0, download.file.size)] if spans and download.is_whole else spans)
