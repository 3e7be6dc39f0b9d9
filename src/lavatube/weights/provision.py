"""Phase 1: MODEL in; a folder of trusted files out. Ties sources, fetch and cache together.

A set that is in the cache costs one look at each of its files, and no write. What is fetched is verified before it has
a name. Knows no models and no settings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from lavatube.errors import CacheUnusable, SourceUnavailable
from lavatube.weights import manifest as manifests
from lavatube.weights.adopt import adopt
from lavatube.weights.archive import unpack
from lavatube.weights.cache import Cache, open_cache
from lavatube.weights.chunk_map import read_map
from lavatube.weights.download import part_name
from lavatube.weights.fetch import fetch
from lavatube.weights.in_place import folder_bytes, use_folder
from lavatube.weights.join import frame_main, join_parts, may_lack_parts
from lavatube.weights.locks import hold
from lavatube.weights.manifest import Manifest, is_weights
from lavatube.weights.marker import ReadySet
from lavatube.weights.options import Policy, Provisioned, ProvisionOptions, Trust
from lavatube.weights.progress import Meter, OnProgress, Progress, counter
from lavatube.weights.source import Source, SourceFile
from lavatube.weights.sources import hub_identity, resolve, settle
from lavatube.weights.staged import sweep
from lavatube.weights.staging import Staging, can_be_staged
from lavatube.weights.tar_index import lay_out
from lavatube.weights.uri import ModelUri, parse_model
from lavatube.weights.whole import Frame

__all__ = [
    "Policy",
    "Progress",
    "ProvisionOptions",
    "Provisioned",
    "Trust",
    "lock_model",
    "parse_model",
    "provision",
    "provision_source",
]

logger = logging.getLogger(__name__)

MakeFrame = Callable[[Source, Mapping[str, str], Cache], Frame | None]
"""What is around a source whose weights are still to come, but whose other files, with these digests, are here."""


def provision(uri: str, options: ProvisionOptions, on_progress: OnProgress) -> Provisioned:
    """Make the model's files available on this machine, with those of the models that it is put together from.

    `on_progress` is called in this thread.

    Raises: OperatorError, of a kind that says whether the setting, the source, the digests or the cache is at fault.
    """
    pinned = manifests.read_manifest(options.lock) if options.lock else None
    sweep(open_cache(options).staged)
    unstaged = replace(options, on_staged=None)

    def provision_part(part: str, companion: Manifest | None, frame: Frame | None) -> Provisioned:
        if frame is None:  # a part alone is no checkpoint
            return _provision_one(part, unstaged, companion, on_progress)
        return _provision_one(part, options, companion, on_progress, lambda *_: frame)

    def frame(source: Source, digests: Mapping[str, str], cache: Cache) -> Frame | None:
        return frame_main(source, digests, cache, pinned, provision_part)

    main = _provision_one(uri, options, pinned, on_progress, frame)
    provisioned = join_parts(main, options, pinned, provision_part)
    on_progress(Progress("ready", provisioned.total_bytes, provisioned.total_bytes))
    return provisioned


def _provision_one(
    uri: str,
    options: ProvisionOptions,
    pinned: Manifest | None,
    on_progress: OnProgress,
    make_frame: MakeFrame = lambda *_: Frame(),
) -> Provisioned:
    model = parse_model(uri)
    on_progress(Progress("resolving"))
    if model.kind == "folder":
        provisioned = use_folder(Path(model.location), pinned, options, on_progress)
    else:
        provisioned = _Provisioning(model, pinned, options, on_progress, make_frame).run(model)
    logger.info(
        "provisioned %s: %d bytes, trust %s, set %.12s, from cache: %s",
        provisioned.source, provisioned.total_bytes, provisioned.trust, provisioned.set_digest, provisioned.from_cache,
    )  # fmt: skip
    return provisioned


def provision_source(source: Source, options: ProvisionOptions, on_progress: OnProgress) -> Provisioned:
    """The same for a source that the caller has made, such as files in memory. Raises: as `provision`."""
    return _Provisioning(None, None, options, on_progress, lambda *_: Frame()).bring(source)


def lock_model(uri: str, options: ProvisionOptions, on_progress: OnProgress) -> Manifest:
    """The manifest of a model, from its verified files; a folder of this machine is hashed where it lies.

    Raises: as `provision`.
    """
    model, chunk_bytes = parse_model(uri), options.policy.chunk_bytes
    if model.kind in ("folder", "file") and not model.file:
        folder, name = Path(model.location), model.name
    else:
        provisioned = provision(uri, options, on_progress)
        ready = open_cache(options).find(provisioned.set_digest)
        if ready is None:
            raise CacheUnusable(
                f"The set {provisioned.set_digest:.12} is not in the cache any more.", remedy="Try again."
            )
        folder, name = ready.folder, ready.manifest.name
    on_bytes = counter("verifying", folder_bytes(folder), on_progress)
    return manifests.build_manifest(folder, name, on_bytes, chunk_bytes=chunk_bytes)


class _Provisioning:
    """One call, for a source whose files go through the cache."""

    def __init__(
        self,
        model: ModelUri | None,
        pinned: Manifest | None,
        options: ProvisionOptions,
        on_progress: OnProgress,
        make_frame: MakeFrame,
    ) -> None:
        self._make_frame = make_frame
        self._model = model
        self._pinned = pinned
        self._options = options
        self._on_progress = on_progress
        self._cache = open_cache(options)
        self._alias = ""
        if model is not None:
            place = " ".join(filter(None, [model.location, model.file]))
            self._alias = f"last {model.kind} {options.hf_endpoint.rstrip('/')} {place}@{model.revision}"

    def run(self, model: ModelUri) -> Provisioned:
        found = self._find_offline(model)
        if found is not None:
            return found
        try:
            settled = settle(model, self._options)
            found = self._find_offline(settled)
            if found is not None:
                return found
            source = resolve(settled, self._options, self._pinned)
        except SourceUnavailable as error:
            found = self._find_recalled(self._alias)
            if found is None:
                raise
            logger.warning("%s Going on with the files that it had when it was last met.", error.message)
            return found
        return self.bring(source)

    def bring(self, source: Source) -> Provisioned:
        """The set of a source, from the cache or fetched."""
        return self._find(source) or self._fetch(source)

    def _find_offline(self, model: ModelUri) -> Provisioned | None:
        """A set that is named by its content, or by a commit, needs no look at its source."""
        if self._pinned is not None:
            ready = self._look_up(self._pinned.set_digest)
            return self._provisioned(ready, "pinned") if ready else None
        if model.is_immutable:
            return self._find_recalled(hub_identity(model, self._options.hf_endpoint))
        return None

    def _find(self, source: Source) -> Provisioned | None:
        if not source.set_digest:
            return self._find_recalled(source.identity)
        ready = self._look_up(source.set_digest)
        return self._provisioned(ready, source.trust) if ready else None

    def _find_recalled(self, identity: str) -> Provisioned | None:
        if self._pinned is not None:
            return None
        recalled = self._cache.recall(identity)
        if recalled is None or (recalled.trust == "unverified" and not self._options.allow_unverified):
            return None
        ready = self._look_up(recalled.set_digest)
        return self._provisioned(ready, recalled.trust) if ready else None

    def _look_up(self, set_digest: str) -> ReadySet | None:
        return self._cache.find(set_digest, lambda size: counter("verifying", size, self._on_progress))

    def _fetch(self, source: Source) -> Provisioned:
        """Bring what is missing, while no other process does the same."""
        cache, wait_s = self._cache, self._options.policy.lock_wait_s
        cache.prepare()
        with (
            hold(cache.upkeep_lock, wait_s, is_shared=True),
            hold(cache.set_lock(source.set_digest or source.identity or source.uri), wait_s, self._watcher(source)),
        ):
            return self._find(source) or self._fetch_missing(source)

    def _fetch_missing(self, source: Source) -> Provisioned:
        if source.is_archive:
            laid_out = lay_out(source, self._options.policy)
            if laid_out is None:
                return self._unpack(source)
            source = laid_out
        cache, policy = self._cache, self._options.policy
        here_bytes = sum(file.size for file in source.files if file.sha256 and cache.has_blob(file.sha256, file.size))
        count = counter("verifying", here_bytes, self._on_progress)
        missing = [
            file for file in source.files if not file.sha256 or not cache.has_intact_blob(file.sha256, file.size, count)
        ]
        known = self._adopt(missing)
        missing = [file for file in missing if file.path not in known]
        cache.check_space(sum(file.size - cache.allocated_bytes(part_name(source, file)) for file in missing))
        logger.info("fetching %d of %d files of %s", len(missing), len(source.files), source.uri)
        trace, is_here = self._options.trace, not missing
        if self._options.on_staged and can_be_staged(source) and may_lack_parts(source):
            described = [file for file in missing if not is_weights(file.path)]
            # Too little to be told of: as a share of the whole it would look like the rest.
            known |= fetch(source, described, cache, policy, lambda _: None, trace=trace) if described else {}
            missing = [file for file in missing if is_weights(file.path)]
        staging = self._stage(source, known) if missing else None
        known |= fetch(source, missing, cache, policy, self._on_progress, staging, trace) if missing else {}
        return self._publish(source, source.manifest(known), from_cache=is_here)

    def _stage(self, source: Source, known: Mapping[str, str]) -> Staging | None:
        """For an engine that wants to begin early; `known` are the digests of what is here."""
        announce = self._options.on_staged
        if announce is None or not can_be_staged(source):
            return None
        frame = self._make_frame(source, known, self._cache)
        return Staging(source, self._cache, announce, known, frame) if frame else None

    def _adopt(self, missing: list[SourceFile]) -> dict[str, str]:
        """What the hub's own library has in its cache."""
        if self._model is None or self._model.kind != "hub" or self._options.hf_cache is None:
            return {}
        on_bytes = counter("verifying", sum(file.size for file in missing), self._on_progress)
        return adopt(self._model.location, missing, self._options.hf_cache, self._cache, on_bytes)

    def _unpack(self, source: Source) -> Provisioned:
        self._cache.check_space(source.contents.total_bytes if source.contents else source.total_bytes)
        on_bytes = counter("fetching", source.total_bytes, self._on_progress)
        manifest = unpack(source, self._cache, self._options.policy, on_bytes)
        return self._publish(source, manifest, from_cache=False)

    def _publish(self, source: Source, manifest: Manifest, *, from_cache: bool) -> Provisioned:
        ready = self._cache.publish(manifest, source.uri)
        self._cache.remember((self._alias, source.identity), manifest.set_digest, source.trust)
        return self._provisioned(ready, source.trust, from_cache=from_cache)

    def _watcher(self, source: Source) -> Callable[[], None]:
        """Reports what another process has fetched so far."""
        meter = Meter()
        chunk_bytes = source.chunk_bytes or self._options.policy.chunk_bytes

        def report() -> None:
            done_bytes = sum(self._present_bytes(source, file, chunk_bytes) for file in source.files)
            self._on_progress(Progress("fetching", done_bytes, source.total_bytes, meter.rate(done_bytes)))

        return report

    def _present_bytes(self, source: Source, file: SourceFile, chunk_bytes: int) -> int:
        if file.sha256 and self._cache.has_blob(file.sha256, file.size):
            return file.size
        chunks = read_map(self._cache.parts / f"{part_name(source, file)}.map", file.size, chunk_bytes)
        return min(file.size, sum(chunks or b"") * chunk_bytes)

    def _provisioned(self, ready: ReadySet, trust: Trust, *, from_cache: bool = True) -> Provisioned:
        digest, size = ready.manifest.set_digest, ready.manifest.total_bytes
        return Provisioned(ready.folder, digest, trust, size, from_cache, ready.source)
