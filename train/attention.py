"""Attention that is cheap to train with on a CPU: in whole matrices, and never with what comes after a block.

torch's own attention there is written for long sequences and wide heads: backward in bfloat16 it takes three times as
long as these matrix products do for the tower's 145 tokens.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import Module
from transformers import AttentionInterface, PreTrainedModel

NAME = "by_blocks"
FIRST_BLOCK, BLOCK = 147, 64  # the picture with what stands before it; the text behind it
HIDDEN = -1e4


class _Attend(torch.autograd.Function):
    """Softmax of scaled products. Shapes: q (n, kv heads, group * queries, d); k, v (n, kv heads, keys, d)."""

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        weights = (q @ k.transpose(2, 3)).mul_(scale)
        if bias is not None:
            weights.unflatten(2, (-1, bias.shape[-2])).add_(bias[:, :, None])
        shares = weights.softmax(dim=-1)
        ctx.save_for_backward(q, k, v, shares)
        ctx.scale = scale
        return shares @ v

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, shares = ctx.saved_tensors
        by_shares = gradient @ v.transpose(2, 3)
        by_weights = torch._softmax_backward_data(by_shares, shares, -1, shares.dtype).mul_(ctx.scale)
        return by_weights @ k, by_weights.transpose(2, 3) @ q, shares.transpose(2, 3) @ gradient, None, None


def attend(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """Stand in for transformers' attention.

    Shapes: query (n, heads, length, d); key, value (n, kv heads, length, d); attention_mask (n, 1, length, length),
    what to add to the products, causal; without one, all look at all; out (n, length, heads, d).
    """
    query, key = query.to(value.dtype), key.to(value.dtype)
    num_rows, num_heads, length, width = query.shape
    edges = [0, length] if attention_mask is None else [0, *range(FIRST_BLOCK, length, BLOCK), length]
    seen = []
    for start, end in pairwise(edges):
        block = query[:, :, start:end].reshape(num_rows, key.shape[1], -1, width)
        bias = None if attention_mask is None else attention_mask[:, :, start:end, :end]
        block = _Attend.apply(block, key[:, :, :end], value[:, :, :end], bias, scaling)
        seen.append(block.reshape(num_rows, num_heads, end - start, width))
    return torch.cat(seen, dim=2).transpose(1, 2), None


def use_in(model: PreTrainedModel) -> None:
    """Let every layer of a model attend by blocks."""
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)
