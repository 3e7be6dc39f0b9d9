"""The kernels' way down a flat ranking, against the ranking itself."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavatube.engine.draw import draw
from lavatube.engine.wire import Sampling
from lavatube.model.native import native

kernels = native()
pytestmark = pytest.mark.skipif(kernels is None, reason="the kernels were not built")


@given(
    spread=st.sampled_from([0.0, 1e-3, 1.0, 5.0, 60.0]),
    levels=st.sampled_from([0, 7]),
    num_banned=st.integers(0, 2900),
    top_p=st.one_of(st.floats(0, 1), st.just(math.inf)),
    top_k=st.integers(1, 3000),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_the_floor_of_a_nucleus_is_that_of_the_whole_ranking(
    spread: float, levels: int, num_banned: int, top_p: float, top_k: int, seed: int
) -> None:
    """With `levels`, many are as likely as each other."""
    assert kernels is not None
    scores = spread * torch.randn(2, 3000, generator=torch.Generator().manual_seed(seed)).double()
    scores = (scores * levels).round() / levels if levels else scores
    scores[:, :num_banned] = -torch.inf
    scores -= scores.amax(dim=1, keepdim=True)
    ranked = scores.sort(dim=1, descending=True).values
    kth = ranked[:, top_k - 1 : top_k]
    weights = ranked.exp().masked_fill(ranked < kth, 0.0)
    before = weights.cumsum(dim=1) - weights
    ours = kernels.nucleus(scores, kth, torch.full((2, 1), top_p, dtype=torch.float64))[:, 0]
    for row, floor in enumerate(ours.tolist()):
        kept = int((ranked[row] >= floor).sum())
        total, own = weights[row].sum().item(), weights[row, kept - 1].item()
        assert own > 0
        # Where sums come to the share but for rounding, one more or less of them may be kept.
        if math.isfinite(top_p):
            first = int((ranked[row] > floor).sum())
            assert first == 0 or before[row, first].item() < top_p * total * (1 + 1e-12)
            assert kept == int((weights[row] > 0).sum()) or before[row, kept].item() >= top_p * total * (1 - 1e-12)
        else:
            assert kept == int((weights[row] > 0).sum())


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.9), (3.0, 0.99)])
def test_a_flat_nucleus_is_drawn_from_as_the_definition_says(temperature: float, top_p: float) -> None:
    logits = torch.randn(40, 5000, generator=torch.Generator().manual_seed(0))
    points = [index / 40 for index in range(40)]
    ours = draw(logits, [Sampling(1, temperature=temperature, top_p=top_p)] * 40, points)
    for row, point, token_id in zip(logits.double(), points, ours.tolist(), strict=True):
        likely = (row / temperature).softmax(0)
        order = likely.argsort(descending=True)
        num_kept = int((likely[order].cumsum(0) - likely[order] < top_p).sum())
        kept = torch.zeros_like(likely).scatter(0, order[:num_kept], likely[order[:num_kept]])
        assert token_id == int(torch.searchsorted(kept.cumsum(0), point * kept.sum(), right=True))


def test_a_nucleus_is_found_among_scores_that_hardly_differ() -> None:
    """So hot that the distances of scores have no reciprocal."""
    logits = torch.randn(8, 5000, generator=torch.Generator().manual_seed(0))
    samplings, points = [Sampling(1, temperature=1e307, top_p=0.9)] * 8, [index / 8 for index in range(8)]
    assert torch.equal(draw(logits, samplings, points), draw(logits, samplings, points, may_read=False))
