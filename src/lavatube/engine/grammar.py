"""A grammar in llguidance's notation → which tokens may come next. Knows what tokens say, as bytes; no logits.

The library is an optional extra (`lavatube[structured]`) and is imported when the first grammar arrives. Its limits
bound what one step may cost; the front has bounded what compiling may (prompt/structure.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from lavatube.errors import InvalidInput

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer  # optional, and 20 ms of start-up

MAX_COMPILED: Final = 32
STEP_FUEL: Final = 20_000  # about 1.5 ms of the lexer's time, for one token
STEP_ITEMS: Final = 20_000
LEXER_STATES: Final = 50_000  # about 2 kB each


class Matcher:
    """Where one answer stands in its grammar. Once it has a `failure`, the request can't go on."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self.failure: InvalidInput | None = None
        self._check()

    def copy(self) -> Matcher:
        """Another answer that begins where this one stands."""
        return Matcher(self._matcher.deep_copy())

    def allowed(self) -> bytes:
        """A bit for each id, lowest first; all set when there is a failure, which then decides."""
        mask = self._matcher.compute_bitmask()
        self._check()
        if self.failure is None and not any(mask):
            self.failure = _too_complex("no token of this model can continue the answer")
        return mask if self.failure is None else b"\xff" * len(mask)

    def ends_with(self, token_id: int) -> bool:
        """Take a token; whether nothing may follow it."""
        self._matcher.consume_token(token_id)
        self._check()
        return self.failure is None and bool(self._matcher.is_stopped())

    def follow(self, token_ids: Sequence[int]) -> bool:
        """Take the tokens of an answer so far; whether nothing may follow them."""
        is_over = False
        for token_id in token_ids:
            is_over = self.ends_with(token_id)
        return is_over

    def _check(self) -> None:
        if self.failure is None and self._matcher.is_error():
            self.failure = _too_complex(self._matcher.get_error().partition("\n")[0])


class Grammars:
    """Compiles grammars for one vocabulary, and remembers the last few."""

    def __init__(self, token_texts: Sequence[bytes], end_ids: Sequence[int], vocab_size: int) -> None:
        """`end_ids` end an answer. Without `token_texts` there are no grammars."""
        self._texts = token_texts[:vocab_size]  # a tokenizer may know more than the model has rows for
        self._end_ids = end_ids
        self._vocab_size = vocab_size
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, Matcher] = OrderedDict()

    def matcher(self, grammar: str) -> Matcher:
        """At the grammar's beginning. Raises: InvalidInput."""
        if not self._texts or not self._end_ids:
            raise InvalidInput("This server can't constrain answers.", remedy="Install lavatube[structured].")
        compiled = self._compiled.get(grammar) or self._compile(grammar)
        self._compiled[grammar] = compiled
        self._compiled.move_to_end(grammar)
        if len(self._compiled) > MAX_COMPILED:
            self._compiled.popitem(last=False)
        return compiled.copy()

    def _compile(self, grammar: str) -> Matcher:
        try:
            from llguidance import LLMatcher, LLTokenizer
        except ImportError:
            raise InvalidInput("This server can't constrain answers.", remedy="Install lavatube[structured].") from None
        if self._tokenizer is None:
            padding = [b""] * (self._vocab_size - len(self._texts))
            words = _Words([*self._texts, *padding], self._end_ids)
            self._tokenizer = LLTokenizer(words, eos_token=list(self._end_ids))  # type: ignore[arg-type]
        compiled = Matcher(LLMatcher(self._tokenizer, grammar, log_level=0, limits=_limits()))
        if compiled.failure is not None:
            raise compiled.failure
        return compiled


class _Words:
    """The vocabulary as the library reads one: attributes of these names, and a call that is never needed for masks."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, texts: Sequence[bytes], end_ids: Sequence[int]) -> None:
        self.eos_token_id = end_ids[0]
        self.special_token_ids = [token_id for token_id, text in enumerate(texts) if not text]
        # Control tokens say nothing; a byte that no text has keeps them apart from what a grammar may ask for.
        self.tokens = [text or b"\xff<%d>" % token_id for token_id, text in enumerate(texts)]

    def __call__(self, text: str) -> list[int]:
        raise AssertionError("masks are made without a tokenizer")


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(
        step_lexer_fuel=STEP_FUEL,
        step_max_items=STEP_ITEMS,
        max_lexer_states=LEXER_STATES,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )


def _too_complex(reason: str) -> InvalidInput:
    return InvalidInput(f"The answer's structure can't be kept: {reason:.200}.", remedy="Ask for a simpler structure.")
