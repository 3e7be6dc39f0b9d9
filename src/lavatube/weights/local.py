"""Files of this machine as a source: ranges of them, and a fingerprint that tells when they change."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path

from lavatube.errors import SourceUnavailable


def fingerprint(folder: Path, paths: Iterable[str]) -> str:
    """Changes when a file of a folder is replaced or written to; reads none of them. Raises: SourceUnavailable."""
    try:
        stats = [(path, (folder / path).stat()) for path in paths]
    except OSError as error:
        raise SourceUnavailable(f"{error.filename} can't be read: {error.strerror}.") from error
    facts = [[path, stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev] for path, stat in stats]
    return hashlib.sha256(json.dumps([str(folder), facts]).encode()).hexdigest()


def version_of(path: Path) -> str:
    """What changes when a file does. Raises: SourceUnavailable."""
    return fingerprint(path.parent, [path.name])


class LocalReader:
    """Reads ranges of files of this machine."""

    def open(self, location: str, start: int, stop: int, size: int) -> LocalBody:
        return LocalBody(location, start, stop, size)

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class LocalBody:
    """A range of an open file. Raises: SourceUnavailable."""

    def __init__(self, location: str, start: int, stop: int, size: int) -> None:
        self.start, self.stop = start, stop
        self._location = location
        try:
            self._file = FileIO(location)
            self._file.seek(start)
            stat = os.fstat(self._file.fileno())
        except OSError as error:
            raise SourceUnavailable(f"{location} can't be read: {error.strerror}.") from error
        self.version = f"{stat.st_ino}-{stat.st_mtime_ns}"
        if stat.st_size != size:
            self.close()
            raise SourceUnavailable(f"{location} has {stat.st_size} bytes where {size} were expected.")

    def readinto(self, buffer: memoryview) -> int:
        try:
            count = self._file.readinto(buffer)
        except OSError as error:
            raise SourceUnavailable(f"{self._location} can't be read: {error.strerror}.") from error
        if not count:
            raise SourceUnavailable(f"{self._location} ended early: it is being written to.")
        return count

    def close(self) -> None:
        self._file.close()
