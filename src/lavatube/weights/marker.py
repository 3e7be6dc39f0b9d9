"""The marker of a ready set, written when every file was verified: what belongs to it, and how that looked then."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from lavatube.errors import CacheUnusable, InvalidManifest, UnsupportedCheckpoint
from lavatube.weights.manifest import Manifest, check_manifest
from lavatube.weights.notes import read_note, write_note

Stamp = tuple[int, int, int]
"""Size, mtime in ns and inode: what changes when somebody else writes to a file."""


@dataclass(frozen=True, slots=True)
class ReadySet:
    """A set whose every file was verified, and where it lies."""

    manifest: Manifest
    folder: Path
    source: str


def stamp_of(path: Path) -> Stamp | None:
    """None for what is not there or no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def read_marker(path: Path, *, is_use: bool = True) -> tuple[ReadySet, dict[str, Stamp]] | None:
    """The set that the marker at `path` stands for and the stamps of its files; None for one that is missing or broken.

    `is_use`: whether the time of the reading is kept, by which a set counts as used.
    """
    match read_note(path, is_use=is_use):
        case {"source": str(source), "manifest": manifest, "stamps": dict(stamps)}:
            pass
        case _:
            return None
    try:
        checked = check_manifest(manifest, str(path))
    except (InvalidManifest, UnsupportedCheckpoint):
        return None
    if checked.set_digest != path.stem:
        return None
    return ReadySet(checked, path.with_suffix(""), source), {
        str(name): (value[0], value[1], value[2])
        for name, value in stamps.items()
        if isinstance(value, list) and len(value) == 3
    }


def write_marker(path: Path, ready: ReadySet) -> None:
    """Raises: CacheUnusable, also if a file is not there."""
    stamps = {file.path: stamp_of(ready.folder / file.path) for file in ready.manifest.files}
    gone = [name for name, stamp in stamps.items() if stamp is None]
    if gone:
        raise CacheUnusable(f"{ready.folder / gone[0]} has gone from the cache.", remedy="Start again.")
    write_note(path, {"source": ready.source, "manifest": ready.manifest.to_value(), "stamps": stamps})
