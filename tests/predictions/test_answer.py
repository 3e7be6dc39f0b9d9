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


def told(tokenizer: Tokenizer, token_ids: list[int], cuts: set[int]) -> tuple[str, int, list[bytes]]:
    """The text, the number of tokens that count, and what their log probabilities spell."""
    answer = Answer(tokenizer, ["stop"])
    text, spelled, begin = "", [], 0
    for end in sorted({*cuts, len(token_ids)}):
        if answer.has_stopped:
            break
        some = token_ids[begin:end]
        piece, logprobs = answer.push(Tokens("a", begin, some, 0, [Logprobs(-1.0, []) for _ in some]))
        text, begin = text + piece, end
        spelled += [logprob.text for logprob in logprobs]
    piece, logprobs = answer.finish()
    return text + piece, answer.num_tokens, spelled + [logprob.text for logprob in logprobs]


@given(
    text=st.sampled_from(["plain", "é😀é", "before stop after", "sto sto stop", "stop"]),
    cuts=st.sets(st.integers(0, 20)),
)
@settings(deadline=None)
def test_however_it_is_cut(tokenizer: Tokenizer, text: str, cuts: set[int]) -> None:
    token_ids = tokenizer.encode(text)
    one_by_one = told(tokenizer, token_ids, set(range(len(token_ids))))
    assert told(tokenizer, token_ids, cuts) == one_by_one
    assert one_by_one[0] == text.partition("stop")[0]
