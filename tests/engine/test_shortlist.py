"""Drawing from the shortlist: the token that `draw` gives from the whole vocabulary, or nothing where it can't tell."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavatube.engine.draw import draw
from lavatube.engine.shortlist import BLOCK, draw_from_shortlist
from lavatube.engine.wire import Sampling

samplings = st.builds(
    Sampling,
    st.just(1),
    temperature=st.sampled_from([1e-30, 0.2, 0.7, 1.0, 1.5, 1e30]),
    top_p=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 5, 50, BLOCK, 300]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
points = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1 - 2**-53]) | st.floats(0, 1, exclude_max=True)


@given(
    asked=st.lists(st.tuples(samplings, points), min_size=1, max_size=8),
    vocab_size=st.sampled_from([3, BLOCK - 1, BLOCK, BLOCK + 1, 1000, 5000]),
    spread=st.sampled_from([0.0, 0.1, 1.0, 4.0, 12.0]),
    is_tied=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=300, deadline=None)
def test_what_it_tells_is_what_the_whole_vocabulary_gives(
    asked: list[tuple[Sampling, float]], vocab_size: int, spread: float, is_tied: bool, seed: int
) -> None:
    logits = torch.randn(len(asked), vocab_size, generator=torch.Generator().manual_seed(seed)) * spread
    logits = logits.round() if is_tied else logits
    logits[:, seed % vocab_size] = -torch.inf
    wanted = draw(logits, [sampling for sampling, _ in asked], [point for _, point in asked]).tolist()
    found = draw_from_shortlist(logits, [sampling for sampling, _ in asked], [point for _, point in asked])
    assert [known for known in found if known is not None] == [
        token_id for token_id, known in zip(wanted, found, strict=True) if known is not None
    ]


def test_all_that_are_as_likely_as_the_kth_count_however_many_they_are_and_whoever_is_beside() -> None:
    logits = torch.full((2, 1000), -1.0)
    logits[:, :3] = 0.0
    few, many = Sampling(1, temperature=1.0, top_p=0.02, top_k=5), Sampling(1, temperature=1.0, top_p=0.02, top_k=900)
    for point in (0.0, 0.3, 0.9, 0.999):
        (alone,) = draw(logits[:1], [few], [point]).tolist()
        assert [alone, alone] == draw(logits, [few, many], [point, point]).tolist()
        assert draw_from_shortlist(logits, [few, many], [point, point]) == [alone, alone]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1, temperature=0.2),
        Sampling(1, temperature=1.0),
        Sampling(1, temperature=0.7, top_p=0.9),
        Sampling(1, temperature=1.0, top_k=50),
        Sampling(1, temperature=1.0, top_k=50, top_p=0.95),
        Sampling(1, temperature=1.0, min_p=0.05),
    ],
)
def test_logits_as_a_language_model_gives_them_are_settled_by_it(sampling: Sampling) -> None:
    """Few tokens have nearly all of the probability."""
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(100, 32_000, generator=generator) * 5
    found = draw_from_shortlist(logits, [sampling] * 100, torch.rand(100, generator=generator).tolist())
    assert sum(token_id is None for token_id in found) < 10
