"""Every family of the llava-hf layout against `transformers`: image rows, logits of every position, greedy answers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoImageProcessor, AutoProcessor

from tests.model.driver import Driver
from tests.parity.reference import Pair, Pairs, Part, Prompt, assert_logits_close, our_logits

NUM_NEW_TOKENS = 16
SIGLIP: dict[str, Any] = {"tower": "siglip", "select_layer": -1, "select_strategy": "full"}
ONEVISION: dict[str, Any] = {"family": "llava_onevision", "language": "qwen2", **SIGLIP}

FAMILIES: dict[str, dict[str, Any]] = {
    "1.5 on llama": {},
    "1.5 on mistral": {"language": "mistral", "rope_theta": 500000.0},
    "1.5 on mistral, window": {"language": "mistral", "sliding_window": 24},
    "1.5 on qwen2": {"language": "qwen2", "kv_heads": 4},
    "1.5 on qwen2, window": {"language": "qwen2", "sliding_window": 24},
    "interleave": {"language": "qwen2", "tied": True, **SIGLIP},
    "siglip, first row dropped": SIGLIP | {"select_layer": -2, "select_strategy": "default"},
    "several layers": {"select_layer": (-2, 1, -1)},
    "1.6 on llama": {"family": "llava_next"},
    "1.6 on llama 3": {"family": "llava_next", "rope_theta": 500000.0, "kv_heads": 1},
    "1.6 on mistral": {"family": "llava_next", "language": "mistral"},
    "1.6 on mistral, window": {"family": "llava_next", "language": "mistral", "sliding_window": 40},
    "1.6 on qwen": {"family": "llava_next", "language": "qwen2"},
    "next video": {"family": "llava_next_video"},
    "onevision": ONEVISION,
    "onevision, tied": ONEVISION | {"tied": True},
    "onevision, larger maps": ONEVISION | {"max_tiles": 9},
    "vip": {"family": "vipllava", "select_layer": (-2, -3, -4, 1, 3)},
}
SIZES = [(32, 32), (64, 64), (40, 30), (30, 40), (90, 25), (25, 90), (97, 61), (7, 5), (33, 95), (1000, 1), (1, 1000)]


def assert_rows_close(pair: Pair, prompt: Prompt) -> None:
    for ours, theirs in zip(pair.image_rows(prompt), pair.their_image_rows(prompt), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=1e-5)


def assert_agrees(pair: Pair, *parts: Part) -> None:
    prompt = pair.prompt(*parts)
    if prompt.plans:
        assert_rows_close(pair, prompt)
    assert_logits_close(our_logits(pair, prompt), pair.their_logits(prompt))
    answer = Driver(pair.ours, pair.spec).generate([pair.embed(prompt)], NUM_NEW_TOKENS)[0]
    assert answer == pair.their_next(prompt, answer)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_one_image(pairs: Pairs, device: torch.device, family: dict[str, Any]) -> None:
    assert_agrees(pairs(device, **family), 4, (70, 45), 40)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_several_images_in_several_turns(pairs: Pairs, device: torch.device, family: dict[str, Any]) -> None:
    assert_agrees(pairs(device, **family), 4, (40, 30), 12, (97, 61), (25, 90), 20)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_text_alone(pairs: Pairs, device: torch.device, family: dict[str, Any]) -> None:
    assert_agrees(pairs(device, **family), 60)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", ["1.6 on llama", "onevision", "onevision, larger maps"])
def test_images_of_every_shape(pairs: Pairs, device: torch.device, family: str, size: tuple[int, int]) -> None:
    pair = pairs(device, **FAMILIES[family])
    assert_rows_close(pair, pair.prompt(3, size, 5))


@pytest.mark.parametrize("key_style", ["new", "middle", "old"])
@pytest.mark.parametrize("family", ["interleave", "1.6 on llama", "onevision", "vip"])
def test_every_spelling_of_names(pairs: Pairs, device: torch.device, family: str, key_style: str) -> None:
    """The same seed gives the same weights, and so the same answers, under each spelling."""
    pair, other = (
        pairs(device, **FAMILIES[family]),
        pairs(device, **FAMILIES[family], key_style=key_style, num_shards=2),
    )
    prompt = pair.prompt(4, (70, 45), 20)
    assert torch.equal(our_logits(other, prompt), our_logits(pair, prompt))


@pytest.mark.parametrize("family", ["1.6 on mistral, window", "1.5 on qwen2, window"])
@pytest.mark.parametrize("borders", [(10,), (23, 24, 25, 60), tuple(range(1, 85))], ids=str)
def test_a_window_in_chunks_is_the_same_as_whole(
    pairs: Pairs, device: torch.device, family: str, borders: tuple[int, ...]
) -> None:
    pair = pairs(device, **FAMILIES[family])
    prompt = pair.prompt(20, "image", 48)
    assert_logits_close(our_logits(pair, prompt, *borders), pair.their_logits(prompt))


@pytest.mark.parametrize("family", ["1.5 on qwen2, window", "interleave", "1.6 on mistral, window", "onevision", "vip"])
def test_what_the_library_saves_anew_is_the_same_model(
    pairs: Pairs, device: torch.device, family: str, tmp_path: Path
) -> None:
    """Its files of today spell out every default, and have names and places of their own."""
    pair = pairs(device, **FAMILIES[family])
    pair.theirs.save_pretrained(tmp_path)
    if family == "onevision":  # whose whole processor needs a library for videos
        AutoImageProcessor.from_pretrained(pair.folder).save_pretrained(tmp_path)
        shutil.copy(pair.folder / "chat_template.jinja", tmp_path)
    else:
        AutoProcessor.from_pretrained(pair.folder).save_pretrained(tmp_path)
    saved = Pair(tmp_path, pair.device)
    assert replace(saved.spec, decisions=()) == replace(pair.spec, decisions=())
    prompt = pair.prompt(4, (70, 45), 20)
    assert torch.equal(our_logits(saved, prompt), our_logits(pair, prompt))


def test_a_window_changes_the_answer(pairs: Pairs, device: torch.device) -> None:
    """Else the tests above would prove nothing of it."""
    with_window, without = pairs(device, **FAMILIES["1.5 on mistral, window"]), pairs(device, language="mistral")
    prompt = without.prompt(4, "image", 40)
    assert (our_logits(with_window, prompt) - our_logits(without, prompt)).abs().max() > 0.1


@pytest.mark.parametrize("family", ["1.5 on mistral, window", "1.6 on qwen", "onevision"])
def test_a_batch_of_unequal_lengths_answers_as_each_alone(pairs: Pairs, device: torch.device, family: str) -> None:
    pair = pairs(device, **FAMILIES[family])
    prompts = [pair.prompt(*parts) for parts in ((3,), (5, (70, 45), 9), (30,), (24,), ((25, 90), 60))]
    together = Driver(pair.ours, pair.spec).generate([pair.embed(prompt) for prompt in prompts], NUM_NEW_TOKENS)
    assert together == [pair.their_next(prompt, answer) for prompt, answer in zip(prompts, together, strict=True)]
