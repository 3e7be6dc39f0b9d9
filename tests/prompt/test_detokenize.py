"""The laws of streamed text: cuts don't matter, stop strings don't leak, characters come whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Original

from lavatube.prompt.detokenize import Detokenizer
from lavatube.prompt.tokenizer import Tokenizer

from .builders import EOS, IMAGE, PAD


@pytest.fixture(scope="module")
def original(tokenizer_folder: Path) -> Original:
    return Original.from_file(str(tokenizer_folder / "tokenizer.json"))


def run(tokenizer: Tokenizer, ids: list[int], cuts: list[int], stop: tuple[str, ...] = ()) -> str:
    detokenizer, start, text = Detokenizer(tokenizer, stop), 0, ""
    for cut in [*cuts, len(ids)]:
        text += detokenizer.push(ids[start : max(start, cut)])
        start = max(start, cut)
    return text + detokenizer.finish()


any_ids = st.lists(st.integers(-1, 380), max_size=40)
any_cuts = st.lists(st.integers(0, 40), max_size=6).map(sorted)


@given(ids=any_ids, cuts=any_cuts)
@settings(deadline=None, max_examples=200)
def test_cuts_do_not_matter(tokenizer: Tokenizer, original: Original, ids: list[int], cuts: list[int]) -> None:
    text = run(tokenizer, ids, cuts)
    assert text == run(tokenizer, ids, [])
    expected = original.decode([token_id for token_id in ids if token_id >= 0])
    # SentencePiece's decoder writes one U+FFFD for each byte of a broken run, and so for bytes that are whole, too.
    if "\ufffd" not in expected or "<0x41>" not in original.get_vocab():
        assert text == expected


@given(text=st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=40), cuts=any_cuts)
@settings(deadline=None, max_examples=100)
def test_text_survives_the_round_trip(tokenizer: Tokenizer, text: str, cuts: list[int]) -> None:
    assert run(tokenizer, tokenizer.encode(text), cuts) == text.replace("▁", " ") or "▁" in text


def first_complete(text: str, stop: tuple[str, ...]) -> str:
    """The law, letter by letter: the answer ends as soon as a stop string is complete."""
    for end in range(len(text) + 1):
        if found := [string for string in stop if text[:end].endswith(string)]:
            return text[: end - len(max(found, key=len))]
    return text


few_letters = st.text("abé ", min_size=1, max_size=4)


@given(
    text=st.text("abé ", max_size=30),
    stop=st.lists(few_letters, max_size=3).map(tuple),
    cuts=any_cuts,
)
@settings(deadline=None, max_examples=400)
def test_stop_strings_cut_where_the_first_is_complete(
    tokenizer: Tokenizer, text: str, stop: tuple[str, ...], cuts: list[int]
) -> None:
    assert run(tokenizer, tokenizer.encode(text), cuts, stop) == first_complete(text, stop)


def one_by_one(tokenizer: Tokenizer, text: str, *stop: str) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(tokenizer, stop)
    return [detokenizer.push([token_id]) for token_id in tokenizer.encode(text)], detokenizer


def test_only_what_may_begin_a_stop_string_is_held_back(tokenizer: Tokenizer) -> None:
    chunks, detokenizer = one_by_one(tokenizer, "x##y", "###")
    assert "".join(chunks) == "x##y"
    assert not detokenizer.has_stopped
    chunks, detokenizer = one_by_one(tokenizer, "x##", "###")
    assert "".join(chunks) == "x"
    assert detokenizer.finish() == "##"
    assert detokenizer.finish() == ""


def test_nothing_comes_after_a_stop_string(tokenizer: Tokenizer) -> None:
    chunks, detokenizer = one_by_one(tokenizer, "ab###cd", "###")
    assert "".join(chunks) == "ab"
    assert detokenizer.has_stopped
    assert detokenizer.push(tokenizer.encode("more")) == ""
    assert detokenizer.finish() == ""


def test_control_tokens_are_silent(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("a"), EOS, PAD, IMAGE, *tokenizer.encode("b")[-1:]]
    assert run(tokenizer, ids, []).replace(" ", "") == "ab"


def test_first_space_is_the_tokenizers_own(tokenizer: Tokenizer) -> None:
    chunks, _ = one_by_one(tokenizer, " two", "###")
    assert "".join(chunks) == " two"
    assert run(tokenizer, tokenizer.encode("two"), []) == "two"


def test_a_character_comes_whole_or_as_a_replacement(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("x文")
    detokenizer = Detokenizer(tokenizer)
    assert [detokenizer.push([token_id]) for token_id in ids[-3:-1]] == ["", ""]
    assert detokenizer.push(ids[-1:]) == "文"
    detokenizer.push(ids[-3:-1])
    assert detokenizer.finish() == "\ufffd"
