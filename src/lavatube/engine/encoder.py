"""Images in, the rows that stand in their placeholders' places out: from the cache, or through the tower.

In batches where nobody waits for anything else; a few layers at a time where streams run meanwhile.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Final

import torch

from lavatube.engine.features import FeatureCache
from lavatube.engine.sequence import ImageSpan, Sequence
from lavatube.model.llava import Llava

MAX_ENCODE_TILES: Final = 8
"""Squares that the vision tower reads at once: bounds its memory, whatever many requests bring at a time."""

Wanted = tuple[Sequence, int]
"""A sequence, and which of its images."""
Pieces = Generator[None, None, torch.Tensor]
"""An image on its way through the tower: a layer at each step, the features at the end."""


class Encoder:
    """Owns the features of images that are on their way into the cache of keys and values, and those kept for later."""

    def __init__(self, model: Llava, cache: FeatureCache) -> None:
        self._model = model
        self.cache = cache
        self._under_way: dict[bytes, Pieces] = {}  # at most one: the image that `advance` is at

    def encode(self, wanted: Iterable[Wanted]) -> None:
        """Give sequences the features of their images; those that have them stay as they are.

        An image that several want is encoded once.
        """
        takers = self._find(wanted)
        begun = {key: _finish(self._under_way.pop(key)) for key in takers if key in self._under_way}
        fresh = {key: _span(of_key) for key, of_key in takers.items() if key not in begun}
        encoded = dict(zip(fresh, self._encode(list(fresh.values())), strict=True))
        for key, features in (begun | encoded).items():
            self.cache.keep(key, features)
            _give(features, takers[key])

    def encode_by_stage(self, wanted: Iterable[Wanted]) -> Generator[str, None, None]:
        """`encode` in pieces; before each comes the name of the stage of the model that it runs."""
        takers = self._find(wanted)
        spans = [_span(of_key) for of_key in takers.values()]
        encoded = []
        for part in torch.split(_tiles(spans), MAX_ENCODE_TILES) if spans else ():
            pieces = self._model.encode_by_layer(part)
            for number in range(len(self._model.vision.layers)):
                yield f"vision.layers.{number}"
                next(pieces)
            yield "projector"
            encoded += [features for features in pieces if features is not None]
        for (key, of_key), features in zip(takers.items(), self._laid_out(encoded, spans), strict=True):
            self.cache.keep(key, features)
            _give(features, of_key)

    def advance(self, wanted: Iterable[Wanted], num_layers: int) -> int:
        """Take the images, in order, through so many layers of the tower; returns how many they were."""
        takers = self._find(wanted)
        self._under_way = {key: pieces for key, pieces in self._under_way.items() if key in takers}
        num_run = 0
        # What was begun comes first, so that there is never more than one.
        for key in [*self._under_way, *(key for key in takers if key not in self._under_way)]:
            pieces = self._under_way.setdefault(key, self._by_layer(_span(takers[key])))
            while num_run < num_layers:
                try:
                    next(pieces)
                except StopIteration as end:
                    del self._under_way[key]
                    self.cache.keep(key, end.value)
                    _give(end.value, takers[key])
                    break
                num_run += 1
            if num_run == num_layers:
                break
        return num_run

    def _find(self, wanted: Iterable[Wanted]) -> dict[bytes, list[Wanted]]:
        """Who still wants which image, by its key, after those that the cache has were given out."""
        takers: dict[bytes, list[Wanted]] = {}
        for sequence, index in wanted:
            if index not in sequence.features:
                takers.setdefault(sequence.images[index].key, []).append((sequence, index))
        for key in list(takers):
            features = None if key in self._under_way else self.cache.find(key, self._model.device)
            if features is not None:
                _give(features, takers.pop(key))
        return takers

    def _encode(self, spans: list[ImageSpan]) -> list[torch.Tensor]:
        """Encoded and laid out. Shapes: out, for each image, (placeholders, hidden)."""
        parts = torch.split(_tiles(spans), MAX_ENCODE_TILES) if spans else ()
        return self._laid_out([self._model.encode_images(part) for part in parts], spans)

    def _laid_out(self, encoded: list[torch.Tensor], spans: list[ImageSpan]) -> list[torch.Tensor]:
        if not spans:
            return []
        parts = torch.split(torch.cat(encoded), [span.pixels.tiles for span in spans])  # each (tiles, features, hidden)
        return [self._model.arrange(part, span.plan) for part, span in zip(parts, spans, strict=True)]

    def _by_layer(self, span: ImageSpan) -> Pieces:
        """One image in pieces; on a CPU a square at a time, which is enough to keep it busy."""
        num_tiles = MAX_ENCODE_TILES if self._model.device.type == "cuda" else 1
        encoded = []
        for part in torch.split(_tiles([span]), num_tiles):
            for features in self._model.encode_by_layer(part):
                if features is not None:
                    encoded.append(features)
                else:
                    yield
        return self._model.arrange(torch.cat(encoded), span.plan)


def _tiles(spans: list[ImageSpan]) -> torch.Tensor:
    """Shapes: out (tiles of all, 3, size, size) uint8."""
    size = spans[0].pixels.size
    data = bytearray().join(span.pixels.data for span in spans)  # writable, as torch wants it
    return torch.frombuffer(data, dtype=torch.uint8).view(-1, 3, size, size)


def _give(features: torch.Tensor, takers: list[Wanted]) -> None:
    for sequence, index in takers:
        sequence.features[index] = features


def _span(takers: list[Wanted]) -> ImageSpan:
    sequence, index = takers[0]
    return sequence.images[index]


def _finish(pieces: Pieces) -> torch.Tensor:
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            features: torch.Tensor = end.value
            return features
