"""Chunks become rows: ids, positions, slots; and features land on their placeholders wherever a border cuts."""

from __future__ import annotations

import pytest
import torch

from lavatube.engine.batch import build_batch, splice_features
from lavatube.engine.blocks import new_table
from lavatube.engine.chunk import Chunk
from lavatube.engine.sequence import ImageSpan, Sequence
from lavatube.engine.wire import Pixels, Sampling
from lavatube.geometry import Cut, ImagePlan

PLAN = ImagePlan(
    cut=Cut("stretch", 1, 1, 1, (1, 1), (0, 0)),
    has_map=False,
    rows=1,
    cols=1,
    keep=(0, 0, 1, 1),
    shrink=None,
    num_newlines=0,
    num_tokens=1,
)
CPU = torch.device("cpu")


def sequence(token_ids: list[int], block_table: list[int], images: tuple[ImageSpan, ...] = ()) -> Sequence:
    return Sequence("a", token_ids, len(token_ids), Sampling(4), images, block_table=new_table(block_table))


def test_rows_of_a_prompt_and_of_a_stream() -> None:
    prompt = sequence([10, 11, 12, 13, 14, 15, 16], [5, 2])
    stream = sequence([20, 21, 22, 23, 24, 25], [7, 0, 3])
    batch = build_batch([Chunk(stream, 5, 6), Chunk(prompt, 3, 6)], 4, CPU)
    assert batch.token_ids.tolist() == [25, 13, 14, 15]
    assert batch.layout.positions.tolist() == [5, 3, 4, 5]
    assert batch.layout.slots.tolist() == [0 * 4 + 1, 5 * 4 + 3, 2 * 4 + 0, 2 * 4 + 1]
    assert batch.layout.query_starts == [0, 1, 4]
    assert batch.layout.context_lengths == [6, 6]
    assert batch.layout.block_tables[0].tolist() == [7, 0, 3]
    assert batch.layout.block_tables[1, :2].tolist() == [5, 2]


def test_rows_after_which_a_token_is_chosen_are_wanted() -> None:
    prompt, other = sequence([10, 11, 12, 13], [5]), sequence([10, 11, 12, 13], [6])
    stream = sequence([20, 21], [7])
    guessing = sequence([30, 31], [8, 9])

    def wanted(*chunks: Chunk) -> list[int] | None:
        rows = build_batch(chunks, 4, CPU).layout.wanted
        return None if rows is None else rows.tolist()

    assert wanted(Chunk(stream, 1, 2)) is None
    assert wanted(Chunk(guessing, 1, 2, (32, 33))) is None
    assert wanted(Chunk(stream, 1, 2), Chunk(prompt, 0, 4)) == [0, 4]
    assert wanted(Chunk(prompt, 0, 3), Chunk(guessing, 1, 2, (32, 33)), Chunk(other, 1, 4)) == [3, 4, 5, 8]
    assert wanted(Chunk(prompt, 0, 3)) == []


def test_the_last_chunk_of_a_prompt_is_sampled() -> None:
    prompt = sequence([10, 11, 12], [0])
    assert [Chunk(prompt, start, end).is_sampling for start, end in ((0, 2), (1, 3), (2, 3))] == [False, True, True]


def test_a_guess_stands_behind_what_is_known() -> None:
    batch = build_batch(
        [Chunk(sequence([10, 11, 12], [1, 5]), 2, 3, (40, 41)), Chunk(sequence([20], [3]), 0, 1)], 4, CPU
    )
    assert batch.token_ids.tolist() == [12, 40, 41, 20]
    assert batch.layout.positions.tolist() == [2, 3, 4, 0]
    assert batch.layout.slots.tolist() == [1 * 4 + 2, 1 * 4 + 3, 5 * 4 + 0, 3 * 4]
    assert batch.layout.query_starts == [0, 3, 4]
    assert batch.layout.context_lengths == [5, 1]


@pytest.mark.parametrize("border", range(1, 12))
def test_features_wherever_a_border_cuts(border: int) -> None:
    """Two images, one after the other without a token between: positions 2–4 and 5–8 of 12."""
    image = Pixels(digest=b"", data=b"", tiles=1, size=1, num_tokens=0, width=1, height=1)
    one = sequence(list(range(12)), [0, 1, 2], (ImageSpan(2, 5, image, PLAN), ImageSpan(5, 9, image, PLAN)))
    one.features = {0: torch.tensor([[102.0], [103.0], [104.0]]), 1: torch.tensor([[105.0], [106.0], [107.0], [108.0]])}
    neighbour = sequence([50, 51], [3])
    seen = []
    for start, end in ((0, border), (border, 12)):
        chunks = [Chunk(neighbour, 1, 2), Chunk(one, start, end)]
        embeddings = build_batch(chunks, 4, CPU).token_ids.float()[:, None]
        splice_features(embeddings, chunks)
        assert embeddings[0].item() == 51
        seen += embeddings[1:, 0].tolist()
    assert seen == [0, 1, *range(102, 109), 9, 10, 11]
