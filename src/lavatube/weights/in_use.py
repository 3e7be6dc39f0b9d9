"""Who serves a set of the cache holds it, by a shared lock, which ends with its process: upkeep leaves it there.

Where there can be no lock (a cache that is only read, a file system without) nothing is held, and nothing fails. Where
locks mean nothing, the time at which the lock's file was last touched tells that a set is served.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from lavatube.errors import CacheUnusable
from lavatube.weights.locks import hold
from lavatube.weights.parts import cache_border

WAIT_S: Final = 10.0
"""Whoever removes a set holds it for a moment."""
RENEW_S: Final = 3600.0
"""Well within the time for which upkeep leaves what was used, where there are no locks."""
_DIGEST: Final = re.compile("[0-9a-f]{64}")

logger = logging.getLogger(__name__)


class HeldSets:
    """The set that lies in a folder, or those that it is joined of, held until this is closed; in place: none."""

    def __init__(self, folder: Path) -> None:
        """Raises: CacheUnusable, if one was removed before it was held."""
        with cache_border(f"{folder} can't be read"):
            self._trees = sorted(_trees(folder))
        self._locks = ExitStack()
        for tree in self._trees:
            try:
                self._locks.enter_context(hold(_lock_of(tree), WAIT_S, is_shared=True))
            except CacheUnusable as error:
                logger.info("another process may remove the set while it is in use: %s", error.message)
        self.renew()
        gone = next((place for place in (folder, *self._trees) if not _is_whole(place)), None)
        if gone is not None:
            self.close()
            raise CacheUnusable(f"{gone} was removed just now.", remedy="Start again: it is fetched.")

    def renew(self) -> None:
        """To be called every RENEW_S seconds."""
        for tree in self._trees:
            try:
                _lock_of(tree).touch()
            except OSError as error:
                logger.info("can't tell others that %.12s is in use: %s", tree.name, error.strerror)

    def close(self) -> None:
        self._locks.close()


def last_renewed_s(tree: Path) -> float:
    """When somebody last said that he serves the set in `tree`; 0 if nobody ever did."""
    lock = _lock_of(tree)
    return lock.stat().st_mtime if lock.exists() else 0.0


@contextmanager
def alone_with(tree: Path) -> Iterator[bool]:
    """Whether nobody holds the set that lies in `tree`; nobody begins to meanwhile. Raises: CacheUnusable."""
    lock = _lock_of(tree)
    if not lock.exists():
        yield True
        return
    with hold(lock, 0.0) as is_alone:
        yield is_alone


def forget(tree: Path) -> None:
    """The set that lay in `tree` is no more."""
    _lock_of(tree).unlink(missing_ok=True)


def _lock_of(tree: Path) -> Path:
    return tree.parent.parent / "locks" / f"{tree.name}.used.lock"


def _trees(folder: Path) -> set[Path]:
    """The sets of a cache among a folder and the folders that its links lead to, also what is no set any more.

    Raises: OSError, where something in it is removed meanwhile.
    """
    targets = [path.readlink() for path in folder.rglob("*") if path.is_symlink()]
    around = {folder, *(parent for target in targets if target.is_absolute() for parent in target.parents)}
    return {place for place in around if _is_tree(place)}


def _is_whole(place: Path) -> bool:
    return place.is_dir() and (not _is_tree(place) or place.with_suffix(".ready").is_file())


def _is_tree(place: Path) -> bool:
    is_named_so = place.parent.name == "trees" and _DIGEST.fullmatch(place.name) is not None
    return is_named_so and (place.parent.parent / "blobs").is_dir()
