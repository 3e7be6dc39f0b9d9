"""Who serves a set of the cache holds it, by a shared lock, which ends with its process: upkeep leaves it there.

Where there can be no lock (a cache that is only read, a file system without) nothing is held, and nothing fails.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from lavatube.errors import CacheUnusable
from lavatube.weights.locks import hold

WAIT_S: Final = 10.0
"""Whoever removes a set holds it for a moment."""

logger = logging.getLogger(__name__)


def hold_sets(folder: Path) -> ExitStack:
    """Hold the set that lies in `folder`, or those that it is joined of, until the stack is closed; in place: none."""
    held = ExitStack()
    for tree in sorted(_trees(folder)):
        try:
            held.enter_context(hold(_lock_of(tree), WAIT_S, is_shared=True))
        except CacheUnusable as error:
            logger.info("another process may remove the set while it is in use: %s", error.message)
    return held


@contextmanager
def alone_with(tree: Path) -> Iterator[bool]:
    """Whether nobody holds the set that lies in `tree`; nobody begins to meanwhile. Raises: CacheUnusable."""
    lock = _lock_of(tree)
    if not lock.exists():
        yield True
        return
    with hold(lock, 0.0) as is_alone:
        yield is_alone
        if is_alone and not tree.exists():
            lock.unlink(missing_ok=True)


def _lock_of(tree: Path) -> Path:
    return tree.parent.parent / "locks" / f"{tree.name}.used.lock"


def _trees(folder: Path) -> set[Path]:
    """The sets of a cache among a folder and the folders that its links lead to."""
    targets = [path.readlink() for path in folder.rglob("*") if path.is_symlink()]
    around = {folder, *(parent for target in targets if target.is_absolute() for parent in target.parents)}
    return {place for place in around if place.parent.name == "trees" and place.with_suffix(".ready").is_file()}
