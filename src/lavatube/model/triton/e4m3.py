"""Products in which rows are rounded as the weights are: e4m3 times e4m3, in tensor cores that have the type.

Each row and each output has one scale, so both are left out of the sums.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lavatube.model.panels import E4M3_MAX, Panels

_TILE_ROWS, _TILE_OUTPUTS, _TILE_WORDS = 128, 64, 32


def multiply(panels: Panels, hidden: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """See `Panels.by_torch_rounded`."""
    assert panels.scales is not None
    rows = hidden.reshape(-1, panels.inputs).contiguous()
    rounded = torch.empty_like(rows, dtype=torch.float8_e4m3fn)
    row_scales = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    tile = triton.next_power_of_2(panels.inputs)
    _round_row[(len(rows),)](
        rows, rounded, row_scales, E4M3_MAX, SIZE=panels.inputs, TILE=tile, num_warps=8 if tile > 2048 else 4
    )
    out = torch.empty(len(rows), panels.outputs, dtype=dtype, device=rows.device)
    _multiply_rounded[(triton.cdiv(panels.outputs, _TILE_OUTPUTS), triton.cdiv(len(rows), _TILE_ROWS))](
        rounded,
        row_scales,
        panels.weight.view(torch.int32),
        panels.scales,
        bias,
        out,
        len(rows),
        panels.inputs,
        panels.outputs,
        panels.weight.shape[1],
        ROWS=_TILE_ROWS,
        OUTPUTS=_TILE_OUTPUTS,
        WORDS=_TILE_WORDS,
        num_stages=3,
        num_warps=8,
    )
    return out.view(*hidden.shape[:-1], panels.outputs)


@triton.jit
def _round_row(hidden, rounded, row_scales, largest, SIZE: tl.constexpr, TILE: tl.constexpr):
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, TILE)
    places, is_there = row * SIZE + columns, columns < SIZE
    values = tl.load(hidden + places, mask=is_there, other=0.0).to(tl.float32)
    scale = tl.max(tl.abs(values), axis=0) / largest
    tl.store(row_scales + row, scale)
    divisor = tl.maximum(scale, 1.1754943508222875e-38)  # of nothing but zeros
    tl.store(rounded + places, (values / divisor).to(rounded.dtype.element_ty), mask=is_there)


@triton.jit(do_not_specialize=["num_rows", "num_outputs", "num_words"])
def _multiply_rounded(
    rounded,  # (num_rows, num_inputs) e4m3
    row_scales,  # (num_rows,)
    weight,  # (panels, num_words, 16) words of four e4m3
    scales,  # (panels · 16,)
    bias,  # (num_outputs,), or None
    out,  # (num_rows, num_outputs)
    num_rows,
    num_inputs,
    num_outputs,
    num_words,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    WORDS: tl.constexpr,
):
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_output, is_row = outputs < num_outputs, rows < num_rows
    is_panel = outputs // 16 < tl.cdiv(num_outputs, 16)  # whole panels are there, and are read so
    panel, lane = (outputs // 16).to(tl.int64)[None, :], (outputs % 16)[None, :]
    first_inputs = rounded + rows.to(tl.int64)[:, None] * num_inputs
    shifts = (8 * tl.arange(0, 4))[None, :, None]
    sums = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for start in range(0, num_words, WORDS):
        words = start + tl.arange(0, WORDS)
        is_weight = (words < num_words)[:, None] & is_panel[None, :]
        packed = tl.load(weight + (panel * num_words + words[:, None]) * 16 + lane, mask=is_weight, other=0)
        single = (packed[:, None, :] >> shifts).to(tl.uint8).to(tl.float8e4nv, bitcast=True)  # (WORDS, 4, OUTPUTS)
        inputs = start * 4 + tl.arange(0, WORDS * 4)
        is_input = is_row[:, None] & (inputs < num_inputs)[None, :]
        values = tl.load(first_inputs + inputs[None, :], mask=is_input, other=0.0)
        # What tensor cores of 9.0 add up by themselves has few bits: each tile's sum is added in float32.
        sums = tl.dot(values, tl.reshape(single, [WORDS * 4, OUTPUTS]), sums, max_num_imprecise_acc=WORDS * 4)
    row_scale = tl.load(row_scales + rows, mask=is_row, other=0.0)
    sums *= row_scale[:, None] * tl.load(scales + outputs, mask=is_output, other=0.0).to(tl.float32)[None, :]
    if bias is not None:
        sums += tl.load(bias + outputs, mask=is_output, other=0.0).to(tl.float32)[None, :]
    goals = rows.to(tl.int64)[:, None] * num_outputs + outputs[None, :]
    tl.store(out + goals, sums, mask=is_row[:, None] & is_output[None, :])
