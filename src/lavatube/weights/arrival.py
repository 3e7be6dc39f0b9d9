"""A file that another process is fetching, seen by one that reads it: what may be used already, and when it is right.

The page cache is the memory that both share: bytes that were written into the part are those that a map of it shows.
Nobody wakes us, so we look; whoever started both processes ends the one when the other fails.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from lavatube.weights.chunk_map import LANDED, VOUCHED, MapHead, map_beside, mapped_names
from lavatube.weights.content import COMPANIONS

LOOK_S: Final = 0.003


class Spoiled(Exception):
    """Bytes that were used turned out to be wrong: whatever was made of them must go. Loading again is the remedy."""


class Arrival:
    """One file on its way, behind the map that lies beside it."""

    def __init__(self, path: Path) -> None:
        """Raises: FileNotFoundError if the file has no map, and so is here as a whole; OSError."""
        self._name = path.name
        with map_beside(path).open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._num_resets = self._head.num_resets
        self.has_digests = self._head.has_digests
        """Whether what may be used is verified."""

    def wait(self, start: int, stop: int) -> None:
        """Until bytes `start` to `stop` may be used: verified where their chunks have digests, else just here.

        Raises: Spoiled.
        """
        head = self._head
        usable = VOUCHED if self.has_digests else LANDED
        for chunk in range(start // head.chunk_bytes, -(-stop // head.chunk_bytes)):
            self._look_until(partial(self._has_come, head.at(chunk), usable))

    def wait_verified(self) -> None:
        """Until every byte is known to be right. Raises: Spoiled."""
        self._look_until(lambda: self._head.is_verified or self._is_vouched)

    @property
    def _head(self) -> MapHead:
        head = MapHead.unpack(self._map[: MapHead.SIZE])
        assert head is not None, "it was written by the process that fetches"
        return head

    def _has_come(self, at: int, usable: bytes) -> bool:
        return self._map[at : at + 1] >= usable or self._head.is_verified

    @property
    def _is_vouched(self) -> bool:
        chunks = self._map[MapHead.SIZE :]
        return chunks.count(VOUCHED) == len(chunks)

    def _look_until(self, is_over: Callable[[], bool]) -> None:
        while not is_over():
            self._check()
            time.sleep(LOOK_S)
        self._check()

    def _check(self) -> None:
        if not self.has_digests and self._head.num_resets != self._num_resets:
            raise Spoiled(f"{self._name} was damaged on its way; its damaged bytes had been loaded already.")


def find_arrivals(folder: Path) -> dict[str, Arrival]:
    """The files of a checkpoint, and of those that are parts of it, that are still on their way; by path."""
    folders = {"": folder, **{f"{name}/": folder / name for name in COMPANIONS}}
    return {f"{at}{name}": Arrival(inside / name) for at, inside in folders.items() for name in mapped_names(inside)}
