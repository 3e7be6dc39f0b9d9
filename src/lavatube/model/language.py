"""The decoder: embeddings of ragged rows in, hidden states after the last norm out. Knows no images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavatube.model.linear import Linear, MergedLinear, Table
from lavatube.spec import LanguageSpec

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Of layer, query, key and value: `Attention`, by whatever means."""


class LanguageModel(nn.Module):
    """All rows of a step through all layers."""

    inverse_frequencies: Tensor

    def __init__(self, language: LanguageSpec) -> None:
        super().__init__()
        self.embed_tokens = Table(language.vocab_size, language.hidden_size)
        self.layers = nn.ModuleList(_Block(language, index) for index in range(language.num_layers))
        self.sliding_window = language.sliding_window
        self.norm = nn.RMSNorm(language.hidden_size, eps=language.rms_norm_eps)
        # Named device: a model is built on the meta device first, and constants must survive that.
        exponents = torch.arange(0, language.head_dim, 2, dtype=torch.float32, device="cpu") / language.head_dim
        self.register_buffer("inverse_frequencies", 1.0 / language.rope_theta**exponents, persistent=False)

    def forward(self, embeddings: Tensor, positions: Tensor, attention: Attend) -> Tensor:
        """Shapes: embeddings (T, hidden), positions (T,); out (T, hidden)."""
        rotation = self._rotation(positions, embeddings.dtype)
        hidden = embeddings
        for block in self.layers:
            hidden = block(hidden, rotation, attention)
        out: Tensor = self.norm(hidden)
        return out

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine of every row's angles, worked out in float32. Shapes: (T, 1, head_dim) each."""
        angles = positions.float()[:, None, None] * self.inverse_frequencies  # (T, 1, head_dim / 2)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype)


class _Block(nn.Module):
    """Norm, attention, norm, perceptron; each pair added to what came in."""

    def __init__(self, language: LanguageSpec, index: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(language.hidden_size, eps=language.rms_norm_eps)
        self.self_attn = _SelfAttention(language, index)
        self.post_attention_layernorm = nn.RMSNorm(language.hidden_size, eps=language.rms_norm_eps)
        self.mlp = _Perceptron(language)

    def forward(self, hidden: Tensor, rotation: tuple[Tensor, Tensor], attention: Attend) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotation, attention)
        out: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out


class _SelfAttention(nn.Module):
    def __init__(self, language: LanguageSpec, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_dim = language.head_dim
        query_size, key_size = language.num_heads * language.head_dim, language.num_kv_heads * language.head_dim
        parts = {"q_proj": query_size, "k_proj": key_size, "v_proj": key_size}
        self.qkv_proj = MergedLinear(language.hidden_size, parts, bias=language.has_qkv_bias)
        self.o_proj = Linear(query_size, language.hidden_size, bias=False)

    def forward(self, hidden: Tensor, rotation: tuple[Tensor, Tensor], attention: Attend) -> Tensor:
        query, key, value = (
            torch.unflatten(part, -1, (-1, self.head_dim))  # (T, heads, head_dim)
            for part in self.qkv_proj.split(hidden)
        )
        out = attention(self.index, _rotate(query, rotation), _rotate(key, rotation), value)
        merged: Tensor = self.o_proj(out.flatten(1))
        return merged


class _Perceptron(nn.Module):
    """SwiGLU."""

    def __init__(self, language: LanguageSpec) -> None:
        super().__init__()
        size = language.intermediate_size
        self.gate_up_proj = MergedLinear(language.hidden_size, {"gate_proj": size, "up_proj": size}, bias=False)
        self.down_proj = Linear(size, language.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.gate_up_proj.split(hidden)
        out: Tensor = self.down_proj(functional.silu(gate) * up)
        return out


def _rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of halves, as Llama pairs them: dimension i with i + head_dim / 2.

    Shapes: in and out (T, heads, head_dim).
    """
    cos, signed_sin = rotation
    return heads * cos + heads.roll(heads.shape[-1] // 2, dims=-1) * signed_sin
