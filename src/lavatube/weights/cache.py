"""Files by their content on this machine's disk, and whole sets of them as folders that models load from.

    blobs/sha256/ab/<hex>     one verified file, read-only; appears only by rename
    parts/<name>.part, .map   a file that is being fetched
    trees/<set digest>/…      links to blobs: an ordinary model folder
    trees/<set digest>.ready  written last: what belongs to the set, and how it looked when it was verified
    refs/<hex>.json           the set that a source meant when it was last met
    staged/<hex>/…, .lock     links to parts, for an engine that begins while they are fetched
    joined/<hex>/…            links to a folder of this machine and to the sets that it is completed with
    locks/                    advisory

Safe to share between processes and to delete. A cache may lie over another one that is only read: what is there is used
from there, what is missing goes on top. Knows digests; no network, no models.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from lavatube.errors import CacheUnusable, SourceUnavailable
from lavatube.weights.manifest import Manifest, ManifestFile, hash_file
from lavatube.weights.marker import ReadySet, Stamp, read_marker, stamp_of, write_marker
from lavatube.weights.options import MIB, ProvisionOptions, Trust
from lavatube.weights.parts import cache_border
from lavatube.weights.refs import Recalled, read_ref, ref_name, write_ref

SPARE: Final = 0.05

OnVerify = Callable[[int], Callable[[int], None]]
"""Told how many bytes are about to be hashed; gives what hears of them piece by piece."""

logger = logging.getLogger(__name__)


def _unheard(total_bytes: int) -> Callable[[int], None]:
    return lambda _: None


def open_cache(options: ProvisionOptions) -> Cache:
    """Raises: CacheUnusable if anybody may write to it."""
    return Cache(options.cache, options.base, is_thorough=options.is_thorough)


class Cache:
    """One cache folder. Reading a ready set writes nothing."""

    def __init__(self, root: Path, base: Path | None = None, *, is_thorough: bool = False) -> None:
        """`base` is only read. A thorough cache hashes a ready set again before it gives it out.

        Raises: CacheUnusable if anybody may write to it.
        """
        self.root = root
        self.base = Cache(base, is_thorough=is_thorough) if base is not None else None
        self._is_thorough = is_thorough
        self.blobs = root / "blobs" / "sha256"
        self.parts = root / "parts"
        self.trees = root / "trees"
        self.refs = root / "refs"
        self.joined = root / "joined"
        self.staged = root / "staged"
        self.locks = root / "locks"
        self.upkeep_lock = self.locks / "upkeep.lock"
        """Shared while sets are fetched; whoever removes what no set needs takes it alone."""
        with suppress(OSError):
            mode = root.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise CacheUnusable(
                    f"{root} may be written to by everybody, so what lies in it can't be trusted.",
                    remedy=f"chmod o-w {root}, or set another --cache.",
                )

    def prepare(self) -> None:
        """Make the folders, before the first write. Raises: CacheUnusable."""
        with cache_border(f"{self.root} can't be made"):
            self.root.parent.mkdir(parents=True, exist_ok=True)
            for folder in (
                self.root,
                self.blobs.parent,
                self.blobs,
                self.parts,
                self.trees,
                self.refs,
                self.locks,
                self.joined,
            ):
                folder.mkdir(mode=0o755, exist_ok=True)

    def blob(self, sha256: str) -> Path:
        return self.blobs / sha256[:2] / sha256

    def has_blob(self, sha256: str, size: int) -> bool:
        """Whether a verified file is here, and not cut since."""
        path = self.blob(sha256)
        return path.is_file() and path.stat().st_size == size

    def has_intact_blob(self, sha256: str, size: int, on_bytes: Callable[[int], None]) -> bool:
        """The same, hashed now: it may have changed since it was verified, and a new set is about to rely on it.

        A damaged one is removed, unless it lies in the base. Raises: CacheUnusable if it can't be.
        """
        path = self.blob(sha256)
        if not path.exists():
            return self.base is not None and self.base._is_intact(self.base.blob(sha256), sha256, size, on_bytes)
        if self._is_intact(path, sha256, size, on_bytes):
            return True
        logger.warning("%s is damaged in the cache and is fetched again", path.name)
        with cache_border(f"{path} is damaged, and the cache can't be written"):
            path.unlink()
        return False

    def allocated_bytes(self, part_name: str) -> int:
        """Disk space that a part of an earlier run has taken already."""
        try:
            return (self.parts / f"{part_name}.part").stat().st_blocks * 512
        except OSError:
            return 0

    def set_lock(self, name: str) -> Path:
        return self.locks / f"{hashlib.sha256(name.encode()).hexdigest()}.lock"

    def check_space(self, need_bytes: int) -> None:
        """Raises: CacheUnusable, naming what is needed and what is free."""
        with cache_border(f"{self.root} can't be read"):
            disk = os.statvfs(self.root)
        free_bytes = disk.f_bavail * disk.f_frsize
        if free_bytes < need_bytes * (1 + SPARE):
            raise CacheUnusable(
                f"{self.root} needs {need_bytes / MIB:,.1f} MiB more and has {free_bytes / MIB:,.1f} MiB free.",
                remedy="Free some space (`lavatube cache gc`), or set another --cache.",
            )

    def find(self, set_digest: str, on_verify: OnVerify = _unheard) -> ReadySet | None:
        """A ready set, in constant time a file; only what changed since it was verified is hashed again.

        A thorough cache hashes all of it. Raises: CacheUnusable if a file is damaged and can't be removed.
        """
        marker = read_marker(self.marker(set_digest))
        if marker is None:
            return self._find_in_base(set_digest, on_verify)
        ready, stamps = marker
        damaged, is_changed = self._damaged(ready, stamps, on_verify)
        if damaged:
            self._evict(ready, damaged)
            return None
        if not is_changed:
            return ready
        logger.info("set %.12s looked different, was verified again and is intact", set_digest)
        with suppress(CacheUnusable):  # a read-only cache is used as it is
            write_marker(self.marker(ready.manifest.set_digest), ready)
        return ready

    def _find_in_base(self, set_digest: str, on_verify: OnVerify) -> ReadySet | None:
        marker = read_marker(self.base.marker(set_digest)) if self.base is not None else None
        if self.base is None or marker is None:
            return None
        damaged, _ = self.base._damaged(*marker, on_verify)
        if damaged:
            logger.warning("%s is damaged in the base %s and is fetched on top", damaged[0].path, self.base.root)
        return None if damaged else marker[0]

    def _damaged(
        self, ready: ReadySet, stamps: dict[str, Stamp], on_verify: OnVerify
    ) -> tuple[list[ManifestFile], bool]:
        """The files that are not what they were when they were verified, and whether any looks as if it might not."""
        files = ready.manifest.files
        found = {file.path: stamp_of(ready.folder / file.path) for file in files}
        changed = [file for file in files if not found[file.path] or found[file.path] != stamps.get(file.path)]
        doubted = files if self._is_thorough else changed
        on_bytes = on_verify(sum(file.size for file in doubted))
        damaged = [
            file for file in doubted if not self._is_intact(ready.folder / file.path, file.sha256, file.size, on_bytes)
        ]
        return damaged, bool(changed)

    def publish(self, manifest: Manifest, source: str) -> ReadySet:
        """Make a folder of blobs that are all here, and mark it ready. Raises: CacheUnusable."""
        ready = ReadySet(manifest, self.trees / manifest.set_digest, source)
        with cache_border(f"{ready.folder} can't be written"):
            for file in manifest.files:
                link(self.find_blob(file.sha256), ready.folder / file.path)
        write_marker(self.marker(ready.manifest.set_digest), ready)
        return ready

    def ready_sets(self) -> list[ReadySet]:
        """Sets that have a marker; their files are not looked at, and to be listed is no use of a set."""
        markers = [read_marker(path, is_use=False) for path in sorted(self.trees.glob("*.ready"))]
        return [marker[0] for marker in markers if marker is not None]

    def recall(self, identity: str) -> Recalled | None:
        """What `remember` noted."""
        if not identity:
            return None
        recalled = read_ref(self.refs / ref_name(identity))
        return recalled if recalled is not None or self.base is None else self.base.recall(identity)

    def remember(self, identities: Iterable[str], set_digest: str, trust: Trust) -> None:
        """Note which set these sources mean. Raises: CacheUnusable."""
        for identity in filter(None, identities):
            write_ref(self.refs / ref_name(identity), Recalled(set_digest, trust))

    def marker(self, set_digest: str) -> Path:
        return self.trees / f"{set_digest}.ready"

    def find_blob(self, sha256: str) -> Path:
        """Where a file is: here, or in the base."""
        own = self.blob(sha256)
        return own if self.base is None or own.exists() else self.base.blob(sha256)

    def _is_intact(self, path: Path, sha256: str, size: int, on_bytes: Callable[[int], None]) -> bool:
        stamp = stamp_of(path)
        if stamp is None or stamp[0] != size:
            return False
        try:
            return hash_file(path, on_bytes)[1] == sha256
        except SourceUnavailable:  # a disk that can't give it back
            return False

    def _evict(self, ready: ReadySet, damaged: list[ManifestFile]) -> None:
        logger.warning("%s is damaged in the cache and is fetched again", ", ".join(file.path for file in damaged))
        with cache_border(f"{ready.folder / damaged[0].path} is damaged, and the cache can't be written"):
            self.marker(ready.manifest.set_digest).unlink(missing_ok=True)
            for file in damaged:
                blob, link = self.blob(file.sha256), ready.folder / file.path
                if stamp_of(blob) == stamp_of(link) or not self.has_blob(file.sha256, file.size):
                    blob.unlink(missing_ok=True)
                link.unlink(missing_ok=True)


def link(blob: Path, target: Path) -> None:
    """A hard link; where the file system has none, a relative symbolic one. Raises: OSError, also without a blob."""
    stamp = stamp_of(blob)
    if stamp is None:
        raise FileNotFoundError(errno.ENOENT, f"{blob.name} has gone from the cache")
    if stamp_of(target) == stamp:
        return
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = target.with_name(f".{os.urandom(8).hex()}")
    try:
        os.link(blob, fresh)
    except OSError:
        fresh.symlink_to(os.path.relpath(blob, target.parent))
    fresh.replace(target)
