"""The chunks of one step in, the tensors that the model reads out. Knows no weights and decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from lavatube.engine.blocks import BlockTable
from lavatube.engine.chunk import Chunk
from lavatube.model.attention import Layout


@dataclass(frozen=True, slots=True)
class Batch:
    """All rows of one step. Shapes: token_ids (T,) int64."""

    token_ids: torch.Tensor
    layout: Layout


def build_batch(chunks: Sequence[Chunk], block_size: int, device: torch.device) -> Batch:
    """The rows of all chunks, one after the other."""
    token_ids: list[int] = []
    for chunk in chunks:
        token_ids += chunk.sequence.token_ids[chunk.start : chunk.end]
        token_ids += chunk.guess
    return Batch(as_tensor(token_ids).to(device), build_layout(chunks, block_size, device))


def build_layout(chunks: Sequence[Chunk], block_size: int, device: torch.device) -> Layout:
    """Where the rows of all chunks belong, whatever their tokens are."""
    context_lengths = [chunk.end + len(chunk.guess) for chunk in chunks]
    counts = [length - chunk.start for length, chunk in zip(context_lengths, chunks, strict=True)]
    query_starts = [0, *accumulate(counts)]
    tables = _rectangle([chunk.sequence.block_table for chunk in chunks])
    # The last row of each is the last of its context.
    behind = np.array(context_lengths, np.int64) - query_starts[1:]
    positions = np.arange(query_starts[-1]) + behind.repeat(counts)
    blocks = tables[np.arange(len(chunks)).repeat(counts), positions // block_size]
    return Layout(
        positions=torch.from_numpy(positions).to(device),
        slots=torch.from_numpy(blocks * block_size + positions % block_size).to(device),
        query_starts=query_starts,
        context_lengths=context_lengths,
        block_tables=torch.from_numpy(tables).to(device),
        wanted=_wanted(chunks, query_starts),
    )


def _wanted(chunks: Sequence[Chunk], query_starts: Sequence[int]) -> torch.Tensor | None:
    """The rows after which tokens are chosen, where a chunk has others."""
    if query_starts[-1] == len(chunks):  # a row each, which is nearly always
        return None
    rows: list[int] = []
    for chunk, end in zip(chunks, query_starts[1:], strict=True):
        rows += range(end - chunk.num_wanted, end)
    return as_tensor(rows) if len(rows) < query_starts[-1] else None


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


def _rectangle(tables: Sequence[BlockTable]) -> NDArray[np.int64]:
    """Block tables filled up to the longest; what is filled in is never read."""
    longest = max(map(len, tables))
    rows = bytearray().join([table.tobytes().ljust(8 * longest, b"\0") for table in tables])
    return np.frombuffer(rows, np.int64).reshape(len(tables), longest)
