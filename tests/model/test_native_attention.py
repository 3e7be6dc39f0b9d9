"""The kernels' attention against the textbook formula, and against itself with other rows beside."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lavatube.model.native import LEVELS, Native
from tests.model.kernels import kernels_up_to
from tests.model.test_attention import Sequences, ragged

HEADS = [(4, 4), (4, 2), (6, 1)]


def sequences_of(lengths: Sequence[int], cached: Sequence[int], heads: tuple[int, int]) -> Sequences:
    return Sequences(lengths, cached, *heads, dtype=torch.bfloat16)


def assert_near(ours: Tensor, expected: Tensor) -> None:
    """bfloat16 rounds weights and results to 8 bits each."""
    torch.testing.assert_close(ours.float(), expected, rtol=0.02, atol=0.02)


@given(ragged(), st.sampled_from(HEADS), st.one_of(st.none(), st.integers(1, 25)), st.integers(0, len(LEVELS) - 1))
@settings(max_examples=150, deadline=None)
def test_every_row_sees_its_own_context_within_the_window_and_nothing_else(
    shape: tuple[list[int], list[int]], heads: tuple[int, int], window: int | None, level: int
) -> None:
    sequences = sequences_of(*shape, heads)
    if window:
        sequences.forget_before(window)
    ours = sequences.attend(window=window, kernels=kernels_up_to(level))
    for one, expected in zip(ours, sequences.expected(window), strict=True):
        assert_near(one, expected)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("window", [None, 30])
def test_how_a_prompt_was_cut_and_who_is_beside_it_makes_no_difference(
    heads: tuple[int, int], window: int | None, kernels: Native
) -> None:
    whole = sequences_of([77, 40], [0, 13], heads).attend(window=window, kernels=kernels)
    for cached in (1, 16, 50, 76):
        (rest,) = sequences_of([77], [cached], heads).attend(window=window, kernels=kernels)
        assert torch.equal(rest, whole[0][cached:])


def test_new_keys_and_values_are_stored_in_their_slots_of_their_layer_only(kernels: Native) -> None:
    sequences = sequences_of([9, 6], [3, 5], (4, 2))
    sequences.attend(layer=1, kernels=kernels)
    keys, values = sequences.stored
    for index in range(2):
        assert torch.equal(keys[1][:, sequences.slots(index)], sequences.keys[index].transpose(0, 1).bfloat16())
        assert torch.equal(values[1][:, sequences.slots(index)], sequences.values[index].transpose(0, 1).bfloat16())
    assert keys[0][:, sequences.slots(0)[3:]].isnan().all()
    assert (~values[1][0, :, 0].isnan()).sum() == sum(sequences.lengths)


def test_a_sequence_of_nan_leaves_its_neighbours_alone(kernels: Native) -> None:
    sequences = sequences_of([17, 5, 11], [16, 4, 3], (4, 2))
    expected = sequences.expected()
    sequences.queries[1][:] = torch.nan
    sequences.values[1][:] = torch.nan
    sequences.store(sequences.slots(1), torch.nan, torch.nan)
    ours = sequences.attend(kernels=kernels)
    assert ours[1].isnan().all()
    assert_near(ours[0], expected[0])
    assert_near(ours[2], expected[2])


@pytest.mark.parametrize("head_dim", [2, 16, 64, 72, 80])
def test_rows_that_see_all(head_dim: int, kernels: Native) -> None:
    merged = torch.randn(2, 77, 3 * 3 * head_dim, generator=torch.Generator().manual_seed(0)).bfloat16()
    query, key, value = (part.unflatten(-1, (3, head_dim)) for part in merged.chunk(3, dim=-1))
    wide = (rows.float().transpose(1, 2) for rows in (query, key, value))
    assert_near(kernels.attend_all(query, key, value), scaled_dot_product_attention(*wide).transpose(1, 2))
