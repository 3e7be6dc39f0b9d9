"""A folder of this machine as a model, where it lies: nothing is copied, and as much is verified as is known of it."""

from __future__ import annotations

import logging
from pathlib import Path

from lavatube.errors import CacheUnusable, DigestMismatch, SourceUnavailable
from lavatube.weights import content
from lavatube.weights import manifest as manifests
from lavatube.weights.cache import Cache, open_cache
from lavatube.weights.local import fingerprint
from lavatube.weights.manifest import Manifest, ManifestFile
from lavatube.weights.options import Provisioned, ProvisionOptions, Trust
from lavatube.weights.progress import OnProgress, counter

logger = logging.getLogger(__name__)


def use_folder(
    folder: Path, pinned: Manifest | None, options: ProvisionOptions, on_progress: OnProgress
) -> Provisioned:
    """Sizes are looked at, and digests if they are pinned. Raises: SourceUnavailable, DigestMismatch, CacheUnusable."""
    beside = folder / manifests.FILE_NAME
    manifest = pinned or (manifests.read_manifest(beside) if beside.is_file() else None)
    if manifest is None:
        return Provisioned(folder, "", "local", folder_bytes(folder), from_cache=True, source=folder.as_uri())
    for file in manifest.files:
        _check_size(folder, file)
    if pinned is not None or options.is_thorough:
        _check_pinned(folder, manifest, open_cache(options), on_progress, is_thorough=options.is_thorough)
    else:
        logger.info("%s: its files have the sizes that it lists; --verify full, or --lock, hashes them", beside)
    trust: Trust = "pinned" if pinned is not None else "local"
    return Provisioned(folder, manifest.set_digest, trust, manifest.total_bytes, True, folder.as_uri())


def _check_pinned(folder: Path, pinned: Manifest, cache: Cache, on_progress: OnProgress, *, is_thorough: bool) -> None:
    """Hash a folder against a manifest, unless it looks as it did when that was done last."""
    identity = f"{folder.as_uri()} {fingerprint(folder, [file.path for file in pinned.files])}"
    recalled = cache.recall(identity)
    if recalled is not None and recalled.set_digest == pinned.set_digest and not is_thorough:
        return
    on_bytes = counter("verifying", pinned.total_bytes, on_progress)
    for file in pinned.files:
        _, sha256 = manifests.hash_file(folder / file.path, on_bytes)
        if sha256 != file.sha256:
            raise DigestMismatch(
                f"{folder / file.path} has sha256 {sha256}, but {file.sha256} was expected.",
                remedy="Get the file again, or give another --lock.",
            )
    try:
        cache.prepare()
        cache.remember([identity], pinned.set_digest, "pinned")
    except CacheUnusable as error:
        logger.info("the next start verifies again: %s", error.message)


def _check_size(folder: Path, file: ManifestFile) -> None:
    try:
        size = (folder / file.path).stat().st_size
    except OSError as error:
        raise SourceUnavailable(f"{folder / file.path} can't be read: {error.strerror}.") from error
    if size != file.size:
        raise DigestMismatch(
            f"{folder / file.path} has {size} bytes, but its manifest says {file.size}.",
            remedy="Get the file again, or write the manifest again with `lavatube lock`.",
        )


def folder_bytes(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in content.list_folder(folder))
