"""The decoder: embeddings of ragged rows in, hidden states after the last norm out. Knows no images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from lavatube.model.elementwise import RMSNorm, Rotation, swiglu
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
        self.norm = RMSNorm(language.hidden_size, language.rms_norm_eps)
        # Named device: a model is built on the meta device first, and constants must survive that.
        exponents = torch.arange(0, language.head_dim, 2, dtype=torch.float32, device="cpu") / language.head_dim
        self.register_buffer("inverse_frequencies", 1.0 / language.rope_theta**exponents, persistent=False)

    def forward(self, embeddings: Tensor, positions: Tensor, attention: Attend) -> Tensor:
        """Shapes: embeddings (T, hidden), positions (T,); out (T, hidden)."""
        *_, out = self.by_layer(embeddings, positions, attention)
        assert out is not None
        return out

    def by_layer(self, embeddings: Tensor, positions: Tensor, attention: Attend) -> Iterator[Tensor | None]:
        """`forward` in pieces: nothing after each block, and at last the states."""
        rotate = Rotation(positions, self.inverse_frequencies, embeddings.dtype)
        hidden = embeddings
        for block in self.layers:
            hidden = block(hidden, rotate, attention)
            yield None
        yield self.norm(hidden)


class _Block(nn.Module):
    """Norm, attention, norm, perceptron; each pair added to what came in."""

    def __init__(self, language: LanguageSpec, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(language.hidden_size, language.rms_norm_eps)
        self.self_attn = _SelfAttention(language, index)
        self.post_attention_layernorm = RMSNorm(language.hidden_size, language.rms_norm_eps)
        self.mlp = _Perceptron(language)

    def forward(self, hidden: Tensor, rotate: Rotation, attention: Attend) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotate, attention)
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

    def forward(self, hidden: Tensor, rotate: Rotation, attention: Attend) -> Tensor:
        query, key, value = (
            torch.unflatten(part, -1, (-1, self.head_dim))  # (T, heads, head_dim)
            for part in self.qkv_proj.split(hidden)
        )
        out = attention(self.index, rotate(query), rotate(key), value)
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
        out: Tensor = self.down_proj(swiglu(self.gate_up_proj(hidden)))
        return out
