"""Bit for bit what transformers' PIL processors make, for every mode and shape."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from lavatube.geometry import Detail
from lavatube.spec import PixelSpec

from .builders import cut, pixel_spec

SIZES = [(1, 1), (1, 2), (3, 3), (1, 200), (200, 1), (97, 61), (61, 97), (31, 32), (33, 32), (64, 48), (320, 240)]
SIZES += [(640, 483), (333, 777), (1001, 5), (5, 1001), (700, 513), (513, 700)]


def noise(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), random.Random(width * 1000 + height).randbytes(width * height * 3))


def as_array(image: Image.Image, spec: PixelSpec, num_images: int = 1, detail: Detail = "high") -> np.ndarray:
    tiles = cut(image, spec, num_images, detail)
    return np.frombuffer(tiles.data, np.uint8).reshape(tiles.count, 3, tiles.size, tiles.size)


def reference(mode: str, size: int, resize: int) -> CLIPImageProcessorPil | LlavaImageProcessorPil:
    square = {"height": size, "width": size}
    plain = {"do_rescale": False, "do_normalize": False, "crop_size": square, "resample": 3}
    if mode == "stretch":
        return CLIPImageProcessorPil(size=square, do_center_crop=False, **plain)
    if mode == "crop":
        return CLIPImageProcessorPil(size={"shortest_edge": resize}, **plain)
    return LlavaImageProcessorPil(size={"shortest_edge": resize}, do_pad=True, **plain)


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("size", "resize"), [(32, 32), (33, 33), (32, 40), (40, 32)])
def test_parity_with_transformers(mode: str, size: int, resize: int) -> None:
    processor = reference(mode, size, resize)
    for width, height in SIZES:
        image = noise(width, height)
        expected = processor(image, return_tensors="np")["pixel_values"]
        assert np.array_equal(as_array(image, pixel_spec(mode, size, resize)), expected), (width, height)


def test_parity_at_the_real_size() -> None:
    for mode in ("crop", "pad", "stretch"):
        expected = reference(mode, 336, 336)(noise(801, 599), return_tensors="np")["pixel_values"]
        assert np.array_equal(as_array(noise(801, 599), pixel_spec(mode, 336, 336)), expected)


@pytest.mark.parametrize("size", [(16_384, 82), (40, 8000)])
def test_padding_never_holds_the_padded_square(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "red")
    data = as_array(image, pixel_spec("pad", 32, 32))[0]
    assert data[:, 0, 0].tolist() == [122, 116, 104]
    assert data[:, 16, 16].tolist() != [122, 116, 104]


ANYRES_SIZES = [(1, 1), (24, 24), (25, 25), (48, 31), (97, 61), (61, 97), (100, 10), (10, 100), (200, 150), (333, 777)]
NEXT_GRIDS = ((48, 24), (24, 48), (48, 48), (72, 24), (24, 72))
ONEVISION_GRIDS = tuple((24 * cols, 24 * rows) for rows in range(1, 4) for cols in range(1, 4))


def anyres_spec(grids: tuple[tuple[int, int], ...], several: str = "same") -> PixelSpec:
    return replace(pixel_spec("anyres", 24, 24), grids=grids, several=several)


def hub(grids: tuple[tuple[int, int], ...], processor: type, **size: object) -> object:
    """A processor of the hub, whose grids are (height, width), and which does nothing but cut."""
    plain = {"do_rescale": False, "do_normalize": False, "resample": 3}
    return processor(image_grid_pinpoints=[[height, width] for width, height in grids], **plain, **size)


@pytest.mark.parametrize("size", ANYRES_SIZES)
def test_parity_of_tiles_with_llava_next(size: tuple[int, int]) -> None:
    crop = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    processor = hub(NEXT_GRIDS, LlavaNextImageProcessorPil, **crop)
    expected = processor(noise(*size), return_tensors="np")["pixel_values"][0]
    assert np.array_equal(as_array(noise(*size), anyres_spec(NEXT_GRIDS)), expected)


@pytest.mark.parametrize("size", ANYRES_SIZES)
def test_parity_of_tiles_with_onevision(size: tuple[int, int]) -> None:
    processor = hub(ONEVISION_GRIDS, LlavaOnevisionImageProcessorPil, size={"height": 24, "width": 24})
    processor.image_mean = [0.48145466, 0.4578275, 0.40821073]
    spec = anyres_spec(ONEVISION_GRIDS, "pad")
    expected = processor(noise(*size), return_tensors="np")["pixel_values"][0]
    assert np.array_equal(as_array(noise(*size), spec), expected)
    several = processor([[noise(*size), noise(31, 17)]], return_tensors="np")["pixel_values"]
    assert np.array_equal(as_array(noise(*size), spec, num_images=2), several[0])
    assert np.array_equal(as_array(noise(31, 17), spec, num_images=2), several[1])


@pytest.mark.parametrize("size", ANYRES_SIZES)
def test_tiles_are_those_of_the_originals_rules(size: tuple[int, int]) -> None:
    """Its rules, written out: stretched base, then the picture on black, in the middle, cut row by row."""
    image, grids = noise(*size), ((24, 48), (48, 24), (48, 48), (72, 24), (24, 72))
    merits = []
    for width, height in grids:
        scale = min(width / size[0], height / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        merits.append((-kept, width * height - kept))
    width, height = grids[merits.index(min(merits))]
    if width / size[0] < height / size[1]:
        resized = image.resize((width, min(math.ceil(size[1] * (width / size[0])), height)))
    else:
        resized = image.resize((min(math.ceil(size[0] * (height / size[1])), width), height))
    canvas = Image.new("RGB", (width, height), (0, 0, 0))
    canvas.paste(resized, ((width - resized.width) // 2, (height - resized.height) // 2))
    corners = [(left, top) for top in range(0, height, 24) for left in range(0, width, 24)]
    squares = [image.resize((24, 24)), *(canvas.crop((left, top, left + 24, top + 24)) for left, top in corners)]
    expected = np.stack([np.asarray(square).transpose(2, 0, 1) for square in squares])
    assert np.array_equal(as_array(image, anyres_spec(grids)), expected)


def test_low_detail_is_the_first_tile_alone() -> None:
    spec = anyres_spec(NEXT_GRIDS)
    assert np.array_equal(as_array(noise(97, 61), spec, detail="low"), as_array(noise(97, 61), spec)[:1])
