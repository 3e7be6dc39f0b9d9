"""Features of an image's tiles in, the rows that stand for the image out: laid out as the plan says.

Source: haotian-liu/LLaVA@c121f04 llava/model/llava_arch.py; LLaVA-VL/LLaVA-NeXT@df17966 for anyres_max.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lavatube.geometry import ImagePlan


def arrange(features: Tensor, plan: ImagePlan, newline: Tensor | None) -> Tensor:
    """One image's rows.

    Shapes: features (tiles, features, hidden), newline (hidden,); out (plan.num_tokens, hidden).
    """
    if not plan.has_map:
        rows = [features.flatten(0, 1)]
        if plan.num_newlines:
            rows.append(_given(newline).expand(plan.num_newlines, -1))
        return torch.cat(rows)
    cells = _crop_and_shrink(_lay_out(features[1:], plan), plan)
    if plan.num_newlines:
        ends = _given(newline).expand(plan.num_newlines, 1, -1)
        cells = torch.cat([cells, ends], dim=1)  # (rows, cols + 1, hidden)
    return torch.cat([features[0], cells.flatten(0, 1)])


def _lay_out(tiles: Tensor, plan: ImagePlan) -> Tensor:
    """The tiles' features side by side, as the tiles lie in the image. Shapes: out (rows, cols, hidden)."""
    rows, cols = plan.rows // plan.grid_rows, plan.cols // plan.grid_cols
    grid = tiles.view(plan.grid_rows, plan.grid_cols, rows, cols, -1).transpose(1, 2)
    return grid.reshape(plan.rows, plan.cols, -1)


def _crop_and_shrink(cells: Tensor, plan: ImagePlan) -> Tensor:
    """Without padding, and not larger than the plan says. Shapes: in and out (rows, cols, hidden)."""
    top, left, height, width = plan.keep
    cells = cells[top : top + height, left : left + width]
    if plan.shrink is None:
        return cells
    channels_first = cells.permute(2, 0, 1)[None]  # (1, hidden, rows, cols)
    shrunk = functional.interpolate(channels_first, plan.shrink, mode="bilinear")
    return shrunk[0].permute(1, 2, 0)


def _given(newline: Tensor | None) -> Tensor:
    assert newline is not None, "the plan has newlines, so the checkpoint has one"
    return newline
