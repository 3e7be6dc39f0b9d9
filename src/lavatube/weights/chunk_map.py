"""The map of a file that is being fetched: a head and one byte a chunk. Its writer and its readers share this format.

A reader is the next start, which takes up what an earlier one has left, or an engine that loads while bytes come in.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Self

MAP_SUFFIX: Final = ".map"
MISSING: Final = b"\0"
LANDED: Final = b"\1"
VOUCHED: Final = b"\2"
"""Whole, and its digest is the manifest's."""

_MAGIC: Final = b"LTMAP002"
_HEAD: Final = struct.Struct("<8sQQI??2x")


@dataclass(frozen=True, slots=True)
class MapHead:
    """What is true of the whole file. `num_resets` counts how often chunks turned out wrong and were forgotten."""

    SIZE: ClassVar[int] = _HEAD.size

    size: int
    chunk_bytes: int
    num_resets: int = 0
    has_digests: bool = False
    is_verified: bool = False

    def pack(self) -> bytes:
        return _HEAD.pack(_MAGIC, self.size, self.chunk_bytes, self.num_resets, self.has_digests, self.is_verified)

    @classmethod
    def unpack(cls, data: bytes) -> Self | None:
        """None for something else than a map."""
        if len(data) < _HEAD.size:
            return None
        magic, *facts = _HEAD.unpack_from(data)
        return cls(*facts) if magic == _MAGIC else None

    @property
    def num_chunks(self) -> int:
        return -(-self.size // self.chunk_bytes)

    def at(self, chunk: int) -> int:
        """Where in the map a chunk's byte is."""
        return _HEAD.size + chunk


def map_beside(path: Path) -> Path:
    """Where the map of a file that is shown early lies: hidden, so that no file of a checkpoint has this name."""
    return path.with_name(f".{path.name}{MAP_SUFFIX}")


def mapped_names(folder: Path) -> list[str]:
    """Names of the files of a folder that have a map beside them."""
    return [path.name[1:].removesuffix(MAP_SUFFIX) for path in folder.glob(f".*{MAP_SUFFIX}")]


def read_map(path: Path, size: int, chunk_bytes: int) -> bytearray | None:
    """One byte a chunk, 1 where it is whole; None for a map that is missing or of another grid."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    head = MapHead.unpack(data)
    if head is None or (head.size, head.chunk_bytes) != (size, chunk_bytes) or len(data) != head.at(head.num_chunks):
        return None
    return bytearray(byte in (LANDED[0], VOUCHED[0]) for byte in data[MapHead.SIZE :])
