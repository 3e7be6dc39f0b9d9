"""The KV cache gets what there is, what was said, or what can be used, whichever is least."""

from __future__ import annotations

import pytest
import torch

from lavatube.engine.capacity import BLOCK_SIZE, layer_limit_s, num_cache_blocks, plan_cache, spare_bytes
from lavatube.errors import InsufficientMemory
from lavatube.memory import available_bytes
from lavatube.spec import ModelSpec

CPU = torch.device("cpu")


def test_as_many_blocks_as_were_paid_for(spec: ModelSpec) -> None:
    block_bytes = BLOCK_SIZE * spec.kv_bytes_per_token("float32")
    for size_bytes, blocks in ((block_bytes, 1), (3 * block_bytes - 1, 2), (3 * block_bytes, 3)):
        assert num_cache_blocks(spec, "float32", CPU, max_sequences=8, kv_cache_bytes=size_bytes) == blocks
    assert num_cache_blocks(spec, "bfloat16", CPU, max_sequences=8, kv_cache_bytes=block_bytes) == 2


def test_never_more_than_can_be_used(spec: ModelSpec) -> None:
    useful = 2 * spec.language.max_positions // BLOCK_SIZE
    assert num_cache_blocks(spec, "float32", CPU, max_sequences=2, kv_cache_bytes=2**40) == useful
    assert num_cache_blocks(spec, "float32", CPU, max_sequences=2, kv_cache_bytes=0) == useful


def test_a_plan_leaves_room_for_what_is_not_loaded_yet(spec: ModelSpec) -> None:
    def plan(kv_cache_bytes: int, taken_bytes: int) -> int:
        return plan_cache(spec, "float32", CPU, max_sequences=2, kv_cache_bytes=kv_cache_bytes, taken_bytes=taken_bytes)

    full = 2 * spec.language.max_positions * spec.kv_bytes_per_token("float32")
    assert plan(0, 0) == full
    assert plan(0, available_bytes() * 2) == 0
    assert plan(2**40, available_bytes() * 2) == full


def test_not_one_block_is_the_operators_problem(spec: ModelSpec) -> None:
    with pytest.raises(InsufficientMemory, match="at least"):
        num_cache_blocks(spec, "float32", CPU, max_sequences=1, kv_cache_bytes=100)


def test_a_cpu_spares_a_quarter_and_at_most_four_gib() -> None:
    assert 0 < spare_bytes(CPU) <= min(4 * 1024**3, available_bytes())


def test_a_large_layer_on_a_cpu_may_take_its_time(spec: ModelSpec) -> None:
    assert layer_limit_s(spec, "cpu", 2048) == pytest.approx(2 * layer_limit_s(spec, "cpu", 1024))
    assert layer_limit_s(spec, "cuda:0", 2048) == 0
