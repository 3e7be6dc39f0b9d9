"""Bit for bit what transformers' PIL processors make, for every mode and shape."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from lavatube.prompt.pixels import tile

from .builders import pixel_spec

SIZES = [(1, 1), (1, 2), (3, 3), (1, 200), (200, 1), (97, 61), (61, 97), (31, 32), (33, 32), (64, 48), (320, 240)]
SIZES += [(640, 483), (333, 777), (1001, 5), (5, 1001), (700, 513), (513, 700)]


def noise(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), random.Random(width * 1000 + height).randbytes(width * height * 3))


def as_array(image: Image.Image, mode: str, size: int, resize: int) -> np.ndarray:
    tiles = tile(image, pixel_spec(mode, size, resize))
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
        assert np.array_equal(as_array(image, mode, size, resize), expected), (width, height)


def test_parity_at_the_real_size() -> None:
    for mode in ("crop", "pad", "stretch"):
        expected = reference(mode, 336, 336)(noise(801, 599), return_tensors="np")["pixel_values"]
        assert np.array_equal(as_array(noise(801, 599), mode, 336, 336), expected)


@pytest.mark.parametrize("size", [(16_384, 82), (40, 8000)])
def test_padding_never_holds_the_padded_square(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "red")
    data = as_array(image, "pad", 32, 32)[0]
    assert data[:, 0, 0].tolist() == [122, 116, 104]
    assert data[:, 16, 16].tolist() != [122, 116, 104]
