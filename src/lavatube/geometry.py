"""A picture's width and height in, the whole of its geometry out: tiles of pixels, map of features, number of tokens.

Pure arithmetic, so that the front knows what a picture costs before it is decoded, and the engine can check it again.
All floating-point expressions are grouped as the reference code groups them: in a few sizes the last bit decides.

Source: haotian-liu/LLaVA@c121f04 llava/mm_utils.py and llava/model/llava_arch.py; transformers 5.23
image_processing_utils.py and models/llava_next/modeling_llava_next.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from lavatube.spec import ModelSpec, PixelMode, PixelSpec

Detail = Literal["high", "low"]

# Below this ratio a map that is larger than anyres_max_N asks for is left as it is.
_SHRINK_ABOVE: Final = 1.1


@dataclass(frozen=True, slots=True)
class Cut:
    """How one picture is cut: scaled to `resized` and laid at `offset` on a canvas of grid_cols × grid_rows tiles.

    `mode` is what is done with this very picture; of an anyres checkpoint it is anyres, stretch (the base tile alone)
    or pad. `tiles` counts the base tile, too. Sizes and offsets are (x, y) in pixels; a negative offset crops.
    """

    mode: PixelMode
    tiles: int
    grid_cols: int
    grid_rows: int
    resized: tuple[int, int]
    offset: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """One picture from its pixels to its tokens.

    The map of features is rows × cols cells, of which `keep` (top, left, height, width) is not padding, and which is
    then shrunk to `shrink` (rows, cols), or not. `num_newlines` is how many newline rows stand in it, or behind the
    one tile. Without a map, features are taken tile by tile.
    """

    cut: Cut
    has_map: bool
    rows: int
    cols: int
    keep: tuple[int, int, int, int]
    shrink: tuple[int, int] | None
    num_newlines: int
    num_tokens: int

    @property
    def tiles(self) -> int:
        return self.cut.tiles

    @property
    def grid_cols(self) -> int:
        return self.cut.grid_cols

    @property
    def grid_rows(self) -> int:
        return self.cut.grid_rows

    @property
    def resized(self) -> tuple[int, int]:
        return self.cut.resized

    @property
    def offset(self) -> tuple[int, int]:
        return self.cut.offset


def plan_image(spec: ModelSpec, width: int, height: int, *, num_images: int = 1, detail: Detail = "high") -> ImagePlan:
    """What a picture of this size becomes, in a prompt of `num_images` pictures."""
    cut = plan_cut(spec.pixels, width, height, num_images=num_images, detail=detail)
    side = spec.vision.patches_per_side
    rows, cols = cut.grid_rows * side, cut.grid_cols * side
    has_map = spec.merge != "flat" and cut.tiles > 1
    keep, shrink = (0, 0, rows, cols), None
    if has_map and spec.merge == "unpad":
        keep = _unpad(width, height, rows, cols, spec.pixels.rounding)
        shrink = _shrink(keep[2], keep[3], side, spec.pixels.max_tiles)
    map_rows, map_cols = shrink or keep[2:]
    num_newlines = _num_newlines(spec, map_rows if has_map else 1)
    features = spec.vision.num_features
    num_tokens = (features + map_rows * map_cols if has_map else cut.tiles * features) + num_newlines
    return ImagePlan(cut, has_map, rows, cols, keep, shrink, num_newlines, num_tokens)


@dataclass(frozen=True, slots=True)
class ImageCount:
    """What a picture of some size costs, for people."""

    width: int
    height: int
    tiles: int
    grid_cols: int
    grid_rows: int
    tokens: int
    tokens_low_detail: int


def count_image(spec: ModelSpec, size: tuple[int, int], num_images: int) -> ImageCount:
    """Of one picture among `num_images` of a prompt."""
    plan = plan_image(spec, *size, num_images=num_images)
    low = plan_image(spec, *size, num_images=num_images, detail="low")
    return ImageCount(*size, plan.tiles, plan.grid_cols, plan.grid_rows, plan.num_tokens, low.num_tokens)


def plan_cut(pixels: PixelSpec, width: int, height: int, *, num_images: int = 1, detail: Detail = "high") -> Cut:
    """The part of the plan that pixels need."""
    mode = _mode(pixels, num_images, detail)
    if mode == "anyres":
        return _anyres(pixels, width, height)
    if mode == "stretch":
        resized = (pixels.size, pixels.size)
    elif mode == "pad":
        resized = (pixels.resize, pixels.resize)
    else:
        resized = _shortest_edge(width, height, pixels.resize)
    left, top = (resized[0] - pixels.size) // 2, (resized[1] - pixels.size) // 2
    return Cut(mode, 1, 1, 1, resized, (-left, -top))


def _mode(pixels: PixelSpec, num_images: int, detail: Detail) -> PixelMode:
    if pixels.several == "pad" and num_images > 1:
        return "pad"
    if pixels.mode == "anyres" and detail == "low":
        return "stretch"
    return pixels.mode


def _shortest_edge(width: int, height: int, edge: int) -> tuple[int, int]:
    short, long = sorted((width, height))
    long = int(edge * long / short)
    return (edge, long) if width <= height else (long, edge)


def _anyres(pixels: PixelSpec, width: int, height: int) -> Cut:
    canvas_width, canvas_height = best_grid(pixels.grids, width, height)
    scale_x, scale_y = canvas_width / width, canvas_height / height
    if scale_x < scale_y:
        resized = canvas_width, min(math.ceil(height * scale_x), canvas_height)
    else:
        resized = min(math.ceil(width * scale_y), canvas_width), canvas_height
    offset = (canvas_width - resized[0]) // 2, (canvas_height - resized[1]) // 2
    cols, rows = canvas_width // pixels.size, canvas_height // pixels.size
    return Cut("anyres", 1 + cols * rows, cols, rows, resized, offset)


def best_grid(grids: tuple[tuple[int, int], ...], width: int, height: int) -> tuple[int, int]:
    """The grid that keeps most of the picture, then wastes least; of equals the first in the list."""

    def merit(grid: tuple[int, int]) -> tuple[int, int]:
        scale = min(grid[0] / width, grid[1] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - grid[0] * grid[1]

    return max(grids, key=merit)  # of equals, max takes the first


def _unpad(
    width: int, height: int, rows: int, cols: int, rounding: Literal["truncate", "round"]
) -> tuple[int, int, int, int]:
    """The cells that the picture covers; an odd margin leaves one row or column of padding in."""

    def whole(value: float) -> int:
        return int(value) if rounding == "truncate" else int(round(value, 7))

    if width / height > cols / rows:
        margin = (rows - whole(height * (cols / width))) // 2
        return margin, 0, rows - 2 * margin, cols
    margin = (cols - whole(width * (rows / height))) // 2
    return 0, margin, rows, cols - 2 * margin


def _shrink(rows: int, cols: int, side: int, max_tiles: int | None) -> tuple[int, int] | None:
    if max_tiles is None:
        return None
    ratio = math.sqrt(rows * cols / (max_tiles * side**2))
    return (int(rows // ratio), int(cols // ratio)) if ratio > _SHRINK_ABOVE else None


def _num_newlines(spec: ModelSpec, rows: int) -> int:
    """One a row, and one behind a lone tile; checkpoints that never cut a picture into tiles have none."""
    return rows if spec.merge == "unpad" and spec.pixels.mode == "anyres" else 0
