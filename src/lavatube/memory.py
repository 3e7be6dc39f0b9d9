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
    """Weights, keys and values of one model in one precision, against the memory that is free.

    cache_bytes: what the engine would take for keys and values. max_sequences: most requests decoded together.
    """

    dtype: str
    weights_bytes: int
    kv_bytes_per_token: int
    kv_bytes_per_context: int
    free_bytes: int
    cache_bytes: int
    max_sequences: int

    @property
    def has_room_for_weights(self) -> bool:
        return self.weights_bytes <= self.free_bytes

    @property
    def cache_tokens(self) -> int:
        return self.cache_bytes // self.kv_bytes_per_token

    @property
    def num_contexts(self) -> int:
        """Requests of full length that are decoded together."""
        fitting = self.cache_bytes // self.kv_bytes_per_context if self.has_room_for_weights else 0
        return min(fitting, self.max_sequences)


def count_weights(spec: ModelSpec, dtype: str) -> int:
    """Bytes of the weights in one precision."""
    return spec.num_parameters * DTYPE_BYTES[dtype]


def plan_memory(spec: ModelSpec, dtype: str, *, free_bytes: int, cache_bytes: int, max_sequences: int) -> MemoryPlan:
    """The plan for one precision."""
    per_token = spec.kv_bytes_per_token(dtype)
    return MemoryPlan(
        dtype=dtype,
        weights_bytes=count_weights(spec, dtype),
        kv_bytes_per_token=per_token,
        kv_bytes_per_context=per_token * spec.language.max_positions,
        free_bytes=free_bytes,
        cache_bytes=cache_bytes,
        max_sequences=max_sequences,
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
