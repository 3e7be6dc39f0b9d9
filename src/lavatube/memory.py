"""How much memory a model needs and how much there is: arithmetic over a ModelSpec, and the limits of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lavatube.spec import DTYPE_BYTES, ModelSpec

CGROUP: Final = Path("/sys/fs/cgroup")
MEMINFO: Final = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Weights, keys and values of one model in one precision, against the memory that is free."""

    dtype: str
    weights_bytes: int
    kv_bytes_per_token: int
    kv_bytes_per_context: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        """Weights and at least one request of full length."""
        return self.weights_bytes + self.kv_bytes_per_context <= self.free_bytes

    @property
    def shortage(self) -> str:
        """Why it does not fit."""
        return "none: the weights do not fit" if self.weights_bytes > self.free_bytes else "none: only shorter ones"

    @property
    def num_contexts(self) -> int:
        """Requests of full length that fit beside the weights."""
        return max(0, self.free_bytes - self.weights_bytes) // self.kv_bytes_per_context


def plan_memory(spec: ModelSpec, dtype: str, free_bytes: int) -> MemoryPlan:
    """The plan for one precision."""
    per_token = spec.kv_bytes_per_token(dtype)
    return MemoryPlan(
        dtype=dtype,
        weights_bytes=spec.num_parameters * DTYPE_BYTES[dtype],
        kv_bytes_per_token=per_token,
        kv_bytes_per_context=per_token * spec.language.max_positions,
        free_bytes=free_bytes,
    )


def available_bytes(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> int:
    """Main memory that this process may still take: what the machine has free, within the container's limit."""
    available = _meminfo(meminfo)
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        if limit != "max":
            used = int((cgroup / "memory.current").read_text())
            available = min(available, max(0, int(limit) - used))
    except FileNotFoundError:
        pass  # no limit of version 2; the machine's own figure stands
    return available


def _meminfo(path: Path) -> int:
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{path} has no MemAvailable")
