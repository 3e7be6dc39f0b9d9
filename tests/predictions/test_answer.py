"""An answer's text and count of tokens do not depend on how many tokens came at once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavatube.engine.wire import Logprobs, Tokens
from lavatube.predictions.answer import Answer
from lavatube.prompt.tokenizer import Tokenizer
from tests.predictions.fakes import STOP_ID, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")), {STOP_ID})


def told(tokenizer: Tokenizer, token_ids: list[int], cuts: set[int]) -> tuple[list[tuple[str, list[bytes]]], int]:
    """Each text with what its log probabilities spell, and the number of tokens that count."""
    answer = Answer(tokenizer, ["stop"])
    spoken, begin = [], 0
    for end in sorted({*cuts, len(token_ids)}):
        if answer.has_stopped:
            break
        some = token_ids[begin:end]
        spoken += answer.push(Tokens("a", begin, some, 0, [Logprobs(-1.0, []) for _ in some]))
        begin = end
    spoken += answer.finish()
    return [(text, [likely.text for likely in logprobs]) for text, logprobs in spoken], answer.num_tokens


texts = st.sampled_from(["plain", "é😀é", "before stop after", "sto sto stop", "stop"])


@given(text=texts, cuts=st.sets(st.integers(0, 20)))
@settings(deadline=None)
def test_however_it_is_cut(tokenizer: Tokenizer, text: str, cuts: set[int]) -> None:
    token_ids = tokenizer.encode(text)
    one_by_one = told(tokenizer, token_ids, set(range(len(token_ids))))
    assert told(tokenizer, token_ids, cuts) == one_by_one
    assert "".join(piece for piece, _ in one_by_one[0]) == text.partition("stop")[0]
