"""Whole conversations of every llava-hf family against the processors of `transformers`: token ids and uint8 pixels."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import ProcessorMixin

from lavatube.checkpoint.read import read_spec
from lavatube.fidelity import with_fidelity
from lavatube.prompt.chat import Chat, Generation, ImageInput, Role, Text, Turn
from lavatube.prompt.decoder import ImageDecoder
from lavatube.prompt.images import ImageLimits
from lavatube.prompt.prepare import Prepared, Preparer
from tests.checkpoints import write_checkpoint
from tests.parity.processors import load_processor

SIGLIP: dict[str, Any] = {"tower": "siglip", "select_layer": -1, "select_strategy": "full"}
FAMILIES: dict[str, dict[str, Any]] = {
    "1.5": {},
    "1.5, padded": {"pixel_mode": "pad"},
    "interleave": {"language": "qwen2", **SIGLIP},
    "1.6": {"family": "llava_next"},
    "1.6 on mistral": {"family": "llava_next", "language": "mistral"},
    "onevision": {"family": "llava_onevision", "language": "qwen2", **SIGLIP},
    "vip": {"family": "vipllava", "select_layer": (-2, -3, -4, 1, 3)},
}
# No extreme ones: a map of features without rows is refused by their processors' own arithmetic.
SIZES = [(32, 32), (64, 64), (40, 30), (30, 40), (90, 25), (25, 90), (97, 61), (33, 95), (200, 150)]

Parts = tuple[str | tuple[int, int], ...]
Both = tuple[Preparer, ProcessorMixin]
Family = Callable[..., Both]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    """Our preparer and their processor, of one checkpoint, made once."""
    made: list[Preparer] = []

    @cache
    def both(**overrides: Any) -> Both:
        folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), max_positions=4096, **overrides)
        processor = load_processor(folder)
        processor.image_processor.do_rescale = processor.image_processor.do_normalize = False
        made.append(preparer(folder))
        return made[-1], processor

    yield both
    for one in made:
        one.close()


def preparer(folder: Path) -> Preparer:
    return Preparer(read_spec(folder), folder, ImageLimits(), None, ImageDecoder(1))


def picture(size: tuple[int, int]) -> Image.Image:
    return Image.frombytes("RGB", size, random.Random(str(size)).randbytes(3 * size[0] * size[1]))


def ours(preparer: Preparer, turns: list[Parts]) -> Prepared:
    return preparer.prepare(Chat(tuple(map(_turn, range(len(turns)), turns))), Generation())


def _turn(index: int, parts: Parts) -> Turn:
    return Turn(Role.ASSISTANT if index % 2 else Role.USER, tuple(map(_part, parts)))


def _part(part: str | tuple[int, int]) -> Text | ImageInput:
    if isinstance(part, str):
        return Text(part)
    buffer = io.BytesIO()
    picture(part).save(buffer, "PNG")
    return ImageInput(buffer.getvalue())


def theirs(processor: ProcessorMixin, turns: list[Parts]) -> dict[str, Any]:
    messages = [
        {
            "role": "assistant" if index % 2 else "user",
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": picture(part)}
                for part in parts
            ],
        }
        for index, parts in enumerate(turns)
    ]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "np"}
    return dict(processor.apply_chat_template(messages, **options))


def assert_same(both: Both, *turns: Parts) -> None:
    prepared, expected = ours(both[0], list(turns)), theirs(both[1], list(turns))
    assert prepared.token_ids == expected["input_ids"][0].tolist()
    if not prepared.images:
        assert "pixel_values" not in expected
        return
    for image, pixels in zip(prepared.images, _each(expected["pixel_values"]), strict=True):
        tiles = np.frombuffer(image.data, np.uint8).reshape(image.tiles, 3, image.size, image.size)
        assert np.array_equal(tiles, pixels[: image.tiles])
        assert not pixels[image.tiles :].any(), "what they have more is padding of the batch"


def _each(pixel_values: np.ndarray) -> np.ndarray:
    """One array of tiles an image, whatever their form."""
    return pixel_values[:, None] if pixel_values.ndim == 4 else pixel_values


@pytest.mark.parametrize("recipe", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_one_picture(family: Family, recipe: dict[str, Any], size: tuple[int, int]) -> None:
    assert_same(family(**recipe), (size, "What is it?"))


@pytest.mark.parametrize("recipe", FAMILIES.values(), ids=FAMILIES)
def test_text_alone(family: Family, recipe: dict[str, Any]) -> None:
    assert_same(family(**recipe), ("Hello, who are you?",), ("Nobody. ",), (" Really?",))


@pytest.mark.parametrize("recipe", FAMILIES.values(), ids=FAMILIES)
def test_several_turns_about_one_picture(family: Family, recipe: dict[str, Any]) -> None:
    assert_same(family(**recipe), ((97, 61), "What is it?"), ("A cat.",), ("And what does it do?",))


@pytest.mark.parametrize("recipe", FAMILIES.values(), ids=FAMILIES)
def test_several_pictures_in_several_turns(family: Family, recipe: dict[str, Any]) -> None:
    assert_same(family(**recipe), ((97, 61), (40, 90), "Which is larger?"), ("This.",), ((33, 32), "And this?"))


@pytest.mark.parametrize("size", [(20, 10), (31, 32), (10, 30)])
def test_small_pictures_are_cut_the_other_way_by_the_original(family: Family, size: tuple[int, int]) -> None:
    """The hub's side of the largest difference there is; the original's own is in test_geometry."""
    hub, _ = family(family="llava_next")
    spec = hub._spec
    assert with_fidelity(spec, "original").pixels.grids != spec.pixels.grids
    assert_same(family(family="llava_next"), (size, "What is it?"))
