"""A file that is being fetched: preallocated, written at fixed offsets, with a map of the chunks that are finished.

Its name is made from what the file must become, so that two writers would write the same bytes; a lock on it keeps
them from doing so twice. The map is a hint that outlives a kill: only the digest of the whole file decides.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from lavatube.errors import CacheUnusable
from lavatube.weights.chunk_map import LANDED, MISSING, VOUCHED, MapHead, map_beside, read_map
from lavatube.weights.filesystems import has_locks, is_memory

_SYNC_FILE_RANGE_WRITE: Final = 2
_UNSUPPORTED: Final = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


class Part:
    """One part file and its map; `write`, `mark` and `vouch` may come from several threads."""

    def __init__(self, folder: Path, name: str, size: int, chunk_bytes: int, *, has_digests: bool = False) -> None:
        """Open the part, or begin it; `has_digests`: its chunks will be vouched for. Raises: CacheUnusable."""
        self.size = size
        self.chunk_bytes = chunk_bytes
        self._head = MapHead(size, chunk_bytes, has_digests=has_digests)
        self.num_chunks = -(-size // chunk_bytes)
        self._is_own = False
        self._is_in_memory = is_memory(folder)
        self._blob: Path | None = None
        self._name_lock = threading.Lock()
        """Held while what it is called changes, or is looked up."""
        with cache_border(f"{folder} can't be written"):
            self.path, self._descriptor = _claim(folder, name)
            self._is_own = self.path.name != f"{name}.part"
            self._map_path = self.path.with_suffix(".map")
            try:
                self.done = self._begin()
            except BaseException:
                os.close(self._descriptor)
                raise

    def span(self, chunk: int) -> tuple[int, int]:
        """First byte of a chunk, and one past its last."""
        return chunk * self.chunk_bytes, min((chunk + 1) * self.chunk_bytes, self.size)

    def write(self, data: memoryview, offset: int) -> None:
        """Raises: CacheUnusable, when the disk is full."""
        try:
            while data:
                count = os.pwrite(self._descriptor, data, offset)
                data, offset = data[count:], offset + count
        except OSError as error:
            raise _unusable(f"{self.path} can't be written", error) from error

    def read(self, start: int, stop: int, buffer: memoryview) -> Iterator[memoryview]:
        """The bytes from `start` to `stop`, in pieces that lie in `buffer`."""
        while start < stop:
            with cache_border(f"{self.path} can't be read"):
                count = os.preadv(self._descriptor, [buffer[: stop - start]], start)
            if not count:
                raise CacheUnusable(f"{self.path} was cut by something else.", remedy="Start again.")
            yield buffer[:count]
            start += count

    def peek(self, start: int, stop: int) -> bytes:
        """A few bytes; whether they have come is for the caller to know."""
        with cache_border(f"{self.path} can't be read"):
            return os.pread(self._descriptor, stop - start, start)

    def mark(self, chunk: int) -> None:
        """Remember that a chunk is whole, and let the disk begin with it: what is left for the end is little."""
        if not self._is_in_memory:
            _begin_write_back(self._descriptor, *self.span(chunk))
        self.done[chunk] = 1
        self._write_map(self._head.at(chunk), LANDED)

    def vouch(self, chunk: int) -> None:
        """Say that a whole chunk is right: from now on others may use it."""
        self._write_map(self._head.at(chunk), VOUCHED)

    def reset(self, chunks: Iterable[int]) -> None:
        """Forget some chunks. Who has used one already learns of it."""
        self._head = replace(self._head, num_resets=self._head.num_resets + 1)
        self._write_map(0, self._head.pack())
        for chunk in chunks:
            self.done[chunk] = 0
            self._write_map(self._head.at(chunk), MISSING)

    def commit(self, target: Path) -> None:
        """Become the verified file `target`, read-only. It is on the disk before it has that name."""
        with cache_border(f"{target} can't be written"):
            target.parent.mkdir(mode=0o755, exist_ok=True)
            os.fchmod(self._descriptor, 0o444)
            os.fsync(self._descriptor)
            with self._name_lock:
                self.path.replace(target)
                self._blob = target
            sync_folder(target.parent)
            self._write_map(0, replace(self._head, is_verified=True).pack())
            self._map_path.unlink(missing_ok=True)

    def link_to(self, place: Path) -> None:
        """Show the part and its map, which go on growing, under another name as well; once it is a blob, that alone.

        Raises: OSError.
        """
        if self._is_own:
            raise OSError(errno.ENOLCK, "there are no locks")  # two parts of one file may be under way
        with self._name_lock:
            os.link(self._blob or self.path, place)
            if self._blob is None:
                os.link(self._map_path, map_beside(place))

    def discard(self) -> None:
        """Delete what was fetched: it is known to be wrong."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            self._map_path.unlink(missing_ok=True)

    def close(self) -> None:
        """One of our own goes, unless it became a blob: nobody would find it again."""
        if self._is_own:
            self.discard()
        os.close(self._map)
        os.close(self._descriptor)

    def _begin(self) -> bytearray:
        """Take the space, open the map and say which chunks are there."""
        is_begun = os.fstat(self._descriptor).st_size == self.size
        try:
            _allocate(self._descriptor, self.size, is_memory=self._is_in_memory)
        except OSError:
            self.discard()  # give back what little there was
            raise
        self._map = os.open(self._map_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        stored = read_map(self._map_path, self.size, self.chunk_bytes) if is_begun else None
        done = stored or bytearray(self.num_chunks)
        os.ftruncate(self._map, 0)
        self._write_map(0, self._head.pack() + done)
        return done

    def _write_map(self, offset: int, data: bytes) -> None:
        with cache_border(f"{self._map_path} can't be written"):
            os.pwrite(self._map, data, offset)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def cache_border(what: str) -> Iterator[None]:
    """The one place where an error of the file system becomes ours."""
    try:
        yield
    except OSError as error:
        raise _unusable(what, error) from error


def _unusable(what: str, error: OSError) -> CacheUnusable:
    remedy = "Free some space, or set another --cache." if error.errno == errno.ENOSPC else "Check --cache."
    return CacheUnusable(f"{what}: {error.strerror or error}.", remedy=remedy)


def _begin_write_back(descriptor: int, start: int, stop: int) -> None:
    """Where the system has no such call it writes when it sees fit."""
    import ctypes  # where files are kept in memory there is nothing to write back

    sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if sync_file_range is not None:
        sync_file_range(descriptor, ctypes.c_int64(start), ctypes.c_int64(stop - start), _SYNC_FILE_RANGE_WRITE)


def _claim(folder: Path, name: str) -> tuple[Path, int]:
    """Open and lock the shared part; one of our own where somebody else holds it, or where locks mean nothing."""
    if not has_locks(folder):
        path = _own_part(folder, name)
        return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    path = folder / f"{name}.part"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            path = _own_part(folder, name)
            continue
        if _is_same(path, descriptor):
            return path, descriptor
        os.close(descriptor)  # it was finished and renamed between the two calls


def _own_part(folder: Path, name: str) -> Path:
    return folder / f"{name}.{os.getpid()}-{os.urandom(4).hex()}.part"


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _allocate(descriptor: int, size: int, *, is_memory: bool) -> None:
    """Take the disk space now, so that a full disk is met before the first byte.

    Memory is taken as it is written: to take it takes as long as to write it, and all would wait for the first byte.
    """
    if is_memory or size == 0 or os.fstat(descriptor).st_size > size:
        os.ftruncate(descriptor, size)
    if is_memory or size == 0:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        os.ftruncate(descriptor, size)
