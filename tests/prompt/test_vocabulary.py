"""Each token's bytes, by the decoder that tokenizer.json names."""

from __future__ import annotations

from typing import Any

import pytest

from lavatube.errors import UnsupportedCheckpoint
from lavatube.prompt.vocabulary import Vocabulary

REPLACE = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
SENTENCEPIECE = {"type": "Sequence", "decoders": [REPLACE, {"type": "ByteFallback"}, {"type": "Fuse"}, STRIP]}


def pieces(decoder: dict[str, Any] | None, *tokens: str) -> list[bytes]:
    vocabulary = Vocabulary(dict(enumerate(tokens)), frozenset({0}), decoder)
    return [vocabulary.decode(token_id) for token_id in range(-1, len(tokens) + 1)]


def test_byte_level_letters_stand_for_bytes() -> None:
    assert pieces({"type": "ByteLevel"}, "<s>", "Ġa", "Ċ", "Ã©", "文 x") == [
        *(b"", b""),
        *(b" a", b"\n", "é".encode(), "文 x".encode()),
        b"",
    ]


def test_sentencepiece_letters_and_bytes() -> None:
    assert pieces(SENTENCEPIECE, "<s>", "▁a▁", "<0xE4>", "<0x0a>", "<0xGG>") == [
        *(b"", b""),
        *(b" a ", b"\xe4", b"\n", b"<0xGG>"),
        b"",
    ]


def test_spaces_that_the_whole_text_loses() -> None:
    assert Vocabulary({}, frozenset(), SENTENCEPIECE).num_stripped_spaces == 1
    assert Vocabulary({}, frozenset(), {"type": "ByteLevel"}).num_stripped_spaces == 0
    byte_level = {"type": "Sequence", "decoders": [{"type": "ByteLevel"}, STRIP]}
    assert Vocabulary({}, frozenset(), byte_level).num_stripped_spaces == 1


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        {"type": "WordPiece"},
        {"type": "Sequence", "decoders": [REPLACE, {"type": "Fuse"}]},
        {"type": "Sequence", "decoders": [REPLACE, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "CTC"}]},
        {
            "type": "Sequence",
            "decoders": [REPLACE | {"pattern": {"Regex": "x"}}, {"type": "ByteFallback"}, {"type": "Fuse"}],
        },
    ],
)
def test_other_decoders_are_refused_at_start_up(decoder: dict[str, Any] | None) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=r"tokenizer\.json"):
        Vocabulary({}, frozenset(), decoder)
