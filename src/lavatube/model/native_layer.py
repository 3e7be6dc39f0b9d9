"""Layers of the decoder in one call of the compiled kernels: nothing of torch in between, no thread has to wake up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from torch import Tensor

from lavatube.model.elementwise import RMSNorm, Rotation
from lavatube.model.linear import Linear
from lavatube.model.native import Heads, Layer
from lavatube.model.native_attention import NativeAttention


class NativeLayers:
    """Layers that follow each other, from number `first` on. Points into their weights, whose places must be final."""

    def __init__(self, first: int, layers: Sequence[Layer]) -> None:
        self._first = first
        self._layers = (Layer * len(layers))(*layers)

    def __call__(self, hidden: Tensor, rotation: Rotation, attention: NativeAttention) -> Tensor:
        """Shapes: in and out (T, hidden) bfloat16."""
        context = attention.context(self._first)
        return attention.kernels.layers(self._layers, context, rotation.cosines, rotation.sines, hidden)

    @classmethod
    def joined(cls, parts: Sequence[NativeLayers]) -> NativeLayers:
        return cls(parts[0]._first, [*chain.from_iterable(part._layers for part in parts)])


def native_layer(
    norms: tuple[RMSNorm, RMSNorm], maps: tuple[Linear, Linear, Linear, Linear], num_heads: int, head_dim: int
) -> Layer:
    """`norms` before attention and perceptron; `maps` to query, key and value, out of attention, up and down."""
    num_kv_heads = maps[0].outputs // head_dim - num_heads
    return Layer(
        *(linear.map() for linear in maps),
        *(norm.weight.data_ptr() for norm in norms),
        Heads(num_heads, num_kv_heads // 2, head_dim),
        norms[0].epsilon,
    )
