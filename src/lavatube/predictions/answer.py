"""One answer in the making: its tokens in, text that is safe to show out, with the tokens' probabilities if any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lavatube.engine.wire import Logprobs, Tokens
from lavatube.predictions.events import TokenLogprob
from lavatube.predictions.records import Piece
from lavatube.prompt.detokenize import Detokenizer
from lavatube.prompt.tokenizer import Tokenizer

Spoken = tuple[str, tuple[TokenLogprob, ...]]


class Answer:
    """The text of one choice. Probabilities of tokens whose text is held back wait with it."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, stop)
        self._held: list[TokenLogprob] = []
        self.token_ids: list[int] = []
        self._num_taken = 0
        self.is_over = False

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def has_stopped(self) -> bool:
        """A stop string is complete."""
        return self._detokenizer.has_stopped

    def resume(self, piece: Piece) -> None:
        """Go on after a piece that was written before."""
        self.token_ids += piece.token_ids
        self._detokenizer.push(piece.token_ids)
        self._num_taken = len(self.token_ids)
        self.is_over = piece.reason is not None

    def take(self) -> list[int]:
        """The tokens since the last time."""
        taken = self.token_ids[self._num_taken :]
        self._num_taken = len(self.token_ids)
        return taken

    def push(self, tokens: Tokens) -> Iterator[Spoken]:
        """Token by token, however many came at once: so what is said does not depend on how they came.

        None counts that comes after a stop string.
        """
        for place, token_id in enumerate(tokens.token_ids):
            self.token_ids.append(token_id)
            if tokens.logprobs:
                self._held.append(self._spell(token_id, tokens.logprobs[place]))
            if text := self._detokenizer.push((token_id,)):
                yield text, self._release()
            if self._detokenizer.has_stopped:
                return

    def finish(self) -> Iterator[Spoken]:
        """What was held back, if anything was."""
        text, released = self._detokenizer.finish(), self._release()
        if text or released:
            yield text, released

    def _release(self) -> tuple[TokenLogprob, ...]:
        released, self._held = tuple(self._held), []
        return released

    def _spell(self, token_id: int, logprobs: Logprobs) -> TokenLogprob:
        top = tuple(TokenLogprob(self._text(other), value) for other, value in logprobs.top)
        return TokenLogprob(self._text(token_id), logprobs.chosen, top)

    def _text(self, token_id: int) -> bytes:
        """What a token says; a control token, which says nothing, by its name."""
        return self._tokenizer.vocabulary.decode(token_id) or self._tokenizer.token(token_id).encode()
