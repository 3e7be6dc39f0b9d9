"""What every source of weights is made of: files, who vouches for them, readers of their ranges. Values; no I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lavatube.weights.manifest import Manifest, ManifestFile
from lavatube.weights.options import Trust


@dataclass(frozen=True, slots=True)
class Probe:
    """A file's length, and the source's mark of its version (empty if it has none)."""

    size: int
    version: str


class Body(Protocol):
    """Bytes `start` to `stop` of a file; `version` changes when the file does, where the source can tell."""

    start: int
    stop: int
    version: str

    def readinto(self, buffer: memoryview) -> int: ...

    def close(self) -> None: ...


class Reader(Protocol):
    """Reads ranges; one a thread, but `abort` may come from another."""

    def open(self, location: str, start: int, stop: int, size: int) -> Body: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file and where it is; with neither digest nobody vouches for it.

    `chunks` are as in a ManifestFile, on the grid of the source's `chunk_bytes`.
    """

    path: str
    size: int
    location: str
    sha256: str = ""
    git_sha1: str = ""
    chunks: bytes = field(default=b"", repr=False)


def _nothing_to_blame(location: str, spans: Sequence[tuple[int, int]]) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Source:
    """A set of files that can be fetched.

    `uri` is what is recorded: revision resolved, secrets cut. `identity` names the same bytes whenever it is met again;
    empty if nothing does. `chunk_bytes` is the grid of the files' chunk digests, 0 if they have none. A source with
    mirrors, `num_places` in all, hears through `blame` which bytes of a location were wrong, and changes over. An
    archive is one file, of which `contents` says what it must hold; None: whatever belongs to a checkpoint.
    """

    uri: str
    name: str
    trust: Trust
    files: tuple[SourceFile, ...]
    connect: Callable[[], Reader]
    identity: str = ""
    chunk_bytes: int = 0
    num_places: int = 1
    blame: Callable[[str, Sequence[tuple[int, int]]], None] = _nothing_to_blame
    is_archive: bool = False
    contents: Manifest | None = None

    @property
    def set_digest(self) -> str:
        """Empty as long as a sha256 is missing."""
        if self.contents is not None:
            return self.contents.set_digest
        return "" if self.is_archive or not all(file.sha256 for file in self.files) else self.manifest({}).set_digest

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def manifest(self, digests: dict[str, str]) -> Manifest:
        """The set's manifest; `digests` has the sha256 of each path whose digest the source did not know."""
        files = [ManifestFile(f.path, f.size, f.sha256 or digests[f.path], f.chunks) for f in self.files]
        return Manifest(self.name, tuple(sorted(files, key=lambda file: file.path)), self.chunk_bytes)


def list_files(manifest: Manifest, locate: Callable[[str], str]) -> tuple[SourceFile, ...]:
    """The files of a manifest, each where `locate` says that its path is."""
    return tuple(
        SourceFile(file.path, file.size, locate(file.path), file.sha256, chunks=file.chunks) for file in manifest.files
    )
