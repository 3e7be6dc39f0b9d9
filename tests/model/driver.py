"""Sequences through the model by hand: what the engine does, without any of its decisions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lavatube.model.attention import KVCache, Layout
from lavatube.model.llava import Llava
from lavatube.spec import ModelSpec


@dataclass(slots=True)
class Stream:
    """One sequence: its blocks, and how many of its tokens are in the cache."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0


class Driver:
    """Owns a cache whose blocks are handed out in a scrambled order, and full of NaN, as a bad owner leaves them."""

    def __init__(self, model: Llava, spec: ModelSpec, *, num_blocks: int = 256, block_size: int = 16) -> None:
        self.model = model
        self.cache = KVCache.allocate(spec.language, num_blocks, block_size, model.dtype, model.device)
        self.cache.keys.fill_(torch.nan)
        self.cache.values.fill_(torch.nan)
        self._free = list(range(num_blocks))
        random.Random(0).shuffle(self._free)

    def take_block(self) -> int:
        """One that no stream will get."""
        return self._free.pop()

    def step(self, chunks: Sequence[tuple[Stream, Tensor]]) -> list[Tensor]:
        """Logits of every row. Shapes: each chunk's embeddings (n, hidden); out (n, vocab) each."""
        layout = self.layout([(stream, len(rows)) for stream, rows in chunks])
        hidden = self.model(torch.cat([rows for _, rows in chunks]), self.cache, layout)
        return list(self.model.logits(hidden).split([len(rows) for _, rows in chunks]))

    def layout(self, chunks: Sequence[tuple[Stream, int]], device: torch.device | None = None) -> Layout:
        """Grows each stream by so many rows. On the cache's device, if on no other."""
        positions: list[int] = []
        slots: list[int] = []
        query_starts = [0]
        size = self.cache.block_size
        for stream, count in chunks:
            added = range(stream.length, stream.length + count)
            stream.length += count
            while len(stream.blocks) * size < stream.length:
                stream.blocks.append(self._free.pop())
            positions += added
            slots += [stream.blocks[position // size] * size + position % size for position in added]
            query_starts.append(len(positions))
        width = max(len(stream.blocks) for stream, _ in chunks)
        tables = [stream.blocks + [0] * (width - len(stream.blocks)) for stream, _ in chunks]
        device = device or self.cache.keys.device
        return Layout(
            positions=torch.tensor(positions, device=device),
            slots=torch.tensor(slots, device=device),
            query_starts=query_starts,
            context_lengths=[stream.length for stream, _ in chunks],
            block_tables=torch.tensor(tables, device=device),
        )

    def generate(self, prompts: Sequence[Tensor], num_tokens: int) -> list[list[int]]:
        """Greedy ids of all prompts (embeddings) together, a whole prefill and then one row each a step."""
        streams = [Stream() for _ in prompts]
        logits = self.step(list(zip(streams, prompts, strict=True)))
        answers: list[list[int]] = [[] for _ in prompts]
        while True:
            ids = torch.stack([rows[-1].argmax() for rows in logits])
            for answer, token_id in zip(answers, ids.tolist(), strict=True):
                answer.append(token_id)
            if len(answers[0]) == num_tokens:
                return answers
            logits = self.step(list(zip(streams, self.model.embed_tokens(ids).split(1), strict=True)))
