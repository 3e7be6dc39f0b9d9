"""Locks between processes. They save work; what is right never hangs on them."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lavatube.weights.parts import cache_border

POLL_S: Final = 0.25
LOG_S: Final = 10.0

logger = logging.getLogger(__name__)


@contextmanager
def hold(
    path: Path, wait_s: float, on_wait: Callable[[], None] = lambda: None, *, is_shared: bool = False
) -> Iterator[bool]:
    """Hold the lock at `path`; after `wait_s` go on without it. Gives whether it is held.

    Raises: CacheUnusable if there can't be such a file.
    """
    with cache_border(f"{path} can't be opened"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        yield _acquire(descriptor, path, wait_s, on_wait, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)
    finally:
        os.close(descriptor)  # which lets go of the lock


def _acquire(descriptor: int, path: Path, wait_s: float, on_wait: Callable[[], None], kind: int) -> bool:
    started = time.monotonic()
    next_log = started
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            now = time.monotonic()
        except OSError as error:
            logger.warning("%s can't be locked (%s); going on without it", path.name, error.strerror)
            return False
        if now - started >= wait_s:
            logger.log(
                logging.WARNING if wait_s else logging.DEBUG,
                "lock %s was not let go of in %.0f s; going on without it",
                path.name,
                wait_s,
            )
            return False
        if now >= next_log:
            logger.info("another process holds %s; waiting", path.name)
            next_log = now + LOG_S
        on_wait()
        time.sleep(POLL_S)
