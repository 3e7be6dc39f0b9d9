"""A process and its children, as /proc shows them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def resident_bytes(root: int) -> int:
    """Proportional set size of a family: a page that several of them map is shared out among them."""
    return sum(_proportional_bytes(pid) for pid in family(root))


def _proportional_bytes(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def family(root: int) -> list[int]:
    """The ids of a process and of all that came from it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    members = [root]
    for pid in members:
        members += [child for child, parent in parents.items() if parent == pid]
    return members


def cpu_s_of(pid: int) -> float:
    """Seconds of CPU that a process has taken so far, all its threads together."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
