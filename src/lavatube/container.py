"""What the container that this process runs in may still take of main memory: its control groups' files in, bytes out.

Both versions of them are read. What processes share by a file system in memory counts as used; what the kernel keeps of
files does not, but for what is mapped: libraries, and weights while they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class _Version:
    """What a version calls its files, and in `memory.stat` what is of a group and all below it."""

    limit: str
    used: str
    cached: tuple[str, str]
    mapped: str


_V2: Final = _Version("memory.max", "memory.current", ("inactive_file", "active_file"), "file_mapped")
_V1: Final = _Version(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
    "total_mapped_file",
)


def container_bytes(cgroups: Path = CGROUPS, own: Path = OWN) -> int | None:
    """What the process's groups leave it, of which each is within those above it; None without any limit.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
    """
    left = [_left(folder, version) for folder, version in _groups(cgroups, own)]
    return min((bytes_left for bytes_left in left if bytes_left is not None), default=None)


def _groups(cgroups: Path, own: Path) -> Iterator[tuple[Path, _Version]]:
    """The process's groups of both versions, outermost first. Some may not be there.

    In a container the path of its group is often that on the host, while what is mounted begins with the group itself.
    """
    paths = {"": "", "memory": ""}  # by controller, of which version 2 names none
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    for root, path, version in ((cgroups, paths[""], _V2), (cgroups / "memory", paths["memory"], _V1)):
        folder = root
        yield folder, version
        for name in Path(path).parts[1:]:
            folder /= name
            yield folder, version


def _left(folder: Path, version: _Version) -> int | None:
    """Bytes; None where there is no such group, or it has no limit."""
    try:
        limit = (folder / version.limit).read_text().strip()
        if limit == "max":
            return None
        used = int((folder / version.used).read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return None
    counts = {name: int(count) for name, _, count in (line.partition(" ") for line in lines)}
    cached = sum(counts.get(name, 0) for name in version.cached)
    reclaimable = max(0, cached - counts.get(version.mapped, 0))
    return max(0, int(limit) - max(0, used - reclaimable))
