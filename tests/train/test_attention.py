"""Attention by blocks is attention: the same loss and the same gradients as torch's own."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from train.attention import BLOCK, FIRST_BLOCK, HIDDEN, attend
from train.learner import Learner, Stage
from train.pool import draw_shard
from train.tokenizer import train_tokenizer


def run(length: int, mask: Tensor | None, *, by_blocks: bool) -> list[Tensor]:
    """What comes out and the gradients of query, key and value."""
    torch.manual_seed(1)
    query, key, value = (
        torch.randn(2, heads, length, 8, dtype=torch.float64, requires_grad=True) for heads in (6, 2, 2)
    )
    if by_blocks:
        bias = None if mask is None else torch.where(mask, 0.0, HIDDEN).double()
        out = attend(torch.nn.Module(), query, key, value, bias, 8**-0.5)[0].transpose(1, 2)
    else:
        out = scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    gradients = [tensor.grad for tensor in (query, key, value)]
    return [out, *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("length", [1, 30, FIRST_BLOCK, FIRST_BLOCK + 1, FIRST_BLOCK + 2 * BLOCK + 7])
def test_it_is_torchs_attention(length: int) -> None:
    random = np.random.default_rng(length)
    mask = torch.from_numpy(random.random((2, 1, length, length)) < 0.5) | torch.eye(length, dtype=torch.bool)
    for seen in (None, mask.tril()):
        ours, theirs = run(length, seen, by_blocks=True), run(length, seen, by_blocks=False)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


def test_a_step_learns_the_same() -> None:
    tokenizer = train_tokenizer(1, num_scenes=60)
    batch = draw_shard(1, 0, 3)
    stage = Stage("joint", 1, 3, tower_rate=1e-3, decoder_rate=1e-3, dense_weight=0.5, is_bfloat16=False)
    losses = []
    for own in (True, False):
        learner = Learner(1, tokenizer, stage, batch)
        if not own:
            learner.model.set_attn_implementation("eager")
        losses.append(learner.step(0, batch))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
