"""The decoder: embeddings of ragged rows in, hidden states after the last norm out. Knows no images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, cast

import torch
from torch import Tensor, nn

from lavatube.model.elementwise import RMSNorm, Rotation, swiglu
from lavatube.model.fused_attention import FusedAttention
from lavatube.model.linear import Linear, MergedLinear, Table
from lavatube.model.native_attention import NativeAttention
from lavatube.model.native_layer import NativeLayers, native_layer
from lavatube.spec import LanguageSpec

Summands = tuple[Tensor, Tensor | None]
"""States, and what is yet to be added to them: the next norm does that on the way. Shapes: (T, hidden) each."""
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Of layer, query, key and value: `Attention`, by whatever means."""

_FEW_ROWS: Final = 64
"""So few are through all layers before anybody would miss a sign of life."""


class LanguageModel(nn.Module):
    """All rows of a step through all layers."""

    inverse_frequencies: Tensor

    def __init__(self, language: LanguageSpec) -> None:
        super().__init__()
        self.embed_tokens = Table(language.vocab_size, language.hidden_size)
        self.layers = nn.ModuleList(Block(language, index) for index in range(language.num_layers))
        self.sliding_window = language.sliding_window
        self.norm = RMSNorm(language.hidden_size, language.rms_norm_eps)
        # Named device: a model is built on the meta device first, and constants must survive that.
        exponents = torch.arange(0, language.head_dim, 2, dtype=torch.float32, device="cpu") / language.head_dim
        self.register_buffer("inverse_frequencies", 1.0 / language.rope_theta**exponents, persistent=False)
        self._native: NativeLayers | None = None

    def forward(self, embeddings: Tensor, positions: Tensor, attention: Attend) -> Tensor:
        """Shapes: embeddings (T, hidden), positions (T,); out (T, hidden)."""
        if isinstance(attention, NativeAttention) and len(embeddings) <= _FEW_ROWS and self._is_in_panels:
            return self.in_one_call(embeddings, positions, attention)
        *_, out = self.by_layer(embeddings, positions, attention)
        assert out is not None
        return out

    @property
    def _is_in_panels(self) -> bool:
        return self._native is not None or all(block.is_in_panels for block in self._blocks)

    @property
    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    def in_one_call(self, embeddings: Tensor, positions: Tensor, attention: NativeAttention) -> Tensor:
        """The same to the last bit. Weights that stream through the caches take Python's code out of them: between two
        layers it would come from memory again, which is milliseconds a token.
        """
        if self._native is None:
            self._native = NativeLayers.joined([block.native for block in self._blocks])
        rotate = Rotation(positions, self.inverse_frequencies, embeddings.dtype)
        out: Tensor = self.norm(self._native(embeddings, rotate, attention))
        return out

    def by_layer(self, embeddings: Tensor, positions: Tensor, attention: Attend) -> Iterator[Tensor | None]:
        """`forward` in pieces: nothing after each block, and at last the states.

        Of rows that nobody wants, the kernels for CPUs compute what the cache keeps: for their states stands what tells
        whether that is numbers.
        """
        rotate = Rotation(positions, self.inverse_frequencies, embeddings.dtype)
        is_fused = isinstance(attention, FusedAttention)
        hidden: Tensor | Summands = (embeddings, None) if is_fused else embeddings
        for index, block in enumerate(self.layers):
            hidden = block(hidden, rotate, attention, is_last=index == len(self.layers) - 1)
            yield None
        if isinstance(attention, FusedAttention) and isinstance(hidden, tuple):
            yield attention.fused.normalize(*hidden, self.norm.weight, self.norm.epsilon)[1]
        else:
            yield self.norm(hidden)


class Block(nn.Module):
    """Norm, attention, norm, perceptron; each pair added to what came in."""

    def __init__(self, language: LanguageSpec, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(language.hidden_size, language.rms_norm_eps)
        self.self_attn = _SelfAttention(language, index)
        self.post_attention_layernorm = RMSNorm(language.hidden_size, language.rms_norm_eps)
        self.mlp = _Perceptron(language)
        self._native: NativeLayers | None = None

    def forward(
        self, hidden: Tensor | Summands, rotate: Rotation, attention: Attend, *, is_last: bool = False
    ) -> Tensor | Summands:
        if isinstance(hidden, tuple):
            assert isinstance(attention, FusedAttention)
            return self.by_fused(hidden, rotate, attention)
        if is_last and isinstance(attention, NativeAttention) and attention.wanted is not None:
            return self.of_wanted(hidden, rotate, attention, attention.wanted)
        if isinstance(attention, NativeAttention) and self.is_in_panels:
            return self.native(hidden, rotate, attention)
        return self.by_parts(hidden, rotate, attention)

    def by_parts(self, hidden: Tensor, rotate: Rotation, attention: Attend) -> Tensor:
        """Each by whatever means it has."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotate, attention)
        out: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out

    def of_wanted(self, hidden: Tensor, rotate: Rotation, attention: NativeAttention, wanted: Tensor) -> Tensor:
        """The last block for some rows, the same to the last bit. The others end as sums of what they attended to: no
        numbers, if any of their keys and values were none. Shapes: wanted (W,); in and out (T, hidden).
        """
        attended = self.self_attn.attend(self.input_layernorm(hidden), rotate, attention)
        out = hidden + attended.sum(dim=-1, keepdim=True)
        if len(wanted):
            some = hidden[wanted] + self.self_attn.o_proj(attended[wanted])
            out[wanted] = some + self.mlp(self.post_attention_layernorm(some))
        return out

    @property
    def native(self) -> NativeLayers:
        """The same to the last bit, in one call."""
        if self._native is None:  # now, and not earlier, the weights are where they stay
            norms = self.input_layernorm, self.post_attention_layernorm
            layer = native_layer(norms, self._maps, self.self_attn.num_heads, self.self_attn.head_dim)
            self._native = NativeLayers(self.self_attn.index, [layer])
        return self._native

    def by_fused(self, summands: Summands, rotate: Rotation, attention: FusedAttention) -> Summands:
        """The same, but for roundings, with what stands between the products put together: fewer, larger launches."""
        fused, norm, next_norm = attention.fused, self.input_layernorm, self.post_attention_layernorm
        hidden, rows = fused.normalize(*summands, norm.weight, norm.epsilon)
        attended = self.self_attn.by_fused(rows, rotate, attention)
        hidden, rows = fused.normalize(hidden, attended, next_norm.weight, next_norm.epsilon)
        return hidden, self.mlp.down_proj(fused.swiglu(self.mlp.gate_up_proj(rows)))

    @property
    def is_in_panels(self) -> bool:
        return all(linear.has_map for linear in self._maps)

    @property
    def _maps(self) -> tuple[Linear, Linear, Linear, Linear]:
        """In order."""
        return self.self_attn.qkv_proj, self.self_attn.o_proj, self.mlp.gate_up_proj, self.mlp.down_proj


class _SelfAttention(nn.Module):
    def __init__(self, language: LanguageSpec, index: int) -> None:
        super().__init__()
        self.index = index
        self.num_heads, self.head_dim = language.num_heads, language.head_dim
        query_size, key_size = language.num_heads * language.head_dim, language.num_kv_heads * language.head_dim
        parts = {"q_proj": query_size, "k_proj": key_size, "v_proj": key_size}
        self.qkv_proj = MergedLinear(language.hidden_size, parts, bias=language.has_qkv_bias)
        self.o_proj = Linear(query_size, language.hidden_size, bias=False)

    def forward(self, hidden: Tensor, rotate: Rotation, attention: Attend) -> Tensor:
        merged: Tensor = self.o_proj(self.attend(hidden, rotate, attention))
        return merged

    def attend(self, hidden: Tensor, rotate: Rotation, attention: Attend) -> Tensor:
        """Of all heads, before they are merged. Shapes: in (T, hidden), out (T, heads · head_dim)."""
        query, key, value = (
            torch.unflatten(part, -1, (-1, self.head_dim))  # (T, heads, head_dim)
            for part in self.qkv_proj.split(hidden)
        )
        return attention(self.index, rotate(query), rotate(key), value).flatten(1)

    def by_fused(self, hidden: Tensor, rotate: Rotation, attention: FusedAttention) -> Tensor:
        heads = torch.unflatten(self.qkv_proj(hidden), -1, (-1, self.head_dim))  # (T, heads + 2 · kv_heads, head_dim)
        merged: Tensor = self.o_proj(
            attention.rotate_and_attend(self.index, heads, rotate.cosines, rotate.sines).flatten(1)
        )
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
