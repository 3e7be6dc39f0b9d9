"""Products with quantised weights, read from panels as they lie and made floats tile by tile.

Sixteen outputs stand side by side, so a tile is read straight through. What e4m3 means is worked out in integers, as
float16 with the exponent 8 too low, so that it takes no GPU that has the type.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from lavatube.model.panels import Panels

_FEW_ROWS: Final = 16  # what a tensor core multiplies at least; up to there reading the weights is all that counts
_TILE_BYTES: Final = 256  # of one row, that are read at a time


def multiply(panels: Panels, hidden: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """See `Panels.by_torch`."""
    assert panels.scales is not None
    rows = hidden.reshape(-1, panels.inputs).contiguous()
    out = torch.empty(len(rows), panels.outputs, dtype=dtype, device=rows.device)
    bits = 4 if panels.kind == "int4" else 8
    has_few_rows = len(rows) <= _FEW_ROWS
    tile_rows, tile_outputs = (_FEW_ROWS, 32) if has_few_rows else (64, 64)
    _multiply_tile[(triton.cdiv(panels.outputs, tile_outputs), triton.cdiv(len(rows), tile_rows))](
        rows,
        panels.weight.view(torch.int32),
        panels.scales,
        bias,
        out,
        len(rows),
        panels.inputs,
        panels.outputs,
        panels.weight.shape[1],
        panels.scales.shape[1],
        BITS=bits,
        IS_E4M3=panels.kind == "fp8",
        GROUP_WORDS=panels.group_words,
        ROWS=tile_rows,
        OUTPUTS=tile_outputs,
        WORDS=_TILE_BYTES // hidden.element_size() * bits // 32,
        num_stages=3,
    )
    return out.view(*hidden.shape[:-1], panels.outputs)


@triton.jit(do_not_specialize=["num_rows", "num_outputs", "num_words", "num_groups"])
def _multiply_tile(
    hidden,  # (num_rows, num_inputs)
    weight,  # (panels, num_words, 16) words
    scales,  # (panels, num_groups, 16)
    bias,  # (num_outputs,), or None
    out,  # (num_rows, num_outputs)
    num_rows,
    num_inputs,
    num_outputs,
    num_words,
    num_groups,
    BITS: tl.constexpr,
    IS_E4M3: tl.constexpr,
    GROUP_WORDS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    WORDS: tl.constexpr,
):
    word_inputs: tl.constexpr = 32 // BITS
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_output, is_row = outputs < num_outputs, rows < num_rows
    is_panel = outputs // 16 < tl.cdiv(num_outputs, 16)  # whole panels are there, and are read so
    panel, lane = (outputs // 16).to(tl.int64)[None, :], (outputs % 16)[None, :]
    first_inputs = hidden + rows.to(tl.int64)[:, None] * num_inputs
    places = tl.arange(0, word_inputs)
    # Of four bits, the low halves of a word's bytes are its first four inputs, the high halves the others.
    shifts = (8 * (places % 4) + 4 * (places // 4))[None, :, None]
    sums = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for start in range(0, num_words, WORDS):
        words = start + tl.arange(0, WORDS)
        is_weight = (words < num_words)[:, None] & is_panel[None, :]
        packed = tl.load(weight + (panel * num_words + words[:, None]) * 16 + lane, mask=is_weight, other=0)
        levels = (packed[:, None, :] >> shifts) & ((1 << BITS) - 1)
        if IS_E4M3:
            halves = ((levels & 0x80) << 8) | ((levels & 0x7F) << 7)
            scaled = halves.to(tl.int16).to(tl.float16, bitcast=True)  # (WORDS, word_inputs, OUTPUTS)
        else:
            groups = (words // GROUP_WORDS)[:, None]
            scale = tl.load(scales + (panel * num_groups + groups) * 16 + lane, mask=is_weight, other=0.0)
            scaled = (levels - (1 << (BITS - 1))).to(tl.float32) * scale.to(tl.float32)[:, None, :]
        weights = tl.reshape(scaled, [WORDS * word_inputs, OUTPUTS]).to(hidden.dtype.element_ty)
        inputs = start * word_inputs + tl.arange(0, WORDS * word_inputs)
        is_input = is_row[:, None] & (inputs < num_inputs)[None, :]
        values = tl.load(first_inputs + inputs[None, :], mask=is_input, other=0.0)
        sums = tl.dot(values, weights, sums, input_precision="ieee")
    if IS_E4M3:
        sums *= tl.load(scales + outputs, mask=is_output, other=0.0).to(tl.float32)[None, :] * 256
    if bias is not None:
        sums += tl.load(bias + outputs, mask=is_output, other=0.0).to(tl.float32)[None, :]
    goals = rows.to(tl.int64)[:, None] * num_outputs + outputs[None, :]
    tl.store(out + goals, sums, mask=is_row[:, None] & is_output[None, :])
