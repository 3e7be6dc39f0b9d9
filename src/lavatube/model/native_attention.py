"""Attention by the compiled kernels, in bfloat16 on a CPU: what `Attention` does, and which a step gets."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lavatube.model.attention import Attention, KVCache, Layout
from lavatube.model.fused import Fused
from lavatube.model.fused_attention import FusedAttention
from lavatube.model.native import Context, Native, kernels_for

_NO_WINDOW: Final = 1 << 40
PANEL_TOKENS: Final = 16
"""So many keys lie side by side, two dimensions of each after the other, and so many values, of two tokens each: the
cache of keys and values as the kernels have it, see `native/attention.h`.
"""


class NativeAttention:
    """One step's attention, read from the cache as its blocks lie, without gathering them.

    A row's result depends neither on the rows beside it nor on how its prompt was cut.
    """

    def __init__(self, kernels: Native, cache: KVCache, layout: Layout, window: int | None = None) -> None:
        self.kernels = kernels
        self.wanted = layout.wanted
        self._cache = cache
        # What the context points into.
        self._step = (
            layout.slots.contiguous(),
            torch.tensor(layout.query_starts),
            torch.tensor(layout.context_lengths),
            layout.block_tables.contiguous(),
        )
        slots, starts, lengths, tables = (each.data_ptr() for each in self._step)
        self._context = Context(
            slots=slots,
            starts=starts,
            lengths=lengths,
            tables=tables,
            num_slots=cache.keys.shape[2],
            block_size=cache.block_size,
            sequences=len(layout.context_lengths),
            table_blocks=layout.block_tables.shape[1],
            window=window or _NO_WINDOW,
            layer_stride=cache.keys.stride(0),
        )

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store this step's keys and values, then let each row attend to what it sees of its context.

        Shapes: query (T, heads, head_dim), key and value (T, kv_heads, head_dim); out (T, heads, head_dim).
        """
        return self.kernels.attend(query, key, value, self.context(layer))

    def context(self, layer: int) -> Context:
        """Where the kernels find what a layer sees; good until that of another layer is asked for."""
        self._context.keys = self._cache.keys[layer].data_ptr()
        self._context.values = self._cache.values[layer].data_ptr()
        return self._context


def attend_all(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every row sees all rows of its own. Shapes: in and out (N, rows, heads, head_dim)."""
    kernels = kernels_for(query)
    if kernels is None or query.shape[-1] % 2:
        query, key, value = (rows.transpose(1, 2) for rows in (query, key, value))
        return scaled_dot_product_attention(query, key, value).transpose(1, 2)
    return kernels.attend_all(query, key, value)


def attention_of(
    cache: KVCache, layout: Layout, window: int | None, fused: Fused
) -> Attention | NativeAttention | FusedAttention:
    """The kernels' where they can: those for CPUs, or those for GPUs once they are known to be right."""
    if fused.attend.is_proven:
        return FusedAttention.of(fused, cache, layout, window)
    stored = cache.keys
    kernels = kernels_for(stored)
    if kernels is None or stored.shape[-1] % PANEL_TOKENS or cache.block_size % PANEL_TOKENS:
        return Attention(cache, layout, window)
    return NativeAttention(kernels, cache, layout, window)
