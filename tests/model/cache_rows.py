"""The cache of keys and values as the kernels have it, token by token."""

from __future__ import annotations

from torch import Tensor

from lavatube.model.attention import KVCache


def rows_of(cache: KVCache) -> tuple[Tensor, Tensor]:
    """A copy. Shapes: out (layers, kv_heads, slots, head_dim) each."""
    return _keys(cache).flatten(2, 3).flatten(3), _values(cache).flatten(2, 4).flatten(3)


def put_rows(cache: KVCache, keys: Tensor, values: Tensor) -> None:
    """Shapes: (layers, kv_heads, slots, head_dim) each."""
    _keys(cache).copy_(keys.view(_keys(cache).shape))
    _values(cache).copy_(values.view(_values(cache).shape))


def _keys(cache: KVCache) -> Tensor:
    """Shapes: out (layers, kv_heads, panels, 16 tokens, head_dim / 2, 2)."""
    return cache.keys.unflatten(2, (-1, 16)).flatten(3).unflatten(3, (-1, 16, 2)).transpose(3, 4)


def _values(cache: KVCache) -> Tensor:
    """Shapes: out (layers, kv_heads, panels, 8, 2 tokens, head_dim / 16, 16)."""
    return cache.values.unflatten(2, (-1, 16)).flatten(3).unflatten(3, (-1, 8, 16, 2)).permute(0, 1, 2, 4, 6, 3, 5)
