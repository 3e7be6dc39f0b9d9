"""Guesses at the next tokens of an answer: what followed its last few tokens when they stood somewhere before.

Answers repeat their question's words, and themselves. A guess is checked in the step that computes the answer's next
token anyway, and costs a row in it; where guesses fail, fewer are made, and then none for a while. Knows ids only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice, takewhile
from typing import Final

SIZES: Final = (4, 3, 2)
"""How many last tokens must have stood there before, tried in this order."""
FIRST_LENGTH: Final = 2
FIRST_REST: Final = 8
MAX_REST: Final = 256


class Lookup:
    """Of one sequence, whose tokens only grow."""

    def __init__(self, max_length: int, placeholder_id: int) -> None:
        """A guess has at most `max_length` tokens, above 0, none of them the placeholder of pictures."""
        self._placeholder_id = placeholder_id
        self._max_length = max_length
        self._length = min(FIRST_LENGTH, max_length)
        self._rest = FIRST_REST
        self._resting_until = 0  # a number of tokens
        self._followed_by: dict[tuple[int, ...], int] = {}  # some tokens → where those after them begin, the last time
        self._num_read = 0

    def guess(self, token_ids: Sequence[int], room: int) -> list[int]:
        """The next tokens, perhaps; at most `room`, which is above 0."""
        length = min(self._length, room)
        if len(token_ids) < self._resting_until:
            return []
        self._read(token_ids)
        for size in SIZES:
            start = self._followed_by.get(tuple(token_ids[-size:]))
            if start is not None:
                # What stood there may reach to the end, and then repeats itself.
                following = islice(cycle(token_ids[start : start + length]), length)
                return list(takewhile(lambda token_id: token_id != self._placeholder_id, following))
        return []

    def learn(self, num_guessed: int, num_right: int, num_tokens: int) -> None:
        """Of a guess, so many tokens were right, which the sequence's `num_tokens` now are with."""
        if num_right == num_guessed:
            self._length = min(2 * self._length, self._max_length)
            self._rest = FIRST_REST
        elif num_right == 0:
            self._length = max(self._length // 2, 1)
            self._resting_until = num_tokens + self._rest
            self._rest = min(2 * self._rest, MAX_REST)

    def _read(self, token_ids: Sequence[int]) -> None:
        """Note what stands where; not the last tokens, which nothing follows yet."""
        for end in range(max(self._num_read, 1), len(token_ids)):
            for size in SIZES:
                if size <= end and token_ids[end] != self._placeholder_id:
                    self._followed_by[tuple(token_ids[end - size : end])] = end
        self._num_read = len(token_ids)
