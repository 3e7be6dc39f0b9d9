"""Attention in which single rows read the cache as its blocks lie, by a kernel for GPUs; prompts are torch's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lavatube.model.attention import KVCache, Layout, Prefills
from lavatube.model.fused import Fused


@dataclass(frozen=True, slots=True)
class Singles:
    """Sequences with one row each: all there is on the device, so that a step can be repeated without a host.

    Shapes: context_lengths (S,), block_tables (S, B); rows (S,), or None where they are all rows of the step, in order.
    """

    context_lengths: Tensor
    block_tables: Tensor
    rows: Tensor | None = None

    @classmethod
    def of(cls, layout: Layout) -> Singles | None:
        singles, device = layout.singles, layout.slots.device
        if not singles:
            return None
        lengths = torch.tensor([layout.context_lengths[sequence] for sequence in singles], device=device)
        if len(singles) == len(layout.context_lengths):
            return cls(lengths, layout.block_tables)
        rows = torch.tensor([layout.query_starts[sequence] for sequence in singles], device=device)
        return cls(lengths, layout.block_tables[singles], rows)


class FusedAttention:
    """One step's attention, and the other operations of `Fused`, by which its layers are computed."""

    def __init__(
        self,
        fused: Fused,
        cache: KVCache,
        slots: Tensor,
        singles: Singles | None,
        prefills: Prefills | None = None,
        window: int | None = None,
    ) -> None:
        self.fused = fused
        self._cache = cache
        self._slots = slots
        self._singles = singles
        self._prefills = prefills
        self._window = window

    @classmethod
    def of(cls, fused: Fused, cache: KVCache, layout: Layout, window: int | None = None) -> FusedAttention:
        return cls(fused, cache, layout.slots, Singles.of(layout), Prefills(cache, layout, window), window)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store this step's keys and values, then let each row attend to what it sees of its context.

        Shapes: query (T, heads, head_dim), key and value (T, kv_heads, head_dim); out (T, heads, head_dim).
        """
        self._cache.store(layer, self._slots, key, value)
        return self._attend(layer, query, key, value)

    def rotate_and_attend(self, layer: int, merged: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """The same of rows that are yet to be turned by their positions, and are so in place.

        Shapes: merged (T, heads + 2 · kv_heads, head_dim), cosines and sines (T, head_dim / 2).
        """
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        self.fused.rotate_and_store(merged, cosines, sines, keys, values, self._slots)
        num_kv_heads = len(keys)
        parts = [merged.shape[1] - 2 * num_kv_heads, num_kv_heads, num_kv_heads]
        return self._attend(layer, *torch.split_with_sizes(merged, parts, dim=1))

    def _attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        singles = self._singles
        if singles is not None and singles.rows is None:
            return self._attend_singles(layer, query, singles)
        out = query.new_empty(query.shape)
        if singles is not None:
            out[singles.rows] = self._attend_singles(layer, query[singles.rows], singles)
        if self._prefills is not None:
            self._prefills.attend(layer, query, key, value, out)
        return out

    def _attend_singles(self, layer: int, query: Tensor, singles: Singles) -> Tensor:
        return self.fused.attend(
            query,
            self._cache.keys[layer],
            self._cache.values[layer],
            singles.context_lengths,
            singles.block_tables,
            self._cache.block_size,
            self._window,
        )
