"""Images in, the rows that stand in their placeholders' places out: from the cache, or through the tower in batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch

from lavatube.engine.features import FeatureCache
from lavatube.engine.sequence import ImageSpan, Sequence
from lavatube.model.llava import Llava

MAX_ENCODE_TILES: Final = 8
"""Squares that the vision tower reads at once: bounds its memory, whatever many requests bring at a time."""


class Encoder:
    """Owns the features of images that are on their way into the cache of keys and values, and those kept for later."""

    def __init__(self, model: Llava, cache: FeatureCache) -> None:
        self._model = model
        self.cache = cache

    def encode(self, wanted: Iterable[tuple[Sequence, int]]) -> None:
        """Give sequences the features of their images, by index; those that have them stay as they are.

        An image that several want is encoded once.
        """
        waiting: dict[bytes, list[tuple[Sequence, int]]] = {}
        for sequence, index in wanted:
            if index not in sequence.features:
                waiting.setdefault(sequence.images[index].key, []).append((sequence, index))
        found = {key: self.cache.find(key, self._model.device) for key in waiting}
        missing = {key: _span(waiting[key]) for key, features in found.items() if features is None}
        encoded = dict(zip(missing, self._encode(list(missing.values())), strict=True))
        for key, takers in waiting.items():
            features = found[key]
            if features is None:
                features = encoded[key]
                self.cache.keep(key, features)
            for sequence, index in takers:
                sequence.features[index] = features

    def _encode(self, spans: list[ImageSpan]) -> list[torch.Tensor]:
        """Encoded and laid out. Shapes: out, for each image, (placeholders, hidden)."""
        if not spans:
            return []
        size = spans[0].pixels.size
        data = bytearray().join(span.pixels.data for span in spans)  # writable, as torch wants it
        tiles = torch.frombuffer(data, dtype=torch.uint8).view(-1, 3, size, size)
        encoded = torch.cat([self._model.encode_images(part) for part in torch.split(tiles, MAX_ENCODE_TILES)])
        parts = torch.split(encoded, [span.pixels.tiles for span in spans])  # each (tiles, features, hidden)
        return [self._model.arrange(part, span.plan) for part, span in zip(parts, spans, strict=True)]


def _span(takers: list[tuple[Sequence, int]]) -> ImageSpan:
    sequence, index = takers[0]
    return sequence.images[index]
