"""Which answers are guessed ahead in a step, and how far. What a guess says, and when, is lookup.py's affair."""

from __future__ import annotations

from typing import Final

from lavatube.engine.lookup import Lookup
from lavatube.engine.sequence import Sequence

MAX_ROWS: Final = 8
"""A step that decodes gets no more rows by guesses: from there on a row costs arithmetic, not only the same weights."""


class Speculator:
    """Guesses of at most `max_length` tokens; 0: none. Counts how many tokens were guessed, and how many rightly."""

    def __init__(self, max_length: int, placeholder_id: int) -> None:
        self.num_guessed = 0
        self.num_right = 0
        self._max_length = max_length
        self._placeholder_id = placeholder_id

    @property
    def is_on(self) -> bool:
        return self._max_length > 0

    def guess(self, sequence: Sequence, num_rows: int) -> tuple[int, ...]:
        """What may follow the tokens of a sequence that decodes, in a step that has so many rows already.

        Nothing where a grammar has a say: it would have to be asked about each guess, and taken back; nor where
        siblings begin at the next token, as they do when the last of a prompt is a step of its own.
        """
        left = sequence.sampling.max_tokens - sequence.num_completion_tokens - 1
        room = min(self._max_length, MAX_ROWS - num_rows, left)
        if room <= 0 or sequence.matcher is not None or sequence.siblings:
            return ()
        if sequence.lookup is None:
            sequence.lookup = Lookup(self._max_length, self._placeholder_id)
        return tuple(sequence.lookup.guess(sequence.token_ids, room))

    def learn(self, sequence: Sequence, num_guessed: int, num_right: int) -> None:
        """What became of a guess."""
        assert sequence.lookup is not None
        sequence.lookup.learn(num_guessed, num_right, sequence.num_tokens)
        self.num_guessed += num_guessed
        self.num_right += num_right
