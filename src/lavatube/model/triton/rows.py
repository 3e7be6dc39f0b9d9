"""What stands between the products of a decoder's layer: norm, rotary embedding, SwiGLU. All sums in float32."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

_GATED_TILE: Final = 1024


def normalize(hidden: Tensor, added: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """See `twins.normalize`."""
    normalized = torch.empty_like(hidden)
    total = hidden if added is None else torch.empty_like(hidden)
    tile = triton.next_power_of_2(hidden.shape[1])
    _normalize_row[(len(hidden),)](
        hidden,
        added,
        weight,
        total,
        normalized,
        epsilon,
        SIZE=hidden.shape[1],
        TILE=tile,
        num_warps=8 if tile > 2048 else 4,
    )
    return total, normalized


def rotate_and_store(
    merged: Tensor, cosines: Tensor, sines: Tensor, keys: Tensor, values: Tensor, slots: Tensor
) -> None:
    """See `twins.rotate_and_store`."""
    count, num_heads, head_dim = merged.shape
    num_kv_heads, num_slots, _ = keys.shape
    _rotate_head[(num_heads, count)](
        merged,
        cosines,
        sines,
        keys,
        values,
        slots,
        num_slots,
        KV_HEADS=num_kv_heads,
        HALF=head_dim // 2,
        TILE=triton.next_power_of_2(head_dim // 2),
        num_warps=1,
    )


def swiglu(gate_up: Tensor) -> Tensor:
    """See `twins.swiglu`."""
    count, size = len(gate_up), gate_up.shape[1] // 2
    out = gate_up.new_empty(count, size)
    _gate[(triton.cdiv(size, _GATED_TILE), count)](gate_up, out, SIZE=size, TILE=_GATED_TILE)
    return out


@triton.jit
def _normalize_row(hidden, added, weight, total, normalized, epsilon, SIZE: tl.constexpr, TILE: tl.constexpr):
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, TILE)
    places, is_there = row * SIZE + columns, columns < SIZE
    values = tl.load(hidden + places, mask=is_there, other=0.0).to(tl.float32)
    if added is not None:
        values += tl.load(added + places, mask=is_there, other=0.0).to(tl.float32)
        values = values.to(total.dtype.element_ty).to(tl.float32)  # the norm is of what is kept
        tl.store(total + places, values, mask=is_there)
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / SIZE + epsilon)
    scaled = values * scale * tl.load(weight + columns, mask=is_there, other=0.0).to(tl.float32)
    tl.store(normalized + places, scaled, mask=is_there)


@triton.jit(do_not_specialize=["slots", "num_slots"])
def _rotate_head(
    merged,  # (T, heads, 2 · HALF): queries, then keys, then values
    cosines,  # (T, HALF)
    sines,  # the same
    keys,  # (KV_HEADS, slots, 2 · HALF)
    values,  # the same
    slots,  # (T,)
    num_slots,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    TILE: tl.constexpr,
):
    head, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    first_key = tl.num_programs(0) - 2 * KV_HEADS
    first_value = first_key + KV_HEADS
    pairs = tl.arange(0, TILE)
    is_pair = pairs < HALF
    places = (row * tl.num_programs(0) + head) * (2 * HALF) + pairs
    left = tl.load(merged + places, mask=is_pair, other=0.0).to(tl.float32)
    right = tl.load(merged + places + HALF, mask=is_pair, other=0.0).to(tl.float32)
    is_rotated = pairs < tl.where(head < first_value, HALF, 0)  # a value is turned by nothing
    cosine = tl.load(cosines + row * HALF + pairs, mask=is_rotated, other=1.0)
    sine = tl.load(sines + row * HALF + pairs, mask=is_rotated, other=0.0)
    left, right = left * cosine - right * sine, right * cosine + left * sine
    tl.store(merged + places, left, mask=is_rotated)
    tl.store(merged + places + HALF, right, mask=is_rotated)

    slot = tl.load(slots + row).to(tl.int64)
    is_key = pairs < tl.where((head >= first_key) & (head < first_value), HALF, 0)
    is_value = pairs < tl.where(head >= first_value, HALF, 0)
    stored = ((head - first_key) % KV_HEADS).to(tl.int64) * num_slots + slot
    goals = stored * (2 * HALF) + pairs
    tl.store(keys + goals, left, mask=is_key)
    tl.store(keys + goals + HALF, right, mask=is_key)
    tl.store(values + goals, left, mask=is_value)
    tl.store(values + goals + HALF, right, mask=is_value)


@triton.jit
def _gate(gate_up, out, SIZE: tl.constexpr, TILE: tl.constexpr):
    row, columns = tl.program_id(1).to(tl.int64), tl.program_id(0) * TILE + tl.arange(0, TILE)
    is_there = columns < SIZE
    gate = tl.load(gate_up + row * (2 * SIZE) + columns, mask=is_there, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * (2 * SIZE) + SIZE + columns, mask=is_there, other=0.0).to(tl.float32)
    tl.store(out + row * SIZE + columns, gate * tl.sigmoid(gate) * up, mask=is_there)
