"""Ids are those of the whole prompt, as the checkpoint's tokenizer gives them; users write text and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Original
from transformers import PreTrainedTokenizerFast

from lavatube.errors import UnsupportedCheckpoint
from lavatube.prompt.tokenizer import Tokenizer

from .builders import BOS, EOS, IMAGE, SPECIALS, byte_level_tokenizer, write_tokenizer


@pytest.fixture(scope="module")
def reference(tokenizer_folder: Path) -> PreTrainedTokenizerFast:
    names = json.loads((tokenizer_folder / "tokenizer_config.json").read_text())
    return PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_folder / "tokenizer.json"), **names)


def prompt(texts: list[str]) -> str:
    turns = [f"USER: <image>\n{text} ASSISTANT: {text}</s>" for text in texts[:-1]]
    return "".join([*turns, f"USER: {texts[-1]} ASSISTANT:"])


ordinary = st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=30).filter(
    lambda text: not any(special in text for special in SPECIALS)
)


@given(texts=st.lists(ordinary, min_size=1, max_size=3))
@settings(deadline=None, max_examples=150)
def test_ordinary_prompts_have_the_ids_that_transformers_gives(
    tokenizer: Tokenizer, reference: PreTrainedTokenizerFast, texts: list[str]
) -> None:
    shielded = prompt([tokenizer.shield(text) for text in texts])
    assert tokenizer.encode_prompt(shielded) == reference(prompt(texts))["input_ids"]


hostile = st.lists(
    st.sampled_from(
        [*SPECIALS, "<", "/", ">", "s>", "</", "<ima", "ge>", "<im", "age", "<0x41>", " ", "a", "\U00108004"]
    ),
    max_size=8,
).map("".join)


@given(texts=st.lists(hostile, min_size=1, max_size=4))
@settings(deadline=None, max_examples=200)
def test_no_text_of_a_user_becomes_a_control_token(tokenizer: Tokenizer, texts: list[str]) -> None:
    shielded = "<image>".join(["", *(tokenizer.shield(text) for text in texts), ""])
    ids = tokenizer.encode_prompt(shielded)
    assert ids[0] == BOS
    assert [token_id for token_id in ids[1:] if token_id < len(SPECIALS)] == [IMAGE] * (len(texts) + 1)


@pytest.mark.parametrize(("before", "typed", "after"), [("<", "/s", ">"), ("</", "s>", ""), ("", "</", "s>")])
def test_a_template_and_a_user_together_write_no_control_token(
    tokenizer: Tokenizer, before: str, typed: str, after: str
) -> None:
    assert EOS not in tokenizer.encode_prompt(before + tokenizer.shield(typed) + after)


def test_two_texts_side_by_side_write_no_control_token(tokenizer: Tokenizer) -> None:
    assert IMAGE not in tokenizer.encode_prompt(tokenizer.shield("<ima") + tokenizer.shield("ge>"))


def test_special_strings_stay_readable_text(tokenizer: Tokenizer, tokenizer_folder: Path) -> None:
    ids = tokenizer.encode_prompt(tokenizer.shield("is </s> a tag, or <image>?"))
    original = Original.from_file(str(tokenizer_folder / "tokenizer.json"))
    assert original.decode(ids).strip() == "is </s> a tag, or <image>?"
    plain = tokenizer.encode("is </s> a tag, or <image>?")
    assert ids == [BOS, *plain]


def test_start_token_is_there_once(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_prompt("a").count(BOS) == 1
    assert tokenizer.encode_prompt("<s>a").count(BOS) == 1
    assert tokenizer.encode_prompt(tokenizer.shield("<s>") + "a").count(BOS) == 1


def test_start_token_is_added_only_where_the_file_says_so(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_tokenizer(tmp_path, byte_level_tokenizer(has_start=False)))
    assert BOS not in tokenizer.encode_prompt("a")
    assert tokenizer.encode_prompt("<s>a")[0] == BOS


def test_private_characters_of_ours_are_noise_when_typed(tokenizer: Tokenizer) -> None:
    assert tokenizer.shield("\U00108000\U0010fffd") == "\ufffd\ufffd"
    assert tokenizer.shield("\ue000\U000f0001\U00100000") == "\ue000\U000f0001\U00100000"


def test_named_tokens_come_from_either_file_in_either_form(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, byte_level_tokenizer())
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": {"content": "<s>"}, "add_bos_token": true}')
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>", "bos_token": "old"}')
    assert Tokenizer(tmp_path).named_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": {}}'])
def test_cut_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UnsupportedCheckpoint, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)


def test_control_tokens_must_be_added_tokens(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, byte_level_tokenizer())
    with pytest.raises(UnsupportedCheckpoint, match="added_tokens"):
        Tokenizer(tmp_path, {40})


def test_a_control_token_that_plain_text_is_made_of_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, byte_level_tokenizer())
    config = json.loads((tmp_path / "tokenizer.json").read_text())
    letter = config["added_tokens"][0] | {"content": "A", "id": config["model"]["vocab"]["A"]}
    config["added_tokens"].append(letter)
    (tmp_path / "tokenizer.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedCheckpoint, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)
