"""The sampler: the right distribution, the same draw everywhere, and never a token that must not be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavatube.engine.sampler import Sampler, draw, uniform
from lavatube.engine.wire import Sampling

VOCAB = 12
IMAGE = 5
NUM_TOKEN_IDS = 10
CPU = torch.device("cpu")


@pytest.fixture
def sampler() -> Sampler:
    return Sampler(VOCAB, [IMAGE], NUM_TOKEN_IDS, CPU)


def free_sampler(vocab_size: int) -> Sampler:
    return Sampler(vocab_size, [], vocab_size, CPU)


def draws(probabilities: list[float], sampling: Sampling, count: int = 4000) -> torch.Tensor:
    """Shares of each id over many positions."""
    logits = torch.tensor(probabilities).log().repeat(count, 1)
    ids = free_sampler(len(probabilities)).sample(logits, [sampling] * count, list(range(count)))
    return torch.bincount(torch.tensor(ids), minlength=len(probabilities)) / count


def test_greedy_takes_the_largest(sampler: Sampler) -> None:
    logits = torch.randn(20, VOCAB)
    logits[torch.arange(20), torch.arange(20) % 5] = 9.0
    assert sampler.sample(logits, [Sampling(1)] * 20, [0] * 20) == [row % 5 for row in range(20)]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_placeholders_and_padding_are_never_sampled(sampler: Sampler, temperature: float) -> None:
    logits = torch.zeros(500, VOCAB)
    logits[:, [IMAGE, 10, 11]] = 50.0
    ids = sampler.sample(logits, [Sampling(1, temperature=temperature)] * 500, list(range(500)))
    assert not {IMAGE, 10, 11} & set(ids)


def test_the_distribution_is_that_of_the_logits() -> None:
    wanted = [0.5, 0.25, 0.15, 0.1]
    assert draws(wanted, Sampling(1, temperature=1.0, seed=3)).tolist() == pytest.approx(wanted, abs=0.03)


def test_temperature_sharpens() -> None:
    shares = draws([0.5, 0.3, 0.2], Sampling(1, temperature=0.5))
    assert shares.tolist() == pytest.approx([25 / 38, 9 / 38, 4 / 38], abs=0.03)


def test_top_k_keeps_the_k_largest() -> None:
    shares = draws([0.1, 0.4, 0.2, 0.3], Sampling(1, temperature=1.0, top_k=2))
    assert shares.tolist() == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=0.03)


def test_top_k_comes_before_top_p() -> None:
    """Of the two kept by top-k the first has 4/7 of the rest, which is enough for a top-p of 0.5."""
    assert draws([0.1, 0.4, 0.2, 0.3], Sampling(1, temperature=1.0, top_k=2, top_p=0.5)).tolist() == [0, 1, 0, 0]


def reference_top_p(probabilities: torch.Tensor, top_p: float) -> set[int]:
    """As transformers' TopPLogitsWarper puts it: drop what is in the lower tail of the ascending sum."""
    ascending, order = probabilities.sort()
    is_dropped = ascending.cumsum(dim=-1) <= 1 - top_p
    is_dropped[-1] = False
    return set(order[~is_dropped].tolist())


@given(
    weights=st.lists(st.integers(1, 50), min_size=2, max_size=6, unique=True),
    top_p=st.sampled_from([0.05, 0.33, 0.61, 0.9]),
)
@settings(max_examples=40, deadline=None)
def test_top_p_keeps_what_the_reference_keeps(weights: list[int], top_p: float) -> None:
    probabilities = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    sampling = Sampling(1, temperature=1.0, top_p=top_p)
    count = 600
    logits = probabilities.log().float().repeat(count, 1)
    drawn = set(free_sampler(len(weights)).sample(logits, [sampling] * count, list(range(count))))
    kept = reference_top_p(probabilities, top_p)
    assert drawn <= kept
    likely = {index for index in kept if probabilities[index] > 0.05}
    assert likely <= drawn


def test_top_p_zero_keeps_one() -> None:
    assert draws([0.3, 0.4, 0.3], Sampling(1, temperature=1.0, top_p=0.0)).tolist() == [0, 1, 0]


def test_a_draw_does_not_depend_on_the_batch(sampler: Sampler) -> None:
    logits = torch.randn(6, VOCAB)
    samplings = [Sampling(1, temperature=0.5 + row / 4, top_k=row, seed=row) for row in range(6)]
    together = sampler.sample(logits, samplings, list(range(6)))
    alone = [sampler.sample(logits[row : row + 1], [samplings[row]], [row])[0] for row in range(6)]
    assert together == alone


def test_seed_and_position_both_matter(sampler: Sampler) -> None:
    logits = torch.zeros(40, VOCAB)
    first = sampler.sample(logits, [Sampling(1, temperature=1.0, seed=1)] * 40, list(range(40)))
    second = sampler.sample(logits, [Sampling(1, temperature=1.0, seed=2)] * 40, list(range(40)))
    assert len(set(first)) > 5
    assert first != second


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e30])
def test_extreme_temperatures_are_still_numbers(sampler: Sampler, temperature: float) -> None:
    logits = torch.randn(50, VOCAB) * 100
    ids = sampler.sample(logits, [Sampling(1, temperature=temperature, top_p=0.9)] * 50, list(range(50)))
    assert None not in ids
    if temperature < 1:
        assert ids == sampler.sample(logits, [Sampling(1)] * 50, [0] * 50)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_no_number_fails_alone(sampler: Sampler, poison: float, temperature: float) -> None:
    logits = torch.randn(3, VOCAB)
    samplings, positions = [Sampling(1, temperature=temperature, top_p=0.9)] * 3, [4, 5, 6]
    healthy = sampler.sample(logits, samplings, positions)
    logits[1, 7] = poison
    assert sampler.sample(logits, samplings, positions) == [healthy[0], None, healthy[2]]


def test_uniform_is_uniform_and_known() -> None:
    numbers = [uniform(seed, position) for seed in range(40) for position in range(50)]
    assert all(0 <= number < 1 for number in numbers)
    assert sum(numbers) / 2000 == pytest.approx(0.5, abs=0.03)
    assert len(set(numbers)) == 2000
    assert uniform(-1, 0) == uniform(2**64 - 1, 0)


@pytest.mark.parametrize("point", [0.0, 1 - 2**-53])
def test_both_ends_of_the_unit_interval_are_tokens(point: float) -> None:
    for logits in torch.randn(200, VOCAB):
        logits[[0, VOCAB - 1]] = -torch.inf
        token_id = draw(logits, Sampling(1, temperature=0.7), point).item()
        assert token_id == (1 if point == 0 else VOCAB - 2)
