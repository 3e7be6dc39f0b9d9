"""What a source has and the cache lacks comes in: fetched, unpacked, or taken over from the hub's own library.

Apart from `provision`, since a set that is ready needs nothing of this.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from lavatube.weights.cache import Cache
from lavatube.weights.chunk_map import read_map
from lavatube.weights.content import is_weights
from lavatube.weights.download import part_name
from lavatube.weights.fetch import fetch
from lavatube.weights.manifest import Manifest
from lavatube.weights.options import ProvisionOptions
from lavatube.weights.progress import Meter, OnProgress, Progress, counter
from lavatube.weights.source import Source, SourceFile
from lavatube.weights.uri import ModelUri
from lavatube.weights.whole import MakeFrame

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One source on its way into a cache; `model` is None for files that the caller holds."""

    source: Source
    model: ModelUri | None
    cache: Cache
    options: ProvisionOptions
    on_progress: OnProgress
    make_frame: MakeFrame

    def bring(self) -> tuple[Manifest, bool]:
        """What the source consists of, all of which is in the cache now; and whether it was before.

        Raises: as `provision`.
        """
        source, cache, policy = self.source, self.cache, self.options.policy
        if source.is_archive:
            from lavatube.weights.tar_index import lay_out

            laid_out = lay_out(source, policy)
            if laid_out is None:
                return self._unpack(), False
            source = laid_out
        here_bytes = sum(file.size for file in source.files if file.sha256 and cache.has_blob(file.sha256, file.size))
        count = counter("verifying", here_bytes, self.on_progress)
        missing = [
            file for file in source.files if not file.sha256 or not cache.has_intact_blob(file.sha256, file.size, count)
        ]
        known = self._adopt(missing)
        missing = [file for file in missing if file.path not in known]
        cache.check_space(sum(file.size - cache.allocated_bytes(part_name(source, file)) for file in missing))
        logger.info("fetching %d of %d files of %s", len(missing), len(source.files), source.uri)
        if missing:
            known |= self._fetch(source, missing, known)
        return source.manifest(known), not missing

    def report_other(self) -> Callable[[], None]:
        """What reports how much another process has fetched so far."""
        meter = Meter()
        chunk_bytes = self.source.chunk_bytes or self.options.policy.chunk_bytes

        def report() -> None:
            done_bytes = sum(self._present_bytes(file, chunk_bytes) for file in self.source.files)
            self.on_progress(Progress("fetching", done_bytes, self.source.total_bytes, meter.rate(done_bytes)))

        return report

    def _fetch(self, source: Source, missing: list[SourceFile], known: dict[str, str]) -> dict[str, str]:
        """The digests of the missing files, when they are here; who wants to begin early is told of a folder."""
        cache, policy, trace = self.cache, self.options.policy, self.options.trace
        announce = self.options.on_staged
        if announce is None:
            return fetch(source, missing, cache, policy, self.on_progress, None, trace)
        from lavatube.weights.join import may_lack_parts
        from lavatube.weights.staging import Staging, can_be_staged

        if not can_be_staged(source):
            return fetch(source, missing, cache, policy, self.on_progress, None, trace)
        fetched: dict[str, str] = {}
        if may_lack_parts(source):
            described = [file for file in missing if not is_weights(file.path)]
            # Too little to be told of: as a share of the whole it would look like the rest.
            fetched = fetch(source, described, cache, policy, lambda _: None, trace=trace) if described else {}
            missing = [file for file in missing if is_weights(file.path)]
            if not missing:
                return fetched
        here = known | fetched
        frame = self.make_frame(source, here, cache)
        staging = Staging(source, cache, announce, here, frame) if frame else None
        return fetched | fetch(source, missing, cache, policy, self.on_progress, staging, trace)

    def _adopt(self, missing: list[SourceFile]) -> dict[str, str]:
        """What the hub's own library has in its cache."""
        if self.model is None or self.model.kind != "hub" or self.options.hf_cache is None:
            return {}
        from lavatube.weights.adopt import adopt

        on_bytes = counter("verifying", sum(file.size for file in missing), self.on_progress)
        return adopt(self.model, missing, self.options.hf_cache, self.cache, on_bytes)

    def _unpack(self) -> Manifest:
        from lavatube.weights.archive import unpack

        source = self.source
        self.cache.check_space(source.contents.total_bytes if source.contents else source.total_bytes)
        on_bytes = counter("fetching", source.total_bytes, self.on_progress)
        return unpack(source, self.cache, self.options.policy, on_bytes)

    def _present_bytes(self, file: SourceFile, chunk_bytes: int) -> int:
        if file.sha256 and self.cache.has_blob(file.sha256, file.size):
            return file.size
        chunks = read_map(self.cache.parts / f"{part_name(self.source, file)}.map", file.size, chunk_bytes)
        return min(file.size, sum(chunks or b"") * chunk_bytes)
