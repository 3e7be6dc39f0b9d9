"""The processes that a server has, and that none outlives it."""

from __future__ import annotations

import time
from pathlib import Path


def children(pid: int) -> set[int]:
    """Of the processes that a process has, those that descend from it."""
    found: set[int] = set()
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found |= {int(folder.name)} | children(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def until_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a process outlives the server"
        time.sleep(0.02)
