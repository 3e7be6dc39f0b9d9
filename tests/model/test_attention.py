"""Paged, ragged attention against the textbook formula, row by row."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavatube.model import attention
from lavatube.model.attention import MAX_GATHERED_TOKENS, Attention, KVCache, Layout, group_by_length
from lavatube.model.fused import Fused
from lavatube.model.fused_attention import FusedAttention
from lavatube.model.native import Native
from lavatube.model.native_attention import NativeAttention
from lavatube.spec import LanguageSpec
from tests.model.cache_rows import put_rows, rows_of

CPU = torch.device("cpu")
HEAD_DIM = 16
NUM_BLOCKS = 64


def language(num_heads: int, num_kv_heads: int) -> LanguageSpec:
    return LanguageSpec(
        kind="llama",
        hidden_size=num_heads * HEAD_DIM,
        intermediate_size=1,
        num_layers=2,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=HEAD_DIM,
        vocab_size=1,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        max_positions=NUM_BLOCKS * 16,
        activation="silu",
        has_tied_embeddings=False,
    )


class Sequences:
    """All queries, keys and values of some sequences, and a cache that holds the part before `cached`."""

    def __init__(
        self,
        lengths: Sequence[int],
        cached: Sequence[int],
        num_heads: int,
        num_kv_heads: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device = CPU,
    ) -> None:
        self.lengths, self.cached, self.dtype, self.device = lengths, cached, dtype, device

        # A sequence is the same whatever stands beside it. What bfloat16 holds exactly serves both precisions.
        generators = [torch.Generator().manual_seed(index) for index in range(len(lengths))]

        def rows(num_heads: int) -> list[Tensor]:
            pairs = zip(lengths, generators, strict=True)
            drawn = [torch.randn(count, num_heads, HEAD_DIM, generator=one) for count, one in pairs]
            return [each.bfloat16().float().to(device) for each in drawn]

        self.queries, self.keys, self.values = rows(num_heads), rows(num_kv_heads), rows(num_kv_heads)
        # The kernels' for CPUs, which take blocks of whole panels.
        self._is_in_panels = dtype == torch.bfloat16 and device == CPU
        self._block_size = 16 if self._is_in_panels else 4
        self.cache = KVCache.allocate(language(num_heads, num_kv_heads), NUM_BLOCKS, self._block_size, dtype, device)
        self.cache.keys.fill_(torch.nan)
        self.cache.values.fill_(torch.nan)
        blocks = list(range(NUM_BLOCKS))
        random.Random(0).shuffle(blocks)
        self.tables = [[blocks.pop() for _ in range(-(-length // self._block_size))] for length in lengths]
        for index, count in enumerate(cached):
            keys, values = (rows[index][:count].transpose(0, 1).to(dtype) for rows in (self.keys, self.values))
            self.store(self.slots(index)[:count], keys, values)

    def slots(self, index: int) -> Tensor:
        positions = torch.arange(self.lengths[index])
        size = self._block_size
        slots = torch.tensor(self.tables[index])[positions // size] * size + positions % size
        return slots.to(self.device)

    @property
    def stored(self) -> tuple[Tensor, Tensor]:
        """Shapes: out (layers, kv_heads, slots, head_dim) each."""
        return rows_of(self.cache) if self._is_in_panels else (self.cache.keys, self.cache.values)

    def store(self, slots: Tensor, keys: Tensor | float, values: Tensor | float) -> None:
        """In all layers. Shapes: (kv_heads, slots, head_dim)."""
        all_keys, all_values = self.stored
        all_keys[:, :, slots], all_values[:, :, slots] = keys, values  # type: ignore[assignment]
        if self._is_in_panels:
            put_rows(self.cache, all_keys, all_values)

    def forget_before(self, window: int) -> None:
        """What no new row sees any more is NaN in the cache, as if its block were another's."""
        for index, count in enumerate(self.cached):
            old = self.slots(index)[: max(0, count - window + 1)]
            self.store(old, torch.nan, torch.nan)

    def attend(
        self,
        layer: int = 1,
        window: int | None = None,
        kernels: Native | None = None,
        fused: Fused | None = None,
    ) -> list[Tensor]:
        """What the rows after `cached` get, one tensor a sequence."""
        spans = [slice(start, end) for start, end in zip(self.cached, self.lengths, strict=True)]
        counts = [end - start for start, end in zip(self.cached, self.lengths, strict=True)]
        width = max(map(len, self.tables))
        layout = Layout(
            positions=torch.cat([torch.arange(span.start, span.stop) for span in spans]).to(self.device),
            slots=torch.cat([self.slots(index)[span] for index, span in enumerate(spans)]),
            query_starts=[sum(counts[:index]) for index in range(len(counts) + 1)],
            context_lengths=list(self.lengths),
            block_tables=torch.tensor([table + [0] * (width - len(table)) for table in self.tables]).to(self.device),
        )
        rows = [
            torch.cat([tensor[span] for tensor, span in zip(tensors, spans, strict=True)]).to(self.dtype)
            for tensors in (self.queries, self.keys, self.values)
        ]
        attend: Attention | NativeAttention | FusedAttention
        if kernels is not None:
            attend = NativeAttention(kernels, self.cache, layout, window)
        elif fused is not None:
            attend = FusedAttention.of(fused, self.cache, layout, window)
        else:
            attend = Attention(self.cache, layout, window)
        return list(attend(layer, *rows).split(counts))

    def expected(self, window: int | None = None) -> list[Tensor]:
        def row(index: int, last: int) -> Tensor:
            seen = slice(max(0, last + 1 - (window or last + 1)), last + 1)
            return textbook(self.queries[index][last], self.keys[index][seen], self.values[index][seen])

        spans = enumerate(zip(self.cached, self.lengths, strict=True))
        return [torch.stack([row(index, last) for last in range(*span)]) for index, span in spans]


def textbook(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Shapes: query (heads, head_dim), keys and values (context, kv_heads, head_dim); out as query."""
    group = len(query) // keys.shape[1]
    rows = []
    for head, vector in enumerate(query):
        scores = keys[:, head // group] @ vector / HEAD_DIM**0.5
        rows.append(scores.softmax(0) @ values[:, head // group])
    return torch.stack(rows)


@st.composite
def ragged(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Lengths, and how much of each is in the cache already: at least one row of each is new."""
    lengths = draw(st.lists(st.integers(1, 21), min_size=1, max_size=6))
    cached = [draw(st.one_of(st.just(length - 1), st.integers(0, length - 1))) for length in lengths]
    return lengths, cached


@given(ragged(), st.sampled_from([(4, 4), (4, 2), (6, 1)]))
@settings(max_examples=60, deadline=None)
def test_every_row_sees_its_own_context_and_nothing_else(
    shape: tuple[list[int], list[int]], heads: tuple[int, int]
) -> None:
    sequences = Sequences(*shape, *heads)
    for ours, expected in zip(sequences.attend(), sequences.expected(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@given(ragged(), st.sampled_from([(4, 4), (4, 2), (6, 1)]), st.integers(1, 25))
@settings(max_examples=60, deadline=None)
def test_a_window_is_all_that_a_row_sees(
    shape: tuple[list[int], list[int]], heads: tuple[int, int], window: int
) -> None:
    sequences = Sequences(*shape, *heads)
    sequences.forget_before(window)
    for ours, expected in zip(sequences.attend(window=window), sequences.expected(window), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@given(ragged(), st.sampled_from([(4, 4), (4, 2), (6, 1)]), st.one_of(st.none(), st.integers(1, 25)))
@settings(max_examples=60, deadline=None)
def test_what_kernels_for_gpus_are_measured_by_is_the_textbook_formula(
    shape: tuple[list[int], list[int]], heads: tuple[int, int], window: int | None
) -> None:
    sequences = Sequences(*shape, *heads)
    sequences.forget_before(window or max(shape[0]))
    for ours, expected in zip(sequences.attend(window=window, fused=Fused()), sequences.expected(window), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_new_keys_and_values_are_stored_in_their_slots_of_their_layer_only() -> None:
    sequences = Sequences([9, 6], [3, 5], 4, 2)
    sequences.attend(layer=1)
    for index, keys in enumerate(sequences.keys):
        torch.testing.assert_close(sequences.cache.keys[1][:, sequences.slots(index)], keys.transpose(0, 1))
    assert sequences.cache.keys[0][:, sequences.slots(0)[3:]].isnan().all()
    num_written = sum(sequences.lengths)
    assert (~sequences.cache.values[1][0, :, 0].isnan()).sum() == num_written


def test_a_sequence_of_nan_leaves_its_neighbours_alone() -> None:
    sequences = Sequences([17, 5, 11], [16, 4, 3], 4, 2)
    expected = sequences.expected()
    sequences.queries[1][:] = torch.nan
    sequences.values[1][:] = torch.nan
    sequences.cache.values[:, :, sequences.slots(1)] = torch.nan
    ours = sequences.attend()
    assert ours[1].isnan().all()
    torch.testing.assert_close(ours[0], expected[0])
    torch.testing.assert_close(ours[2], expected[2])


@given(st.lists(st.integers(1, 20_000), max_size=40))
def test_groups_hold_every_sequence_once_and_stay_small(lengths: list[int]) -> None:
    groups = group_by_length(range(len(lengths)), lengths)
    assert sorted(sequence for group in groups for sequence in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[sequence] for sequence in group) <= MAX_GATHERED_TOKENS


def test_groups_give_the_same_as_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = Sequences([17, 5, 11, 17, 3], [16, 4, 10, 16, 2], 4, 2)
    together = sequences.attend()
    monkeypatch.setattr(attention, "MAX_GATHERED_TOKENS", 12)
    for ours, other in zip(sequences.attend(), together, strict=True):
        torch.testing.assert_close(ours, other)
