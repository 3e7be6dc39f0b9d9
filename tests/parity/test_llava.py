"""Our forward pass against the one of `transformers`, in float32, on random checkpoints of every kind that we load."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.model.driver import Driver, Stream
from tests.parity.reference import Pairs, assert_logits_close, our_logits

NUM_NEW_TOKENS = 24
PROMPTS: dict[str, tuple[int | str, ...]] = {
    "text only": (40,),
    "one image": (5, "image", 20),
    "image first": ("image", 12),
    "several images": (3, "image", 7, "image", "image", 15),
}
KINDS: dict[str, dict[str, object]] = {
    "last hidden state": {"select_layer": -1},
    "positive layer": {"select_layer": 1},
    "last block by number": {"select_layer": 3},
    "class token kept": {"select_strategy": "full"},
    "exact gelu": {"vision_activation": "gelu"},
    "tied": {"tied": True},
    "tied, head in the file": {"tied": True, "with_head": True},
    "old names": {"key_style": "old"},
    "old names, sharded": {"key_style": "old", "num_shards": 3},
    "sharded": {"num_shards": 4},
    "no grouped heads": {"kv_heads": 4},
    "one head of keys": {"kv_heads": 1},
    "wide heads": {"head_dim": 32},
    "projector without bias": {"projector_bias": False},
    "rotary base": {"rope_theta": 500000.0},
    "patches that leave a rest": {"image_size": 30},
}


@pytest.mark.parametrize("parts", PROMPTS.values(), ids=PROMPTS)
def test_logits_agree_at_every_position(pairs: Pairs, device: torch.device, parts: tuple[int | str, ...]) -> None:
    pair = pairs(device)
    prompt = pair.prompt(*parts)
    assert_logits_close(our_logits(pair, prompt), pair.their_logits(prompt))


@pytest.mark.parametrize("parts", PROMPTS.values(), ids=PROMPTS)
def test_greedy_answers_agree(pairs: Pairs, device: torch.device, parts: tuple[int | str, ...]) -> None:
    pair = pairs(device)
    prompt = pair.prompt(*parts)
    ours = Driver(pair.ours, pair.spec).generate([pair.embed(prompt)], NUM_NEW_TOKENS)[0]
    assert ours == pair.their_greedy(prompt, NUM_NEW_TOKENS)
    assert len(set(ours)) > 5, "an answer that hardly varies proves little"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_of_checkpoint_agrees(pairs: Pairs, device: torch.device, kind: dict[str, object]) -> None:
    pair = pairs(device, **kind)
    prompt = pair.prompt(4, "image", 6, "image", 9)
    for ours, theirs in zip(pair.image_rows(prompt), pair.their_image_rows(prompt), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=1e-5)
    assert_logits_close(our_logits(pair, prompt), pair.their_logits(prompt))
    answer = Driver(pair.ours, pair.spec).generate([pair.embed(prompt)], NUM_NEW_TOKENS)[0]
    assert answer == pair.their_next(prompt, answer)


def test_a_batch_of_unequal_lengths_answers_as_each_alone(pairs: Pairs, device: torch.device) -> None:
    pair = pairs(device)
    prompts = [pair.prompt(*parts, seed=seed) for seed, parts in enumerate([*PROMPTS.values(), (1,), (90,)])]
    together = Driver(pair.ours, pair.spec).generate([pair.embed(prompt) for prompt in prompts], NUM_NEW_TOKENS)
    alone = [Driver(pair.ours, pair.spec).generate([pair.embed(prompt)], NUM_NEW_TOKENS)[0] for prompt in prompts]
    assert together == alone
    assert together == [pair.their_next(prompt, answer) for prompt, answer in zip(prompts, together, strict=True)]


def test_sequences_may_join_and_leave_between_steps(pairs: Pairs, device: torch.device) -> None:
    pair = pairs(device)
    long, short, late = (pair.prompt(*parts) for parts in [(8, "image", 30), (3,), ("image", 25)])
    driver, first, second, third = Driver(pair.ours, pair.spec), Stream(), Stream(), Stream()
    rows = {name: pair.embed(prompt) for name, prompt in {"long": long, "short": short, "late": late}.items()}
    ours = [driver.step([(first, rows["long"][:11]), (second, rows["short"])])[0]]
    ours += [driver.step([(first, rows["long"][11:12]), (third, rows["late"][:20])])[0]]
    mixed = driver.step([(third, rows["late"][20:]), (first, rows["long"][12:])])
    ours += [mixed[1]]
    assert_logits_close(torch.cat(ours).cpu(), pair.their_logits(long))
    assert_logits_close(mixed[0].cpu(), pair.their_logits(late)[20:])


@pytest.mark.parametrize("borders", [(1,), (16,), (7, 8, 9), (4, 21, 40), tuple(range(1, 50))], ids=str)
def test_a_prompt_in_chunks_is_the_same_as_whole(pairs: Pairs, device: torch.device, borders: tuple[int, ...]) -> None:
    """The last split is decoding: row by row through the cache, against one pass without any."""
    pair = pairs(device)
    prompt = pair.prompt(5, "image", 28)
    assert len(prompt.token_ids) == 50
    assert_logits_close(our_logits(pair, prompt, *borders), pair.their_logits(prompt))


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_bfloat16_errs_no_more_than_the_reference_does(pairs: Pairs, device: torch.device, stored: str) -> None:
    pair = pairs(device, torch.bfloat16, dtype=stored)
    prompt = pair.prompt(6, "image", 30)
    exact, reference = pair.their_logits(prompt), pair.their_logits(prompt, torch.bfloat16)
    for borders in [(), (12, 13), tuple(range(30, 53))]:
        ours = our_logits(pair, prompt, *borders)
        assert rms(ours - exact) < 1.25 * rms(reference - exact)


def rms(error: Tensor) -> float:
    return error.square().mean().sqrt().item()
