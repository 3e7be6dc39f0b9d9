"""What the machine can do at best, measured, and what a shape asks of it, counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial

import torch
from torch.nn import functional

from bench.engine.shapes import Shape

RUNS = 5


@dataclass(frozen=True, slots=True)
class Floors:
    """Bytes a second that are read, and operations a second of matrix products in bfloat16 and int8."""

    bytes_per_s: float = 0.0
    bf16_ops: float = 0.0
    int8_ops: float = 0.0

    def __or__(self, other: Floors) -> Floors:
        """The best of both."""
        return Floors(*map(max, astuple(self), astuple(other)))


def measure_floors() -> Floors:
    """On all cores, the best of a few runs."""
    memory = torch.ones(256 * 1024 * 1024)  # 1 GiB, far beyond any cache
    rows, weight = (
        torch.randint(-8, 8, (1024, 2048), dtype=torch.int8),
        torch.randint(-8, 8, (8192, 2048)).to(torch.int8),
    )
    floating = [(rows.to(dtype), weight.to(dtype)) for dtype in (torch.bfloat16, torch.float32)]
    num_ops = 2 * rows.numel() * len(weight)
    # Where bfloat16 or int8 are not in hardware, float32 is the quicker way to the same.
    in_floats = num_ops / min(_least_s(partial(functional.linear, *operands)) for operands in floating)
    return Floors(
        memory.nbytes / min(_least_s(lambda: memory.sum()), _least_s(lambda: memory.amax())),
        in_floats,
        max(in_floats, num_ops / _least_s(lambda: torch._int_mm(rows, weight.t()))),
    )


def decode_bytes(shape: Shape, bits: float, head_bits: float) -> float:
    """Weights that one decoded token reads."""
    return layer_weights(shape) * bits / 8 + _head_weights(shape) * head_bits / 8


def first_token_ops(shape: Shape, num_text_tokens: int) -> float:
    """The picture through the tower and the prompt through the decoder; products of weights, and attention."""
    recipe = shape.recipe
    num_tiles = 2 if recipe.family == "llava_onevision" else 5 if recipe.family == "llava_next" else 1
    width, patches = recipe.vision_hidden_size, recipe.num_patches + recipe.has_class_token
    layers = recipe.vision_layers + (recipe.select_layer + 1 if isinstance(recipe.select_layer, int) else 0)
    block = 4 * width**2 + 2 * width * recipe.vision_intermediate_size
    projector = recipe.feature_size * recipe.hidden_size + recipe.hidden_size**2
    vision = num_tiles * patches * (layers * (2 * block + 4 * patches * width) + 2 * projector)
    tokens = recipe.num_image_tokens * num_tiles + num_text_tokens
    attention = 2 * tokens**2 * recipe.layers * recipe.hidden_size
    return vision + 2 * layer_weights(shape) * tokens + attention + 2 * _head_weights(shape)


def layer_weights(shape: Shape) -> int:
    """Those of the decoder's layers."""
    recipe = shape.recipe
    head_dim = recipe.head_dim or recipe.hidden_size // recipe.heads
    attention = recipe.hidden_size * head_dim * 2 * (recipe.heads + recipe.kv_heads)
    return recipe.layers * (attention + 3 * recipe.hidden_size * recipe.intermediate_size)


def _head_weights(shape: Shape) -> int:
    return shape.recipe.vocab_size * shape.recipe.hidden_size


def _least_s(work: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)
