"""Runs the model over the chunks of one step: images, embeddings, forward pass, next ids. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import nn

from lavatube.engine.batch import build_batch, images_of, splice_features
from lavatube.engine.sampler import Choice, Sampler
from lavatube.engine.scheduler import Chunk
from lavatube.engine.sequence import ImageSpan
from lavatube.model.attention import KVCache
from lavatube.model.llava import Llava

MAX_ENCODE_TILES: Final = 8
"""Squares that the vision tower reads at once: bounds its memory, whatever many requests bring at a time."""


class Runner:
    """One model, its KV cache and its sampler."""

    def __init__(self, model: Llava, cache: KVCache, sampler: Sampler) -> None:
        self._model = model
        self._cache = cache
        self._sampler = sampler
        self.num_layers_run = 0
        self._count_layers()

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> list[list[Choice | None]]:
        """Compute `chunks`; the next token of each that is sampling, in order, and of its siblings.

        None where its logits are not numbers.
        """
        self._encode_images(chunks)
        batch = build_batch(chunks, self._cache.block_size, self._model.device)
        last_id = self._model.language.embed_tokens.num_embeddings - 1
        embeddings = self._model.embed_tokens(batch.token_ids.clamp(max=last_id))  # (T, hidden)
        splice_features(embeddings, chunks)
        hidden = self._model(embeddings, self._cache, batch.layout)  # (T, hidden)
        if not batch.sampling_rows:
            return []
        logits = self._model.logits(hidden[batch.sampling_rows])  # (R, vocabulary)
        groups = [[chunk.sequence, *chunk.sequence.siblings] for chunk in chunks if chunk.is_sampling]
        origins = [index for index, group in enumerate(groups) for _ in group]
        if len(origins) > len(groups):
            logits = logits[origins]  # the first tokens of several choices come from one row
        choices = iter(self._sampler.sample(logits, [one.next_row() for group in groups for one in group]))
        return [[next(choices) for _ in group] for group in groups]

    @torch.inference_mode()
    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Give each block (from, to) the keys and values of another."""
        self._cache.copy_blocks(copies)

    def _encode_images(self, chunks: Sequence[Chunk]) -> None:
        """Encode the images whose placeholders this step reaches, of all sequences together.

        Not all of a request's at once: the step's token budget bounds this work too, so that streams go on.
        """
        missing = [
            (chunk.sequence, index)
            for chunk in chunks
            for index in images_of(chunk)
            if index not in chunk.sequence.features
        ]
        features = self._encode([sequence.images[index] for sequence, index in missing])
        for (sequence, index), encoded in zip(missing, features, strict=True):
            sequence.features[index] = encoded

    def _encode(self, spans: Sequence[ImageSpan]) -> list[torch.Tensor]:
        """Encoded and laid out. Shapes: out, for each image, (placeholders, hidden)."""
        if not spans:
            return []
        size = spans[0].pixels.size
        data = bytearray().join(span.pixels.data for span in spans)  # writable, as torch wants it
        tiles = torch.frombuffer(data, dtype=torch.uint8).view(-1, 3, size, size)
        encoded = torch.cat([self._model.encode_images(part) for part in torch.split(tiles, MAX_ENCODE_TILES)])
        parts = torch.split(encoded, [span.pixels.tiles for span in spans])  # each (tiles, features, hidden)
        return [self._model.arrange(part, span.plan) for part, span in zip(parts, spans, strict=True)]

    def _count_layers(self) -> None:
        """Count each layer as it ends: a long prompt on a slow machine is told from a hang by that."""

        def count(module: nn.Module, inputs: object, output: object) -> None:
            self.num_layers_run += 1

        for module in self._model.modules():
            if isinstance(module, nn.ModuleList):
                for layer in module:
                    layer.register_forward_hook(count)
