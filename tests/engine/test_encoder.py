"""Images through the tower beside running streams: a few layers at a time, alone or together, and for whom they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from lavatube.engine.admission import admit
from lavatube.engine.encoder import Encoder, Wanted
from lavatube.engine.features import FeatureCache
from lavatube.engine.sequence import Sequence
from lavatube.engine.wire import Sampling
from lavatube.model.llava import Llava
from lavatube.spec import ModelSpec
from tests.engine.conftest import NewCore
from tests.engine.requests import drain, run, submit


@pytest.fixture
def widths(model: Llava) -> Iterator[list[int]]:
    """How many squares each pass through a layer of the tower had."""
    found: list[int] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        found.append(len(inputs[0]))

    hooks = [layer.register_forward_hook(note) for layer in model.vision.layers]
    yield found
    for hook in hooks:
        hook.remove()


def asked(spec: ModelSpec, num_images: int, seed: int) -> Sequence:
    (sequence,) = admit(submit(spec, str(seed), num_images=num_images, seed=seed), spec, 256, 0.0)
    return sequence


def all_of(*sequences: Sequence) -> list[Wanted]:
    return [(sequence, index) for sequence in sequences for index in range(len(sequence.images))]


def check(model: Llava, spec: ModelSpec, *sequences: Sequence) -> None:
    """That each has its own images' features."""
    size = spec.vision.image_size
    for sequence in sequences:
        for index, span in enumerate(sequence.images):
            tiles = torch.frombuffer(bytearray(span.pixels.data), dtype=torch.uint8).view(-1, 3, size, size)
            alone = model.arrange(model.encode_images(tiles), span.plan)
            torch.testing.assert_close(sequence.features[index], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("tiles", "passes"), [(1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (3, [3, 2]), (8, [5])], ids=lambda value: str(value)
)
@pytest.mark.parametrize("num_layers", [1, 3, 100])
def test_as_many_at_once_as_there_is_room_for(
    model: Llava, spec: ModelSpec, widths: list[int], tiles: int, passes: list[int], num_layers: int
) -> None:
    """Two pictures of one request, and three of others."""
    sequences = [asked(spec, 2, seed=1), *(asked(spec, 1, seed=seed) for seed in (5, 6, 7))]
    encoder = Encoder(model, FeatureCache(0), tiles)
    num_run = 0
    while step := encoder.advance(all_of(*sequences), num_layers):
        assert step <= num_layers
        num_run += step
    depth = len(model.vision.layers)
    assert num_run == len(passes) * depth
    assert widths == [width for width in passes for _ in range(depth)]
    check(model, spec, *sequences)


def test_who_leaves_takes_nobody_along(model: Llava, spec: ModelSpec, widths: list[int]) -> None:
    stays, leaves = asked(spec, 1, seed=1), asked(spec, 1, seed=2)
    encoder = Encoder(model, FeatureCache(0), 8)
    encoder.advance(all_of(leaves, stays), 1)
    encoder.advance(all_of(stays), 100)
    check(model, spec, stays)
    encoder.advance(all_of(asked(spec, 1, seed=3)), 1)
    widths.clear()
    assert encoder.advance([], 100) == 0
    assert widths == [], "nobody wants it any more"


def test_who_comes_later_shares_what_is_under_way(model: Llava, spec: ModelSpec, widths: list[int]) -> None:
    first, other, twin = asked(spec, 1, seed=1), asked(spec, 1, seed=2), asked(spec, 1, seed=1)
    encoder = Encoder(model, FeatureCache(0), 8)
    encoder.advance(all_of(first, other), 1)
    while encoder.advance(all_of(first, other, twin), 2):
        pass
    assert set(widths) == {2}
    check(model, spec, first, other, twin)


def test_what_is_wanted_at_once_ends_all_that_is_with_it(model: Llava, spec: ModelSpec, widths: list[int]) -> None:
    """No stream runs any more: what was begun beside streams is not lost, nor what nobody asks for yet."""
    now, later, fresh = asked(spec, 1, seed=1), asked(spec, 1, seed=2), asked(spec, 1, seed=3)
    encoder = Encoder(model, FeatureCache(0), 2)
    encoder.advance(all_of(now, later, fresh), 1)
    encoder.encode(all_of(now, fresh))
    depth = len(model.vision.layers)
    assert widths == [2] * depth + [1] * depth
    check(model, spec, now, later, fresh)


def test_of_a_picture_whose_request_has_gone_nothing_is_held(
    new_core: NewCore, model: Llava, spec: ModelSpec, widths: list[int]
) -> None:
    core, picture = new_core(), submit(spec, "picture", num_images=1)
    core.submit(submit(spec, "stream", Sampling(50)))
    core.step()
    core.submit(picture)
    while not widths:
        core.step()
    assert len(widths) < len(model.vision.layers), "it is under way"
    core.abort("picture")
    drain(core)
    core.tend()
    widths.clear()
    run(core, picture)
    assert len(widths) == len(model.vision.layers), "it begins anew"
