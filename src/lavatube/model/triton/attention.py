"""Attention of single rows over keys and values that lie in blocks: flash decoding.

A context is cut into parts, each a program of its own, so that one stream fills a GPU; what the parts found is then put
together by their weights. The grid depends on shapes alone and all lengths are read on the device, so a launch can be
recorded in a CUDA graph.

Source: Flash-Decoding (Dao et al., 2023); online softmax, arXiv:1805.02867; block tables, arXiv:2309.06180.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

_PROGRAMS: Final = 256  # about two for each multiprocessor of a large GPU
_MOST_PARTS: Final = 32
_TILE_BYTES: Final = 128  # of one dimension of the keys that are read at a time
_LEAST_DOT: Final = 16  # what tensor cores multiply has no smaller side
_NO_WINDOW: Final = 1 << 30
_LOG2_E: Final = 1.4426950408889634


def attend(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, tables: Tensor, block_size: int, window: int | None
) -> Tensor:
    """One row of each of S sequences. See `twins.attend`."""
    count, num_heads, head_dim = query.shape
    num_kv_heads, num_slots, _ = keys.shape
    tile = _TILE_BYTES // keys.element_size()
    parts = _num_parts(count * num_kv_heads, tables.shape[1] * block_size, tile)
    # With one part there is nothing to put together: it is the result.
    dtype = query.dtype if parts == 1 else torch.float32
    found = torch.empty(count, num_heads, parts, head_dim, dtype=dtype, device=query.device)
    weights = torch.empty(count, num_heads, parts, dtype=torch.float32, device=query.device)
    dims = max(_LEAST_DOT, triton.next_power_of_2(head_dim))
    _attend_part[(parts, num_kv_heads, count)](
        query,
        keys,
        values,
        lengths,
        tables,
        found,
        weights,
        head_dim**-0.5 * _LOG2_E,
        query.stride(0),
        num_slots,
        *tables.stride(),
        window or _NO_WINDOW,
        GROUP=num_heads // num_kv_heads,
        ROWS=max(_LEAST_DOT, triton.next_power_of_2(num_heads // num_kv_heads)),
        HEAD_DIM=head_dim,
        DIMS=dims,
        BLOCK_SIZE=block_size,
        TILE=tile,
        num_stages=2,
    )
    if parts == 1:
        return found[:, :, 0]
    out = torch.empty(count, num_heads, head_dim, dtype=query.dtype, device=query.device)
    _join_parts[(num_heads, count)](found, weights, out, PARTS=parts, HEAD_DIM=head_dim, DIMS=dims)
    return out


def _num_parts(num_programs: int, longest: int, tile: int) -> int:
    """A power of two: enough to fill a GPU, but none that even the longest context would leave empty."""
    wanted = min(-(-_PROGRAMS // num_programs), -(-longest // tile), _MOST_PARTS)
    return int(triton.next_power_of_2(wanted))


@triton.jit(do_not_specialize=["lengths", "tables", "num_slots", "table_stride", "block_stride", "window"])
def _attend_part(
    query,  # (S, heads, HEAD_DIM)
    keys,  # (kv_heads, slots, HEAD_DIM)
    values,  # the same
    lengths,  # (S,)
    tables,  # (S, blocks)
    found,  # (S, heads, parts, HEAD_DIM)
    weights,  # (S, heads, parts): logarithms of base 2
    scale,
    query_stride,
    num_slots,
    table_stride,
    block_stride,
    window,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
):
    """What one part of a context is to the heads that share a key."""
    part, kv_head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_parts = tl.num_programs(0)
    length = tl.load(lengths + sequence).to(tl.int32)
    first_seen = tl.maximum(length - window, 0)
    size = tl.cdiv(tl.cdiv(length - first_seen, num_parts), TILE) * TILE
    begin = first_seen + part * size
    end = tl.minimum(begin + size, length)

    rows, dims = tl.arange(0, ROWS), tl.arange(0, DIMS)
    heads = kv_head * GROUP + rows
    is_query = (rows < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    own = query + sequence.to(tl.int64) * query_stride + heads[:, None] * HEAD_DIM + dims[None, :]
    queries = tl.load(own, mask=is_query, other=0.0)  # (ROWS, DIMS)
    first_key = kv_head.to(tl.int64) * num_slots * HEAD_DIM
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, DIMS], tl.float32)
    for start in range(begin, end, TILE):
        positions = start + tl.arange(0, TILE)
        is_seen = positions < end
        entries = tables + sequence * table_stride + positions // BLOCK_SIZE * block_stride
        block = tl.load(entries, mask=is_seen, other=0)
        slots = block.to(tl.int64) * BLOCK_SIZE + positions % BLOCK_SIZE
        places = first_key + slots[:, None] * HEAD_DIM + dims[None, :]  # (TILE, DIMS)
        # What is not seen may be what another left behind, NaN even: it is not read.
        is_read = is_seen[:, None] & (dims < HEAD_DIM)[None, :]
        key = tl.load(keys + places, mask=is_read, other=0.0)
        value = tl.load(values + places, mask=is_read, other=0.0)
        scores = tl.dot(queries, tl.trans(key), input_precision="ieee") * scale  # (ROWS, TILE)
        scores = tl.where(is_seen[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        shares = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        sums = sums * shrink[:, None] + tl.dot(shares.to(value.dtype), value, input_precision="ieee")
        total = total * shrink + tl.sum(shares, axis=1)
        top = new_top

    place = (sequence * tl.num_programs(1) * GROUP + heads).to(tl.int64) * num_parts + part
    # An empty part weighs nothing: its logarithm is -inf, and what it found is not read.
    tl.store(weights + place, top + tl.log2(total), mask=rows < GROUP)
    tl.store(found + place[:, None] * HEAD_DIM + dims[None, :], sums / total[:, None], mask=is_query)


@triton.jit
def _join_parts(found, weights, out, PARTS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr):
    """The mean of what the parts found, by their weights."""
    row = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    parts, dims = tl.arange(0, PARTS), tl.arange(0, DIMS)
    weight = tl.load(weights + row * PARTS + parts)
    is_there = weight != float("-inf")  # also where it is NaN: that must show
    share = tl.exp2(weight - tl.max(weight, axis=0))
    places = (row * PARTS + parts)[:, None] * HEAD_DIM + dims[None, :]
    is_read = is_there[:, None] & (dims < HEAD_DIM)[None, :]
    mean = tl.sum(share[:, None] * tl.load(found + places, mask=is_read, other=0.0), axis=0) / tl.sum(share, axis=0)
    tl.store(out + row * HEAD_DIM + dims, mean, mask=dims < HEAD_DIM)
