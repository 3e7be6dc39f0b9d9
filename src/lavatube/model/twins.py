"""In plain torch, what the kernels for GPUs compute: their definition, and what they are measured by.

None of these is fast; all of them are short.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu


def attend(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, tables: Tensor, block_size: int, window: int | None
) -> Tensor:
    """One row of each of S sequences, the last of its context, sees that context, or as much of it as the window shows.

    Shapes: query (S, heads, head_dim), keys and values (kv_heads, slots, head_dim), lengths (S,), tables (S, blocks);
    out as query. Rows of query may lie apart, and tables anyhow; all else is contiguous.
    """
    rows = []
    for row, length, table in zip(query, lengths.tolist(), tables, strict=True):
        positions = torch.arange(max(0, length - (window or length)), length, device=query.device)
        slots = table[positions // block_size] * block_size + positions % block_size
        grouped = row.unflatten(0, (len(keys), -1))  # (kv_heads, group, head_dim)
        scores = (grouped @ keys[:, slots].transpose(1, 2)).float() * row.shape[-1] ** -0.5
        rows.append((scores.softmax(dim=-1).to(query.dtype) @ values[:, slots]).flatten(0, 1))
    return torch.stack(rows)


def normalize(hidden: Tensor, added: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The sum of both, and its RMSNorm. Shapes: all (T, size), contiguous, and weight (size,)."""
    total = hidden if added is None else hidden + added
    return total, rms_norm(total, weight.shape, weight, epsilon)


def rotate_and_store(
    merged: Tensor, cosines: Tensor, sines: Tensor, keys: Tensor, values: Tensor, slots: Tensor
) -> None:
    """Turn queries and keys by their positions, in place, and put keys and values into their slots of the cache.

    Shapes: merged (T, heads + 2 · kv_heads, head_dim), queries, then keys, then values; cosines and sines
    (T, head_dim / 2) float32; keys and values (kv_heads, slots, head_dim); slots (T,). All are contiguous.
    """
    num_kv_heads = len(keys)
    rotated = merged[:, :-num_kv_heads]
    left, right = rotated.float().chunk(2, dim=-1)
    cosine, sine = cosines[:, None], sines[:, None]
    rotated.copy_(torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1))
    keys.index_copy_(1, slots, rotated[:, -num_kv_heads:].transpose(0, 1))
    values.index_copy_(1, slots, merged[:, -num_kv_heads:].transpose(0, 1))


def swiglu(gate_up: Tensor) -> Tensor:
    """Shapes: in (T, 2 · size), contiguous; out (T, size)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate) * up
