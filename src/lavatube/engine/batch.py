"""The chunks of one step in, the tensors that the model reads out. Knows no weights and decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
import torch

from lavatube.engine.blocks import BlockTable
from lavatube.engine.chunk import Chunk
from lavatube.model.attention import Layout


@dataclass(frozen=True, slots=True)
class Batch:
    """All rows of one step. Shapes: token_ids (T,) int64; sampling_rows has, for each sampling chunk, the row of its
    last token and those of its guess.
    """

    token_ids: torch.Tensor
    layout: Layout
    sampling_rows: list[list[int]]


def build_batch(chunks: Sequence[Chunk], block_size: int, device: torch.device) -> Batch:
    """The rows of all chunks, one after the other."""
    token_ids: list[int] = []
    sampling_rows = []
    for chunk in chunks:
        token_ids += chunk.sequence.token_ids[chunk.start : chunk.end]
        token_ids += chunk.guess
        if chunk.is_sampling:
            sampling_rows.append([*range(len(token_ids) - 1 - len(chunk.guess), len(token_ids))])
    return Batch(as_tensor(token_ids).to(device), build_layout(chunks, block_size, device), sampling_rows)


def build_layout(chunks: Sequence[Chunk], block_size: int, device: torch.device) -> Layout:
    """Where the rows of all chunks belong, whatever their tokens are."""
    positions: list[int] = []
    slots: list[int] = []
    query_starts = [0]
    context_lengths = []
    for chunk in chunks:
        table = chunk.sequence.block_table
        end = chunk.end + len(chunk.guess)
        own = range(chunk.start, end)
        positions += own
        slots += [table[position // block_size] * block_size + position % block_size for position in own]
        query_starts.append(len(positions))
        context_lengths.append(end)
    return Layout(
        positions=as_tensor(positions).to(device),
        slots=as_tensor(slots).to(device),
        query_starts=query_starts,
        context_lengths=context_lengths,
        block_tables=_rectangle([chunk.sequence.block_table for chunk in chunks]).to(device),
    )


def splice_features(embeddings: torch.Tensor, chunks: Sequence[Chunk]) -> None:
    """Put image features over the placeholders' embeddings; of an image that a chunk's border cuts, the part inside.

    Shapes: embeddings (T, hidden), changed in place.
    """
    first_row = 0
    for chunk in chunks:
        for index in images_of(chunk):
            span = chunk.sequence.images[index]
            start, end = max(chunk.start, span.start), min(chunk.end, span.end)
            rows = slice(first_row + start - chunk.start, first_row + end - chunk.start)
            embeddings[rows] = chunk.sequence.features[index][start - span.start : end - span.start]
        first_row += chunk.num_rows


def images_of(chunk: Chunk) -> list[int]:
    """Indices of the images that have placeholders among the chunk's tokens."""
    images = chunk.sequence.images
    if not images or images[-1].end <= chunk.start:
        return []
    return [index for index, span in enumerate(images) if span.start < chunk.end and chunk.start < span.end]


def as_tensor(values: list[int]) -> torch.Tensor:
    """Several times as fast as torch.tensor."""
    return torch.from_numpy(np.array(values, np.int64))


def _rectangle(tables: Sequence[BlockTable]) -> torch.Tensor:
    """Block tables filled up to the longest; what is filled in is never read."""
    longest = max(len(table) for table in tables)
    blocks = chain.from_iterable(chain(table, repeat(0, longest - len(table))) for table in tables)
    # Four times as fast as a tensor made of lists of lists.
    return torch.from_numpy(np.fromiter(blocks, np.int64, len(tables) * longest)).view(len(tables), longest)
