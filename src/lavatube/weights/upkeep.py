"""What lies in a cache, and how it gets smaller: list sets, remove one, collect what no set needs."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lavatube.errors import CacheUnusable, InvalidSetting
from lavatube.weights.cache import Cache
from lavatube.weights.filesystems import has_locks
from lavatube.weights.in_use import alone_with, forget, last_renewed_s
from lavatube.weights.locks import hold
from lavatube.weights.marker import ReadySet
from lavatube.weights.parts import cache_border
from lavatube.weights.refs import read_ref
from lavatube.weights.staged import sweep

PART_AGE_S: Final = 7 * 24 * 3600.0
UNLOCKED_AGE_S: Final = 6 * 3600.0
"""Where no lock tells what is in use, what was used or made since stays."""
MIN_QUERY: Final = 6

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachedSet:
    """One ready set, as it is listed."""

    set_digest: str
    name: str
    source: str
    total_bytes: int
    num_files: int


def list_sets(cache: Cache) -> list[CachedSet]:
    """Ready sets, by name. Raises: CacheUnusable."""
    sets = [_describe(ready) for ready in cache.ready_sets()]
    return sorted(sets, key=lambda cached: (cached.name, cached.set_digest))


def remove_set(cache: Cache, query: str) -> tuple[CachedSet, int]:
    """Remove the set that a digest (its first 6 digits or more), a name or a source means; gives the bytes freed.

    A process that has mapped the files keeps them until it ends.

    Raises: InvalidSetting if none or several are meant; CacheUnusable, also while it is in use.
    """
    found = [
        cached
        for cached in list_sets(cache)
        if query in (cached.name, cached.source) or (len(query) >= MIN_QUERY and cached.set_digest.startswith(query))
    ]
    if len(found) != 1:
        what = "no set" if not found else f"{len(found)} sets"
        raise InvalidSetting(f"{query!r:.200} means {what} of {cache.root}.", remedy="`lavatube cache ls` lists them.")
    with _alone(cache) as least_age_s, cache_border(f"{cache.root} can't be written"):
        obstacle = _forget(cache, found[0].set_digest, least_age_s)
        if obstacle:
            raise CacheUnusable(f"{found[0].name} ({found[0].set_digest:.12}) {obstacle}.", remedy="Try again later.")
        return found[0], _collect(cache, PART_AGE_S, least_age_s)


def collect(
    cache: Cache,
    part_age_s: float = PART_AGE_S,
    max_bytes: int | None = None,
    tell: Callable[[str], None] = logger.info,
) -> int:
    """Remove blobs that no ready set needs, sets that never became ready, and old parts; gives the bytes freed.

    With `max_bytes`, sets go too, the one that was used longest ago first, until all that is left is no larger or in
    use. `tell` hears of what had to stay.

    Raises: CacheUnusable, also while a set is being fetched.
    """
    if not cache.root.is_dir():
        return 0
    with _alone(cache) as least_age_s, cache_border(f"{cache.root} can't be written"):
        if least_age_s:
            tell(f"{cache.root} has no locks: what was used or made in the last {_hours(least_age_s)} stays")
        freed_bytes = _collect(cache, part_age_s, least_age_s)
        if max_bytes is None:
            return freed_bytes
        for ready in sorted(cache.ready_sets(), key=lambda ready: _last_used_s(cache, ready.manifest.set_digest)):
            if size_bytes(cache) <= max_bytes:
                break
            obstacle = _forget(cache, ready.manifest.set_digest, least_age_s)
            if obstacle:
                tell(f"{ready.manifest.name} ({ready.manifest.set_digest:.12}) {obstacle}, and stays")
            freed_bytes += _collect(cache, part_age_s, least_age_s)
        return freed_bytes


def size_bytes(cache: Cache) -> int:
    """Disk space of all blobs and parts; a link to a blob costs nothing."""
    return sum(path.stat().st_blocks * 512 for folder in (cache.blobs, cache.parts) for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _last_used_s(cache: Cache, set_digest: str) -> float:
    """When a set's marker was last read or written, as far as the file system notes that (to a day, by default), or
    whoever serves it last said so.

    Using a set need not write anything: it may lie on a disk that is only read.
    """
    status = cache.marker(set_digest).stat()
    return max(status.st_atime, status.st_mtime, last_renewed_s(cache.trees / set_digest))


def _forget(cache: Cache, set_digest: str, least_age_s: float) -> str:
    """Remove a set; if it has to stay, says why."""
    if least_age_s and time.time() - _last_used_s(cache, set_digest) < least_age_s:
        return f"was used in the last {_hours(least_age_s)}, and no lock tells whether it is in use"
    with nullcontext(True) if least_age_s else alone_with(cache.trees / set_digest) as is_alone:
        if not is_alone:
            return "is in use"
        cache.marker(set_digest).unlink(missing_ok=True)
        shutil.rmtree(cache.trees / set_digest)
        forget(cache.trees / set_digest)
        return ""


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.0f} hours"


def _describe(ready: ReadySet) -> CachedSet:
    manifest = ready.manifest
    return CachedSet(manifest.set_digest, manifest.name, ready.source, manifest.total_bytes, len(manifest.files))


@contextmanager
def _alone(cache: Cache) -> Iterator[float]:
    """While no set is fetched; gives how old, in seconds, what is removed must be where no lock can tell that."""
    cache.prepare()
    if not has_locks(cache.locks):
        yield UNLOCKED_AGE_S
        return
    with hold(cache.upkeep_lock, wait_s=0.0) as is_held:
        if not is_held:
            raise CacheUnusable(f"A set is being fetched into {cache.root}.", remedy="Try again when it is there.")
        yield 0.0


def _collect(cache: Cache, part_age_s: float, least_age_s: float) -> int:
    newest = time.time() - least_age_s
    ready = cache.ready_sets()
    needed = {file.sha256 for one in ready for file in one.manifest.files}
    digests = {one.manifest.set_digest for one in ready}
    for tree in cache.trees.iterdir():
        if tree.is_dir() and tree.name not in digests and _is_older(tree, newest):
            shutil.rmtree(tree)
    for ref in cache.refs.glob("*.json"):
        recalled = read_ref(ref)
        if (recalled is None or recalled.set_digest not in digests) and _is_older(ref, newest):
            ref.unlink(missing_ok=True)
    for joined in cache.joined.glob("*"):
        if not all(path.exists() for path in joined.rglob("*")) and _is_older(
            joined, newest
        ):  # a link that leads nowhere any more
            shutil.rmtree(joined)
    sweep(cache.staged)
    blobs = [blob for blob in cache.blobs.glob("*/*") if blob.name not in needed and _is_older(blob, newest)]
    parts = _stale_parts(cache, max(part_age_s, least_age_s), has_locks=not least_age_s)
    return sum(_remove(path) for path in [*blobs, *parts])


def _is_older(path: Path, newest_s: float) -> bool:
    """Whether it was made, renamed or linked before that moment."""
    return path.stat().st_ctime <= newest_s


def _stale_parts(cache: Cache, part_age_s: float, *, has_locks: bool) -> Iterator[Path]:
    newest = time.time() - part_age_s
    for part in cache.parts.glob("*.part"):
        if part.stat().st_mtime <= newest and not (has_locks and _is_locked(part)):
            yield part
            yield part.with_suffix(".map")
    yield from (left for left in cache.parts.glob("adopted-*") if left.stat().st_ctime <= newest)


def _is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _remove(path: Path) -> int:
    try:
        size = path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
    path.unlink()
    return size
