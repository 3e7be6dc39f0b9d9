"""A sentencepiece tokenizer.model with the tokens that were added to it, read as the slow Llama tokenizer reads it.

Whether text after a control token gets a space of its own in front is what `is_legacy` says; both were trained with.

Source: transformers 4.37.2, models/llama/tokenization_llama.py and tokenization_utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import sentencepiece

from lavatube.errors import UnsupportedCheckpoint
from lavatube.prompt.named_tokens import Added, NamedTokens, read_small_file

FILE_NAME: Final = "tokenizer.model"
SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"

# What these pieces decode to, in the words of tokenizer.json.
_DECODER: Final[Mapping[str, Any]] = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
# ModelProto, as protobuf writes it: field 1 is one piece, whose field 3 is its kind; field 3 is the normaliser's. Of a
# field that is written twice the last value counts, so that settings are changed by writing them behind.
_PIECE_TAG: Final = 0x0A
_IS_BYTES: Final = 2
_IS_CONTROL: Final = b"\x18\x03"
_NO_DUMMY_PREFIX: Final = b"\x1a\x02\x18\x00"


class SentencePieceModel:
    """`tokens` by id, `special_ids` all that text never becomes."""

    decoder: Mapping[str, Any] = _DECODER

    def __init__(self, folder: Path, named: NamedTokens, *, is_legacy: bool) -> None:
        self._proto = read_small_file(folder / FILE_NAME)
        self._named = named
        self._is_legacy = is_legacy
        pieces = _load(self._proto)
        self.tokens = {token_id: pieces.id_to_piece(token_id) for token_id in range(len(pieces))}
        self.tokens |= {token_id: added.content for token_id, added in named.added.items()}
        own = (
            token_id for token_id in range(len(pieces)) if pieces.is_control(token_id) or pieces.is_unknown(token_id)
        )
        self.special_ids = frozenset((*own, *named.added))

    def seal(
        self, private: Mapping[str, str], controls: Collection[int], image: tuple[str, int] | None
    ) -> SealedSentencePiece:
        """`private` names each control token anew; `image`, its character and id, is one that the file has not."""
        named = self._named
        proto = _as_controls(self._proto, controls)
        pieces = _load(proto if self._is_legacy else proto + _NO_DUMMY_PREFIX)
        ids = {content: token_id for token_id, content in self.tokens.items()}
        names = {char: ids[content] for content, char in private.items()}
        if image is not None:
            names[image[0]] = image[1]
        start = named.roles.get("bos_token", "<s>")
        return SealedSentencePiece(
            pieces,
            names,
            {token_id: added for token_id, added in named.added.items() if added.strips_left or added.strips_right},
            frozenset(ids[token] for token in named.special if token in ids),
            start_id=ids.get(start) if named.adds_start else None,
            unknown=named.roles.get("unk_token", "<unk>"),
            is_legacy=self._is_legacy,
        )


class SealedSentencePiece:
    """Encodes text in which control tokens are private characters; `names` has the id of each."""

    def __init__(
        self,
        pieces: sentencepiece.SentencePieceProcessor,
        names: Mapping[str, int],
        strips: Mapping[int, Added],
        special_ids: frozenset[int],
        *,
        start_id: int | None,
        unknown: str,
        is_legacy: bool,
    ) -> None:
        self._pieces = pieces
        self._names = names
        self._strips = strips
        self._special_ids = special_ids
        self._start_id = start_id
        self._unknown = unknown
        self._num_unknown = len(pieces.encode(unknown))
        self._is_legacy = is_legacy
        self._space_id = pieces.piece_to_id(SPACE)
        self._control = re.compile("([" + "".join(map(re.escape, names)) + "])" if names else r"(?!)()")

    def encode(self, sealed: str, *, adds_start: bool) -> list[int]:
        if not self._is_legacy and sealed:
            sealed = SPACE + sealed.replace(SPACE, " ")
        ids = list(self._encode(sealed))
        if not self._is_legacy and len(ids) > 1 and ids[0] == self._space_id and ids[1] in self._special_ids:
            del ids[0]
        return [self._start_id, *ids] if adds_start and self._start_id is not None else ids

    def _encode(self, sealed: str) -> Iterator[int]:
        sections = self._control.split(sealed)  # text, control, text, …
        for place in range(1, len(sections), 2):
            strips = self._strips.get(self._names[sections[place]])
            if strips is not None and strips.strips_left:
                sections[place - 1] = sections[place - 1].rstrip()
            if strips is not None and strips.strips_right:
                sections[place + 1] = sections[place + 1].lstrip()
        for place, section in enumerate(sections):
            if place % 2:
                yield self._names[section]
            elif section:
                yield from self._encode_text(section)

    def _encode_text(self, text: str) -> list[int]:
        """Without its dummy prefix the library swallows a leading space; behind another word it does not."""
        if self._is_legacy or not text.startswith((SPACE, " ")):
            return list(self._pieces.encode(text))
        return list(self._pieces.encode(self._unknown + text)[self._num_unknown :])


def _load(proto: bytes) -> sentencepiece.SentencePieceProcessor:
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(proto)
    except RuntimeError as error:
        raise UnsupportedCheckpoint(f"{FILE_NAME} is no sentencepiece model.") from error
    return pieces


def _as_controls(proto: bytes, controls: Collection[int]) -> bytes:
    """The model with the pieces of these ids made control symbols, which are never found in text."""
    out = bytearray()
    position = token_id = 0
    while position < len(proto):
        start = position
        tag, position = _varint(proto, position)
        if tag & 7 != _IS_BYTES:
            raise UnsupportedCheckpoint(f"{FILE_NAME} has a field that no sentencepiece model has.")
        length, position = _varint(proto, position)
        end = position + length
        if tag == _PIECE_TAG:
            if token_id in controls:
                body = proto[position:end] + _IS_CONTROL
                out += bytes([_PIECE_TAG]) + _as_varint(len(body)) + body
                start = end
            token_id += 1
        out += proto[start:end]
        position = end
    return bytes(out)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
