"""Rows of an image's tiles laid out: each row of the map found again where the picture has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavatube.checkpoint.read import read_spec
from lavatube.geometry import ImagePlan, plan_image
from lavatube.model.arrange import arrange
from lavatube.spec import ModelSpec
from tests.checkpoints import write_checkpoint

SIDE = 4
NEWLINE = torch.tensor([-1.0, -1.0])


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return read_spec(write_checkpoint(tmp_path_factory.mktemp("checkpoint"), family="llava_next"))


@pytest.fixture(scope="module")
def shrinking(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder: Path = tmp_path_factory.mktemp("checkpoint")
    kind = {"family": "llava_onevision", "tower": "siglip", "select_strategy": "full", "language": "qwen2"}
    return read_spec(write_checkpoint(folder, **kind))


def coordinates(plan: ImagePlan) -> Tensor:
    """Features that say where they are: (row, col) in the whole map; 100 and more in the base tile."""
    base = 100 + torch.arange(SIDE * SIDE * 2.0).view(1, SIDE * SIDE, 2)
    rows, cols = torch.meshgrid(torch.arange(float(plan.rows)), torch.arange(float(plan.cols)), indexing="ij")
    cells = torch.stack([rows, cols], dim=-1)  # (rows, cols, 2)
    tiles = [
        cells[top : top + SIDE, left : left + SIDE].reshape(1, -1, 2)
        for top in range(0, plan.rows, SIDE)
        for left in range(0, plan.cols, SIDE)
    ]
    return torch.cat([base, *tiles])


def test_base_first_then_row_by_row_without_padding_each_ended(spec: ModelSpec) -> None:
    plan = plan_image(spec, 40, 30)
    assert (plan.tiles, plan.keep) == (3, (0, 1, 4, 6))
    features = coordinates(plan)
    rows = arrange(features, plan, NEWLINE)
    assert torch.equal(rows[: SIDE * SIDE], features[0])
    expected = [[[row, col] for col in range(1, 7)] + [[-1, -1]] for row in range(4)]
    assert rows[SIDE * SIDE :].tolist() == [cell for row in expected for cell in row]


def test_flat_is_tile_after_tile(spec: ModelSpec) -> None:
    flat = replace(spec, merge="flat")
    plan = plan_image(flat, 40, 30)
    features = coordinates(plan)
    assert torch.equal(arrange(features, plan, None), features.flatten(0, 1))


def test_spatial_is_the_map_with_its_padding(spec: ModelSpec) -> None:
    plan = plan_image(replace(spec, merge="spatial"), 40, 30)
    rows = arrange(coordinates(plan), plan, None)
    assert rows[SIDE * SIDE :].tolist() == [[row, col] for row in range(plan.rows) for col in range(plan.cols)]


def test_a_lone_tile_ends_with_a_newline(spec: ModelSpec) -> None:
    plan = plan_image(spec, 40, 30, detail="low")
    features = torch.rand(1, SIDE * SIDE, 2)
    assert torch.equal(arrange(features, plan, NEWLINE), torch.cat([features[0], NEWLINE[None]]))


def test_a_map_that_is_too_large_is_shrunk_before_its_newlines(shrinking: ModelSpec) -> None:
    plan = plan_image(shrinking, 64, 64)
    assert (plan.rows, plan.cols, plan.shrink) == (8, 8, (5, 5))
    rows = arrange(coordinates(plan), plan, NEWLINE)[SIDE * SIDE :].view(5, 6, 2)
    assert torch.equal(rows[:, 5], NEWLINE.expand(5, 2))
    assert torch.allclose(rows[:, 0, 0], torch.tensor([0.3, 1.9, 3.5, 5.1, 6.7])), "bilinear, between cell centres"


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), num_images=st.integers(1, 2), detail=st.booleans())
@settings(max_examples=200, deadline=None)
def test_as_many_rows_as_the_plan_says(
    spec: ModelSpec, shrinking: ModelSpec, width: int, height: int, num_images: int, detail: bool
) -> None:
    for own in (spec, shrinking, replace(spec, merge="spatial"), replace(spec, merge="flat")):
        plan = plan_image(own, width, height, num_images=num_images, detail="high" if detail else "low")
        features = torch.zeros(plan.tiles, own.vision.num_features, 2)
        assert arrange(features, plan, NEWLINE).shape == (plan.num_tokens, 2)
