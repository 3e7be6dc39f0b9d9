"""Small JSON files of a cache: written all or nothing, and read as far as they are whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

from lavatube.weights.parts import cache_border, sync_folder


def read_note(path: Path, *, is_use: bool = True) -> object:
    """None for a file that is missing or broken: the cache is made anew from what is true."""
    try:
        return json.loads(path.read_bytes() if is_use else _read_unnoted(path))
    except (OSError, ValueError, RecursionError):
        return None


def _read_unnoted(path: Path) -> bytes:
    """The same, without the time of the reading being kept, where that is in our power."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOATIME", 0))
    except PermissionError:
        return path.read_bytes()
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def write_note(path: Path, value: object) -> None:
    """All or nothing, also through a loss of power. Raises: CacheUnusable."""
    fresh = path.with_name(f".{os.urandom(8).hex()}")
    with cache_border(f"{path} can't be written"):
        try:
            with fresh.open("x", encoding="utf-8") as file:
                json.dump(value, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
        sync_folder(path.parent)
