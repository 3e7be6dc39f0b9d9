"""Grids and token counts of thousands of sizes: against the library's own functions, and the original's formulas."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from types import MethodType, SimpleNamespace

import pytest
from transformers import LlavaNextProcessor, LlavaOnevisionProcessor
from transformers.image_processing_utils import select_best_resolution

from lavatube.geometry import plan_image
from lavatube.spec import ModelSpec
from tests.test_geometry import next_spec, onevision_spec

_RANDOM = random.Random(4)
SIZES = [
    *((width, height) for width in range(1, 401, 9) for height in range(1, 401, 9)),
    *((_RANDOM.randint(1, 4096), _RANDOM.randint(1, 4096)) for _ in range(3000)),
    (704, 396), (88, 55), (1408, 792), (336, 336), (337, 337), (1000, 1), (1, 1000),
]  # fmt: skip

Count = Callable[[int, int], int]


def listed(spec: ModelSpec) -> list[list[int]]:
    """The grids as the hub's files have them."""
    return [[height, width] for width, height in spec.pixels.grids]


def hub_count(spec: ModelSpec, processor: type) -> Count:
    """The library's own method, on an object that has what it reads of a processor."""
    num_features = spec.vision.num_features
    made = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=listed(spec)),
        patch_size=spec.vision.patch_size,
        num_additional_image_tokens=0,
        num_image_tokens=num_features,
        vision_aspect_ratio=f"anyres_max_{spec.pixels.max_tiles}",
    )
    made._get_unpadded_features = MethodType(processor._get_unpadded_features, made)
    tile = spec.pixels.size
    return lambda width, height: processor._get_number_of_features(made, height, width, tile, tile)


def original_grid(grids: tuple[tuple[int, int], ...], width: int, height: int) -> tuple[int, int]:
    """`select_best_resolution` of the original, line by line."""
    best, most, least = grids[0], 0, math.inf
    for grid_width, grid_height in grids:
        scale = min(grid_width / width, grid_height / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        wasted = grid_width * grid_height - effective
        if effective > most or (effective == most and wasted < least):
            best, most, least = (grid_width, grid_height), effective, wasted
    return best


def original_count(spec: ModelSpec) -> Count:
    """The shape that `prepare_inputs_labels_for_multimodal` of the original leaves."""
    side, tile = spec.vision.patches_per_side, spec.pixels.size

    def count(width: int, height: int) -> int:
        grid_width, grid_height = original_grid(spec.pixels.grids, width, height)
        rows, cols = side * (grid_height // tile), side * (grid_width // tile)
        if width / height > cols / rows:
            padding = (rows - int(height * (cols / width))) // 2
            rows -= 2 * padding
        else:
            padding = (cols - int(width * (rows / height))) // 2
            cols -= 2 * padding
        if spec.pixels.max_tiles:
            times = math.sqrt(rows * cols / (spec.pixels.max_tiles * side**2))
            if times > 1.1:
                rows, cols = int(rows // times), int(cols // times)
        return side**2 + rows * cols + rows

    return count


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (next_spec(is_hf=True), hub_count(next_spec(is_hf=True), LlavaNextProcessor)),
        (onevision_spec(is_hf=True), hub_count(onevision_spec(is_hf=True), LlavaOnevisionProcessor)),
        (next_spec(), original_count(next_spec())),
        (onevision_spec(), original_count(onevision_spec())),
    ],
    ids=["1.6, hub", "OneVision, hub", "1.6, original", "OneVision, original"],
)
def test_grid_and_number_of_tokens_of_thousands_of_sizes(spec: ModelSpec, count: Count) -> None:
    tile = spec.pixels.size
    for width, height in SIZES:
        plan = plan_image(spec, width, height)
        if spec.pixels.rounding == "round":
            rows, cols = select_best_resolution((height, width), listed(spec))
        else:
            cols, rows = original_grid(spec.pixels.grids, width, height)
        assert (plan.grid_cols * tile, plan.grid_rows * tile) == (cols, rows), (width, height)
        assert plan.num_tokens == count(width, height), (width, height)
