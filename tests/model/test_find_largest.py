"""The largest of each row in one pass, against torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavatube.model.native import LEVELS
from tests.model.kernels import kernels_up_to


@given(
    size=st.integers(1, 2500),
    levels=st.sampled_from([0, 3]),
    level=st.integers(0, len(LEVELS) - 1),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_it_is_the_first_of_the_largest(size: int, levels: int, level: int, seed: int) -> None:
    """With `levels`, there are several."""
    values = torch.randn(3, size, generator=torch.Generator().manual_seed(seed))
    values = values.clamp(max=1.0).mul(levels).round() if levels else values
    places, are_finite = kernels_up_to(level).find_largest(values)
    assert places == [row.index(max(row)) for row in values.tolist()]
    assert are_finite == [True] * 3


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 15, 1030, 1039])
@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_what_is_no_number_is_seen_wherever_it_stands(value: float, place: int, level: int) -> None:
    values = torch.randn(2, 1040)
    values[1, place] = value
    places, are_finite = kernels_up_to(level).find_largest(values)
    assert are_finite == [True, False]
    assert places[0] == int(values[0].argmax())


def test_among_what_is_banned_the_largest_is_found() -> None:
    values = torch.full((1, 1100), -torch.inf)
    values[0, 1050] = -300.0
    assert kernels_up_to(len(LEVELS) - 1).find_largest(values)[0] == [1050]
