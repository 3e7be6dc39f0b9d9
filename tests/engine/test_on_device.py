"""What a device works out by itself: the choices of the CPU's sampler, with nothing read before the end."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from torch import Tensor

from lavatube.engine.on_device import choose_on_device, work_out
from lavatube.engine.row import Row
from lavatube.engine.sampler import Choice, Sampler
from lavatube.engine.wire import Sampling
from tests.engine.test_sampler import CPU, IMAGE, NUM_TOKEN_IDS, VOCAB, histories, samplings

asked_samplings = st.builds(
    lambda sampling, top_logprobs: replace(sampling, top_logprobs=top_logprobs),
    samplings,
    st.sampled_from([None, None, 0, 3, 20]),
)
masks = st.one_of(
    st.none(), st.sets(st.integers(0, 7), min_size=1).map(lambda bits: bytes([sum(1 << b for b in bits)]))
)


def on_cpu_as_on_a_device(sampler: Sampler, logits: Tensor, rows: list[Row]) -> list[Choice | None]:
    found = choose_on_device(logits.clone(), rows, sampler.forbidden_ids)
    return [None if one is None else Choice(*one) for one in found]


@given(
    asked=st.lists(st.tuples(asked_samplings, histories, masks), min_size=1, max_size=5),
    is_tied=st.booleans(),
    poisoned=st.sampled_from([None, 0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_whatever_is_asked_the_choices_are_those_of_the_cpu(
    asked: list[tuple[Sampling, tuple[list[int], list[int]], bytes | None]],
    is_tied: bool,
    poisoned: int | None,
    seed: int,
) -> None:
    sampler = Sampler(VOCAB, [IMAGE], NUM_TOKEN_IDS, CPU)
    logits = 2 * torch.randn(len(asked), VOCAB, generator=torch.Generator().manual_seed(seed))
    logits = logits.round() if is_tied else logits
    if poisoned is not None:
        logits[poisoned, seed % VOCAB] = torch.nan
    rows = [
        Row(sampling, prompt + answer, len(prompt), None if mask is None else mask + b"\0")
        for sampling, (prompt, answer), mask in asked
    ]
    ours, expected = on_cpu_as_on_a_device(sampler, logits, rows), sampler.sample(logits.clone(), rows)
    for one, other in zip(ours, expected, strict=True):
        assert (one is None) == (other is None)
        if one is None or other is None:
            continue
        assert one.token_id == other.token_id
        assert (one.logprobs is None) == (other.logprobs is None)
        if one.logprobs is not None and other.logprobs is not None:
            assert one.logprobs.chosen == pytest.approx(other.logprobs.chosen)
            assert one.logprobs.top == other.logprobs.top


EVERYTHING = [
    Row(Sampling(1), [1, 2], 1),
    Row(Sampling(1, temperature=0.7, top_p=0.9, min_p=0.02), [1, 2], 1),
    Row(Sampling(1, temperature=0.7, top_k=50, stop_token_ids=(3,), min_tokens=9), [1, 2], 1),
    Row(Sampling(1, temperature=1.0, repetition_penalty=1.1, frequency_penalty=0.5, logit_bias=((7, 1.0),)), [1, 2], 1),
    Row(Sampling(1, temperature=1.0, top_logprobs=5), [1, 2], 1, bytes(4000)),
]


def test_as_many_ids_as_models_have_give_the_same_tokens() -> None:
    sampler = Sampler(32_000, [5], 31_000, CPU)
    rows = [Row(one.sampling, [*range(position)], 1) for one in EVERYTHING for position in range(1, 9)]
    for spread in (0.5, 5.0):
        logits = spread * torch.randn(len(rows), 32_000, generator=torch.Generator().manual_seed(0))
        ours, expected = on_cpu_as_on_a_device(sampler, logits, rows), sampler.sample(logits.clone(), rows)
        assert [one and one.token_id for one in ours] == [one and one.token_id for one in expected]


@pytest.mark.parametrize("rows", [EVERYTHING, EVERYTHING[:1], EVERYTHING[2:3]], ids=["all", "greedy", "top-k"])
def test_nothing_is_read_back(rows: list[Row]) -> None:
    """Of a tensor on the meta device nothing can be."""
    logits = torch.empty(len(rows), 32_000, device="meta")
    out = work_out(logits, rows, torch.empty(2, dtype=torch.int64, device="meta"))
    assert out.shape == (len(rows), 2 + (11 if any(row.sampling.top_logprobs for row in rows) else 0))


@pytest.mark.gpu
def test_a_real_device_chooses_what_the_cpu_does() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rows = [Row(one.sampling, [*range(position)], 1) for one in EVERYTHING for position in range(1, 9)]
    logits = 3 * torch.randn(len(rows), 32_000, generator=torch.Generator().manual_seed(0))
    device = torch.device("cuda")
    sampler = Sampler(32_000, [5], 31_000, device)
    ours = sampler.sample(logits.to(device), rows)
    on_device = logits.to(device)
    torch.cuda.set_sync_debug_mode("error")  # whatever waits raises
    try:
        work_out(on_device, rows, sampler.forbidden_ids)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = Sampler(32_000, [5], 31_000, CPU).sample(logits.clone(), rows)
    assert [one and one.token_id for one in ours] == [one and one.token_id for one in expected]
