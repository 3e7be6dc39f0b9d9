"""The geometry of pictures, against the published values of both worlds, and against its own promises for any size."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavatube.geometry import Detail, ImagePlan, plan_image
from lavatube.spec import ModelSpec, PixelSpec
from tests.prompt.builders import model_spec

NEXT_GRIDS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
SIDES = st.integers(1, 4096)


def next_spec(*, is_hf: bool = False, merge: str = "unpad") -> ModelSpec:
    """LLaVA 1.6 on CLIP-L/14-336; the hub's list is the same, read the other way round."""
    grids = tuple((width, height) for height, width in NEXT_GRIDS) if is_hf else NEXT_GRIDS
    return anyres_spec(
        336,
        14,
        "clip",
        grids=grids,
        merge=merge,
        rounding="round" if is_hf else "truncate",
        fidelity="hf" if is_hf else "original",
    )


def onevision_spec(*, is_hf: bool = False) -> ModelSpec:
    grids = tuple((384 * cols, 384 * rows) for cols in range(1, 7) for rows in range(1, 7))
    rounding = "round" if is_hf else "truncate"
    return anyres_spec(384, 14, "siglip", grids=grids, max_tiles=9, several="pad", rounding=rounding)


def anyres_spec(
    size: int, patch: int, kind: str, *, merge: str = "unpad", fidelity: str = "original", **pixels: object
) -> ModelSpec:
    base = model_spec()
    vision = replace(
        base.vision, image_size=size, patch_size=patch, kind=kind, select_feature="patch" if kind == "clip" else "full"
    )
    cut = PixelSpec("anyres", size, size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1 / 255)
    return replace(
        base, vision=vision, pixels=replace(cut, **pixels), merge=merge, has_newline=merge == "unpad", fidelity=fidelity
    )


def tokens(spec: ModelSpec, width: int, height: int, num_images: int = 1, detail: Detail = "high") -> int:
    return plan_image(spec, width, height, num_images=num_images, detail=detail).num_tokens


def grid(plan: ImagePlan) -> tuple[int, int]:
    return 336 * plan.grid_cols, 336 * plan.grid_rows


@pytest.mark.parametrize(
    ("size", "canvas", "cells", "original", "hf"),
    [
        ((336, 336), (336, 672), (24, 24), 1176, 1176),
        ((337, 337), (672, 672), (48, 48), 2928, 2928),
        ((672, 672), (672, 672), (48, 48), 2928, 2928),
        ((2048, 2048), (672, 672), (48, 48), 2928, 2928),
        ((500, 375), (672, 672), (36, 48), 2340, 2340),
        ((640, 480), (672, 672), (36, 48), 2340, 2340),
        ((4032, 3024), (672, 672), (36, 48), 2340, 2340),
        ((480, 640), (672, 672), (48, 36), 2352, 2352),
        ((1024, 899), (672, 672), (42, 48), 2634, 2634),
        ((1920, 1080), (672, 672), (28, 48), 1948, 1948),
        ((1080, 1920), (672, 672), (48, 28), 1968, 1968),
        ((1000, 100), (1008, 336), (8, 72), 1160, 1160),
        ((100, 1000), (336, 1008), (72, 8), 1224, 1224),
        ((400, 300), (672, 336), (24, 32), 1368, 1368),
        ((320, 240), (336, 672), (18, 24), 1026, 1368),
        ((300, 200), (336, 672), (16, 24), 976, 1464),
        ((200, 300), (336, 672), (36, 24), 1476, 984),
        ((336, 100), (336, 672), (8, 24), 776, 1262),
        ((1000, 1), (1008, 336), (0, 72), 576, 576),
        ((1, 1000), (336, 1008), (72, 0), 648, 648),
    ],
)
def test_the_golden_values_of_next(
    size: tuple[int, int], canvas: tuple[int, int], cells: tuple[int, int], original: int, hf: int
) -> None:
    plan = plan_image(next_spec(), *size)
    assert (grid(plan), plan.keep[2:], plan.num_tokens) == (canvas, cells, original)
    assert tokens(next_spec(is_hf=True), *size) == hf


def test_a_small_square_is_laid_the_other_way_by_the_hub() -> None:
    assert grid(plan_image(next_spec(), 336, 336)) == (336, 672)
    assert grid(plan_image(next_spec(is_hf=True), 336, 336)) == (672, 336)


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ((224, 224), 1485),
        ((384, 384), 1485),
        ((500, 375), 1728),
        ((640, 480), 2929),
        ((480, 640), 2943),
        ((800, 600), 4725),
        ((1024, 899), 6551),
        ((1000, 100), 1467),
        ((100, 1000), 1539),
        ((1280, 720), 5967),
        ((1920, 1080), 7269),
        ((1080, 1920), 7317),
        ((3840, 2160), 7317),
        ((4032, 3024), 7309),
        ((1024, 1024), 7371),
        ((2304, 2304), 7371),
        ((1100, 1322), 8765),
    ],
)
def test_the_golden_values_of_onevision(size: tuple[int, int], count: int) -> None:
    assert tokens(onevision_spec(), *size) == count


def test_several_pictures_of_onevision_are_one_tile_each() -> None:
    plan = plan_image(onevision_spec(), 1920, 1080, num_images=2)
    assert (plan.cut.mode, plan.tiles, plan.num_newlines, plan.num_tokens) == ("pad", 1, 1, 730)


def test_several_pictures_of_next_are_as_one() -> None:
    assert plan_image(next_spec(), 640, 480, num_images=3) == plan_image(next_spec(), 640, 480)


@pytest.mark.parametrize("spec", [next_spec(), onevision_spec()])
def test_low_detail_is_the_base_tile(spec: ModelSpec) -> None:
    plan = plan_image(spec, 1920, 1080, detail="low")
    assert (plan.cut.mode, plan.tiles, plan.num_tokens) == ("stretch", 1, spec.vision.num_features + 1)


def test_merges_without_newlines() -> None:
    assert tokens(next_spec(merge="flat"), 640, 480) == 5 * 576
    assert tokens(next_spec(merge="flat"), 640, 480, detail="low") == 576
    assert tokens(next_spec(merge="spatial"), 640, 480) == 576 + 48 * 48


def test_an_unpadded_merge_of_one_padded_square_has_no_newline() -> None:
    base = model_spec(mode="pad")
    assert tokens(replace(base, merge="unpad", has_newline=True), 97, 61) == base.vision.num_features


@pytest.mark.parametrize("size", [(704, 396), (88, 55), (1408, 792)])
def test_the_two_roundings_differ_in_a_few_sizes(size: tuple[int, int]) -> None:
    truncated, rounded = (
        plan_image(anyres_spec(336, 14, "clip", grids=NEXT_GRIDS, rounding=rounding), *size).keep
        for rounding in ("truncate", "round")
    )
    assert sum(rounded[2:]) - sum(truncated[2:]) in (-2, 2)


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
@given(SIDES, SIDES)
def test_one_square_costs_the_same_whatever_its_size(mode: str, width: int, height: int) -> None:
    spec = model_spec(mode=mode)
    plan = plan_image(spec, width, height)
    assert (plan.tiles, plan.num_tokens) == (1, spec.vision.num_features)
    left, top = plan.offset
    assert left <= 0
    assert top <= 0
    assert plan.resized[0] + left >= spec.pixels.size
    assert plan.resized[1] + top >= spec.pixels.size


@pytest.mark.parametrize("spec", [next_spec(), next_spec(is_hf=True), onevision_spec()])
@given(SIDES, SIDES, st.sampled_from(["high", "low"]), st.integers(1, 3))
def test_what_holds_for_every_size(spec: ModelSpec, width: int, height: int, detail: Detail, num_images: int) -> None:
    plan = plan_image(spec, width, height, num_images=num_images, detail=detail)
    size, side = spec.pixels.size, spec.vision.patches_per_side
    canvas = size * plan.grid_cols, size * plan.grid_rows
    top, left, rows, cols = plan.keep
    assert (plan.rows, plan.cols) == (side * plan.grid_rows, side * plan.grid_cols)
    assert top + rows <= plan.rows
    assert left + cols <= plan.cols
    assert min(plan.keep) >= 0
    assert (plan.rows - rows) % 2 == (plan.cols - cols) % 2 == 0
    assert rows == plan.rows or cols == plan.cols
    if not plan.has_map:
        assert (plan.tiles, plan.num_tokens) == (1, spec.vision.num_features + 1)
        return
    assert plan.tiles == 1 + plan.grid_cols * plan.grid_rows
    assert canvas in spec.pixels.grids
    assert plan.resized[0] == canvas[0] or plan.resized[1] == canvas[1]
    assert all(0 <= 2 * at <= whole - part for at, part, whole in zip(plan.offset, plan.resized, canvas, strict=True))
    map_rows, map_cols = plan.shrink or (rows, cols)
    assert plan.num_newlines == map_rows <= rows
    assert map_cols <= cols
    assert plan.num_tokens == side**2 + map_rows * (map_cols + 1)
    if spec.pixels.max_tiles:
        assert map_rows * map_cols <= math.ceil(1.21 * spec.pixels.max_tiles * side**2)
