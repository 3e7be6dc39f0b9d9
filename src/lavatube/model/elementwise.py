"""What stands between the products: norm, rotary embedding, activations. Kernels in bfloat16 on a CPU, else torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavatube.model.native import kernels_for


class RMSNorm(nn.RMSNorm):
    """Shapes: in and out (…, size)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps=eps)
        self.epsilon = eps

    def forward(self, hidden: Tensor) -> Tensor:
        kernels = kernels_for(hidden)
        return super().forward(hidden) if kernels is None else kernels.normalize(hidden, self.weight, self.epsilon)


def swiglu(gate_up: Tensor) -> Tensor:
    """Shapes: in (…, 2 · size), out (…, size)."""
    kernels = kernels_for(gate_up)
    if kernels is not None:
        return kernels.gate(gate_up, 1.0, 0.0, is_gated=True)
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


class Rotation:
    """The rotary embedding of a step's rows, of halves, as Llama pairs them: dimension i with i + head_dim / 2."""

    def __init__(self, positions: Tensor, inverse_frequencies: Tensor, dtype: torch.dtype) -> None:
        """Angles are worked out in float32. Shapes: (T,), (head_dim / 2,)."""
        angles = positions.float()[:, None] * inverse_frequencies
        self.cosines, self.sines = angles.cos(), angles.sin()  # (T, head_dim / 2)
        self._dtype = dtype

    def __call__(self, heads: Tensor) -> Tensor:
        """May change `heads`. Shapes: in and out (T, heads, head_dim)."""
        kernels = kernels_for(heads)
        if kernels is not None:
            kernels.rotate(heads, self.cosines, self.sines)
            return heads
        cos, signed_sin = self._tables
        return heads * cos + heads.roll(heads.shape[-1] // 2, dims=-1) * signed_sin

    @cached_property
    def _tables(self) -> tuple[Tensor, Tensor]:
        """Shapes: out (T, 1, head_dim) each."""
        cos = torch.cat([self.cosines, self.cosines], dim=-1)
        signed_sin = torch.cat([-self.sines, self.sines], dim=-1)
        return cos.to(self._dtype)[:, None], signed_sin.to(self._dtype)[:, None]


def _quick_gelu(values: Tensor) -> Tensor:
    kernels = kernels_for(values)
    return (
        values * torch.sigmoid(1.702 * values) if kernels is None else kernels.gate(values, 1.702, 0.0, is_gated=False)
    )


def _gelu_tanh(values: Tensor) -> Tensor:
    kernels = kernels_for(values)
    if kernels is None:
        return functional.gelu(values, approximate="tanh")
    # (1 + tanh(z)) / 2 is sigmoid(2 z), and 2 z is 2 √(2 / π) · (x + 0.044715 x³).
    return kernels.gate(values, 1.5957691216, 0.0713548163, is_gated=False)


ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "quick_gelu": _quick_gelu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": _gelu_tanh,
}
