"""What of a sequence is computed in one step, and how prompts are cut to fit one."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from lavatube.engine.sequence import Sequence


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """The tokens from `start` up to `end` of one sequence, computed in one step; and behind its last one a guess at
    those to come, to be checked.
    """

    sequence: Sequence
    start: int
    end: int
    guess: tuple[int, ...] = ()

    @property
    def num_rows(self) -> int:
        return self.end - self.start + len(self.guess)

    @property
    def is_sampling(self) -> bool:
        """Whether the chunk ends the known tokens, so that its last row says what comes next."""
        return self.end == len(self.sequence.token_ids)

    @property
    def num_wanted(self) -> int:
        """How many of its last rows say what comes next."""
        return 1 + len(self.guess) if self.is_sampling else 0


def cut(sequences: Iterator[Sequence], budget: int, *, must_be_ready: bool) -> list[Chunk]:
    """At most so many tokens of prompts, a chunk of each that has some to compute; no more prompts are asked for."""
    chunks = []
    while budget > 0 and (sequence := next(sequences, None)):
        start = sequence.num_computed_tokens
        end = min(sequence.num_ready_tokens if must_be_ready else sequence.num_tokens, start + budget)
        if end > start:
            chunks.append(Chunk(sequence, start, end))
            budget -= end - start
    return chunks
