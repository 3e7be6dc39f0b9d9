"""What of one sequence is computed in one step."""

from __future__ import annotations

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
