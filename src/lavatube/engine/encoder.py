"""Images in, the rows that stand in their placeholders' places out: from the cache, or through the tower.

In one go where nobody waits for anything else; a few layers at a time where streams run meanwhile.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Final

import torch

from lavatube.engine.features import FeatureCache
from lavatube.engine.sequence import ImageSpan, Sequence
from lavatube.model.llava import Llava

MAX_ENCODE_TILES: Final = 8
"""Squares that the vision tower reads at once on a GPU, or while its weights are still to come: bounds its memory,
whatever many requests bring at a time. On a CPU one keeps it busy, and more would only take more memory.
"""

Wanted = tuple[Sequence, int]
"""A sequence, and which of its images."""
Pieces = Generator[None, None, list[torch.Tensor]]
"""Images on their way through the tower: a layer at each step, the features of each at the end."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Images on their way through the tower together, and who wanted them when they set out."""

    takers: dict[bytes, list[Wanted]]
    pieces: Pieces


class Encoder:
    """Owns the features of images that are on their way into the cache of keys and values, and those kept for later."""

    def __init__(self, model: Llava, cache: FeatureCache, tiles_at_once: int | None = None) -> None:
        """So many tiles go through the tower at once; unless told, by the device."""
        self._model = model
        self.cache = cache
        self._tiles_at_once = tiles_at_once or (MAX_ENCODE_TILES if model.device.type == "cuda" else 1)
        self._under_way: _Batch | None = None  # what `advance` is at

    def encode(self, wanted: Iterable[Wanted]) -> None:
        """Give sequences the features of their images; those that have them stay as they are.

        An image that several want is encoded once.
        """
        takers = self._find(wanted)
        if self._under_way is not None and self._under_way.takers.keys() & takers.keys():
            self._end(_finish(self._under_way.pieces), takers)
        encoded = self._encode([_span(of_key) for of_key in takers.values()])
        for (key, of_key), features in zip(takers.items(), encoded, strict=True):
            self.cache.keep(key, features)
            _give(features, of_key)

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
        if self._under_way is not None and not self._under_way.takers.keys() & takers.keys():
            self._under_way = None
        num_run = 0
        while num_run < num_layers and takers:
            # What was begun comes first, so that there is never more than one.
            self._under_way = self._under_way or self._begin(takers)
            try:
                next(self._under_way.pieces)
            except StopIteration as end:
                self._end(end.value, takers)
            else:
                num_run += 1
        return num_run

    def drop_begun(self) -> None:
        """Of images that nobody wants any more."""
        self._under_way = None

    def _begin(self, takers: dict[bytes, list[Wanted]]) -> _Batch:
        """The first image, and those behind it for whose squares there is room."""
        batch: dict[bytes, list[Wanted]] = {}
        num_tiles = 0
        for key, of_key in takers.items():
            num_tiles += _span(of_key).pixels.tiles
            if batch and num_tiles > self._tiles_at_once:
                break
            batch[key] = list(of_key)
        return _Batch(batch, self._by_layer([_span(of_key) for of_key in batch.values()]))

    def _end(self, encoded: list[torch.Tensor], takers: dict[bytes, list[Wanted]]) -> None:
        """Give out what was under way, to those who wanted it first, too; they may be others by now."""
        assert self._under_way is not None
        for (key, of_key), features in zip(self._under_way.takers.items(), encoded, strict=True):
            self.cache.keep(key, features)
            _give(features, of_key + takers.pop(key, []))
        self._under_way = None

    def _find(self, wanted: Iterable[Wanted]) -> dict[bytes, list[Wanted]]:
        """Who still wants which image, by its key, after those that the cache has were given out."""
        takers: dict[bytes, list[Wanted]] = {}
        for sequence, index in wanted:
            if index not in sequence.features:
                takers.setdefault(sequence.images[index].key, []).append((sequence, index))
        for key in list(takers):
            is_under_way = self._under_way is not None and key in self._under_way.takers
            features = None if is_under_way else self.cache.find(key, self._model.device)
            if features is not None:
                _give(features, takers.pop(key))
        return takers

    def _encode(self, spans: list[ImageSpan]) -> list[torch.Tensor]:
        """Encoded and laid out. Shapes: out, for each image, (placeholders, hidden)."""
        parts = torch.split(_tiles(spans), self._tiles_at_once) if spans else ()
        return self._laid_out([self._model.encode_images(part) for part in parts], spans)

    def _laid_out(self, encoded: list[torch.Tensor], spans: list[ImageSpan]) -> list[torch.Tensor]:
        if not spans:
            return []
        parts = torch.split(torch.cat(encoded), [span.pixels.tiles for span in spans])  # each (tiles, features, hidden)
        return [self._model.arrange(part, span.plan) for part, span in zip(parts, spans, strict=True)]

    def _by_layer(self, spans: list[ImageSpan]) -> Pieces:
        encoded = []
        for part in torch.split(_tiles(spans), self._tiles_at_once):
            for features in self._model.encode_by_layer(part):
                if features is not None:
                    encoded.append(features)
                else:
                    yield
        return self._laid_out(encoded, spans)


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


def _finish(pieces: Pieces) -> list[torch.Tensor]:
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            encoded: list[torch.Tensor] = end.value
            return encoded
