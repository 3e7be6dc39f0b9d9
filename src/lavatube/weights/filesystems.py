"""What can be relied on where a folder lies. Locks of networks may fail, or succeed and keep nobody out."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

NETWORKED: Final = {
    "nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "ceph", "beegfs", "9p", "virtiofs", "afs", "glusterfs",
}  # fmt: skip

IN_MEMORY: Final = {"tmpfs", "ramfs"}


def is_memory(folder: Path) -> bool:
    """Whether what is kept there is kept in memory, and has to be taken page by page."""
    return file_system(folder) in IN_MEMORY


def has_locks(folder: Path) -> bool:
    """Whether a lock on a file in there keeps others out, on this machine and on others that see the folder.

    Asked of the kind of file system, and tried: two descriptors of one file must exclude each other.
    """
    if file_system(folder) in NETWORKED or file_system(folder).startswith("fuse"):
        return False
    path = folder / f".{os.urandom(8).hex()}"
    try:
        with path.open("xb") as first, path.open("rb") as second:
            path.unlink()  # now, so that hardly a kill can leave it
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    except OSError:
        pass
    return False


def file_system(folder: Path, mounts: str | None = None) -> str:
    """The kind that a folder lies on; empty where that can't be told. `mounts` stands in for the kernel's list."""
    try:
        text = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace") if mounts is None else mounts
        place = folder.resolve()
    except OSError:
        return ""
    kinds = {}
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) > 2:
            kinds[fields[1].replace("\\040", " ")] = fields[2]
    return next((kinds[str(path)] for path in (place, *place.parents) if str(path) in kinds), "")
