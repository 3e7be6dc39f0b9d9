"""Encoded images on disk, by their keys: what a restart, or another server of the same model, need not encode again.

Read on the engine's thread and written on one of their own. A file begins with the digest of the rest, so that one that
was torn or changed is never used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import BoundedSemaphore
from typing import Final

import safetensors.torch
import torch

logger = logging.getLogger(__name__)

MAX_WAITING: Final = 8
"""Files that wait to be written; what is encoded meanwhile is not kept, so that no memory fills up."""
FULL_SHARE: Final = 0.9
"""What is left of the limit when files were let go, so that this is not done for every new one."""
STALE_S: Final = 3600.0
_NAME: Final = "features"
_SUFFIX: Final = ".features"
_PARTIAL: Final = ".partial"
_DIGEST_BYTES: Final = hashlib.sha256().digest_size


class FeatureFiles:
    """The most recently used files of a folder that fit into `max_bytes`; several servers may share it.

    `identity` is of all that shapes features besides the image: weights, precision, version. What another has kept is
    not found, but counts. One thread calls it.
    """

    def __init__(self, folder: Path, max_bytes: int, identity: str) -> None:
        self.max_bytes = max_bytes
        self.num_hits = 0
        self._folder, self._identity = folder, identity
        self._size_bytes = max_bytes  # more than is known: the first file that is kept has them counted
        self._is_broken = False
        self._room = BoundedSemaphore(MAX_WAITING)
        self._writer = ThreadPoolExecutor(1, "lavatube-features")

    def find(self, key: bytes) -> torch.Tensor | None:
        """In main memory."""
        path = self._path(key)
        try:
            digest, data = _split(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._give_up("read", error)
            return None
        if hashlib.sha256(data).digest() != digest:
            logger.warning("an encoded picture is not what was written, and is thrown away: %s", path)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):  # who may only read can't keep it from being the next to go
            os.utime(path)  # used now
        self.num_hits += 1
        return safetensors.torch.load(data)[_NAME]

    def keep(self, key: bytes, features: torch.Tensor) -> None:
        """Have them written, soon. Shapes: any, in main memory; nobody may change them any more."""
        if self._is_broken or features.nbytes > self.max_bytes or not self._room.acquire(blocking=False):
            return
        self._writer.submit(self._write, self._path(key), features)

    def close(self) -> None:
        """Wait until all is written."""
        self._writer.shutdown()

    def _write(self, path: Path, features: torch.Tensor) -> None:
        # Not by the process's id: on a shared volume two containers may both be number 7.
        partial = path.with_suffix(f".{secrets.token_hex(8)}{_PARTIAL}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            data = safetensors.torch.save({_NAME: features.contiguous()})
            partial.write_bytes(hashlib.sha256(data).digest() + data)
            partial.replace(path)
            self._size_bytes += len(data)
            if self._size_bytes > self.max_bytes:
                self._let_go()
        except OSError as error:
            partial.unlink(missing_ok=True)
            self._give_up("written", error)
        finally:
            self._room.release()

    def _let_go(self) -> None:
        """Of what was used longest ago, as much as is too much. Others may do the same at the same time."""
        kept = []
        for entry in os.scandir(self._folder):
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            if entry.name.endswith(_SUFFIX):
                kept.append((status.st_mtime, status.st_size, entry.path))
            elif entry.name.endswith(_PARTIAL) and time.time() - status.st_mtime > STALE_S:
                Path(entry.path).unlink(missing_ok=True)
        self._size_bytes = sum(size for _, size, _ in kept)
        wanted_bytes = self.max_bytes * FULL_SHARE if self._size_bytes > self.max_bytes else self.max_bytes
        for _, size, path in sorted(kept):
            if self._size_bytes <= wanted_bytes:
                break
            Path(path).unlink(missing_ok=True)
            self._size_bytes -= size

    def _path(self, key: bytes) -> Path:
        return self._folder / (hashlib.sha256(self._identity.encode() + key).hexdigest() + _SUFFIX)

    def _give_up(self, what: str, error: OSError) -> None:
        if not self._is_broken:
            logger.warning("encoded pictures can't be %s in %s any more: %s", what, self._folder, error.strerror)
        self._is_broken = True


def _split(data: bytes) -> tuple[bytes, bytes]:
    return data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
