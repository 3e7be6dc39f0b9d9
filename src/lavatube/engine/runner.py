"""Runs the model over the chunks of one step: images, embeddings, forward pass, next ids. Decides nothing."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import chain, islice, pairwise
from math import isfinite
from typing import Final, cast

import torch
from torch import Tensor, nn

from lavatube.engine.batch import Batch, as_tensor, build_batch, build_layout, images_of, splice_features
from lavatube.engine.chunk import Chunk
from lavatube.engine.encoder import Encoder, Wanted
from lavatube.engine.launched import Launched, Results
from lavatube.engine.row import Row
from lavatube.engine.sampler import Choice, Sampler
from lavatube.model.attention import KVCache
from lavatube.model.gate import VERIFIED
from lavatube.model.llava import Llava
from lavatube.model.replay import Replay

_HOST: Final = torch.device("cpu")


class Runner:
    """One model, its encoder of images, its KV cache and its sampler."""

    def __init__(
        self, model: Llava, encoder: Encoder, cache: KVCache, sampler: Sampler, replay: Replay | None = None
    ) -> None:
        self._model = model
        self._encoder = encoder
        self._cache = cache
        self._sampler = sampler
        self._replay = replay
        self.num_layers_run = 0
        self._count_layers()

    def record(self) -> None:
        """What can wait until the step's tokens are told: steps are recorded that will be computed again."""
        if self._replay is not None:
            self._replay.record_wanted()

    def bind(self) -> None:
        """Triton launches on the current device, of which each thread has its own."""
        if self._model.device.type == "cuda":
            torch.cuda.set_device(self._model.device)

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> Results:
        """Compute `chunks`. For each, in order, what comes next for the sequence and its siblings, or for it and after
        each token of its guess; nothing for one that is not sampling. None where something is not a number, and nothing
        of that chunk is worth keeping; in a guess, what is not a number only ends it.
        """
        # Not all images of a request at once: the step's token budget bounds this work too, so that streams go on.
        if wanted := _wanted(chunks):
            self._encoder.encode(wanted)
        elif replay := self._replay_of(chunks):
            batch = build_batch(chunks, self._cache.block_size, _HOST)
            return self._end(chunks, batch, *replay.decode(batch.token_ids, batch.layout))
        batch, embeddings = self._begin(chunks, has_images=bool(wanted))
        hidden = self._model(embeddings, self._cache, batch.layout)  # (T, hidden)
        return self._end(chunks, batch, hidden)

    def launch(self, chunks: Sequence[Chunk], before: Launched | None = None) -> Launched | None:
        """Begin a step and wait for nothing. None where it can't be replayed, or a row wants anything but the likeliest
        token. The tokens that it computes are known, or those that the step `before` chooses for the same sequences.
        """
        replay = self._replay_of(chunks)
        if replay is None or (before is None and not all(map(_is_plain, chunks))):  # after a plain token all are
            return None
        with torch.inference_mode():
            layout = build_layout(chunks, self._cache.block_size, _HOST)
            if before is None:
                token_ids = [chunk.sequence.token_ids[chunk.start] for chunk in chunks]
                decoded = replay.decode(as_tensor(token_ids), layout)
            else:
                decoded = replay.decode(as_tensor(before.places(chunks)), layout, before.chosen)
            return Launched.choose(chunks, decoded, self._sampler.forbidden_ids)

    @torch.inference_mode()
    def by_stage(self, pieces: Sequence[Chunk]) -> Generator[str, None, Results]:
        """Compute the pieces of one prompt as `run` would in a step each, but all of them in one stage after the other.

        Before each stage comes its name.
        """
        for piece in pieces:
            yield from self._encoder.encode_by_stage(_wanted([piece]))
        yield "language.embed_tokens"
        begun = [self._begin([piece], has_images=True) for piece in pieces]
        passes = [self._model.forward_by_layer(rows, self._cache, batch.layout) for batch, rows in begun]
        for number in range(len(self._model.language.layers)):
            yield f"language.layers.{number}"
            for one in passes:
                next(one)
        yield VERIFIED
        results: Results = []
        for piece, (batch, _), one in zip(pieces, begun, passes, strict=True):
            hidden = next(one)
            assert hidden is not None
            results += self._end([piece], batch, hidden)
        return results

    def _replay_of(self, chunks: Sequence[Chunk]) -> Replay | None:
        """What has a step of these recorded, if anything has."""
        if self._replay is None or not chunks or any(chunk.num_rows > 1 or images_of(chunk) for chunk in chunks):
            return None
        return self._replay if self._replay.has(len(chunks)) else None

    def _begin(self, chunks: Sequence[Chunk], *, has_images: bool) -> tuple[Batch, Tensor]:
        """The rows of a step, and their embeddings (T, hidden)."""
        batch = build_batch(chunks, self._cache.block_size, self._model.device)
        embeddings = self._model.embed_tokens(batch.token_ids)
        if has_images:
            splice_features(embeddings, chunks)
        return batch, embeddings

    def _end(self, chunks: Sequence[Chunk], batch: Batch, hidden: Tensor, logits: Tensor | None = None) -> Results:
        """Shapes: hidden (T, hidden), logits (T, vocabulary) if there are any yet."""
        # A row attends to itself: if any of its keys and values were not numbers, neither would it be.
        sums = hidden.sum(dim=-1, dtype=torch.float32)  # with one that is none, it is none
        starts = batch.layout.query_starts
        sampled = self._sample(chunks, starts[1:], hidden, logits)
        is_sound = list(map(isfinite, sums.tolist()))  # after the choices: the device has nothing left to do
        if all(is_sound) and not any(None in choices for choices in sampled):  # nearly always
            return cast(Results, sampled)
        return [
            _sound(choices, is_sound[start:end], chunk.guess)
            for chunk, choices, (start, end) in zip(chunks, sampled, pairwise(starts), strict=True)
        ]

    @torch.inference_mode()
    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Give each block (from, to) the keys and values of another."""
        self._cache.copy_blocks(copies)

    def _sample(
        self, chunks: Sequence[Chunk], ends: list[int], hidden: Tensor, logits: Tensor | None
    ) -> list[list[Choice | None]]:
        """For each chunk, by the row after its last one.

        Shapes: hidden (T, hidden), logits (T, vocabulary) if there are any yet.
        """
        groups = [_asked(chunk) for chunk in chunks]
        asked = list(chain.from_iterable(groups))
        if not asked:
            return [[] for _ in chunks]
        places: list[int] = []
        for chunk, group, end in zip(chunks, groups, ends, strict=True):
            # The first tokens of several choices come from one row; each token of a guess has its own.
            places += range(end - chunk.num_wanted, end) if chunk.guess else [end - 1] * len(group)
        wanted = list(dict.fromkeys(places))
        if logits is None:
            logits = self._model.logits(hidden if len(wanted) == len(hidden) else hidden[wanted])
        elif len(wanted) < len(logits):
            logits = logits[wanted]
        if len(wanted) < len(places):
            logits = logits[[wanted.index(place) for place in places]]
        choices = iter(self._sampler.sample(logits, asked))
        return [list(islice(choices, len(group))) for group in groups]

    @torch.inference_mode()
    def advance_images(self, wanted: Sequence[Wanted], num_layers: int) -> int:
        """Take images that will be needed through so many layers of the tower; returns how many they were."""
        return self._encoder.advance(wanted, num_layers)

    def drop_images(self) -> None:
        """What was begun of images whose requests have ended."""
        self._encoder.drop_begun()

    def _count_layers(self) -> None:
        """Count each layer as it ends: a long prompt on a slow machine is told from a hang by that."""

        def count(module: nn.Module, inputs: object, output: object) -> None:
            self.num_layers_run += 1

        for module in self._model.modules():
            if isinstance(module, nn.ModuleList):
                for layer in module:
                    layer.register_forward_hook(count)


def _wanted(chunks: Sequence[Chunk]) -> list[Wanted]:
    """The images whose placeholders these chunks reach, of all sequences together."""
    return [(chunk.sequence, index) for chunk in chunks for index in images_of(chunk)]


def _is_plain(chunk: Chunk) -> bool:
    return chunk.is_sampling and chunk.sequence.is_plain


def _asked(chunk: Chunk) -> list[Row]:
    """What a sampling chunk asks: of its sequence after each token of the guess, or of all that begin there."""
    sequence = chunk.sequence
    if not chunk.is_sampling:
        return []
    if chunk.guess:
        return [sequence.next_row(chunk.guess[:count]) for count in range(len(chunk.guess) + 1)]
    rows = [sequence.next_row()]
    if sequence.siblings:
        rows += [sibling.next_row() for sibling in sequence.siblings]
    return rows


def _sound(choices: list[Choice | None], is_sound: list[bool], guess: tuple[int, ...]) -> list[Choice] | None:
    """Those of one chunk's choices that can be believed; `is_sound` are its rows. Without a guess it is all or none."""
    if not guess:
        sound = [choice for choice in choices if choice is not None]
        return sound if all(is_sound) and len(sound) == len(choices) else None
    believed = []
    for choice, is_row_sound in zip(choices, is_sound, strict=True):
        if choice is None or not is_row_sound:
            break
        believed.append(choice)
    return believed or None
