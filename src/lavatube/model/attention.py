"""Attention of many sequences at once over keys and values that live in fixed-size blocks.

All tokens of a step are the rows of one ragged dimension T; a `Layout` says which row belongs to whom. Knows no weights
and no requests: who owns a block is the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lavatube.spec import LanguageSpec

MAX_GATHERED_TOKENS: Final = 16384
"""Context that decoding sequences gather at a time, padding included: bounds the memory of a step."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows of one step belong. The rows of a sequence stand together and are the last of its context.

    Shapes: positions, slots (T,) int64; query_starts has S + 1 entries, context_lengths S; block_tables (S, B) int64.
    Units: a slot is block · block_size + offset; a context length counts the rows of this step too; entries of a block
    table after the last block that its context needs are never read. `wanted` are the rows whose states somebody will
    look at, (W,) int64, on the host; None: all.
    """

    positions: Tensor
    slots: Tensor
    query_starts: list[int]
    context_lengths: list[int]
    block_tables: Tensor
    wanted: Tensor | None = None

    @property
    def counts(self) -> list[int]:
        """How many rows each sequence has."""
        return [end - start for start, end in pairwise(self.query_starts)]

    @property
    def singles(self) -> list[int]:
        """The sequences with one row."""
        return [sequence for sequence, count in enumerate(self.counts) if count == 1]


@dataclass(frozen=True, slots=True)
class KVCache:
    """Keys and values of all layers, each head's together. Shapes: (layers, kv_heads, slots, head_dim) each.

    Of whole blocks only: how they lie in a block is the business of who reads and writes them.
    """

    keys: Tensor
    values: Tensor
    block_size: int

    @classmethod
    def allocate(
        cls, language: LanguageSpec, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> KVCache:
        shape = (language.num_layers, language.num_kv_heads, num_blocks * block_size, language.head_dim)
        return cls(
            keys=torch.empty(shape, dtype=dtype, device=device),
            values=torch.empty(shape, dtype=dtype, device=device),
            block_size=block_size,
        )

    def store(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Put the rows of a step where they belong. Shapes: slots (T,), key and value (T, kv_heads, head_dim)."""
        self.keys[layer].index_copy_(1, slots, key.transpose(0, 1))
        self.values[layer].index_copy_(1, slots, value.transpose(0, 1))

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Give each block (from, to) of a list the keys and values of another."""
        for source, target in copies:
            start, goal = source * self.block_size, target * self.block_size
            for stored in (self.keys, self.values):
                stored[:, :, goal : goal + self.block_size] = stored[:, :, start : start + self.block_size]


@dataclass(frozen=True, slots=True)
class _DecodePlan:
    """Sequences with one row each: what they see is read together, padded to the longest."""

    rows: Tensor  # (S,)
    slots: Tensor  # (S · L,)
    is_padding: Tensor  # (S, 1, L)
    keys: Tensor  # (kv_heads, S, L, head_dim): where a layer's keys are gathered
    values: Tensor  # the same


@dataclass(frozen=True, slots=True)
class _PrefillPlan:
    """One sequence with several rows. Without `slots` they see nothing but themselves, and nothing is read back."""

    rows: slice  # n of them
    slots: Tensor | None  # (seen,)
    mask: Tensor | None  # (n, seen): 0 or -inf


class Attention:
    """One step's attention: what is to be read where is worked out once, then used by every layer.

    With a window, a row sees so many tokens up to and with itself; older ones stay in the cache, unread.
    """

    def __init__(self, cache: KVCache, layout: Layout, window: int | None = None) -> None:
        self._cache = cache
        self._slots = layout.slots
        self._decodes = _Decodes(cache, layout, window)
        self._prefills = Prefills(cache, layout, window)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store this step's keys and values, then let each row attend to what it sees of its context.

        Shapes: query (T, heads, head_dim), key and value (T, kv_heads, head_dim); out (T, heads, head_dim).
        """
        self._cache.store(layer, self._slots, key, value)
        out = torch.empty_like(query)
        self._decodes.attend(layer, query, out)
        self._prefills.attend(layer, query, key, value, out)
        return out


class _Decodes:
    """The sequences of a step with one row each."""

    def __init__(self, cache: KVCache, layout: Layout, window: int | None) -> None:
        self._cache = cache
        self._window = window
        groups = group_by_length(layout.singles, [self._num_seen(length) for length in layout.context_lengths])
        self._plans = self._plan(layout, groups) if groups else []

    def attend(self, layer: int, query: Tensor, out: Tensor) -> None:
        """Put what the rows get into theirs of `out`. Shapes: query and out (T, heads, head_dim)."""
        for plan in self._plans:
            out[plan.rows] = _attend_decode(query[plan.rows], self._cache.keys[layer], self._cache.values[layer], plan)

    def _plan(self, layout: Layout, groups: list[list[int]]) -> list[_DecodePlan]:
        _, num_kv_heads, _, head_dim = self._cache.keys.shape
        longest = [max(self._num_seen(layout.context_lengths[sequence]) for sequence in group) for group in groups]
        most = max(len(group) * length for group, length in zip(groups, longest, strict=True))
        # One buffer for all layers: fresh memory of this size would cost more in page faults than the attention itself.
        buffer = self._cache.keys.new_empty(2, num_kv_heads * most * head_dim)
        plans = []
        for group, length in zip(groups, longest, strict=True):
            shape = (2, num_kv_heads, len(group), length, head_dim)
            gathered = buffer[:, : num_kv_heads * len(group) * length * head_dim].view(shape)
            plans.append(self._plan_group(layout, group, gathered))
        return plans

    def _plan_group(self, layout: Layout, group: list[int], gathered: Tensor) -> _DecodePlan:
        device = layout.slots.device
        longest = gathered.shape[3]
        lengths = torch.tensor([layout.context_lengths[sequence] for sequence in group], device=device)
        # None begins before its own window: where a context is longer than `longest`, that is the window.
        positions = (lengths - longest).clamp(min=0)[:, None] + torch.arange(longest, device=device)  # (S, L)
        is_padding = positions >= lengths[:, None]
        # Padding reads the sequence's own last token: what another left behind may be NaN, and 0 · NaN is NaN.
        own = torch.where(is_padding, lengths[:, None] - 1, positions)
        slots = _slots_of(layout.block_tables[group], own, self._cache.block_size)
        rows = torch.tensor([layout.query_starts[sequence] for sequence in group], device=device)
        return _DecodePlan(rows, slots.flatten(), is_padding[:, None], keys=gathered[0], values=gathered[1])

    def _num_seen(self, context_length: int) -> int:
        """How much of its context the newest row sees."""
        return context_length if self._window is None else min(context_length, self._window)


class Prefills:
    """The sequences of a step with several rows."""

    def __init__(self, cache: KVCache, layout: Layout, window: int | None) -> None:
        self._cache = cache
        self._window = window
        self._plans = [self._plan(layout, sequence) for sequence, count in enumerate(layout.counts) if count > 1]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
        """Put what the rows get into theirs of `out`; keys and values must be in the cache already.

        Shapes: query and out (T, heads, head_dim), key and value (T, kv_heads, head_dim).
        """
        for plan in self._plans:
            if plan.slots is None:
                keys, values = key[plan.rows].transpose(0, 1), value[plan.rows].transpose(0, 1)
            else:
                keys, values = (
                    stored[layer].index_select(1, plan.slots) for stored in (self._cache.keys, self._cache.values)
                )
            out[plan.rows] = _attend_prefill(query[plan.rows], keys, values, plan.mask)

    def _plan(self, layout: Layout, sequence: int) -> _PrefillPlan:
        start, end = layout.query_starts[sequence : sequence + 2]
        count, length = end - start, layout.context_lengths[sequence]
        first_seen = max(0, length - count + 1 - (self._window or length))  # by the first of the rows
        num_seen = length - first_seen
        if count == num_seen and count <= (self._window or count):
            return _PrefillPlan(slice(start, end), slots=None, mask=None)
        mask = self._mask(count, num_seen)
        if count == num_seen:
            return _PrefillPlan(slice(start, end), slots=None, mask=mask)
        positions = torch.arange(first_seen, length, device=layout.slots.device)
        slots = _slots_of(layout.block_tables[sequence], positions, self._cache.block_size)
        return _PrefillPlan(slice(start, end), slots, mask)

    def _mask(self, count: int, num_seen: int) -> Tensor:
        """What the last `count` of `num_seen` tokens see: a triangle, or a band of the window's width."""
        mask = self._cache.keys.new_full((count, num_seen), -torch.inf)
        before = num_seen - count
        if self._window is None or self._window >= num_seen:
            return mask.triu_(before + 1)
        return mask.triu(before + 1) + mask.tril_(before - self._window)


def _slots_of(block_tables: Tensor, positions: Tensor, block_size: int) -> Tensor:
    """Slots of tokens by their positions in the sequence. Shapes: in (…, B) and (…, n), out (…, n)."""
    return block_tables.gather(-1, positions // block_size) * block_size + positions % block_size


def group_by_length(sequences: Sequence[int], context_lengths: Sequence[int]) -> list[list[int]]:
    """Put sequences of similar length together, each group of at most MAX_GATHERED_TOKENS or of one."""
    groups: list[list[int]] = []
    for sequence in sorted(sequences, key=lambda sequence: context_lengths[sequence]):
        if groups and (len(groups[-1]) + 1) * context_lengths[sequence] <= MAX_GATHERED_TOKENS:
            groups[-1].append(sequence)
        else:
            groups.append([sequence])
    return groups


def _attend_decode(query: Tensor, keys: Tensor, values: Tensor, plan: _DecodePlan) -> Tensor:
    """One row of each of S sequences.

    Plain products, because the fused attention of CPUs is slow for single rows (20 times, in bfloat16). The heads that
    share a key are rows of one product, so no key is repeated.

    Shapes: query (S, heads, head_dim), keys and values (kv_heads, slots, head_dim); out as query.
    """
    torch.index_select(keys, 1, plan.slots, out=plan.keys.flatten(1, 2))
    torch.index_select(values, 1, plan.slots, out=plan.values.flatten(1, 2))
    count, _, head_dim = query.shape
    grouped = query.view(count, len(keys), -1, head_dim).transpose(0, 1)  # (kv_heads, S, group, head_dim)
    scores = torch.matmul(grouped, plan.keys.transpose(2, 3)).float().mul_(head_dim**-0.5)  # (kv_heads, S, group, L)
    scores.masked_fill_(plan.is_padding, -torch.inf)
    out = torch.matmul(scores.softmax(-1).to(query.dtype), plan.values)
    return out.transpose(0, 1).reshape(query.shape)


def _attend_prefill(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Several rows of one sequence; without a mask, row i sees the keys up to i.

    Shapes: query (n, heads, head_dim), keys and values (kv_heads, context, head_dim); out as query.
    """
    count, _, head_dim = query.shape
    num_kv_heads, length, _ = keys.shape
    grouped = query.view(count, num_kv_heads, -1, head_dim).permute(1, 2, 0, 3)  # (kv_heads, group, n, head_dim)
    shared = (num_kv_heads, grouped.shape[1], length, head_dim)  # of stride 0 along the group: no key is repeated
    out = scaled_dot_product_attention(
        grouped,
        keys[:, None].expand(shared),
        values[:, None].expand(shared),
        attn_mask=mask,
        is_causal=mask is None,
    )
    return out.permute(2, 0, 1, 3).reshape(query.shape)
