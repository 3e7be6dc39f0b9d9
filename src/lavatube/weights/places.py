"""Where the files of a model can lie: one interface to a folder's URL, a bucket and a folder of this machine.

A place is asked for its manifest, for what there is, and where each file is. It decides nothing about trust. Those of
other machines have modules of their own, which are imported when one is named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lavatube.weights import content
from lavatube.weights.local import LocalReader, version_of
from lavatube.weights.source import Probe, Reader


class Place(Protocol):
    """A folder somewhere. `uri` may be shown. Raises: SourceUnavailable, from every method that asks."""

    @property
    def uri(self) -> str: ...

    def document(self, path: str) -> bytes | None: ...

    def probe(self, path: str) -> Probe | None: ...

    def listing(self) -> dict[str, Probe]: ...

    def locate(self, path: str) -> str: ...

    def connect(self) -> Reader: ...


class FolderPlace:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.uri = folder.as_uri()
        self._folder = folder

    def document(self, path: str) -> bytes | None:
        found = self._folder / path
        return found.read_bytes() if found.is_file() else None

    def probe(self, path: str) -> Probe | None:
        found = self._folder / path
        return Probe(found.stat().st_size, version_of(found)) if found.is_file() else None

    def listing(self) -> dict[str, Probe]:
        probes = {path: self.probe(path) for path in content.list_folder(self._folder)}
        return {path: probe for path, probe in probes.items() if probe is not None}

    def locate(self, path: str) -> str:
        return str(self._folder / path)

    def connect(self) -> LocalReader:
        return LocalReader()
