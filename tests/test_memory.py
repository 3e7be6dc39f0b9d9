"""The memory plan: its arithmetic, and the container's limit over the machine's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lavatube.memory import MemoryPlan, available_bytes
from tests.test_container import write_v2

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
    meminfo, own = tmp_path / "meminfo", tmp_path / "own"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:       64 kB\n")
    own.write_text("0::/\n")
    assert available_bytes(tmp_path, own, meminfo) == 65536
    for limit, available in ((65536 + 3000, 65536), (65536, 63536), ("max", 65536)):
        write_v2(tmp_path, limit, anon=2000)
        assert available_bytes(tmp_path, own, meminfo) == available


def test_this_machine_has_memory() -> None:
    assert available_bytes() > 0
