"""Where the records of an uncompressed zip file lie, checked before a byte of them is used. No decompression, no torch.

`zipfile` is lenient: it reads damaged, overlapping and ambiguous archives. Here each record has one name, one place and
no compression, so that it can be mapped; everything else is refused. The directory at the archive's end says between
which bytes a record lies, the header before the record itself where exactly: a file that is still being fetched can be
laid out before its records are here.

Source: APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16 (its end, with zip64).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from lavatube.errors import DigestMismatch, UnsupportedCheckpoint

MAX_DIRECTORY_BYTES: Final = 16 * 1024 * 1024
_END: Final = struct.Struct("<4s4H2LH")
_END64_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_EXTRA: Final = struct.Struct("<2H")
_FULL_16: Final = 0xFFFF
_FULL_32: Final = 0xFFFFFFFF
_ENCRYPTED: Final = 0x0001
_ZIP64: Final = 0x0001


class Seekable(Protocol):
    """An open binary file, as far as it is used here."""

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Record:
    """One stored file of `size_bytes`: it and the header before it are bytes `start` to `stop` of the archive."""

    name: str
    start: int
    stop: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the directory says of a record; `start` is where its header begins."""

    name: str
    start: int
    size_bytes: int


class Archive:
    """One open zip file.

    Raises: UnsupportedCheckpoint for what is no plain zip of stored records; DigestMismatch for a file that was cut.
    """

    def __init__(self, file: Seekable, where: str) -> None:
        self._file = file
        self._where = where
        self._size = file.seek(0, 2)

    def records(self) -> dict[str, Record]:
        """By name. What lies before the directory is not looked at."""
        count, length, start = self._find_directory()
        if length > MAX_DIRECTORY_BYTES:
            raise UnsupportedCheckpoint(f"{self._where}: a directory of {length} bytes is over the limit.")
        directory = self._read(start, length)
        entries: dict[str, _Entry] = {}
        at = 0
        for _ in range(count):
            entry, at = self._parse_entry(directory, at)
            if entry.name in entries:
                self._refuse(f"has two records named {entry.name!r:.200}")
            entries[entry.name] = entry
        if at != len(directory):
            self._refuse("has a directory that is longer than its entries")
        in_place = sorted(entries.values(), key=lambda entry: entry.start)
        stops = [entry.start for entry in in_place[1:]] + [start]
        return {entry.name: self._record(entry, stop) for entry, stop in zip(in_place, stops, strict=True)}

    def read(self, record: Record) -> bytes:
        return self._read(self.data_start(record), record.size_bytes)

    def data_start(self, record: Record) -> int:
        """Where the bytes of a record begin: its header has a field of its own, with which torch pads to 64 bytes."""
        local = _LOCAL.unpack(self._read(record.start, _LOCAL.size))
        name = record.name.encode()
        if local[0] != b"PK\x03\x04" or self._read(record.start + _LOCAL.size, local[9]) != name:
            self._refuse(f"has a directory that does not lead to {record.name!r:.200}")
        start = record.start + _LOCAL.size + int(local[9]) + int(local[10])
        if start + record.size_bytes > record.stop:
            self._refuse(f"has a record {record.name!r:.200} that overlaps something else")
        return start

    def _find_directory(self) -> tuple[int, int, int]:
        """Number of entries, length in bytes, and place of the directory."""
        at = self._size - _END.size
        signature, disk, first, here, count, length, start, comment = _END.unpack(self._read(at, _END.size))
        if signature != b"PK\x05\x06" or comment or disk or first or here != count:
            raise DigestMismatch(
                f"{self._where} does not end as a zip file does: it was cut, or was saved by a torch older than 1.6.",
                remedy="Fetch it again, or use a conversion of the model that has .safetensors files.",
            )
        if count == _FULL_16 or _FULL_32 in (length, start):
            return self._find_directory64(at - _END64_LOCATOR.size)
        return count, length, start

    def _find_directory64(self, at: int) -> tuple[int, int, int]:
        signature, _, start, _ = _END64_LOCATOR.unpack(self._read(at, _END64_LOCATOR.size))
        if signature != b"PK\x06\x07":
            self._refuse("lacks the zip64 locator that it needs")
        signature, _, _, _, disk, first, here, count, length, place = _END64.unpack(self._read(start, _END64.size))
        if signature != b"PK\x06\x06" or disk or first or here != count:
            self._refuse("has a damaged zip64 end")
        return count, length, place

    def _parse_entry(self, directory: bytes, at: int) -> tuple[_Entry, int]:
        if len(directory) - at < _ENTRY.size:
            self._refuse("has a directory that is shorter than its entries")
        fields = _ENTRY.unpack_from(directory, at)
        signature, _, _, flags, method = fields[:5]
        packed, size, name_length, extra_length, comment_length = fields[8:13]
        name_start = at + _ENTRY.size
        extra_start = name_start + name_length
        stop = extra_start + extra_length + comment_length
        if signature != b"PK\x01\x02" or stop > len(directory):
            self._refuse("has a damaged directory")
        try:
            name = directory[name_start:extra_start].decode("ascii")
        except UnicodeDecodeError:
            self._refuse("has a record whose name is not ASCII")
        if flags & _ENCRYPTED or method:
            self._refuse(f"has a compressed or encrypted record {name!r:.200}")
        extra = directory[extra_start : extra_start + extra_length]
        size, packed, offset = self._widen(extra, size, packed, fields[16])
        if size != packed:
            self._refuse(f"gives {name!r:.200} two sizes")
        return _Entry(name, offset, size), stop

    def _record(self, entry: _Entry, stop: int) -> Record:
        if entry.start + _LOCAL.size + len(entry.name) + entry.size_bytes > stop:
            self._refuse(f"has a record {entry.name!r:.200} that overlaps something else")
        return Record(entry.name, entry.start, stop, entry.size_bytes)

    def _widen(self, extra: bytes, *fields: int) -> list[int]:
        """The sizes and the offset, with those that need more than 32 bits taken from the zip64 field."""
        if _FULL_32 not in fields:
            return list(fields)
        wide, at = b"", 0
        while at + _EXTRA.size <= len(extra):
            kind, length = _EXTRA.unpack_from(extra, at)
            at += _EXTRA.size
            if kind == _ZIP64:
                wide = extra[at : at + length]
            at += length
        if len(wide) < 8 * fields.count(_FULL_32):
            self._refuse("lacks the 64-bit sizes of a record")
        numbers = iter(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
        return [next(numbers) if field == _FULL_32 else field for field in fields]

    def _read(self, start: int, length: int) -> bytes:
        if not 0 <= start <= start + length <= self._size:
            raise DigestMismatch(f"{self._where} is cut, or is no zip file.", remedy="Fetch it again.")
        self._file.seek(start)
        return self._file.read(length)

    def _refuse(self, fault: str) -> NoReturn:
        raise UnsupportedCheckpoint(
            f"{self._where} {fault}, which no file of torch does.",
            remedy="Fetch it again, or use a conversion of the model that has .safetensors files.",
        )
