"""A layer in one call of the kernels, against the same layer part by part."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lavatube.checkpoint.read import read_spec
from lavatube.model.attention import KVCache
from lavatube.model.elementwise import Rotation
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.model.native import LEVELS
from lavatube.model.native_attention import NativeAttention
from lavatube.spec import Quantize
from tests.checkpoints import write_checkpoint
from tests.model.driver import Driver, Stream
from tests.model.kernels import kernels_up_to

PRECISIONS: tuple[Quantize, ...] = ("none", "int8", "int4")


@pytest.fixture(scope="module", params=[{}, {"language": "qwen2", "sliding_window": 9}], ids=["llama", "qwen2"])
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), hidden_size=128, **request.param)


def load(folder: Path, quantize: Quantize) -> Llava:
    spec, device = read_spec(folder), torch.device("cpu")
    return load_model(spec, folder, device, torch.bfloat16, lambda done, total: None, quantize)


def through_all_layers(model: Llava, folder: Path, *, in_one_call: bool) -> tuple[Tensor, KVCache]:
    """Three sequences, one of which is longer than what the perceptron takes at once, and then a token more of each."""
    kernels = kernels_up_to(len(LEVELS) - 1)
    draw = torch.Generator().manual_seed(0)
    driver = Driver(model, read_spec(folder), num_blocks=400)
    streams, found = [Stream() for _ in range(3)], []
    for counts in ((600, 1, 20), (1, 1, 1)):
        layout = driver.layout(list(zip(streams, counts, strict=True)))
        attention = NativeAttention(kernels, driver.cache, layout, model.language.sliding_window)
        rotation = Rotation(layout.positions, model.language.inverse_frequencies, torch.bfloat16)
        hidden = torch.randn(sum(counts), 128, generator=draw).bfloat16()
        for block in model.language.layers:
            forward = block.native if in_one_call else block.by_parts
            hidden = forward(hidden, rotation, attention)
        found.append(hidden)
    return torch.cat(found), driver.cache


@pytest.mark.parametrize("quantize", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 3])
def test_one_call_gives_the_same_bits_as_the_parts(folder: Path, quantize: Quantize, threads: int) -> None:
    model, before = load(folder, quantize), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours, cache = through_all_layers(model, folder, in_one_call=True)
        parts, other = through_all_layers(model, folder, in_one_call=False)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(ours, parts)
    for stored, expected in ((cache.keys, other.keys), (cache.values, other.values)):
        assert torch.equal(stored.view(torch.int16), expected.view(torch.int16))  # also where both are NaN


@pytest.mark.parametrize("counts", [(40, 1), (1, 1)])
def test_all_layers_in_one_call_give_the_same_bits_as_one_by_one(folder: Path, counts: tuple[int, int]) -> None:
    model, draw = load(folder, "int8"), torch.Generator().manual_seed(0)
    hidden, found = torch.randn(sum(counts), 128, generator=draw).bfloat16(), []
    for forward in (model.language.in_one_call, lambda *step: [*model.language.by_layer(*step)][-1]):
        driver = Driver(model, read_spec(folder))
        layout = driver.layout([(Stream(), count) for count in counts])
        attention = NativeAttention(kernels_up_to(len(LEVELS) - 1), driver.cache, layout, model.language.sliding_window)
        found.append((forward(hidden, layout.positions, attention), driver.cache.keys, driver.cache.values))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours.view(torch.int16), theirs.view(torch.int16))


@pytest.mark.parametrize("quantize", PRECISIONS)
@pytest.mark.parametrize("wanted", [[], [0], [99], [0, 98, 99, 100], [*range(101)]], ids=str)
def test_rows_that_are_wanted_end_with_the_same_bits_whoever_else_is(
    folder: Path, quantize: Quantize, wanted: list[int]
) -> None:
    model, draw = load(folder, quantize), torch.Generator().manual_seed(0)
    hidden, found = torch.randn(101, 128, generator=draw).bfloat16(), []
    for rows in (torch.tensor(wanted, dtype=torch.int64), None):
        driver = Driver(model, read_spec(folder))
        layout = replace(driver.layout([(Stream(), 100), (Stream(), 1)]), wanted=rows)
        found.append((model(hidden, driver.cache, layout), driver.cache.keys, driver.cache.values))
    (ours, *stored), (whole, *expected) = found
    assert ours.isfinite().all()
    assert torch.equal(ours[wanted], whole[wanted])
    for kept, other in zip(stored, expected, strict=True):
        assert torch.equal(kept.view(torch.int16), other.view(torch.int16))


@pytest.mark.parametrize("part", ["k_proj", "v_proj"])
def test_a_row_that_nobody_wants_tells_of_keys_and_values_that_are_no_numbers(folder: Path, part: str) -> None:
    """Those of the last layer, which nothing else comes from."""
    model = load(folder, "none")
    driver = Driver(model, read_spec(folder))
    merged = model.language.layers[-1].self_attn.qkv_proj
    first = list(merged.parts).index(part)
    merged.put(sum(list(merged.parts.values())[:first]), torch.full((1, merged.inputs), torch.nan).bfloat16())
    layout = replace(driver.layout([(Stream(), 100)]), wanted=torch.tensor([], dtype=torch.int64))
    assert not model(torch.ones(100, 128).bfloat16(), driver.cache, layout).isfinite().any()


def test_two_models_may_compute_at_once(folder: Path) -> None:
    """One has the team, the other goes on alone."""
    models = [load(folder, "int8") for _ in range(2)]
    expected, _ = through_all_layers(models[0], folder, in_one_call=True)
    found: list[Tensor] = []
    before = torch.get_num_threads()

    def run(model: Llava) -> None:
        torch.set_num_threads(2)
        found.append(through_all_layers(model, folder, in_one_call=True)[0])

    workers = [threading.Thread(target=run, args=[model]) for model in models]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    torch.set_num_threads(before)
    assert len(found) == 2
    assert all(torch.equal(ours, expected) for ours in found)
