"""Phase 1: MODEL in; a folder of trusted files out. Ties sources, fetch and cache together.

A set that is in the cache costs one look at each of its files, and no write. What is fetched is verified before it has
a name. Knows no models and no settings.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lavatube.errors import CacheUnusable, SourceUnavailable
from lavatube.weights import manifest as manifests
from lavatube.weights.cache import Cache, open_cache
from lavatube.weights.join import frame_main, join_parts
from lavatube.weights.locks import hold
from lavatube.weights.manifest import Manifest
from lavatube.weights.marker import ReadySet
from lavatube.weights.options import Policy, Provisioned, ProvisionOptions, Trust
from lavatube.weights.progress import Ledger, OnProgress, Progress, counter
from lavatube.weights.source import Source
from lavatube.weights.sources import resolve, settle
from lavatube.weights.staged import sweep
from lavatube.weights.uri import ModelUri, hub_identity, parse_model
from lavatube.weights.whole import Frame, MakeFrame

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


def provision(uri: str, options: ProvisionOptions, on_progress: OnProgress) -> Provisioned:
    """Make the model's files available on this machine, with those of the models that it is put together from.

    `on_progress` is called in this thread.

    Raises: OperatorError, of a kind that says whether the setting, the source, the digests or the cache is at fault.
    """
    pinned = manifests.read_manifest(options.lock) if options.lock else None
    sweep(open_cache(options).staged)
    unstaged = replace(options, on_staged=None)
    ledger = Ledger(on_progress)

    def provision_part(part: str, companion: Manifest | None, frame: Frame | None) -> Provisioned:
        if frame is None:  # a part alone is no checkpoint
            return _provision_one(part, unstaged, companion, ledger.part(part))
        return _provision_one(part, options, companion, ledger.part(part), lambda *_: frame)

    def frame(source: Source, digests: Mapping[str, str], cache: Cache) -> Frame | None:
        ledger.expect(uri, source.total_bytes)
        return frame_main(source, digests, cache, pinned, provision_part)

    main = _provision_one(uri, options, pinned, ledger.part(uri), frame)
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
        from lavatube.weights.in_place import use_folder

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
    from lavatube.weights.in_place import folder_bytes

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
            settled = self._settle(model)
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

    def _settle(self, model: ModelUri) -> ModelUri:
        """Pinned digests decide wherever bytes come from: they need no commit. Raises: SourceUnavailable."""
        try:
            return settle(model, self._options)
        except SourceUnavailable as error:
            if self._pinned is None:
                raise
            logger.warning("%s Going on with what is pinned, from wherever it is found.", error.message)
            return model

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
        from lavatube.weights.bring import Delivery  # a set that is ready does without all that fetches

        cache, wait_s = self._cache, self._options.policy.lock_wait_s
        cache.prepare()
        delivery = Delivery(source, self._model, cache, self._options, self._on_progress, self._make_frame)
        set_lock = cache.set_lock(source.set_digest or source.identity or source.uri)
        with hold(cache.upkeep_lock, wait_s, is_shared=True), hold(set_lock, wait_s, delivery.report_other()):
            found = self._find(source)
            if found is not None:
                return found
            manifest, is_here = delivery.bring()
            return self._publish(source, manifest, from_cache=is_here)

    def _publish(self, source: Source, manifest: Manifest, *, from_cache: bool) -> Provisioned:
        ready = self._cache.publish(manifest, source.uri)
        self._cache.remember((self._alias, source.identity), manifest.set_digest, source.trust)
        return self._provisioned(ready, source.trust, from_cache=from_cache)

    def _provisioned(self, ready: ReadySet, trust: Trust, *, from_cache: bool = True) -> Provisioned:
        digest, size = ready.manifest.set_digest, ready.manifest.total_bytes
        return Provisioned(ready.folder, digest, trust, size, from_cache, ready.source)
