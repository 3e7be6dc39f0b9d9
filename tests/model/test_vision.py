"""The tower on its own: pixels to floats to the last bit, and no block more than needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lavatube.checkpoint.read import read_spec
from lavatube.model.vision import VisionTower, normalized_levels
from lavatube.spec import PixelSpec, VisionSpec
from tests.checkpoints import write_checkpoint


def spec_of(folder: Path, **overrides: object) -> tuple[VisionSpec, PixelSpec]:
    spec = read_spec(write_checkpoint(folder, **overrides))
    return spec.vision, spec.pixels


def test_pixels_are_normalized_by_their_channel(tmp_path: Path) -> None:
    vision, pixels = spec_of(tmp_path)
    tower = VisionTower(vision, pixels)
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = (image.double() / 255 - torch.tensor(pixels.mean).view(3, 1, 1)) / torch.tensor(pixels.std).view(3, 1, 1)
    torch.testing.assert_close(tower.normalize(image).double(), expected, rtol=0, atol=1e-6)


def test_levels_round_where_the_reference_rounds(tmp_path: Path) -> None:
    """Not the correctly rounded result of the formula, but of its three steps."""
    _, pixels = spec_of(tmp_path)
    levels = normalized_levels(pixels).numpy()
    for channel, (mean, std) in enumerate(zip(pixels.mean, pixels.std, strict=True)):
        for level in range(256):
            rescaled = np.float32(np.float64(level) * pixels.rescale)
            assert levels[channel, level] == (rescaled - np.float32(mean)) / np.float32(std)


@pytest.mark.parametrize(("select_layer", "num_blocks"), [(-1, 3), (-2, 2), (-4, 0), (0, 0), (1, 1), (3, 3)])
def test_only_the_blocks_before_the_selected_state_exist(tmp_path: Path, select_layer: int, num_blocks: int) -> None:
    vision, pixels = spec_of(tmp_path, select_layer=select_layer)
    tower = VisionTower(vision, pixels)
    assert len(tower.layers) == num_blocks
    with torch.inference_mode():
        assert tower(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 16, 32)


@pytest.mark.parametrize(
    ("tower", "strategy", "num_features"),
    [("clip", "default", 16), ("clip", "full", 17), ("siglip", "default", 15), ("siglip", "full", 16)],
)
def test_the_first_row_is_dropped_whatever_it_is(tmp_path: Path, tower: str, strategy: str, num_features: int) -> None:
    vision, pixels = spec_of(tmp_path, tower=tower, select_strategy=strategy)
    assert vision.num_features == num_features
    with torch.inference_mode():
        features = VisionTower(vision, pixels)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert features.shape == (2, num_features, 32)
