"""A layer of the decoder in one call of the compiled kernels: nothing of torch in between, no thread has to wake up."""

from __future__ import annotations

from torch import Tensor

from lavatube.model.elementwise import RMSNorm, Rotation
from lavatube.model.linear import Linear
from lavatube.model.native import Heads, Layer
from lavatube.model.native_attention import NativeAttention


class NativeLayer:
    """Points into the weights of a layer, whose places in memory must be final."""

    def __init__(
        self, norms: tuple[RMSNorm, RMSNorm], maps: tuple[Linear, Linear, Linear, Linear], num_heads: int, head_dim: int
    ) -> None:
        """`norms` before attention and perceptron; `maps` to query, key and value, out of attention, up and down."""
        num_kv_heads = maps[0].outputs // head_dim - num_heads
        self._layer = Layer(
            *(linear.map() for linear in maps),
            *(norm.weight.data_ptr() for norm in norms),
            Heads(num_heads, num_kv_heads // 2, head_dim),
            norms[0].epsilon,
        )

    def __call__(self, hidden: Tensor, rotation: Rotation, attention: NativeAttention, index: int) -> Tensor:
        """Shapes: in and out (T, hidden) bfloat16."""
        context = attention.context(index)
        return attention.kernels.layer(self._layer, context, rotation.cosines, rotation.sines, hidden)
