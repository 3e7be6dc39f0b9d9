"""Token ids in, as they are made; text out that is safe to show: whole characters, and nothing of a stop string.

Knows no engine. The text of all calls together is what the ids would decode to at once, however they were cut.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from lavatube.prompt.tokenizer import Tokenizer


class Detokenizer:
    """The text of one answer. With `stop`, it ends before the stop string that is complete first."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._vocabulary = tokenizer.vocabulary
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._spaces_to_strip = self._vocabulary.num_stripped_spaces
        self._stop = tuple(stop)
        self._held = ""
        self.has_stopped = False

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that is certain now; what may be the beginning of a character or of a stop string is held back."""
        text = self._characters.decode(b"".join(map(self._vocabulary.decode, token_ids)))
        return self._release(text) if self._stop or self._spaces_to_strip else text

    def finish(self) -> str:
        """What was held back. A character that never became whole is a U+FFFD."""
        text = self._release(self._characters.decode(b"", final=True))
        if not self.has_stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        if self.has_stopped:
            return ""
        text = self._held + self._strip_first_spaces(text)
        cut = _first_stop(text, self._stop)
        if cut is not None:
            self.has_stopped, self._held = True, ""
            return text[:cut]
        certain = len(text) - _longest_beginning(text, self._stop)
        self._held = text[certain:]
        return text[:certain]

    def _strip_first_spaces(self, text: str) -> str:
        while text and self._spaces_to_strip:
            if not text.startswith(" "):
                self._spaces_to_strip = 0
                break
            text, self._spaces_to_strip = text[1:], self._spaces_to_strip - 1
        return text


def _first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop string begins that ends first; the longest of those that end together."""
    found = [(start + len(string), start) for string in stop if (start := text.find(string)) >= 0]
    return min(found)[1] if found else None


def _longest_beginning(text: str, stop: Sequence[str]) -> int:
    """The length of the longest end of `text` with which a stop string begins."""
    longest = max(map(len, stop), default=0) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(string.startswith(text[-length:]) for string in stop):
            return length
    return 0
