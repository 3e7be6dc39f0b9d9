"""The sampler: what its definition says, the same draw everywhere, and never a token that must not be."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from lavatube.engine.draw import draw, uniform
from lavatube.engine.row import Row
from lavatube.engine.sampler import Choice, Sampler
from lavatube.engine.wire import Sampling
from tests.engine import definition

VOCAB = 12
IMAGE = 5
NUM_TOKEN_IDS = 10
UNSAYABLE = {IMAGE, 10, 11}
CPU = torch.device("cpu")


@pytest.fixture
def sampler() -> Sampler:
    return Sampler(VOCAB, [IMAGE], NUM_TOKEN_IDS, CPU)


def free_sampler(vocab_size: int) -> Sampler:
    return Sampler(vocab_size, [], vocab_size, CPU)


def row(sampling: Sampling, position: int = 1, answer: tuple[int, ...] = ()) -> Row:
    """A prompt of token 0 alone, and an answer so far, before the token at `position`."""
    prompt = [0] * (position - len(answer))
    return Row(sampling, [*prompt, *answer], len(prompt))


def ids(choices: list[Choice | None]) -> list[int | None]:
    return [None if choice is None else choice.token_id for choice in choices]


def sample(sampler: Sampler, logits: torch.Tensor, sampling: Sampling) -> list[int | None]:
    """One draw of each row, each at another position."""
    return ids(sampler.sample(logits.clone(), [row(sampling, position) for position in range(1, len(logits) + 1)]))


def draws(probabilities: list[float], sampling: Sampling, count: int = 2000) -> list[float]:
    """Shares of each id over many positions."""
    logits = torch.tensor(probabilities).log().repeat(count, 1)
    points = [uniform(sampling.seed, position) for position in range(count)]
    chosen = draw(logits, [sampling] * count, points)
    return (torch.bincount(chosen, minlength=len(probabilities)) / count).tolist()


def test_greedy_takes_the_largest(sampler: Sampler) -> None:
    logits = torch.randn(20, VOCAB)
    logits[torch.arange(20), torch.arange(20) % 5] = 9.0
    assert sample(sampler, logits, Sampling(1)) == [index % 5 for index in range(20)]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_placeholders_and_padding_are_never_sampled(sampler: Sampler, temperature: float) -> None:
    logits = torch.zeros(200, VOCAB)
    logits[:, list(UNSAYABLE)] = 50.0
    bias = tuple((token_id, 100.0) for token_id in UNSAYABLE)
    for sampling in (Sampling(1, temperature=temperature), Sampling(1, temperature=temperature, logit_bias=bias)):
        assert not UNSAYABLE & set(sample(sampler, logits, sampling))


def test_the_distribution_is_that_of_the_logits() -> None:
    wanted = [0.5, 0.25, 0.15, 0.1]
    assert draws(wanted, Sampling(1, temperature=1.0, seed=3)) == pytest.approx(wanted, abs=0.04)


def test_temperature_sharpens() -> None:
    shares = draws([0.5, 0.3, 0.2], Sampling(1, temperature=0.5))
    assert shares == pytest.approx([25 / 38, 9 / 38, 4 / 38], abs=0.04)


def test_top_k_keeps_the_k_largest() -> None:
    shares = draws([0.1, 0.4, 0.2, 0.3], Sampling(1, temperature=1.0, top_k=2))
    assert shares == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=0.04)


def test_top_k_comes_before_top_p() -> None:
    """Of the two kept by top-k the first has 4/7 of the rest, which is enough for a top-p of 0.5."""
    assert draws([0.1, 0.4, 0.2, 0.3], Sampling(1, temperature=1.0, top_k=2, top_p=0.5), 200) == [0, 1, 0, 0]


def test_min_p_is_a_share_of_the_largest() -> None:
    shares = draws([0.5, 0.3, 0.14, 0.06], Sampling(1, temperature=1.0, min_p=0.25))
    assert shares == pytest.approx([0.5 / 0.94, 0.3 / 0.94, 0.14 / 0.94, 0], abs=0.04)
    assert draws([0.5, 0.3, 0.2], Sampling(1, temperature=1.0, min_p=1.0), 200) == [1, 0, 0]


def test_min_p_comes_after_temperature() -> None:
    """At a temperature of 2 the shares are as the roots: 0.09 is 0.3 of the largest, no longer 0.1."""
    shares = draws([0.9, 0.09, 0.01], Sampling(1, temperature=2.0, min_p=0.25))
    assert shares[1] > 0.2
    assert shares[2] == 0


def test_top_p_zero_keeps_one() -> None:
    assert draws([0.3, 0.4, 0.3], Sampling(1, temperature=1.0, top_p=0.0), 200) == [0, 1, 0]


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
@settings(max_examples=30, deadline=None)
def test_top_p_keeps_what_the_reference_keeps(weights: list[int], top_p: float) -> None:
    probabilities = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    tails = probabilities.sort().values.cumsum(dim=-1)
    assume((tails - (1 - top_p)).abs().min() > 1e-6)  # on the border itself, the last bit of either sum decides
    shares = draws(probabilities.tolist(), Sampling(1, temperature=1.0, top_p=top_p), 600)
    seen = {token_id for token_id, share in enumerate(shares) if share}
    kept = reference_top_p(probabilities, top_p)
    assert seen <= kept
    assert {token_id for token_id in kept if probabilities[token_id] > 0.05} <= seen


tokens = st.integers(0, VOCAB - 1)
numbers = st.floats(-2, 2).map(lambda number: round(number, 3))
samplings = st.builds(
    Sampling,
    st.just(9),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_p=st.sampled_from([0.0, 0.4, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 7, 50]),
    seed=st.integers(0, 2**63 - 1),
    stop_token_ids=st.sets(tokens, max_size=2).map(tuple),
    min_p=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    presence_penalty=numbers,
    frequency_penalty=numbers,
    logit_bias=st.dictionaries(tokens, numbers, max_size=3).map(lambda biases: tuple(biases.items())),
    min_tokens=st.integers(0, 4),
)
histories = st.tuples(st.lists(tokens, min_size=1, max_size=6), st.lists(tokens, max_size=6))


@given(asked=st.lists(st.tuples(samplings, histories), min_size=1, max_size=4), seed=st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_a_batch_of_anything_is_what_the_definition_says(
    asked: list[tuple[Sampling, tuple[list[int], list[int]]]], seed: int
) -> None:
    logits = torch.randn(len(asked), VOCAB, generator=torch.Generator().manual_seed(seed)) * 2
    rows = [Row(sampling, prompt + answer, len(prompt)) for sampling, (prompt, answer) in asked]
    chosen = ids(free_sampler(VOCAB).sample(logits, rows))
    for values, one, token_id in zip(logits.tolist(), rows, chosen, strict=True):
        prompt, answer = one.token_ids[: one.num_prompt_tokens], one.answer_ids
        scores = definition.adjusted(values, one.sampling, prompt, answer)
        if one.sampling.temperature == 0:
            assert scores[token_id] == pytest.approx(max(scores), abs=1e-5)
            continue
        shares = definition.distribution(scores, one.sampling)
        point = uniform(one.sampling.seed, one.position)
        assert token_id == definition.drawn(shares, point) or definition.near_border(shares, point)


def test_penalties_shrink_both_signs_and_count_what_they_should(sampler: Sampler) -> None:
    """Repetition over prompt and answer; presence and frequency over the answer alone."""
    logits = torch.tensor([[1.0, -1.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    prompt_only, answered = Row(Sampling(9), [0, 0], 2), Row(Sampling(9), [3, 0, 0], 1)

    def greedy(one: Row, **fields: float) -> int | None:
        return ids(sampler.sample(logits.clone(), [Row(Sampling(9, **fields), one.token_ids, one.num_prompt_tokens)]))[
            0
        ]

    assert greedy(prompt_only) == 0
    assert greedy(prompt_only, repetition_penalty=1.2) == 2
    assert greedy(prompt_only, presence_penalty=2.0, frequency_penalty=2.0) == 0
    assert greedy(answered, presence_penalty=0.05) == 0
    assert greedy(answered, frequency_penalty=0.06) == 2
    assert greedy(answered, presence_penalty=-5.0, frequency_penalty=2.0) == 0


def test_no_stop_token_before_min_tokens(sampler: Sampler) -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 3] = 9.0
    sampling = Sampling(9, min_tokens=2, stop_token_ids=(3,))
    stopped = [sampler.sample(logits.clone(), [row(sampling, 5, (1,) * length)]) for length in (0, 1, 2)]
    assert [ids(choices)[0] == 3 for choices in stopped] == [False, False, True]


def test_a_grammars_bits_are_the_ids_lowest_first(sampler: Sampler) -> None:
    logits = torch.arange(VOCAB, dtype=torch.float32).repeat(3, 1)
    masks = [bytes([0b00000110, 0, 0, 0]), bytes([0, 0b00000001, 0, 0]), None]
    rows = [Row(Sampling(9), [0], 1, mask) for mask in masks]
    assert ids(sampler.sample(logits, rows)) == [2, 8, 9]


def test_logprobs_are_of_the_model_itself_over_what_can_be_said(sampler: Sampler) -> None:
    """Bias, penalties and temperature move the choice, not what is said of it."""
    logits = torch.randn(2, VOCAB)
    sampling = Sampling(9, temperature=3.0, top_logprobs=4, logit_bias=((7, 50.0),), repetition_penalty=2.0)
    moved, plain = sampler.sample(logits.clone(), [row(sampling), row(Sampling(9))])
    assert moved is not None
    assert moved.logprobs is not None
    assert plain is not None
    assert plain.logprobs is None
    values = logits[0].tolist()
    assert moved.token_id == 7
    assert moved.logprobs.chosen == pytest.approx(definition.logprob(values, 7, UNSAYABLE), abs=1e-5)
    wanted = {index: definition.logprob(values, index, UNSAYABLE) for index in range(VOCAB) if index not in UNSAYABLE}
    best = sorted(wanted, key=lambda index: -wanted[index])[:4]
    assert [token_id for token_id, _ in moved.logprobs.top] == best
    assert [value for _, value in moved.logprobs.top] == pytest.approx([wanted[index] for index in best], abs=1e-5)


@pytest.mark.parametrize("top_logprobs", [0, 3, 20])
def test_as_many_logprobs_as_asked_for_and_none_of_what_cannot_be_said(sampler: Sampler, top_logprobs: int) -> None:
    (choice,) = sampler.sample(torch.randn(1, VOCAB), [row(Sampling(9, top_logprobs=top_logprobs))])
    assert choice is not None
    assert choice.logprobs is not None
    assert len(choice.logprobs.top) == min(top_logprobs, VOCAB - len(UNSAYABLE))
    assert all(math.isfinite(value) for _, value in choice.logprobs.top)


def test_a_choice_does_not_depend_on_the_batch(sampler: Sampler) -> None:
    logits = torch.randn(6, VOCAB)
    rows = [
        row(
            Sampling(9, temperature=0.5 + index / 4, top_k=index, min_p=index / 50, seed=index, top_logprobs=2), 3, (4,)
        )
        for index in range(5)
    ]
    rows.append(row(Sampling(9, repetition_penalty=1.5, logit_bias=((1, 1.0),)), 3, (4,)))
    together = sampler.sample(logits.clone(), rows)
    assert together == [sampler.sample(logits[[index]], [rows[index]])[0] for index in range(6)]


def test_seed_and_position_both_matter(sampler: Sampler) -> None:
    logits = torch.zeros(40, VOCAB)
    first = sample(sampler, logits, Sampling(1, temperature=1.0, seed=1))
    second = sample(sampler, logits, Sampling(1, temperature=1.0, seed=2))
    assert len(set(first)) > 5
    assert first != second


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e30])
def test_extreme_temperatures_are_still_numbers(sampler: Sampler, temperature: float) -> None:
    logits = torch.randn(50, VOCAB) * 100
    chosen = sample(sampler, logits, Sampling(1, temperature=temperature, top_p=0.9, min_p=0.01))
    assert None not in chosen
    if temperature < 1:
        assert chosen == sample(sampler, logits, Sampling(1))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_no_number_fails_alone(sampler: Sampler, poison: float, temperature: float) -> None:
    logits = torch.randn(3, VOCAB)
    sampling = Sampling(1, temperature=temperature, top_p=0.9, repetition_penalty=1.1, top_logprobs=1)
    healthy = sample(sampler, logits, sampling)
    logits[1, 7] = poison
    assert sample(sampler, logits, sampling) == [healthy[0], None, healthy[2]]


def test_a_placeholder_past_the_vocabulary_is_no_logit() -> None:
    """As in checkpoints of the original layout, whose placeholder has no row in the vocabulary."""
    sampler = Sampler(VOCAB, [VOCAB], VOCAB, CPU)
    one = Row(replace(Sampling(9), repetition_penalty=1.5, presence_penalty=1.0), [1, VOCAB, VOCAB, 2], 3)
    assert ids(sampler.sample(torch.randn(1, VOCAB), [one])) != [None]


def test_uniform_is_uniform_and_known() -> None:
    numbers = [uniform(seed, position) for seed in range(40) for position in range(50)]
    assert all(0 <= number < 1 for number in numbers)
    assert sum(numbers) / 2000 == pytest.approx(0.5, abs=0.03)
    assert len(set(numbers)) == 2000
    assert uniform(-1, 0) == uniform(2**64 - 1, 0)


@pytest.mark.parametrize("point", [0.0, 1 - 2**-53])
def test_both_ends_of_the_unit_interval_are_tokens(point: float) -> None:
    logits = torch.randn(200, VOCAB)
    logits[:, [0, VOCAB - 1]] = -torch.inf
    chosen = draw(logits, [Sampling(1, temperature=0.7)] * 200, [point] * 200)
    assert set(chosen.tolist()) == {1 if point == 0 else VOCAB - 2}
