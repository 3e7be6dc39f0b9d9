"""Files in memory as a source, with as much trust as a folder of this machine: for tests, and for who holds them."""

from __future__ import annotations

from collections.abc import Mapping

from lavatube.errors import SourceUnavailable
from lavatube.weights.content import select_content
from lavatube.weights.source import Source, SourceFile


def memory_source(name: str, files: Mapping[str, bytes]) -> Source:
    """Raises: UnsupportedCheckpoint without weights."""
    uri = f"memory:{name}"
    listed = tuple(SourceFile(path, len(files[path]), path) for path in select_content(files, uri))
    return Source(uri, name, "local", listed, lambda: MemoryReader(files))


class MemoryReader:
    """Reads ranges of bytes objects. Locations are paths."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def open(self, location: str, start: int, stop: int, size: int) -> MemoryBody:
        """Raises: SourceUnavailable for a file that is missing or of another size."""
        data = self._files.get(location)
        if data is None or len(data) != size:
            raise SourceUnavailable(f"{location} is not there, or does not have {size} bytes.")
        return MemoryBody(memoryview(data), start, stop)

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class MemoryBody:
    """A range of a bytes object."""

    version = ""

    def __init__(self, data: memoryview, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self._rest = data[start:stop]

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        pass
