"""tokenizer.model: the ids of the original's slow tokenizer, in both of its ways, and of its chunks round pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavatube.errors import UnsupportedCheckpoint
from lavatube.prompt.detokenize import Detokenizer
from lavatube.prompt.named_tokens import MAX_FILE_BYTES
from lavatube.prompt.tokenizer import Tokenizer, TokenizerRules

from .builders import write_sentencepiece

MARKS = ("<im_patch>", "<im_start>", "<im_end>")

# Prompt, pieces with legacy = true, with legacy = false; · is a picture. From transformers 4.37.2's LlamaTokenizer with
# tokenizer_image_token of haotian-liu/LLaVA@c121f04, run on this very model.
GOLDEN = [
    ("<image>", "<s> ·", "<s> ·"),
    ("<image>\nHi", "<s> · ▁ <0x0A> Hi", "<s> · ▁ <0x0A> Hi"),
    ("a <image> and <image>  b", "<s> ▁a ▁ · ▁ ▁and ▁ · ▁ ▁ ▁ b", "<s> ▁a ▁ · ▁ ▁and ▁ · ▁ ▁ ▁ b"),
    ("</s> Hi", "<s> </s> ▁ ▁Hi", "<s> </s> ▁Hi"),
    ("Hi</s>  there", "<s> ▁Hi </s> ▁ ▁ ▁there", "<s> ▁Hi </s> ▁ ▁there"),
    ("  two ▁ spaces", "<s> ▁ ▁ ▁t w o ▁ ▁ ▁s p a c e s", "<s> ▁ ▁ ▁t w o ▁ ▁ ▁s p a c e s"),
    (
        "USER: <image>\nHi ASSISTANT: Yes</s>USER: and? ASSISTANT:",
        "<s> ▁USER : ▁ · ▁ <0x0A> Hi ▁ASSISTANT : ▁ <0x59> e s </s> ▁USER : ▁and ? ▁ASSISTANT :",
        "<s> ▁USER : ▁ · ▁ <0x0A> Hi ▁ASSISTANT : ▁ <0x59> e s </s> US ER : ▁and ? ▁ASSISTANT :",
    ),
    (
        "###Human: <im_start><image><im_end>\nHi###Assistant:",
        "<s> ▁### Human : ▁ <im_start> · <im_end> ▁ <0x0A> Hi ### Assistant :",
        "<s> ▁### Human : ▁ <im_start> · ▁ <im_end> <0x0A> Hi ### Assistant :",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_sentencepiece(tmp_path_factory.mktemp("sentencepiece"))
    size = Tokenizer(folder, (), TokenizerRules("sentencepiece")).vocabulary.size
    (folder / "added_tokens.json").write_text(json.dumps({mark: size + at for at, mark in enumerate(MARKS)}))
    return folder


def read(folder: Path, *, is_legacy: bool, is_chunked: bool = True) -> Tokenizer:
    size = Tokenizer(folder, (), TokenizerRules("sentencepiece")).vocabulary.size
    return Tokenizer(folder, (), TokenizerRules("sentencepiece", is_legacy, is_chunked, size))


def pieces(tokenizer: Tokenizer, prompt: str) -> str:
    ids = tokenizer.encode_prompt(prompt.replace("<image>", tokenizer.image_text))
    return " ".join(tokenizer.token(token_id) or "·" for token_id in ids)


@pytest.mark.parametrize(("prompt", "legacy", "new"), GOLDEN)
def test_pieces_are_those_of_the_original(folder: Path, prompt: str, legacy: str, new: str) -> None:
    assert pieces(read(folder, is_legacy=True), prompt) == legacy
    assert pieces(read(folder, is_legacy=False), prompt) == new


def test_a_prompt_as_a_whole_has_no_new_beginnings(folder: Path) -> None:
    prompt = "a <image> and"
    assert pieces(read(folder, is_legacy=False, is_chunked=False), prompt) == "<s> ▁a ▁ · ▁and"
    assert pieces(read(folder, is_legacy=True, is_chunked=False), prompt) == "<s> ▁a ▁ · ▁ ▁and"


@pytest.mark.parametrize("is_legacy", [True, False])
@given(st.lists(st.sampled_from(["<s>", "</s>", *MARKS, "<", "/s>", "<im_", "end>", "\U0010fffd", "a", " "])))
@settings(deadline=None, max_examples=50)
def test_a_user_types_no_control_token(folder: Path, is_legacy: bool, parts: list[str]) -> None:
    tokenizer = read(folder, is_legacy=is_legacy)
    ids = tokenizer.encode_prompt(tokenizer.shield("".join(parts)))
    controls = {tokenizer.control_id(text) for text in ("<s>", "</s>", *MARKS)}
    assert not controls & set(ids[1:])
    assert tokenizer.vocabulary.size not in ids


@given(st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=40).filter(lambda text: "\u2581" not in text))
@settings(deadline=None, max_examples=100)
def test_text_comes_back(folder: Path, text: str) -> None:
    tokenizer = read(folder, is_legacy=True)
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(tokenizer.encode(text)) + detokenizer.finish() == text


def test_a_symbol_of_the_model_itself_can_be_a_control_token(tmp_path: Path) -> None:
    """As in Yi's tokenizer, where <|im_end|> is a user-defined symbol: it would be found in anybody's text."""
    write_sentencepiece(tmp_path, user_defined_symbols=["<|im_end|>"])
    rules = TokenizerRules("sentencepiece", is_legacy=True)
    plain = Tokenizer(tmp_path, (), rules)
    (end,) = (token_id for token_id in range(plain.vocabulary.size) if plain.token(token_id) == "<|im_end|>")
    assert end in plain.encode("a<|im_end|>b")
    sealed = Tokenizer(tmp_path, {end}, rules)
    assert end not in sealed.encode("a<|im_end|>b")
    assert end in sealed.encode_prompt("a<|im_end|>b")


def test_without_a_start_token(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path, add_bos_token=False)
    tokenizer = Tokenizer(tmp_path, (), TokenizerRules("sentencepiece"))
    assert pieces(tokenizer, "Hi") == "▁Hi"


@pytest.mark.parametrize("content", [b"", b"\x0a\xff\xff\xff\xff\x0f", b"not a model at all", b"\x0a\x02\x08\x01"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(UnsupportedCheckpoint, match=r"tokenizer\.model"):
        Tokenizer(tmp_path, (), TokenizerRules("sentencepiece"))


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=r"no tokenizer\.model"):
        Tokenizer(tmp_path, (), TokenizerRules("sentencepiece"))


def test_a_file_that_is_larger_than_any_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.model").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(UnsupportedCheckpoint, match=r"tokenizer\.model has \d+ bytes"):
        Tokenizer(tmp_path, (), TokenizerRules("sentencepiece"))


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json"])
def test_an_id_beyond_all_vocabularies_is_refused(tmp_path: Path, name: str) -> None:
    write_sentencepiece(tmp_path)
    ids = {"<mark>": 10**9}
    content = ids if name == "added_tokens.json" else {"added_tokens_decoder": {str(10**9): {"content": "<mark>"}}}
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UnsupportedCheckpoint, match="1000000000"):
        Tokenizer(tmp_path, (), TokenizerRules("sentencepiece"))
