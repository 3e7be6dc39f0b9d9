"""The members of a tar archive, read once from front to back. Only plain files and folders; the rest is refused.

Headers are hostile: lengths are bounded, names are handed on as they are (whoever stores them checks them). Nothing is
written here. The standard library's tarfile is not used because it reads an extended header of any length into memory,
and reads what is skipped, where a range of the source need only not be asked for.

Source: POSIX.1-2001 pax; GNU tar's long names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from lavatube.errors import UnsupportedCheckpoint

BLOCK: Final = 512
MAX_EXTENDED_BYTES: Final = 64 * 1024
MAX_MEMBERS: Final = 100_000
_FILE: Final = {b"0", b"\0"}
_KINDS: Final = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a character device", b"4": "a block device",
    b"6": "a named pipe", b"S": "a sparse file", b"K": "a long link",
}  # fmt: skip


class Stream(Protocol):
    """Bytes in order. `take` gives exactly so many. Raises: UnsupportedCheckpoint if they end before."""

    def take(self, count: int) -> bytes: ...

    def skip(self, count: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Member:
    """One plain file; its bytes are the next ones of the stream, and must be taken or skipped, with `padding`."""

    name: str
    size: int

    @property
    def padding(self) -> int:
        return -self.size % BLOCK


def members(stream: Stream, where: str) -> Iterator[Member]:
    """Each file of an archive, up to its end mark. The caller takes a member's bytes and its padding off the stream.

    Raises: UnsupportedCheckpoint for whatever is no plain archive of plain files.
    """
    extended: dict[str, str] = {}
    for _ in range(MAX_MEMBERS):
        header = stream.take(BLOCK)
        if not any(header):
            return
        size, kind = _check(header, where), header[156:157]
        if kind in (b"x", b"g", b"L"):
            if size > MAX_EXTENDED_BYTES:
                raise UnsupportedCheckpoint(f"{where} has an extended header of {size} bytes, which is over the limit.")
            data = stream.take(size)
            stream.skip(-size % BLOCK)
            if kind == b"x":
                extended |= _parse_pax(data, where)
            elif kind == b"L":
                extended["path"] = data.rstrip(b"\0").decode(errors="replace")
            continue
        name = extended.get("path") or _name(header)
        size = _number(extended["size"], where) if "size" in extended else size
        if any(key.startswith("GNU.sparse") for key in extended):
            kind = b"S"
        extended = {}
        if kind == b"5":
            stream.skip(size + -size % BLOCK)
        elif kind in _FILE:
            yield Member(name, size)
        else:
            raise UnsupportedCheckpoint(
                f"{where} holds {_KINDS.get(kind, 'something unknown')}, {name!r:.200}: only plain files are taken.",
                remedy="Make the archive anew from plain files (tar --dereference).",
            )
    raise UnsupportedCheckpoint(f"{where} has more than {MAX_MEMBERS} members.")


def _check(header: bytes, where: str) -> int:
    """The size in a header whose sum is right."""
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if _octal(header[148:156]) != total:
        raise UnsupportedCheckpoint(f"{where} is no tar archive, or is damaged: the sum of a header is wrong.")
    size = _octal(header[124:136])
    if size is None:
        raise UnsupportedCheckpoint(f"{where} has a member of impossible size.")
    return size


def _octal(field: bytes) -> int | None:
    if field[0] & 0x80:  # base 256, for more than 8 GiB
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big") if field[0] == 0x80 else None
    text = field.strip(b" \0")
    try:
        return int(text, 8) if text else 0
    except ValueError:
        return None


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:262] == b"ustar" else b""
    return (prefix + b"/" + name if prefix else name).decode(errors="replace")


def _parse_pax(data: bytes, where: str) -> dict[str, str]:
    """Records of the form `<length> <key>=<value>\\n`."""
    values: dict[str, str] = {}
    while data:
        length, space, _ = data.partition(b" ")
        if not space or not length.isdigit() or len(length) > 6 or not len(length) + 3 < int(length) <= len(data):
            raise UnsupportedCheckpoint(f"{where} has an extended header that breaks the format.")
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        values[key.decode(errors="replace")] = value.decode(errors="replace")
        data = data[int(length) :]
    return values


def _number(text: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 18):
        raise UnsupportedCheckpoint(f"{where} has a member of impossible size.")
    return int(text)
