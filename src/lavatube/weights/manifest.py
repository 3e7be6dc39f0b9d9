"""`lavatube.lock.json`: which files make up a checkpoint, how long they are and their digests. JSON in, values out.

The text is hostile until it has passed `parse_manifest`: a path of a Manifest can be joined to a folder without a
further look. Knows files and digests; no network, no cache.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from lavatube.errors import InvalidManifest, SourceUnavailable
from lavatube.weights.buffer import new_buffer
from lavatube.weights.content import (
    COMPANIONS,
    CONTENT,
    LOCK_NAME,
    check_has_weights,
    check_paths,
    is_content,
    list_folder,
    own_name,
    parent_of,
)
from lavatube.weights.options import MIB

FILE_NAME: Final = LOCK_NAME
SCHEMA: Final = 1
MAX_MANIFEST_BYTES: Final = 8 * MIB
MAX_FILES: Final = 10_000
MAX_FILE_BYTES: Final = 1 << 50
MIN_CHUNK_BYTES: Final = 64 * 1024
MAX_CHUNK_BYTES: Final = 256 * MIB
DIGEST_BYTES: Final = 32
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file; `path` is relative, with forward slashes.

    `chunks` are the sha256 of its pieces in order, 32 bytes each; empty where the manifest has none. They let a piece
    be trusted before the rest is there; the file has its name from the digest of the whole.
    """

    path: str
    size: int
    sha256: str
    chunks: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A set of files, sorted by path; `chunk_bytes` is the length of a piece where the files have digests of pieces."""

    name: str
    files: tuple[ManifestFile, ...]
    chunk_bytes: int = 0

    @property
    def set_digest(self) -> str:
        """sha256 of the sorted lines that `sha256sum` prints for the files."""
        lines = sorted(f"{file.sha256}  {file.path}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def has_companions(self) -> bool:
        """Whether it lists models that the checkpoint is put together from."""
        return any(parent_of(file.path) in COMPANIONS for file in self.files)

    def companion(self, folder: str) -> Manifest:
        """What lies in a folder inside, by the paths there."""
        inside = [file for file in self.files if parent_of(file.path) == folder]
        files = tuple(replace(file, path=own_name(file.path)) for file in inside)
        return Manifest(folder, files, self.chunk_bytes)

    def to_value(self) -> dict[str, object]:
        grid = {"chunkSize": self.chunk_bytes} if self.chunk_bytes else {}
        files = [_file_value(file) for file in self.files]
        return {"schema": SCHEMA, "name": self.name, "setDigest": self.set_digest, **grid, "files": files}

    def to_json(self) -> str:
        return json.dumps(self.to_value(), indent=2) + "\n"


def parse_manifest(data: bytes, where: str) -> Manifest:
    """A manifest from text that nobody vouches for.

    Raises: InvalidManifest, saying what is wrong; UnsupportedCheckpoint if it lists no weights.
    """
    return check_manifest(_load_json(data, where), where)


def check_manifest(parsed: object, where: str) -> Manifest:
    """A manifest from parsed JSON. Raises: as `parse_manifest`."""
    value = _object(parsed, where, {"schema", "name", "files"}, optional={"setDigest", "chunkSize"})
    if value["schema"] != SCHEMA or isinstance(value["schema"], bool):
        raise InvalidManifest(
            f"{where}: schema {value['schema']!r:.40} is not known to this version, which reads {SCHEMA}.",
            remedy="Update lavatube, or write the manifest again with `lavatube lock`.",
        )
    name, entries = value["name"], value["files"]
    if not isinstance(name, str) or not name.isprintable() or len(name) > 200:
        raise InvalidManifest(f"{where}: name is not a short printable string.")
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_FILES:
        raise InvalidManifest(f"{where}: files is not a list of 1 to {MAX_FILES} entries.")
    chunk_bytes = _parse_chunk_size(value.get("chunkSize"), where)
    files = [_parse_file(entry, chunk_bytes, where) for entry in entries]
    check_paths([file.path for file in files], where)
    _check_content([file.path for file in files], where)
    manifest = Manifest(name, tuple(sorted(files, key=lambda file: file.path)), chunk_bytes)
    if value.get("setDigest", manifest.set_digest) != manifest.set_digest:
        raise InvalidManifest(f"{where}: setDigest is not that of the files listed: it was edited by hand, or cut.")
    return manifest


def read_manifest(path: Path) -> Manifest:
    """Raises: InvalidManifest, also for a file that is missing or can't be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise InvalidManifest(f"{path} can't be read: {error.strerror}.") from error
    return parse_manifest(data, str(path))


def build_manifest(
    folder: Path, name: str = "", on_bytes: Callable[[int], None] = lambda _: None, *, chunk_bytes: int = 0
) -> Manifest:
    """Hash the checkpoint in `folder`, and its pieces of `chunk_bytes`; `on_bytes` hears of what was read.

    Raises: UnsupportedCheckpoint without weights; SourceUnavailable if a file can't be read.
    """
    files = []
    for path in list_folder(folder):
        size, digest, chunks = hash_chunks(folder / path, chunk_bytes, on_bytes)
        files.append(ManifestFile(path, size, digest, chunks))
    return Manifest(name or folder.resolve().name, tuple(files), chunk_bytes)


def hash_file(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> tuple[int, str]:
    """Length and sha256 of a file."""
    size, digest, _ = hash_chunks(path, 0, on_bytes)
    return size, digest


def hash_chunks(path: Path, chunk_bytes: int, on_bytes: Callable[[int], None]) -> tuple[int, str, bytes]:
    """Length and sha256 of a file, and the digests of its pieces; none of them for `chunk_bytes` 0."""
    digest, chunk, chunks, size = hashlib.sha256(), hashlib.sha256(), bytearray(), 0
    buffer = new_buffer()
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer[: chunk_bytes - size % chunk_bytes] if chunk_bytes else buffer):
                digest.update(buffer[:count])
                size += count
                if chunk_bytes:
                    chunk.update(buffer[:count])
                    if size % chunk_bytes == 0:
                        chunks += chunk.digest()
                        chunk = hashlib.sha256()
                on_bytes(count)
    except OSError as error:
        raise SourceUnavailable(f"{path} can't be read: {error.strerror}.") from error
    if chunk_bytes and size % chunk_bytes:
        chunks += chunk.digest()
    return size, digest.hexdigest(), bytes(chunks)


def _file_value(file: ManifestFile) -> dict[str, object]:
    chunks = {"chunks": base64.b64encode(file.chunks).decode()} if file.chunks else {}
    return {"path": file.path, "size": file.size, "sha256": file.sha256, **chunks}


def _parse_chunk_size(value: object, where: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not MIN_CHUNK_BYTES <= value <= MAX_CHUNK_BYTES:
        raise InvalidManifest(f"{where}: chunkSize is not between {MIN_CHUNK_BYTES} and {MAX_CHUNK_BYTES} bytes.")
    return value


def _parse_chunks(value: object, size: int, chunk_bytes: int, where: str) -> bytes:
    if value is None:
        return b""
    try:
        chunks = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        chunks = b""
    if not chunk_bytes or len(chunks) != -(-size // chunk_bytes) * DIGEST_BYTES:
        raise InvalidManifest(f"{where} has chunks that are not one sha256 for each chunkSize bytes, in base64.")
    return chunks


def _parse_file(entry: object, chunk_bytes: int, where: str) -> ManifestFile:
    value = _object(entry, where, {"path", "size", "sha256"}, optional={"chunks"})
    path, size, sha256 = value["path"], value["size"], value["sha256"]
    if not isinstance(path, str):
        raise InvalidManifest(f"{where}: a path is not a string.")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_FILE_BYTES:
        raise InvalidManifest(f"{where}: {path!r:.200} has an impossible size.")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise InvalidManifest(f"{where}: {path!r:.200} has no sha256 of 64 lower-case hexadecimal digits.")
    chunks = _parse_chunks(value.get("chunks"), size, chunk_bytes, f"{where}: {path!r:.200}")
    return ManifestFile(path, size, sha256, chunks)


def _check_content(paths: list[str], where: str) -> None:
    check_has_weights(paths, paths, where)
    for path in paths:
        if not is_content(path):
            raise InvalidManifest(
                f"{where}: {path!r} is no kind of file that a checkpoint needs.",
                remedy=f"Only {', '.join(CONTENT)} are fetched.",
            )


def _load_json(data: bytes, where: str) -> object:
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"{where}: a manifest is at most {MAX_MANIFEST_BYTES // MIB} MiB.")
    try:
        return json.loads(data.decode(), object_pairs_hook=unique_pairs, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"{where} is not a manifest: {error}.") from error


def unique_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; a key that comes twice could mean one thing to us and another to a reviewer."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key comes twice in one object")
    return value


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _object(
    value: object, where: str, required: set[str], optional: frozenset[str] | set[str] = frozenset()
) -> Mapping[str, object]:
    if not isinstance(value, dict) or not required <= value.keys() <= required | optional:
        raise InvalidManifest(f"{where}: an object with the keys {', '.join(sorted(required))} was expected.")
    return value
