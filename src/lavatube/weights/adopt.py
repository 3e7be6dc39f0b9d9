"""Files that the hub's own library has fetched already: found in its cache, hashed, and linked into ours.

The name of such a file is no proof of what is in it, so that it is read once before it counts.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from lavatube.errors import CacheUnusable, SourceUnavailable
from lavatube.weights.cache import Cache
from lavatube.weights.manifest import hash_file
from lavatube.weights.options import MIB
from lavatube.weights.source import SourceFile
from lavatube.weights.uri import ModelUri

MAX_SMALL_BYTES = 64 * MIB
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")

logger = logging.getLogger(__name__)


def adopt(
    model: ModelUri, files: Sequence[SourceFile], hub_cache: Path, cache: Cache, on_bytes: Callable[[int], None]
) -> dict[str, str]:
    """Take what is there into the cache; the sha256 of each path that was. Damage and faults there are no matter."""
    repository = hub_cache / f"models--{model.location.replace('/', '--')}"
    adopted: dict[str, str] = {}
    for file in files:
        try:
            found = _find(repository, model.revision, file)
            if found.is_file() and found.stat().st_size == file.size:
                sha256 = _take(found, file, cache, on_bytes)
                if sha256:
                    adopted[file.path] = sha256
                else:
                    logger.warning("%s in the hub library's cache is damaged and is not used", file.path)
        except (OSError, SourceUnavailable, CacheUnusable) as error:
            logger.warning("%s in the hub library's cache can't be used: %s", file.path, error)
    return adopted


def _find(repository: Path, revision: str, file: SourceFile) -> Path:
    """By its digest; a small file, whose name there is another digest than a manifest has, by its path."""
    blob = repository / "blobs" / (file.sha256 or file.git_sha1 or "-")
    ref = repository / "refs" / revision
    if blob.is_file() or not file.sha256:
        return blob
    commit = ref.read_text(encoding="ascii", errors="replace").strip() if ref.is_file() else revision
    return repository / "snapshots" / commit / file.path if _COMMIT.fullmatch(commit) else blob


def _take(found: Path, file: SourceFile, cache: Cache, on_bytes: Callable[[int], None]) -> str:
    """The sha256 of a file that is now a blob; empty for a wrong one. What is hashed is what is kept."""
    fresh = cache.parts / f"adopted-{secrets.token_hex(16)}"
    try:
        try:
            os.link(found.resolve(), fresh)
        except OSError:  # another file system
            cache.check_space(file.size)
            shutil.copyfile(found, fresh)
            fresh.chmod(0o444)
        size, sha256 = hash_file(fresh, on_bytes)
        if size != file.size or not _is_right(fresh, file, sha256):
            return ""
        cache.blob(sha256).parent.mkdir(mode=0o755, exist_ok=True)
        fresh.replace(cache.blob(sha256))
        return sha256
    finally:
        fresh.unlink(missing_ok=True)


def _is_right(path: Path, file: SourceFile, sha256: str) -> bool:
    if file.sha256:
        return sha256 == file.sha256
    if file.size > MAX_SMALL_BYTES:
        return False
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == file.git_sha1
