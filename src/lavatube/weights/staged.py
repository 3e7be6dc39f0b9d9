"""Who uses a folder that is shown early: each user holds a lock beside it, which ends with its process.

So what a killed process has left is told from what is in use. Where locks mean nothing, no folder is shown early, and
none is swept.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from lavatube.weights.filesystems import has_locks

LOCK_SUFFIX: Final = ".lock"

logger = logging.getLogger(__name__)


class StagedFolder:
    """A folder that stays as long as somebody has one of these for it, in whichever process."""

    def __init__(self, path: Path) -> None:
        """Raises: OSError if there can't be a lock."""
        self.path = path
        self._lock = path.with_suffix(LOCK_SUFFIX)
        self._descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)  # whoever sweeps has it for a moment

    def close(self) -> None:
        os.close(self._descriptor)

    def remove(self) -> None:
        """Nobody needs it any more."""
        from shutil import rmtree  # not for those who only look whether there is something to remove

        rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            self._lock.unlink(missing_ok=True)


def claim(path: Path) -> StagedFolder | None:
    """One that another process has made; None if it is gone already, or can't be kept."""
    try:
        folder = StagedFolder(path)
    except OSError as error:
        logger.info("%s can't be used: %s", path, error.strerror)
        return None
    if path.is_dir():
        return folder
    folder.remove()
    folder.close()
    return None


def sweep(staged: Path) -> None:
    """Remove folders whose users have all ended. Where there are none, nothing is written."""
    locks = list(staged.glob(f"*{LOCK_SUFFIX}"))
    if not locks or not has_locks(staged):
        return
    from shutil import rmtree

    for lock in locks:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # another start was faster, or it is not ours to sweep
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
            logger.info("removed what a killed process had left in %s", staged)
        except BlockingIOError:
            continue  # in use
        except OSError as error:
            logger.info("%s can't be removed: %s", lock, error.strerror)
        finally:
            os.close(descriptor)
