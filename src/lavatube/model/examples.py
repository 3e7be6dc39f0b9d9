"""Small made-up inputs of a model's own shapes, by which a kernel is compared with its twin in `twins`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lavatube.model.panels import MANY_ROWS, Kind, Panels
from lavatube.spec import LanguageSpec, Quantize

Example = tuple[Any, ...]
_KINDS: dict[Quantize, tuple[Kind, ...]] = {"none": (), "int8": ("int8",), "int4": ("int8", "int4"), "fp8": ("fp8",)}
_LENGTHS = (1, 37, 150)
_TABLE_TOKENS = tuple(32 << power for power in range(7))
"""Longest contexts, by which attention is cut into one part, two, four and so on: each is another kernel."""


class Examples:
    """Of one model in one precision on one device. The same each time."""

    def __init__(
        self,
        language: LanguageSpec,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        quantize: Quantize = "none",
    ) -> None:
        self._language = language
        self._block_size = block_size
        self._dtype, self.device = dtype, device
        self._kinds = _KINDS[quantize]
        self._generator = torch.Generator().manual_seed(0)

    def of(self, key: str) -> Iterator[Example]:
        """For one of `Fused.operations`: what the method of its name gives."""
        found: Iterator[Example] = getattr(self, key)()
        return found

    def attend(self) -> Iterator[Example]:
        """Sequences together, and each length of table that makes a difference."""
        yield self._attend(_LENGTHS, max(_LENGTHS))
        for tokens in _TABLE_TOKENS:
            yield self._attend((min(tokens, max(_LENGTHS)),), tokens)

    def normalize(self) -> Iterator[Example]:
        size, epsilon = self._language.hidden_size, self._language.rms_norm_eps
        hidden, added, weight = self._random(3, size), self._random(3, size), self._random(size)
        yield hidden, added, weight, epsilon
        yield hidden, None, weight, epsilon

    def rotate_and_store(self) -> Iterator[Example]:
        language, count = self._language, 3
        merged = self._random(count, language.num_heads + 2 * language.num_kv_heads, language.head_dim)
        angles = self._random(count, language.head_dim // 2).float()
        slots = torch.tensor([21, 0, 5], device=self.device)
        yield merged, angles.cos(), angles.sin(), self._unwritten(32), self._unwritten(32), slots

    def swiglu(self) -> Iterator[Example]:
        yield (self._random(3, 2 * self._language.intermediate_size),)

    def multiply(self) -> Iterator[Example]:
        """One row and many, as of a layer that has biases, and as of the head, which wants its sums in float32."""
        for kind in self._kinds:
            yield from self._multiply(kind, (1, 70))

    def multiply_rounded(self) -> Iterator[Example]:
        if "fp8" in self._kinds:
            yield from self._multiply("fp8", (MANY_ROWS + 9,))

    def _multiply(self, kind: Kind, counts: tuple[int, ...]) -> Iterator[Example]:
        inputs, outputs = self._language.hidden_size, 40
        with self.device:
            panels = Panels(outputs, inputs, kind)
        panels.put(0, self._random(outputs, inputs))
        bias = self._random(outputs)
        for count in counts:
            hidden = self._random(count, inputs) * inputs**-0.5  # so that sums are about one
            for addend, dtype in ((bias, self._dtype), (None, self._dtype), (None, torch.float32)):
                yield panels, hidden, addend, dtype

    def _attend(self, lengths: tuple[int, ...], table_tokens: int) -> Example:
        """Blocks lie in no order, and what no sequence owns is NaN."""
        language, size = self._language, self._block_size
        counts = [-(-length // size) for length in lengths]
        blocks = torch.randperm(sum(counts), generator=self._generator) + 1
        tables = torch.zeros(len(lengths), -(-table_tokens // size), dtype=torch.int64)
        keys, values = (self._unwritten((sum(counts) + 1) * size) for _ in range(2))
        for table, own, length in zip(tables, torch.split_with_sizes(blocks, counts), lengths, strict=True):
            table[: len(own)] = own
            positions = torch.arange(length)
            slots = (own[positions // size] * size + positions % size).to(self.device)
            for stored in (keys, values):
                stored[:, slots] = self._random(language.num_kv_heads, length, language.head_dim)
        query = self._random(len(lengths), language.num_heads, language.head_dim)
        on_device = (torch.tensor(lengths, device=self.device), tables.to(self.device))
        return query, keys, values, *on_device, size, language.sliding_window

    def _unwritten(self, num_slots: int) -> Tensor:
        shape = (self._language.num_kv_heads, num_slots, self._language.head_dim)
        return torch.full(shape, torch.nan, dtype=self._dtype, device=self.device)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self.device, self._dtype)
