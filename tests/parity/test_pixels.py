"""What the tower gets for an image, against the image processors of `transformers`: equal to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil, LlavaImageProcessorPil

from lavatube.checkpoint.read import read_spec
from lavatube.model.vision import VisionTower
from tests.checkpoints import write_checkpoint


@pytest.mark.parametrize(
    ("pixel_mode", "processor_class"),
    [("crop", CLIPImageProcessorPil), ("stretch", CLIPImageProcessorPil), ("pad", LlavaImageProcessorPil)],
)
def test_normalized_pixels_are_equal_bit_for_bit(tmp_path: Path, pixel_mode: str, processor_class: type) -> None:
    spec = read_spec(write_checkpoint(tmp_path, pixel_mode=pixel_mode))
    processor = processor_class.from_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image.reshape(-1, 3)[:256] = np.arange(256)[:, None]  # every level of every channel
    expected = processor(image, return_tensors="pt")["pixel_values"]
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    assert torch.equal(VisionTower(spec.vision, spec.pixels).normalize(pixels), expected)
