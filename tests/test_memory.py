"""The memory plan: its arithmetic, and the container's limit over the machine's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lavatube.memory import MemoryPlan, available_bytes

PLAN = MemoryPlan(
    "float32",
    "none",
    weights_bytes=100,
    kv_bytes_per_token=1,
    kv_bytes_per_context=30,
    free_bytes=165,
    cache_bytes=65,
    max_sequences=16,
)


def test_requests_of_full_length() -> None:
    assert PLAN.has_room_for_weights
    assert (PLAN.cache_tokens, PLAN.num_contexts) == (65, 2)
    assert replace(PLAN, max_sequences=1).num_contexts == 1
    assert replace(PLAN, cache_bytes=29).num_contexts == 0


def test_weights_that_do_not_fit() -> None:
    plan = replace(PLAN, free_bytes=99)
    assert (plan.has_room_for_weights, plan.num_contexts) == (False, 0)


def test_the_container_limit_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:       64 kB\n")
    assert available_bytes(tmp_path, meminfo) == 65536
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path, meminfo) == 65536
    (tmp_path / "memory.max").write_text("3000\n")
    assert available_bytes(tmp_path, meminfo) == 2000


def test_this_machine_has_memory() -> None:
    assert available_bytes() > 0
